"""DeepCTR-Torch's own DeepFM with our parameters, as a peer of :mod:`bench.parity_models`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from deepctr_torch.inputs import DenseFeat, SparseFeat
from deepctr_torch.models import DeepFM
from torch.nn import functional

from bench.support.torch_dlrm import TorchBatch
from dlrmjit.architecture.architecture import Architecture


class DeepCtrStep:
    """A training step with SGD for samples with one value per column.

    Our logit has three biases, of which only the sum matters: DeepCTR's only one gets three times
    the learning rate. Its MLP reads the dense features after the vectors.
    """

    def __init__(self, model: Architecture, state: Mapping[str, Any], rate: float) -> None:
        rows, features = model.table_rows, model.dense_features
        dim = model.node("emb_l").dim  # type: ignore[attr-defined]
        *widths, _ = model.node("top_l").widths  # type: ignore[attr-defined]
        columns = [SparseFeat(f"c{s}", m, dim) for s, m in enumerate(rows)]
        columns.append(DenseFeat("dense", features))
        plain = {"l2_reg_linear": 0, "l2_reg_embedding": 0}
        self._model = DeepFM(columns, columns, dnn_hidden_units=tuple(widths), **plain)
        self._assign(state, len(rows), features)
        bias = self._model.out.bias
        others = [p for p in self._model.parameters() if p is not bias]
        groups = [{"params": others}, {"params": [bias], "lr": 3 * rate}]
        self._optimizer = torch.optim.SGD(groups, lr=rate)

    def _assign(self, state: Mapping[str, Any], tables: int, features: int) -> None:
        theirs = dict(self._model.named_parameters())
        biases = ("logit.bias", "linear.0.bias", f"top_l.{2 * len(self._model.dnn.linears)}.bias")
        wanted = {
            "out.bias": sum(state[name] for name in biases),
            "linear_model.weight": state["linear.0.weight"].T,
            "dnn_linear.weight": state[biases[2].replace("bias", "weight")],
        }
        for s in range(tables):
            wanted[f"embedding_dict.c{s}.weight"] = state[f"emb_l.{s}.weight"]
            wanted[f"linear_model.embedding_dict.c{s}.weight"] = state[f"wide.{s}.weight"]
        for i in range(len(self._model.dnn.linears)):
            weight = state[f"top_l.{2 * i}.weight"]
            if i == 0:
                weight = torch.tensor(weight).roll(-features, dims=1)
            wanted[f"dnn.linears.{i}.weight"] = weight
            wanted[f"dnn.linears.{i}.bias"] = state[f"top_l.{2 * i}.bias"]
        if wanted.keys() != theirs.keys():
            raise SystemExit(f"DeepCTR's DeepFM has other parameters: {sorted(theirs)}")
        with torch.no_grad():
            for name, value in wanted.items():
                theirs[name].copy_(torch.as_tensor(value).reshape(theirs[name].shape))

    def __call__(self, batch: TorchBatch) -> float:
        """Run forward, backward and update; return the loss."""
        ids = [indices.float()[:, None] for indices in batch.indices]
        p = self._model(torch.cat([*ids, batch.dense], dim=1)).view(-1)
        loss = functional.binary_cross_entropy(p, batch.labels)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

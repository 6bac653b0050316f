"""Other programs' forward passes in the place of ours, behind the same front and the same queue."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.export.onnx_file import export_onnx
from dlrmjit.model.model import Model
from dlrmjit.serve.engine import Engine
from dlrmjit.serve.rows import Rows, batch_of, joined


class PeerEngine(Engine):
    """Joins rows as ours does, without padding; a subclass computes the batch."""

    def score(self, parts: Sequence[Rows]) -> list[NDArray[np.float32]]:
        """Return the probabilities of every part."""
        counts = [len(part) for part in parts]
        dense = np.concatenate([part.full_dense for part in parts])
        bags = joined([part.bags for part in parts], sum(counts))
        scores = self.forward(batch_of(dense, bags))
        return np.split(np.asarray(scores, np.float32), np.cumsum(counts)[:-1])

    def forward(self, batch: Batch) -> Any:
        """Return the probabilities (N,)."""
        raise NotImplementedError


Feed = dict[str, Any]


def onnx_feed(batch: Batch) -> Feed:
    """Return the inputs of our own export, for one id per bag."""
    ids = batch.indices.reshape(len(batch.offsets), batch.n).T.astype(np.int64)
    return {"dense": batch.dense, "ids": ids}


def onnx_forward(model: Model, threads: int) -> Callable[[Feed], Any]:
    """Return ONNX Runtime's forward pass of our own export."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path)
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    return lambda feed: session.run(["scores"], feed)[0]


class OnnxEngine(PeerEngine):
    """ONNX Runtime on one thread."""

    def __init__(self, model: Model, most: int) -> None:
        super().__init__(model, most)
        self._forward = onnx_forward(model, 1)

    def forward(self, batch: Batch) -> Any:
        """Return the probabilities (N,)."""
        return self._forward(onnx_feed(batch))


class TorchEngine(PeerEngine):
    """torch on one thread, eager."""

    def __init__(self, model: Model, most: int) -> None:
        super().__init__(model, most)
        import torch

        from bench.support.torch_dlrm import TorchStep

        torch.set_num_threads(1)
        assert isinstance(model.config, ModelConfig)
        views = model.state_dict(copy=False)
        state = {name: np.asarray(view) for name, view in views.items()}
        self._predict: Callable[[Any], Any] = TorchStep(model.config, state, 0.0).predict

    def forward(self, batch: Batch) -> Any:
        """Return the probabilities (N,)."""
        from bench.support.torch_dlrm import TorchBatch

        return self._predict(TorchBatch(batch)).numpy()


class CompiledEngine(TorchEngine):
    """torch on one thread, compiled for batches of any size, which needs a C++ compiler."""

    def __init__(self, model: Model, most: int) -> None:
        super().__init__(model, most)
        import torch

        self._predict = torch.compile(self._predict, dynamic=True)


ENGINES = {
    "dlrmjit": "dlrmjit.serve.engine:Engine",
    "one-query": "dlrmjit.serve.engine:Engine",  # with bench.serve.server.OneQuery
    "onnxruntime": "bench.serve.peers:OnnxEngine",
    "torch": "bench.serve.peers:TorchEngine",
    "torch.compile": "bench.serve.peers:CompiledEngine",
}

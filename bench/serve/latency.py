"""The fixed cost of a call: ``predict_proba`` of few samples, against torch and ONNX Runtime.

The time of its kernels alone says what no change of the Python around them can go below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import dlrmjit
from bench import roofline
from bench.serve.peers import onnx_feed, onnx_forward
from bench.serve.queries import config_of
from bench.support.harness import alternate, has_compiler, has_peer, prepare
from dlrmjit.config.model import ModelConfig
from dlrmjit.data.batch import Batch
from dlrmjit.model.graph import Graph
from dlrmjit.perf.roofline import Ceilings, step_work

_SAMPLES = (1, 16, 128, 1024, 8192)


def latencies(
    config_name: str, max_rows: int, threads: int | None, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield a line per number of samples: microseconds at best, and ratios to ours (medians)."""
    count = prepare(threads)
    config = config_of(config_name, max_rows)
    model = dlrmjit.DLRM(config, init="counter")
    ceilings = Ceilings(**roofline.ceilings(count, 0.5))
    peers = _peers(model, count)
    rng = np.random.default_rng(0)
    for n in _SAMPLES:
        ids = [rng.integers(0, rows, n).astype(np.int32) for rows in config.table_rows]
        dense = rng.random((n, config.dense_features)).astype(np.float32)
        batch = Batch(dense, ids, [np.arange(n)] * len(ids))
        calls: dict[str, Callable[[], Any]] = {"ours": partial(model.predict_proba, batch)}
        calls["kernels"] = kernels_of(model, batch)
        for name, peer in peers.items():
            calls[name] = peer(batch)
            np.testing.assert_allclose(calls[name](), calls["ours"](), atol=2e-6)
        found = alternate(calls, seconds)
        ours, kernels = found.pop("ours"), found.pop("kernels")
        yield {
            "samples": n,
            "ours_us": 1e6 * ours.best,
            "kernels_us": 1e6 * kernels.best,
            "of_roofline": forward_bound(config, n, ceilings) / ours.best,
            **{f"{name}_us": 1e6 * samples.best for name, samples in found.items()},
            **{f"{name}_ratio": samples.ratio(ours) for name, samples in found.items()},
        }


def kernels_of(model: Any, batch: Batch) -> Callable[[], None]:
    """Return what makes the calls of a recorded forward pass, without checks and the tape."""
    graph = Graph(model, batch.n)
    graph.load(batch)
    graph.tape.forward()
    calls: list[Callable[[], Any]] = []
    for step in graph.tape.steps:
        bound = step.rule.bind(step)
        calls += [partial(step.rule.forward, step)] if bound is None else bound.calls
    return partial(_make, model.backend.joiner.join(calls), graph)


def _make(calls: Sequence[Callable[[], Any]], owner: Graph) -> None:
    """Make calls on the buffers of ``owner``, which must live."""
    for call in calls:
        call()


def forward_bound(config: ModelConfig, n: int, ceilings: Ceilings) -> float:
    """Return the seconds that the forward pass of ``n`` samples takes at the machine's ceilings."""
    work = step_work(config, n, n * config.tables)
    forward = (part for name, part in work.items() if name.endswith(" forward"))
    return sum(part.bound(ceilings) for part in forward)


def _peers(model: Any, threads: int) -> dict[str, Callable[[Batch], Callable[[], Any]]]:
    """Return what makes a call of every peer that is installed, from arrays or tensors ready."""
    peers: dict[str, Callable[[Batch], Callable[[], Any]]] = {}
    if has_peer("onnxruntime", "onnx", "onnxruntime"):
        forward = onnx_forward(model, threads)
        peers["onnxruntime"] = lambda batch: partial(forward, onnx_feed(batch))
    if not has_peer("torch", "torch"):
        return peers
    import torch

    from bench.support.torch_dlrm import TorchBatch, TorchStep

    torch.set_num_threads(threads)
    state = {name: np.asarray(view) for name, view in model.state_dict(copy=False).items()}
    step = TorchStep(model.config, state, 0.0)

    def of_torch(batch: Batch) -> Callable[[], Any]:
        tensors = TorchBatch(batch)
        return lambda: step.predict(tensors).numpy()

    peers["torch"] = of_torch
    if not has_compiler("torch.compile"):
        return peers
    compiled = torch.compile(step.predict, dynamic=False)

    def of_compiled(batch: Batch) -> Callable[[], Any]:
        tensors = TorchBatch(batch)
        return lambda: compiled(tensors).numpy()

    peers["torch.compile"] = of_compiled
    return peers

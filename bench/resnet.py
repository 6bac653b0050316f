"""A whole ResNet: the vectors of images, and a training step, as fractions of the FMA peak.

    python -m bench.resnet [--depth 50] [--batch 8] [--side 224] [--seconds 10] [--json FILE]
        [--parts]

The forward pass has its norms folded in, as ``dlrmjit embed`` has; the step normalises batches and
applies SGD. Work is that of the convolutions and the last layer, padding included; pooling, norms
and sums count as time only. Torch has the same weights, in NCHW and in channels_last, each also
with code by ``torch.compile`` where there is a C++ compiler; vectors are compared before anything
is timed. ``--parts`` instead shows the kinds of operations of the fastest step, each with the
least time for it (:mod:`bench.support.step_parts`), and their sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from dlrmjit_kernels.machine_peaks import multiply_adds

from bench import roofline
from bench.support import harness
from bench.support.step_parts import StepParts
from dlrmjit.architecture import Architecture, Dense, Images, Mlp, ResNet
from dlrmjit.perf.roofline import Ceilings, Work

RATE = 1e-3
CLOSE = 1e-4
"""Most that vectors may differ by, of the largest."""
FORMS = ("nchw", "nhwc")


def drawn(node: Any, shape: tuple[int, int, int], rng: np.random.Generator) -> dict[str, Any]:
    """Return random parameters of a node."""
    return {
        spec.name: rng.normal(0.0, max(spec.std or 0.0, 0.01), spec.shape).astype(np.float32)
        for spec in node.parameters([shape])
    }


def forwards(depth: int, images: Any, rng: np.random.Generator) -> dict[str, harness.Action]:
    """Return what computes vectors: ours and torch's, after comparing them."""
    from dlrmjit.embed.encoder import Encoder

    node = ResNet("tower", ("images",), depth, folded=True)
    parameters = drawn(node, images.shape[1:], rng)
    encoder = Encoder(node, parameters, images.shape[1:])
    actions: dict[str, harness.Action] = {"ours": lambda: encoder.encode(images)}
    if harness.has_peer("torch", "torch"):
        actions |= _torch_forwards(depth, images, parameters, encoder.encode(images))
    return actions


def _torch_forwards(
    depth: int, images: Any, parameters: Any, expected: Any
) -> dict[str, harness.Action]:
    import torch

    from bench.support import torch_resnet

    def forward(network: Callable[..., Any], channels_last: bool) -> harness.Action:
        x, weights = _torch_operands(images, parameters, channels_last)

        def act() -> Any:
            with torch.inference_mode():
                return network(depth, weights, x)

        difference = np.abs(act().numpy() - expected).max() / np.abs(expected).max()
        if not difference <= CLOSE:
            raise SystemExit(f"torch's vectors differ by {difference:.1e} before any timing")
        return act

    return {
        name: forward(network, form == "nhwc")
        for form in FORMS
        for name, network in harness.torch_forms(form, torch_resnet.network).items()
    }


def steps(depth: int, images: Any, rng: np.random.Generator) -> dict[str, harness.Action]:
    """Return what trains a network with one logit on the same images again and again."""
    labels = rng.integers(0, 2, len(images)).astype(np.float32)
    actions = {"ours": our_step(depth, images, labels)}
    if harness.has_peer("torch", "torch"):
        tower, shape = ResNet("tower", ("images",), depth), images.shape[1:]
        parameters = drawn(tower, shape, rng)
        for norm in tower.norms():
            parameters |= {f"{norm.name}.weight": np.ones(norm.columns, np.float32)}
            parameters |= {f"{norm.name}.bias": np.zeros(norm.columns, np.float32)}
        actions |= _torch_steps(depth, images, parameters, labels)
    return actions


def our_step(
    depth: int, images: Any, labels: Any, profile: StepParts | None = None
) -> harness.Action:
    """Return our training step."""
    import dlrmjit

    tower, shape = ResNet("tower", ("images",), depth), images.shape[1:]
    model = dlrmjit.Model(
        Architecture(
            (
                Dense("pixels", features=int(np.prod(shape))),
                Images("images", ("pixels",), shape),
                tower,
                Mlp("logit", ("tower",), (1,), last="none"),
            )
        )
    )
    batch = dlrmjit.Batch(images.reshape(len(images), -1), [], [], labels)
    step = dlrmjit.TrainingStep(model, "sgd", dlrmjit.LossConfig("bce"), profile)
    return lambda: step(batch, RATE)


def _torch_steps(
    depth: int, images: Any, parameters: Any, labels: Any
) -> dict[str, harness.Action]:
    import torch

    from bench.support import torch_resnet

    def step(network: Callable[..., Any], channels_last: bool) -> Callable[[], Any]:
        x, weights = _torch_operands(images, parameters, channels_last)
        compute = partial(network, depth)
        return torch_resnet.training_step(
            depth, compute, weights, x, torch.from_numpy(labels), RATE
        )

    return {
        name: step(network, form == "nhwc")
        for form in FORMS
        for name, network in harness.torch_forms(form, torch_resnet.network).items()
    }


def _torch_operands(images: Any, parameters: Any, channels_last: bool) -> tuple[Any, Any]:
    import torch

    from bench.support.torch_resnet import tensors

    x = torch.from_numpy(images.copy())
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, tensors(parameters, channels_last)


def show_parts(depth: int, images: Any, seconds: float, report: harness.Report) -> None:
    """Add a row for every kind of operation of the fastest step, and for the step."""
    profile = StepParts()
    step = our_step(depth, images, np.ones(len(images), np.float32), profile)
    peak, peak_gflop = multiply_adds(report.machine["threads"])
    step()
    fastest, parts, peak_seconds = float("inf"), dict[str, float](), float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        profile.restart()
        took = _seconds(step)
        if took < fastest:
            fastest, parts = took, {name: c.seconds for name, c in profile.clocks.items()}
        peak_seconds = min(peak_seconds, *(_seconds(peak) for _ in range(5)))
    parts["between"] = fastest - sum(parts.values())
    ceilings = Ceilings(peak_gflop / peak_seconds, report.machine["triad_gbs"])
    bounds = {name: profile.work.get(name, Work()).bound(ceilings) for name in parts}
    parts["step"], bounds["step"] = fastest, sum(bounds.values())
    for name, taken in parts.items():
        row = {"op": name, "variant": "", "shape": {"N": len(images)}, "best_s": taken}
        row |= {"ms at least": 1e3 * bounds[name], "of_ceiling": bounds[name] / taken, "peers": {}}
        report.append(row, "ms at least")


def _seconds(action: harness.Action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Time the forward pass and the step."""
    parser = harness.options(__doc__)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images")
    parser.add_argument("--side", type=int, default=224, help="pixels of a side")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of both")
    parser.add_argument("--parts", action="store_true", help="the parts of a step alone")
    options = parser.parse_args()
    threads = harness.prepare(options.threads)
    report = harness.Report(
        harness.describe_machine(threads, roofline.ceilings(threads, 0.3 if options.quick else 1.0))
    )
    rng = np.random.default_rng(0)
    shape = (3, options.side, options.side)
    images = rng.standard_normal((options.batch, *shape), np.float32)
    if options.parts:
        show_parts(options.depth, images, options.seconds, report)
        report.write(options.json)
        return
    flops = ResNet("tower", ("images",), options.depth).flops([shape], with_input_gradient=False)
    work = {"forward": flops.forward, "step": flops.forward + flops.backward}
    for op, made in {"forward": forwards, "step": steps}.items():
        peak, peak_gflop = multiply_adds(threads)
        samples = harness.alternate(made(options.depth, images, rng), options.seconds, ceiling=peak)
        ceiling = peak_gflop / samples.pop(harness.CEILING).best
        sizes = {"N": options.batch, "H": options.side}
        gflop = 1e-9 * options.batch * work[op]
        report.add(op, sizes, samples, work=gflop, unit="gflops", ceiling=ceiling)
    report.write(options.json)


if __name__ == "__main__":
    harness.run_program(main)

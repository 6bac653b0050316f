"""The cases of ``bench.convolution``: ResNet-50's shapes, our actions and the peers'."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from dlrmjit_kernels.convolution import direct
from dlrmjit_kernels.convolution.shape import (
    Convolution,
    filters_array,
    filters_matrix,
    images_array,
    images_matrix,
)
from dlrmjit_kernels.matrix.matrix import Floats, Matrix

from bench.support import harness

OPERATIONS = ("forward", "backward_data", "backward_weights")
# channels, pixels along a side, filters, taps along a side, stride, padding, and how often
_RESNET50 = (
    *((3, 224, 64, 7, 2, 3, 1), (64, 56, 256, 1, 1, 0, 4), (64, 56, 64, 1, 1, 0, 1)),
    *((64, 56, 64, 3, 1, 1, 3), (256, 56, 64, 1, 1, 0, 2), (256, 56, 512, 1, 2, 0, 1)),
    *((256, 56, 128, 1, 2, 0, 1), (128, 28, 128, 3, 1, 1, 4), (128, 28, 512, 1, 1, 0, 4)),
    *((512, 28, 128, 1, 1, 0, 3), (512, 28, 1024, 1, 2, 0, 1), (512, 28, 256, 1, 2, 0, 1)),
    *((256, 14, 256, 3, 1, 1, 6), (256, 14, 1024, 1, 1, 0, 6), (1024, 14, 256, 1, 1, 0, 5)),
    *((1024, 14, 2048, 1, 2, 0, 1), (1024, 14, 512, 1, 2, 0, 1), (512, 7, 512, 3, 1, 1, 3)),
    *((512, 7, 2048, 1, 1, 0, 3), (2048, 7, 512, 1, 1, 0, 2)),
)


@dataclass(frozen=True)
class Layer:
    """A convolution that occurs ``count`` times in ResNet-50; ``number`` starts at 1."""

    number: int
    conv: Convolution
    count: int

    @property
    def shape(self) -> dict[str, int]:
        """Names and sizes as the report shows them."""
        c = self.conv
        return {"N": c.N, "C": c.C, "H": c.H, "K": c.K, "R": c.R, "u": c.stride}

    @property
    def gflop(self) -> float:
        """Work of each operation in GFLOP; products with padding count."""
        return 2e-9 * self.conv.multiply_adds

    def has(self, op: str) -> bool:
        """Return whether training needs an operation: images have no gradient."""
        return op != "backward_data" or self.number > 1


def layers(batch: int) -> Iterator[Layer]:
    """Yield the distinct convolutions of ResNet-50, stride on the first of a block."""
    for number, (c, side, k, taps, stride, padding, count) in enumerate(_RESNET50, 1):
        yield Layer(
            number, Convolution(batch, c, side, side, k, taps, taps, stride, padding), count
        )


@dataclass(frozen=True)
class Case:
    """One operation: our action, our result and those of the peers, by name."""

    ours: harness.Action
    result: Callable[[], Floats]
    peers: dict[str, Callable[[], Any]]

    def check(self) -> None:
        """Compare ours with the first peer's result, or with nothing where there is no peer.

        Raises
        ------
        AssertionError
            If they differ.
        """
        self.ours()
        for peer in list(self.peers.values())[:1]:
            expected = np.asarray(peer())
            error = np.abs(self.result() - expected).max()
            assert error <= 1e-4 * np.abs(expected).max(), error


class Operands:
    """The operands of a layer, as arrays and as ours."""

    def __init__(self, conv: Convolution) -> None:
        self.conv, rng = conv, np.random.default_rng(0)
        self.x, self.w, self.dy = (
            rng.random(shape, dtype=np.float32) - 0.5
            for shape in (
                (conv.N, conv.C, conv.H, conv.W),
                (conv.K, conv.C, conv.R, conv.S),
                (conv.N, conv.K, conv.P, conv.Q),
            )
        )

    def case(self, op: str, torch: Any, onnx: bool) -> Case:
        """Return an operation; ``torch`` is the module or None, ``onnx`` asks its runtime, too."""
        conv = self.conv
        x, w, dy = images_matrix(self.x), filters_matrix(self.w), images_matrix(self.dy)
        peers = dict(self._torch(op, torch)) if torch is not None else {}
        if onnx and op == "forward":
            peers["onnxruntime"] = self._onnxruntime()
        if op == "forward":
            y = Matrix.empty(conv.output_layout)
            call = direct.bind_forward(conv, x, w, None, y)
            return Case(call, lambda: images_array(y, conv.P, conv.Q), peers)
        if op == "backward_data":
            dx = Matrix.empty(conv.input_layout)
            call = direct.bind_backward_data(conv, dy, w, dx)
            return Case(call, lambda: images_array(dx, conv.H, conv.W), peers)
        dw = Matrix.empty(conv.filter_layout)
        call = direct.bind_backward_weights(conv, x, dy, dw)
        return Case(call, lambda: filters_array(dw, conv.C, (conv.R, conv.S)), peers)

    def _torch(self, op: str, torch: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
        for name, form in (("nchw", "contiguous_format"), ("nhwc", "channels_last")):
            form = getattr(torch, form)
            x, w, dy = (
                torch.from_numpy(a).contiguous(memory_format=form)
                for a in (self.x, self.w, self.dy)
            )
            yield f"torch {name}", self._torch_action(op, torch, x, w, dy)

    def _torch_action(self, op: str, torch: Any, x: Any, w: Any, dy: Any) -> Callable[[], Any]:
        u, p = [self.conv.stride] * 2, [self.conv.padding] * 2
        if op == "forward":
            return lambda: torch.nn.functional.conv2d(x, w, None, u, p)
        wanted = (op == "backward_data", op == "backward_weights", False)
        result = 0 if wanted[0] else 1
        gradient = torch.ops.aten.convolution_backward
        return lambda: gradient(dy, x, w, None, u, p, [1, 1], False, [0, 0], 1, wanted)[result]

    def _onnxruntime(self) -> Callable[[], Any]:
        """Return a model of one convolution in onnxruntime, on as many threads as ours."""
        from dlrmjit_kernels.runtime.threads import get_threads

        onnx, runtime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        u, p = [self.conv.stride] * 2, [self.conv.padding] * 4
        node = helper.make_node("Conv", ["x", "w"], ["y"], strides=u, pads=p)
        inputs = [helper.make_tensor_value_info("x", kind, self.x.shape)]
        outputs = [helper.make_tensor_value_info("y", kind, self.dy.shape)]
        filters = [onnx.numpy_helper.from_array(self.w, "w")]
        graph = helper.make_graph([node], "convolution", inputs, outputs, filters)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        content = io.BytesIO()
        onnx.save(model, content)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = get_threads()
        session = runtime.InferenceSession(content.getvalue(), options)
        return lambda: session.run(None, {"x": self.x})[0]

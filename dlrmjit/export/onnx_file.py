"""An ONNX file of a model, with its large arrays in a second file where one cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import ConfigError
from dlrmjit.export.onnx_graph import DENSE, IDS, OPSET, SCORES, OnnxGraph
from dlrmjit.files import check_file_replaceable, replaced_file
from dlrmjit.model.model import Model

PRODUCER = "dlrmjit"
_IR_VERSION = 8
_MOST_BYTES = 1 << 30  # of a file that holds its arrays; protobuf cannot have 2 GiB
_ALIGNMENT = 4096  # of arrays in the second file, so that they can be mapped
_DATA_MARK = b"dlrmjit arrays of an ONNX file\n"


def export_onnx(
    model: Model, path: str | Path, *, lookups: int = 1, most_bytes: int = _MOST_BYTES
) -> None:
    """Write ``model`` as an ONNX file that computes its probabilities.

    Inputs are ``dense`` (N, D) float32 and ``ids`` (N, S) int64, or (N, S, P) with ``lookups`` P of
    more than 1 per bag, where negative ids are no lookups; the output is ``scores`` (N,). Arrays of
    more than ``most_bytes`` together are written next to it, to ``<name>.data``.

    Raises
    ------
    ConfigError
        If onnx is not installed, or for a kind of node that has no translation.
    DataError
        For a file that is there and was not written by this function.
    """
    onnx, path = require_onnx(), Path(path)
    graph = OnnxGraph(model, onnx, lookups)
    data = data_path(path)
    is_large = sum(array.nbytes for array in graph.constants.values()) > most_bytes
    check_file_replaceable(path, is_ours)
    if is_large:
        check_file_replaceable(data, is_our_data)
        content = _with_data_file(onnx, graph, model, data)
    else:
        content = _proto(onnx, graph, model, _inside(onnx, graph)).SerializeToString()
    with replaced_file(path, is_ours) as file:
        file.write(content)


def require_onnx() -> Any:
    """Return the module onnx. Raises ConfigError if it is not installed."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise ConfigError("an export needs onnx: pip install 'dlrmjit[onnx]'") from None
    return onnx


def data_path(path: Path) -> Path:
    """Return where large arrays of an ONNX file are written."""
    return path.with_name(path.name + ".data")


def is_ours(path: Path) -> bool:
    """Return whether :func:`export_onnx` wrote a file: the second field names the producer."""
    with open(path, "rb") as file:
        return file.read(11)[2:] == b"\x12\x07" + PRODUCER.encode()


def is_our_data(path: Path) -> bool:
    """Return whether :func:`export_onnx` wrote a file of arrays."""
    with open(path, "rb") as file:
        return file.read(len(_DATA_MARK)) == _DATA_MARK


def _inside(onnx: Any, graph: OnnxGraph) -> list[Any]:
    return [onnx.numpy_helper.from_array(a, name) for name, a in graph.constants.items()]


def _with_data_file(onnx: Any, graph: OnnxGraph, model: Model, data: Path) -> bytes:
    """Write float arrays to ``data``; return the rest."""
    tensors = []
    with replaced_file(data, is_our_data) as file:
        file.write(_DATA_MARK)
        end = len(_DATA_MARK)
        for name, array in graph.constants.items():
            if array.dtype != np.float32:
                tensors.append(onnx.numpy_helper.from_array(array, name))
                continue
            padding = -end % _ALIGNMENT
            file.write(bytes(padding))
            file.write(np.ascontiguousarray(array).data.cast("B"))
            tensors.append(_outside(onnx, name, array, data.name, end + padding))
            end += padding + array.nbytes
    content: bytes = _proto(onnx, graph, model, tensors).SerializeToString()
    return content


def _outside(onnx: Any, name: str, array: NDArray[Any], file: str, offset: int) -> Any:
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", file), ("offset", offset), ("length", array.nbytes)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor


def _proto(onnx: Any, graph: OnnxGraph, model: Model, tensors: list[Any]) -> Any:
    architecture, make = model.architecture, onnx.helper.make_tensor_value_info
    bags = ["N", architecture.tables, graph.lookups][: 2 + (graph.lookups > 1)]
    inputs = []
    if architecture.dense_features:
        shape = ["N", architecture.dense_features]
        inputs.append(make(DENSE, onnx.TensorProto.FLOAT, shape))
    if architecture.tables:
        inputs.append(make(IDS, onnx.TensorProto.INT64, bags))
    outputs = [make(SCORES, onnx.TensorProto.FLOAT, ["N"])]
    body = onnx.helper.make_graph(graph.operators, PRODUCER, inputs, outputs, tensors)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_model(body, opset_imports=opsets, producer_name=PRODUCER)
    made.ir_version = _IR_VERSION
    return made

"""Arrow IPC streams of requests, whose tables take no more memory than their bytes suggest.

A compressed buffer, a dictionary, runs, views and lists of values without bytes may stand for
thousands of times the bytes that were sent. Compressed streams are refused before they are read; of
the other encodings, which columns of categories have, the values are counted before they are read.
Views and runs, from which Arrow cannot choose rows, are written out here.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.data.formats.arrow import require_arrow
from dlrmjit.errors import DataError

_MOST_BYTES, _MOST_TIMES = 64 << 20, 8
"""Most bytes of decoded values: so many, and so many times those of the body."""
_WIDEST = 32  # bytes of a value, besides those of its text
_UNKNOWN = 1 << 62  # bytes of a value that is made of others
_HEADER_TYPE, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3  # numbers of fields in Arrow's Message.fbs
_DICTIONARY_BATCH = 2
_OLD_COMPRESSION = b"ARROW:experimental_compression"  # metadata of a message by Arrow 0.17


def read_arrow(content: bytes) -> Any:
    """Return the table of an Arrow IPC stream. Raises DataError for anything else."""
    arrow, _ = require_arrow("send JSON or arrays")
    try:
        for message in arrow.ipc.MessageReader.open_stream(content):
            if message.type != "schema" and _is_compressed(message.metadata.to_pybytes()):
                raise DataError("the Arrow IPC stream is compressed; write it without compression")
        with arrow.ipc.open_stream(content) as stream:
            table = stream.read_all()
        table.validate()
        _check_size(arrow, table, _MOST_BYTES + _MOST_TIMES * len(content))
        table.validate(full=True)  # reads a text as often as views share it
    except (arrow.ArrowException, OSError, ValueError, struct.error) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise DataError(f"the body is not an Arrow IPC stream: {reason}") from None
    try:
        columns = [_plain(arrow, column) for column in table.columns]
    except NotImplementedError as error:
        raise DataError(f"a column cannot be read: {str(error).splitlines()[0]}") from None
    plain = arrow.table(columns, table.column_names)
    return plain.replace_schema_metadata(table.schema.metadata)


def _check_size(arrow: Any, table: Any, most: int) -> None:
    """Raise DataError for columns that together may stand for more than ``most`` bytes."""
    size = 0.0
    for name, column in zip(table.column_names, table.columns, strict=True):
        size += sum(max(0, _decoded_bytes(arrow, chunk)) for chunk in column.chunks)
        if size > most:
            raise DataError(
                f"column {name!r}: its {column.type} may stand for far more bytes than were sent; "
                "send plain or shorter values"
            )


def chosen_rows(content: bytes, chosen: NDArray[np.int64]) -> Any:
    """Return some rows of a stream's table. Raises DataError, also for exotic types."""
    table = read_arrow(content)
    try:
        return table.take(chosen)
    except NotImplementedError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"rows cannot be chosen from the columns' types: {reason}") from None


def _plain(arrow: Any, column: Any) -> Any:
    """Return a column without runs and, if it is not in lists of lists, without views."""
    if _is_any(arrow, column.type, "run_end_encoded"):
        parts = [arrow.compute.run_end_decode(chunk) for chunk in column.chunks]
        column = arrow.chunked_array(parts, column.type.value_type)
    wanted = _plain_type(arrow, column.type)
    return column if wanted == column.type else column.cast(wanted)


def _plain_type(arrow: Any, kind: Any) -> Any:
    if _is_any(arrow, kind, "string_view"):
        return arrow.large_string()
    if _is_any(arrow, kind, "binary_view"):
        return arrow.large_binary()
    if _is_any(arrow, kind, "list", "large_list"):
        item = _plain_type(arrow, kind.value_type)
        return kind if item == kind.value_type else arrow.large_list(item)
    return kind


def _decoded_bytes(arrow: Any, array: Any) -> float:
    """Return a bound of the bytes of an array's values where its type may repeat them."""
    if isinstance(array.type, arrow.BaseExtensionType):
        array = array.storage
    kind = array.type
    if _is_any(arrow, kind, "list", "large_list", "fixed_size_list"):
        if _is_stored(arrow, kind) and not _is_any(arrow, kind.value_type, "boolean"):
            return 0
        return len(array.values) * _longest(arrow, array.values)
    if _is_any(arrow, kind, "list_view", "large_list_view"):
        lengths = arrow.compute.list_value_length(array).cast(arrow.float64())  # whose sum is exact
        return float(arrow.compute.sum(lengths).as_py() or 0) * _longest(arrow, array.values)
    return 0 if _is_stored(arrow, kind) else len(array) * _longest(arrow, array)


def _is_stored(arrow: Any, kind: Any) -> bool:
    """Return whether every value of a type takes bytes of its own in the stream."""
    if isinstance(kind, arrow.BaseExtensionType):
        return _is_stored(arrow, kind.storage_type)
    if _is_any(arrow, kind, "list", "large_list", "fixed_size_list"):
        return getattr(kind, "list_size", 1) > 0 and _is_stored(arrow, kind.value_type)
    if _is_any(arrow, kind, "map"):
        return _is_stored(arrow, kind.key_type) and _is_stored(arrow, kind.item_type)
    if _is_any(arrow, kind, "struct"):
        parts = [kind.field(i).type for i in range(kind.num_fields)]
        return bool(parts) and all(_is_stored(arrow, part) for part in parts)
    if _is_any(arrow, kind, "fixed_size_binary"):
        return int(kind.byte_width) > 0
    shared = ("null", "dictionary", "run_end_encoded", "string_view", "binary_view")
    return kind.num_fields == 0 and not _is_any(arrow, kind, *shared)


def _longest(arrow: Any, array: Any) -> int:
    """Return the bytes of the longest value."""
    kind = array.type
    if _is_any(arrow, kind, "dictionary"):
        return _longest(arrow, array.dictionary)
    if _is_any(arrow, kind, "run_end_encoded"):
        return _longest(arrow, array.values)
    if _is_any(arrow, kind, "string_view", "binary_view"):
        views = np.frombuffer(array.buffers()[1] or b"", np.uint8)
        lengths = views[: len(views) // 16 * 16].view(np.int32)[::4]  # each view starts with one
        return _WIDEST + int(lengths.max(initial=0))
    if _is_any(arrow, kind, "string", "large_string", "binary", "large_binary"):
        return _WIDEST + int(arrow.compute.max(arrow.compute.binary_length(array)).as_py() or 0)
    if _is_any(arrow, kind, "fixed_size_binary"):
        return _WIDEST + int(kind.byte_width)
    return _UNKNOWN if kind.num_fields else _WIDEST


def _is_any(arrow: Any, kind: Any, *names: str) -> bool:
    """Return whether a type has one of these names, some of which older versions do not know."""
    tests = (getattr(arrow.types, f"is_{name}", None) for name in names)
    return any(test(kind) for test in tests if test)


def _is_compressed(metadata: bytes) -> bool:
    """Return whether a message's record batch, or that of a dictionary, has compressed buffers."""
    message = _follow(metadata, 0)
    batch = _follow(metadata, _field(metadata, message, _HEADER))
    if metadata[_field(metadata, message, _HEADER_TYPE)] == _DICTIONARY_BATCH:
        batch = _follow(metadata, _field(metadata, batch, _DATA))
    return _field(metadata, batch, _COMPRESSION) > 0 or _OLD_COMPRESSION in metadata


def _field(metadata: bytes, table: int, number: int) -> int:
    """Return where a field of a flatbuffer's table is, 0 if it has none."""
    fields = table - struct.unpack_from("<i", metadata, table)[0]
    size, at = struct.unpack_from("<H", metadata, fields)[0], 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, fields + at)[0] if at < size else 0
    return int(table + offset) if offset else 0


def _follow(metadata: bytes, at: int) -> int:
    return int(at + struct.unpack_from("<I", metadata, at)[0])

"""Prepared sets: the manifest, the arrays of the splits and the vocabularies."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dlrmjit.data.prepare.options import PrepareOptions, SplitRule
from dlrmjit.data.prepare.pipeline import prepare
from dlrmjit.data.prepared.encode import read_with_vocabulary
from dlrmjit.data.prepared.reader import PreparedSet
from dlrmjit.data.schema import Schema
from tests.data.formats.builders import write_criteo_text
from tests.fuzz.bundle import HEADER, Bundle, Files, read_folder, write_folder
from tests.fuzz.check import Reader
from tests.fuzz.oracle import check_batches, same, true
from tests.fuzz.readers.text import small_chunks

_MANIFEST = "manifest.json"
_CSV = b"y,a,b,user,tags\n" + b"".join(
    b"%d,%d,0.%d,u%d,%s\n" % (i % 2, i, i, i % 5, b"|".join([b"p", b"q", b"r"][: i % 4]))
    for i in range(16)
)
_SCHEMA = Schema.from_dict(
    {
        "label": "y",
        "dense": [{"name": "a", "transform": "standardise"}, "b"],
        "categorical": ["user", {"name": "tags", "separator": "|"}],
    }
)


@functools.cache
def _base() -> tuple[Bundle, bytes]:
    """Return a set with a schema and one of Criteo text, and Criteo text."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "log.csv").write_bytes(_CSV)
        write_criteo_text(folder / "whole.txt")
        text = b"".join((folder / "whole.txt").read_bytes().splitlines(keepends=True)[:16])
        (folder / "train.txt").write_bytes(text)
        split = SplitRule("fraction", test=0.25, validation=0.125)
        own = PrepareOptions(
            (folder / "log.csv",), folder / "sets/own", schema=_SCHEMA, split=split
        )
        (folder / "sets").mkdir()
        prepare(own)
        prepare(PrepareOptions((folder / "train.txt",), folder / "sets/criteo", split=split))
        files = read_folder(folder / "sets")
    return Bundle(files, _sign), text


def _sign(files: Files) -> Files:
    """Write lengths, checksums and digests into the manifests."""
    return {**files, **{name: _signed(name, files) for name in files if name.endswith(_MANIFEST)}}


def _signed(name: str, files: Files) -> bytes:
    try:
        content = json.loads(files[name])
        for file, facts in content["files"].items():
            if (whole := f"{Path(name).parent}/{file}") in files:
                facts["bytes"] = len(files[whole])
                facts["sha256"] = hashlib.sha256(files[whole]).hexdigest()
        content.pop("digest", None)
        text = json.dumps(content, sort_keys=True)
        content["digest"] = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps(content, indent=1, sort_keys=True).encode()
    except Exception:
        return files[name]  # no manifest that can have checksums


def _attempt(data: bytes, folder: Path) -> None:
    bundle, text = _base()
    files, name = bundle.changed(data)
    is_own = name.startswith("own/")
    kind = "own/" if is_own else "criteo/"
    write_folder(
        folder / "set", {n.removeprefix(kind): c for n, c in files.items() if n.startswith(kind)}
    )
    found = PreparedSet(folder / "set")
    _check_manifest(folder / "set", found)
    changed = name.removeprefix(kind)
    for split in found.manifest.splits:
        if changed == _MANIFEST or changed.startswith(f"{split}/"):
            dataset = found.dataset(split)
            _check_arrays(folder / "set" / split, dataset)
            check_batches(dataset)
    if not changed.startswith(("train/", "test/", "validation/")):
        _check_vocabularies(found, folder, text, is_own)


def _check_vocabularies(found: PreparedSet, folder: Path, text: bytes, is_own: bool) -> None:
    """Encode rows with the vocabularies of a set."""
    texts = [_values(found, s, is_own) for s in range(len(found.manifest.categorical))]
    rows = folder / ("log.csv" if is_own else "train.txt")
    rows.write_bytes(_CSV if is_own else text)
    with small_chunks():
        encoded = read_with_vocabulary(rows, found)
    check_batches(encoded)
    if is_own:
        _check_users(encoded, found, texts[0])


def _check_manifest(folder: Path, found: PreparedSet) -> None:
    raw = json.loads((folder / _MANIFEST).read_bytes())
    same(list(found.manifest.dense), raw["dense"], "dense columns")
    same(dict(found.manifest.splits), raw["splits"], "splits")
    same(
        [c.name for c in found.manifest.categorical],
        [c["name"] for c in raw["categorical"]],
        "names",
    )
    same(
        [c.rows for c in found.manifest.categorical],
        [c["rows"] for c in raw["categorical"]],
        "rows",
    )


def _check_arrays(folder: Path, dataset: Any) -> None:
    for name, found in (("labels", dataset.labels), ("dense", dataset.dense), ("ids", dataset.ids)):
        same(np.asarray(found), np.load(folder / f"{name}.npy", allow_pickle=False), name)
    for s, column in dataset.multi:
        same(np.asarray(column.ids), np.load(folder / f"values_{s}.npy"), f"values of table {s}")
        same(np.asarray(column.offsets), np.load(folder / f"offsets_{s}.npy"), f"offsets of {s}")


def _values(found: PreparedSet, s: int, is_own: bool) -> list[Any] | None:
    column = found.manifest.categorical[s]
    if not column.vocabulary:
        return None
    values: Any = found.texts(s) if is_own else found.vocabulary(s)
    true(len(values) == column.rows, f"{len(values)} values of a table of {column.rows} rows")
    return list(values)


def _check_users(encoded: Any, found: PreparedSet, users: list[bytes] | None) -> None:
    column = found.manifest.categorical[0]
    if users is None or column.is_multi or column.name != "user":
        return
    for row, line in enumerate(_CSV.splitlines()[1:]):
        text = line.split(b",")[3]
        known = [i for i in range(column.reserved_rows, len(users)) if users[i] == text]
        if len(known) <= 1:
            same(int(encoded.ids[row, 0]), known[0] if known else 0, f"id of {text!r}")


_TOKENS = (b'"../x"', b'"rows"', b'"is_multi": true', b'"shares_row"', b'"missing_row": -1')
PREPARED = Reader("prepared", lambda: dict(_base()[0].seeds()), _attempt, HEADER, _TOKENS)

"""All readers that are attacked, by the name that the command takes."""

from __future__ import annotations

from importlib import import_module

from tests.fuzz.check import Reader

_MODULES = {
    "criteo": "text",
    "csv": "text",
    "parquet": "parquet",
    "npz": "arrays",
    "npy": "arrays",
    "checkpoint": "checkpoint",
    "torch": "torch_file",
    "prepared": "prepared",
    "schema": "descriptions",
    "plan": "descriptions",
}
NAMES = tuple(_MODULES)


def reader_of(name: str) -> Reader:
    """Return a reader; imports what it needs, such as pyarrow, on the first call."""
    module = import_module(f"tests.fuzz.readers.{_MODULES[name]}")
    reader: Reader = getattr(module, name.upper())
    return reader

"""Schemas that are written by hand, as TOML or JSON."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from dlrmjit.data.schema import Schema
from dlrmjit.errors import ConfigError
from dlrmjit.files import parse_json, refuse_special


def read_schema(path: Path) -> Schema:
    """Read a schema from a ``.toml`` or ``.json`` file; raise ConfigError naming the file."""
    refuse_special(path, ConfigError, "the schema ")
    try:
        text = path.read_bytes().decode("utf-8")  # with carriage returns as they are
    except OSError as error:
        raise ConfigError(f"the schema {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the schema {path} is not UTF-8 text") from None
    content = _parse(text, path)
    if not isinstance(content, dict):
        raise ConfigError(f"the schema {path} must hold keys and values, such as label = 'click'")
    return Schema.from_dict(content, f"the schema {path}")


def _parse(text: str, path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return parse_json(text, f"the schema {path}", ConfigError)
        if path.suffix != ".toml":
            raise ConfigError(f"the schema {path} must be a .toml or .json file")
        return _toml().loads(text)
    except ImportError:
        raise ConfigError(f"the schema {path}: TOML needs Python 3.11; write it as JSON") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the schema {path} is not valid: {error}") from None


def _toml() -> Any:
    return importlib.import_module("tomllib")

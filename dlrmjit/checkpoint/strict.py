"""Compare a checkpoint with a model by name: parameters and their shapes, and the configuration.

Nothing is loaded in part: a parameter too many is as wrong as one that is missing, and equal
shapes do not make equal models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlrmjit.errors import CheckpointError

Shape = tuple[int, ...]
_SHOWN = 3


def check_parameters(
    source: object, stored: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> None:
    """Raise CheckpointError unless the arrays ``stored`` are those ``wanted``, by name and shape.

    ``source`` is the checkpoint's name in the message, which says all that differs.
    """
    problems = [
        *_named("lacks", [name for name in wanted if name not in stored]),
        *_named("has unexpected", [name for name in stored if name not in wanted]),
        *_misshapen(stored, wanted),
    ]
    if problems:
        raise CheckpointError(
            f"{source}: not a checkpoint of this model: it {'; it '.join(problems)}; load it into "
            "the model that it was saved from"
        )


def check_config(source: object, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless two descriptions of models are equal; names what differs."""
    saved, wanted = _by_node(saved), _by_node(wanted)
    names = [*wanted, *(name for name in saved if name not in wanted)]
    different = [name for name in names if _plain(saved.get(name)) != _plain(wanted.get(name))]
    if different:
        differences = "; ".join(
            f"{name} is {_text(saved.get(name))} in the checkpoint, but {_text(wanted.get(name))} "
            "is asked for"
            for name in different[:_SHOWN]
        )
        raise CheckpointError(
            f"{source}: not a checkpoint of this model: {differences}{_more(different)}; leave it "
            "to the checkpoint, or name another checkpoint"
        )


def _by_node(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a description by node, if it is one of nodes: then a message names those that differ.

    The title of a node is its name in profiles only.
    """
    nodes = description.get("nodes")
    if not isinstance(nodes, list | tuple):
        return description
    return {
        f"node {node['name']}": {key: value for key, value in node.items() if key != "title"}
        for node in nodes
    }


def _named(verb: str, names: list[str]) -> list[str]:
    return [f"{verb} {', '.join(names[:_SHOWN])}{_more(names)}"] if names else []


def _misshapen(stored: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    different = [n for n in wanted if n in stored and tuple(stored[n]) != tuple(wanted[n])]
    texts = [f"{n} {tuple(stored[n])}, not {tuple(wanted[n])}" for n in different[:_SHOWN]]
    return [f"has {', '.join(texts)}{_more(different)}"] if texts else []


def _more(names: list[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, tuples as lists."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(item, int) for item in value):
        text = "-".join(map(str, value)) or "none"
    else:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}..."

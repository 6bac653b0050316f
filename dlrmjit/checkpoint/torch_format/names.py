"""Names of parameters in files of PyTorch, and the names that this package has for them.

Wrappers of modules (data parallel, compiled, sharded) add components to names, models of mixed
widths call their tables ``embs``, and TorchRec's DLRM has names of its own. TorchRec also lists the
pairs of the dot interaction in another order, so the columns of its top MLP are permuted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlrmjit.errors import CheckpointError

Array = NDArray[Any]

MIXED_NAME = ".embs.weight"
"""Suffix of a table's name in the reference under ``--md-flag``; here it is ``.weight``."""

WRAPPERS = {
    "module",  # DataParallel, DistributedDataParallel
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_dmp_wrapped_module",
    "_checkpoint_wrapped_module",
}
"""Components of names that wrappers add, at any depth."""

_UNSUPPORTED = {
    r"(.*\.)?inter_arch\..*": "of TorchRec's models only DLRM is implemented",
    r"(.*\.)?embedding_bag_collection\.t_.*": "this is no layout of TorchRec's DLRM",
}
_ROW_WEIGHTS = re.compile(r"v_W_l\.(\d+)")
_POOLING = re.compile(r"(emb_l\.\d+)\.pooling")
_TORCHREC_TABLE = re.compile(r"sparse_arch\.embedding_bag_collection\.embedding_bags\.(.+)\.weight")
_TORCHREC_LAYERS = (
    (re.compile(r"dense_arch\.model\._mlp\.(\d+)\._linear\.(weight|bias)"), "bot_l", "hidden"),
    (re.compile(r"over_arch\.model\.0\._mlp\.(\d+)\._linear\.(weight|bias)"), "top_l", "hidden"),
    (re.compile(r"over_arch\.model\.1\.(weight|bias)"), "top_l", "last"),
)


def plain_names(source: object, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``state`` under this package's names.

    Names that are no DLRM's stay, so that the model refuses them by name. ``source`` is the file's
    name in errors.

    Raises CheckpointError for parameters that are known not to be supported, and for two names of
    one parameter.
    """
    bare = {name: _without_wrappers(name) for name in state}
    for name, text in bare.items():
        for pattern, reason in _UNSUPPORTED.items():
            if re.fullmatch(pattern, text):
                raise CheckpointError(f"{source}: {name}: {reason}, so the file is not loaded")
    if any(_is_torchrec(name) for name in bare.values()):
        renamed = _torchrec_names(source, list(bare.values()))
        bare = {name: renamed.get(text, text) for name, text in bare.items()}
    result: dict[str, Any] = {}
    for name, text in bare.items():
        if text in result:
            raise CheckpointError(f"{source}: {text} is there twice, also as {name}")
        result[text] = state[name]
    return {_ROW_WEIGHTS.sub(r"emb_l.\1.pooling", n): _column(n, a) for n, a in result.items()}


def _column(name: str, array: Any) -> Any:
    """Return learned weights of pooling (M,) as the table of one column that they are here."""
    if _ROW_WEIGHTS.fullmatch(name) and np.ndim(array) == 1:
        return np.reshape(array, (-1, 1))
    return array


def reference_names(state: Mapping[str, Any], is_mixed: bool) -> dict[str, Any]:
    """Return parameters of a DLRM under the reference's names; ``is_mixed`` is of mixed widths."""
    named: dict[str, Any] = {}
    for name, array in state.items():
        if _POOLING.fullmatch(name):
            named[f"v_W_l.{name.split('.')[1]}"] = np.reshape(array, -1)
        elif is_mixed and re.fullmatch(r"emb_l\.\d+\.weight", name):
            named[name.removesuffix(".weight") + MIXED_NAME] = array
        else:
            named[name] = array
    return named


def is_row_weight(name: str) -> bool:
    """Return whether a parameter has learned weights of pooling."""
    return bool(_POOLING.fullmatch(name))


def has_torchrec_names(names: Iterable[str]) -> bool:
    """Return whether a file with these names was saved from TorchRec's DLRM."""
    return any(_is_torchrec(_without_wrappers(name)) for name in names)


def from_torchrec_order(weight: Array, tables: int, dim: int) -> Array:
    """Permute the columns of the first layer of TorchRec's top MLP to this package's order.

    Both start with the E dense features. TorchRec then has the pairs (0, 1), (0, 2), ... of the
    ``tables`` + 1 vectors row by row of the upper triangle, the reference and this package
    (1, 0), (2, 0), (2, 1), ... of the lower one. A weight of another width is returned as it is.
    """
    vectors = tables + 1
    if weight.ndim != 2 or weight.shape[1] != dim + vectors * (vectors - 1) // 2:
        return weight
    upper = {pair: i for i, pair in enumerate(zip(*np.triu_indices(vectors, 1), strict=True))}
    rows, columns = np.tril_indices(vectors, -1)
    order = [upper[column, row] for row, column in zip(rows, columns, strict=True)]
    return weight[:, [*range(dim), *(dim + i for i in order)]]


def _without_wrappers(name: str) -> str:
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    text = ".".join(parts)
    if text.endswith(MIXED_NAME):
        text = text.removesuffix(MIXED_NAME) + ".weight"
    is_task = text.startswith("model.") and _is_torchrec(text.removeprefix("model."))
    return text.removeprefix("model.") if is_task else text  # TorchRec's DLRMTrain


def _is_torchrec(name: str) -> bool:
    return name.startswith(("sparse_arch.", "dense_arch.", "over_arch."))


def _torchrec_names(source: object, names: list[str]) -> dict[str, str]:
    tables = [match[1] for name in names if (match := _TORCHREC_TABLE.fullmatch(name))]
    _check_order(source, tables)
    renamed = {
        f"sparse_arch.embedding_bag_collection.embedding_bags.{table}.weight": f"emb_l.{s}.weight"
        for s, table in enumerate(tables)
    }
    hidden = 0
    for name in names:
        for pattern, mlp, kind in _TORCHREC_LAYERS:
            match = pattern.fullmatch(name)
            if match and kind == "hidden":
                renamed[name] = f"{mlp}.{2 * int(match[1])}.{match[2]}"
                hidden = max(hidden, int(match[1]) + 1) if mlp == "top_l" else hidden
    for kind in ("weight", "bias"):
        renamed[f"over_arch.model.1.{kind}"] = f"top_l.{2 * hidden}.{kind}"
    return renamed


def _check_order(source: object, tables: list[str]) -> None:
    """Refuse numbered tables in another order than their numbers: the file was sorted by name."""
    numbered = [re.fullmatch(r"(.*?)(\d+)", table) for table in tables]
    known = [match for match in numbered if match]
    if len(known) < len(tables) or len({match[1] for match in known}) > 1:
        return
    numbers = [int(match[2]) for match in known]
    if numbers != sorted(numbers):
        raise CheckpointError(
            f"{source}: its tables are in the order {', '.join(tables[:4])}, ..., which is not "
            "that of their numbers; save them in the order of the model's features"
        )

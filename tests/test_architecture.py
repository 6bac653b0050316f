"""Holds the layers: imports point downward only, functions stay short, the library stays quiet."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "dlrmjit").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
EVERYWHERE = {
    "config",
    "errors",
    "knobs",
    "optimizer_config",
    "precision",
    "presets",
    "version",
}
COMMANDS = {"train", "prepare", "convert", "evaluate", "predict", "export_embeddings", "plan"}
LAYERS = [  # from the top; a module may import from its own layer and from those below
    COMMANDS | {"tune", "cli", "__init__"},
    {"fitting", "persistence"},
    {"step", "checkpoint", "metrics", "parallel"},
    {"model", "norm", "optim", "data", "gradcheck"},
    {"ops", "profile"},
    {"autograd", "mixed_dimensions", "roofline", "torch_stream"},
    {"dlrmjit_kernels"},
]
MAY_USE_KERNELS = {"ops", "optim", "data", "metrics", "dlrmjit_kernels", "tune", "cli", "train"}
INFRASTRUCTURE = {"dlrmjit_kernels.compile", "dlrmjit_kernels.threads"}
LONGEST_FUNCTION = 60
LONGEST_FILE = 450


def _module(path):
    base = ROOT / "kernels" if "kernels" in path.relative_to(ROOT).parts[:1] else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts)


def _unit(module):
    """The part of the product a module belongs to: ``dlrmjit.ops.jit`` -> ``ops``."""
    parts = module.split(".")
    if parts[0] == "dlrmjit_kernels":
        return parts[0]
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "dlrmjit":
            yield from (f"dlrmjit.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _own_imports(path):
    for name in _imports(path):
        if name.split(".")[0] in ("dlrmjit", "dlrmjit_kernels"):
            yield name


def _level(unit):
    return next(i for i, layer in enumerate(LAYERS) if unit in layer)


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_imports_point_downward(path):
    unit = _unit(_module(path))
    for name in _own_imports(path):
        imported = _unit(name)
        if imported in EVERYWHERE or imported == unit:
            continue
        assert unit not in EVERYWHERE, f"{path.name} must import nothing of ours, but {name}"
        assert _level(imported) >= _level(unit), f"{path.name} imports {name}, a layer above"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_only_what_computes_in_bulk_calls_kernels(path):
    if _unit(_module(path)) in MAY_USE_KERNELS:
        return
    kernels = {n for n in _own_imports(path) if n.startswith("dlrmjit_kernels")}
    assert kernels <= INFRASTRUCTURE


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_library_code_never_exits_or_prints(path):
    if _unit(_module(path)) in COMMANDS | {"cli", "tune"}:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "sys.exit", "os._exit"), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_functions_and_files_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_every_module_says_why_it_exists(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path

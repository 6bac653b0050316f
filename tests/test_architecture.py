"""Holds the layers: imports point downward only, functions stay short, the library stays quiet."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "dlrmjit").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
EVERYWHERE = {"dlrmjit.errors", "dlrmjit.knobs", "dlrmjit.precision", "dlrmjit.version"}
COMMANDS = {
    f"dlrmjit.{name}"
    for name in (
        *("train", "prepare", "convert", "evaluate", "predict", "export_embeddings", "plan"),
        *("tune", "cli"),
    )
}
LAYERS = [  # from the top; a room may import from those below, and from its own layer if it says so
    COMMANDS | {"dlrmjit"},
    {"dlrmjit.training"},
    {"dlrmjit.parallel"},
    {"dlrmjit.optim", "dlrmjit.checkpoint", "dlrmjit.metrics"},
    {"dlrmjit.model"},
    {"dlrmjit.data", "dlrmjit.perf"},
    {"dlrmjit.ops"},
    {"dlrmjit.autograd"},
    {"dlrmjit.config"},
    EVERYWHERE,
    {"dlrmjit_kernels"},
    {"dlrmjit_kernels.layers", "dlrmjit_kernels.auc", "dlrmjit_kernels.machine_peaks"},
    {"dlrmjit_kernels.matmul"},
    {"dlrmjit_kernels.matrix", "dlrmjit_kernels.embedding"},
    {"dlrmjit_kernels.data"},
    {"dlrmjit_kernels.microkernels"},
    {"dlrmjit_kernels.codegen"},
    {"dlrmjit_kernels.runtime"},
    {"dlrmjit_kernels.errors", "dlrmjit_kernels.knobs", "dlrmjit_kernels.precision"},
]
MAY_USE_KERNELS = COMMANDS | {
    *("dlrmjit.ops", "dlrmjit.optim", "dlrmjit.data", "dlrmjit.metrics"),
}
INFRASTRUCTURE = {
    *("dlrmjit_kernels.runtime.compile", "dlrmjit_kernels.runtime.threads"),
    *("dlrmjit_kernels.errors", "dlrmjit_kernels.knobs", "dlrmjit_kernels.precision"),
}
MOST_FILES = 16  # of a folder, without its __init__.py
LONGEST_FUNCTION = 60
LONGEST_FILE = 450


def _module(path):
    base = ROOT / "kernels" if "kernels" in path.relative_to(ROOT).parts[:1] else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts)


def _room(module):
    """The part of the product a module belongs to: ``dlrmjit.ops.jit.mlp`` -> ``dlrmjit.ops``."""
    parts = module.removesuffix(".__init__").split(".")
    return ".".join(parts[:2])


MODULES = {_module(path).removesuffix(".__init__") for path in SOURCES}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def _own_imports(path):
    for name in _imports(path):
        if name.split(".")[0] in ("dlrmjit", "dlrmjit_kernels"):
            yield name


def _level(room):
    return next(i for i, layer in enumerate(LAYERS) if room in layer)


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_imports_point_downward(path):
    room = _room(_module(path))
    for name in _own_imports(path):
        imported = _room(name)
        assert _level(imported) >= _level(room), f"{path.name} imports {name}, a layer above"


@pytest.mark.parametrize("path", [ROOT / "dlrmjit", ROOT / "kernels", ROOT / "tests"])
def test_no_folder_is_crowded(path):
    for folder in [path, *(inner for inner in path.rglob("*") if inner.is_dir())]:
        modules = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(modules) <= MOST_FILES, f"{folder} has {len(modules)} modules"


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_only_what_computes_in_bulk_calls_kernels(path):
    module = _module(path)
    if _room(module) in MAY_USE_KERNELS or module.startswith("dlrmjit_kernels"):
        return
    kernels = {n for n in _own_imports(path) if n.startswith("dlrmjit_kernels")}
    assert kernels <= INFRASTRUCTURE


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_library_code_never_exits_or_prints(path):
    if _room(_module(path)) in COMMANDS:
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

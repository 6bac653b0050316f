"""Holds the layers: imports point downward only, functions stay short, the library stays quiet."""

import ast

import pytest

from docs.layers import CLI, ROOT, SOURCES, crowded_folders, imports, level_of, module_name, room_of

MAY_USE_KERNELS = {
    *(CLI, "dlrmjit.ops", "dlrmjit.optim", "dlrmjit.data", "dlrmjit.metrics", "dlrmjit.ranking"),
    "dlrmjit.checkpoint",  # checksums
    "dlrmjit.doctor",  # measures their machine
}
INFRASTRUCTURE = {
    *("dlrmjit_kernels.runtime.compile", "dlrmjit_kernels.runtime.threads"),
    "dlrmjit_kernels.runtime.access",
    *("dlrmjit_kernels.errors", "dlrmjit_kernels.knobs", "dlrmjit_kernels.precision"),
    "dlrmjit_kernels.optimizers",
}
MAY_EXIT = {
    "dlrmjit.parallel.comm.abort",  # where MPI itself cannot end a rank
    "dlrmjit.serve.processes.host",  # a process of its own, and its forks
    "dlrmjit.warm.helpers",  # in its forks, which must not run what their caller runs at its end
}
LONGEST_FUNCTION = 60
LONGEST_FILE = 450


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_downward(path):
    room = room_of(module_name(path))
    for name in imports(path):
        imported = room_of(name)
        assert level_of(imported) >= level_of(room), f"{path.name} imports {name}, a layer above"


def test_no_folder_is_crowded():
    folders = (ROOT / name for name in ("dlrmjit", "kernels", "tests"))
    assert crowded_folders(folders) == []


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_what_computes_in_bulk_calls_kernels(path):
    module = module_name(path)
    if room_of(module) in MAY_USE_KERNELS or module.startswith("dlrmjit_kernels"):
        return
    kernels = {n for n in imports(path) if n.startswith("dlrmjit_kernels")}
    assert kernels <= INFRASTRUCTURE


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_library_code_never_exits_or_prints(path):
    module = module_name(path)
    if room_of(module) == CLI or module in MAY_EXIT:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "sys.exit", "os._exit"), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_functions_and_files_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path.name}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_why_it_exists(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for path in SOURCES}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_no_source_is_in_an_ignored_folder():
    """Ignored folders are left out of the distribution too."""
    lines = (ROOT / ".gitignore").read_text().split()
    ignored = {line.strip("/") for line in lines if not line.startswith("/")}
    assert not [path for path in SOURCES if ignored & set(path.relative_to(ROOT).parts)]

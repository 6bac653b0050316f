"""Files are created, replaced and removed in ``dlrmjit.files`` alone."""

import ast

import pytest

from docs.layers import ROOT, SOURCES

CHECKED = [
    path
    for path in SOURCES
    if path.is_relative_to(ROOT / "dlrmjit") and not path.is_relative_to(ROOT / "dlrmjit" / "files")
]
MODULES = {
    "os": {
        *("rename", "renames", "replace", "remove", "unlink", "rmdir", "removedirs", "mkdir"),
        *("makedirs", "link", "symlink", "truncate", "mkfifo", "mknod", "setxattr", "chmod"),
        *("chown", "utime"),
    },
    "shutil": {"rmtree", "copy", "copy2", "copyfile", "copyfileobj", "copytree", "move"},
    "tempfile": {
        *("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile"),
    },
}
METHODS = {
    *("unlink", "rename", "rmdir", "mkdir", "touch", "write_text", "write_bytes", "symlink_to"),
    *("hardlink_to", "tofile"),
}
TAKE_OPEN_FILES = {"np.save", "np.savez", "np.savez_compressed", "parquet.write_table"}
"""Called with an open file or with a path; a path's name must not be ``file``."""


def misuse(call):
    """Return what a call does that only ``dlrmjit.files`` may do, or None."""
    name = ast.unparse(call.func)
    module, _, function = name.rpartition(".")
    if function in MODULES.get(module, ()):
        return name
    if name == "np.memmap":
        modes = [*call.args[2:3], *(k.value for k in call.keywords if k.arg == "mode")]
        return None if [ast.literal_eval(mode) for mode in modes] == ["r"] else name
    if module == "archive":  # a member of an archive that is open
        return None
    if name in ("open", "io.open", "os.open") or function == "open":
        return name if may_write(name, call) else None
    if function in METHODS and module:
        return name
    if function == "replace" and len(call.args) == 1 and module and module != "dataclasses":
        return name
    if name in TAKE_OPEN_FILES and "file" not in [ast.unparse(arg) for arg in call.args]:
        return name
    return None


def may_write(name, call):
    """Return whether a call of an ``open`` may create a file or write to one."""
    if call.args and ast.unparse(call.args[0]) == "os.devnull":
        return False
    if name == "os.open":
        flags = ast.unparse(call.args[1])
        return any(flag in flags for flag in ("O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC"))
    modes = [a.value for a in call.args[:2] if isinstance(a, ast.Constant)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode"]
    return any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes)


def calls(text):
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_other_module_changes_the_file_system(path):
    found = [f"line {call.lineno}: {misuse(call)}" for call in calls(path.read_text())]
    assert [line for line in found if not line.endswith(": None")] == []


@pytest.mark.parametrize(
    "text",
    [
        *("shutil.rmtree(a)", "os.unlink(a)", "os.replace(a, b)", "os.rename(a, b)", "p.unlink()"),
        *('open(a, "w")', 'open(a, mode="xb")', 'p.open("a")', "p.write_text(t)", "p.replace(q)"),
        *("os.open(a, os.O_CREAT)", "np.save(path, a)", 'np.memmap(p, t, "r+")', "a.tofile(p)"),
        *("np.memmap(p)", "os.makedirs(a)", "tempfile.mkdtemp()", 'gzip.open(a, "wt")'),
    ],
)
def test_what_changes_it_is_recognised(text):
    assert misuse(calls(text)[0])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "open(a)",
            'open(a, "rb")',
            'gzip.open(a, "rb")',
            'open(os.devnull, "w")',
            "np.save(file, a)",
        ),
        *('text.replace("a", "b")', "dataclasses.replace(a)", "os.open(a, os.O_RDONLY)"),
        *('np.memmap(p, t, mode="r")', 'np.memmap(p, t, "r", 4)', "files.open(name)"),
    ],
)
def test_what_reads_is_allowed(text):
    assert misuse(calls(text)[0]) is None

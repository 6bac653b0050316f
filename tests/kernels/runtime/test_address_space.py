"""Kernels load into an address space that large tables have fragmented.

The free pages are arranged so that code fits only gigabytes away from the single pages into
which its constants fit. A loader that maps sections one by one is aborted there.
"""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="relies on the order in which Linux maps pages on x86-64",
)

ARRANGE = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

def reserve(size):
    private_anonymous_no_reserve = 0x4022
    return libc.mmap(None, size, 0, private_anonymous_no_reserve, -1, 0)

def scatter_free_pages():
    pages = [reserve(4096) for _ in range(3000)]
    reserve(3 << 30)
    for _ in range(1500):
        reserve(4096)
    for page in pages[100:2000:2]:
        libc.munmap(page, 4096)
"""

GENERATED = """
from dlrmjit_kernels import EmbeddingTables, RowwiseAdagradRows
from dlrmjit_kernels.codegen.engine import address
from dlrmjit_kernels.embedding.row_optimizers import update_spec
from dlrmjit_kernels.runtime.target import current_target

def load(width):
    tables = EmbeddingTables([1], width)
    address(update_spec(RowwiseAdagradRows(0.1), tables, False), current_target())

load(16)
scatter_free_pages()
load(1024)
"""


def test_kernels_load_between_large_tables(tmp_path, monkeypatch):
    monkeypatch.setenv("DLRMJIT_CACHE_DIR", str(tmp_path))
    script = tmp_path / "program.py"
    script.write_text(ARRANGE + GENERATED + "print('loaded')")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.stdout == "loaded\n", done.stderr[-500:]

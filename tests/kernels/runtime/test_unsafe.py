"""Lifetimes: the memory of a local array outlives the last use of an address taken from it."""

import ast
import textwrap

import pytest

from docs.layers import SOURCES, module_name

ALLOCATIONS = {f"np.{name}" for name in ("empty", "zeros", "ones", "full", "arange", "copy")}


def jitted(tree):
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return [f for f in functions if any("jit" in ast.unparse(d) for d in f.decorator_list)]


def address_functions(paths):
    """Names of compiled functions that return an address of their argument."""
    functions = (f for path in paths for f in jitted(ast.parse(path.read_text())))
    return {
        f.name
        for f in functions
        if f.returns is not None and ast.unparse(f.returns) == "int" and ".ctypes" in ast.unparse(f)
    }


def names_in(node):
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def takes_address(node, array, callees):
    """Whether an expression has the address of ``array``."""

    def is_address(found):
        if isinstance(found, ast.Attribute):
            return found.attr == "ctypes" and array in names_in(found.value)
        called = isinstance(found, ast.Call) and ast.unparse(found.func).split(".")[-1]
        return called in callees and array in {ast.unparse(argument) for argument in found.args}

    return any(is_address(found) for found in ast.walk(node))


def last_use(function, names):
    uses = (n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id in names)
    return max((n.lineno for n in uses if isinstance(n.ctx, ast.Load)), default=0)


def freed_too_early(function, callees):
    """Local arrays of a function whose addresses are used after the arrays themselves."""
    assigned = [n for n in ast.walk(function) if isinstance(n, ast.Assign)]
    assigned.sort(key=lambda node: node.lineno)
    arrays = set()
    for node in assigned:
        calls = (n for n in ast.walk(node.value) if isinstance(n, ast.Call))
        if any(ast.unparse(call.func) in ALLOCATIONS for call in calls):
            arrays |= names_in(node.targets[0])
    early = []
    for array in sorted(arrays):
        derived: set[str] = set()
        for node in assigned:
            if takes_address(node.value, array, callees) or derived & names_in(node.value):
                derived |= names_in(node.targets[0])
        if last_use(function, derived) > last_use(function, {array}):
            early.append(array)
    return early


CALLEES = address_functions(SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_arrays_live_as_long_as_their_addresses_are_used(path):
    for function in jitted(ast.parse(path.read_text())):
        early = freed_too_early(function, CALLEES)
        assert not early, f"{function.name} must call unsafe.keep_alive of {early} at its end"


@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("address", ["scratch.ctypes.data", "aligned_start(scratch)"])
def test_this_check_finds_what_it_looks_for(alive, address):
    source = f"""
        @jit
        def sums(n):
            scratch = np.zeros(n, np.float32)
            first = {address}
            second = first + 4
            for i in range(n):
                store(second, i)
            {"keep_alive(scratch)" if alive else ""}
        """
    (function,) = jitted(ast.parse(textwrap.dedent(source)))
    assert "aligned_start" in CALLEES
    assert freed_too_early(function, CALLEES) == ([] if alive else ["scratch"])

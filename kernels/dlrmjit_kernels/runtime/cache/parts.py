"""Functions that are compiled for the kernels that call them: neither machine code nor a wrapper.

Numba makes every function callable from Python and emits its machine code, also where a kernel is
its only caller, into which its LLVM code is linked. For most functions that was a fifth of the
compiler's time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompileResult, compile_result

_KIND = "part"
"""What distinguishes the stored library of a part from those of Numba."""


class PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The LLVM code of a function, to be linked into that of its callers only."""

    def _finalize_final_module(self) -> None:
        """Finish without handing the code to the engine, which would emit machine code."""
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def serialize_using_object_code(self) -> tuple[str, str, bytes]:
        """Return what is stored of this library: it has no object code."""
        return self.name, _KIND, self._get_module_for_linking().as_bitcode()


def is_part(result: Any) -> bool:
    """Return whether a compiled function can only be linked, not called."""
    return isinstance(result.library, PartLibrary)


def as_part(result: Any) -> Any:
    """Return a result that Numba compiled without machine code, as one that kernels can link."""
    result.library.__class__ = PartLibrary  # before anything is emitted
    result.library.finalize()
    part = result._replace(entry_point=object())  # only identifies it
    result.target_context.insert_user_function(part.entry_point, part.fndesc, [part.library])
    return part


def is_stored_part(stored: Any) -> bool:
    """Return whether what the cache has of a function is a part."""
    return bool(stored[0][1] == _KIND)


def load_part(target_context: Any, stored: Any) -> Any:
    """Return a part as ``CompileResult._reduce`` stored it."""
    (name, _, bitcode), fndesc, env, signature, objectmode, lifted, notes, reload, envs = stored
    for initialise in reload:
        initialise()
    library = PartLibrary(target_context.codegen(), name)
    library._final_module = library._shared_module = binding.parse_bitcode(bitcode)
    library._finalized = True
    return compile_result(
        target_context=target_context,
        typing_context=target_context.typing_context,
        library=library,
        environment=env,
        entry_point=object(),
        fndesc=fndesc,
        type_annotation=notes,
        signature=signature,
        objectmode=objectmode,
        lifted=lifted,
        reload_init=reload,
        referenced_envs=envs,
    )


def load_environments(result: CompileResult) -> None:
    """Set the environments of the parts that are linked into a function, as of those loaded."""
    for environment in result._find_referenced_environments():
        result.codegen.set_env(environment.env_name, environment)

"""Compiles the specification of a kernel and returns the address of its machine code.

A specification is a frozen value that can emit itself as LLVM IR. Its name is its key in this
process and on disk, so a kernel is generated once per machine and loaded afterwards. Object
files are stored next to Numba's, in the cache folder of exactly these sources.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from pathlib import Path
from typing import Any, Protocol

from llvmlite import binding, ir

from dlrmjit_kernels import compile_events
from dlrmjit_kernels.runtime.cache import folder as cache_folder
from dlrmjit_kernels.runtime.compile import note, version_folder
from dlrmjit_kernels.runtime.target import Target


class Spec(Protocol):
    """Specification of a kernel, as the engine needs it."""

    @property
    def symbol(self) -> str:
        """Name of the function, unique among specifications."""

    def emit(self, module: ir.Module, target: Target) -> None:
        """Define the function ``symbol`` in ``module`` for ``target``."""


_lock = threading.RLock()
_addresses: dict[tuple[Target, str], int] = {}
if hasattr(os, "register_at_fork"):  # a lock of another thread would stay locked in the child
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def address(spec: Spec, target: Target) -> int:
    """Return the address of the function of ``spec``, compiled or loaded on first use.

    The code stays loaded until the process ends. In a dry run the address is 0: only compiled
    kernels may call it.
    """
    key = (target, spec.symbol)
    known = _addresses.get(key)
    if known is None:
        if note(_object, spec, target):
            return 0
        with _lock:
            known = _addresses.get(key) or _load(spec, target)
            _addresses[key] = known
    return known


def assembly(spec: Spec, target: Target, commented: bool = False) -> str:
    """Return the machine code of ``spec`` as text, for any target, runnable here or not.

    With ``commented``, LLVM marks loops, and registers that are saved on the stack.
    """
    machine = _new_machine(target)
    machine.set_asm_verbosity(commented)
    return str(machine.emit_assembly(_optimised(spec, target, machine)))


def intermediate(spec: Spec, target: Target) -> str:
    """Return the LLVM IR of ``spec`` after LLVM's passes, for any target."""
    return str(_optimised(spec, target, _machine(target)))


def _load(spec: Spec, target: Target) -> int:
    engine = _engine(target)
    engine.add_object_file(binding.ObjectFileRef.from_data(_object(spec, target)))
    engine.finalize_object()
    return int(engine.get_function_address(spec.symbol))


def _object(spec: Spec, target: Target) -> bytes:
    """Return the object file of ``spec``, from disk if it is there and intact."""
    path = _object_path(spec, target)
    content = cache_folder.read(path.parent, path.name)
    if content is None:
        compile_events.compiling()
        machine = _machine(target)
        content = bytes(machine.emit_object(_optimised(spec, target, machine)))
        cache_folder.write(path.parent, path.name, content)
    return content


def _object_path(spec: Spec, target: Target) -> Path:
    machine = f"{target.triple} {target.cpu} {target.features}"
    digest = hashlib.sha256(machine.encode()).hexdigest()[:12]
    return version_folder() / f"{target.isa}-{digest}" / f"{spec.symbol}.kernel"


def _optimised(spec: Spec, target: Target, machine: Any) -> Any:
    """Return the module of ``spec`` after LLVM's passes, which leave loops as emitted."""
    source = ir.Module(name=spec.symbol)
    source.triple = target.triple
    spec.emit(source, target)
    module = binding.parse_assembly(str(source))
    module.data_layout = str(machine.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
    passes = binding.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)
    return module


@functools.cache
def _machine(target: Target) -> Any:
    """Return LLVM's code generator for a target."""
    return _new_machine(target)


def _new_machine(target: Target) -> Any:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    family = binding.Target.from_triple(target.triple)
    return family.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="default"
    )


@functools.cache
def _engine(target: Target) -> Any:
    """Return the loader of all objects of a target, which owns its code generator.

    llvmlite's memory manager maps the sections of an object next to each other. LLVM's default
    takes any free pages: with gigabytes of tables between code and its constants, a relative
    address overflows, and the process is aborted.
    """
    empty = binding.parse_assembly(f'target triple = "{target.triple}"')
    return binding.create_mcjit_compiler(empty, _new_machine(target), use_lmm=True)

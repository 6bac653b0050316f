"""``python -m dlrmjit_kernels.inspect``: print a micro-kernel and what it is made of."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import sys
import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any

from dlrmjit_kernels.codegen import engine
from dlrmjit_kernels.errors import DlrmjitError
from dlrmjit_kernels.inspect.catalogue import KERNELS
from dlrmjit_kernels.inspect.listing import Listing, read_assembly
from dlrmjit_kernels.runtime.target import Target, current_target, named_target

_MOST = 4096  # of a size: code grows with it
_SHOWN = ("summary", "asm", "loop", "ir")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, by default the program's own; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    options = vars(_parser().parse_args(words))
    name, isa, show = options.pop("kernel"), options.pop("target"), options.pop("show")
    try:
        target = named_target(isa) if isa else current_target()
        print(text(name, target, show, options))
        sys.stdout.flush()
    except DlrmjitError as error:
        print(f"dlrmjit_kernels.inspect: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _close_output()
        return 0
    return 0


def text(kernel: str, target: Target, show: str, options: dict[str, Any]) -> str:
    """Return what ``show`` names of a kernel with these options."""
    spec = KERNELS[kernel](target, **options)
    if show == "ir":
        return engine.intermediate(spec, target)
    assembly = engine.assembly(spec, target, commented=True)
    if show == "asm":
        return assembly
    listing = read_assembly(assembly)
    if show == "loop":
        return "\n".join(one.text for one in listing.loop)
    return summary(spec.symbol, target, listing)


def summary(symbol: str, target: Target, listing: Listing) -> str:
    """Return the counts of a kernel as text."""
    used = len(listing.vector_registers)
    lines = [
        f"kernel            {symbol}",
        f"target            {target.isa} ({target.cpu}), {target.registers} vector registers of "
        f"{32 * target.lanes} bits",
        f"multiply-adds     {listing.multiply_adds}, of {len(listing.instructions)} instructions",
        f"vector registers  {used} in use, the widest {listing.vector_bits} bits",
        f"spills            {listing.spills}: {listing.vector_spills} of vectors, "
        f"{listing.loop_spills} in the inner loop",
        "",
        f"{'instructions':32} {'kernel':>8} {'inner loop':>12}",
    ]
    of_kernel, of_loop = listing.counts(), listing.counts(of_loop=True)
    lines += [f"{kind:32} {count:8} {of_loop[kind]:12}" for kind, count in of_kernel.most_common()]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dlrmjit_kernels.inspect", description=__doc__)
    kernels = parser.add_subparsers(dest="kernel", required=True, metavar="KERNEL")
    for name, function in KERNELS.items():
        about = (function.__doc__ or "").splitlines()[0]
        section = kernels.add_parser(name, help=about, description=about)
        section.add_argument("--target", metavar="ISA", help="instruction set (default: the best)")
        section.add_argument(
            "--show", choices=_SHOWN, default="summary", help="counts, all code, the loop, LLVM IR"
        )
        for parameter, kind in typing.get_type_hints(function).items():
            if parameter not in ("target", "return"):
                default = inspect.signature(function).parameters[parameter].default
                _add(section, parameter, kind, default)
    return parser


def _add(section: argparse.ArgumentParser, name: str, kind: Any, default: Any) -> None:
    label = f"--{name.replace('_', '-')}"
    if kind is bool:
        section.add_argument(label, action="store_true")
    elif isinstance(default, Enum):
        choices = [member.name.lower() for member in type(default)]
        section.add_argument(
            label,
            type=lambda word: _member(type(default), word),
            default=default,
            help=f"{', '.join(choices)} (default: {default.name.lower()})",
        )
    else:
        shown = "the target's" if default is None else default
        section.add_argument(label, type=_size, default=default, help=f"default: {shown}")


def _member(kind: type[Enum], word: str) -> Enum:
    for member in kind:
        if member.name.lower() == word.lower():
            return member
    names = ", ".join(member.name.lower() for member in kind)
    raise argparse.ArgumentTypeError(f"{word!r} is not one of {names}")


def _size(word: str) -> int:
    if not (word.isdecimal() and 1 <= int(word) <= _MOST):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {_MOST}, not {word!r}")
    return int(word)


def _close_output() -> None:
    """Send what the interpreter still flushes nowhere: the reader has gone."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

"""Reads assembly: which instructions there are, which registers they use, what is spilled.

The text is LLVM's with comments, in which it marks the instructions that save a register on the
stack or reload it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_KINDS = (  # the first that matches the mnemonic
    ("multiply-adds", r"vfn?m(add|sub)|fml[as]$|[vt]dpbf16"),
    ("broadcasts", r"v?broadcast|vp?broadcast|ld1r|dup"),
    ("multiplications", r"v?f?mul(?!x)|vmul"),
    ("additions", r"v?(add|sub)[ps][sd]|fadd|fsub"),
    ("prefetches", r"prefetch|prfm"),
    ("divisions and roots", r"v?f?(div|r?sqrt)"),
    ("shuffles", r"v?(p?shuf|perm|p?unpck|p?blend|p?align|insert|extract)|zip|uzp|trn|ext$"),
    (
        "vector loads, stores and moves",
        r"tile(load|store)|v?mov[aud]\w*[ps][sd]|vmovdq|v?movs[sd]|v?movhp|v?movlp",
    ),
    ("jumps", r"j\w+$|b(\.\w+)?$|cbn?z|tbn?z"),
)
_VECTOR = re.compile(r"%([xyz])mm(\d+)|\b([vqsd])(\d+)(?=\b|\.)")
_JUMP = re.compile(r"^(?:j\w+|b(?:\.\w+)?|cbn?z|tbn?z)\b.*?(\.?\w+)$")
_WIDTHS = {"x": 128, "y": 256, "z": 512}


@dataclass(frozen=True)
class Instruction:
    """A line of assembly without its comment, and whether it spills or reloads a register."""

    text: str
    spills: bool = False

    @property
    def mnemonic(self) -> str:
        """The operation."""
        return self.text.split()[0]

    @property
    def has_vector(self) -> bool:
        """Whether it names a vector register."""
        return _VECTOR.search(self.text) is not None

    @property
    def kind(self) -> str:
        """What the operation does, roughly."""
        return next((kind for kind, name in _KINDS if re.match(name, self.mnemonic)), "others")


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel, and those of its innermost loop with most arithmetic."""

    instructions: tuple[Instruction, ...]
    loop: tuple[Instruction, ...]

    @cached_property
    def multiply_adds(self) -> int:
        """Number of fused multiply-add instructions."""
        return _count(self.instructions)["multiply-adds"]

    @cached_property
    def spills(self) -> int:
        """Number of instructions that save a register on the stack, or reload it."""
        return sum(one.spills for one in self.instructions)

    @cached_property
    def vector_spills(self) -> int:
        """How many of these save or reload a vector."""
        return sum(one.spills and one.has_vector for one in self.instructions)

    @cached_property
    def loop_spills(self) -> int:
        """How many of these are in the loop."""
        return sum(one.spills for one in self.loop)

    @cached_property
    def vector_registers(self) -> frozenset[int]:
        """Numbers of the vector registers in use."""
        found = _VECTOR.finditer("\n".join(one.text for one in self.instructions))
        return frozenset(int(match[2] or match[4]) for match in found)

    @cached_property
    def vector_bits(self) -> int:
        """Width of the widest vector."""
        text = "\n".join(one.text for one in self.instructions)
        widths = [_WIDTHS.get(match[1], 128) for match in _VECTOR.finditer(text)]
        return max(widths, default=0)

    def counts(self, of_loop: bool = False) -> Counter[str]:
        """Return how many instructions of each kind there are, in all or in the loop."""
        return _count(self.loop if of_loop else self.instructions)


def _count(instructions: Sequence[Instruction]) -> Counter[str]:
    return Counter(instruction.kind for instruction in instructions)


def read_assembly(text: str) -> Listing:
    """Return what a listing of LLVM for x86-64 or AArch64 contains."""
    lines: list[Instruction | str] = []
    for line in text.splitlines():
        code, comment = _parted(line)
        if code.endswith(":"):
            lines.append(code[:-1])
        elif code and not code.startswith("."):
            lines.append(Instruction(code, "Spill" in comment or "Reload" in comment))
    instructions = tuple(one for one in lines if isinstance(one, Instruction))
    return Listing(instructions, tuple(_loop(lines)))


def _parted(line: str) -> tuple[str, str]:
    """Return a line's code and its comment."""
    match = re.search(r"(?:#(?!\d)(?!-)| //)", line)
    if not match:
        return line.strip(), ""
    return line[: match.start()].strip(), line[match.end() :]


def _loop(lines: Sequence[Instruction | str]) -> list[Instruction]:
    """Return the innermost loop with most arithmetic, else the longest one."""
    best: list[Instruction] = []
    start = -1
    for end, line in enumerate(lines):
        if isinstance(line, str):
            start = end
        elif start >= 0 and _target_of(line) == lines[start]:
            body = [one for one in lines[start + 1 : end + 1] if isinstance(one, Instruction)]
            best = max(best, body, key=_weight)
    return best


def _weight(body: Sequence[Instruction]) -> tuple[int, int]:
    """Return how much a loop computes, and how long it is."""
    count = _count(body)
    arithmetic = ("multiply-adds", "multiplications", "additions")
    return sum(count[kind] for kind in arithmetic), len(body)


def _target_of(instruction: Instruction) -> str | None:
    match = _JUMP.match(instruction.text)
    return match[1] if match else None

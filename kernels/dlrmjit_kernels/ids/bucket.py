"""Buckets of a hash table: one cache line of four keys and their four words.

Keys and words are each a vector of 32 bytes, so that a look-up compares all keys at once, without a
branch: one per key would be mispredicted half of the time. A key without a word is not there.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from dlrmjit_kernels.runtime import unsafe
from dlrmjit_kernels.runtime.compile import jit

Integer = Any

SLOTS = 4
LINE = 64
"""Bytes of a bucket."""
_I64, _VECTOR = ir.IntType(64), ir.VectorType(ir.IntType(64), SLOTS)
_WORDS = LINE // 2


@jit
def key_at(slot: Integer) -> Integer:
    """Return the position of a slot's key in an array of buckets; its word is ``SLOTS`` after."""
    return 2 * SLOTS * (slot // SLOTS) + slot % SLOTS


@jit
def is_full(line: Integer) -> bool:
    """Return whether the bucket at an address is full: it is filled from its first slot on."""
    return bool(unsafe.load_int64(line + LINE - 8) != 0)


@jit
def address_of_word(line: Integer, key: Integer) -> Integer:
    """Return the address of the word of a key that is in the bucket at an address."""
    at = line
    while unsafe.load_int64(at) != key:
        at += 8
    return at + _WORDS


@intrinsic  # type: ignore[untyped-decorator]
def word_of(typingctx: Any, line: Any, key: Any) -> Any:
    """Return the word of a key in the bucket at the address ``line``, 0 if it is not there."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        line, key = values
        words = builder.add(line, _I64(_WORDS))
        keys, words = (
            builder.load(builder.inttoptr(at, _VECTOR.as_pointer()), align=LINE // 2)
            for at in (line, words)
        )
        first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), key, ir.IntType(32)(0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), SLOTS), None)
        wanted = builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), zeros)
        found = builder.select(
            builder.icmp_signed("==", keys, wanted), words, ir.Constant(_VECTOR, None)
        )
        kind = ir.FunctionType(_I64, [_VECTOR])
        add_up = get_or_insert_function(builder.module, kind, "llvm.vector.reduce.or.v4i64")
        return builder.call(add_up, [found])

    return types.int64(types.int64, types.int64), codegen

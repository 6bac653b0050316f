"""Fletcher-4: NumPy's sums are the oracle, however the bytes are divided."""

import mmap

import numpy as np
from dlrmjit_kernels.data.fletcher import Fletcher4
from hypothesis import given
from hypothesis import strategies as st


def expected(content):
    sums = np.frombuffer(content + bytes(-len(content) % 4), "<u4").astype(np.uint64)
    digits = ""
    for _ in range(4):
        sums = np.cumsum(sums, dtype=np.uint64)
        digits += f"{int(sums[-1]) if sums.size else 0:016x}"
    return digits


def digest(*pieces):
    found = Fletcher4()
    for piece in pieces:
        found.update(piece)
    assert found.hexdigest() == found.hexdigest()
    return found.hexdigest()


@given(st.lists(st.binary(max_size=50), max_size=9))
def test_the_digest_is_that_of_numpy_for_any_division_of_the_bytes(pieces):
    assert digest(*pieces) == digest(b"".join(pieces)) == expected(b"".join(pieces))


def test_sums_wrap_around_and_buffers_of_any_kind_and_alignment_are_read():
    content = b"\xff" * 400_001
    pages = mmap.mmap(-1, len(content))
    pages[:] = content
    assert digest(pages) == digest(content) == expected(content)
    assert digest(content[:1], memoryview(content)[1:]) == digest(content)
    assert digest(memoryview(content)[1:]) == expected(content[1:])
    assert digest(np.ones((3, 5))) == expected(np.ones((3, 5)).tobytes())


def test_a_known_digest():
    assert digest(bytes(range(8))) == "".join(
        f"{value:016x}" for value in (0x0A08_0604, 0x0D0A_0704, 0x100C_0804, 0x130E_0904)
    )


@given(st.binary(min_size=4, max_size=64), st.data())
def test_every_changed_byte_and_every_two_exchanged_words_change_the_digest(content, data):
    at = data.draw(st.integers(0, len(content) - 1))
    other = data.draw(st.integers(1, 255)) ^ content[at]
    assert digest(content[:at] + bytes([other]) + content[at + 1 :]) != digest(content)
    words = [content[i : i + 4] for i in range(0, len(content) // 4 * 4, 4)]
    first, second = (data.draw(st.integers(0, len(words) - 1)) for _ in range(2))
    if words[first] != words[second]:
        before = digest(*words)
        words[first], words[second] = words[second], words[first]
        assert digest(*words) != before

"""What is read from assembly, on listings written by hand."""

from dlrmjit_kernels.inspect.listing import read_assembly

X86 = """
	.text
kernel:
	pushq	%rbx
	movq	%rdi, -8(%rsp)                  # 8-byte Spill
.LBB0_1:                                # =>This Inner Loop Header: Depth=1
	prefetcht0	(%rsi)
	decq	%rax
	jne	.LBB0_1
.LBB0_2:
	vbroadcastss	(%rdi), %ymm1
	vfmadd231ps	(%rsi), %ymm1, %ymm15   # ymm15 = (ymm1 * mem) + ymm15
	vmovups	%ymm15, 32(%rsp)                # 32-byte Spill
	decq	%rax
	jne	.LBB0_2
	retq
"""
ARM = """
kernel:                                 // @kernel
.LBB0_1:
	ldr	q0, [x0], #16
	fmla	v31.4s, v0.4s, v1.s[0]
	str	q31, [sp, #16]                  // 16-byte Folded Spill
	subs	x2, x2, #1
	b.ne	.LBB0_1
	ret
"""


def test_the_loop_with_most_arithmetic_is_found_in_code_for_x86():
    listing = read_assembly(X86)
    assert [one.mnemonic for one in listing.loop][:2] == ["vbroadcastss", "vfmadd231ps"]
    assert len(listing.loop) == 5
    assert len(listing.instructions) == 11
    assert listing.multiply_adds == 1
    assert (listing.spills, listing.vector_spills, listing.loop_spills) == (2, 1, 1)
    assert listing.vector_registers == {1, 15}
    assert listing.vector_bits == 256
    assert listing.counts()["prefetches"] == 1
    assert listing.counts(of_loop=True)["prefetches"] == 0


def test_immediates_of_arm_are_no_comments():
    listing = read_assembly(ARM)
    assert listing.instructions[0].text.endswith("#16")
    assert (listing.multiply_adds, listing.vector_spills, len(listing.loop)) == (1, 1, 5)
    assert listing.vector_registers == {0, 1, 31}
    assert listing.vector_bits == 128


def test_a_kernel_without_a_loop_has_none():
    assert read_assembly("kernel:\n\tretq\n").loop == ()

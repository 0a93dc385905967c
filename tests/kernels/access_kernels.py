"""Kernels to record: some right, some with one thing to get wrong."""

import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    total = tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask)
    tl.store(out + offsets, total, mask=mask)


@triton.jit
def row_sum_kernel(x, out, stride_row, stride_column, N: tl.constexpr, B: tl.constexpr):
    row = tl.program_id(0)
    total = 0.0
    for start in range(0, N, B):
        c = start + tl.arange(0, B)
        place = x + row * stride_row + c * stride_column
        total += tl.sum(tl.load(place, mask=c < N, other=0.0))
    tl.store(out + row, total)


@triton.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    value = tl.load(x + row * columns + c, mask=c < columns, other=float("-inf"))
    value = tl.exp(value - tl.max(value))
    tl.store(out + row * columns + c, value / tl.sum(value), mask=c < columns)


@triton.jit
def matmul_kernel(
    a, b, out, M, N, K: tl.constexpr, TILE: tl.constexpr, GUARD: tl.constexpr
):
    m = tl.program_id(0) * TILE + tl.arange(0, TILE)
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for start in range(0, K, TILE):
        k = start + tl.arange(0, TILE)
        in_a = (m[:, None] < M) & ((k[None, :] < K) | (not GUARD))
        in_b = (k[:, None] < K) & (n[None, :] < N)
        tile_a = tl.load(a + m[:, None] * K + k[None, :], mask=in_a, other=0.0)
        tile_b = tl.load(b + k[:, None] * N + n[None, :], mask=in_b, other=0.0)
        total = tl.dot(tile_a, tile_b, total)
    in_out = (m[:, None] < M) & (n[None, :] < N)
    tl.store(out + m[:, None] * N + n[None, :], total, mask=in_out)


@triton.jit
def copy_kernel(x, out, n, step, BLOCK: tl.constexpr, MASK: tl.constexpr):
    """A copy with two things to get wrong: the step between blocks, the mask."""
    offsets = tl.program_id(0) * step + tl.arange(0, BLOCK)
    if MASK:
        tl.store(out + offsets, tl.load(x + offsets, mask=offsets < n), offsets < n)
    else:
        tl.store(out + offsets, tl.load(x + offsets))


@triton.jit
def row_copy_kernel(x, out, shift, rows, columns, BLOCK: tl.constexpr, M: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    source = x + ((row + shift) % rows) * columns + c
    mask = (c < columns) | (not M)
    tl.store(out + row * columns + c, tl.load(source, mask=mask), mask=mask)


@triton.jit
def total_kernel(x, out, BLOCK: tl.constexpr, ATOMIC: tl.constexpr):
    value = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)))
    if ATOMIC:
        tl.atomic_add(out, value)
    else:
        tl.store(out, tl.load(out) + value)


@triton.jit
def strange_kernel(x, out, CASE: tl.constexpr):
    i = tl.arange(0, 4)
    if CASE == "before":
        tl.store(out + i, tl.load(x + i - 2))
    elif CASE == "lanes":
        tl.store(out + i // 2, tl.load(x + i))
        tl.store(out + 2 + i // 2, tl.load(x + i), mask=i % 2 == 0)
    elif CASE == "lost":
        tl.store(out + i, 0.0)
        tl.store(out + i, tl.load(x + i))
    elif CASE == "far":
        far = x + (i.to(tl.int64) + 1) * (1 << 50)
        tl.store(out + i, tl.load(x + i) + tl.load(far))
    elif CASE == "cas":
        tl.atomic_cas(out.to(tl.pointer_type(tl.int32)) + 9, 0, 1)
    elif CASE == "max outside":
        tl.atomic_max(out + i + 2, tl.load(x + i))


@triton.jit
def pairs_kernel(tensors, out, BLOCK: tl.constexpr):
    """Two elements at once, through pointers to a type of twice the width."""
    i = tl.arange(0, BLOCK)
    pairs = tensors[0].to(tl.pointer_type(tl.int64))
    tl.store(out.to(tl.pointer_type(tl.int64)) + i, tl.load(pairs + i))


@triton.jit
def block_pointer_copy_kernel(
    x, out, rows, columns, TILE: tl.constexpr, CHECK: tl.constexpr
):
    place = (tl.program_id(0) * TILE, tl.program_id(1) * TILE)
    shape, strides, tile = (rows, columns), (columns, 1), (TILE, TILE)
    source = tl.make_block_ptr(x, shape, strides, place, tile, (1, 0))
    target = tl.make_block_ptr(out, shape, strides, place, tile, (1, 0))
    if CHECK:
        value = tl.load(source, boundary_check=(0, 1), padding_option="zero")
        tl.store(target, value, boundary_check=(0, 1))
    else:
        tl.store(target, tl.load(source))


@triton.jit
def descriptor_copy_kernel(x, out, rows, columns, TILE: tl.constexpr):
    source = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [TILE, TILE])
    target = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [TILE, TILE])
    place = [tl.program_id(0) * TILE, tl.program_id(1) * TILE]
    target.store(place, source.load(place))

"""Every operation that kernels use, in every dtype, against torch or float64.

Nothing here is special to the interpreter: on a machine with a GPU the same
table runs compiled, and so says whether what `kernels.interpreter` calls right
is what the hardware does.
"""

from __future__ import annotations

import operator

import pytest
import torch

import kernels

if not kernels.HAS_TRITON:
    pytest.skip("Triton is not installed", allow_module_level=True)

from triton.runtime.errors import InterpreterError

from kernels.language import cdiv, jit, tl, triton

# NumPy warns where a GPU is silent: inf - inf, 1e9 as float16.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = "cpu" if kernels.INTERPRETED else "cuda"
BLOCK = 1 << 17 if kernels.INTERPRETED else 1024

BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FLOAT8 = [E4M3, E5M2]
FLOATS = [BF16, FP16, FP32]
LARGEST = {dtype: torch.finfo(dtype).max for dtype in FLOAT8}
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -------------------------------------------------------------------- inputs


def every_code(dtype: torch.dtype) -> torch.Tensor:
    """All 256 numbers of an 8-bit type, all 65536 of a 16-bit one."""
    bits = 8 * dtype.itemsize
    codes = torch.arange(1 << bits, dtype=torch.int32)
    return codes.to(BITS[dtype.itemsize]).view(dtype)


def with_neighbours(x: torch.Tensor) -> torch.Tensor:
    """x and the nearest float32 on either side."""
    inf = torch.full_like(x, torch.inf)
    return torch.cat([x, torch.nextafter(x, inf), torch.nextafter(x, -inf)])


def ties(dtype: torch.dtype) -> torch.Tensor:
    """Every number of `dtype`, every midpoint of two, and beside each of them."""
    numbers = every_code(dtype).to(FP64)
    numbers = numbers[numbers.isfinite()].sort().values
    middles = (numbers[1:] + numbers[:-1]) / 2
    return with_neighbours(torch.cat([numbers, middles]).to(FP32))


def floats() -> torch.Tensor:
    """A million float32 of every size, all ties, and what overflows."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1 << 19,), generator=generator)
    near = torch.randn(1 << 19, generator=generator)
    near *= 2.0 ** torch.randint(-20, 20, near.shape, generator=generator)
    limits = torch.tensor([448.0, 464.0, 480.0, 57344.0, 61440.0, 65504.0, 65520.0])
    special = torch.tensor([0.0, torch.inf, torch.nan, 3.4e38, 1e-45, 2.0**-133])
    special = torch.cat([with_neighbours(limits), special])
    some = [bits.to(torch.int32).view(FP32), near, special, -special]
    return torch.cat([*some, ties(E4M3), ties(E5M2), ties(BF16)])


def inputs(dtype: torch.dtype) -> torch.Tensor:
    if dtype.itemsize <= 2 and dtype.is_floating_point:
        return every_code(dtype)
    if dtype.is_floating_point:
        return floats().to(dtype)
    limits = torch.iinfo(dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(limits.min, limits.max, (4096,), generator=generator)
    edges = torch.tensor([limits.min, limits.max, -1, 0, 1, 127])
    small = torch.randint(-100, 100, (256,), generator=generator)
    return torch.cat([x, edges, small]).to(dtype)


# ---------------------------------------------------------------- comparison


def assert_same(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal in every bit; one NaN is as good as another."""
    assert got.dtype == want.dtype and got.shape == want.shape
    got, want = got.cpu(), want.cpu()
    if want.dtype.is_floating_point:
        is_nan = want.float().isnan()
        assert torch.equal(got.float().isnan(), is_nan)
        as_bits = BITS[want.dtype.itemsize]
        got, want = got.view(as_bits), want.view(as_bits)
        wrong = (got != want) & ~is_nan
    else:
        wrong = got != want
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} are wrong"


def run(
    kernel: object, out: torch.Tensor, *args: torch.Tensor, **options: object
) -> torch.Tensor:
    """Launch over all of `out`, in blocks, and give `out` back."""
    out = out.to(DEVICE)
    n = out.numel()
    args = tuple(a.to(DEVICE) for a in args)
    kernel[(cdiv(n, BLOCK),)](*args, out, n, BLOCK=BLOCK, **options)  # type: ignore[index]
    return out


# --------------------------------------------------------------- conversions


@jit
def convert_kernel(x_ptr, out_ptr, n, RTZ: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    if RTZ:
        y = x.to(out_ptr.dtype.element_ty, fp_downcast_rounding="rtz")
    else:
        y = x.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + at, y, mask=at < n)


def converted(
    x: torch.Tensor, dtype: torch.dtype, toward_zero: bool = False
) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=dtype)
    return run(convert_kernel, out, x, RTZ=toward_zero)


def by_torch(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype in FLOAT8 and x.dtype != dtype:  # torch does not always saturate
        x = x.float().clamp(-LARGEST[dtype], LARGEST[dtype])
    return x.to(dtype)


@pytest.mark.parametrize("target", [BF16, E4M3, E5M2, FP16, FP32], ids=name)
@pytest.mark.parametrize("source", [BF16, E4M3, E5M2, FP16, FP32, FP64], ids=name)
def test_float_to_float(source: torch.dtype, target: torch.dtype) -> None:
    if not kernels.INTERPRETED and target in FLOAT8 and source in (FP64, *FLOAT8):
        pytest.skip("this conversion does not compile")
    x = inputs(source)
    assert_same(converted(x, target), by_torch(x, target))


def test_float8_rounds_to_even_carries_saturates_and_keeps_nan() -> None:
    """By hand, so that the table does not lean on torch alone."""
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([127.3, 1.0625, 1.1875, 1.95, 500.0, -1e9, inf, nan, 2.0**-10])
    e4m3 = torch.tensor([128, 1.0, 1.25, 2.0, 448, -448, 448, nan, 0.0])
    assert_same(converted(x, E4M3).float(), e4m3)
    x = torch.tensor([127.3, 1.125, 1.375, 1.95, 6e4, -1e9, inf, nan, 2.0**-17])
    e5m2 = torch.tensor([128, 1.0, 1.5, 2.0, 57344, -57344, 57344, nan, 0.0])
    assert_same(converted(x, E5M2).float(), e5m2)


@pytest.mark.parametrize("source", [torch.int8, torch.int32, torch.int64], ids=name)
@pytest.mark.parametrize("target", FLOATS, ids=name)
def test_int_to_float(source: torch.dtype, target: torch.dtype) -> None:
    x = inputs(source)
    if source.itemsize > 1:  # beyond, a GPU rounds once and torch twice
        x = x % (1 << 24)
    assert_same(converted(x, target), x.to(target))


@pytest.mark.parametrize("target", [torch.int8, torch.int32, torch.int64], ids=name)
@pytest.mark.parametrize("source", FLOATS, ids=name)
def test_float_to_int(source: torch.dtype, target: torch.dtype) -> None:
    x = inputs(source)
    limits = torch.iinfo(target)
    x = x[(x.double() > limits.min) & (x.double() < limits.max)]
    assert_same(converted(x, target), x.to(target))


def test_toward_zero() -> None:
    x = floats()
    x = x[~x.isnan()]
    cut = (x.view(torch.int32) & -0x10000).view(FP32)  # bfloat16 is its upper half
    assert_same(converted(x, BF16, toward_zero=True), cut.to(BF16))
    y = converted(x, FP16, toward_zero=True).cpu()
    up = torch.nextafter(y, torch.full_like(y, torch.inf).copysign(y))
    assert (y.double().abs() <= x.double().abs()).all()
    assert ((up.double().abs() > x.double().abs()) | x.isinf()).all()


# ---------------------------------------------------------- element by element


@jit
def binary_kernel(x_ptr, y_ptr, out_ptr, n, OP: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    y = tl.load(y_ptr + at, mask=at < n)
    if OP == "add":
        z = x + y
    elif OP == "sub":
        z = x - y
    elif OP == "mul":
        z = x * y
    elif OP == "truediv":
        z = x / y
    elif OP == "lt":
        z = x < y
    elif OP == "le":
        z = x <= y
    elif OP == "gt":
        z = x > y
    elif OP == "ge":
        z = x >= y
    elif OP == "eq":
        z = x == y
    elif OP == "ne":
        z = x != y
    elif OP == "fmax":
        z = tl.maximum(x, y)
    elif OP == "fmin":
        z = tl.minimum(x, y)
    elif OP == "maximum":
        z = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "minimum":
        z = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif OP == "fma":
        z = tl.fma(x, y, x)
    elif OP == "where":
        z = tl.where(at % 3 == 0, x, y)
    elif OP == "where_less":
        z = tl.where(x < y, x, y)
    elif OP == "less_as_number":
        z = (x < y).to(tl.float32)
    elif OP == "neg":
        z = -x
    elif OP == "abs":
        z = tl.abs(x)
    elif OP == "bits":
        z = x.to(out_ptr.dtype.element_ty, bitcast=True)
    tl.store(out_ptr + at, z.to(out_ptr.dtype.element_ty), mask=at < n)


def pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of every kind, met in random order; some are equal."""
    x = inputs(dtype)[: 1 << 16]
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(1))
    y = x[order]
    y[::7] = x[::7]
    return x, y


def combined(
    op: str, x: torch.Tensor, y: torch.Tensor, out: torch.dtype | None = None
) -> torch.Tensor:
    return run(binary_kernel, torch.empty(x.shape, dtype=out or x.dtype), x, y, OP=op)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "truediv"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_arithmetic(dtype: torch.dtype, op: str) -> None:
    x, y = pairs(dtype)
    got, want = combined(op, x, y), getattr(operator, op)(x, y)
    if op == "truediv" and not kernels.INTERPRETED:
        # `/` compiles to an approximation, 2 ulp of float32.
        torch.testing.assert_close(got.cpu(), want, equal_nan=True)
    else:
        assert_same(got, want)


@pytest.mark.parametrize("op", ["lt", "le", "gt", "ge", "eq", "ne"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_comparison(dtype: torch.dtype, op: str) -> None:
    x, y = pairs(dtype)
    want = getattr(operator, op)(x, y).int()
    assert_same(combined(op, x, y, torch.int32), want)


@pytest.mark.parametrize("op", ["fmax", "fmin", "maximum", "minimum"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_maximum_and_minimum(dtype: torch.dtype, op: str) -> None:
    x, y = pairs(dtype)
    zeros = (x == 0) & (y == 0)  # max(-0, +0) may be either
    x, y = x[~zeros], y[~zeros]
    want = torch.maximum(x, y) if "max" in op else torch.minimum(x, y)
    if op.startswith("f"):  # torch.fmax itself gives in to a signalling NaN
        want = torch.where(x.isnan(), y, torch.where(y.isnan(), x, want))
    assert_same(combined(op, x, y), want)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_select_and_signs(dtype: torch.dtype) -> None:
    x, y = pairs(dtype)
    third = torch.arange(x.numel()) % 3 == 0
    assert_same(combined("where", x, y), torch.where(third, x, y))
    assert_same(combined("where_less", x, y), torch.where(x < y, x, y))
    assert_same(combined("less_as_number", x, y, FP32), (x < y).float())
    assert_same(combined("abs", x, y), x.abs())
    nonzero = x[x != 0]  # -(+0) is 0 - 0 in some releases
    assert_same(combined("neg", nonzero, nonzero), -nonzero)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_fma_rounds_once(dtype: torch.dtype) -> None:
    x, y = pairs(dtype)
    want = (x.double() * y.double() + x.double()).to(dtype)
    # From float64 torch rounds to float32 first, which moves a tie or two.
    got = combined("fma", x, y).cpu()
    different = (got != want) & ~(got.isnan() & want.isnan())
    assert different.float().mean() < 1e-3


@pytest.mark.parametrize("dtype", FLOAT8, ids=name)
def test_float8_is_moved_and_selected(dtype: torch.dtype) -> None:
    x = every_code(dtype)
    y = x.view(torch.uint8).flip(0).view(dtype)
    third = torch.arange(256) % 3 == 0
    want = torch.where(third, x.view(torch.uint8), y.view(torch.uint8)).view(dtype)
    assert_same(combined("where", x, y), want)
    assert_same(combined("abs", x, y), x.float().abs().to(dtype))


@pytest.mark.parametrize("dtype", [BF16, *FLOAT8], ids=name)
def test_bitcast(dtype: torch.dtype) -> None:
    x = every_code(dtype)
    bits = BITS[dtype.itemsize]
    assert_same(combined("bits", x, x, bits), x.view(bits))
    assert_same(combined("bits", x.view(bits), x, dtype), x)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "lt", "eq", "fmax", "neg"])
@pytest.mark.parametrize("dtype", FLOAT8, ids=name)
@pytest.mark.skipif(not kernels.INTERPRETED, reason="such a kernel does not compile")
def test_float8_arithmetic_is_refused(dtype: torch.dtype, op: str) -> None:
    with pytest.raises(InterpreterError, match="no arithmetic and no comparisons"):
        combined(op, every_code(dtype), every_code(dtype))


@jit
def shapes_kernel(x_ptr, out_ptr, C: tl.constexpr):
    r, c = tl.arange(0, 4), tl.arange(0, C)
    x = tl.trans(tl.load(x_ptr + c[:, None] * 4 + r[None, :]))
    left, right = tl.split(tl.reshape(x, (4, C // 2, 2)))
    x = tl.reshape(tl.join(left, right), (4, C))
    x = tl.gather(x, tl.broadcast_to(C - 1 - c[None, :], (4, C)), axis=1)
    tl.store(out_ptr + r[:, None] * C + c[None, :], x)


@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8], ids=name)
def test_shapes(dtype: torch.dtype) -> None:
    x_CR = (torch.arange(64) - 30.0).to(dtype).reshape(16, 4)
    out_RC = torch.empty(4, 16, dtype=dtype, device=DEVICE)
    shapes_kernel[(1,)](x_CR.to(DEVICE), out_RC, 16)
    want_RC = x_CR.float().T.flip(1).contiguous().to(dtype)
    assert_same(out_RC, want_RC)


# ------------------------------------------------------------ scalar operands


@jit
def scalar_kernel(x_ptr, out_ptr, n, CASE: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    dtype = out_ptr.dtype.element_ty
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    if CASE == "float":
        y = (1.0 - x * 0.1) + 2
    elif CASE == "compare":
        y = tl.where(x < 0.5, x, -1.5)
    elif CASE == "clamp":
        y = tl.clamp(x, -2.0, 3.0)
    elif CASE == "full":
        y = tl.full((BLOCK,), 1.7, dtype)
    elif CASE == "huge":
        y = tl.full((BLOCK,), 1e9, dtype)
    elif CASE == "zeros":
        y = tl.zeros((BLOCK,), dtype)
    elif CASE == "other":
        y = tl.load(x_ptr + at, mask=at % 2 == 0, other=3.3)
    elif CASE == "first":
        y = tl.load(x_ptr) + tl.zeros((BLOCK,), tl.float32)
    tl.store(out_ptr + at, y.to(dtype), mask=at < n)


FLOAT8_CONSTANTS = kernels.INTERPRETED and not triton.__version__.startswith("3.6")
"""Triton 3.6 has none but zero, and compiled only what float8 holds exactly."""


def with_scalar(case: str, x: torch.Tensor) -> torch.Tensor:
    return run(scalar_kernel, torch.empty_like(x), x, CASE=case)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_scalar_operands(dtype: torch.dtype) -> None:
    x = pairs(dtype)[0]
    x = x[~x.isnan()]
    # A scalar operand takes the block's type, so 0.1 is rounded first.
    tenth, half = torch.tensor(0.1, dtype=dtype), torch.tensor(0.5, dtype=dtype)
    if kernels.INTERPRETED or dtype != FP32:
        assert_same(with_scalar("float", x), (1.0 - x * tenth) + 2)
    below = torch.where(x < half, x, torch.tensor(-1.5, dtype=dtype))
    assert_same(with_scalar("compare", x), below)
    assert_same(with_scalar("clamp", x), x.clamp(-2, 3))
    nan = torch.full((4,), torch.nan, dtype=dtype)
    assert_same(with_scalar("clamp", nan), torch.full_like(nan, -2))


@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8], ids=name)
def test_constants(dtype: torch.dtype) -> None:
    x = by_torch(torch.arange(16) - 8.0, dtype)

    def filled(value: float) -> torch.Tensor:
        return by_torch(torch.full((16,), value), dtype)

    if dtype not in FLOAT8 or FLOAT8_CONSTANTS:
        assert_same(with_scalar("full", x), filled(1.7))
        assert_same(with_scalar("huge", x), filled(1e9))
    assert_same(with_scalar("zeros", x), filled(0.0))
    assert_same(with_scalar("first", x.float()).to(dtype), filled(-8.0))
    even = torch.arange(16) % 2 == 0
    want = torch.where(even, x.float(), filled(3.3).float()).to(dtype)
    assert_same(with_scalar("other", x), want)


# ------------------------------------------------------ reductions and scans


@jit
def multiply(a, b):
    return a * b


@jit
def rows_kernel(x_ptr, out_ptr, OP: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    rows, cols = tl.arange(0, R), tl.arange(0, C)
    at = rows[:, None] * C + cols[None, :]
    dtype = out_ptr.dtype.element_ty
    x = tl.load(x_ptr + at)
    if OP == "cumsum":
        tl.store(out_ptr + at, tl.cumsum(x, axis=1).to(dtype))
    elif OP == "cumsum_reverse":
        tl.store(out_ptr + at, tl.cumsum(x, axis=1, reverse=True).to(dtype))
    elif OP == "cumprod":
        tl.store(out_ptr + at, tl.cumprod(x, axis=1).to(dtype))
    elif OP == "scan":
        tl.store(out_ptr + at, tl.associative_scan(x, 1, multiply).to(dtype))
    elif OP == "sort":
        tl.store(out_ptr + at, tl.sort(x, dim=1).to(dtype))
    elif OP == "sum_all":
        tl.store(out_ptr, tl.sum(x).to(dtype))
    else:
        if OP == "sum":
            y = tl.sum(x, axis=1)
        elif OP == "sum_fp32":
            y = tl.sum(x, axis=1, dtype=tl.float32)
        elif OP == "max":
            y = tl.max(x, axis=1)
        elif OP == "min":
            y = tl.min(x, axis=1)
        elif OP == "argmax":
            y = tl.argmax(x, axis=1)
        elif OP == "prod":
            y = tl.reduce(x, 1, multiply)
        tl.store(out_ptr + rows, y.to(dtype))


def over_rows(op: str, x_RC: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    R, C = x_RC.shape
    out = out.to(DEVICE)
    rows_kernel[(1,)](x_RC.contiguous().to(DEVICE), out, op, R, C)
    return out


def eighths(dtype: torch.dtype, R: int = 8, C: int = 512) -> torch.Tensor:
    """Numbers whose sums are exact in float32, in any order."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-12, 16, (R, C), generator=generator) / 8).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_sum(dtype: torch.dtype) -> None:
    x_RC = eighths(dtype)
    got = over_rows("sum", x_RC, torch.empty(8, dtype=dtype)).cpu()
    want = x_RC.double().sum(1)
    if kernels.INTERPRETED and dtype != FP16:
        assert_same(got, want.to(dtype))
    else:  # a GPU rounds at every node of the tree, NumPy's float16 too
        torch.testing.assert_close(got, want.to(dtype), rtol=0.02, atol=0.5)
    assert_same(over_rows("sum_fp32", x_RC, torch.empty(8)), want.float())
    total = over_rows("sum_all", x_RC, torch.empty(1, dtype=dtype)).cpu().double()
    assert (total - want.sum()).abs() <= 0.02 * want.abs().sum()


def test_sum_of_many_ones() -> None:
    ones = torch.ones(2, 1024, dtype=BF16)
    got = over_rows("sum", ones, torch.empty(2, dtype=BF16))
    assert_same(got, torch.full((2,), 1024, dtype=BF16))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_cumsum(dtype: torch.dtype) -> None:
    x_RC = eighths(dtype, C=64)  # short: float16 adds up in float16
    want = x_RC.double().cumsum(1).to(dtype)
    assert_same(over_rows("cumsum", x_RC, torch.empty_like(x_RC)), want)
    want = x_RC.double().flip(1).cumsum(1).flip(1).to(dtype)
    assert_same(over_rows("cumsum_reverse", x_RC, torch.empty_like(x_RC)), want)


@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8], ids=name)
def test_max_and_min_of_rows(dtype: torch.dtype) -> None:
    x = every_code(dtype) if dtype.itemsize < 4 else floats()[: 1 << 16]
    x = x[x.float().isfinite()]
    x_RC = x[: x.numel() // 64 * 64][: 1 << 14].reshape(-1, 64)
    x_RC = x_RC[: 1 << (x_RC.shape[0].bit_length() - 1)]
    out = torch.empty(x_RC.shape[0], dtype=dtype)
    wide = x_RC.float()
    assert torch.equal(over_rows("max", x_RC, out).float().cpu(), wide.amax(1))
    assert torch.equal(over_rows("min", x_RC, out).float().cpu(), wide.amin(1))
    if dtype not in FLOAT8:
        index = over_rows("argmax", x_RC, torch.empty(out.shape, dtype=torch.int32))
        assert_same(index, wide.argmax(1).int())


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_custom_combine_and_sort(dtype: torch.dtype) -> None:
    powers = 2.0 ** torch.tensor(
        [[1, -1, 2, 0, -2, 1, 1, -1], [0, 1, 0, 1, 0, 1, 0, 1]]
    )
    x_RC = (powers * torch.tensor([[-1.0], [1.0]])).to(dtype)
    for op in ("scan", "cumprod"):
        scanned = over_rows(op, x_RC, torch.empty_like(x_RC))
        assert_same(scanned, x_RC.double().cumprod(1).to(dtype))
    product = over_rows("prod", x_RC, torch.empty(2, dtype=dtype))
    assert_same(product, x_RC.double().prod(1).to(dtype))
    assert_same(over_rows("sort", x_RC, torch.empty_like(x_RC)), x_RC.sort(1).values)


@pytest.mark.parametrize("op", ["sum", "cumsum", "cumprod", "scan", "prod"])
@pytest.mark.parametrize("dtype", FLOAT8, ids=name)
@pytest.mark.skipif(not kernels.INTERPRETED, reason="such a kernel does not compile")
def test_float8_reduction_is_refused(dtype: torch.dtype, op: str) -> None:
    x_RC = eighths(FP32, 2, 8).to(dtype)
    with pytest.raises(InterpreterError, match="no arithmetic and no comparisons"):
        over_rows(op, x_RC, torch.empty_like(x_RC))


# ----------------------------------------------------------------------- dot


@jit
def dot_kernel(
    a_ptr, b_ptr, out_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr
):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    a_MK = tl.load(a_ptr + m[:, None] * K + k[None, :])
    b_KN = tl.load(b_ptr + k[:, None] * N + n[None, :])
    acc_MN = tl.full((M, N), 1.0, tl.float32)
    acc_MN = tl.dot(a_MK, b_KN, acc_MN, input_precision="ieee")
    tl.store(out_ptr + m[:, None] * N + n[None, :], acc_MN)


def dotted(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    (M, K), N = a_MK.shape, b_KN.shape[1]
    out = torch.empty(M, N, device=DEVICE)
    dot_kernel[(1,)](a_MK.to(DEVICE), b_KN.to(DEVICE), out, M, N, K)
    return out.cpu()


@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8], ids=name)
def test_dot(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    a_MK = torch.randn(32, 64, generator=generator).to(dtype)
    b_KN = torch.randn(64, 16, generator=generator).to(dtype)
    want = a_MK.double() @ b_KN.double() + 1
    bound = 64 * 2.0**-24 * (a_MK.double().abs() @ b_KN.double().abs() + 1)
    if not kernels.INTERPRETED and dtype in FLOAT8:
        bound *= 2**11  # Hopper adds float8 products with about 14 bits
    assert ((dotted(a_MK, b_KN).double() - want).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [BF16, *FLOAT8], ids=name)
def test_dot_keeps_nan_and_infinity(dtype: torch.dtype) -> None:
    a_MK, b_KN = torch.ones(32, 32, dtype=dtype), torch.ones(32, 16, dtype=dtype)
    a_MK[3, 5] = torch.nan
    if dtype != E4M3:  # which has no infinity
        a_MK[4, 5] = torch.inf
    want = a_MK.float() @ b_KN.float() + 1
    assert_same(dotted(a_MK, b_KN), want)


@jit
def scaled_kernel(a_ptr, b_ptr, scale_ptr, out_ptr, FORMAT: tl.constexpr):
    m, n, k = tl.arange(0, 32), tl.arange(0, 32), tl.arange(0, 64)
    a_MK = tl.load(a_ptr + m[:, None] * 64 + k[None, :])
    b_KN = tl.load(b_ptr + k[:, None] * 32 + n[None, :])
    scale_MG = tl.load(scale_ptr + m[:, None] * 2 + tl.arange(0, 2)[None, :])
    out_MN = tl.dot_scaled(a_MK, scale_MG, FORMAT, b_KN, None, "bf16")
    tl.store(out_ptr + m[:, None] * 32 + n[None, :], out_MN)


SCALED_FORMATS = {BF16: "bf16", E4M3: "e4m3", E5M2: "e5m2"}


@pytest.mark.parametrize("dtype", SCALED_FORMATS, ids=name)
def test_dot_scaled(dtype: torch.dtype) -> None:
    if kernels.INTERPRETED:
        from triton.runtime.interpreter import InterpreterBuilder

        if not hasattr(InterpreterBuilder, "create_dot_scaled"):
            pytest.skip("this Triton does not interpret tl.dot_scaled")
    generator = torch.Generator().manual_seed(0)
    a_MK = torch.randn(32, 64, generator=generator).to(dtype)
    b_KN = (torch.randn(64, 32, generator=generator) * 1e6).to(BF16)
    exponents = torch.randint(-3, 4, (32, 2), generator=generator)
    if dtype == BF16:  # has no scale of its own
        exponents.zero_()
    a_scaled = a_MK.double() * (2.0**exponents).repeat_interleave(32, 1)
    out = torch.empty(32, 32, device=DEVICE)
    scale = (exponents + 127).to(torch.uint8)
    args = [t.to(DEVICE) for t in (a_MK, b_KN, scale)]
    scaled_kernel[(1,)](*args, out, SCALED_FORMATS[dtype])
    want = a_scaled @ b_KN.double()
    bound = 1e-5 * (a_scaled.abs() @ b_KN.double().abs())
    assert ((out.cpu().double() - want).abs() <= bound).all()


# ------------------------------------------- atomics, descriptors and loops


@jit
def atomic_kernel(to_ptr, where_ptr, x_ptr, old_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    old = tl.atomic_add(to_ptr + tl.load(where_ptr + at), x, mask=at != 2)
    tl.store(old_ptr + at, old, mask=at != 2)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_atomic_add(dtype: torch.dtype) -> None:
    """Two elements share an address; one is masked out."""
    where = torch.tensor([0, 1, 1, 3, 3, 2, 0, 0], dtype=torch.int32, device=DEVICE)
    x = torch.tensor([1.5, 2, 64, 4, 8, 0.25, 32, -1], dtype=dtype, device=DEVICE)
    to = torch.full((4,), 10.0, dtype=dtype, device=DEVICE)
    old = torch.zeros(8, dtype=dtype, device=DEVICE)
    atomic_kernel[(1,)](to, where, x, old, 8)
    assert_same(to, torch.tensor([42.5, 12, 10.25, 22], dtype=dtype))
    if kernels.INTERPRETED:  # in order
        seen = torch.tensor([10, 10, 0, 10, 14, 10, 11.5, 43.5], dtype=dtype)
        assert_same(old, seen)


@jit
def swap_kernel(to_ptr, old_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    dtype = to_ptr.dtype.element_ty
    expected = tl.full((BLOCK,), 2.0, dtype)
    old = tl.atomic_cas(to_ptr + at, expected, tl.full((BLOCK,), 5.5, dtype))
    tl.store(old_ptr + at, old)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_atomic_cas(dtype: torch.dtype) -> None:
    to = torch.tensor([1.0, 2.0, -3.0, 2.0], dtype=dtype, device=DEVICE)
    before, old = to.clone(), torch.zeros_like(to)
    swap_kernel[(1,)](to, old, 4)
    assert_same(old, before)
    assert_same(to, torch.tensor([1.0, 5.5, -3.0, 5.5], dtype=dtype))


@jit
def descriptor_kernel(x_ptr, out_ptr, rows, cols, BR: tl.constexpr, BC: tl.constexpr):
    x = tl.make_tensor_descriptor(x_ptr, [rows, cols], [cols, 1], [BR, BC])
    out = tl.make_tensor_descriptor(out_ptr, [rows, cols], [cols, 1], [BR, BC])
    row = tl.program_id(0) * BR
    out.store([row, 0], x.load([row, 0]))


@pytest.mark.skipif(not kernels.INTERPRETED, reason="needs an allocator on a GPU")
@pytest.mark.parametrize("dtype", [*FLOATS, *FLOAT8], ids=name)
def test_tensor_descriptors(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x_RC = torch.randn(11, 16, generator=generator).to(dtype)
    out_RC = torch.zeros(11, 16).to(dtype)
    descriptor_kernel[(3,)](x_RC, out_RC, 11, 16, 4, 16)
    assert_same(out_RC, x_RC)


@jit
def loop_kernel(out_ptr, n):
    total = tl.zeros((1,), tl.int32)
    for i in range(tl.program_id(0), n, tl.num_programs(0)):
        total += i
    tl.store(out_ptr + tl.arange(0, 1), total)


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_loop_over_an_argument() -> None:
    out = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    loop_kernel[(1,)](out, 5)
    assert out.item() == 10

"""Into the 8-bit formats and out of them: what ml_dtypes says, bit for bit.

ml_dtypes gives NaN or infinity beyond the largest value; there the answer is by hand.
"""

import pytest
import torch

import kernels
from kernels.float8 import E4M3, E5M2, cast, decode, encode, steps_apart
from kernels.language import cdiv, jit, tl
from tests.kernels.harness import DEVICE, needs_a_kernel

ml_dtypes = pytest.importorskip("ml_dtypes")
TYPES = {E4M3: ml_dtypes.float8_e4m3fn, E5M2: ml_dtypes.float8_e5m2}
BLOCK = 1 << 20 if kernels.INTERPRETED else 1024

both_formats = pytest.mark.parametrize("fmt", TYPES, ids=["E4M3", "E5M2"])


def every_code():
    return torch.arange(256, dtype=torch.uint8)


def values(fmt):
    """A million numbers of every size in range, all ties and what lies beside them,
    and what is out of range."""
    generator = torch.Generator().manual_seed(0)
    low = round(torch.tensor(fmt.smallest).log2().item()) - 3
    high = round(torch.tensor(fmt.largest).log2().item()) + 3
    exponent = torch.randint(low, high, (10**6,), generator=generator)
    some = torch.randn(10**6, generator=generator) * 2.0**exponent
    number = decode(every_code(), fmt)
    number = number[number.isfinite()].sort().values
    tie = (number[1:] + number[:-1]) / 2
    inf = torch.tensor(torch.inf)
    beside = [torch.nextafter(tie, inf), torch.nextafter(tie, -inf)]
    beyond = torch.tensor([1.01, 1.04, 1.1, 2.0, 1e30]) * fmt.largest
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45])
    return torch.cat([some, number, tie, *beside, beyond, -beyond, special])


def saturated(x, fmt):
    """By ml_dtypes, of the largest value for what is beyond; codes, as bytes."""
    beyond = x.abs() > fmt.largest
    within = torch.where(beyond, fmt.largest, x)
    code = torch.from_numpy(within.numpy().astype(TYPES[fmt]).view("uint8").copy())
    return torch.where(beyond & (x < 0), code | 0x80, code)


def assert_same_codes(found, wanted, fmt):
    """As bytes; one NaN is as good as another."""
    nan = decode(wanted, fmt).isnan()
    assert torch.equal(decode(found, fmt).isnan(), nan)
    wrong = (found != wanted) & ~nan
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} codes are wrong"


@both_formats
def test_every_code_is_decoded_as_ml_dtypes_does(fmt):
    wanted = torch.from_numpy(every_code().numpy().view(TYPES[fmt]).astype("float32"))
    found = decode(every_code(), fmt)
    assert torch.equal(found.isnan(), wanted.isnan())
    number = ~wanted.isnan()
    bits = [x[number].view(torch.int32) for x in (found, wanted)]  # -0 is not +0
    assert torch.equal(*bits)


@both_formats
def test_every_code_comes_back(fmt):
    """E5M2's infinities as the largest value, whose code is the one before."""
    code = every_code()
    value = decode(code, fmt)
    assert_same_codes(encode(value, fmt), code - value.isinf().to(code.dtype), fmt)


@both_formats
@pytest.mark.parametrize("way", [cast, encode])
def test_a_million_numbers_are_rounded_as_ml_dtypes_does(fmt, way):
    x = values(fmt)
    assert_same_codes(way(x, fmt).view(torch.uint8), saturated(x, fmt), fmt)


@jit
def to_float8_kernel(x_ptr, q_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + n, mask=n < N, other=0.0)
    tl.store(q_ptr + n, x.to(q_ptr.dtype.element_ty), mask=n < N)


@needs_a_kernel
@both_formats
def test_so_does_a_kernel(fmt):
    x = values(fmt)
    q = torch.empty(x.shape, dtype=fmt.dtype, device=DEVICE)
    to_float8_kernel[(cdiv(len(x), BLOCK),)](x.to(DEVICE), q, len(x), BLOCK=BLOCK)
    assert_same_codes(q.cpu().view(torch.uint8), saturated(x, fmt), fmt)


@both_formats
def test_other_dtypes_go_by_way_of_float32(fmt):
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        codes = cast(x.to(dtype).T, fmt).view(torch.uint8)  # of any strides
        assert torch.equal(codes, encode(x.to(dtype).T, fmt))
        assert torch.equal(codes, cast(x.to(dtype).float().T, fmt).view(torch.uint8))


@both_formats
def test_the_formats_limits(fmt):
    info = torch.finfo(fmt.dtype)
    assert (fmt.largest, fmt.smallest_normal) == (info.max, info.smallest_normal)
    assert decode(torch.tensor([1], dtype=torch.uint8), fmt) == fmt.smallest
    at_half, above = fmt.smallest / 2, fmt.smallest * 0.51
    assert cast(torch.tensor([at_half, above]), fmt).float().tolist() == [
        0,
        fmt.smallest,
    ]


def test_by_hand():
    """0 0111 101 is 2^0 (1 + 5/8); 0 0000 011 is 3 2^-9; 1 00010 10 is -2^-13 1.5."""
    code = torch.tensor([0b0_0111_101, 0b0_0000_011, 0b0_1111_110], dtype=torch.uint8)
    assert decode(code).tolist() == [1.625, 3 * 2.0**-9, 448]
    code = torch.tensor([0b1_00010_10, 0b0_11111_00], dtype=torch.uint8)
    assert decode(code, E5M2).tolist() == [-1.5 * 2.0**-13, torch.inf]


def test_steps_from_code_to_code():
    q = torch.tensor([1.0, 1.0, 0.0, 2.0**-9, 448, torch.nan, torch.nan])
    other = torch.tensor([1.0, 1.25, -0.0, -(2.0**-9), -448, torch.nan, 1])
    steps = steps_apart(cast(q), cast(other))
    assert steps.tolist() == [0, 2, 0, 2, 2 * 126, 0, 256]

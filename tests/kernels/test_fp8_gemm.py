"""The FP8 product: scales where they belong, edges, layouts, NaN, and mistakes."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

import kernels
from kernels import fp8_gemm as module
from kernels.float8 import E4M3, E5M2, Float8
from kernels.fp8_gemm import (
    BLOCKS,
    TILES,
    fp8_gemm,
    fp8_gemm_cost,
    fp8_gemm_reference,
)
from kernels.fp8_scaling import Tile, quantise_reference
from kernels.operation import Cost
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.fp8_product_cases import calc_diff, quantised
from tests.kernels.guarded_memory import GuardedMemory
from tests.kernels.harness import (
    COMPILED,
    DEVICE,
    INTERPRET,
    BadCall,
    Recorder,
    assert_close,
    check_bad_calls,
    declared,
    needs_a_kernel,
)

SUM_ERROR = 2**-9 if COMPILED else 1e-5
"""What the sum may be off by, of the sum of its terms' sizes: float32's rounding where
it is interpreted, a tensor core's 14 bits where it is compiled."""

KINDS = {"blocks": BLOCKS, "tiles": TILES}


@dataclass(frozen=True)
class Product:
    """One product. `str` of it is the test's id."""

    M: int
    N: int
    K: int
    tile: Tile = BLOCKS
    dtype: torch.dtype = torch.float32
    a_format: Float8 = E4M3
    b_format: Float8 = E4M3
    layout: str = "contiguous"
    scale_layout: str = "contiguous"

    def __str__(self) -> str:
        (kind,) = [name for name, tile in KINDS.items() if tile == self.tile]
        parts = [f"{self.M}x{self.N}x{self.K}", kind, str(self.dtype)[6:]]
        if (self.a_format, self.b_format) != (E4M3, E4M3):
            parts += [f"{self.a_format.name} by {self.b_format.name}"]
        for name in (self.layout, self.scale_layout):
            parts += [name] * (name != "contiguous")
        return " ".join(parts)


ODD = Product(131, 141, 301)
LAID_OUT = Product(5, 140, 270, BLOCKS)
PRODUCTS = [
    ODD,
    replace(ODD, tile=TILES),
    replace(ODD, dtype=torch.bfloat16),
    replace(ODD, dtype=torch.float16, tile=TILES),
    Product(128, 256, 256, BLOCKS),  # whole tiles only
    Product(1, 1, 1, BLOCKS),
    Product(1, 300, 129, TILES, torch.bfloat16),  # one row
    Product(1100, 130, 3, TILES),  # more blocks of rows than a group
    Product(0, 3, 5, BLOCKS),
    Product(3, 0, 5, TILES),
    replace(LAID_OUT, a_format=E5M2),
    replace(LAID_OUT, b_format=E5M2, tile=TILES),
    *(replace(LAID_OUT, scale_layout="transposed", tile=t) for t in KINDS.values()),
    replace(LAID_OUT, layout="rows apart", scale_layout="every second"),
    replace(LAID_OUT, layout="transposed"),  # copied
    replace(LAID_OUT, layout="misaligned", scale_layout="rows apart", tile=TILES),
]


def operands(product, memory):
    """a, a_scale, b and b_scale in guarded memory."""
    a = quantised(product.M, product.K, TILES, 1, product.a_format)
    b = quantised(product.N, product.K, product.tile, 2, product.b_format)
    placed = []
    for name, (codes, scale) in {"a": a, "b": b}.items():
        placed.append(memory.place(name, codes.to(DEVICE), product.layout))
        placed.append(
            memory.place(f"{name}_scale", scale.to(DEVICE), product.scale_layout)
        )
    return placed


def check_product(product, function=fp8_gemm):
    """The function gives the exact product of what the codes stand for, rounded, and
    touches nothing else."""
    memory = GuardedMemory()
    given = operands(product, memory)
    before = [x.clone() for x in given]
    with memory:
        c = function(*given, product.dtype, interpret=INTERPRET)
    memory.check()
    for x, kept in zip(given, before, strict=True):
        assert torch.equal(x.float(), kept.float()), "an input was changed"
    a, a_scale, b, b_scale = given
    exact = fp8_gemm_reference(*given, torch.float64)
    sizes = (a.float().abs(), a_scale, b.float().abs(), b_scale)
    slack = SUM_ERROR * fp8_gemm_reference(*sizes, torch.float64)
    shape = (product.M, product.N)
    assert_close("c", c, exact, Case(shape, product.dtype), slack)


@needs_a_kernel
@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_values(product):
    check_product(product)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_says_what_the_equation_says(kind):
    """An element at a time, in Python's own numbers."""
    a, a_scale = quantised(3, 130, TILES, 1)
    b, b_scale = quantised(131, 130, KINDS[kind], 2)
    c = fp8_gemm_reference(a, a_scale, b, b_scale, torch.float64)
    for m, n in [(0, 0), (2, 127), (1, 128), (2, 130)]:
        row = n // 128 if kind == "blocks" else n
        total = 0.0
        for k in range(130):
            s, t = a_scale[m, k // 128].item(), b_scale[row, k // 128].item()
            total += s * a[m, k].item() * t * b[n, k].item()
        assert c[m, n].item() == pytest.approx(total, rel=1e-12)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
@pytest.mark.parametrize("tile", KINDS.values(), ids=KINDS)
def test_quantising_costs_little_and_the_product_almost_nothing(tile, interpret):
    """How DeepSeek's libraries judge a product of normal numbers: 1e-3 from the
    numbers, and from the codes no more than rounding c."""
    generator = torch.Generator().manual_seed(0)
    x_MK = torch.randn(160, 512, generator=generator).to(DEVICE)
    w_NK = torch.randn(192, 512, generator=generator).to(DEVICE)
    given = (*quantise_reference(x_MK, TILES), *quantise_reference(w_NK, tile))
    c = fp8_gemm(*given, interpret=interpret)
    assert c.dtype == torch.bfloat16
    assert calc_diff(c, fp8_gemm_reference(*given, torch.float64)) < 1e-5
    exact = x_MK.double() @ w_NK.double().T
    assert 1e-4 < calc_diff(c, exact) < 1e-3


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # 0 times infinity
@pytest.mark.parametrize("interpret", [INTERPRET, None])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "operand, tile, rows, columns",
    [
        ("a", BLOCKS, [4], range(150)),  # its row of c
        ("b", BLOCKS, range(9), range(128, 150)),  # its block's columns
        ("b", TILES, range(9), [130]),  # its column
    ],
)
def test_a_number_that_is_none_shows(operand, tile, rows, columns, bad, interpret):
    """In all that its tile reaches, and nowhere else."""
    generator = torch.Generator().manual_seed(0)
    x_MK = torch.randn(9, 200, generator=generator)
    w_NK = torch.randn(150, 200, generator=generator)
    if operand == "a":
        x_MK[4, 140] = bad
    else:
        w_NK[130, 140] = bad
    x, w = quantise_reference(x_MK, TILES), quantise_reference(w_NK, tile)
    c = fp8_gemm(*(each.to(DEVICE) for each in (*x, *w)), interpret=interpret)
    wanted = torch.zeros(9, 150, dtype=torch.bool)
    wanted[torch.tensor([*rows])[:, None], torch.tensor([*columns])] = True
    assert torch.equal(c.isnan().cpu(), wanted)
    assert c.cpu()[~wanted].isfinite().all()


@needs_a_kernel
@pytest.mark.parametrize("interpret", [INTERPRET, None])
def test_scales_that_need_a_gradient_get_none_by_either_way(interpret):
    a, a_scale, b, b_scale = operands(LAID_OUT, GuardedMemory())
    c = fp8_gemm(a, a_scale.requires_grad_(), b, b_scale, interpret=interpret)
    assert not c.requires_grad


def refused(sentence, **changes):
    """A call on right operands, but for those that are named."""
    a, a_scale = quantised(3, 140, TILES, 1)
    b, b_scale = quantised(150, 140, BLOCKS, 2)
    right = {"a": a, "a_scale": a_scale, "b": b, "b_scale": b_scale}
    return BadCall(lambda: fp8_gemm(**{**right, **changes}), f"fp8_gemm: {sentence}")


A = quantised(3, 140, TILES, 1)[0]
B_SCALE = torch.ones(2, 2)


BAD_CALLS = [
    refused("a must be a torch.Tensor; got str.", a="a"),
    refused("a must be float8_e4m3fn or float8_e5m2; got float32.", a=A.float()),
    refused(
        "b must have two axes, rows and columns; got shape (1, 3, 140).", b=A[None]
    ),
    refused(
        "a and b must have equally many columns, at least 1; got shapes (3, 139) and "
        "(150, 140).",
        a=A[:, :139],
    ),
    refused(
        "a and b must have equally many columns, at least 1; got shapes (3, 0) and "
        "(4, 0).",
        a=A[:, :0],
        b=A.new_empty(4, 0),
    ),
    refused("b must be on a's device, cpu; got meta.", b=A.to("meta")),
    refused(
        "a_scale must have shape (3, 2) for codes of shape (3, 140) in tiles of 1 x "
        "128; got (2, 3).",
        a_scale=torch.ones(2, 3),
    ),
    refused("b_scale must be a torch.Tensor; got float.", b_scale=1.0),
    refused(
        "b_scale must have shape (2, 2), one for each block of 128 x 128, or (150, 2), "
        "one for each 1 x 128, for b of shape (150, 140); got (3, 2).",
        b_scale=torch.ones(3, 2),
    ),
    refused("b_scale must be float32; got float64.", b_scale=B_SCALE.double()),
    refused(
        "b_scale must be on the codes' device, cpu; got meta.",
        b_scale=B_SCALE.to("meta"),
    ),
    refused(
        "dtype must be torch.float32, bfloat16 or float16; got float64 "
        "(fp8_gemm_reference takes float64 too).",
        dtype=torch.float64,
    ),
]


def test_bad_input():
    check_bad_calls(SimpleNamespace(bad_calls=BAD_CALLS))


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = set()
    recorder = Recorder("fp8_gemm_kernel", launches)
    monkeypatch.setattr(module, "fp8_gemm_kernel", recorder)
    # No configuration depends on the size.
    small = Product(2, 2, 2)
    for tile, dtype in [
        (BLOCKS, torch.bfloat16),
        (TILES, torch.bfloat16),
        (TILES, torch.float32),
    ]:
        given = operands(replace(small, tile=tile), GuardedMemory())
        fp8_gemm(*given, dtype, interpret=INTERPRET)
    assert launches == declared(module.SPECS)


def test_the_costs_by_hand():
    """a (2, 130), b (300, 130): J = 2 tiles along K, I = 3 blocks along N."""
    shape, flops = (2, 300, 130), 2 * 2 * 300 * 130 + 2 * 2 * 300 * 2
    codes = 2 * 130 + 300 * 130
    blocks = Cost(codes + 2 * 600 + 4 * (2 * 2 + 3 * 2), flops)
    assert fp8_gemm_cost(*shape, torch.bfloat16, BLOCKS) == blocks
    tiles = Cost(codes + 4 * 600 + 4 * (2 * 2 + 300 * 2), flops)
    assert fp8_gemm_cost(*shape, torch.float32, TILES) == tiles


DEEP = Product(3, 130, 300, BLOCKS)
BY_BLOCK = """            c += tl.dot(a, b) * (a_scale * tl.load(b_scale_at))[:, None]
        else:
            b_scale_at += n * b_scale_stride_n
            b_scale = tl.load(b_scale_at, mask=is_column, other=0.0)
            c += tl.dot(a, b) * a_scale[:, None] * b_scale[None, :]
"""
AFTER_THE_LOOP = """            b_scale = tl.load(b_scale_at)
        c += tl.dot(a, b)
    c *= (a_scale * b_scale)[:, None]
"""
MISTAKES = {
    "the scale of a is that of the first tile": (
        "m * a_scale_stride_m + j * a_scale_stride_j",
        "m * a_scale_stride_m",
        DEEP,
        "c is wrong",
    ),
    "the scale of b is that of the next tile": (
        "b_scale_ptr + j * b_scale_stride_j",
        "b_scale_ptr + (j + 1) % tl.cdiv(K, TILE) * b_scale_stride_j",
        DEEP,
        "c is wrong",
    ),
    "the scale of a block is looked up by row": (
        "(start_n // TILE if B_IN_BLOCKS else start_n)",
        "start_n",
        DEEP,
        "c is wrong",
    ),
    "scales wait for the end of the loop": (
        BY_BLOCK,
        AFTER_THE_LOOP,
        DEEP,
        "c is wrong",
    ),
    "sums are rounded from tile to tile": (
        "c += tl.dot(a, b) * (a_scale * tl.load(b_scale_at))[:, None]",
        "c += tl.dot(a, b) * (a_scale * tl.load(b_scale_at))[:, None]\n"
        "            c = c.to(tl.float16).to(tl.float32)",
        DEEP,
        "c is wrong",
    ),
    "b is read beyond K": (
        "in_b = (k < K)[:, None] & is_column[None, :]",
        "in_b = (k < K + 1)[:, None] & is_column[None, :]",
        DEEP,
        "c is wrong",
    ),
    "c is written beyond N": (
        "in_c = is_row[:, None] & is_column[None, :]",
        "in_c = is_row[:, None] & (n < N)[None, :]",
        DEEP,
        "c is wrong|outside",
    ),
    "blocks down and across change places": (
        "tl.swizzle2d(down, across,",
        "tl.swizzle2d(across, down,",
        Product(3, 300, 5),
        "c was never written",
    ),
}  # fmt: skip


@pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)
@pytest.mark.parametrize("name", MISTAKES)
def test_this_mistake_is_caught(name, tmp_path):
    old, new, product, says = MISTAKES[name]
    check_product(product)
    wrong = changed_module(module, old, new, tmp_path)
    with pytest.raises(AssertionError, match=says):
        check_product(product, wrong.fp8_gemm)

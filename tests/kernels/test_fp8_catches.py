"""Mistakes in the quantisers, each one replacement in their source, are caught."""

import dataclasses
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import kernels
from kernels import fp8_cast, fp8_tiles
from kernels.float8 import E4M3
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.fp8_cases import assert_same_bits, special
from tests.kernels.harness_mixed import MixedOperation, check_values
from tests.kernels.test_fp8_blocks import blocks
from tests.kernels.test_fp8_both import both
from tests.kernels.test_fp8_dequantise import dequantise
from tests.kernels.test_fp8_swiglu import check_nearly, swiglu
from tests.kernels.test_fp8_tiles import tiles

pytestmark = [
    pytest.mark.skipif(
        not kernels.INTERPRETED,
        reason="wrong kernels run interpreted: on a GPU they could damage the rest",
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]


def in_blocks(module):
    return dequantise((128, 128), module=module)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`old`, which stands once in the operation's module, becomes `new`."""

    operation: Callable[..., MixedOperation]
    module: ModuleType
    old: str
    new: str
    says: str
    check: Callable[[MixedOperation, Case], None] = check_values


def mistake(operation, old, new, says, check=check_values):
    right = dequantise() if operation is in_blocks else operation()
    return Mistake(operation, right.module, old, new, says, check)


EDGES = Case((130, 150), torch.float32)
"""Four blocks of 128 x 128, all but one cut short; the second row is all 0."""

MISTAKES = {
    "infinity stands where there is no number": mistake(
        tiles, "other=0.0", 'other=float("inf")', "output 0 is wrong"
    ),
    "the scale is upside down": mistake(
        tiles, "tl.div_rn(amax, LARGEST)", "LARGEST / amax", "output 0 is wrong"
    ),
    "the largest is not the largest size": mistake(
        tiles, "size = tl.abs(x)", "size = x", "output 0 is wrong"
    ),
    "the scale of zeros is 0": mistake(
        tiles,
        "tl.maximum(tl.div_rn(amax, LARGEST), 2.0**-126)",
        "tl.div_rn(amax, LARGEST)",
        "output 0 is wrong",
    ),
    "each row has one scale": mistake(
        tiles,
        "scale_ptr + j * M + m",
        "scale_ptr + m",
        "output 1 was never written",
    ),
    "scales lie the other way": mistake(
        tiles,
        "scale_ptr + j * M + m",
        "scale_ptr + m * tiles + j",
        "output 1 is wrong",
    ),
    "scales beyond the last row are written": mistake(
        tiles, "scale, mask=m < M", "scale", "wrote .* outside a torch.empty"
    ),
    "columns are divided by the rows' scales": mistake(
        both, "codes_of(x, scalet[None, :]", "codes_of(x, scale[:, None]", "output 2"
    ),
    "columns are numbered as tiles": mistake(
        both, "scalet_ptr + i * K + k", "scalet_ptr + i + k", "output 3 was never"
    ),
    "blocks are numbered down the columns": mistake(
        blocks,
        "scale_ptr + tl.program_id(0)",
        "scale_ptr + j * tl.cdiv(N, TILE) + i",
        "output 1 is wrong",
    ),
    "the transpose is none": mistake(
        blocks, "k[None, :] * N + n[:, None]", "n[:, None] * K + k[None, :]", "output 2"
    ),
    "gate and up are swapped": mistake(
        swiglu,
        "gate / (1.0 + tl.exp(-gate)) * up",
        "up / (1.0 + tl.exp(-up)) * gate",
        "Tensor-likes are not close",
        check_nearly,
    ),
    "each row has a scale of its own where 128 share one": mistake(
        in_blocks, "i = m // ROWS", "i = m", "output 0 is wrong"
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_harness_fails_this_mistake(name, tmp_path):
    mistake = MISTAKES[name]
    mistake.check(mistake.operation(module=mistake.module), EDGES)
    wrong = changed_module(mistake.module, mistake.old, mistake.new, tmp_path)
    with pytest.raises(AssertionError, match=mistake.says):
        mistake.check(mistake.operation(module=wrong), EDGES)


SPECIAL_MISTAKES = {
    "NaN is lost in the maximum": (
        fp8_tiles,
        'tl.where(size < float("inf"), size, float("inf"))',
        "size",
        "output 0 is wrong in 127",
    ),
    "a clamp makes NaN a number": (
        fp8_cast,
        ", propagate_nan=tl.PropagateNan.ALL",
        "",
        "output 0 has other NaN",
    ),
    "scales are rounded down to powers of two": (
        fp8_cast,
        "(bits & 0x7FFFFF) != 0",
        "(bits & 0x7FFFFF) < 0",
        "output 0 is wrong",
    ),
    "a power of two is rounded up to the next": (
        fp8_cast,
        "(bits & 0x7FFFFF) != 0",
        "(bits & 0x7FFFFF) >= 0",
        "output 0 has other NaN",  # infinity has no next power
    ),
}


@pytest.mark.parametrize("name", SPECIAL_MISTAKES)
def test_the_special_matrix_fails_this_mistake(name, tmp_path, monkeypatch):
    module, old, new, says = SPECIAL_MISTAKES[name]
    x = special(E4M3)
    wanted = fp8_tiles.fp8_tiles_reference(x, E4M3, True)
    wrong = changed_module(module, old, new, tmp_path)
    if module is fp8_cast:
        for part in ("round_up_to_power_of_two", "codes_of"):
            monkeypatch.setattr(fp8_tiles, part, getattr(wrong, part))
        wrong = fp8_tiles
    found = wrong.fp8_tiles(x, E4M3, True, interpret=True)
    with pytest.raises(AssertionError, match=says):
        assert_same_bits(found, wanted)

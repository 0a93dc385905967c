"""Mistakes in the mHC kernels, each one replacement in their source, are caught.

Each entry of MISTAKES changes one piece of a right module's text. The harness must
fail the changed module, in the words that tell a reader why.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kernels
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.harness_mixed import MixedOperation, check_gradients, check_values
from tests.kernels.test_mhc_post import POST_APPLY
from tests.kernels.test_mhc_pre import PRE_APPLY
from tests.kernels.test_mhc_project import PROJECTION

pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="needs no GPU")

WIDE = Case((5, 4, 300), torch.float32)
MANY = Case((70, 2, 9), torch.float32)
HALVES = Case((2, 4, 33), torch.bfloat16)
APART = Case((5, 4, 33), torch.float32, layout="rows apart")
DY_APART = Case((5, 4, 33), torch.float32, dy_layout="rows apart")


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`old`, which stands once in the operation's module, becomes `new`."""

    operation: MixedOperation
    old: str
    new: str
    check: Callable[[MixedOperation, Case], None]
    case: Case
    says: str


MISTAKES = {
    "the forward takes res transposed": Mistake(
        POST_APPLY,
        "(i * n + j) * res_stride + m  # row i, column j",
        "(j * n + i) * res_stride + m",
        check_values,
        WIDE,
        "output 0 is wrong",
    ),
    "the backward takes res transposed": Mistake(
        POST_APPLY,
        "(i * n + j) * res_stride + m\n",
        "(j * n + i) * res_stride + m\n",
        check_gradients,
        WIDE,
        "gradient of input 0 is wrong",
    ),
    "dres is transposed": Mistake(
        POST_APPLY,
        "pair == i * n + j",
        "pair == j * n + i",
        check_gradients,
        WIDE,
        "gradient of input 3 is wrong",
    ),
    "dpost is overwritten rather than summed": Mistake(
        POST_APPLY,
        "dpost += tl.where(column == i,",
        "dpost = tl.where(column == i,",
        check_gradients,
        WIDE,
        "gradient of input 2 is wrong",
    ),
    "the streams that arrive are taken to be packed": Mistake(
        POST_APPLY,
        "dy_ptr + m[:, None] * dy_stride_m",
        "dy_ptr + m[:, None] * (n * C)",
        check_gradients,
        DY_APART,
        "gradient of input 0 is wrong",
    ),
    "the store has no mask": Mistake(
        PRE_APPLY,
        "c[None, :], u, mask=inside)",
        "c[None, :], u)",
        check_values,
        WIDE,
        "outside a torch.new_empty",
    ),
    "coefficients are rounded to the streams' dtype": Mistake(
        PRE_APPLY,
        "u += pre[:, None] * x",
        "u += pre[:, None].to(x_ptr.dtype.element_ty) * x",
        check_values,
        HALVES,
        "output 0 is wrong",
    ),
    "tokens of a coefficient are taken to be a row apart": Mistake(
        PRE_APPLY,
        "pre += (tl.load(pre_ptr + j * pre_stride + m",
        "pre += (tl.load(pre_ptr + j * M + m",
        check_gradients,
        APART,
        "gradient of input 0 is wrong",
    ),
    "the last block of tokens is nobody's": Mistake(
        PROJECTION,
        "range(s * BLOCK_M, M,",
        "range(s * BLOCK_M, M - BLOCK_M,",
        check_gradients,
        MANY,
        "gradient of input 0 was never written",
    ),
    "all programs write the same share": Mistake(
        PROJECTION,
        "partial_ptr + (s * P",
        "partial_ptr + (0 * P",
        check_gradients,
        MANY,
        "gradient of input 1 was never written",
    ),
    "the norm has no gradient": Mistake(
        PROJECTION,
        "along_x[:, None] * x",
        "0 * x",
        check_gradients,
        WIDE,
        "gradient of input 0 is wrong",
    ),
    "the row of x goes on into the next": Mistake(
        PROJECTION,
        "in_x = is_token[:, None] & (k < K)[None, :]",
        "in_x = is_token[:, None] & (k < 2 * K)[None, :]",
        check_values,
        WIDE,
        "output 0 is wrong",
    ),
}


def changed(mistake: Mistake, folder: Path) -> MixedOperation:
    """The operation as its changed source defines it."""
    right = mistake.operation
    module = changed_module(right.module, mistake.old, mistake.new, folder)
    function = getattr(module, right.function.__name__)
    return dataclasses.replace(right, module=module, function=function)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_harness_fails_this_mistake(name, tmp_path):
    mistake = MISTAKES[name]
    mistake.check(mistake.operation, mistake.case)
    with pytest.raises(AssertionError, match=mistake.says):
        mistake.check(changed(mistake, tmp_path), mistake.case)

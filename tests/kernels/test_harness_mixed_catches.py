"""Mistakes in kernels, each one replacement in their source, are caught.

Each entry of MISTAKES changes one piece of a right module's text. The harness must
fail the changed module, in the words that tell a reader why.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kernels
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.harness_mixed import MixedOperation, check_gradients, check_values
from tests.kernels.test_grouped_gemm import GROUPED
from tests.kernels.test_mhc_post import POST_APPLY
from tests.kernels.test_mhc_pre import PRE_APPLY
from tests.kernels.test_mhc_project import PROJECTION
from tests.kernels.test_moe_up import UP

pytestmark = pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)

WIDE = Case((5, 4, 300), torch.float32)
MANY = Case((70, 2, 9), torch.float32)
HALVES = Case((2, 4, 33), torch.bfloat16)
APART = Case((5, 4, 33), torch.float32, layout="rows apart")
DY_APART = Case((5, 4, 33), torch.float32, dy_layout="rows apart")

ALL_BUSY = Case((40, 3, 7, 11, 3), torch.float32)
ROWS = Case((40, 6, 7, 11, 4), torch.float32)
DEEP = Case((5, 2, 40, 3, 2), torch.float32)
VISITS = Case((13, 3, 6, 7, 11, 3), torch.float32)
VISITS_HALVES = Case((13, 3, 6, 7, 11, 3), torch.bfloat16)


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
    "a tile goes on into the next expert's rows": Mistake(
        GROUPED,
        "is_row, is_column = r < stop, n < N",
        "is_row, is_column = r < stop + 1, n < N",
        check_accesses,
        ALL_BUSY,
        "was written by programs 0 and 1: a race",
    ),
    "only a whole block of the sum is read": Mistake(
        GROUPED,
        "in_c = c < C",
        "in_c = c < C // BLOCK_C * BLOCK_C",
        check_values,
        DEEP,
        "output 0 is wrong",
    ),
    "experts without rows get no gradient of their weights": Mistake(
        GROUPED,
        "in_c, in_n = c < C, n < N",
        "in_c, in_n = (c < C) & (start < stop), n < N",
        check_gradients,
        ROWS,
        "gradient of input 1 was never written",
    ),
    "dx takes the weights the way the forward does": Mistake(
        GROUPED,
        "weight_ENC = weight_ECN.transpose(1, 2)",
        "weight_ENC = weight_ECN.reshape(weight_ECN.transpose(1, 2).shape)",
        check_gradients,
        ROWS,
        "gradient of input 0 is wrong",
    ),
    "the rows that arrive are taken to be packed": Mistake(
        GROUPED,
        "dy_ptr + r[:, None] * dy_stride",
        "dy_ptr + r[:, None] * N",
        check_gradients,
        Case((13, 3, 9, 5, 2), torch.float32, dy_layout="rows apart"),
        "gradient of input 1 is wrong",
    ),
    "a row reads the token of its own number": Mistake(
        UP,
        "t = (tl.load(slot_ptr + r, mask=is_row, other=0) // K).to(tl.int64)\n"
        "    gate_ptr",
        "t = r // K\n    gate_ptr",
        check_values,
        VISITS,
        "output 0 is wrong",
    ),
    "gate and up are taken in turn, not half and half": Mistake(
        UP,
        "gate_ptr, d, H + h,",
        "gate_ptr, d, 1 + h,",
        check_values,
        VISITS,
        "output 0 is wrong",
    ),
    "the sigmoid's own gradient is left out": Mistake(
        UP,
        "da * up * s * (1.0 + gate * (1.0 - s))",
        "da * up * s",
        check_gradients,
        VISITS_HALVES,
        "gradient of input 0 is wrong",
    ),
    "gate is kept where up belongs": Mistake(
        UP,
        "tl.store(kept_at + H, up, mask=inside)",
        "tl.store(kept_at + H, gate, mask=inside)",
        check_gradients,
        VISITS_HALVES,
        "gradient of input 0 is wrong",
    ),
    "dW is summed from the wrong tokens": Mistake(
        UP,
        "other=0) // K).to(tl.int64)\n        x_at",
        "other=0) % K).to(tl.int64)\n        x_at",
        check_gradients,
        VISITS_HALVES,
        "gradient of input 1 is wrong",
    ),
    "the last visit of each token is forgotten": Mistake(
        UP,
        "for k in range(K):",
        "for k in range(K - 1):",
        check_gradients,
        VISITS_HALVES,
        "gradient of input 0 is wrong",
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

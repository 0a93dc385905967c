"""Mistakes in the stream sum, each one replacement in its source, are caught."""

import dataclasses

import pytest
import torch

import kernels
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.harness_mixed import check_gradients, check_values
from tests.kernels.test_stream_sum import SUM

pytestmark = pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)

WIDE = Case((3, 5, 300), torch.float32)
HALVES = Case((3, 5, 300), torch.bfloat16)
APART = Case((3, 5, 33), torch.float32, layout="rows apart")
DY_APART = Case((3, 5, 33), torch.float32, dy_layout="rows apart")

MISTAKES = {
    "every stream is the first": (
        "        x_at += x_stride_p  # step", "        # step",
        check_values, WIDE, "output 0 is wrong",
    ),
    "streams are taken to be packed": (
        "x_at += x_stride_p  # step", "x_at += R * D  # step",
        check_values, APART, "output 0 is wrong",
    ),
    "rows are taken to be packed": (
        "x_at = x_ptr + r[:, None] * x_stride_r + d[None, :]\n    y =",
        "x_at = x_ptr + r[:, None] * D + d[None, :]\n    y =",
        check_values, APART, "output 0 is wrong",
    ),
    "a row's logits are taken to be packed": (
        "s = softmax_of_streams(logits_ptr + r * logits_stride, is_row, P)\n    x_at",
        "s = softmax_of_streams(logits_ptr + r * P, is_row, P)\n    x_at",
        check_values, APART, "output 0 is wrong",
    ),
    "all rows take the first row's weights": (
        "s = softmax_of_streams(logits_ptr + r * logits_stride, is_row, P)\n    x_at",
        "s = softmax_of_streams(logits_ptr + 0 * r, is_row, P)\n    x_at",
        check_values, WIDE, "output 0 is wrong",
    ),
    "the largest logit is not taken away": (
        "tl.exp(logits[p] - largest)", "tl.exp(logits[p])",
        check_values, WIDE, "output 0 is wrong",
    ),
    "the first logit is taken for the largest": (
        "largest = tl.maximum(largest, logits[p])", "largest = first",
        check_values, WIDE, "output 0 is wrong",
    ),
    "smoothing is not divided by the streams": (
        "eps / P\n        x = tl.load", "eps\n        x = tl.load",
        check_values, WIDE, "output 0 is wrong",
    ),
    "smoothing takes nothing away": (
        "w = (1.0 - eps) * s[p] + eps / P\n        x = tl.load",
        "w = s[p] + eps / P\n        x = tl.load",
        check_values, WIDE, "output 0 is wrong",
    ),
    "weights are rounded to the streams' dtype": (
        "y += w[:, None] * x", "y += w[:, None].to(x_ptr.dtype.element_ty) * x",
        check_values, HALVES, "output 0 is wrong",
    ),
    "the sum is overwritten": (
        "y += w[:, None] * x", "y = w[:, None] * x",
        check_values, WIDE, "output 0 is wrong",
    ),
    "the store has no mask": (
        "d[None, :], y, mask=inside)", "d[None, :], y)",
        check_values, WIDE, "outside a torch.new_empty",
    ),
    "the load has no end of a row": (
        "inside = is_row[:, None] & (d < D)[None, :]\n    s =",
        "inside = is_row[:, None] & (d < 2 * D)[None, :]\n    s =",
        check_values, WIDE, "output 0 is wrong",
    ),
    "dx has the weights without smoothing": (
        "w = (1.0 - eps) * s[p] + eps / P\n            tl.store",
        "w = s[p]\n            tl.store",
        check_gradients, WIDE, "gradient of input 0 is wrong",
    ),
    "dx of all streams lies in one place": (
        "dx_at += dx_stride", "dx_at += 0",
        check_gradients, WIDE, "gradient of input 0 was never written",
    ),
    "the rows that arrive are taken to be packed": (
        "dy_ptr + r[:, None] * dy_stride", "dy_ptr + r[:, None] * D",
        check_gradients, DY_APART, "gradient of input 0 is wrong",
    ),
    "streams are taken to be packed on the way back": (
        "x_at += x_stride_p\n", "x_at += R * D\n",
        check_gradients, APART, "gradient of input 1 is wrong",
    ),
    "dw has the last elements only": (
        "dw += tl.where(column == p,", "dw = tl.where(column == p,",
        check_gradients, WIDE, "gradient of input 1 is wrong",
    ),
    "the sum of the softmax has no gradient": (
        "shares * (dw - mean[:, None])", "shares * dw",
        check_gradients, WIDE, "gradient of input 1 is wrong",
    ),
    "the mean is that of equal shares": (
        "mean = tl.sum(shares * dw, axis=1)", "mean = tl.sum(dw, axis=1) / P",
        check_gradients, WIDE, "gradient of input 1 is wrong",
    ),
    "dlogits does not know of smoothing": (
        "dlogits = (1.0 - eps) * shares", "dlogits = shares",
        check_gradients, WIDE, "gradient of input 1 is wrong",
    ),
    "dlogits goes through the smoothed weights": (
        "shares += tl.where(column == p, s[p][:, None], 0.0)",
        "shares += tl.where(column == p, ((1 - eps) * s[p] + eps / P)[:, None], 0.0)",
        check_gradients, WIDE, "gradient of input 1 is wrong",
    ),
    "padding columns are stored": (
        "is_number = is_row[:, None] & (column < P)", "is_number = is_row[:, None]",
        check_gradients, WIDE, "outside a torch.new_empty",
    ),
    "programs overlap by a row": (
        "r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)\n    d =",
        "r = tl.program_id(0).to(tl.int64) * (BLOCK_R - 1) + tl.arange(0, BLOCK_R)\n"
        "    d =",
        check_accesses, WIDE, "a race",
    ),
}  # fmt: skip
"""Name -> what stands once in the module, what comes in its place, the check, its
input, and what it says."""


def operation(module):
    return dataclasses.replace(SUM, module=module, function=module.stream_sum)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", MISTAKES)
def test_the_harness_fails_this_mistake(name, tmp_path):
    old, new, check, case, says = MISTAKES[name]
    check(SUM, case)
    wrong = changed_module(SUM.module, old, new, tmp_path)
    with pytest.raises(AssertionError, match=says):
        check(operation(wrong), case)

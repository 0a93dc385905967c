"""Mistakes in gradient fusion, each one replacement in its source, are caught."""

import pytest

import kernels
from tests.kernels import (
    test_gradient_project,
    test_gradient_quantise,
    test_gradient_residual,
    test_gradient_select,
    test_gradient_stats,
)
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.gradient_cases import FP32
from tests.kernels.harness_mixed import check_values

pytestmark = [
    pytest.mark.skipif(
        not kernels.INTERPRETED,
        reason="wrong kernels run interpreted: on a GPU they could damage the rest",
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

OPERATIONS = {
    "stats": (test_gradient_stats.stats, Case((2500,), FP32)),
    "select": (test_gradient_select.select, Case((2500,), FP32)),
    "few": (
        lambda **module: test_gradient_select.select(capacity=300, **module),
        Case((2500,), FP32),
    ),
    "all": (
        lambda **module: test_gradient_select.select(threshold=0.0, **module),
        Case((2500,), FP32),
    ),
    "quantise": (test_gradient_quantise.quantise, Case((1500,), FP32)),
    "project": (test_gradient_project.project, Case((19, 150, 4), FP32)),
    "residual": (test_gradient_residual.residual, Case((19, 150, 4), FP32)),
}

MISTAKES = {
    "the state stays as it was": (
        "stats", "tl.store(e_ptr + i, u, mask=inside)", "pass", "output 0 is wrong"
    ),
    "the state is written beyond its end": (
        "stats", "e_ptr + i, u, mask=inside", "e_ptr + i, u", "wrote .* outside"
    ),
    "the gradient is read beyond its end": (
        "stats", "g_ptr + i, mask=inside, other=0.0", "g_ptr + i", "output 1 is wrong"
    ),
    "the largest is not the largest size": (
        "stats", "tl.max(tl.abs(u), axis=0)", "tl.max(u, axis=0)", "output 1 is wrong"
    ),
    "the product is with itself": (
        "stats", "tl.sum(u * m, axis=0)", "tl.sum(u * u, axis=0)", "output 1 is wrong"
    ),
    "only the first blocks are added up": (
        "stats", "for start in range(0, B, BLOCK_B)", "for start in range(0, 0, 1)",
        "output 1 is wrong",
    ),
    "tiles write over each other": (
        "select", "place = end - tl.sum(selected.to(tl.int32), axis=0) + rank - 1",
        "place = rank - 1", "output 0 is wrong",
    ),
    "places are counted from 1": (
        "select", "+ rank - 1", "+ rank", "output 0 is wrong"
    ),
    "indices are those within the tile": (
        "select", "index_ptr + place, i,", "index_ptr + place, i - b * BLOCK,",
        "output 0 is wrong",
    ),
    "what is sent stays in u too": (
        "select", "u - value.to(tl.float32)", "u", "output 3 is wrong"
    ),
    "what finds no room is taken out too": (
        "few", "u - value.to(tl.float32), mask=sent",
        "u - value.to(tl.float32), mask=selected", "output 3 is wrong",
    ),
    "what finds no room is written": (
        "few", "sent = selected & (place < capacity)", "sent = selected",
        "wrote .* outside",
    ),
    "lanes beyond the end are counted": (
        "all", "selected = (size_of(u) >= threshold) & (i < n)\n    tl.store",
        "selected = size_of(u) >= threshold\n    tl.store", "output 0 is wrong",
    ),
    "codes are rounded down": (
        "quantise", "(y + 12582912.0) - 12582912.0", "tl.floor(y)", "output 0 is wrong"
    ),
    "the residual lacks the scale": (
        "quantise", "tl.fma(-scale[:, None], q, u)", "u - q", "output 2 is wrong"
    ),
    "groups beyond the last are written": (
        "quantise", "scale_ptr + j, scale, mask=j < J", "scale_ptr + j, scale",
        "wrote .* outside",
    ),
    "the weight is left out": (
        "project", "u = weight * g", "u = g", "output 0 is wrong"
    ),
    "directions are read by columns": (
        "project", "n[:, None] * R + r[None, :], mask=in_q",
        "r[None, :] * N + n[:, None], mask=in_q", "output 1 is wrong",
    ),
    "the sum is of the last block only": (
        "project", "tl.dot(u, q, p,", "tl.dot(u, q,", "output 1 is wrong"
    ),
    "the residual is added": (
        "residual", "u - out.to(tl.float32)", "u + out.to(tl.float32)",
        "output 1 is wrong",
    ),
    "a factor's rows are taken for columns": (
        "residual", "r_ptr + n * R + k", "r_ptr + k * N + n", "output 0 is wrong"
    ),
}  # fmt: skip
"""Name -> the operation, what stands once in its module, what comes in its place, and
what the harness says."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_harness_passes_what_is_right(name):
    operation, case = OPERATIONS[name]
    check_values(operation(), case)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_harness_fails_this_mistake(name, tmp_path):
    which, old, new, says = MISTAKES[name]
    operation, case = OPERATIONS[which]
    wrong = changed_module(operation().module, old, new, tmp_path)
    with pytest.raises(AssertionError, match=says):
        check_values(operation(module=wrong), case)

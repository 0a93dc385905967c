"""Wrong kernels, each wrong in one way only, and the harness fails every one.

Each entry of BROKEN replaces a kernel of a right operation by a wrong one. The
test runs the harness over it: some case in which it is wrong must fail, in the
words that tell a reader why, and every other case must pass. So it is the
mistake that the harness sees, not the replacement.

Only interpreted: on a GPU a stray access can end the process's use of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import kernels
from tests.kernels import broken_kernels as broken
from tests.kernels.cases import Case
from tests.kernels.harness import (
    BadCall,
    Operation,
    check_bad_calls,
    check_gradients,
    check_reference_gradients,
    check_second_derivative_is_refused,
    check_specs,
    check_values,
)
from tests.kernels.test_rms_norm import RMS_NORM
from tests.kernels.test_sinkhorn import SINKHORN
from tests.kernels.test_softmax import SOFTMAX

pytestmark = pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)


@dataclass(frozen=True)
class Broken:
    """One mistake.

    Attributes:
        operation: the right one.
        kernel: the kernel that `by` replaces.
        by: the wrong kernel.
        wrong: in which cases; "values" or "gradients" is the kind of check.
        says: words of the message of one of the failing cases.
    """

    operation: Operation
    kernel: str
    by: Any
    wrong: Callable[[str, Case], bool]
    says: str


def odd(kind: str, case: Case) -> bool:
    N = case.shape[-1]
    return N & (N - 1) != 0


def in_bf16(kind: str, case: Case) -> bool:
    return case.dtype is torch.bfloat16


def in_halves(kind: str, case: Case) -> bool:
    return case.dtype is not torch.float32


def backward(kind: str, case: Case) -> bool:
    return kind == "gradients"


def everywhere(kind: str, case: Case) -> bool:
    return True


def tiny_rows(kind: str, case: Case) -> bool:
    """Of few numbers, all can be tiny by chance."""
    return case.scale < 1 or case.shape[-1] <= 3


def rows_apart(layout: str) -> bool:
    """Whether rows reach the kernel with a distance other than N."""
    return layout in ("rows apart", "repeated")


F, B = "softmax_forward_kernel", "softmax_backward_kernel"
RF, RB = "rms_norm_forward_kernel", "rms_norm_backward_kernel"
SF, SB = "sinkhorn_forward_kernel", "sinkhorn_backward_kernel"

BROKEN = {
    "only odd sizes: the load has no mask": Broken(
        SOFTMAX, F, broken.no_mask_on_the_load, odd, "y is wrong"
    ),
    "only odd sizes: the store has no mask": Broken(
        SOFTMAX, F, broken.no_mask_on_the_store, odd, "outside a torch.empty"
    ),
    "only odd sizes: the mean divides by the block": Broken(
        RMS_NORM, RF, broken.mean_over_the_block, odd, "y is wrong"
    ),
    "only bfloat16: the forward sums in it": Broken(
        SOFTMAX, F, broken.sum_in_bf16, in_bf16, "y is wrong"
    ),
    "only halves: the backward sums in them": Broken(
        SOFTMAX,
        B,
        broken.backward_sum_in_y_dtype,
        in_halves,
        "gradient of input 0 is wrong",
    ),
    "only bfloat16: the weight gradient is summed in it": Broken(
        RMS_NORM,
        RB,
        broken.dw_rounded_to_bf16_after_every_row,
        in_bf16,
        "gradient of input 1 is wrong",
    ),
    "only the backward: a term is missing": Broken(
        SOFTMAX,
        B,
        broken.backward_without_the_sum,
        backward,
        "gradient of input 0 is wrong",
    ),
    "only strided input: the rows' distance is taken to be N": Broken(
        SOFTMAX,
        F,
        broken.rows_taken_as_packed,
        lambda k, c: rows_apart(c.layout),
        "y is",
    ),
    "only strided dy: the rows' distance is taken to be N": Broken(
        SOFTMAX,
        B,
        broken.backward_with_dy_taken_as_packed,
        lambda k, c: rows_apart(c.dy_layout),
        "gradient of input 0 is wrong",
    ),
    "reads unwritten memory": Broken(
        RMS_NORM,
        RB,
        broken.dw_starts_from_unwritten_memory,
        backward,
        "input 1 is wrong",
    ),
    "never writes the last column": Broken(
        SOFTMAX, F, broken.last_column_forgotten, everywhere, "y was never written at"
    ),
    "the grid is one program short": Broken(
        SOFTMAX,
        F,
        broken.GridOffBy(SOFTMAX.module.softmax_forward_kernel, -1),
        everywhere,
        "y was never written at",
    ),
    "the grid is one program too long": Broken(
        SOFTMAX,
        F,
        broken.GridOffBy(SOFTMAX.module.softmax_forward_kernel, 1),
        everywhere,
        "outside a torch.empty",
    ),
    "the backward's grid is one program short": Broken(
        SOFTMAX,
        B,
        broken.GridOffBy(SOFTMAX.module.softmax_backward_kernel, -1),
        backward,
        "gradient of input 0 was never written at",
    ),
    "writes into its input": Broken(
        SOFTMAX, F, broken.x_as_scratch, everywhere, "input 0 was changed"
    ),
    "only large numbers: exp overflows": Broken(
        SOFTMAX, F, broken.no_maximum, lambda k, c: c.scale > 1, "instead of"
    ),
    "only tiny numbers: eps is in the wrong place": Broken(
        RMS_NORM, RF, broken.eps_outside_the_root, tiny_rows, "y is wrong"
    ),
    "the other axis first": Broken(
        SINKHORN, SF, broken.rows_divided_first, everywhere, "y is wrong"
    ),
    "only a last block that is not full: its store has no mask": Broken(
        SINKHORN,
        SF,
        broken.tokens_beyond_the_last_written,
        lambda k, c: c.shape[-1] != 32,
        "outside a torch.empty",
    ),
    "only the backward, and before it has converged: one iterate for all": Broken(
        SINKHORN,
        SB,
        broken.backward_with_the_last_iterate_for_all,
        backward,
        "gradient of input 0 is wrong",
    ),
}


def worth_running(case: Case) -> bool:
    """To save time: sizes and layouts in float32, long sums in halves."""
    long = case.shape in [(2, 1000), (70, 3)]
    return long or case.dtype is torch.float32


def all_checks(
    operation: Operation,
) -> Iterator[tuple[str, Callable[[Operation, Case], None], Case]]:
    yield from (("values", check_values, case) for case in operation.value_cases)
    gradient_cases = operation.gradient_cases
    yield from (("gradients", check_gradients, case) for case in gradient_cases)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the wrong ones overflow
@pytest.mark.parametrize("name", BROKEN)
def test_the_harness_fails_this_kernel(name, monkeypatch):
    entry = BROKEN[name]
    monkeypatch.setattr(entry.operation.module, entry.kernel, entry.by)
    seen: list[str] = []
    for kind, check, case in all_checks(entry.operation):
        caught = any(entry.says in message for message in seen)
        wrong = entry.wrong(kind, case)
        if not worth_running(case) or (wrong and caught):
            continue
        try:
            check(entry.operation, case)
        except AssertionError as failure:
            assert wrong, f"{kind} {case} is right, but: {failure}"
            seen.append(f"{kind} {case}: {failure}")
    assert any(entry.says in message for message in seen), seen


def test_it_fails_an_output_of_another_dtype():
    wider = replace(
        SOFTMAX, function=lambda *x, interpret: SOFTMAX.function(*x, interpret).float()
    )
    check_values(wider, Case((4, 128), torch.float32))
    with pytest.raises(AssertionError, match=r"y has dtype torch\.float32"):
        check_values(wider, Case((4, 128), torch.float16))


def test_it_fails_a_reference_with_wrong_gradients():
    def detached(x):
        e = x.exp()
        return e / e.sum(-1, keepdim=True).detach()

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        check_reference_gradients(replace(SOFTMAX, reference=detached))


@pytest.mark.parametrize("sentence", ["softmax: something else.", ""])
def test_it_fails_an_error_in_other_words(sentence):
    bad = replace(SOFTMAX.bad_calls[0], sentence=sentence)
    with pytest.raises(AssertionError):
        check_bad_calls(replace(SOFTMAX, bad_calls=[bad]))


def test_it_fails_a_bad_call_that_is_let_through():
    fine = BadCall(lambda: SOFTMAX.function(torch.zeros(1)), "softmax: no.")
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_bad_calls(replace(SOFTMAX, bad_calls=[fine]))


def test_it_fails_a_backward_that_lets_a_second_derivative_through(monkeypatch):
    monkeypatch.setattr(SOFTMAX.module, "refuse_second_derivative", lambda name: None)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_second_derivative_is_refused(SOFTMAX)


def test_it_fails_specs_that_miss_a_launch(monkeypatch):
    monkeypatch.setattr(SOFTMAX.module, "SPECS", SOFTMAX.module.SPECS[:-1])
    with pytest.raises(AssertionError):
        check_specs(SOFTMAX, monkeypatch)


def test_it_fails_specs_of_another_configuration(monkeypatch):
    first, *rest = RMS_NORM.module.SPECS
    other = replace(first, num_warps=2 * first.num_warps)
    monkeypatch.setattr(RMS_NORM.module, "SPECS", [other, *rest])
    with pytest.raises(AssertionError):
        check_specs(RMS_NORM, monkeypatch)

"""Mistakes in the kernels on divergences, each one replacement, are caught."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import pytest
import torch

import kernels
from kernels.linear_divergence import linear_divergence_reference
from kernels.selected_logprob import MAX_BLOCK
from kernels.token_divergence import token_divergence_reference
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.divergence_cases import with_mask
from tests.kernels.harness_mixed import MixedOperation, check_gradients, check_values
from tests.kernels.test_linear_divergence import FORWARD as LINEAR
from tests.kernels.test_token_divergence import FORWARD as TOKEN

pytestmark = pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)

WARM = {"temperature": 2.0}


def forward(module: ModuleType) -> MixedOperation:
    return token(module)


def reverse(module: ModuleType) -> MixedOperation:
    return token(module, beta=1.0)


def mixture(module: ModuleType) -> MixedOperation:
    return token(module, beta=0.3)


def warm(module: ModuleType) -> MixedOperation:
    return token(module, **WARM)


def warm_mixture(module: ModuleType) -> MixedOperation:
    return token(module, beta=0.3, **WARM)


def linear(module: ModuleType) -> MixedOperation:
    return of_layers(module)


def linear_reverse(module: ModuleType) -> MixedOperation:
    return of_layers(module, beta=1.0)


def linear_mixture(module: ModuleType) -> MixedOperation:
    return of_layers(module, beta=0.3)


def linear_warm(module: ModuleType) -> MixedOperation:
    return of_layers(module, **WARM)


def in_spans(module: ModuleType) -> MixedOperation:
    """Of 64 entries each, a tile: what is stored beyond lies within the guards."""
    module.SPAN = 64
    return of_layers(module)


def mixture_in_spans(module: ModuleType) -> MixedOperation:
    module.SPAN = 64
    return of_layers(module, beta=0.3)


def token(module, **settings):
    """The right reference stands beside the module's kernels."""
    return dataclasses.replace(
        TOKEN,
        module=module,
        function=with_mask(module.token_divergence, **settings),
        reference=with_mask(token_divergence_reference, **settings),
    )


def of_layers(module, **settings):
    return dataclasses.replace(
        LINEAR,
        module=module,
        function=with_mask(module.linear_divergence, **settings),
        reference=with_mask(linear_divergence_reference, **settings),
    )


MODULES = {
    forward: TOKEN.module,
    reverse: TOKEN.module,
    mixture: TOKEN.module,
    warm: TOKEN.module,
    warm_mixture: TOKEN.module,
    linear: LINEAR.module,
    linear_reverse: LINEAR.module,
    linear_mixture: LINEAR.module,
    linear_warm: LINEAR.module,
    in_spans: LINEAR.module,
    mixture_in_spans: LINEAR.module,
}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """`old`, which stands once in the operation's module, becomes `new`."""

    operation: Callable[[ModuleType], MixedOperation]
    old: str
    new: str
    check: Callable[[MixedOperation, Case], None]
    case: Case
    says: str


ROW = Case((4, 33), torch.float32)
LONG = Case((4, 2 * MAX_BLOCK), torch.float32)
LARGE = Case((3, 129), torch.float32, scale=300)
APART = Case((5, 33), torch.float32, layout="rows apart")
TILES = Case((35, 70, 17, 5), torch.float32)
SPANS = Case((5, 150, 6, 4), torch.float32)
LAYERS_APART = Case((5, 9, 7, 6), torch.float32, layout="rows apart")

VALUE, GRADIENT = "output 0 is wrong", "gradient of input 0 is wrong"

MISTAKES = {
    "the KL is the other way round": Mistake(
        forward, 'if kind_of(beta) == "reverse":\n            order',
        'if kind_of(beta) == "forward":\n            order', check_values, ROW, VALUE,
    ),
    "a sum so far is not rescaled": Mistake(
        forward, "return new, total * tl.exp(largest - new) + of_block",
        "return new, total + of_block", check_values, LONG, VALUE,
    ),
    "the moment so far is not rescaled": Mistake(
        forward, "(moment + total_a * moved) * rescale, 0.0)",
        "moment + total_a * moved, 0.0)", check_values, LONG, VALUE,
    ),
    "the moment is relative to older maxima": Mistake(
        forward, "(moment + total_a * moved) * rescale", "moment * rescale",
        check_values, LONG, VALUE,
    ),
    "only one maximum moves": Mistake(
        forward, "moved = (largest_a - new_a) - (largest_b - new_b)",
        "moved = largest_a - new_a", check_values, LONG, VALUE,
    ),
    "the moment takes the new sum": Mistake(
        forward, "(moment + total_a * moved) * rescale",
        "moment * rescale + new_total_a * moved", check_values, LONG, VALUE,
    ),
    "no maximum is taken away": Mistake(
        reverse, "new = tl.maximum(largest, tl.max(x, axis=AXIS))",
        "new = 0.0 * tl.max(x, axis=AXIS)", check_values, LARGE, VALUE,
    ),
    "the maximum is that of a block": Mistake(
        mixture, "new = tl.maximum(largest, tl.max(x, axis=AXIS))",
        "new = tl.max(x, axis=AXIS)", check_values,
        Case((2, 2 * MAX_BLOCK + 1), torch.float32, scale=300), VALUE,
    ),
    "the sums of a are missing": Mistake(
        forward, "kl = moment / total_a - log_a + log_b",
        "kl = moment / total_a + log_b", check_values, ROW, VALUE,
    ),
    "the moment is no mean": Mistake(
        forward, "kl = moment / total_a - log_a + log_b",
        "kl = moment - log_a + log_b", check_values, ROW, VALUE,
    ),
    "padding has a logit of 0": Mistake(
        forward, 'mask=inside, other=float("-inf")', "mask=inside, other=0.0",
        check_values, ROW, VALUE,
    ),
    "rows of the teacher are taken to be packed": Mistake(
        forward, "a_ptr + n * a_stride", "a_ptr + n * V", check_values, APART, VALUE,
    ),
    "both rows have one stride": Mistake(
        mixture, "teacher_row_ptr = teacher_ptr + n * teacher_stride",
        "teacher_row_ptr = teacher_ptr + n * V", check_values, APART, VALUE,
    ),
    "a masked token has a divergence": Mistake(
        forward, "if tl.load(mask_ptr + n) == 0:  # it", "if n < 0:  # it",
        check_values, ROW, VALUE,
    ),
    "a masked token has a divergence in between": Mistake(
        mixture, "if tl.load(mask_ptr + n) == 0:\n", "if n < 0:\n",
        check_values, ROW, VALUE,
    ),
    "a masked token has a gradient": Mistake(
        forward, "counts = tl.load(mask_ptr + n) != 0",
        "counts = tl.load(mask_ptr + n) >= 0", check_gradients, ROW, GRADIENT,
    ),
    "the temperature is forgotten": Mistake(
        warm, ".to(tl.float32) * scale", ".to(tl.float32)", check_values, ROW, VALUE,
    ),
    "the gradient is not divided by the temperature": Mistake(
        warm, "v, dx * scale, mask=v < V)", "v, dx, mask=v < V)",
        check_gradients, ROW, GRADIENT,
    ),
    "Hinton's T^2 is inside": Mistake(
        warm_mixture, "beta * of_teacher + (1.0 - beta) * of_student)",
        "(beta * of_teacher + (1.0 - beta) * of_student) / scale / scale)",
        check_values, ROW, VALUE,
    ),
    "the weights in M are exchanged": Mistake(
        mixture,
        "of_q = log_q + tl.log(1.0 - beta)\n    of_p = log_p + tl.log(beta)",
        "of_q = log_q + tl.log(beta)\n    of_p = log_p + tl.log(1.0 - beta)",
        check_values, ROW, VALUE,
    ),
    "the weights of the two KLs are exchanged": Mistake(
        mixture, "beta * of_teacher + (1.0 - beta) * of_student)",
        "beta * of_student + (1.0 - beta) * of_teacher)", check_values, ROW, VALUE,
    ),
    "M is the geometric mean": Mistake(
        mixture, "log_M = log_mixture(log_q, log_p, beta)",
        "log_M = beta * log_p + (1.0 - beta) * log_q", check_values, ROW, VALUE,
    ),
    "M is the larger of its parts": Mistake(
        mixture,
        "return larger + tl.log(1.0 + tl.exp(tl.minimum(of_q, of_p) - larger))",
        "return larger", check_values, ROW, VALUE,
    ),
    "the gradient is the other way round": Mistake(
        forward, "arriving * (q - tl.exp(log_p))", "arriving * (tl.exp(log_p) - q)",
        check_gradients, ROW, GRADIENT,
    ),
    "the gradient is the forward KL's": Mistake(
        reverse, "KIND=kind_of(ctx.beta)", 'KIND="forward"',
        check_gradients, ROW, GRADIENT,
    ),
    "the reverse gradient lacks its mean": Mistake(
        reverse, "tl.where(q > 0.0, r - inner, 0.0)", "tl.where(q > 0.0, r + 0.0, 0.0)",
        check_gradients, ROW, GRADIENT,
    ),
    "what the divergence is stands for the mean": Mistake(
        mixture, "tl.store(inner_ptr + n, of_student)",
        "tl.store(inner_ptr + n, beta * of_teacher + (1 - beta) * of_student)",
        check_gradients, ROW, GRADIENT,
    ),
    "the gradient in between is not weighed": Mistake(
        mixture, "            arriving = arriving * (1.0 - beta)\n", "",
        check_gradients, ROW, GRADIENT,
    ),
    "the teacher's sum is the student's": Mistake(
        mixture, "x - lse_student, y - lse_teacher,",
        "x - lse_student, y - lse_student,",
        check_gradients, ROW, GRADIENT,
    ),
    "later blocks are the first one again": Mistake(
        forward, "v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "v = tl.arange(0, BLOCK)", check_gradients, LONG,
        "gradient of input 0 was never written",
    ),
    "the gradient is stored past a row": Mistake(
        forward, "dx * scale, mask=v < V)", "dx * scale)",
        check_gradients, ROW, "outside a torch.empty",
    ),
    "spans count alike": Mistake(
        in_spans, "log_A_SN.exp() * (kl_SN", "(1 / S) * (kl_SN",
        check_values, SPANS, VALUE,
    ),
    "a span's shares are not in the KL": Mistake(
        in_spans, "(kl_SN + log_A_SN - log_B_SN)", "kl_SN", check_values, SPANS, VALUE,
    ),
    "spans overlap": Mistake(
        in_spans,
        "    moment = tl.zeros((BLOCK_N,), dtype=tl.float32)\n    for start in "
        "range(span * SPAN, tl.minimum((span + 1) * SPAN, V), BLOCK_V):",
        "    moment = tl.zeros((BLOCK_N,), dtype=tl.float32)\n    for start in "
        "range(span * SPAN, tl.minimum((span + 1) * SPAN + 1, V), BLOCK_V):",
        check_values, SPANS, VALUE,
    ),
    "entries beyond the vocabulary count": Mistake(
        linear, 'return tl.where(in_v[None, :], z * scale, float("-inf"))',
        "return z * scale", check_values, TILES, VALUE,
    ),
    "the temperature is forgotten in tiles": Mistake(
        linear_warm, "tl.where(in_v[None, :], z * scale,", "tl.where(in_v[None, :], z,",
        check_values, TILES, VALUE,
    ),
    "the student is as wide as the teacher": Mistake(
        linear, "b_weight_stride, scale, D_b, BLOCK_N",
        "b_weight_stride, scale, D_a, BLOCK_N",
        check_values, TILES, VALUE,
    ),
    "the tiled KL is the other way round": Mistake(
        linear_reverse, "launch_kl(student, teacher, scale)",
        "launch_kl(teacher, student, scale)", check_values, TILES, VALUE,
    ),
    "rows of the teacher's weights are taken to be packed": Mistake(
        linear_mixture, "teacher_hidden_stride, teacher_weight_stride, scale, E,\n"
        "            BLOCK_N",
        "teacher_hidden_stride, E, scale, E,\n            BLOCK_N",
        check_values, LAYERS_APART, VALUE,
    ),
    "the last tile's terms are all": Mistake(
        linear_mixture, "of_student += tl.sum(", "of_student = tl.sum(",
        check_values, TILES, VALUE,
    ),
    "the first sweep sees one span": Mistake(
        mixture_in_spans, "return lse_SN.logsumexp(0)", "return lse_SN[0].clone()",
        check_values, SPANS, VALUE,
    ),
    "a masked row has a gradient": Mistake(
        linear, "dx = tl.where(counts[:, None], dx, 0.0)", "dx = dx",
        check_gradients, TILES, GRADIENT,
    ),
    "a masked row has a divergence": Mistake(
        linear, "return divergence.view(leading).where(counts != 0, 0.0)",
        "return divergence.view(leading).clone()", check_values, TILES, VALUE,
    ),
    "every span is the first one on the way back": Mistake(
        in_spans, "v = first + column.to(tl.int64)", "v = column.to(tl.int64)",
        check_gradients, SPANS, GRADIENT,
    ),
    "rows beyond the last one are stored": Mistake(
        in_spans, "tl.store(at, dx * scale, mask=in_n[:, None] & in_v[None, :])",
        "tl.store(at, dx * scale, mask=in_v[None, :])",
        check_gradients, SPANS, "outside a torch.new_empty",
    ),
    "tiles of the vocabulary overlap": Mistake(
        linear, "column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)",
        "column = tl.program_id(1) * (BLOCK_V - 1) + tl.arange(0, BLOCK_V)",
        partial(check_accesses, partly=["dlogits_ptr"]), TILES, "a race",
    ),
}  # fmt: skip


@cache
def the_right_module_passes(
    operation: Callable[[ModuleType], MixedOperation],
    check: Callable[[MixedOperation, Case], None],
    case: Case,
) -> None:
    """Once for all mistakes that are looked for in the same way."""
    check(operation(MODULES[operation]), case)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", MISTAKES)
def test_the_harness_fails_this_mistake(name, tmp_path, monkeypatch):
    mistake = MISTAKES[name]
    right = MODULES[mistake.operation]
    if right is LINEAR.module:  # put back what in_spans changes
        monkeypatch.setattr(right, "SPAN", right.SPAN)
    the_right_module_passes(mistake.operation, mistake.check, mistake.case)
    wrong = changed_module(right, mistake.old, mistake.new, tmp_path)
    with pytest.raises(AssertionError, match=mistake.says):
        mistake.check(mistake.operation(wrong), mistake.case)

"""Mistakes in the kernels on log-probabilities, each one replacement, are caught."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import pytest
import torch

import kernels
from kernels.grpo_loss import grpo_loss_reference
from kernels.selected_logprob import MAX_BLOCK
from tests.kernels.access_checks import check_accesses
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.harness_mixed import MixedOperation, check_gradients, check_values
from tests.kernels.logprob_cases import made_positive
from tests.kernels.test_grpo_loss import GRPO
from tests.kernels.test_linear_logprob import LINEAR
from tests.kernels.test_selected_logprob import SELECTED

pytestmark = pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)


def selected(module: ModuleType) -> MixedOperation:
    return of(SELECTED, module, module.selected_logprob)


def warm(module: ModuleType) -> MixedOperation:
    """At a temperature of 2, by the module's own reference, which stays right."""
    return at_temperature(SELECTED, module, module.selected_logprob)


def linear(module: ModuleType) -> MixedOperation:
    return of(LINEAR, module, module.linear_logprob)


def in_spans(module: ModuleType) -> MixedOperation:
    """Of 64 entries each, a tile: what is stored beyond lies within the guards."""
    module.SPAN = 64
    return linear(module)


def grpo(module: ModuleType) -> MixedOperation:
    return settings(module, beta=0.5)


def corrected(module: ModuleType) -> MixedOperation:
    return settings(module, beta=0.5, bias_corrected=True)


def gspo(module: ModuleType) -> MixedOperation:
    return settings(module, surrogate="gspo", eps_low=0.05, eps_high=0.1)


def cispo(module: ModuleType) -> MixedOperation:
    return settings(module, surrogate="cispo")


def of(right, module, function):
    return dataclasses.replace(right, module=module, function=function)


def at_temperature(right, module, function):
    return dataclasses.replace(
        right,
        module=module,
        function=partial(function, temperature=2.0),
        reference=partial(warm_reference, right.reference),
    )


def warm_reference(reference, logits, targets):
    """By temperature 1: half the logits."""
    return reference(logits / 2, targets)


def settings(module, **changed):
    right = partial(grpo_loss_reference, **changed)
    return dataclasses.replace(
        GRPO,
        module=module,
        function=partial(module.grpo_loss, **changed),
        reference=made_positive(right),
    )


MODULES = {
    selected: SELECTED.module,
    warm: SELECTED.module,
    linear: LINEAR.module,
    in_spans: LINEAR.module,
    grpo: GRPO.module,
    corrected: GRPO.module,
    gspo: GRPO.module,
    cispo: GRPO.module,
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
LONG = Case((2, MAX_BLOCK + 905), torch.float32)
THREE_BLOCKS = Case((2, 2 * MAX_BLOCK + 1), torch.float32)
LARGE = Case((3, 129), torch.float32, scale=300)
APART = Case((5, 33), torch.float32, layout="rows apart")
TILES = Case((70, 65, 33), torch.float32)
SPANS = Case((5, 300, 6), torch.float32)
WIDE = Case((3, 9, 70), torch.float32)
WEIGHT_APART = Case((5, 9, 7), torch.float32, layout="rows apart")
GROUP = Case((3, 7, 9), torch.float32)

FIRST, SECOND, THIRD = (f"output {i} is wrong" for i in range(3))
GRADIENT = "gradient of input 0 is wrong"

MISTAKES = {
    "the sum so far is not rescaled": Mistake(
        selected, "total = total * rescale + tl.sum(e, axis=0)",
        "total = total + tl.sum(e, axis=0)", check_values, LONG, FIRST,
    ),
    "the moment so far is not rescaled": Mistake(
        selected, "(moment + total * (largest - new)) * rescale + of_block",
        "moment + total * (largest - new) + of_block", check_values, LONG, SECOND,
    ),
    "the moment is relative to an older maximum": Mistake(
        selected, "(moment + total * (largest - new)) * rescale",
        "moment * rescale", check_values, LONG, SECOND,
    ),
    "the moment takes the new sum": Mistake(
        selected,
        "        moment = (moment + total * (largest - new)) * rescale + of_block\n"
        "        total = total * rescale + tl.sum(e, axis=0)\n",
        "        before = largest - new\n"
        "        total = total * rescale + tl.sum(e, axis=0)\n"
        "        moment = moment * rescale + total * before + of_block\n",
        check_values, LONG, SECOND,
    ),
    "the maximum is that of a block": Mistake(
        selected, "new = tl.maximum(largest, tl.max(x, axis=0))",
        "new = tl.max(x, axis=0)", check_values,
        dataclasses.replace(THREE_BLOCKS, scale=300), FIRST,
    ),
    "no maximum is taken away": Mistake(
        selected, "new = tl.maximum(largest, tl.max(x, axis=0))",
        "new = 0.0 * tl.max(x, axis=0)", check_values, LARGE, FIRST,
    ),
    "padding has a logit of 0": Mistake(
        selected, 'x = tl.load(row_ptr + v, mask=v < V, other=float("-inf"))',
        "x = tl.load(row_ptr + v, mask=v < V, other=0.0)", check_values, ROW, FIRST,
    ),
    "rows are taken to be packed": Mistake(
        selected, "row_ptr = logits_ptr + n * logits_stride",
        "row_ptr = logits_ptr + n * V", check_values, APART, FIRST,
    ),
    "the row is read past its end": Mistake(
        selected, "x = tl.load(row_ptr + v, mask=v < V,",
        "x = tl.load(row_ptr + v, mask=v < V + 3,", check_values, ROW, FIRST,
    ),
    "the temperature is forgotten in the sum": Mistake(
        warm, 'other=float("-inf")).to(tl.float32) * scale\n        new',
        'other=float("-inf")).to(tl.float32)\n        new', check_values, ROW, FIRST,
    ),
    "the temperature is forgotten in the chosen one": Mistake(
        warm, "chosen.to(tl.float32) * scale - largest",
        "chosen.to(tl.float32) - largest", check_values, ROW, FIRST,
    ),
    "an ignored token has a loss": Mistake(
        selected, "if target < 0:", "if target < -100:", check_values, ROW, FIRST,
    ),
    "the entropy has the other sign": Mistake(
        selected, "log_total - moment / total", "moment / total - log_total",
        check_values, ROW, SECOND,
    ),
    "the gradient is that of cross-entropy": Mistake(
        selected, "return dlogp * (tl.where(is_chosen, 1.0, 0.0) - p)",
        "return dlogp * (p - tl.where(is_chosen, 1.0, 0.0))",
        check_gradients, ROW, GRADIENT,
    ),
    "only the chosen logit has a gradient": Mistake(
        selected, "(tl.where(is_chosen, 1.0, 0.0) - p)",
        "tl.where(is_chosen, 1.0 - p, 0.0)", check_gradients, ROW, GRADIENT,
    ),
    "the entropy's gradient lacks the entropy": Mistake(
        selected, "tl.where(p > 0.0, log_p + entropy, 0.0)",
        "tl.where(p > 0.0, log_p + 1.0, 0.0)", check_gradients, ROW, GRADIENT,
    ),
    "the entropy's gradient has the other sign": Mistake(
        selected, "- dentropy * p * surprise", "+ dentropy * p * surprise",
        check_gradients, ROW, GRADIENT,
    ),
    "the gradient is not divided by the temperature": Mistake(
        warm, "tl.store(dlogits_ptr + n * V + v, dx * scale, mask=v < V)",
        "tl.store(dlogits_ptr + n * V + v, dx, mask=v < V)",
        check_gradients, ROW, GRADIENT,
    ),
    "the chosen entry is looked for in each block anew": Mistake(
        selected, "dlogp, dentropy, v == target)",
        "dlogp, dentropy, tl.arange(0, BLOCK) == target)",
        check_gradients, THREE_BLOCKS, GRADIENT,
    ),
    "later blocks are the first one again": Mistake(
        selected, "v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "v = tl.arange(0, BLOCK)", check_gradients, LONG,
        "gradient of input 0 was never written",
    ),
    "the gradient is stored past a row": Mistake(
        selected, "dx * scale, mask=v < V)", "dx * scale)",
        check_gradients, ROW, "outside a torch.empty",
    ),
    "an ignored token has a gradient": Mistake(
        selected, "counts = target >= 0", "counts = target >= -100",
        check_gradients, ROW, GRADIENT,
    ),
    "the chosen logit is that of the last block": Mistake(
        linear,
        "chosen += tl.sum(tl.where(v[None, :] == target[:, None], x, 0.0), axis=1)",
        "chosen = tl.sum(tl.where(v[None, :] == target[:, None], x, 0.0), axis=1)",
        check_values, SPANS, FIRST,
    ),
    "entries beyond the vocabulary count": Mistake(
        linear, 'x = tl.where((v < V)[None, :], z * scale, float("-inf"))',
        "x = z * scale", check_values, WIDE, FIRST,
    ),
    "the widths' last block is left out": Mistake(
        linear, "for start in range(0, D, BLOCK_D):",
        "for start in range(0, D - BLOCK_D, BLOCK_D):", check_values, WIDE, FIRST,
    ),
    "rows of the output matrix are taken to be packed": Mistake(
        linear, "weight_ptr + v[None, :] * weight_stride",
        "weight_ptr + v[None, :] * D", check_values, WEIGHT_APART, FIRST,
    ),
    "a tile's sum is not rescaled": Mistake(
        linear, "total = total * rescale + tl.sum(e, axis=1)",
        "total = total + tl.sum(e, axis=1)", check_values, SPANS, FIRST,
    ),
    "spans overlap": Mistake(
        in_spans, "tl.minimum((span + 1) * SPAN, V)",
        "tl.minimum((span + 1) * SPAN + 1, V)", check_values, SPANS, FIRST,
    ),
    "spans count alike in the entropy": Mistake(
        in_spans, "log_share_SN.exp() * (entropy_SN - log_share_SN)",
        "(entropy_SN - log_share_SN) / S", check_values, SPANS, SECOND,
    ),
    "a span's share is not in the entropy": Mistake(
        in_spans, "(entropy_SN - log_share_SN)", "entropy_SN",
        check_values, SPANS, SECOND,
    ),
    "every span is the first one on the way back": Mistake(
        in_spans, "v = first + column.to(tl.int64)", "v = column.to(tl.int64)",
        check_gradients, SPANS, GRADIENT,
    ),
    "dhidden is that of the last span": Mistake(
        in_spans, "dhidden_ND += dlogits @ weight_VD[span]",
        "dhidden_ND.copy_(dlogits @ weight_VD[span])",
        check_gradients, SPANS, GRADIENT,
    ),
    "an ignored row has a gradient": Mistake(
        linear, "dx = tl.where((target >= 0)[:, None], dx, 0.0)", "dx = dx",
        check_gradients, TILES, GRADIENT,
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
    "the larger gain counts": Mistake(
        grpo, "loss = -tl.minimum(rho * A, clipped * A)",
        "loss = -tl.maximum(rho * A, clipped * A)", check_values, GROUP, FIRST,
    ),
    "the ratio is always the clipped one": Mistake(
        grpo, "loss = -tl.minimum(rho * A, clipped * A)", "loss = -clipped * A",
        check_values, GROUP, FIRST,
    ),
    "both bounds are the lower one": Mistake(
        grpo, "1.0 - eps_low), 1.0 + eps_high)", "1.0 - eps_low), 1.0 + eps_low / 2)",
        check_values, GROUP, FIRST,
    ),
    "the loss is turned round": Mistake(
        grpo, "loss + beta * kl, mask=inside", "-loss + beta * kl, mask=inside",
        check_values, GROUP, FIRST,
    ),
    "the KL is turned round": Mistake(
        grpo, "0.0, ref - logp)", "0.0, logp - ref)",
        check_values, GROUP, FIRST,
    ),
    "the KL is k2": Mistake(
        grpo, "kl = tl.exp(d) - d - 1.0", "kl = d * d / 2.0",
        check_values, GROUP, FIRST,
    ),
    "all sequences have the first one's advantage": Mistake(
        grpo, "advantage_ptr + n // T", "advantage_ptr + 0 * n",
        check_values, GROUP, FIRST,
    ),
    "an advantage for each token": Mistake(
        grpo, "advantage_ptr + n // T", "advantage_ptr + n % T",
        check_values, GROUP, FIRST,
    ),
    "a clipped token has a gradient": Mistake(
        grpo, "tl.where(clipped * A < rho * A, 0.0, -rho * A)", "-rho * A",
        check_gradients, GROUP, GRADIENT,
    ),
    "every ratio out of bounds is taken for clipped": Mistake(
        grpo, "tl.where(clipped * A < rho * A, 0.0, -rho * A)",
        "tl.where(clipped != rho, 0.0, -rho * A)", check_gradients, GROUP, GRADIENT,
    ),
    "the ratio's gradient lacks the ratio": Mistake(
        grpo, "0.0, -rho * A)", "0.0, -A)", check_gradients, GROUP, GRADIENT,
    ),
    "the KL has no gradient": Mistake(
        grpo, "by_kl = 1.0 - tl.exp(d)", "by_kl = 0.0 * d",
        check_gradients, GROUP, GRADIENT,
    ),
    "log p itself gets nothing back": Mistake(
        grpo, "g = dlogp + dloss * by_logp", "g = dloss * by_logp",
        check_gradients, GROUP, GRADIENT,
    ),
    "the KL is not weighed": Mistake(
        corrected, "        kl *= rho\n", "", check_values, GROUP, FIRST,
    ),
    "the weight of the KL has no gradient": Mistake(
        corrected, "        by_ratio += beta * rho * kl\n", "",
        check_gradients, GROUP, GRADIENT,
    ),
    "the weight of the KL is in its derivative twice": Mistake(
        corrected, "        by_ratio += beta * rho * kl\n        kl *= rho\n",
        "        kl *= rho\n        by_ratio += beta * rho * kl\n",
        check_gradients, GROUP, GRADIENT,
    ),
    "a sequence's ratio is the product of its tokens'": Mistake(
        gspo, "return (total_B1 / n_B1)", "return (total_B1 / 1)",
        check_values, GROUP, FIRST,
    ),
    "ignored tokens are in the mean": Mistake(
        gspo, "n_B1 = counts_BT.sum(1, keepdim=True)",
        "n_B1 = torch.ones_like(counts_BT).sum(1, keepdim=True)",
        check_values, GROUP, FIRST,
    ),
    "each token has its own share of the ratio": Mistake(
        gspo, "        if ctx.surrogate == \"gspo\":", "        if False:",
        check_gradients, GROUP, GRADIENT,
    ),
    "the clipped weight has a gradient": Mistake(
        cispo, "by_ratio = tl.zeros_like(rho)", "by_ratio = -clipped * A * logp",
        check_gradients, GROUP, GRADIENT,
    ),
    "the weight is not clipped": Mistake(
        cispo, "loss = -clipped * A * logp", "loss = -rho * A * logp",
        check_values, GROUP, FIRST,
    ),
    "the gradient's weight is not clipped": Mistake(
        cispo, "by_logp = -clipped * A", "by_logp = -rho * A",
        check_gradients, GROUP, GRADIENT,
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

"""Mistakes in the routing kernels, each one replacement in their source, are caught."""

import dataclasses
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import kernels
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.harness_mixed import MixedOperation, check_gradients, check_values
from tests.kernels.test_moe_combine import COMBINE
from tests.kernels.test_moe_permute import permute_to
from tests.kernels.test_moe_router import ROUTER, routed_by

pytestmark = pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)


def router(module: ModuleType) -> MixedOperation:
    """With all biased scores below 0."""

    def inputs(shape, generator):
        logits, bias = ROUTER.inputs(shape, generator)
        return [logits, bias - 3]

    function = routed_by(module.moe_router)
    return dataclasses.replace(ROUTER, function=function, inputs=inputs)


def permute(module: ModuleType) -> MixedOperation:
    return permute_to(20, module)


def combine(module: ModuleType) -> MixedOperation:
    return dataclasses.replace(COMBINE, function=module.moe_combine)


MODULES = {
    router: ROUTER.module,
    permute: permute_to(1).module,
    combine: COMBINE.module,
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


FEW = Case((5, 13), torch.float32)
IN_GROUPS = Case((6, 12), torch.float32)
DY_APART = Case((5, 13), torch.float32, dy_layout="rows apart")
BLOCKS = Case((70, 8), torch.float32)
"""Three blocks of slots, the last one not full."""
VISITS = Case((5, 3, 300), torch.float32)
APART = Case((5, 3, 33), torch.float32, layout="rows apart")

MISTAKES = {
    "a dropped group's scores become 0, which is more than a negative one": Mistake(
        router,
        'return tl.where(kept, biased, float("-inf"))',
        "return tl.where(kept, biased, 0.0)",
        check_values,
        IN_GROUPS,
        "output 0 is wrong",
    ),
    "lanes beyond the last expert are chosen": Mistake(
        router,
        "is_expert & (biased == biased)",
        "biased == biased",
        check_values,
        FEW,
        "output 0 is wrong",
    ),
    "an expert is chosen again and again": Mistake(
        router,
        'biased = tl.where(is_winner, float("-inf"), biased)\n        tl.store',
        "tl.store",
        check_values,
        FEW,
        "output 0 is wrong",
    ),
    "the bias is in the weights": Mistake(
        router,
        "tl.where(is_winner, s, 0.0)",
        "tl.where(is_winner, biased, 0.0)",
        check_values,
        FEW,
        "output 1 is wrong",
    ),
    "the sum of the scores has no gradient": Mistake(
        router,
        "(dweight[k] - mean)",
        "dweight[k]",
        check_gradients,
        FEW,
        "gradient of input 0 is wrong",
    ),
    "the weights' gradient is taken to be packed": Mistake(
        router,
        "t * dweight_stride + k",
        "t * K + k",
        check_gradients,
        DY_APART,
        "gradient of input 0 is wrong",
    ),
    "lanes beyond the last slot count": Mistake(
        permute,
        "tl.histogram(expert, BLOCK_E, mask=r < R)",
        "tl.histogram(expert, BLOCK_E)",
        check_values,
        BLOCKS,
        "outside a torch.new_empty",
    ),
    "a block's own slots count as earlier ones": Mistake(
        permute,
        "before + tl.cumsum(count, axis=0) - count",
        "before + tl.cumsum(count, axis=0)",
        check_values,
        BLOCKS,
        "outside a torch.new_empty",
    ),
    "earlier blocks are forgotten": Mistake(
        permute,
        "start = first + tl.load(before_at, mask=e < E, other=0)",
        "start = first",
        check_values,
        BLOCKS,
        "output 0 was never written",
    ),
    "a row is taken for a slot": Mistake(
        combine,
        "row.to(tl.int64)[:, None] * z_stride",
        "(t * K + k)[:, None] * z_stride",
        check_values,
        VISITS,
        "output 0 is wrong",
    ),
    "weights of a token are taken to be packed": Mistake(
        combine,
        "weight = tl.load(weight_ptr + t * weight_stride + k",
        "weight = tl.load(weight_ptr + t * K + k",
        check_values,
        APART,
        "output 0 is wrong",
    ),
    "the rows' gradient is not weighted": Mistake(
        combine,
        "weight[k][:, None] * dy, mask",
        "dy, mask",
        check_gradients,
        VISITS,
        "gradient of input 0 is wrong",
    ),
    "the weights' gradient has the last elements only": Mistake(
        combine,
        "dweight += tl.where(column == k,",
        "dweight = tl.where(column == k,",
        check_gradients,
        VISITS,
        "gradient of input 1 is wrong",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_harness_fails_this_mistake(name, tmp_path):
    mistake = MISTAKES[name]
    right = MODULES[mistake.operation]
    mistake.check(mistake.operation(right), mistake.case)
    wrong = changed_module(right, mistake.old, mistake.new, tmp_path)
    with pytest.raises(AssertionError, match=mistake.says):
        mistake.check(mistake.operation(wrong), mistake.case)

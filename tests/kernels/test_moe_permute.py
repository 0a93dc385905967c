"""Permute passes the tests of a kernel without gradients, and its own."""

import pytest
import torch

from kernels import moe_permute as module
from kernels.moe_permute import moe_permute, moe_permute_cost, moe_permute_reference
from kernels.moe_routing import TOP_K
from kernels.operation import Cost
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import (
    DEVICE,
    INTERPRET,
    BadCall,
    check_bad_calls,
    needs_a_kernel,
)
from tests.kernels.harness_mixed import MixedOperation, check_specs, check_values


def refused(call, sentence):
    return BadCall(call, f"moe_permute: {sentence}")


INDEX = torch.tensor([[0, 2], [2, 1]], dtype=torch.int32)
BAD_CALLS = [
    refused(lambda: moe_permute([[0]], 1), "index must be a torch.Tensor; got list."),
    refused(
        lambda: moe_permute(INDEX[0], 3),
        "index must have shape (T, K), tokens by experts a token, with K 1 to 32; got "
        "(2,).",
    ),
    refused(
        lambda: moe_permute(INDEX.repeat(1, 17), 3),
        "index must have shape (T, K), tokens by experts a token, with K 1 to 32; got "
        "(2, 34).",
    ),
    refused(lambda: moe_permute(INDEX.float(), 3), "index must be int32; got float32."),
    refused(lambda: moe_permute(INDEX, 0), "experts must be 1 to 1024; got 0."),
    refused(lambda: moe_permute(INDEX, 1025), "experts must be 1 to 1024; got 1025."),
    refused(
        lambda: moe_permute(INDEX, "3"), "experts must be a whole number; got '3'."
    ),
    refused(
        lambda: moe_permute(INDEX, 2),
        "index must be 0 to 1 for 2 experts; 2 of 4 are not.",
    ),
    refused(
        lambda: moe_permute(INDEX.to(DEVICE) - 1, 3, check_index=True),
        "index must be 0 to 2 for 3 experts; 1 of 4 are not.",
    ),
    refused(
        lambda: moe_permute(torch.zeros(1, 1, dtype=torch.int32).expand(2**26, 16), 1),
        "index must have fewer than 2^30 elements, as rows are int32; got 1073741824.",
    ),
]


def permute_to(E, module=module):
    """The operation for E experts, each as likely as another."""
    return MixedOperation(
        module=module,
        function=lambda index, interpret: module.moe_permute(index, E, interpret),
        reference=lambda index: moe_permute_reference(index, E),
        inputs=lambda shape, generator: [
            torch.randint(E, shape, generator=generator).int()
        ],
        value_cases=(),
        gradient_cases=(),
        small=(3, 2),
        bad_calls=BAD_CALLS,
        dtypes=[torch.float32],  # of which it has no input
        benchmark_shape=lambda shape: (2, TOP_K),
    )


SIZES = [(64, 8, 20), (5, 2, 3), (1, 1, 1), (7, 3, 1), (0, 2, 4), (13, 8, 33)]
"""T, K, E: one block of slots."""
SIZES += [(70, 8, 128), (40, 3, 130), (700, 3, 5)]
"""Several, and a last one that is not full."""


@needs_a_kernel
@pytest.mark.parametrize("T, K, E", SIZES)
def test_values(T, K, E):
    check_values(permute_to(E), Case((T, K), torch.float32))


@needs_a_kernel
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "contiguous"])
def test_values_of_an_index_that_lies_otherwise(layout):
    check_values(permute_to(7), Case((9, 4), torch.float32, layout=layout))


@needs_a_kernel
def test_more_blocks_than_the_prefix_takes_at_a_time(monkeypatch):
    """9 blocks of 16 slots, their counts added 4 at a time."""
    one_warp = {"num_warps": 1, "num_stages": 1}
    slots = {"BLOCK_R": 16, "BLOCK_E": 8, **one_warp}
    monkeypatch.setattr(module, "block_launch", lambda E: slots)
    monkeypatch.setattr(module, "prefix_launch", lambda: {"BLOCK_B": 4, **one_warp})
    check_values(permute_to(6), Case((45, 3), torch.float32))


def test_bad_input():
    check_bad_calls(permute_to(3))


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    check_specs(permute_to(128), monkeypatch)


def permuted(index, experts, interpret):
    """By the kernels, or by what serves a CPU."""
    if not interpret:
        return moe_permute(index, experts)
    return moe_permute(index.to(DEVICE), experts, interpret=INTERPRET)


@needs_a_kernel
@pytest.mark.parametrize("interpret", [True, False], ids=["kernel", "CPU"])
@pytest.mark.parametrize(
    "chosen",
    [
        lambda T, K: torch.randint(5, (T, K)),
        lambda T, K: torch.full((T, K), 4),
        lambda T, K: torch.zeros(T, K),
        lambda T, K: torch.tensor([1, 3]).repeat(T, K)[:, :K],
    ],
    ids=["any", "all to the last", "all to the first", "three experts are empty"],
)
def test_experts_rows_lie_side_by_side_in_the_order_of_their_slots(chosen, interpret):
    T, K, E = 600, 3, 5  # two blocks
    torch.manual_seed(0)
    index = chosen(T, K).int()
    slot, row, first = permuted(index, E, interpret)
    experts = index.flatten().tolist()
    assert slot.tolist() == sorted(range(T * K), key=lambda s: experts[s])
    assert row.flatten()[slot.long()].tolist() == list(range(T * K))
    for e in range(E):
        rows = slot[first[e] : first[e + 1]].tolist()
        assert [experts[s] for s in rows] == [e] * len(rows)
    assert first[0] == 0 and first[E] == T * K


@needs_a_kernel
@pytest.mark.parametrize("interpret", [True, False], ids=["kernel", "CPU"])
def test_the_example_of_the_module(interpret):
    """moe_routing's: token 0 visits experts 2 and 0, token 1 experts 0 and 1."""
    index = torch.tensor([[2, 0], [0, 1]])  # int64 is taken, too
    slot, row, first = permuted(index, 3, interpret)
    assert slot.tolist() == [1, 2, 3, 0]
    assert row.tolist() == [[3, 0], [1, 2]]
    assert first.tolist() == [0, 2, 3, 4]
    assert {x.dtype for x in (slot, row, first)} == {torch.int32}


def test_the_cost_by_hand():
    """4 slots and 3 experts: 4 read, 4 + 4 + 4 written, of 4 bytes each."""
    assert moe_permute_cost(2, 3, 2) == Cost(4 * 16, 0)

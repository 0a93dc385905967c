"""Which layouts are legal, and what is said of those that are not."""

from __future__ import annotations

import math

import pytest

from labsupport.distributed.parallel.layout import AXES, Layout, check, layouts
from labsupport.distributed.parallel.schedules import SCHEDULES
from labsupport.distributed.parallel.stages import blocks_of_stages
from labsupport.errors import LabError
from labsupport.nn import GPTConfig

CONFIG = GPTConfig(d_model=64, n_layers=4, n_heads=4, d_ff=160)


def legal(layout: Layout, **changed: object) -> None:
    config = GPTConfig(**({"d_model": 64, "n_layers": 4, "n_heads": 4} | changed))
    check(layout, config, world=layout.world, batch_size=8)


def test_every_layout_of_four_ranks() -> None:
    found = layouts(4, CONFIG, 16)
    assert len(set(found)) == len(found)
    for layout in found:
        assert math.prod(layout.size(axis) for axis in AXES) == 4
    # Ways to write 4 as a product of four ordered factors: 10 (choose where the two
    # twos go). Sharding without a pipeline counts twice: with and without resharding.
    sharded = [x for x in found if x.shard > 1 and x.pipeline == 1]
    assert len(found) == 10 + len(sharded) / 2
    assert {x.reshard for x in sharded} == {True, False}


def test_experts_join_in_when_there_are_some() -> None:
    dense, mixture = (layouts(4, CONFIG, 16, experts=n) for n in (0, 8))
    assert not any(x.expert > 1 for x in dense)
    joined = [str(x) for x in mixture if x.expert > 1]
    assert joined == ["expert 4", "replicate 2 x expert 2"]
    assert not any(x.tensor > 1 for x in mixture)


def test_what_cannot_be_cut_is_left_out() -> None:
    odd = GPTConfig(d_model=60, n_layers=3, n_heads=3, d_ff=96, vocab_size=254)
    for layout in layouts(4, odd, 4, microbatches=2):
        assert layout.tensor == 1  # 3 heads
        assert layout.shard < 4  # 254 rows of the embedding
        assert layout.pipeline < 4  # 3 layers


def test_a_world_that_no_layout_fits() -> None:
    with pytest.raises(LabError) as error:
        layouts(7, CONFIG, 8)
    said = str(error.value)
    assert said.startswith("No layout fits 7 ranks, whose divisors are 1, 7.")
    for reason in ("heads 4", "A batch of 8", "4 microbatches for 7 stages"):
        assert reason in said


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"shard": 0}, "Layout.shard=0: a whole number, at least 1"),
        ({"tensor": 2.0}, r"Layout.tensor=2.0: a whole number"),
        ({"pipeline": 2, "schedule": "2F2B", "microbatches": 4}, "use one of GPipe"),
        ({"pipeline": 4, "microbatches": 3}, "3 microbatches for 4 stages: the pipeli"),
        (
            {"pipeline": 2, "schedule": "ZBV", "microbatches": 3},
            "3 microbatches for 4 stages: .* use at least 4",
        ),
        (
            {"pipeline": 2, "schedule": "Interleaved1F1B", "microbatches": 7},
            "do not form equal rounds; use a multiple of 2",
        ),
        ({"microbatches": 2}, "microbatches=2 without a pipeline"),
        ({"pipeline": 2, "shard": 2, "microbatches": 2}, "use reshard=False with it"),
        ({"expert": 2, "tensor": 2}, "expert=2 can be joined with replicate only"),
    ],
)
def test_layouts_that_cannot_be(axes: dict, sentence: str) -> None:
    with pytest.raises(LabError, match=sentence):
        Layout(**axes)


@pytest.mark.parametrize("name", SCHEDULES)
def test_fewer_microbatches_than_stages_are_refused(name: str) -> None:
    stages = 2 * SCHEDULES[name].per_rank
    Layout(pipeline=2, schedule=name, microbatches=stages)
    with pytest.raises(LabError, match="the pipeline would hang"):
        Layout(pipeline=2, schedule=name, microbatches=stages - 1)


def test_another_number_of_ranks() -> None:
    sentence = (
        r"replicate 3 x tensor 2 needs 6 ranks and there are 4: use factors of 4 "
        r"\(1, 2, 4\) whose product is 4"
    )
    with pytest.raises(LabError, match=sentence):
        check(Layout(replicate=3, tensor=2), CONFIG, world=4, batch_size=6)


@pytest.mark.parametrize(
    ("layout", "changed", "sentence"),
    [
        (Layout(replicate=3), {}, "batch of 8 .* over 3 ranks: use a multiple of 3"),
        (
            Layout(replicate=2, pipeline=2, microbatches=8),
            {},
            "over 2 ranks in 8 microbatches: use a multiple of 16",
        ),
        (Layout(tensor=3), {}, r"heads 4 cannot .* of 4 for tensor \(1, 2, 4\)"),
        (Layout(tensor=4), {"d_ff": 90}, "FFN width 90 cannot be cut over 4 ranks"),
        (Layout(shard=4), {"d_model": 24, "n_heads": 2, "d_ff": 66}, "FFN width 66 gi"),
        (Layout(shard=8), {"vocab_size": 100}, "vocabulary 100 gives uneven shards"),
        (Layout(shard=2, tensor=2), {"d_ff": 90}, "FFN width 90 gives uneven shards"),
        (Layout(pipeline=8, microbatches=8), {}, "4 layers for 8 stages"),
        (Layout(pipeline=2, microbatches=2), {"tied": True}, "use tied=False"),
        (Layout(expert=2), {}, "A model without experts cannot be spread over 2 ranks"),
    ],
)
def test_models_that_a_layout_does_not_fit(
    layout: Layout, changed: dict, sentence: str
) -> None:
    with pytest.raises(LabError, match=sentence):
        legal(layout, **changed)


def test_experts_that_do_not_fit() -> None:
    with pytest.raises(LabError, match="6 experts cannot be spread over 4 ranks"):
        check(Layout(expert=4), CONFIG, world=4, batch_size=8, experts=6)
    with pytest.raises(LabError, match="use expert instead"):
        check(Layout(tensor=2), CONFIG, world=2, batch_size=8, experts=6)
    with pytest.raises(LabError, match="experts 6 gives uneven shards over 4"):
        check(Layout(shard=4), CONFIG, world=4, batch_size=8, experts=6)


def test_stages_are_as_equal_as_can_be() -> None:
    assert blocks_of_stages(5, 2) == [range(3), range(3, 5)]
    assert SCHEDULES["Interleaved1F1B"].stages_of(1, 2) == [1, 3]
    assert SCHEDULES["ZBV"].stages_of(0, 2) == [0, 3]
    assert SCHEDULES["ZBV"].stages_of(1, 2) == [1, 2]


def test_a_layout_in_words() -> None:
    assert str(Layout()) == "one process"
    assert str(Layout(shard=2, tensor=2)) == "shard 2 x tensor 2"
    assert str(Layout(shard=4, reshard=False)) == "shard 4, kept gathered"
    whole = Layout(replicate=2, pipeline=2, microbatches=4)
    assert str(whole) == "pipeline 2 x replicate 2, 1F1B of 4"

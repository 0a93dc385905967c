"""From one layout to another in the middle of a training: nothing changes but the
layout, and whatever goes wrong, an older checkpoint stays whole.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.labsupport.conftest import Parts
from tests.labsupport.reshard_ranks import AFTER, BEFORE, SWITCHES

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def switched(parallel: Parts) -> list[dict[str, Any]]:
    return parallel.ranks("switch", 4)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switched_training_is_that_of_one_process(switched: Any, name: str) -> None:
    """The labs' own recipe, without any of the engine."""
    for rank in switched:
        found = rank[name]
        assert len(found["switched"]) == BEFORE + AFTER
        assert found["switched"] == pytest.approx(found["alone"], abs=1e-5)
        assert found["weights"] < 1e-5


def test_a_switch_changes_no_loss(switched: Any) -> None:
    for rank in switched:
        with_it = rank["data to data x tensor"]["switched"]
        assert with_it == pytest.approx(rank["stayed"], abs=1e-6)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_charged(switched: Any, name: str) -> None:
    for rank in switched:
        assert rank[name]["seconds"] > 0
        assert rank[name]["written"] > 100_000
        assert rank[name]["files"] == [f"step-{BEFORE}"]


def test_what_cannot_be_read_is_refused_on_all_ranks(parallel: Parts) -> None:
    first, *others = parallel.ranks("refused", 4)
    assert all(other == first for other in others)
    missing = parallel.folder / "refused" / "step-7"
    damaged = {
        "one bit": "__0_0.distcp is not as it was written. Use an older one.",
        "metadata": ".metadata is not as it was written. Use an older one.",
        "a file less": "__0_0.distcp is missing.",
        "no manifest": "manifest.json is missing.",
        "no metadata": ".metadata is missing.",
        "foreign": "manifest.json is another program's.",
    }
    assert first == {
        **{
            name: f"The checkpoint {name} is damaged or no checkpoint of the labs: "
            f"{why}"
            for name, why in damaged.items()
        },
        "another model": "The checkpoint another model was made for another model: "
        "blocks.2.attention_norm.weight (weight) is missing there and (16,) here.",
        "missing": f"There is no checkpoint {missing}.",
        "again": "step-1 could not be written (it exists already); step-1 is whole.",
        "no folder": "step-1 could not be written (Not a directory); there is no older "
        "one.",
    }


def test_a_rank_that_is_lost_leaves_the_old_checkpoint_whole(parallel: Parts) -> None:
    lost = parallel.found("lost", 0)
    assert (parallel.folder / "lost.txt").read_text() == "failed: ranks [1] of 2"
    said = "step-3 could not be written (a rank was lost); step-2 is whole."
    assert lost["said"] == said
    assert lost["names"] == [".step-3.part", "step-2"]

    (after,) = parallel.ranks("after", 1)
    assert after["step"] == 2
    for name, weight in lost["weights"].items():
        assert torch.equal(after["weights"][name], weight)
    # What was left of the lost one is no obstacle.
    assert after["again"] == "step-3"
    assert after["names"] == ["step-2", "step-3"]

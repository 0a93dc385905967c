"""The primer's pictures show what moved, for every setting of their controls."""

import pytest

from labs.lab_processes import ranks_ours as ours
from labs.lab_processes.collectives_picture import before_and_after, collectives_view
from labs.lab_processes.cost_picture import cost_lines, cost_view
from labs.lab_processes.exercises import EXERCISES
from labs.lab_processes.glasses import terms_words
from labs.lab_processes.ring_picture import WORLDS, ring_explorer, ring_view

RING = {"ring": ours.ring_all_reduce, "through rank 0": ours.star_all_reduce}


def test_every_setting_has_a_picture_a_sentence_and_a_table():
    explorer = ring_explorer(RING)
    controls = explorer.controls
    for algorithm in controls["algorithm"].values:
        for world in controls["world"].values:
            for step in controls["step"].values:
                view = explorer.draw(algorithm=algorithm, world=world, step=step)
                assert view.figure.data and view.sentence.endswith(".")
                assert view.table["rank"] == list(range(world))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", RING)
def test_it_ends_with_every_sum_on_every_rank(name, world):
    view = ring_view(RING[name], name, world, done=99)
    whole = "+".join(map(str, range(world)))
    for chunk in range(world):
        assert view.table[f"chunk {chunk}"] == [whole] * world
    assert f"Done after {2 * (world - 1)} steps" in view.sentence


def test_what_moves_and_what_becomes_of_it():
    second = ring_view(ours.ring_all_reduce, "ring", 4, done=1)
    assert "rank 0 sends chunk 3 (0+3) to rank 1" in second.sentence
    assert second.figure.layout.title.text == (
        "Ring, 4 ranks, step 2 of 6: what arrives is added"
    )
    fourth = ring_view(ours.ring_all_reduce, "ring", 4, done=3)
    assert "rank 0 sends chunk 1 (0+1+2+3) to rank 1" in fourth.sentence
    assert "what arrives replaces what was there" in fourth.figure.layout.title.text
    # One arrow a rank, in two parts with the message between them.
    arrows = [a for a in second.figure.layout.annotations if a.showarrow]
    assert len(arrows) == 8


def test_the_busiest_rank_is_named_with_its_load():
    assert "rank 0, sent 1.75 times its vector" in (
        ring_view(ours.ring_all_reduce, "ring", 8, 99).sentence
    )
    assert "rank 0, sent 7 times its vector" in (
        ring_view(ours.star_all_reduce, "star", 8, 99).sentence
    )


def test_a_wrong_ring_shows_what_went_wrong():
    """A forced exercise: what was added twice, and where a deadlock begins."""
    ring = next(e for e in EXERCISES if e.id == "P.4")
    again = next(w.function for w in ring.wrong if w.name == "sum again")
    view = ring_view(again, "yours", 2, 99)
    assert view.table["chunk 0"] == ["0+0+1", "0+1"]

    def stuck(x_N, dist):
        dist.recv(x_N, (dist.get_rank() + 1) % 2)

    view = ring_view(stuck, "yours", 2, 0)
    assert "Then it fails: asked for ranks that all reach their end" in view.sentence
    assert "rank 0 waits to receive from rank 1" in view.sentence


def test_what_is_no_sum_is_a_question_mark():
    assert terms_words(float("nan"), 3) == "?"
    assert terms_words(0.5, 3) == "?"
    assert terms_words(0, 3) == "nothing"
    assert terms_words(102, 3) == "0+0+2"


def test_collectives_do_what_the_sentence_says():
    terms, chunks, after, which = before_and_after("all_to_all")
    assert terms.shape == chunks.shape == after.shape == which.shape == (4, 4)
    assert after.tolist() == [[1, 10, 100, 1000]] * 4
    assert which.tolist() == [[rank] * 4 for rank in range(4)]
    _, _, after, which = before_and_after("reduce_scatter")
    assert after.tolist() == [[1111]] * 4
    assert which.flatten().tolist() == [0, 1, 2, 3]
    assert "reduce_scatter: rank r gets the sum of chunk r" in (
        collectives_view().sentence
    )


def test_the_cost_is_told_as_it_was_measured():
    fit, mb, ms = (0.5, 2.0), [0.001, 2.0], [0.6, 1.5]
    view = cost_view(mb, ms, fit, seventh=(4.0, 3.0))
    assert "was predicted at 2.5 ms and took 3 ms" in view.sentence
    lines = cost_lines(mb, ms, fit)
    assert lines[1].split() == "0.001 0.600 ms 0.500 ms +20%".split()
    assert lines[2].split() == "2 1.500 ms 1.500 ms +0%".split()

"""Lab 01's explorers and its picture say what the numbers say."""

from html import escape

import pytest
import torch

from labs.lab_01.arms import ARMS
from labs.lab_01.gain_explorer import (
    LARGE,
    SMALL,
    gain_explorer,
    number,
    random_curves,
    random_maps,
    spread,
    trained_curves,
)
from labs.lab_01.picture import idea_view
from labs.lab_01.picture import random_maps as random_maps_of_a_branch
from labs.lab_01.recompute_explorer import best_block, memory, recompute_explorer
from labs.lab_01.sinkhorn_explorer import (
    drawn,
    errors,
    iterates,
    sinkhorn_explorer,
)
from labsupport.claims.provenance import provenance
from labsupport.claims.record import load_record
from labsupport.errors import LabError
from labsupport.nn.hyper_connections import Maps, sinkhorn
from tests.labs.every_view import every_view


def test_equation_20_at_the_papers_size():
    assert memory(60, 4, 6) == (40, 36)
    assert (best_block(60, 1), sum(memory(60, 1, 4))) == (4, 27)
    assert best_block(60, 4) == 6
    explorer = recompute_explorer()
    view = explorer.draw(**explorer.start_values())
    assert "blocks of 6 need least, 76 C" in view.sentence
    assert "against 240 C" in view.sentence
    assert "says 6.3" in view.sentence
    assert view.table["together (C)"][5] == 76


def test_equation_20_with_a_last_block_that_is_not_full():
    assert memory(10, 4, 4) == (12, 24)


def test_no_block_size_needs_less_than_the_best_and_the_formula_is_near():
    for setting, view in every_view(recompute_explorer()):
        L, n = setting["L"], setting["n"]
        best = best_block(L, n)
        least = sum(memory(L, n, best))
        assert all(least <= sum(memory(L, n, block)) for block in range(1, L + 1))
        assert f"{least} C" in view.sentence
        rule = round((n * L / (n + 2)) ** 0.5)
        assert sum(memory(L, n, rule)) <= 1.1 * least


@pytest.mark.parametrize(("L", "n", "block"), [(0, 4, 1), (8, 0, 1), (8, 4, 9)])
def test_memory_of_what_cannot_be(L, n, block):
    with pytest.raises(LabError, match="at least 1"):
        memory(L, n, block)


def test_sinkhorn_explorer_iterates_what_the_module_uses():
    logits_nnM = drawn(3.0)
    for steps in (1, 20):
        shown = iterates(logits_nnM, steps, "columns first")[-1]
        torch.testing.assert_close(shown, sinkhorn(logits_nnM, steps))
    # Rows first is the same with rows and columns exchanged.
    turned = iterates(logits_nnM.transpose(0, 1), 7, "rows first")[-1]
    expected = iterates(logits_nnM, 7, "columns first")[-1]
    torch.testing.assert_close(turned.transpose(0, 1), expected)


def test_what_sinkhorn_normalises_last_is_exact_and_the_rest_comes_nearer():
    for logit_spread in (0.5, 2.0, 8.0):
        columns_first = errors(logit_spread, "columns first")
        assert max(columns_first["rows"]) < 1e-15
        assert columns_first["columns"][0] > 1e-3
        assert columns_first["columns"][-1] < columns_first["columns"][0] / 10
        assert max(errors(logit_spread, "rows first")["columns"]) < 1e-15


def test_twenty_iterations_are_enough_for_small_logits_only():
    """The reference's medians: 3.5e-13 at spread 1, 8.6e-7 at 2, 3.2e-3 at 4."""
    after_20 = {s: errors(s, "columns first")["columns"][19] for s in (1.0, 2.0, 4.0)}
    assert after_20[1.0] < 1e-11
    assert 1e-8 < after_20[2.0] < 1e-5
    assert 1e-3 < after_20[4.0] < 1e-2


def test_sinkhorn_explorer_says_which_gain_is_exact():
    explorer = sinkhorn_explorer()
    for setting, view in every_view(explorer, spread=(0.5, 2.0, 8.0)):
        paper = setting["order"] == "columns first"
        exact = "rows sum to one exactly, and the forward gain is one"
        assert (exact in view.sentence) == paper
        # A gain counts what is above one; a sum may also be below it.
        assert "gain by at most that" in view.sentence
    start = explorer.draw(**explorer.start_values())
    sums = [note.text for note in start.figure.layout.annotations]
    assert sums.count("1.000") == 8


def test_sinkhorn_of_what_cannot_be():
    with pytest.raises(LabError, match="columns first, rows first"):
        iterates(torch.zeros(2, 2, 1), 1, "diagonal")
    with pytest.raises(LabError, match=r"shape \(n, n, M\)"):
        iterates(torch.zeros(2, 3, 1), 1, "rows first")


def made_up_record() -> dict:
    """Two seeds and one learning rate; HC grows tenfold a branch."""
    flat, tens = [1.0, 1.0, 1.0], [10.0, 100.0, 1000.0]
    rows = []
    for seed in (0, 1):
        for arm in ARMS:
            curve = [value * (1 + seed) for value in tens] if arm == "hc" else flat
            names = ("forward", "backward", "least", "mixed")
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "lr": 0.01,
                    "failed": 0,
                    **dict.fromkeys(names, curve),
                    "origin": provenance(),
                }
            )
    return {"rows": rows}


def test_gains_of_the_record_are_drawn_with_their_spread_and_origin():
    explorer = gain_explorer(made_up_record())
    view = explorer.draw(shown="forward gain", maps="trained, lr 0.01", depth=2)
    assert "after 2 branches" in view.sentence
    assert "median of 2 seeds" in view.sentence
    assert "HC 150 (100 to 200)" in view.sentence
    assert "mHC 1," in view.sentence
    notes = [note.text for note in view.figure.layout.annotations]
    assert any(note.startswith("Recorded on") and "commit" in note for note in notes)
    assert "HC <b>150</b>" in notes
    (line,) = (trace for trace in view.figure.data if trace.name == "HC")
    assert list(line.y) == [15, 150]


def test_more_branches_than_the_model_has_are_not_invented():
    explorer = gain_explorer(made_up_record())
    view = explorer.draw(shown="forward gain", maps="trained, lr 0.01", depth=128)
    assert "after 3 branches" in view.sentence


def test_a_failed_training_has_no_maps_to_show():
    record = made_up_record()
    for row in record["rows"]:
        row["failed"] = int(row["seed"] == 1)
    view = gain_explorer(record).draw(
        shown="forward gain", maps="trained, lr 0.01", depth=2
    )
    assert "HC 100," in view.sentence


def test_what_is_not_recorded_is_called_not_measured():
    for setting, view in every_view(gain_explorer({"rows": []}), depth=(2, 128)):
        trained = setting["maps"].startswith("trained")
        assert ("Not measured yet" in view.sentence) == trained


def test_random_maps_are_what_their_names_say():
    for arm in ("residual", "identity"):
        assert torch.equal(
            random_maps(LARGE, arm, 0)[5], torch.eye(4 if arm == "identity" else 1)
        )
    hc_Lnn = random_maps(SMALL, "hc", 0)
    assert 0.09 < (hc_Lnn - torch.eye(4)).std() < 0.11
    for maps in (SMALL, LARGE):
        rows = random_maps(maps, "row_softmax", 0)
        assert (rows.sum(2) - 1).abs().max() < 1e-12
        both = random_maps(maps, "mhc", 0)
        assert (both.sum(2) - 1).abs().max() < 1e-12
        assert (both.sum(1) - 1).abs().median() < 1e-3
    assert (random_maps(LARGE, "row_softmax", 0).sum(1) - 1).abs().max() > 0.5


def test_random_hc_explodes_and_the_projection_holds():
    forward = random_curves(LARGE, "forward gain")
    assert min(curve[-1] for curve in forward["hc"]) > 1e20
    assert max(curve[-1] for curve in forward["mhc"]) < 1 + 1e-9
    backward = random_curves(LARGE, "backward gain")
    # Rows alone are not enough: gradients still grow.
    assert min(curve[-1] for curve in backward["row_softmax"]) > 1.2
    assert max(curve[-1] for curve in backward["mhc"]) < 1.1
    # Small maps are the honest comparison: HC grows, but by far less.
    small = random_curves(SMALL, "forward gain")
    assert 2 < max(curve[-1] for curve in small["hc"]) < 1000


def test_the_record_shows_what_the_paper_shows():
    try:
        record = load_record("01", "gain")
    except LabError:
        pytest.skip("not recorded yet")
    for shown in ("forward gain", "backward gain"):
        curves = trained_curves(record, shown, 0.01)
        hc, mhc = (spread(curves[arm]) for arm in ("hc", "mhc"))
        # Every seed of HC lies above every seed of mHC, after every branch.
        assert all(low > high for low, high in zip(hc[0], mhc[2], strict=True))
    every_view(gain_explorer(), depth=(24,))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "1"),
        (1.00668, "1.007"),
        (0.97649, "0.976"),
        (153.2, "153"),
        (28895.0, "28,895"),
        (2.86e29, "2.9 × 10²⁹"),
        (2.36e-5, "2.4 × 10⁻⁵"),
    ],
)
def test_numbers_are_short(value, words):
    assert number(value) == words


def test_the_picture_shows_sums_of_one_in_mhc_alone():
    view = idea_view()
    assert "random maps" in view.figure.layout.title.text
    table = view.table
    assert table["mHC row sum"] == pytest.approx([1] * 4, abs=1e-12)
    assert table["mHC column sum"] == pytest.approx([1] * 4, abs=0.005)
    assert max(abs(value - 1) for value in table["HC row sum"]) > 0.5
    assert "rows that sum to 1.00 and columns to 1.00" in view.sentence
    # One heat map a panel, with the numbers of the maps.
    maps = [trace for trace in view.figure.data if trace.type == "heatmap"]
    assert [len(trace.z) for trace in maps] == [1, 4, 4]
    res_nn = random_maps_of_a_branch()["HC"].res_nnM[..., 0]
    assert maps[1].z[-1] == pytest.approx(res_nn[0].tolist())


def test_the_picture_of_other_maps():
    maps = random_maps_of_a_branch(5)
    view = idea_view(maps["HC"], maps["mHC"])
    assert "random" not in view.figure.layout.title.text
    assert view.table["HC reads"] == maps["HC"].pre_nM[:, 0].tolist()


def test_maps_that_cannot_be_drawn():
    maps = random_maps_of_a_branch()["HC"]
    with pytest.raises(LabError, match="both HC and mHC, or none"):
        idea_view(maps)
    many = Maps(*(x.repeat_interleave(2, -1) for x in vars(maps).values()))
    with pytest.raises(LabError, match="got 2 tokens and 4 lanes"):
        idea_view(many, many)


@pytest.mark.parametrize(
    ("explorer", "moves"),
    [
        (recompute_explorer(), [("L", 120), ("n", 2), ("L", 60), ("n", 4)]),
        (
            sinkhorn_explorer(),
            [("order", "rows first"), ("spread", 8.0), ("iterations", 1)],
        ),
        (
            gain_explorer(made_up_record()),
            [
                ("shown", "lanes kept apart"),
                ("maps", "trained, lr 0.001"),
                ("maps", LARGE),
                ("shown", "backward gain"),
                ("maps", SMALL),
                ("depth", 2),
            ],
        ),
    ],
    ids=["recompute", "sinkhorn", "gain"],
)
def test_a_live_figure_shows_what_a_fresh_one_would(explorer, moves):
    """Nothing of an earlier view stays behind: axes, marks, notes."""
    panel = explorer.panel()
    *knobs, picture, words = panel.children
    setting = explorer.start_values()
    for name, value in moves:
        setting[name] = value
        knobs[list(setting).index(name)].value = value
        view = explorer.draw(**setting)
        assert escape(view.sentence) in words.value
        assert [t.name for t in picture.data] == [t.name for t in view.figure.data]
        notes = [note.text for note in view.figure.layout.annotations]
        assert [note.text for note in picture.layout.annotations] == notes
        for axis in ("xaxis", "yaxis"):
            shown, fresh = picture.layout[axis], view.figure.layout[axis]
            assert (shown.type or "linear") == (fresh.type or "linear")
            assert shown.visible in (fresh.visible, None)
            assert (shown.tickmode or "auto") == (fresh.tickmode or "auto")

"""Lab 02's explorers, pictures and tables say what the record says."""

import statistics

import pytest

from labs.lab_02 import record_tables as tables
from labs.lab_02.bars_explorer import SKEWS, STEPS, bars_explorer, load_view
from labs.lab_02.experiments import BALANCED, SPEEDS, chosen, coefficient_of
from labs.lab_02.heat_explorer import TEXT, TEXT_ARMS, TOY, heat_explorer
from labs.lab_02.language import ARMS as LANGUAGE_ARMS
from labs.lab_02.picture import BIASES, SCORES, idea_view
from labs.lab_02.size_explorer import size_explorer
from labs.lab_02.toy_runs import ARMS
from labsupport.claims.record import load_record
from tests.labs.every_view import every_view


@pytest.mark.slow  # in CI the browser moves this explorer
def test_every_choice_of_bars_is_recorded():
    for setting, view in every_view(bars_explorer()):
        assert "MaxVio" in view.sentence, setting
        assert len(view.table["expert"]) == 16
        # Loads are shares of an even load, so they sum to the number of experts.
        assert sum(view.table["load / even"]) == pytest.approx(16, abs=0.05)
        travelled = max(map(abs, view.table["bias"]))
        assert travelled <= setting["speed"] * setting["step"] + 1e-4


def test_a_speed_of_zero_leaves_biases_where_they_are():
    draw = bars_explorer().draw
    for skew in SKEWS:
        assert not any(draw(speed=0.0, skew=skew, step=STEPS[-1]).table["bias"])


def test_bars_say_who_is_dead():
    view = load_view([2.0, 1.98, 0.02, 0.0], [0.0] * 4, "four")
    assert "MaxVio 1.00" in view.sentence
    assert "2 are dead" in view.sentence
    one = load_view([2.0, 2.0, 1.0, 0.01], [0.1, 0.0, 0.0, 0.0], "four")
    assert "1 is dead" in one.sentence
    assert "Biases go from +0.000 to +0.100" in one.sentence


def test_bars_without_a_record():
    explorer = bars_explorer({"rows": []})
    assert "Not measured yet" in explorer.draw(**explorer.start_values()).sentence


def test_every_size():
    for setting, view in every_view(size_explorer()):
        assert ("cannot visit" in view.sentence) == (
            setting["top_k"] > setting["experts"]
        )


def test_heat_maps_are_the_records():
    missing = []
    for setting, view in every_view(heat_explorer()):
        if not view.table:
            missing.append((setting["data"], setting["arm"]))
    # A GPT has no recorded router before training, and no batch-wise loss.
    texts = set(heat_explorer().controls["arm"].values) - set(TEXT_ARMS)
    assert set(missing) == {(TEXT, arm) for arm in texts}
    row = next(
        r
        for r in load_record("02", "balance")["rows"]
        if r["arm"] == "free" and r["seed"] == 10
    )
    view = heat_explorer().draw(data=TOY, arm="loss-free", seed=10)
    assert f"{row['information']:.0%}" in view.sentence


def test_the_picture_shows_a_choice_that_the_bias_changes():
    view = idea_view()
    assert "By score it would go to experts 0 and 2" in view.sentence
    biased = [s + b for s, b in zip(SCORES, BIASES, strict=True)]
    first, second = sorted(range(8), key=lambda i: -biased[i])[:2]
    assert f"it goes to {first} and {second}" in view.sentence


# --- the choice of coefficients ----------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "arms"),
    [
        ("sweep", ("sequence", "batch", "free")),
        ("language_sweep", ("sequence", "free")),
    ],
)
def test_coefficients_follow_the_rule(experiment, arms):
    rows = load_record("02", experiment)["rows"]
    for arm in arms:
        means = {}
        for level in range(4):
            mine = [r for r in rows if r["arm"] == arm and r["level"] == level]
            assert len(mine) == 3
            means[coefficient_of(arm, level)] = tuple(
                statistics.fmean(r[name] for r in mine)
                for name in ("max_vio", "validation")
            )
        best = means[chosen(experiment, arm)]
        balanced = [m for m in means.values() if m[0] <= BALANCED[experiment]]
        if balanced:
            assert best == min(balanced, key=lambda m: m[1])
        else:
            assert best == min(means.values())


def test_the_reports_used_the_chosen_coefficients():
    for experiment, sweep, arms in (
        ("balance", "sweep", ("sequence", "batch", "free")),
        ("language", "language_sweep", ("sequence", "free")),
    ):
        for row in load_record("02", experiment)["rows"]:
            if row["arm"] in arms:
                assert row["coefficient"] == chosen(sweep, row["arm"]), experiment


# --- tables ------------------------------------------------------------------


def test_tables_have_a_line_for_everything():
    assert len(tables.opening_lines()) == 1 + 2 * 3
    assert len(tables.sweep_lines("sweep", ("sequence", "free"))) == 1 + 2 * 4
    assert (
        sum(line.endswith("*") for line in tables.sweep_lines("sweep", ARMS[1:])) == 3
    )
    assert len(tables.balance_lines()) == 2 + 2 * len(ARMS)
    assert len(tables.language_lines()) == 1 + len(LANGUAGE_ARMS)
    assert len(tables.update_lines()) == 1 + 4 * 3
    assert len(tables.size_lines()) == 1 + 5
    assert len(tables.time_lines()) == 4
    assert len(tables.verdict_lines()) == 5 * 3
    assert all(len(line) <= 90 for line in tables.language_lines())


def test_words_are_lowest_median_and_highest():
    rows = [{"x": value} for value in (3.0, 1.0, 2.0)]
    assert tables.words(rows, "x", 1) == "2.0 (1.0 - 3.0)"


def test_the_reveal_is_the_median_of_pairs():
    rows = load_record("02", "language")["rows"]
    loss = {(r["arm"], r["seed"], r["lr"]): r["validation"] for r in rows}
    gaps = [
        loss["none", seed, lr] - value
        for (arm, seed, lr), value in loss.items()
        if arm == "free"
    ]
    gap, sentence = tables.collapse_against_balance()
    assert gap == statistics.median(gaps)
    assert f"{gap:+.3f}" in sentence


def test_the_collapse_that_is_shown_is_the_records():
    row = next(
        r
        for r in load_record("02", "language")["rows"]
        if (r["arm"], r["seed"], r["lr"]) == ("none", 10, 0.01)
    )
    loads = [sum(column) for column in zip(*row["tables"][-1], strict=True)]
    violation = max(loads) / statistics.mean(loads) - 1
    assert f"MaxVio {violation:.2f}" in tables.collapse_view().sentence


def test_what_the_text_says_of_the_record():
    """Sentences of the lab that hold for this record; another may need others."""
    rows = load_record("02", "language")["rows"]
    loss = {(r["arm"], r["seed"], r["lr"]): r["validation"] for r in rows}
    pairs = [(seed, lr) for arm, seed, lr in loss if arm == "free"]

    def worse(arm, other):
        return sum(loss[arm, *pair] > loss[other, *pair] for pair in pairs)

    assert len(pairs) == 6
    assert worse("none", "free") == 5  # "in five of six pairs"
    assert worse("dense", "free") == 4  # "better ... in four of six pairs"
    assert worse("free", "dense_25") == 6
    assert all(r["information"] < 0.5 for r in rows if r["arm"] == "free")

    bars = load_record("02", "bars")["rows"]
    off = {(r["skew"], r["seed"]): r["validation"] for r in bars if not r["speed"]}
    for row in bars:
        if row["skew"] and row["speed"] >= 1e-3:  # "every speed that balances"
            assert row["validation"] > off[row["skew"], row["seed"]]


def test_pictures_hold_the_readers_star():
    yours = {"free": {"validation": 0.06, "max_vio": 0.2}}
    with_star = tables.toy_view(yours).figure
    assert len(with_star.data) == len(tables.toy_view().figure.data) + 1
    assert with_star.data[-1].name == "yours, loss-free"
    assert tables.language_view().sentence.startswith("Loss of experts, no balancing")
    assert tables.batch_size_view().table["sequences"][0] == 1


def test_speeds_of_the_bars_are_those_of_the_sweep():
    assert bars_explorer().controls["speed"].values == (0.0, *SPEEDS)

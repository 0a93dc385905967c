"""Lab 04b's tables and pictures say what the record says.

Read from the small records of scale ci, which have the same rows as those of cpu.
"""

import statistics

import pytest

from labs.lab_04b import experiments, slices
from labs.lab_04b import record_tables as tables
from labs.lab_04b.exploring import ARMS, NAMES, TRIALS
from labs.lab_04b.landscape_explorer import landscape_explorer
from labsupport.claims.record import load_record
from labsupport.claims.rows import pick
from labsupport.claims.verdict import judge
from labsupport.errors import LabError
from tests.labs.every_view import every_view


@pytest.fixture(autouse=True)
def small_records(monkeypatch):
    def rows_of(name):
        return load_record("04b", name, "ci")["rows"]

    monkeypatch.setattr(tables, "rows_of", rows_of)
    monkeypatch.setattr("labs.lab_04b.landscape_explorer.rows_of", rows_of)


def test_gaps_are_paired_by_seed():
    rows = [
        {"arm": "plain", "seed": 1, "validation": 2.0},
        {"arm": "plain", "seed": 2, "validation": 4.0},
        {"arm": "sam", "seed": 2, "validation": 4.4},
        {"arm": "sam", "seed": 1, "validation": 1.5},
    ]
    assert tables.gaps(rows, "sam") == pytest.approx([0.4, -0.5])
    assert tables.gap_words([-0.01, 0.0, 0.01]) == "+0.000 [-0.025, +0.025]"
    assert tables.words([3.0, 1.0, 2.0], 1) == "2.0 (1.0 - 3.0)"


def test_the_best_setting_is_the_one_that_was_reported():
    """The reported setting has the least mean loss of its arm's six."""
    lines, arm = tables.tuning_lines(), ""
    best = {}
    for line in lines:
        if not line.startswith(" "):
            arm, least = line, None
        else:
            *setting, mean = line.removesuffix("  <- best").split()
            least = float(mean) if least is None else min(least, float(mean))
            if line.endswith("<- best"):
                best[arm] = " ".join(setting)
                found = float(mean)
        if arm in best:
            assert found <= least
    for row in load_record("04b", "explore", "ci")["rows"]:
        name = NAMES["plain" if row["arm"] == "half" else row["arm"]]
        assert tables.setting_words(row) == best[name]
    assert len(lines) == len(ARMS) + sum(len(trials) for trials in TRIALS.values())


def test_half_a_tuning_chooses_nothing(monkeypatch):
    rows = load_record("04b", "tuning", "ci")["rows"]
    chosen = experiments.best_trial("sam", "ci")
    assert chosen in TRIALS["sam"]
    for kept, sentence in ((rows[:-1], "lawa has 17 of 18"), ([], "0 of 18 rows")):
        monkeypatch.setattr(
            experiments, "load_record", lambda *_, kept=kept: {"rows": kept}
        )
        with pytest.raises(LabError, match=sentence):
            experiments.best_trial("lawa", "ci")


def test_every_arm_has_its_line():
    for lines in (tables.explore_lines(), tables.repeated_lines()):
        assert len(lines) == 1 + len(ARMS) + 1
        for arm, line in zip((*ARMS, "half"), lines[1:], strict=True):
            assert line.startswith(tables.name_of(arm))
            assert ("[" in line) == (arm != "plain")
    assert len(tables.curve_lines()) == 1 + len(ARMS)
    assert len(tables.rise_lines()) == 1 + len(ARMS) + 1
    assert len(tables.balance_lines()) == 5
    assert len(tables.share_lines()) == 4
    assert len(tables.batch_lines()) == 4
    assert len(tables.noise_lines()) == 10
    assert len(tables.verdict_lines()) == 6


def test_the_noise_of_a_window_is_divided_after_the_mean():
    rows = pick(load_record("04b", "noise", "ci")["rows"], arm="gpt")
    signal, noise = (
        statistics.fmean(row[name][0] for row in rows) for name in ("signal", "noise")
    )
    assert tables.noise_lines()[1].split()[-1] == f"{noise / signal:.1f}"
    assert "made with 24, found 2" in tables.noise_lines()[-1]


def test_half_the_gradients_are_seen_to_be_worse():
    """The positive control; a record in which it fails could show nothing."""
    rows = load_record("04b", "explore", "ci")["rows"]
    _, low, _ = tables.confidence(tables.gaps(rows, "half"))
    assert low > 0


@pytest.mark.parametrize(
    ("shift", "right"),
    [
        ({"sam": -0.1}, "SAM or ASAM, which look around"),
        ({"ema": -0.2, "sam": -0.1}, "EMA or LAWA, which average"),
        ({}, "none of them: plain is as low"),
        ({"lawa": 0.3}, "none of them: plain is as low"),
    ],
)
def test_the_guess_has_the_answer_of_the_record(monkeypatch, shift, right):
    """An arm is lower if its interval is; chance alone does not decide."""
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "validation": 2.0 + shift.get(arm, 0.0) + 0.01 * ((seed + place) % 3),
        }
        for place, arm in enumerate(ARMS)
        for seed in range(5)
    ]
    monkeypatch.setattr(tables, "rows_of", lambda name: rows)
    assert tables.explore_answer() == right


def test_the_view_has_a_mark_for_every_seed():
    view = tables.explore_view()
    assert len(view.table["arm"]) == 5 * len(ARMS)
    assert "Mean gap to plain: SAM" in view.sentence


@pytest.mark.parametrize("claim", tables.CLAIMS)
def test_rules_read_columns_that_the_record_has(claim):
    from labsupport.claims import load_claim

    for rule in (load_claim(claim).rule, load_claim(claim).source_rule):
        assert rule is not None
        lab, name = rule.experiment.split("/")
        found = judge(rule, load_record(lab, name, "ci")["rows"])
        assert found.seeds == 5


def test_every_plane():
    for setting, view in every_view(landscape_explorer(compare=True)):
        assert view.sentence.startswith(setting["method"]), setting
        contour, path, star = view.figure.data
        assert (path.x[-1], path.y[-1]) == (0, 0) == (star.x[0], star.y[0])
        # The best of the plane is no worse than a corner.
        assert min(min(line) for line in contour.z) == contour.zmin
    compared = landscape_explorer(compare=True).controls
    assert len(compared["training"].values) == 3
    assert [NAMES[arm] for arm in slices.ARMS] == list(compared["method"].values)
    # Before the arms are explained there is only one.
    for _, view in every_view(landscape_explorer()):
        assert view.sentence.startswith("plain")

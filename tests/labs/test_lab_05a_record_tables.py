"""Lab 05a's tables say what the rows say. Made-up rows, so that answers are known."""

import pytest

from labs.lab_05a import record_tables as tables
from labsupport.errors import LabError

ORIGIN = {
    "machine": "m", "cpu": "c", "commit": "a" * 40, "date": "2026-11-28",
    "torch": "2", "python": "3", "os": "l",
}  # fmt: skip


def layout(arm, seed, **more):
    row = {
        "arm": arm, "seed": seed, "ms": 10.0 + seed, "loss": 3.0, "weights": 4_000_000,
        "gradients": 4_000_000, "optimizer": 8_000_000, "held_formula": 16_000_000,
        "sent": 6_000_000, "sent_formula": 6_000_000, "sent_gloo": 6_000_000,
        "sockets": 6_100_000, "all_reduce": 3, "all_gather": 0, "reduce_scatter": 0,
        "all_to_all": 0, "send": 0,
    }  # fmt: skip
    return {**row, **more}


def predict(arm, seed):
    return {
        "arm": arm, "seed": seed, "layouts": ["a", "b", "c"], "order": 0.5,
        "predicted_ms": [3.0, 1.0, 2.0], "measured_ms": [3.0 + seed, 2.0, 1.0],
        "regret": 0.1,
    }  # fmt: skip


def switch(arm, seed, late=0.0):
    times = {"ms_before": 10.0, "ms_after": 40.0, "switch_s": 0.5, "total_s": 3.0}
    return {
        "arm": arm, "seed": seed, "loss": [4.0, 3.0, 2.0, 1.0 + late], "last": 1.0,
        **{f"{t}_{link}": ms for t, ms in times.items() for link in tables.LINKS},
        "written": 10,
    }  # fmt: skip


ROWS = {
    "layouts": [
        *(layout("replicate 4", s) for s in (10, 11, 12)),
        *(layout("tensor 4", s, loss=3.00002, weights=1_000_000) for s in (10, 11, 12)),
        *(
            layout("expert 4", s, loss=9.0, sent_formula=None, held_formula=None)
            for s in (10, 11, 12)
        ),
    ],
    "predict": [
        predict(arm, s) for arm in ("two_ranks", "four_ranks") for s in (0, 1, 2)
    ],
    "switch": [
        *(
            switch(arm, s)
            for arm in ("copies", "hybrid", "cut")
            for s in (10, 11, 12)
        ),
        *(switch("copies_to_hybrid", s, 1e-6) for s in (10, 11, 12)),
        *(switch("cut_to_copies", s, -2e-6) for s in (10, 11, 12)),
    ],
    "share": [
        {
            "arm": arm, "seed": s, "lr": lr, "validation": loss + lr + s / 1000,
            "numbers": 127_296, "held": 2_000_000, "sent": 500_000,
        }
        for arm, loss in zip(tables.SHARES, (2.0, 2.1, 2.0, 2.1), strict=True)
        for s in (10, 11, 12)
        for lr in (0.002, 0.004)
    ],
    "sync": [
        {
            "arm": arm, "seed": s, "ms_unshaped": 20.0 + s, "ms_200mbit": 90.0,
            "messages": 7, "sent": 1_000_000,
        }
        for arm in tables.WAYS
        for s in (10, 11, 12)
    ],
    "schedules": [
        {"arm": arm, "seed": s, "microbatches": m, "ms": 5.0, "loss": 1.0, "pause": 0.2}
        for arm in ("one_process", "1F1B")
        for s in (10, 11, 12)
        for m in (4, 8)
    ],
    "balance": [
        {"arm": arm, "seed": s, "ms": 80.0, "idle": 0.5}
        for arm in tables.BALANCES
        for s in (20, 21, 22)
    ],
    "batch": [
        {"arm": arm, "seed": s, "lr": lr, "validation": loss, "steps": 40}
        for arm in tables.BATCHES
        for lr in (0.002, 0.004)
        for s, loss in ((20, 1.5), (21, 1.5 + lr * (lr > 0.002)), (22, 1.6))
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def made_up_rows(monkeypatch):
    monkeypatch.setattr(tables, "rows_of", ROWS.__getitem__)
    monkeypatch.setattr(tables, "caption", lambda name: f"made up, {name}")


def test_layouts():
    lines = tables.layout_lines()
    assert lines[1].split() == [
        *("replicate", "4", "16.00", "16.00", "6.00", "6.00", "6.10"),
        *("21.0", "(20.0", "-", "22.0)"),
    ]
    assert lines[2].split()[2] == "13.00"
    assert lines[3].split()[2:6] == ["16.00", "-", "6.00", "-"]
    assert tables.same_loss_words() == (
        "largest difference of the loss between 2 dense layouts, same seed: 0.00002"
    )
    assert tables.collective_lines()[1].split() == ["replicate", "4", *"30000"]


def test_predicted_and_measured_order():
    lines = tables.search_lines()
    assert [line.split()[0] for line in lines[1:]] == ["b", "c", "a"]
    assert [line.split()[-1] for line in lines[1:]] == ["2", "1", "3"]
    assert tables.order_lines()[1].split() == [
        *("2", "ranks", "0.50", "(0.50", "-", "0.50)", "10.0", "(10.0", "-", "10.0)"),
        "%",
    ]
    view = tables.predict_view()
    assert len(view.table["layout"]) == 6
    assert view.table["measured ms"][0] == 4.0
    assert view.sentence.endswith(".")


def test_the_switch():
    for link, name in tables.LINKS.items():
        lines = tables.switch_lines(link)
        assert lines[0].startswith(name)
        gaps = [line.split()[-1] for line in lines[1:]]
        assert gaps == [*["0.0e+00"] * 3, "1.0e-06", "2.0e-06"]
        assert "0.50 (0.50 - 0.50)" in lines[1]
    view = tables.switch_view()
    assert "At step 2 one of two trainings" in view.sentence
    assert "differ by 2.0e-06 at most" in view.sentence
    assert list(view.table) == ["step", "copies all along", "cut, then copies"]


def test_how_long_a_phase_has_to_be(monkeypatch):
    assert tables.break_even_words() == "200 Mbit/s: cut, no short step is faster."
    cut = [
        row | ({"ms_before_200mbit": 6.0} if row["arm"] == "cut_to_copies" else {})
        for row in ROWS["switch"]
    ]
    monkeypatch.setattr(tables, "rows_of", {"switch": cut}.__getitem__)
    assert "takes 4 ms less" in tables.break_even_words()
    assert "500 ms: 125 short steps pay for it. Here there were 2." in (
        tables.break_even_words()
    )


def test_sharing_at_the_best_rate_and_paired_by_seed():
    lines = tables.share_lines()
    assert lines[1].split()[:4] == ["two", "matrices,", "copies", "127,296"]
    assert "0.002" in lines[1]
    assert "0.004" not in "".join(lines)
    assert lines[2].endswith("+0.100 [+0.100, +0.100]")
    assert lines[3].endswith("+0.000 [+0.000, +0.000]")


def test_sums_and_schedules():
    lines = tables.sync_lines()
    assert len(lines) == 1 + len(tables.WAYS)
    assert "31.0 (30.0 - 32.0)" in lines[1]
    lines = tables.schedule_lines()
    assert lines[1].startswith("one process")
    assert lines[2].count("5.0 (5.0 - 5.0), 20%") == 2


def test_unequal_ranks_and_batches():
    lines = tables.balance_lines()
    assert lines[1].endswith("50.0 (50.0 - 50.0)")
    assert lines[4].startswith("by turns, balanced")
    lines = tables.batch_lines()
    assert lines[3].split()[-1] == "40"
    assert lines[3].count("1.500 (1.500 - 1.600)") == 1


def test_lines_fit_a_notebook():
    for lines in (
        tables.layout_lines(), tables.collective_lines(), tables.search_lines(),
        tables.order_lines(), tables.switch_lines(), tables.sync_lines(),
        tables.share_lines(), tables.schedule_lines(), tables.balance_lines(),
        tables.batch_lines(),
    ):  # fmt: skip
        assert max(map(len, lines)) <= 122


def test_every_claim_has_a_verdict_or_none_yet():
    lines = tables.verdict_lines()
    assert len(lines) == 3 * len(tables.CLAIMS)


def test_a_record_that_is_not_there_says_how_to_make_it(monkeypatch):
    from labsupport.claims.rows import record_rows

    monkeypatch.undo()
    with pytest.raises(LabError, match="run `labs record 05x layouts"):
        record_rows("05x", "layouts")

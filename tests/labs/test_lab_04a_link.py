"""Lab 04a's model of a link says what hand calculation says; so do its pictures."""

import math
import random
from dataclasses import replace

import pytest

from labs.lab_04a.link_check import check_view
from labs.lab_04a.link_model import (
    Machine,
    MethodCost,
    break_even,
    communication,
    exposed_share,
    latency_steps,
    saving,
    sent,
    speedup,
    step_time,
)
from labs.lab_04a.speedup_explorer import (
    LARGE,
    extrapolation_view,
    pays,
    speedup_explorer,
)
from labs.lab_04a.speedup_picture import rate
from labsupport.errors import LabError
from tests.labs.every_view import every_view

DENSE = MethodCost("dense", "all_reduce", payload=1e6, messages=2, encode_s=0.0)
TENTH = MethodCost("a tenth", "all_reduce", payload=1e5, messages=1, encode_s=0.027)
SPARSE = MethodCost("sparse", "all_gather", payload=1e4, messages=3, encode_s=0.01)
MACHINE = Machine(
    compute_s=0.3, backward_s=0.2, hidden_share=0.0, bandwidth=1e7, latency=1e-3, W=4
)

# --- bytes and messages --------------------------------------------------


def test_bytes_and_latency_steps_by_hand():
    # Ring of 4: an all-reduce passes 2 x 3 pieces of a quarter, a gather 3 wholes.
    assert sent(DENSE, 4) == 1_500_000
    assert latency_steps(DENSE, 4) == 12
    assert sent(SPARSE, 4) == 30_000
    assert latency_steps(SPARSE, 4) == 9
    assert sent(DENSE, 2) == 1_000_000
    assert sent(SPARSE, 2) == 10_000
    for method in (DENSE, SPARSE):  # alone, there is nobody to send to
        assert sent(method, 1) == latency_steps(method, 1) == 0


def test_a_gather_grows_with_the_workers_and_a_reduction_does_not():
    assert sent(DENSE, 2048) < 2e6
    assert sent(SPARSE, 2048) == pytest.approx(2047e4)


# --- a step --------------------------------------------------


def test_step_time_by_hand():
    # 1.5 MB at 10 MB/s are 150 ms, 12 steps of 1 ms are 12 ms.
    assert communication(DENSE, MACHINE) == pytest.approx(0.162)
    assert step_time(DENSE, MACHINE) == pytest.approx(0.462)
    half = replace(MACHINE, hidden_share=0.5)  # 100 of the 162 ms hide
    assert step_time(DENSE, half) == pytest.approx(0.362)
    assert step_time(DENSE, replace(MACHINE, hidden_share=1.0)) == pytest.approx(0.3)
    # 30 kB are 3 ms, 9 steps 9 ms, 10 ms of work on top.
    assert step_time(SPARSE, MACHINE) == pytest.approx(0.322)


def test_meeting_every_h_steps_cannot_hide_behind_a_backward():
    """Weights travel when the optimizer is done; see fusion/periodic.py."""
    local = MethodCost("local", "all_reduce", 1e5, 0.1, 0.0, every=10)
    overlapped = replace(MACHINE, hidden_share=1.0)
    # 150 kB at 10 MB/s, 0.6 steps of 1 ms: 15.6 ms a step, whatever hides.
    assert step_time(local, MACHINE) == pytest.approx(0.3156)
    assert step_time(local, overlapped) == pytest.approx(0.3156)


def test_more_bandwidth_never_costs_time():
    for method in (DENSE, TENTH, SPARSE):
        for hidden_share in (0.0, 0.5, 1.0):
            times = [
                step_time(
                    method,
                    replace(MACHINE, bandwidth=10.0**e, hidden_share=hidden_share),
                )
                for e in range(4, 13)
            ]
            assert times == sorted(times, reverse=True)
            assert times[0] > times[-1]
            endless = replace(MACHINE, bandwidth=math.inf, hidden_share=hidden_share)
            assert step_time(method, endless) <= times[-1]


# --- what is saved --------------------------------------------------


def test_nobody_saves_more_than_the_exposed_share():
    """A method that sends nothing saves f, the exposed share of a dense step."""
    nothing = MethodCost("nothing", "all_reduce", 0, 0, 0.0)
    for hidden_share in (0.0, 0.4, 1.0):
        for bandwidth in (1e5, 1e6, 1e7, 1e9):
            machine = replace(MACHINE, bandwidth=bandwidth, hidden_share=hidden_share)
            f = exposed_share(DENSE, machine)
            assert saving(nothing, DENSE, machine) == pytest.approx(f)
            assert saving(TENTH, DENSE, machine) <= f
    assert exposed_share(DENSE, MACHINE) == pytest.approx(0.162 / 0.462)


@pytest.mark.parametrize(("wanted", "needed"), [(0.4, 0.43), (0.6, 0.64)])
def test_the_articles_saving_needs_this_exposed_share(wanted, needed):
    """f (1 - 1/15) = 0.4 at f = 0.43 and 0.6 at 0.64 (hand calculation)."""
    fifteenth = MethodCost("1/15", "all_reduce", 1e6 / 15, 2 / 15, 0.0)
    # Without overlap f = comm / (0.3 + comm), so this comm makes f what is needed.
    comm = 0.3 * needed / (1 - needed)
    machine = replace(MACHINE, latency=0.0, bandwidth=1.5e6 / comm)
    assert exposed_share(DENSE, machine) == pytest.approx(needed)
    assert saving(fifteenth, DENSE, machine) == pytest.approx(wanted, abs=0.003)


def test_with_overlap_a_method_saves_at_least_the_inequality():
    """What is left of its messages hides first, so f (1 - 1/c) is a lower bound."""
    fifteenth = MethodCost("1/15", "all_reduce", 1e6 / 15, 2 / 15, 0.0)
    for bandwidth in (1e5, 1e6, 5e6):
        machine = replace(MACHINE, bandwidth=bandwidth, hidden_share=1.0)
        f = exposed_share(DENSE, machine)
        assert f * (1 - 1 / 15) < saving(fifteenth, DENSE, machine) <= f + 1e-12


def test_speedup_and_saving_are_the_same_number_twice():
    # 462 ms against 300 + 27 + 15 + 6 = 348 ms
    assert speedup(TENTH, DENSE, MACHINE) == pytest.approx(462 / 348)
    assert saving(TENTH, DENSE, MACHINE) == pytest.approx(1 - 348 / 462)
    assert speedup(DENSE, DENSE, MACHINE) == 1


# --- break-even --------------------------------------------------


def test_break_even_by_hand():
    quiet = replace(MACHINE, latency=0.0)
    # 1.35 MB less to send must make up for 27 ms.
    assert break_even(TENTH, DENSE, quiet) == pytest.approx(5e7)
    # Behind 200 ms of backward, dense is 27 ms late at 1.5 MB / 227 ms.
    behind = replace(quiet, hidden_share=1.0)
    assert break_even(TENTH, DENSE, behind) == pytest.approx(1.5e6 / 0.227)
    # 20 % saved: 327 ms + 0.15 MB / b = 0.8 (300 ms + 1.5 MB / b)
    assert break_even(TENTH, DENSE, quiet, saved=0.2) == pytest.approx(1.05e6 / 0.087)


def test_without_extra_work_it_pays_as_soon_as_anything_is_exposed():
    free = replace(TENTH, encode_s=0.0)
    behind = replace(MACHINE, latency=0.0, hidden_share=1.0)
    assert break_even(free, DENSE, behind) == pytest.approx(1.5e6 / 0.2)


def test_no_break_even():
    quiet = replace(MACHINE, latency=0.0)
    free = replace(TENTH, encode_s=0.0)
    assert break_even(free, DENSE, quiet) is None  # always faster
    assert break_even(DENSE, DENSE, quiet) is None  # never
    crowd = replace(quiet, W=2048)
    assert break_even(SPARSE, DENSE, crowd) is None  # never: it sends more
    # A tenth of the time is more than can be saved.
    slow = replace(TENTH, payload=9.5e5)
    assert break_even(slow, DENSE, quiet, saved=0.1) is None
    assert break_even(TENTH, DENSE, replace(quiet, W=1)) is None


def test_break_even_is_where_the_times_meet():
    """Against the step times themselves, on 400 machines thrown by dice."""
    dice = random.Random(0)
    found = 0
    for _ in range(400):
        machine = Machine(
            compute_s=0.3,
            backward_s=dice.uniform(0, 0.3),
            hidden_share=dice.choice((0.0, 0.5, 1.0)),
            bandwidth=1.0,
            latency=dice.choice((0.0, 1e-4, 1e-2)),
            W=dice.choice((2, 4, 64)),
        )
        method = MethodCost(
            "thrown",
            dice.choice(("all_reduce", "all_gather")),
            payload=10 ** dice.uniform(3, 6.3),
            messages=dice.randint(1, 30),
            encode_s=dice.choice((0.0, dice.uniform(0, 0.1))),
            every=dice.choice((1, 1, 16)),
        )
        dense = replace(DENSE, encode_s=dice.choice((0.0, 0.01)))
        for saved in (0.0, 0.3):
            edge = break_even(method, dense, machine, saved)

            def gain(bandwidth, case=(method, dense, machine), saved=saved):
                where = replace(case[2], bandwidth=bandwidth)
                return saving(case[0], case[1], where) - saved

            if edge is not None:
                found += 1
                assert gain(0.99 * edge) > -1e-9
                assert gain(1.01 * edge) < 1e-9
                assert all(gain(edge * 0.5**n) > 0 for n in range(1, 12))
            else:  # there is no bandwidth below which it is faster
                signs = [gain(10.0**e) for e in range(1, 14)]
                assert signs[0] <= 1e-9 or min(signs) > -1e-9
    assert found > 100


# --- bad input --------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "broadcast"}, "kind='broadcast': choose all_reduce or all_gather"),
        ({"payload": -1}, "payload=-1"),
        ({"payload": math.nan}, "payload=nan"),
        ({"messages": -2}, "messages=-2"),
        ({"encode_s": math.inf}, "encode_s=inf"),
        ({"every": 0}, "every=0"),
    ],
)
def test_a_method_that_cannot_be(change, words):
    with pytest.raises(LabError, match=words):
        replace(DENSE, **change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compute_s": 0}, "compute_s=0"),
        ({"backward_s": 0.4}, "backward_s=0.4"),
        ({"hidden_share": 1.5}, "hidden_share=1.5"),
        ({"bandwidth": 0}, "bandwidth=0"),
        ({"bandwidth": math.nan}, "bandwidth=nan"),
        ({"latency": -1}, "latency=-1"),
        ({"W": 0}, "W=0"),
    ],
)
def test_a_machine_that_cannot_be(change, words):
    with pytest.raises(LabError, match=words):
        replace(MACHINE, **change)


@pytest.mark.parametrize("saved", [-0.1, 1.0, math.nan])
def test_a_share_that_cannot_be_saved(saved):
    with pytest.raises(LabError, match="saved="):
        break_even(TENTH, DENSE, MACHINE, saved)


# --- the explorer --------------------------------------------------

LOCAL = MethodCost("local", "all_reduce", 1e5, 0.125, 0.001, every=16)
METHODS = (DENSE, TENTH, SPARSE, LOCAL)
MEASURED = {
    "compute_s": 0.3,
    "backward_s": 0.2,
    "workers": 4,
    "caption": "an example",
}


def traces(view):
    return {trace.name: trace for trace in view.figure.data}


@pytest.fixture(scope="module")
def views():
    """Every setting, drawn once."""
    return every_view(speedup_explorer(METHODS, **MEASURED))


def test_it_starts_with_what_was_measured():
    explorer = speedup_explorer(METHODS, **MEASURED)
    assert explorer.start_values()["workers"] == 4
    assert len(explorer.controls) <= 3


def test_every_setting_says_whether_anybody_measured_it(views):
    dashes = set()
    for setting, view in views:
        model = setting["workers"] != 4
        assert ("model, not measured" in view.sentence) == model, setting
        for name in ("a tenth", "sparse", "local"):
            dash = traces(view)[name].line.dash
            assert dash == ("dash" if model else "solid"), setting
            dashes.add(dash)
        small_print = " ".join(a.text for a in view.figure.layout.annotations)
        assert "an example, 4 workers" in small_print, setting
    assert dashes == {"dash", "solid"}


def test_no_line_rises_above_f_and_the_table_says_the_same(views):
    for setting, view in views:
        shown = traces(view)
        f = shown["f: nobody saves more"].y
        for name in ("a tenth", "sparse", "local"):
            assert all(y <= top + 1e-9 for y, top in zip(shown[name].y, f, strict=True))
        for column, values in view.table.items():
            if column.startswith("saved"):
                assert values[0] == 0, setting  # dense against itself
                assert max(values) == values[-1], setting  # f stands last


def test_lines_cross_nothing_saved_where_the_break_even_is(views):
    crossed = 0
    for setting, view in views:
        edges = traces(view)["break-even"]
        for x, name in zip(edges.x, edges.text, strict=True):
            line = traces(view)[name]
            if not min(line.x) < x < max(line.x):
                continue
            left = [y for at, y in zip(line.x, line.y, strict=True) if at < x]
            right = [y for at, y in zip(line.x, line.y, strict=True) if at > x]
            assert left[-1] > 0 >= right[0] - 1e-9, (setting, name)
            crossed += 1
    assert crossed > 20


def test_the_articles_zone_is_shaded():
    explorer = speedup_explorer(METHODS, **MEASURED)
    view = explorer.draw(**explorer.start_values())
    for figure, columns in (  # a zone in every part
        (view.figure, 1),
        (extrapolation_view(METHODS, **MEASURED).figure, len(LARGE)),
    ):
        zones = [s for s in figure.layout.shapes if (s.y0, s.y1) == (40, 60)]
        assert len(zones) == columns


def test_what_an_overlap_says_in_words():
    """By hand: with overlap a tenth hides, so dense may be late by 27 ms at most."""
    explorer = speedup_explorer((DENSE, TENTH), **MEASURED)
    assert explorer.start_values()["overlap"] == "after the backward"
    view = explorer.draw(**explorer.start_values() | {"overlap": "beside the backward"})
    # 200 + 27 ms less 12 steps of 100 us are 225.8 ms for 1.5 MB: 6.643 MB/s.
    assert view.table["faster"] == ["", "below 53.1 Mbit/s", ""]
    assert "time is saved below 53.1 Mbit/s (a tenth)" in view.sentence
    assert view.table["MB sent"][:2] == [1.5, 0.15]
    assert view.table["extra work, ms"][:2] == [0, 27]


def test_the_live_sliders_move_the_picture():
    panel = speedup_explorer(METHODS, **MEASURED).panel()
    workers, _, overlap, picture, words = panel.children
    workers.value, overlap.value = 2048, "after the backward"
    assert picture.layout.title.text.startswith("2048 workers")
    assert "model, not measured" in words.value
    assert "Error" not in words.value
    workers.value = 4
    assert "model, not measured" not in words.value


def test_where_a_method_pays_in_words():
    quiet = replace(MACHINE, latency=0.0)
    assert pays(TENTH, DENSE, quiet) == "below 400 Mbit/s"  # 50 MB/s, see above
    assert pays(replace(TENTH, encode_s=0.0), DENSE, quiet) == "everywhere"
    assert pays(SPARSE, DENSE, replace(quiet, W=2048)) == "nowhere"
    # 1 % more bytes, in one message instead of two.
    fused = replace(DENSE, name="fused", messages=1, payload=1.01e6)
    slow = replace(MACHINE, latency=0.01)
    assert pays(fused, DENSE, slow) == "only on fast links"


@pytest.mark.parametrize(
    ("bytes_per_s", "words"),
    [
        (6.25e6, "50 Mbit/s"),
        (1.25e8, "1 Gbit/s"),
        (1.24999e8, "1 Gbit/s"),
        (1.6e11, "1.28 Tbit/s"),
        (125.0, "1 kbit/s"),
        (0.5, "4 bit/s"),
    ],
)
def test_a_rate_in_words(bytes_per_s, words):
    assert rate(bytes_per_s) == words


def test_the_extrapolation_says_that_it_is_a_model():
    view = extrapolation_view(METHODS, **MEASURED)
    title = view.figure.layout.title.text
    assert title.startswith("A model, not measured")
    assert view.sentence.startswith("A model, not measured")
    words = [a.text for a in view.figure.layout.annotations]
    assert {"8 workers", "64 workers", "2048 workers"} <= set(words)
    lines = [t for t in view.figure.data if t.name in ("a tenth", "sparse", "local")]
    assert len(lines) == 9
    assert {line.line.dash for line in lines} == {"dash"}
    # 2047 times 10 kB are 20 MB, more than dense's 2 MB.
    sparse = view.table["method"].index("sparse")
    assert view.table["saves time, 8 workers"][sparse].startswith("below")
    assert view.table["saves time, 2048 workers"][sparse] != "everywhere"
    assert not view.table["saves time, 2048 workers"][sparse].startswith("below")


def test_lines_that_leave_the_picture_are_named():
    heavy = replace(SPARSE, name="heavy", encode_s=0.5)
    explorer = speedup_explorer((DENSE, heavy, TENTH), **MEASURED)
    view = explorer.draw(workers=2048, latency="10 µs", overlap="after the backward")
    notes = " ".join(a.text for a in view.figure.layout.annotations)
    assert "Below the picture: heavy." in notes
    assert "none by heavy" in view.sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": [DENSE]}, "methods has 1"),
        ({"compute_s": -1}, "compute_s=-1"),
        ({"latency": "soon"}, "latency='soon'"),
        ({"overlap": "never"}, "overlap='never'"),
    ],
)
def test_views_that_cannot_be_drawn(change, words):
    with pytest.raises(LabError, match=words):
        extrapolation_view(**({"methods": METHODS} | MEASURED | change))


# --- predicted against measured --------------------------------------------------


def test_predicted_against_measured_by_hand():
    rows = [
        {"method": "dense", "link": "a", "predicted_ms": 110, "measured_ms": 100},
        {"method": "dense", "link": "b", "predicted_ms": 60, "measured_ms": 100},
        {"method": "top-k", "link": "a", "predicted_ms": 200, "measured_ms": 200},
    ]
    view = check_view(rows)
    assert view.sentence.startswith("2 of 3 predicted step times are within 20 %")
    assert "median error is 10 %" in view.sentence
    assert "largest -40 % (dense at b: predicted 60 ms, measured 100" in view.sentence
    assert view.table["error, %"] == [10, -40, 0]
    diagonal = traces(view)["predicted = measured"]
    assert diagonal.x == diagonal.y
    drawn = [t for t in view.figure.data if t.mode == "markers" and t.x[0] is not None]
    places = [(x, y) for t in drawn for x, y in zip(t.x, t.y, strict=True)]
    assert places == [(100, 110), (100, 60), (200, 200)]
    # Same link, same symbol; both axes alike, or the diagonal would not be one.
    assert drawn[0].marker.symbol[0] == drawn[1].marker.symbol[0]
    assert drawn[0].marker.symbol[0] != drawn[0].marker.symbol[1]
    layout = view.figure.layout
    assert layout.xaxis.range == layout.yaxis.range


@pytest.mark.parametrize("wrong", [0, -1, math.nan])
def test_a_time_that_cannot_be_compared(wrong):
    row = {"method": "dense", "link": "a", "predicted_ms": 1.0, "measured_ms": wrong}
    with pytest.raises(LabError, match="dense at a: measured_ms="):
        check_view([row])
    with pytest.raises(LabError, match="rows is empty"):
        check_view([])

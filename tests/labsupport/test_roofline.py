"""The recorded figures say what they are, where from, and whether they hold."""

import dataclasses
import json

import pytest

from kernels import bench_cases
from kernels.bench import Setting, measure
from kernels.bench_timing import Roofline
from labsupport.claims.provenance import caption
from labsupport.errors import LabError
from labsupport.explore import roofline
from labsupport.explore.roofline import load_kernel_record, roofline_view
from tests.kernels.no_liger import without_liger

ORIGIN = {
    "machine": "h200-x1",
    "torch": "2.11.0",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "date": "2026-11-20",
}


def written(folder, content, machine="h200-x1"):
    file = folder / machine / "kernels.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def content():
    """What `kernels.bench` makes of made-up times: 2 ms in the middle."""
    small = {2: ((4, 8), (4, 16)), 3: ((4, 2, 8), (4, 2, 16))}
    benches = [
        dataclasses.replace(each, shapes=small.get(len(each.odd), (each.odd,)))
        for each in bench_cases.all_benches()
    ]
    setting = Setting(
        timer=lambda calls: [1.0, 1.0, 2.0, 3.0, 3.0],
        roofline=Roofline(128e3, {"float32": 1e12, "float16": 1e12, "bfloat16": 1e12}),
        cache=100,
        device="cpu",
        with_compile=False,
    )
    with without_liger():
        record = measure(benches, setting, report=lambda line: None)
    return {"origin": ORIGIN, **record}


def annotations(view):
    return " ".join(each.text for each in view.figure.layout.annotations)


def test_bars_are_shares_of_the_roofline(content, tmp_path):
    written(tmp_path, content)
    view = roofline_view("softmax", "forward", "bfloat16", tmp_path)
    bars = {bar.name: bar for bar in view.figure.data}
    assert {"our kernel", "PyTorch's operator"} <= set(bars)
    # 4 x 8 elements, read and written in 2 bytes: 128 bytes, 1 ms at best.
    assert bars["our kernel"].x == ("4 × 8", "4 × 16")
    assert bars["our kernel"].y == pytest.approx((50, 100))
    assert "our kernel 100 %" in view.sentence
    assert view.figure.layout.xaxis.title.text == "rows × elements of a row"
    other = roofline_view("sinkhorn", "forward", "float32", tmp_path)
    assert other.figure.layout.xaxis.title.text == "streams n × matrices of n × n"
    assert view.table["share (%)"][:2] == pytest.approx([50, 50])
    assert len({bar.marker.pattern.shape for bar in bars.values()}) == len(bars)


def test_the_axis_says_what_the_numbers_of_a_shape_count(content, tmp_path):
    written(tmp_path, content)
    rows = roofline_view("rms_norm", folder=tmp_path)
    streams = roofline_view("mhc_post", "backward", folder=tmp_path)
    assert rows.figure.layout.xaxis.title.text == "rows × elements of a row"
    assert streams.figure.layout.xaxis.title.text == "tokens × streams × elements"
    assert streams.figure.data[0].x == ("4 × 2 × 8", "4 × 2 × 16")
    assert "4 × 2 × 16: share of the roofline: our kernel" in streams.sentence


def test_each_direction_and_dtype_has_its_own_rows(content, tmp_path):
    written(tmp_path, content)
    backward = roofline_view("softmax", "backward", "float32", tmp_path)
    kernel = next(bar for bar in backward.figure.data if bar.name == "our kernel")
    assert kernel.y == pytest.approx((150, 300))
    with pytest.raises(LabError, match="forward"):
        roofline_view("softmax", "sideways", "float32", tmp_path)


def test_a_figure_says_where_it_was_recorded(content, tmp_path):
    written(tmp_path, content)
    view = roofline_view("rms_norm", folder=tmp_path)
    below = caption(ORIGIN)
    assert "not measured on your machine" in below
    assert below in annotations(view)
    assert below in view.sentence
    assert "stale" not in (annotations(view) + view.figure.layout.title.text).lower()


def test_a_changed_kernel_makes_its_figure_stale_and_no_other(content, tmp_path):
    older = {**content["fingerprints"], "softmax": "another"}
    written(tmp_path, {**content, "fingerprints": older})
    view = roofline_view("softmax", folder=tmp_path)
    assert "Stale: the softmax kernel has changed since." in annotations(view)
    assert "Stale" in view.sentence
    assert "stale" in view.figure.layout.title.text
    other = roofline_view("rms_norm", folder=tmp_path)
    assert "Stale" not in other.sentence


@pytest.mark.parametrize("operation", ["softmax", "sinkhorn"])
def test_what_nobody_measured_is_said_to_be_so(operation, content, tmp_path):
    if operation == "sinkhorn":  # a record, but not of this
        written(tmp_path, content)
    view = roofline_view(operation, folder=tmp_path)
    assert view.sentence.startswith("Not measured: there is no recorded time of")
    assert annotations(view).startswith("Not measured yet: <b>python -m kernels")
    assert len(view.figure.data) == 0


def test_the_newest_record_is_shown(content, tmp_path):
    assert load_kernel_record(tmp_path) is None
    written(tmp_path, content)
    newer = {**content, "origin": {**ORIGIN, "date": "2026-11-21", "machine": "b200"}}
    written(tmp_path, newer, "b200-x1")
    assert load_kernel_record(tmp_path)["origin"]["machine"] == "b200"


def test_in_a_terminal_the_sentence_is_printed(capsys):
    roofline.show_roofline("sinkhorn")
    assert "Not measured" in capsys.readouterr().out

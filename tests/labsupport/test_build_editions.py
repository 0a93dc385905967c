"""Executing, pictures, and the files that a build leaves behind."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labsupport.build import editions, pictures
from labsupport.build.editions import build_labs, check_built
from labsupport.build.execute import execute, merge_streams
from labsupport.build.names import edition_path
from labsupport.build.pictures import FIGURE, PLOTLY, WIDGET, Painter, still_pictures
from labsupport.build.png import encode
from labsupport.build.render import render
from labsupport.errors import LabError
from tests.small_lab import NAME, SOURCE, write_course

FIGURE_DATA = {"data": [{"type": "bar", "y": [1, 2]}], "layout": {"height": 200}}


class PaperPainter(Painter):
    """Stands in for the browser where the picture itself is not the point."""

    def draw(self, figure: dict[str, Any]) -> tuple[bytes, int, int]:
        return b"png:" + json.dumps(figure["data"]).encode(), 720, 420


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(editions, "Painter", PaperPainter)
    return write_course(tmp_path, monkeypatch)


def by_id(path: Path) -> dict[str, Any]:
    return {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}


@pytest.mark.notebook
def test_a_build_writes_two_executed_editions_and_repeats_nothing(
    course: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JPY_SESSION_NAME", "someone's notebook")
    monkeypatch.setenv("LABS_SCALE", "cpu")
    said: list[str] = []
    written = build_labs(say=said.append)
    reader, solved = edition_path(NAME, "reader"), edition_path(NAME, "solved")
    assert written == [reader, solved]
    assert [line.split()[0] for line in said] == ["Executing", "Executing"]
    assert check_built(NAME) == []

    cells = by_id(reader)
    assert cells["squares"].outputs[0].text == "shape (2, 3)\nsquares [0, 1, 4, 9]\n"
    assert cells["use"].outputs[0].text == "using ours\n"
    assert by_id(solved)["use"].outputs[0].text == "double 8\n"
    assert cells["where"].outputs[0].text == "ci False\n"
    assert cells["figure"].outputs[0].data.keys() == {"text/plain", "image/png"}
    assert all(c.execution_count for c in cells.values() if c.cell_type == "code")
    assert not any("execution" in cell.metadata for cell in cells.values())
    text = reader.read_text()
    assert text.endswith("}\n") and not text.endswith("\n\n")

    def never(*_: object) -> None:
        raise AssertionError("executed although nothing changed")

    monkeypatch.setattr(editions, "execute", never)
    assert build_labs([NAME], say=said.append) == []
    with pytest.raises(AssertionError, match="executed although"):
        build_labs(force=True, say=said.append)


@pytest.mark.notebook
def test_two_executions_of_one_source_give_the_same_bytes(course: Path):
    build_labs(say=lambda _: None)
    first = edition_path(NAME, "reader").read_bytes()
    assert build_labs(force=True, say=lambda _: None) == []
    assert edition_path(NAME, "reader").read_bytes() == first


def store(course: Path) -> None:
    """Write both editions as if they had been executed."""
    for edition in ("reader", "solved"):
        notebook = render(SOURCE, edition)
        for count, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.execution_count = count
        editions.write(notebook, edition_path(NAME, edition))


def test_a_stored_notebook_without_counts_is_executed_again(
    course: Path, monkeypatch: pytest.MonkeyPatch
):
    store(course)
    assert build_labs(say=lambda _: None) == []
    notebook = nbformat.read(edition_path(NAME, "reader"), as_version=4)
    notebook.cells[2].execution_count = None
    nbformat.write(notebook, edition_path(NAME, "reader"))
    executed: list[str] = []
    monkeypatch.setattr(
        editions, "execute", lambda _nb, _folder, name: executed.append(name)
    )
    build_labs(say=lambda _: None)
    assert executed == [f"{NAME} (reader)"]


def test_check_built_names_what_differs(course: Path):
    assert len(check_built(NAME)) == 2  # nothing built yet
    store(course)
    assert check_built(NAME) == []
    path = edition_path(NAME, "reader")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Edited by hand"
    notebook.metadata["kernelspec"]["name"] = "other"
    del notebook.cells[4]
    nbformat.write(notebook, path)
    assert check_built(NAME) == [
        "reader: cell intro: source differs",
        "reader: cell use is new in the source",
        "reader: metadata 'kernelspec' differs",
    ]


def test_an_edited_source_shows_in_check_built(course: Path):
    store(course)
    source = course / "labs" / "src" / f"{NAME}.py"
    source.write_text(SOURCE.replace("range(4)", "range(5)"))
    found = check_built(NAME)
    assert "solved: cell squares: source differs" in found
    assert "solved: metadata 'labs' differs" in found


def test_outputs_are_not_part_of_check_built(course: Path):
    store(course)
    path = edition_path(NAME, "reader")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].outputs = [new_output("stream", text="other\n")]
    nbformat.write(notebook, path)
    assert check_built(NAME) == []


def test_a_notebook_over_its_size_is_refused_and_the_old_one_stays(course: Path):
    store(course)
    path = edition_path(NAME, "reader")
    before = path.read_bytes()
    notebook = render(SOURCE, "reader")
    notebook.cells[2].outputs = [new_output("stream", text="x" * 400_000)]
    with pytest.raises(LabError, match=r"at most 400 kB.*squares \(400 kB\)"):
        editions.write(notebook, path)
    assert path.read_bytes() == before


@pytest.mark.notebook
def test_a_failing_cell_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = SOURCE.replace('print("shape", (2, 3))', "print(1 / 0)")
    write_course(tmp_path, monkeypatch, **{NAME: source})
    with pytest.raises(LabError) as caught:
        build_labs(say=lambda _: None)
    message = str(caught.value)
    assert f"{NAME} (reader): cell squares: ZeroDivisionError" in message
    assert len(message.splitlines()) < 8 and "\x1b" not in message
    assert not edition_path(NAME, "reader").exists()


@pytest.mark.notebook
def test_a_cell_over_its_time_is_named(tmp_path: Path):
    source = SOURCE.replace(
        'print("shape", (2, 3))', "import time\n\nwhile True:\n    time.sleep(0.01)"
    )
    with pytest.raises(LabError, match="cell squares: it ran longer"):
        execute(render(source, "reader"), tmp_path, timeout=2.0)


def test_a_source_that_breaks_a_rule_stops_the_build_before_any_execution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad = SOURCE.replace("nbval-check-output", "nbval-chek-output")
    write_course(tmp_path, monkeypatch, **{NAME: SOURCE, "01_bad": bad})
    executed: list[str] = []
    monkeypatch.setattr(editions, "execute", lambda *_: executed.append("x"))
    with pytest.raises(LabError, match=r"01_bad\.py cannot be built"):
        build_labs(say=lambda _: None)
    assert executed == []


def test_neighbouring_streams_of_one_name_are_joined():
    def out(name: str, text: str) -> Any:
        return new_output("stream", name=name, text=text)

    cell = new_code_cell(
        outputs=[out("stdout", "a"), out("stdout", "b\n"), out("stderr", "c")]
    )
    merge_streams(new_notebook(cells=[cell]))
    assert [(o.name, o.text) for o in cell.outputs] == [
        ("stdout", "ab\n"),
        ("stderr", "c"),
    ]


def stilled(data: dict[str, Any], kind: str = "display_data") -> list[Any]:
    cell = new_code_cell(outputs=[new_output(kind, data=data)])
    notebook = new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    still_pictures(notebook, PaperPainter())
    assert "widgets" not in notebook.metadata
    return [dict(output.data) for output in cell.outputs]


@pytest.mark.parametrize("live", [FIGURE, PLOTLY])
def test_a_figure_keeps_its_sentence_and_gains_a_picture(live: str):
    widget = {WIDGET: {"model_id": "1"}, "text/html": "<div>"}
    (data,) = stilled({"text/plain": "Loss falls.", live: FIGURE_DATA, **widget})
    assert data.keys() == {"text/plain", "image/png"}
    assert data["text/plain"] == "Loss falls."


def test_the_repr_of_a_widget_goes():
    for text in ("FigureWidget({\n    'data': []", "VBox(children=(IntSlider(value=1"):
        (data,) = stilled({"text/plain": text, FIGURE: FIGURE_DATA})
        assert data.keys() == {"image/png"}
        assert stilled({"text/plain": text, WIDGET: {"model_id": "1"}}) == []


def test_a_widget_without_a_figure_keeps_only_its_sentence():
    data = {"text/plain": "Press Stop to end.", WIDGET: {"model_id": "1"}}
    assert stilled(data) == [{"text/plain": "Press Stop to end."}]


def test_other_outputs_are_left_alone():
    data = {"text/plain": "DataFrame(2)", "text/html": "<table>"}
    assert stilled(data, "execute_result") == [data]


def decode(png: bytes) -> np.ndarray:
    """A palette PNG back to pixels (H, W, 3); reads only what `encode` writes."""
    chunks: dict[bytes, bytes] = {}
    place = 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (check,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert check == zlib.crc32(kind + body)
        chunks[kind] = body
        place += 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
    colours = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    return colours[rows.reshape(height, width + 1)[:, 1:]]


def test_a_png_of_few_colours_is_exact():
    pixels = np.random.default_rng(0).integers(0, 4, (7, 11, 3), dtype=np.uint8) * 80
    assert np.array_equal(decode(encode(pixels)), pixels)


def test_a_png_of_many_colours_is_close_and_keeps_its_commonest_exactly():
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    pixels = np.full((200, 400, 3), 255, np.uint8)
    pixels[:, :200, 0], pixels[:, :200, 1] = ramp, ramp[:, None]
    back = decode(encode(pixels))
    assert np.abs(back.astype(int) - pixels).max() <= 64
    assert np.abs(back.astype(int) - pixels).mean() < 8
    assert np.array_equal(back[:, 200:], pixels[:, 200:])


@pytest.mark.browser
def test_plotly_draws_a_figure_offline_sharp_and_small():
    y = np.random.default_rng(0).normal(size=300).cumsum().tolist()
    trace = {"type": "scatter", "y": y, "line": {"color": "#ff0000"}}
    with pictures.Painter() as painter:
        png, width, height = painter.draw({"data": [trace], "layout": {}})
        _, wide, high = painter.draw({"data": [], "layout": {"width": 300}})
        with pytest.raises(LabError, match="could not draw"):
            painter.draw({"data": 3, "layout": {"xaxis": 7}})
    assert (width, height, wide, high) == (720, 420, 300, 420)
    pixels = decode(png)
    assert pixels.shape == (525, 900, 3)
    red = (pixels == [255, 0, 0]).all(-1)
    assert red.sum() > 500 and tuple(pixels[0, 0]) == (255, 255, 255)
    assert len(base64.b64encode(png)) < 60_000


def test_without_any_chromium_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with (
        pytest.raises(LabError, match="CHROMIUM=/nowhere/chromium"),
        pictures.Painter() as painter,
    ):
        painter.draw(FIGURE_DATA)

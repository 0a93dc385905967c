"""An explorer's picture, sentence and table follow its controls."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest

from labsupport.explore import Explorer, View, choose, show, slide
from labsupport.explore.show import plain_figure


def line(power: int, shape: str = "line") -> View:
    x = [1, 2, 3]
    y = [value**power for value in x]
    trace = go.Scatter(x=x, y=y) if shape == "line" else go.Bar(x=x, y=y)
    figure = go.Figure(trace, layout={"title": {"text": f"power {power}"}})
    return View(figure, f"It ends at {y[-1]}.", {"x": x, "y": y})


def explorer() -> Explorer:
    return Explorer(
        line,
        power=slide("power", [1, 2, 3], 1),
        shape=choose("shape", ["line", "bar"]),
    )


def test_moving_a_control_moves_the_picture_and_the_sentence():
    power, shape, picture, words = explorer().panel().children
    assert list(picture.data[0].y) == [1, 2, 3]
    power.value = 3
    assert list(picture.data[0].y) == [1, 8, 27]
    assert picture.layout.title.text == "power 3"
    assert "It ends at 27." in words.value
    assert "<td>27</td>" in words.value
    shape.value = "bar"
    assert picture.data[0].type == "bar"
    assert list(picture.data[0].y) == [1, 8, 27]


def test_an_error_in_a_callback_is_shown_where_the_reader_looks():
    def breaks(power: int) -> View:
        if power == 2:
            raise ValueError("no picture for 2")
        return line(power)

    panel = Explorer(breaks, power=slide("power", [1, 2, 3], 1)).panel()
    power, _, words = panel.children
    power.value = 2
    assert "no picture for 2" in words.value
    power.value = 3
    assert "It ends at 27." in words.value


def test_headless_shows_the_first_view_once(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    bundles = []
    monkeypatch.setattr(show, "get_ipython", object)
    monkeypatch.setattr(show, "display", lambda bundle, raw: bundles.append(bundle))
    explorer().show()
    (bundle,) = bundles
    assert bundle["text/plain"] == "It ends at 3."
    assert bundle[show.FIGURE_MIME]["data"][0]["y"] == [1, 2, 3]


def test_saved_figures_hold_plain_numbers():
    """plotly packs arrays as base64, which no diff can show."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = plain_figure(go.Figure(go.Heatmap(z=values)))
    assert content["data"][0]["z"] == [[0, 1, 2], [3, 4, 5]]
    assert "bdata" not in json.dumps(content)


def test_a_start_must_be_among_the_values():
    with pytest.raises(ValueError, match="not among its values"):
        slide("power", [1, 2], 5)


def test_a_picture_with_fewer_notes_keeps_none_of_the_old_ones():
    def notes(count: int) -> View:
        figure = go.Figure(go.Scatter(y=[count]))
        for place in range(count):
            figure.add_annotation(x=place, y=0, text=str(place))
            figure.add_vline(x=place)
        return View(figure, f"{count} notes")

    count, picture, _ = (
        Explorer(notes, count=slide("count", [3, 1], 3)).panel().children
    )
    count.value = 1
    assert [note.text for note in picture.layout.annotations] == ["0"]
    assert len(picture.layout.shapes) == 1
    count.value = 3
    assert [note.text for note in picture.layout.annotations] == ["0", "1", "2"]

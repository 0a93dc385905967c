"""What a reader sees while a model trains, with and without a person."""

import threading

import ipywidgets as widgets
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

from labsupport.explore import show
from labsupport.train import Band, live, train
from labsupport.train.figure import LOSS, SPREAD, VALIDATION


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 1))

    def loss(self, x, y):
        return (x @ self.weight - y).square().mean()


def batch(step):
    x = torch.eye(3)
    return x, x.sum(dim=1, keepdim=True)


def go_train(batch_fn=batch, **options):
    defaults = {"steps": 40, "lr": 0.05, "title": "A line"}
    return train(Line(), batch_fn, **{**defaults, **options})


@pytest.fixture
def no_person(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)


@pytest.fixture
def shown(monkeypatch):
    """Figures that a notebook would show, with their sentences."""
    figures = []
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(show, "show_figure", lambda *args: figures.append(args))
    return figures


@pytest.fixture
def lab_widget(monkeypatch):
    """As if a person sat in JupyterLab; holds the box that was displayed."""
    monkeypatch.setenv("JPY_SESSION_NAME", "my_labs/00_start_here.ipynb")
    boxes = []
    monkeypatch.setattr(live, "show_widget", lambda box, _: boxes.append(box))
    return boxes


def test_without_a_person_ten_lines_and_one_figure(no_person, shown, capsys):
    run = go_train(eval_fn=lambda model: 0.25)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "A line: 40 steps"
    assert len(lines) == 12
    assert lines[5].startswith(f"step 20/40  loss {run.table().loss[19]:.3f}")
    assert "validation 0.250" in lines[5]
    assert lines[5].endswith("s left")
    assert lines[-1] == run.sentence
    assert "Finished 40 steps" in run.sentence
    [(figure, sentence)] = shown
    assert type(figure) is go.Figure
    assert run.sentence in sentence


def test_in_a_terminal_text_only(no_person, monkeypatch, capsys):
    def never(*args):
        raise AssertionError("a figure was shown")

    monkeypatch.setattr(show, "show_figure", never)
    go_train()
    assert "Finished 40 steps" in capsys.readouterr().out


def test_live_false_prints_nothing(no_person, shown, capsys):
    go_train(live=False)
    assert capsys.readouterr().out == ""
    assert shown == []


def find(box, kind):
    """The one widget of a kind inside a box."""
    if isinstance(box, kind):
        return box
    for child in getattr(box, "children", ()):
        found = find(child, kind)
        if found is not None:
            return found
    return None


def test_in_jupyterlab_the_widgets_follow_the_run(lab_widget, capsys):
    run = go_train(eval_fn=lambda model: 0.25)
    [box] = lab_widget
    bar, text = find(box, widgets.IntProgress), find(box, widgets.HTML)
    figure = find(box, go.FigureWidget)
    assert (bar.value, bar.max) == (40, 40)
    assert text.value == run.sentence
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces[LOSS].x) == list(range(1, 41))
    assert list(traces[LOSS].y) == run.table().loss.tolist()
    assert list(traces[VALIDATION].x) == list(range(4, 41, 4))
    assert find(box, widgets.Button).disabled
    # The widgets are gone when the notebook is opened again; this line is not.
    assert capsys.readouterr().out == run.sentence + "\n"


def test_a_score_that_is_no_loss_has_a_name_of_its_own(lab_widget):
    """Otherwise the picture would give it the loss's unit."""
    run = go_train(eval_fn=lambda model: 0.25, eval_name="games lost")
    [box] = lab_widget
    live = find(box, go.FigureWidget)
    assert "games lost 0.250" in run.sentence
    for figure in (live, run.figure()):
        traces = {trace.name: trace for trace in figure.data}
        assert list(traces["games lost"].y) == [0.25] * 10
        assert VALIDATION not in traces
        assert figure.layout.yaxis.title.text == "loss (nats per token); games lost"


def test_the_stop_button_works_from_another_thread(lab_widget):
    def press_at_five(index):
        if index == 5:
            button = find(lab_widget[0], widgets.Button)
            thread = threading.Thread(target=button.click)
            thread.start()
            thread.join()
        return batch(index)

    run = go_train(press_at_five)
    assert (run.stopped, run.steps_done) == ("stopped", 6)
    assert "Stopped after step 6 of 40" in find(lab_widget[0], widgets.HTML).value


def test_the_curve_is_drawn_a_few_times_a_second_at_most(lab_widget, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    draws = []
    draw = live.WidgetDisplay.draw

    def counting(self, *args, **options):
        draws.append(now[0])
        draw(self, *args, **options)

    monkeypatch.setattr(live.WidgetDisplay, "draw", counting)

    def tenth_of_a_second(index):
        now[0] += 0.1
        return batch(index)

    go_train(tenth_of_a_second, steps=100)
    # Ten seconds, at most three pictures in each, and the last one.
    assert 10 <= len(draws) <= 31


def test_a_long_curve_is_thinned_while_it_moves_but_keeps_its_end():
    from labsupport.train.figure import curves

    rows = [
        {"step": n, "loss": float(n), "validation": float("nan")}
        for n in range(1, 5001)
    ]
    x, y = curves(rows, most=400)[LOSS]
    assert 200 <= len(x) <= 400
    assert (x[-1], y[-1]) == (5000, 5000.0)
    assert len(curves(rows)[LOSS][0]) == 5000


def test_the_figure_shows_the_recorded_spread_and_says_where_from(no_person):
    band = Band([0, 20, 40], [0.1, 0.2, 0.3], [1.0, 0.9, 0.8], "8x H100, 2026-01-01")
    run = go_train(band=band, live=False)
    figure = run.figure()
    spread = next(trace for trace in figure.data if trace.name == SPREAD)
    assert list(spread.x) == [0, 20, 40, 40, 20, 0]
    assert list(spread.y) == [1.0, 0.9, 0.8, 0.3, 0.2, 0.1]
    [caption] = figure.layout.annotations
    assert "recorded on 8x H100, 2026-01-01" in caption.text
    styles = {(t.mode, t.line.dash, t.line.color) for t in figure.data[1:]}
    assert len(styles) == 2


def test_what_is_displayed_is_a_widget_view_with_a_sentence(monkeypatch):
    import IPython.display

    sent = []
    monkeypatch.setattr(
        IPython.display, "display", lambda bundle, raw: sent.append((bundle, raw))
    )
    box = widgets.VBox()
    live.show_widget(box, "A line, live.")
    [(bundle, raw)] = sent
    assert raw
    assert bundle["text/plain"] == "A line, live."
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == box.model_id

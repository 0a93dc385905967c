"""A guess comes before the reveal, for a person; a headless run goes on."""

import plotly.graph_objects as go
import pytest

from labsupport import Lab
from labsupport.errors import LabError
from labsupport.exercise import predict, progress, quiz
from labsupport.exercise.quiz import Question

FIGURE = go.Figure(go.Scatter(y=[1, 2]))


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """Collects what would be displayed to a person."""
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "my_labs/00.ipynb")
    found = []
    monkeypatch.setattr(predict, "display", found.append)
    monkeypatch.setattr(quiz, "display", found.append)
    return found


def test_the_reveal_waits_for_the_guess(shown):
    lab = Lab("00", scale="ci")
    lab.predict("sum", "How much?", ["256", "1000"])
    lab.reveal("sum", "256", "It stops.", FIGURE)
    question, reveal = shown
    assert len(reveal.children) == 1, "only the request for a guess, no answer"
    question.children[1].value = "1000"
    words = reveal.children[0].value
    assert "256" in words
    assert "You said 1000" in words
    assert progress.recall("predictions", "00.sum") == {"guess": "1000"}
    assert question.children[1].disabled, "the guess is closed once revealed"


def test_skip_reveals_too(shown):
    lab = Lab("00", scale="ci")
    lab.predict("sum", "How much?", ["256", "1000"])
    lab.reveal("sum", "256", "It stops.", FIGURE)
    reveal = shown[1]
    reveal.children[0].children[1].click()
    assert "You skipped" in reveal.children[0].value


def test_why_was_i_wrong_is_asked_only_of_the_wrong_and_saved(shown):
    lab = Lab("00", scale="ci")
    lab.predict("sum", "How much?", ["256", "1000"])
    lab.reveal("sum", "256", "It stops.", FIGURE)
    question, reveal = shown
    question.children[1].value = "256"
    assert len(reveal.children) == 2
    lab.predict("other", "How much?", ["256", "1000"])
    shown[2].children[1].value = "1000"
    lab.reveal("other", "256", "It stops.", FIGURE)
    shown[3].children[2].value = "I forgot rounding."
    assert progress.recall("reasons", "00.other") == "I forgot rounding."


def test_a_guess_survives_a_restart(shown):
    first = Lab("00", scale="ci")
    first.predict("sum", "How much?", ["256", "1000"])
    shown[0].children[1].value = "256"
    second = Lab("00", scale="ci")
    second.predict("sum", "How much?", ["256", "1000"])
    assert shown[1].children[1].value == "256"


def test_headless_shows_the_answer(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    lab = Lab("00", scale="ci")
    lab.predict("sum", "How much?", ["256", "1000"])
    lab.reveal("sum", "256", "It stops at 256.", FIGURE)
    out = capsys.readouterr().out
    assert "Answer: 256." in out
    assert "It stops at 256." in out


def test_a_reveal_without_a_picture_says_its_sentence(capsys):
    lab = Lab("00", scale="ci")
    lab.predict("sum", "How much?", ["256", "1000"])
    lab.reveal("sum", "256", "It stops.")
    assert "Answer: 256. It stops." in capsys.readouterr().out


def test_an_answer_must_have_been_a_choice():
    lab = Lab("00", scale="ci")
    with pytest.raises(LabError, match="Run the cell with"):
        lab.reveal("sum", "256", "")
    lab.predict("sum", "How much?", ["256", "1000"])
    with pytest.raises(LabError, match="'3' was not among the choices"):
        lab.reveal("sum", "3", "")


def test_a_question_answers_back(shown):
    ask = Question("q1", "2 + 2?", "4", {"4": "By counting.", "5": "One too many."})
    assert ask.respond("4") == "Right. By counting."
    assert ask.respond("5") == "Not quite. One too many."
    quiz.show_quiz([ask])
    title, buttons, reply = shown[0].children[0].children
    assert "2 + 2?" in title.value
    buttons.value = "5"
    assert reply.value == "Not quite. One too many."
    with pytest.raises(ValueError, match="not among"):
        Question("q2", "?", "6", {"4": ""})

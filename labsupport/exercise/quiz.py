"""Questions with feedback: the self-test of lab 00, three at each lab's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import ipywidgets as widgets
from IPython.display import display

from labsupport.exercise import progress
from labsupport.exercise.panel import show_html
from labsupport.settings import is_interactive


@dataclass(frozen=True)
class Question:
    """A question whose answers each have their own feedback.

    Attributes:
        key: unique in the course.
        text: the question.
        right: the right answer.
        feedback: answer -> what to say to whoever chose it.
    """

    key: str
    text: str
    right: str
    feedback: dict[str, str]

    def __post_init__(self) -> None:
        if self.right not in self.feedback:
            raise ValueError(f"{self.key}: the right answer is not among the answers")

    def respond(self, answer: str) -> str:
        """The feedback on an answer, beginning with Right or Not quite."""
        opening = "Right." if answer == self.right else "Not quite."
        return f"{opening} {self.feedback[answer]}"


def show_quiz(questions: Sequence[Question]) -> None:
    """Radio buttons for a person, the questions as text for a headless run."""
    if not is_interactive():
        listed = [
            f"{number}. {q.text}\n"
            + "\n".join(f"   - {answer}" for answer in q.feedback)
            for number, q in enumerate(questions, 1)
        ]
        text = "\n".join(listed)
        show_html(f"<pre>{escape(text)}</pre>", text)
        return
    display(widgets.VBox([_ask(n, q) for n, q in enumerate(questions, 1)]))


def _ask(number: int, question: Question) -> widgets.Widget:
    earlier = progress.recall("quiz", question.key)
    known = earlier if earlier in question.feedback else None
    buttons = widgets.RadioButtons(
        options=list(question.feedback),
        value=known,
        layout=widgets.Layout(width="auto"),
    )
    reply = widgets.HTML(escape(question.respond(known)) if known else "")

    def answered(change: dict[str, str]) -> None:
        reply.value = escape(question.respond(change["new"]))
        progress.note("quiz", question.key, change["new"])

    buttons.observe(answered, "value")
    title = widgets.HTML(f"<b>{number}.</b> {escape(question.text)}")
    return widgets.VBox([title, buttons, reply])

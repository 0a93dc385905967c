"""Predict, then see: the reader commits to a guess before the reveal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import ipywidgets as widgets
from IPython.display import display

from labsupport.exercise import progress
from labsupport.exercise.panel import show_html
from labsupport.settings import is_interactive


class Prediction:
    """One question and the reader's guess.

    Attributes:
        key: unique in the course, "00.sum".
        question: what will happen?
        choices: the possible answers.
        guess: what was chosen, "(skipped)", or None so far.
    """

    def __init__(self, key: str, question: str, choices: Sequence[str]) -> None:
        self.key = key
        self.question = question
        self.choices = list(choices)
        self.guess: str | None = progress.recall("predictions", key, {}).get("guess")
        self._waiting: list[Callable[[], None]] = []
        self._buttons: widgets.ToggleButtons | None = None

    def ask(self) -> None:
        """Show the question; a person gets buttons, a headless run the text."""
        listed = "\n".join(f"  - {choice}" for choice in self.choices)
        if not is_interactive():
            show_html(
                f"<p><b>Predict.</b> {escape(self.question)}</p>"
                f"<ul>{''.join(f'<li>{escape(c)}</li>' for c in self.choices)}</ul>",
                f"Predict. {self.question}\n{listed}",
            )
            return
        buttons = widgets.ToggleButtons(
            options=self.choices,
            value=self.guess if self.guess in self.choices else None,
            style={"button_width": "auto"},
        )
        buttons.add_class("labs-predict")
        self._buttons = buttons
        said = widgets.HTML(self._thanks())

        def chosen(change: dict[str, str]) -> None:
            self._settle(change["new"])
            said.value = self._thanks()

        buttons.observe(chosen, "value")
        title = widgets.HTML(f"<b>Predict.</b> {escape(self.question)}")
        display(widgets.VBox([title, buttons, said]))

    def when_settled(self, show: Callable[[], None]) -> None:
        """Call `show` now if there is a guess, otherwise once there is one."""
        if self.guess is not None:
            show()
        else:
            self._waiting.append(show)

    def skip(self) -> None:
        self._settle("(skipped)")

    def close(self) -> None:
        """No more guessing: the answer is on the page."""
        if self._buttons is not None:
            self._buttons.disabled = True

    def _settle(self, guess: str) -> None:
        self.guess = guess
        progress.note("predictions", self.key, {"guess": guess})
        waiting, self._waiting = self._waiting, []
        for show in waiting:
            show()

    def _thanks(self) -> str:
        return f"Saved: {escape(self.guess)}." if self.guess else "Choose one."


def reveal_in(
    prediction: Prediction, answer: str, content: Callable[[], widgets.Widget]
) -> None:
    """Show `content` (made on demand) once the reader has guessed or skipped.

    Under it stands one line to fill in: why was I wrong? It is saved.
    """
    box = widgets.VBox([])
    box.add_class("labs-reveal")

    def show() -> None:
        prediction.close()
        right = prediction.guess == answer
        skipped = prediction.guess == "(skipped)"
        words = "You skipped." if skipped else f"You said {prediction.guess}."
        verdict = f"<b>{escape(answer)}.</b> {escape(words)}"
        parts = [widgets.HTML(verdict), content()]
        if not right:
            parts.append(_why(prediction.key))
        box.children = tuple(parts)

    if prediction.guess is None:
        skip = widgets.Button(description="Skip the guess")
        skip.add_class("labs-skip")
        skip.on_click(lambda _: prediction.skip())
        ask = widgets.HTML("Make your guess above first, or")
        box.children = (widgets.HBox([ask, skip]),)
    prediction.when_settled(show)
    display(box)


def _why(key: str) -> widgets.Widget:
    """The line "why was I wrong?", saved as it is typed."""
    line = widgets.Text(
        value=progress.recall("reasons", key, ""),
        placeholder="Why did it come out differently? One line.",
        continuous_update=False,
        layout=widgets.Layout(width="90%"),
    )
    line.observe(lambda c: progress.note("reasons", key, c["new"]), "value")
    return line

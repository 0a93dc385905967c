"""How exercises look: a badge, a check's message, folded hints.

Everything is shown as HTML with a plain text twin, so that a terminal, a
static viewer and a screen reader get the same words.
"""

from __future__ import annotations

from html import escape

from IPython.display import display

from labsupport.exercise.spec import Exercise

# Colours with at least 4.5:1 contrast against their text, told apart by
# words too, never by colour alone.
COLOURS = {
    "green": ("#e3f4e8", "#14532d"),
    "orange": ("#fff1dc", "#7a3e00"),
    "red": ("#fde4e4", "#7f1d1d"),
    "grey": ("#eceff3", "#39424e"),
}


def show_html(html: str, text: str) -> None:
    """Display HTML together with its plain text twin."""
    display({"text/html": html, "text/plain": text}, raw=True)


def badge_html(colour: str, words: str) -> str:
    background, ink = COLOURS[colour]
    style = (
        f"background:{background};color:{ink};padding:2px 10px;"
        "border-radius:10px;font-weight:600;font-size:90%"
    )
    return f'<span class="labs-badge" style="{style}">{escape(words)}</span>'


def show_badge(colour: str, words: str) -> None:
    show_html(badge_html(colour, words), words)


def show_message(colour: str, words: str, message: str) -> None:
    """A badge and, under it, what the check has to say."""
    _, ink = COLOURS[colour]
    style = (
        f"border-left:3px solid {ink};margin:6px 0;padding:2px 12px;"
        "white-space:pre-wrap;font-family:inherit;"
        "word-break:normal;overflow-wrap:anywhere"
    )
    body = f'<pre class="labs-check" style="{style}">{escape(message)}</pre>'
    show_html(badge_html(colour, words) + body, f"{words}\n{message}")


def show_hints(exercise: Exercise) -> None:
    """The hints of an exercise, each folded until it is opened."""
    folds = [
        f"<details><summary>Hint {number} of {len(exercise.hints)}</summary>"
        f"<p>{escape(hint)}</p></details>"
        for number, hint in enumerate(exercise.hints, 1)
    ]
    title = f"Hints for {exercise.id}: open the one that the check names."
    show_html("".join(folds), title)

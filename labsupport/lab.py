"""`Lab`: the one object that a notebook talks to."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from IPython.core.getipython import get_ipython

import kernels
from labsupport import distributed
from labsupport.claims.beliefs import ask_beliefs
from labsupport.claims.provenance import usable_cores
from labsupport.course_map import map_figure, map_sentence, passed_labs
from labsupport.doctor import examine
from labsupport.errors import LabError
from labsupport.exercise import progress
from labsupport.exercise.function import ExerciseFunction
from labsupport.exercise.panel import show_badge, show_hints, show_html, show_message
from labsupport.exercise.predict import Prediction, reveal_in
from labsupport.exercise.quiz import Question, show_quiz
from labsupport.exercise.spec import Exercise
from labsupport.explore import Control, Explorer, View, show_figure
from labsupport.jupyter.live_comms import answer_during_cells
from labsupport.settings import choose_settings, is_interactive, seed_everything


class ExerciseOpen(LabError):
    """Under LABS_STRICT=1: an exercise is unsolved or fails its check."""


def is_strict() -> bool:
    """Grading: an unsolved or failing exercise is an error."""
    return os.environ.get("LABS_STRICT") == "1"


class Lab:
    """One lab, at one scale, with the reader's attempts so far.

    Args:
        number: "00", "04a"; the lab's exercises live in labs/lab_NN.
        scale: "ci", "cpu", "gpu"; None follows LABS_SCALE, then "cpu".
        seed: seeds initialisation, data order and sampling.
        world: how many processes the torchrun cells start.

    Raises:
        LabError: an unknown lab or a parameter that is not allowed.
    """

    def __init__(
        self, number: str, scale: str | None = None, seed: int = 0, world: int = 2
    ) -> None:
        self.number = number
        self.settings = choose_settings(scale, seed, world)
        self._specs = _exercises_of(number)
        self._functions: dict[str, ExerciseFunction] = {}
        self._predictions: dict[str, Prediction] = {}
        seed_everything(self.settings.seed)
        torch.set_num_threads(min(usable_cores(), 8))
        shell = get_ipython()
        if shell is not None:
            distributed.load(shell)
            answer_during_cells()
        print(self._banner())

    # --- exercises ---------------------------------------------------------

    def exercise(self, number: str) -> Callable[[Callable[..., Any]], ExerciseFunction]:
        """Decorate the reader's function; it is used if it passes its check."""
        spec = self._spec(number)

        def decorate(yours: Callable[..., Any]) -> ExerciseFunction:
            function = ExerciseFunction(spec, yours)
            self._functions[number] = function
            self._note(function)
            show_badge(*function.badge)
            return function

        return decorate

    def check(self, number: str) -> None:
        """Say what is right or wrong with the reader's attempt.

        Raises:
            ExerciseOpen: under LABS_STRICT=1, unless the attempt passes.
        """
        function = self._function(number)
        if is_strict() and not function.verdict.passed:
            state = function.verdict.state
            raise ExerciseOpen(f"Exercise {number} {state}. {function.verdict.message}")
        show_message(*function.badge, function.verdict.message)

    def hints(self, number: str) -> None:
        """Show the hints, folded."""
        show_hints(self._spec(number))

    def mine(self, number: str, force: bool = True) -> None:
        """Use the reader's function even if it fails, to watch what breaks."""
        function = self._function(number)
        function.forced = force
        show_badge(*function.badge)

    def ours(self, number: str) -> None:
        """Go back to the safe choice: the reader's if it passes, else ours."""
        self.mine(number, force=False)

    # --- predictions, questions, beliefs -----------------------------------

    def predict(self, key: str, question: str, choices: Sequence[str]) -> None:
        """Ask for a guess before the reveal; it is saved."""
        prediction = Prediction(f"{self.number}.{key}", question, choices)
        self._predictions[key] = prediction
        prediction.ask()

    def reveal(
        self, key: str, answer: str, sentence: str, figure: go.Figure | None = None
    ) -> None:
        """Show what happened, once the reader has guessed or skipped.

        Args:
            key: the prediction's key.
            answer: the choice that is right, computed in this run.
            sentence: what happened.
            figure: what to look at.

        Raises:
            LabError: no such prediction, or an answer that was not a choice.
        """
        prediction = self._predictions.get(key)
        if prediction is None:
            raise LabError(f"Run the cell with lab.predict({key!r}, ...) first.")
        if answer not in prediction.choices:
            raise LabError(f"{answer!r} was not among the choices of {key!r}.")
        if is_interactive():

            def content() -> widgets.Widget:
                picture = [] if figure is None else [go.FigureWidget(figure)]
                return widgets.VBox([*picture, widgets.HTML(sentence)])

            reveal_in(prediction, answer, content)
            return
        told = "" if figure is not None else f" {sentence}"
        show_html(f"<b>{answer}.</b>{told}", f"Answer: {answer}.{told}")
        if figure is not None:
            show_figure(figure, sentence)

    def quiz(self, *questions: Question) -> None:
        """Ask questions that answer back."""
        show_quiz(questions)

    def beliefs(self, *claim_ids: str) -> None:
        """Ask how sure the reader is that these claims hold."""
        ask_beliefs(claim_ids, self.number)

    # --- explorers ---------------------------------------------------------

    def explore(self, draw: Callable[..., View], **controls: Control) -> None:
        """Join a function with controls; see `labsupport.explore`."""
        Explorer(draw, None, **controls).show()

    # --- where am I, and on what -------------------------------------------

    def show_map(self) -> None:
        """The course as a map; labs with a passed exercise are green."""
        passed = passed_labs()
        show_figure(map_figure(passed), map_sentence(passed))

    def show_doctor(self) -> None:
        """What this machine can do, as `labs doctor` says it."""
        for finding in examine():
            mark = "ok" if finding.good else "!!"
            print(f"{mark} {finding.name:7} {finding.found:14} {finding.follows}")

    # --- inside ------------------------------------------------------------

    def _spec(self, number: str) -> Exercise:
        if number not in self._specs:
            known = ", ".join(self._specs) or "none"
            raise LabError(
                f"Lab {self.number} has no exercise {number!r}: it has {known}."
            )
        return self._specs[number]

    def _function(self, number: str) -> ExerciseFunction:
        self._spec(number)
        if number not in self._functions:
            raise LabError(f"Run the cell that defines exercise {number} first.")
        return self._functions[number]

    def _note(self, function: ExerciseFunction) -> None:
        number, state = function.spec.id, function.verdict.state
        earlier = progress.recall("exercises", number, {})
        passed = state == "passed" or earlier.get("passed", False)
        tries = earlier.get("tries", 0) + (state != "unsolved")
        entry = {"passed": passed, "tries": tries, "state": state}
        progress.note("exercises", number, entry)

    def _banner(self) -> str:
        settings = self.settings
        device = settings.device.type
        if device == "cuda":
            device = torch.cuda.get_device_name(0)
        lines = [
            f"Lab {self.number} at scale {settings.scale!r} on {device}, "
            f"{torch.get_num_threads()} threads, seed {settings.seed}, "
            f"torch {torch.__version__.split('+')[0]}."
        ]
        if not kernels.HAS_TRITON:
            lines.append("Triton has no wheel here: its cells show recorded output.")
        solved = [n for n in self._specs if progress.recall("exercises", n, {})]
        if solved:
            lines.append(f"Exercises tried so far: {', '.join(solved)}.")
        return "\n".join(lines)


def _exercises_of(number: str) -> dict[str, Exercise]:
    """The exercises in labs/lab_NN/exercises.py, by id."""
    name = f"labs.lab_{number}"
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise LabError(f"There is no lab {number!r}: see `labs list`.") from error
    if importlib.util.find_spec(f"{name}.exercises") is None:
        return {}
    module = importlib.import_module(f"{package.__name__}.exercises")
    return {exercise.id: exercise for exercise in module.EXERCISES}

"""What came of a training run: the model, the metrics, how it ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import nn

if TYPE_CHECKING:
    # Imported on use: the ranks of a torchrun cell train without them.
    import pandas as pd
    import plotly.graph_objects as go

COLUMNS = ("step", "loss", "validation", "lr", "grad_norm", "tokens", "seconds")

Ending = Literal["finished", "stopped", "nan"]


@dataclass(frozen=True)
class Band:
    """The spread of recorded runs, to be drawn behind a live one.

    Attributes:
        steps: where the band is known, rising.
        low: its lower edge at each of these steps.
        high: its upper edge.
        window: how many steps each of its values is a mean of.
        recorded_on: machine and date, for the caption.
    """

    steps: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    recorded_on: str
    window: int = 1


@dataclass
class Run:
    """A training run, finished or not.

    Attributes:
        model: with its latest weights.
        title: names the run in text and picture.
        steps: how many steps were asked for.
        band: a recorded spread to draw behind the loss, or None.
        stopped: "finished", "stopped" (button or interrupt) or "nan"; a run that
            still goes on counts as "stopped".
        sentence: in words, how it ended.
        saved_step: the step that the checkpoint holds, or None.
        resumed_at: the step that the run was resumed at, 0 for a new one.
        metrics: one dict a step; the keys are `COLUMNS` and what `measure` adds.
    """

    model: nn.Module
    title: str
    steps: int
    band: Band | None = None
    eval_name: str = "validation"
    stopped: Ending = "stopped"
    sentence: str = ""
    saved_step: int | None = None
    resumed_at: int = 0
    metrics: list[dict[str, float]] = field(default_factory=list)

    @property
    def steps_done(self) -> int:
        """Updates made, those before a resume included."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Time spent training, validation and earlier sessions included."""
        return self.metrics[-1]["seconds"] if self.metrics else 0.0

    @property
    def loss(self) -> float:
        """The latest training loss, NaN before the first step."""
        return self.metrics[-1]["loss"] if self.metrics else math.nan

    @property
    def validation(self) -> float:
        """The latest validation loss, or score; NaN before the first one."""
        for row in reversed(self.metrics):
            if not math.isnan(row["validation"]):
                return row["validation"]
        return math.nan

    def table(self) -> pd.DataFrame:
        """One row a step: `COLUMNS`, then what `measure` added.

        `tokens` and `seconds` count from the start of the run. `validation` is
        NaN at the steps without one.
        """
        import pandas as pd

        rows = pd.DataFrame(self.metrics)
        extra = [name for name in rows.columns if name not in COLUMNS]
        rows = rows.reindex(columns=[*COLUMNS, *extra])
        return rows.astype({"step": int, "tokens": int})

    def numbers(self) -> list[str]:
        """The latest numbers, each with its name."""
        parts = [f"loss {self.loss:.3f}"]
        if not math.isnan(self.validation):
            parts.append(f"{self.eval_name} {self.validation:.3f}")
        return parts

    def outcome(self) -> str:
        """How the run ended, in one sentence with its latest numbers."""
        numbers = ", ".join(self.numbers())
        if self.stopped == "finished":
            return f"Finished {self.steps} steps in {self.seconds:.1f} s: {numbers}."
        return f"Stopped after step {self.steps_done} of {self.steps}: {numbers}."

    def curves(self, most: int = 0) -> dict[str, tuple[list[float], list[float]]]:
        """The x and y of the figure's lines by name; `most` points each, 0 for all."""
        from labsupport.train.figure import curves

        return curves(self.metrics, most, self.band, self.eval_name)

    def figure(self) -> go.Figure:
        """The loss curve, with validation and the recorded spread."""
        from labsupport.train.figure import loss_figure

        return loss_figure(self.metrics, self.title, self.band, self.eval_name)

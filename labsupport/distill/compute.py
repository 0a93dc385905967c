"""What learning costs, in floating-point operations.

    to read or to write a token     2 N     (N weights, each one multiply and one add)
    to learn from one               6 N     (forward 2, backward 4)

Source: Kaplan et al., 2020 (arXiv 2001.08361), section 2.1. Attention and the norms are
left out; with 30 positions they are few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.errors import LabError
from labsupport.nn import GPT


@dataclass
class Compute:
    """A budget, and what was spent of it.

    Attributes:
        student, teacher: N of both, without the embedding, which is only looked up.
        budget: FLOPs that may be spent.
        spent: FLOPs by what they were for.
    """

    student: int
    teacher: int
    budget: float
    spent: dict[str, float]

    @classmethod
    def of(cls, student: GPT, teacher: GPT, budget: float) -> Compute:
        """An unspent budget for two models.

        Raises:
            LabError: a budget that is not above 0.
        """
        if not budget > 0:
            raise LabError(f"budget={budget}: use a number of FLOPs above 0.")
        return cls(weights(student), weights(teacher), budget, {})

    @property
    def left(self) -> float:
        """FLOPs that may still be spent."""
        return self.budget - sum(self.spent.values())

    def writes(self, who: str, tokens: float) -> None:
        """Charge for tokens that a model reads or writes.

        Args:
            who: "student" or "teacher".
            tokens: how many.
        """
        cost = 2 * getattr(self, who) * tokens
        self.spent[f"{who} writes"] = self.spent.get(f"{who} writes", 0.0) + cost

    def learns(self, tokens: float) -> None:
        """Charge for tokens that the student learns from."""
        cost = 6 * self.student * tokens
        self.spent["student learns"] = self.spent.get("student learns", 0.0) + cost

    def steps(
        self,
        learned: float,
        student: float = 0.0,
        teacher: float = 0.0,
        share: float = 1.0,
    ) -> int:
        """How many steps the rest of the budget pays for, and charge for them.

        Args:
            learned: tokens that the student learns from in a step.
            student, teacher: tokens that each reads or writes besides.
            share: of the whole budget that may be gone afterwards.

        Raises:
            LabError: not a single one.
        """
        each = (
            6 * self.student * learned
            + 2 * self.student * student
            + 2 * self.teacher * teacher
        )
        left = self.left - (1 - share) * self.budget
        steps = int(left // each)
        if steps < 1:
            raise LabError(
                f"{left:.3g} FLOPs are left, and a step takes {each:.3g}: use a larger "
                "budget or smaller steps."
            )
        self.learns(steps * learned)
        if student:
            self.writes("student", steps * student)
        if teacher:
            self.writes("teacher", steps * teacher)
        return steps


def weights(model: GPT) -> int:
    """N: all weights but those of the embedding."""
    count: int = model.parameter_count()
    return count if model.config.tied else count - model.embedding.weight.numel()

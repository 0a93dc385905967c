"""Losses that compare a student's scores with a teacher's.

    loss = T^2 mean over tokens of D(p, q),   p = softmax(t / T),   q = softmax(s / T)

    beta    D                                     name
    0       KL(p || q)                            forward: q has to cover p
    1       KL(q || p)                            reverse: q has to stay inside p
    else    beta KL(p || M) + (1 - beta) KL(q || M),  M = beta p + (1 - beta) q

The gradient of D to the scores shrinks as 1 / T^2 for a large T; the factor in front
undoes this, so that a change of T does not change the learning rate with it. Sources:
Hinton et al., 2015 (arXiv 1503.02531), section 2.1; Agarwal et al., 2023 (arXiv
2306.13649), section 3 and equation 1.

Shape suffixes: B sequences, S positions, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.token_divergence import token_divergence
from labsupport.errors import LabError
from labsupport.tasks.game import IGNORED


@dataclass(frozen=True)
class DistillationLoss:
    """How far a student is from its teacher.

    Attributes:
        beta: 0 to 1, see above.
        temperature: T, above 0; divides the scores of both.

    Raises:
        LabError: other numbers.
    """

    beta: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise LabError(f"beta={self.beta}: use a number from 0 to 1.")
        if not 0 < self.temperature < math.inf:
            raise LabError(
                f"temperature={self.temperature}: it divides the scores, so use a "
                "finite number above 0."
            )

    def __call__(
        self, student_BSV: Tensor, teacher_BSV: Tensor, targets_BS: Tensor
    ) -> Tensor:
        """The loss, with a gradient to the student's scores alone.

        Args:
            student_BSV, teacher_BSV: scores of the same vocabulary.
            targets_BS: positions with IGNORED do not count; which token stands at the
                others does not matter.

        Raises:
            LabError: another vocabulary, scores that are not finite, no position that
                counts.
        """
        require_one_vocabulary(student_BSV.shape[-1], teacher_BSV.shape[-1])
        if student_BSV.shape != teacher_BSV.shape:
            raise LabError(
                f"The student has scores of shape {tuple(student_BSV.shape)}, the "
                f"teacher of {tuple(teacher_BSV.shape)}: both need the same positions."
            )
        mask_BS = targets_BS != IGNORED
        if not mask_BS.any():
            raise LabError("Every token is ignored, so there is nothing to learn from.")
        if not teacher_BSV[mask_BS].isfinite().all():
            raise LabError(
                "The teacher's scores are not all finite: it overflowed, or its "
                "weights are damaged."
            )
        each_BS = token_divergence(
            student_BSV.float(),
            teacher_BSV.detach().float(),
            mask_BS,
            beta=self.beta,
            temperature=self.temperature,
        )
        total: Tensor = each_BS.sum() / mask_BS.sum()
        return self.temperature**2 * total


FORWARD = DistillationLoss(0.0)
REVERSE = DistillationLoss(1.0)
JSD = DistillationLoss(0.5)


def require_one_vocabulary(student: int, teacher: int) -> None:
    """Refuse a teacher whose tokens are not the student's.

    Raises:
        LabError: they are not.
    """
    if student != teacher:
        raise LabError(
            f"The student knows {student} tokens, the teacher {teacher}: scores can be "
            "compared for one vocabulary only. Learn from the teacher's text instead."
        )


def disagreement(
    student_BSV: Tensor, teacher_BSV: Tensor, targets_BS: Tensor
) -> Tensor:
    """KL(teacher || student) at each position, in nats; 0 where it does not count."""
    with torch.no_grad():
        each_BS: Tensor = token_divergence(
            student_BSV.float(), teacher_BSV.float(), targets_BS != IGNORED
        )
    return each_BS

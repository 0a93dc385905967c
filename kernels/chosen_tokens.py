"""What the operations on log-probabilities share: chosen tokens, ignored ones, checks.

A token of a sequence is *chosen* from the V entries of the vocabulary: by sampling, or
because it stands in the text. `targets` holds the number of the chosen entry, int64 as
everywhere in PyTorch. IGNORED in its place says that a token does not count, a prompt's
or padding: `targets.masked_fill(~mask, IGNORED)` turns a mask into that. Of an ignored
token nothing is read, its results are 0, and so are its gradients.
"""

from __future__ import annotations

import math
from typing import TypeGuard

import torch
from torch import Tensor

from kernels.operation import KernelInputError, check_beside

IGNORED = -100
"""The target of a token that does not count, as in torch's cross_entropy."""


def check_targets(
    operation: str,
    targets: Tensor,
    shape: tuple[int, ...],
    axes: str,
    V: int,
    beside: Tensor,
    beside_name: str,
) -> None:
    """Refuse targets that are not entries of the vocabulary.

    On a CPU their numbers are checked too. A GPU would have to be waited for: there
    they are trusted, a negative one is ignored, and one of V or more gives NaN.

    Args:
        operation: the public function's name.
        targets: the chosen entries.
        shape: what they must have.
        axes: the same in letters, such as "(B, T)".
        V: the size of the vocabulary.
        beside: the operation's first input, checked already.
        beside_name: what the function calls it.

    Raises:
        KernelInputError: targets is no such tensor.
    """
    check_beside(
        operation, beside, "targets", targets, shape, axes, torch.int64, beside_name
    )
    if targets.device.type != "cpu":
        return
    wrong = (targets != IGNORED) & ((targets < 0) | (targets >= V))
    if wrong.any():
        raise KernelInputError(
            f"{operation}: targets must be 0 to {V - 1}, or {IGNORED} for a token to "
            f"ignore; got {int(targets[wrong][0])}."
        )


def check_temperature(operation: str, temperature: object) -> None:
    """Refuse a temperature that is no number above 0.

    Raises:
        KernelInputError: it is not. 0 would be greedy sampling, under which the chosen
            token has probability 1 and nothing has a gradient.
    """
    if not is_number(temperature) or not 0 < temperature < math.inf:
        raise KernelInputError(
            f"{operation}: temperature must be a number above 0; got {temperature!r}."
        )


def is_number(value: object) -> TypeGuard[float]:
    """A Python number, and not True or False, which count as integers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)

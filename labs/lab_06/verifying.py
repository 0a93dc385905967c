"""The verifier of lab 06, on texts, as 6.1 asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labsupport.tasks.shell_game import ShellGame

Verify = Callable[[str, str], object]


def verify(prompt: str, completion: str) -> bool:
    """Whether a completion names the cup with the ball.

    It has to end with `=`, one cup, EOS, and to have no other `=`. What stands before
    is not read.

    Args:
        prompt: "C AB CE DE ?".
        completion: "C E D = D EOS", or whatever a model wrote.
    """
    return names_only(where(prompt), completion)


def names_only(cup: str, completion: str) -> bool:
    """Whether a completion ends with `=`, this cup, EOS, and has no other `=`."""
    words = completion.split()
    return words[-3:] == ["=", cup, "EOS"] and words.count("=") == 1


def where(prompt: str) -> str:
    """The cup with the ball after all swaps of a prompt."""
    cup, *swaps, _ = prompt.split()
    return moved(cup, swaps)


def moved(cup: str, swaps: Sequence[str]) -> str:
    """Where a ball under this cup is after these swaps."""
    for a, b in swaps:
        if cup in (a, b):
            cup = b if cup == a else a
    return cup


def as_reward(
    verify: Verify, game: ShellGame
) -> Callable[[Sequence[int], Sequence[int]], float]:
    """A verifier of texts as one of tokens: 1.0 or 0.0."""
    decode = game.vocabulary.decode

    def reward(prompt: Sequence[int], completion: Sequence[int]) -> float:
        return float(bool(verify(decode(prompt), decode(completion))))

    return reward

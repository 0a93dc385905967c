"""What an exception in a reader's function says, in a sentence."""

from __future__ import annotations

import traceback

NO_POWER = "In Python `^` is no power: write `**`."
MEANINGS = (
    ("bitwise_xor", NO_POWER),
    ("for ^:", NO_POWER),
    (
        "cannot be block type if pointer argument is not a block",
        "A block of numbers is stored where one belongs: is a `tl.sum` missing?",
    ),
)
"""What stands in a message of somebody else's, and what it means here."""


def is_stub(error: BaseException) -> bool:
    """Whether it is the stub's own: PyTorch's NotImplementedErrors have a text."""
    return isinstance(error, NotImplementedError) and not error.args


def raised_words(error: Exception) -> str:
    """The exception, the line of the reader's cell, and what it means."""
    if "inplace operation" in str(error):
        return (
            "Asked: gradients.\nYours: autograd needs a tensor that was changed in "
            "place. Write `x = x / y` for `x /= y`."
        )
    cause = unwrapped(error)
    words = str(cause).strip().split("\n")[0]
    said = f"Your function raised {type(cause).__name__}: {words}{line_of(error)}."
    meanings = [meaning for part, meaning in MEANINGS if part in str(cause)]
    return "\n".join([said, *meanings[:1]])


def unwrapped(error: BaseException) -> BaseException:
    """What Triton's interpreter wrapped into an error of its own."""
    while type(error).__name__ == "InterpreterError" and error.__cause__ is not None:
        error = error.__cause__
    return error


def line_of(error: BaseException) -> str:
    """The line of the reader's own cell where an exception was raised."""
    cause = unwrapped(error)
    for each in (cause, error):
        for frame in reversed(traceback.extract_tb(each.__traceback__)):
            if "ipykernel_" in frame.filename or frame.filename.startswith("<ipython"):
                return f" (line {frame.lineno} of your cell: {frame.line})"
    return ""

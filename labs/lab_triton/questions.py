"""The three questions at the end of the Triton primer."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "triton.grid",
        "A vector of 100,000 numbers, BLOCK = 1024. How many programs?",
        "98",
        {
            "97": "97 x 1024 = 99,328: 672 numbers are left over.",
            "98": "100,000 / 1024, rounded up; the last program masks 352 lanes.",
            "100,000": "A program handles a block, not one number.",
        },
    ),
    Question(
        "triton.other",
        "Which `other` do masked lanes need in a row's maximum?",
        "minus infinity",
        {
            "0": "0 is larger than every score of a row of negative scores.",
            "the row's first element": "It works, but has to be loaded first.",
            "minus infinity": "It is never the maximum.",
        },
    ),
    Question(
        "triton.bytes",
        "A kernel reads x and writes 2 x + 1. What limits its speed on a GPU?",
        "memory bandwidth",
        {
            "memory bandwidth": "Two FLOPs for 8 bytes: it waits for memory.",
            "the multiplications": "A GPU does hundreds while a number arrives.",
            "the number of programs": "Enough of them run at once to hide that.",
        },
    ),
)

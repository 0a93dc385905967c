"""The three questions at the end of lab 01."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "01.exact",
        "Sinkhorn stops after 20 iterations, rows last. Which gain of a long chain "
        "is exactly 1 all the same?",
        "the forward gain",
        {
            "the backward gain": "Columns are scaled first, so the rows' last scaling "
            "moves them a little again.",
            "the forward gain": "Rows are scaled last: each sums to 1 exactly, and so "
            "do the rows of every product.",
            "neither": "One of the two is what the last scaling makes it.",
        },
    ),
    Question(
        "01.loss",
        "HC's lanes have grown ten thousandfold, and its loss is fine. Why?",
        "every branch normalises what it reads",
        {
            "the optimizer undoes it": "The lanes stay that large to the end.",
            "the gain is an average": "It is the largest row sum, no average.",
            "every branch normalises what it reads": "RMSNorm removes the scale, and "
            "so does the one before the output. Only the number format notices.",
        },
    ),
    Question(
        "01.pays",
        "A step with mHC takes 1.067 times as long. When does it pay in time alone?",
        "if failures waste more than 6.3 % of the compute",
        {
            "always, because it is stable": "Stability has a value only where "
            "something fails without it.",
            "if failures waste more than 6.3 % of the compute": "1 - 1 / 1.067 = "
            "0.063: that much must have been lost to restarts before.",
            "never": "It also reaches a lower loss in the paper; time alone can be "
            "outweighed by failures.",
        },
    ),
)

"""The three questions at the end of lab 03."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "03.outlier",
        "One channel of an activation is 1000 times as large as the rest. With one "
        "scale for the whole tensor, the other channels suffer in",
        "INT8",
        {
            "E4M3": "Their exponents get smaller, their mantissas stay: it takes "
            "factors of 10,000 and more.",
            "INT8": "Its steps are all equal, and the outlier decides their size.",
            "both": "E4M3 is a floating-point format: a factor of 1000 leaves it "
            "range enough.",
        },
    ),
    Question(
        "03.tile",
        "Why are x and g cut along tokens for the weights' gradient?",
        "because that product sums over tokens",
        {
            "because gradients are smaller": "That is what scales are for, whichever "
            "way tiles lie.",
            "because that product sums over tokens": "Only a scale that all terms of a "
            "partial sum share can be taken out of it.",
            "to save memory": "There are as many scales either way.",
        },
    ),
    Question(
        "03.memory",
        "Which of these is kept in 8 bits in DeepSeek-V3's training?",
        "the inputs of linear layers, for the backward",
        {
            "the weights that the optimizer moves": "They are float32: an update is "
            "far smaller than the distance between two codes.",
            "the inputs of linear layers, for the backward": "One byte a number, and "
            "a scale for 128 of them.",
            "Adam's moments": "They are bfloat16.",
        },
    ),
)

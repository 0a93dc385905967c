"""The three questions at the end of lab 04b."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "04b.weights",
        "Two ranks have 10 and 30 samples, and DDP averages their mean gradients. "
        "What is wrong with the result?",
        "samples of the small batch count three times as much",
        {
            "nothing, a mean is a mean": "A mean over ranks is one over samples only "
            "where batches are equal.",
            "it is too small": "Its length is about right. Its direction leans to the "
            "small batch.",
            "samples of the small batch count three times as much": "Each of the ten "
            "has a weight of 1/20, each of the thirty one of 1/60.",
        },
    ),
    Question(
        "04b.slow",
        "One of 64 workers takes three times as long for a sample. What can balancing "
        "save, without fixed times?",
        "two thirds of the step",
        {
            "almost nothing, it is one of 64": "With equal batches all 63 others wait "
            "for it, in every step.",
            "half of the step": "That is two workers. The more others there are, the "
            "less the slow one's share weighs.",
            "two thirds of the step": "From 3 times a fast step to hardly more than "
            "one: T falls from 3 to 64 / (63 + 1/3), about 1.01.",
        },
    ),
    Question(
        "04b.slice",
        "A slice of the loss around model A is wider than around model B. When may "
        "you call A's minimum flatter along this direction?",
        "when the direction is scaled with the weights",
        {
            "always, that is what wide means": "Rescaled weights can compute the same "
            "and look ten times sharper.",
            "when the direction is scaled with the weights": "Filter normalisation "
            "does that for rows. And then it is one direction of very many.",
            "when both losses are equal": "Twins with equal losses look different "
            "along raw directions.",
        },
    ),
)

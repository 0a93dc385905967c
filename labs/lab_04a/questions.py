"""The three questions at the end of lab 04a."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "04a.feedback",
        "Top-k with error feedback sends 3% of the numbers. What becomes of the other "
        "97%?",
        "they wait in the residual and are sent later",
        {
            "they were not important": "Without a memory it stalls: what is small in "
            "one step adds up over many.",
            "they wait in the residual and are sent later": "All that was sent plus "
            "the last residual is the sum of all gradients.",
            "the other workers send them": "Every worker picks from its own numbers, "
            "and all of them keep what they did not send.",
        },
    ),
    Question(
        "04a.share",
        "Communication is 30% of a step, and the backward hides two thirds of it. What "
        "can a compression of 15 to 1 save, at most?",
        "about 9% of the step",
        {
            "about 28% of the step": "What is hidden takes no time that could be "
            "saved: only the exposed 10% count.",
            "about 9% of the step": "10% are exposed, and 14 / 15 of that can be "
            "saved, less what compressing costs.",
            "about 93% of the step": "That is the share of the bytes. A step also "
            "computes.",
        },
    ),
    Question(
        "04a.coherence",
        "Four workers, and a direction has a coherence of 1/4. What do the workers "
        "send in it?",
        "noise that differs from worker to worker",
        {
            "all the same": "Then the mean would be as long as each of them: a "
            "coherence of 1.",
            "noise that differs from worker to worker": "In a mean of W, independent "
            "noise has a W-th of its energy.",
            "nothing": "A quotient of energies says nothing about their size.",
        },
    ),
)

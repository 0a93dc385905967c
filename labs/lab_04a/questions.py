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
        "10% of the step",
        {
            "about 28% of the step": "What is hidden takes no time that could be "
            "saved: only the exposed 10% count.",
            "10% of the step": "20 of the 30 are hidden and cost nothing. After "
            "compression 2 are left, and they hide, too: the exposed 10% go.",
            "about 93% of the step": "That is the share of the bytes. A step also "
            "computes.",
        },
    ),
    Question(
        "04a.ring",
        "A ring all-reduce of 100 MB of gradients: what does each of 8 workers send, "
        "and what each of 1,000?",
        "175 MB, and almost 200 MB",
        {
            "100 MB, and 100 MB": "Sums travel around the ring, and then the results: "
            "nearly every number passes twice.",
            "175 MB, and almost 200 MB": "2 (W - 1) / W times the bytes, so never "
            "twice as much. What grows with W is the number of messages.",
            "700 MB, and 99.9 GB": "So it would be if each sent all it has to all "
            "others, as top-k has to: an all-gather.",
        },
    ),
)

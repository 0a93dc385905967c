"""The three questions at the end of lab 02."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "02.memory",
        "You double the experts and leave the rest. What doubles with them at "
        "inference?",
        "memory",
        {
            "computation a token": "A token still visits K of them; only the router's "
            "small matrix grows.",
            "memory": "Any token may ask for any expert, so all have to be there.",
            "both": "Computation a token hardly changes: K stays.",
        },
    ),
    Question(
        "02.bias",
        "Why is the bias kept out of the weights?",
        "it says how busy an expert is, not how well it fits",
        {
            "it has no gradient": "That follows from it; a weight without a gradient "
            "would be possible.",
            "it says how busy an expert is, not how well it fits": (
                "So it may move a token to another expert, but not change what the "
                "expert's answer is worth."
            ),
            "to save computation": "An addition more or less is nothing.",
        },
    ),
    Question(
        "02.counts",
        "Every rank updates its biases from its own counts. What goes wrong?",
        "biases drift apart, so ranks route the same token differently",
        {
            "nothing, the signs agree": "They agree only as far as the ranks' data do.",
            "biases drift apart, so ranks route the same token differently": (
                "The rule is about the whole batch: sum the counts before the sign."
            ),
            "gradients become wrong": "Biases have none.",
        },
    ),
)

"""The three questions at the end of lab 05b."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "05b.axis",
        "A team moves a training from data parallelism to tensor parallelism, and says "
        "that its 1.6B model now reaches the loss of a 4.4B one. What do you ask "
        "first?",
        "what else has changed",
        {
            "how fast the links are": "Links decide how long a step takes. No step's "
            "result depends on them.",
            "what else has changed": "Where a sum is made does not change its value. "
            "If the loss fell by that much, something else is new: data, steps, "
            "streams.",
            "how many GPUs they have": "More of them make a step shorter, or its batch "
            "larger. A model's size does not follow from it.",
        },
    ),
    Question(
        "05b.smoothing",
        "Why is the softmax over streams smoothed, and not taken as it is?",
        "so that every stream keeps a gradient",
        {
            "so that weights sum to 1": "A softmax does that already.",
            "so that every stream keeps a gradient": "A stream whose weight is 0 "
            "learns nothing, and so stays useless. With eps it keeps at least eps / P.",
            "so that all streams say the same": "The opposite is wanted: streams that "
            "say the same are worth one stream.",
        },
    ),
    Question(
        "05b.batch",
        "A server writes 64 long texts at a time. Is a model with eight streams the "
        "one that saves memory, against a plain model of equal loss?",
        "no, its caches are eight",
        {
            "yes, it has fewer weights": "It has. But every token leaves keys and "
            "values in all eight streams, and with 64 texts caches are most of the "
            "memory.",
            "no, its caches are eight": "Weights are paid once, caches for each text "
            "and each stream. The advantage is one of few texts.",
            "yes, prefixes are small": "Prefixes are small. What a stream remembers of "
            "the text is not.",
        },
    ),
)

"""Five questions that say whether a reader needs a primer first.

The right answers stand at different places.
"""

from __future__ import annotations

from labsupport.exercise.quiz import Question

# The first three belong to the primer on Triton, the last two to processes.
SELF_TEST = (
    Question(
        "00.block",
        "A Triton kernel adds two vectors of 1000 numbers, 256 a program. How many "
        "programs, and what must the last one do?",
        "4, and mask the rest",
        {
            "3, and stop early": "3 x 256 = 768: 232 numbers are left.",
            "4, and mask the rest": "The last one owns 768 to 1023, of which only "
            "768 to 999 exist.",
            "1000, nothing": "A program handles a whole block, not one number.",
        },
    ),
    Question(
        "00.bytes",
        "Copying 1 GB within a GPU whose memory moves 2 TB/s takes at least:",
        "1 ms",
        {
            "0.5 ms": "The copy has to be written as well as read.",
            "it depends on the FLOP/s": "A copy computes nothing.",
            "1 ms": "1 GB is read and 1 GB is written: 2 GB at 2 TB/s.",
        },
    ),
    Question(
        "00.backward",
        "The backward of a custom autograd.Function receives:",
        "the gradient of the loss by the output",
        {
            "the loss": "The loss may be many operations away.",
            "the gradient of the loss by the output": "From it, it computes the "
            "gradient by each input.",
            "the output": "Only if the forward saved it.",
        },
    ),
    Question(
        "00.deadlock",
        "Two ranks both begin with a blocking send to the other. Then:",
        "each waits for the other to receive",
        {
            "the messages cross": "A blocking send returns when it is received.",
            "rank 0 goes first": "Ranks have no order among themselves.",
            "each waits for the other to receive": "A deadlock. The primer makes "
            "one on purpose.",
        },
    ),
    Question(
        "00.allreduce",
        "4 ranks each hold a vector of n numbers. After an all-reduce (sum):",
        "every rank holds the n sums",
        {
            "rank 0 holds the n sums": "That would be a reduce.",
            "every rank holds n/4 of the sums": "That would be a reduce-scatter.",
            "every rank holds the n sums": "That is the 'all' in its name.",
        },
    ),
)

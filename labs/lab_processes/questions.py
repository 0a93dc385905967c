"""The three questions at the end of the processes primer."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "processes.order",
        "Four ranks in a ring: each calls dist.send to the right, then dist.recv "
        "from the left. With gloo:",
        "all four wait for ever",
        {
            "the messages cross": "Only if a send returned before its receive; "
            "gloo's does not.",
            "all four wait for ever": "Each send waits for a receive that stands "
            "behind another send.",
            "rank 0 goes first": "Ranks have no order among themselves.",
        },
    ),
    Question(
        "processes.bytes",
        "64 ranks sum 1 GB of gradients by a ring. How much does each rank send?",
        "2 GB",
        {
            "16 MB": "That is one chunk, 1 GB / 64, and it sends 126 of them.",
            "64 GB": "That grows with the number of ranks; the ring's does not.",
            "2 GB": "2 x 63 chunks of 1/64 GB: 1.97 GB, and never more than 2 GB, "
            "however many ranks there are.",
        },
    ),
    Question(
        "processes.fusion",
        "1000 tensors of 4 kB have to go to another rank; latency 0.1 ms, bandwidth "
        "1 MB/ms. Packed into one message they take:",
        "about 4 ms instead of 104",
        {
            "as long as before": "The bytes are the same, but not the latency: it is "
            "paid once, not 1000 times.",
            "about 4 ms instead of 104": "1000 x (0.1 + 0.004) ms, against 0.1 + 4 ms.",
            "about 0.1 ms instead of 104": "4 MB still have to move, at 1 ms a MB.",
        },
    ),
)

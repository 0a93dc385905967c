"""The three questions at the end of lab 06."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "06.filler",
        "Dots give a model as many forward passes as states do. Why do they not help "
        "here?",
        "a dot carries nothing from one pass to the next",
        {
            "dots are too few": "There are as many as states, one for each swap.",
            "a dot carries nothing from one pass to the next": (
                "What is written is the same whatever happened, and no example shows "
                "which state belongs there. So all swaps have still to be followed "
                "inside the layers."
            ),
            "the model cannot read dots": "It reads them as any other token.",
        },
    ),
    Question(
        "06.follow",
        "You change one step of a model's reasoning, and its answer stays right. What "
        "do you know?",
        "this answer did not come from that step",
        {
            "the model noticed the error and corrected it": "Perhaps. It looks the "
            "same as a model that never read the step; what it writes next may tell.",
            "this answer did not come from that step": (
                "That much is certain. Why not is another question."
            ),
            "the model reasons well": "It may not have used its reasoning at all.",
        },
    ),
    Question(
        "06.vote",
        "When does a vote of many answers help?",
        "the right answer is more frequent than any wrong one",
        {
            "most answers are right": "Not needed: a third is enough if wrong answers "
            "are spread out.",
            "the right answer is more frequent than any wrong one": (
                "Then more votes bring it out. A mistake that is made more often than "
                "not is made surer by voting."
            ),
            "the model is sampled at temperature 0": "Then all answers are the same.",
        },
    ),
)

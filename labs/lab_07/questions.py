"""The three questions at the end of lab 07."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "07.human",
        "No person rated a single completion. What did people do here all the same?",
        "they wrote the verifier and the examples of the warm start",
        {
            "they wrote the verifier and the examples of the warm start": (
                "No human ratings is not no human. Where nobody can write a verifier, "
                "this does not work."
            ),
            "nothing: that is the point": "Somebody decided what a right answer is, "
            "and wrote it down as a function.",
            "they chose which completions to keep": "The verifier did.",
        },
    ),
    Question(
        "07.equal",
        "All 16 completions of a prompt are wrong. What does the group teach?",
        "nothing: every advantage is 0",
        {
            "to avoid all 16": "They are compared with each other, and none is better.",
            "nothing: every advantage is 0": (
                "So a model that never succeeds learns nothing, and neither does one "
                "that always does."
            ),
            "to write longer completions": "Nothing in the rewards says so.",
        },
    ),
    Question(
        "07.proxy",
        "The score of a reward model rises through the whole training. What do you "
        "know about the answers?",
        "nothing, until something else judges them",
        {
            "they get better": "They may, at first. The policy looks for whatever the "
            "score likes.",
            "the reward model is right about them": "It was fitted to completions of "
            "the warm start, and the policy writes others by now.",
            "nothing, until something else judges them": (
                "A score that is maximised stops being a measure."
            ),
        },
    ),
)

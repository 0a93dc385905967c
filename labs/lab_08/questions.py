"""The three questions at the end of lab 08."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "08.what",
        "The student's answers are judged by the same verifier as the teacher's. What "
        "can it not show?",
        "that it would hold outside of this game",
        {
            "that it wins fewer games": "That is what it counts.",
            "that it would hold outside of this game": (
                "A student that copies one skill may have copied nothing else. Test "
                "what you need."
            ),
            "that its answers have a form": "Answers without the form are not right.",
        },
    ),
    Question(
        "08.tsquare",
        "You raise T from 1 to 8 and leave T^2 out. What happens to the gradients?",
        "they become up to 64 times smaller",
        {
            "nothing: T only softens": (
                "It also divides the scores, and so their effect: twice."
            ),
            "they become up to 64 times smaller": (
                "The optimizer may hide it, as Adam divides by their size; a mix with "
                "labels shows it."
            ),
            "they become 8 times larger": "Scores were divided by 8.",
        },
    ),
    Question(
        "08.bill",
        "A student costs a hundredth of its teacher's training. Was it cheap?",
        "only after the teacher has been paid for",
        {
            "yes: a hundredth": "Somebody trained the teacher first.",
            "only after the teacher has been paid for": (
                "With many students, or a teacher that is there anyhow, its share "
                "becomes small. It is never 0."
            ),
            "no: a student is always dearer": "Its own training is cheap indeed.",
        },
    ),
)

"""The three questions at the end of lab 05a."""

from __future__ import annotations

from labsupport.exercise.quiz import Question

QUESTIONS = (
    Question(
        "05a.cut",
        "A feed-forward layer is cut over ranks: `up` by columns, `down` by rows. Why "
        "not the other way round?",
        "rows first would need a message before the nonlinearity",
        {
            "it is a convention": "It saves a message. With rows first every rank has "
            "a part of every hidden number, and a nonlinearity of a part is nothing.",
            "rows first would need a message before the nonlinearity": "The parts of "
            "each hidden number would have to be summed first. Columns give finished "
            "hidden numbers.",
            "rows first would not save memory": "It would save as much. What it costs "
            "is a message in the middle of the layer.",
        },
    ),
    Question(
        "05a.zero",
        "Adam in mixed precision: 2 bytes a weight, 2 its gradient, 12 its optimizer. "
        "ZeRO-1 on very many ranks. What does a rank hold of 16 bytes a weight?",
        "4 bytes",
        {
            "almost nothing": "That is ZeRO-3. Stage 1 cuts the optimizer alone.",
            "4 bytes": "Weights and gradients stay whole: 2 and 2. The 12 are spread "
            "over all ranks.",
            "12 bytes": "It is the 12 of the optimizer that are cut; 2 and 2 stay.",
        },
    ),
    Question(
        "05a.bubble",
        "A 1F1B pipeline of 8 stages waits a third of the time. You double the number "
        "of microbatches, each of half the size. What happens?",
        "it waits about a fifth of the time",
        {
            "it waits about a fifth of the time": "A third is 7 / (M + 7), so M "
            "was 14. With 28 it is 7 / 35. Memory falls: at most 8 are held, each of "
            "half the size.",
            "it waits a third of the time, as before": "Microbatches of half the size "
            "fill and drain the pipeline in half the time.",
            "it waits a sixth of the time": "Nearly. 7 / (14 + 7) becomes 7 / (28 + "
            "7): the work stands in the denominator, too.",
        },
    ),
)

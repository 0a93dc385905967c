"""The core exercises of lab 06, 6.1 to 6.3, and the mistakes they expect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from labs.lab_06.traces import corrupt
from labs.lab_06.verifying import moved, verify, where
from labs.lab_06.voting import vote
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, show_values

Arguments = tuple[Any, ...]


def expect_equal(value: object, wanted: object, asked: str) -> None:
    """Fail unless two values are the same."""
    if value != wanted:
        raise CheckFailed(f"{asked}: {wanted!r}", show_values(value))


# --- 6.1 the verifier ---------------------------------------------------------

PROMPT = "C AB CE DE ?"  # C, then E, then D
ANSWERS: dict[str, bool] = {
    "C E D = D EOS": True,
    "= D EOS": True,
    "A A A = D EOS": True,
    "C = D EOS": True,
    "? . AB = D EOS": True,
    "C E D = E EOS": False,
    "C E D = C EOS": False,
    "C E A = A EOS": False,
    "= D": False,
    "C E D": False,
    "C E D = EOS": False,
    "C E D = DE EOS": False,
    "= A B C D E EOS": False,
    "= A = B = C = D EOS": False,
    "= D = D EOS": False,
    "D EOS": False,
    "": False,
    "EOS": False,
    "= D EOS EOS": False,
}
"""What a model may write behind PROMPT, and whether it is an answer to it."""


def verify_probes() -> Sequence[Arguments]:
    """Good and bad completions, and a game whose ball passes through both cups."""
    others = [("A AB AB AC ?", f"= {cup} EOS") for cup in "ABC"]
    swapped = [("B AB BC CD ?", f"A A A = {cup} EOS") for cup in "ABD"]
    return [*((PROMPT, text) for text in ANSWERS), *others, *swapped]


def honest_answers(candidate: Callable[..., Any]) -> None:
    """A right and a wrong cup."""
    for text in ("C E D = D EOS", "= D EOS", "C E D = E EOS", "C E D = C EOS"):
        expect_verdict(candidate, PROMPT, text)


def every_text(candidate: Callable[..., Any]) -> None:
    """Whatever a model may write."""
    for prompt, text in verify_probes():
        expect_verdict(candidate, prompt, text)


def expect_verdict(
    candidate: Callable[..., Any], prompt: str, text: str
) -> None:
    """Fail unless a completion is judged rightly; say which one raised."""
    asked = f"prompt {prompt!r}, completion {text!r}"
    try:
        came = bool(candidate(prompt, text))
    except (CheckFailed, NotImplementedError):
        raise
    except Exception as error:
        wanted = verify(prompt, text)
        said = f"{type(error).__name__}: {error}"
        raise CheckFailed(f"{asked}: {wanted}", said) from None
    expect_equal(came, verify(prompt, text), asked)


def _last_but_one(prompt: str, completion: str) -> bool:
    words = completion.split()
    return len(words) > 1 and words[-2] == where(prompt)


def _behind_first(prompt: str, completion: str) -> bool:
    words = completion.split()
    at = words.index("=") if "=" in words else len(words)
    return words[at + 1 : at + 2] == [where(prompt)]


def _anywhere(prompt: str, completion: str) -> bool:
    return where(prompt) in completion.split("=")[-1]


def _several(prompt: str, completion: str) -> bool:
    return completion.split()[-3:] == ["=", where(prompt), "EOS"]


def _no_end(prompt: str, completion: str) -> bool:
    words = completion.split()
    found = words[-2:] == ["=", where(prompt)]
    return found or _several(prompt, completion)


def _from_trace(prompt: str, completion: str) -> bool:
    before, *_ = completion.split("=")
    written = before.split()
    return bool(written) and verify(prompt, f"= {written[-1]} EOS")


def _one_way(prompt: str, completion: str) -> bool:
    cup, *swaps, _ = prompt.split()
    for a, b in swaps:
        if cup == a:
            cup = b
    words = completion.split()
    return words[-3:] == ["=", cup, "EOS"] and words.count("=") == 1


def _swapped_back(prompt: str, completion: str) -> bool:
    cup, *swaps, _ = prompt.split()
    for a, b in swaps:
        if cup == a:
            cup = b
        if cup == b:
            cup = a
    words = completion.split()
    return words[-3:] == ["=", cup, "EOS"] and words.count("=") == 1


def _no_trace(prompt: str, completion: str) -> bool:
    return completion == f"= {where(prompt)} EOS"


def _trace_agrees(prompt: str, completion: str) -> bool:
    written = completion.split("=")[0].split()
    honest = not written or written[-1] == where(prompt)
    return honest and verify(prompt, completion)


VERIFY = Exercise(
    id="6.1",
    title="the verifier",
    minutes=12,
    difficulty=1,
    ours=verify,
    checks=(
        ("a right cup, a wrong one", honest_answers),
        ("whatever a model may write", every_text),
    ),
    probes=verify_probes,
    wrong=(
        WrongAnswer(
            "swaps go one way",
            _one_way,
            "a swap AB moves a ball from A to B, and also one from B to A.",
            1,
        ),
        WrongAnswer(
            "swapped back",
            _swapped_back,
            "the second `if` sees the cup that the first has just moved, and moves it "
            "back: use `elif`.",
            1,
        ),
        WrongAnswer(
            "no trace allowed",
            _no_trace,
            "only a completion without a trace is accepted. What stands before the `=` "
            "may be anything.",
            2,
        ),
        WrongAnswer(
            "the trace answers",
            _from_trace,
            "the last written state is taken for the answer. What counts stands behind "
            "the `=`.",
            2,
        ),
        WrongAnswer(
            "the trace has to be right",
            _trace_agrees,
            "a wrong trace is refused. The verifier looks at the answer alone; whether "
            "steps are right is another question.",
            2,
        ),
        WrongAnswer(
            "a list is an answer",
            _anywhere,
            "the right cup anywhere behind the `=` is accepted, so naming all five "
            "wins every game. There has to be exactly one.",
            3,
        ),
        WrongAnswer(
            "several answers",
            _several,
            "a completion with several `=` is accepted: it could try all cups. Count "
            "them.",
            3,
        ),
        WrongAnswer(
            "the first word behind =",
            _behind_first,
            "only the word behind the first `=` is read. What follows may be anything: "
            "ask for EOS right behind it, and for no second `=`.",
            3,
        ),
        WrongAnswer(
            "no end needed",
            _no_end,
            "a completion without EOS is accepted: it was cut off, and could have gone "
            "on to say something else.",
            3,
        ),
        WrongAnswer(
            "no = needed",
            _last_but_one,
            "the word before EOS is taken for an answer, with or without `=`.",
            3,
        ),
    ),
    hints=(
        "Split the prompt: the first word is a cup, the last is `?`, between them are "
        "the swaps. If the ball is under one cup of a swap, it goes to the other.",
        "Ignore what stands before the `=`.",
        "Split the completion and look at its last three words: what has each to be? "
        "Then see that there is no other `=`.",
        "The last three words have to be `=`, the cup and `EOS`; a slice, "
        "`words[-3:]`, raises nothing where there are fewer.",
    ),
    otherwise={"whatever a model may write": ("", 4)},
)


# --- 6.2 one changed state ------------------------------------------------------

GAMES = (
    ("C AB CE DE AD ?", "C E D A"),
    ("A AB BC CD ?", "B C D"),
    ("B AC AB AB BD ?", "B A B D"),
)


def corrupt_probes() -> Sequence[Arguments]:
    """Each state of each game, to each other cup."""
    return [
        (prompt, trace, number, cup)
        for prompt, trace in GAMES
        for number, old in enumerate(trace.split(), 1)
        for cup in "ABCDE"
        if cup != old
    ]


def by_hand(candidate: Callable[..., Any]) -> None:
    """The second of four states becomes A; the last swap, AD, takes it to D."""
    prompt, trace = GAMES[0]
    came = candidate(prompt, trace, 2, "A")
    asked = f"prompt {prompt!r}, trace {trace!r}, state 2 becomes A"
    if not isinstance(came, tuple) or len(came) != 2:
        raise CheckFailed("two texts", show_values(came))
    text, answer = came
    expect_equal(text, f"{prompt} C A", f"{asked}: what the model is given")
    expect_equal(answer, "D", f"{asked}: the answer that follows")


def every_change(candidate: Callable[..., Any]) -> None:
    """Each state of three games, to each other cup."""
    for arguments in corrupt_probes():
        prompt, trace, number, cup = arguments
        asked = (
            f"prompt {prompt!r}, trace {trace!r}, state {number} becomes {cup}"
        )
        expect_equal(candidate(*arguments), corrupt(*arguments), asked)


def _swaps(prompt: str) -> list[str]:
    return prompt.split()[1:-1]


def _keeps_rest(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    states = t.split()
    states[i - 1] = cup
    return " ".join([p, *states]), moved(cup, _swaps(p)[i:])


def _from_zero(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([p, *t.split()[:i], cup]), moved(cup, _swaps(p)[i + 1 :])


def _swap_again(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([p, *t.split()[: i - 1], cup]), moved(
        cup, _swaps(p)[i - 1 :]
    )


def _all_swaps(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([p, *t.split()[: i - 1], cup]), moved(cup, _swaps(p))


def _true_answer(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([p, *t.split()[: i - 1], cup]), t.split()[-1]


def _only_trace(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([*t.split()[: i - 1], cup]), moved(cup, _swaps(p)[i:])


def _one_swap_short(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([p, *t.split()[: i - 1], cup]), moved(
        cup, _swaps(p)[i + 1 :]
    )


def _to_and_fro(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    text = " ".join([p, *t.split()[: i - 1], cup])
    for a, b in _swaps(p)[i:]:
        if cup == a:
            cup = b
        if cup == b:
            cup = a
    return text, cup


def _never_moves(p: str, t: str, i: int, cup: str) -> tuple[str, str]:
    return " ".join([p, *t.split()[: i - 1], cup]), cup


CORRUPT = Exercise(
    id="6.2",
    title="change one state",
    minutes=12,
    difficulty=2,
    ours=corrupt,
    checks=(
        ("by hand", by_hand),
        ("every change of three games", every_change),
    ),
    probes=corrupt_probes,
    wrong=(
        WrongAnswer(
            "later states stay",
            _keeps_rest,
            "the states behind the changed one are still there. They show the model "
            "the old way, and it will take it: end with the changed state.",
            1,
        ),
        WrongAnswer(
            "counted from 0",
            _from_zero,
            "states are counted from 1: number 1 stands behind the first swap.",
            2,
        ),
        WrongAnswer(
            "a swap twice",
            _swap_again,
            "the changed state is the one *after* swap number i. Go on with the swap "
            "that follows.",
            3,
        ),
        WrongAnswer(
            "a swap left out",
            _one_swap_short,
            "the first swap behind the changed state is left out: `number` of them are "
            "over, so go on at index `number`.",
            3,
        ),
        WrongAnswer(
            "swapped back",
            _to_and_fro,
            "the second `if` sees the cup that the first has just moved, and moves it "
            "back: use `elif`.",
            4,
        ),
        WrongAnswer(
            "all swaps again",
            _all_swaps,
            "all swaps are played from the changed state. Those before it are over.",
            3,
        ),
        WrongAnswer(
            "where the ball is",
            _true_answer,
            "that is the answer of a model that ignores the change. Asked for is the "
            "answer of one that believes it.",
            3,
        ),
        WrongAnswer(
            "no swaps",
            _never_moves,
            "the ball stays where the changed state puts it, but later swaps move it "
            "on.",
            3,
        ),
        WrongAnswer(
            "prompt forgotten",
            _only_trace,
            "the model needs the prompt, too: it stands before the trace.",
            1,
        ),
    ),
    hints=(
        "What the model is given: the prompt, the states before the changed one, the "
        "new cup. Nothing behind it.",
        "State number i is `trace.split()[i - 1]`; before it come the first i - 1.",
        "i swaps have been played when state i is written. Which are left? Move the "
        "new cup by those.",
        "The swaps are `prompt.split()[1:-1]`, and what is left of them begins at "
        "index `number`. 6.1 has the loop that moves a cup.",
    ),
)


# --- 6.3 self-consistency --------------------------------------------------------

BALLOTS: tuple[tuple[str, ...], ...] = (
    ("A", "B", "B", "C", "B"),
    ("D", "A", "A", "D", "E"),
    ("", "", "", "C"),
    ("E", "C", "", "C", "E", ""),
    ("B", "", "", "A", "A", ""),
    ("", "C", "", "A"),
    ("", ""),
    ("D",),
    ("C", "A", "B", "D", "E"),
    ("E", "A"),
    ("A", "E"),
    ("D", "B", "B", "D"),
    ("B", "D", "D", "B"),
)
"""Answers of several completions; "" has none."""


def vote_probes() -> Sequence[Arguments]:
    """Majorities, ties, and completions without an answer."""
    return [(list(ballot),) for ballot in BALLOTS]


def majority(candidate: Callable[..., Any]) -> None:
    """Three of five say B."""
    ballot = list(BALLOTS[0])
    expect_equal(candidate(ballot), "B", f"the vote of {ballot}")


def every_ballot(candidate: Callable[..., Any]) -> None:
    """Ties, and answers that are none."""
    for (ballot,) in vote_probes():
        given = list(ballot)
        expect_equal(candidate(given), vote(ballot), f"the vote of {ballot}")
        if given != ballot:
            raise CheckFailed(
                "the list left as it is", f"{ballot} changed to {given}"
            )


def _counts_none(answers: Sequence[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


def _last_of_a_tie(answers: Sequence[str]) -> str:
    return vote(list(reversed(answers)))


def _smallest_of_a_tie(answers: Sequence[str]) -> str:
    return vote(sorted(answers))


def _first(answers: Sequence[str]) -> str:
    return next((answer for answer in answers if answer), "")


def _none_ties(answers: Sequence[str]) -> str:
    given = Counter(answer for answer in answers if answer).most_common()
    tied = len(given) > 1 and given[0][1] == given[1][1]
    return "" if tied or not given else given[0][0]


def _more_than_half(answers: Sequence[str]) -> str:
    won = vote(answers)
    return won if 2 * list(answers).count(won) > len(answers) else ""


VOTE = Exercise(
    id="6.3",
    title="self-consistency",
    minutes=8,
    difficulty=1,
    ours=vote,
    checks=(("a majority", majority), ("ties, and no answers", every_ballot)),
    probes=vote_probes,
    wrong=(
        WrongAnswer(
            "no answer counts",
            _counts_none,
            'completions without an answer take part, and "" can win. Leave them out.',
            1,
        ),
        WrongAnswer(
            "last of a tie",
            _last_of_a_tie,
            "of equally frequent answers the last wins. Asked for is the one that was "
            "said first.",
            2,
        ),
        WrongAnswer(
            "smallest of a tie",
            _smallest_of_a_tie,
            "of equally frequent answers the first in the alphabet wins, so cup A has "
            "an advantage. Asked for is the one that was said first.",
            2,
        ),
        WrongAnswer(
            "first answer",
            _first,
            "the first answer wins, whatever the others say. Count.",
            1,
        ),
        WrongAnswer(
            "ties have no winner",
            _none_ties,
            "a tie ends without an answer. Asked for is the one that was said first.",
            2,
        ),
        WrongAnswer(
            "more than half",
            _more_than_half,
            "more than half of all votes are demanded. The most frequent answer wins, "
            "however few it has.",
            1,
        ),
    ),
    hints=(
        'Leave out "". Then count how often each answer was said: `Counter` of '
        "`collections` does that.",
        "A set forgets who spoke first, and so does sorting. A dict or a `Counter` "
        "keeps the order in which answers came.",
        "`most_common(1)` names, of equally frequent ones, the one that was counted "
        "first. And what if there is nothing to count?",
    ),
    otherwise={"ties, and no answers": ("", 3)},
)

"""The core exercises of lab 08, 8.1 to 8.3, and the mistakes they expect.

Shape suffixes: N tokens, V vocabulary, B prompts, T tokens of a prompt, S positions.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labs.lab_08.students import on_policy_loss
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import (
    ChangedInPlace,
    CheckFailed,
    expect_close,
    same_as,
    show_values,
)

Arguments = tuple[Any, ...]

# --- 8.1 a teacher's scores ---------------------------------------------------


def soft_loss(student_NV: Tensor, teacher_NV: Tensor, T: float) -> Tensor:
    """T^2 KL(p || q), the mean over tokens, with p and q at temperature T."""
    p_NV = (teacher_NV / T).softmax(-1)
    log_p_NV = (teacher_NV / T).log_softmax(-1)
    log_q_NV = (student_NV / T).log_softmax(-1)
    return T**2 * (p_NV * (log_p_NV - log_q_NV)).sum(-1).mean()


def soft_probes() -> Sequence[Arguments]:
    """Several sizes at several temperatures."""
    found = []
    for seed, (shape, T) in enumerate(
        (((3, 4), 1.0), ((5, 7), 2.0), ((2, 9), 8.0), ((4, 3), 0.5))
    ):
        generator = torch.Generator().manual_seed(seed)
        student_NV = torch.randn(shape, generator=generator)
        teacher_NV = 2 * torch.randn(shape, generator=generator)
        found.append((student_NV, teacher_NV, T))
    return found


def soft_by_hand(candidate: Callable[..., Any]) -> None:
    """p = 1/4, 3/4 and q = 1/2, 1/2 at T = 2: KL is 0.1308121."""
    teacher_NV = 2 * torch.tensor([[1.0, 3.0]]).log()
    student_NV = torch.zeros(1, 2)
    wanted = torch.tensor(4 * 0.1308121)
    asked = "T = 2, p = [1/4, 3/4] and q = [1/2, 1/2]: 4 KL(p || q)"
    expect_close(candidate(student_NV, teacher_NV, 2.0), wanted, asked, 1e-4)


def far_apart(candidate: Callable[..., Any]) -> None:
    """Probabilities that are 0 in float32."""
    teacher_NV = torch.tensor([[0.0, 120.0, 240.0], [0.0, 1.0, 2.0]])
    student_NV = teacher_NV.flip(1)
    wanted = soft_loss(student_NV, teacher_NV, 1.0)
    asked = "scores from 0 to 240, T = 1"
    expect_close(candidate(student_NV, teacher_NV.clone(), 1.0), wanted, asked)


def pulls_the_student(candidate: Callable[..., Any]) -> None:
    """Fail where the gradient to the student's scores is another than ours."""
    for student_NV, teacher_NV, T in soft_probes():
        grads = []
        for function in (candidate, soft_loss):
            leaf = student_NV.clone().requires_grad_()
            value = function(leaf, teacher_NV.clone(), T)
            if not (isinstance(value, Tensor) and value.requires_grad):
                raise CheckFailed(
                    "a loss with a gradient to the student", show_values(value)
                )
            grads.append(torch.autograd.grad(value, leaf)[0])
        asked = f"the gradient to the student's scores at T = {T:g}"
        expect_close(grads[0], grads[1], asked, 1e-4)


def _no_square(student_NV, teacher_NV, T):
    return soft_loss(student_NV, teacher_NV, T) / T**2


def _once(student_NV, teacher_NV, T):
    return soft_loss(student_NV, teacher_NV, T) / T


def _reverse(student_NV, teacher_NV, T):
    return soft_loss(teacher_NV, student_NV, T)


def _teacher_only(student_NV, teacher_NV, T):
    return T**2 * soft_loss(student_NV, teacher_NV / T, 1.0)


def _student_only(student_NV, teacher_NV, T):
    return T**2 * soft_loss(student_NV / T, teacher_NV, 1.0)


def _multiplied(student_NV, teacher_NV, T):
    return T**2 * soft_loss(T * student_NV, T * teacher_NV, 1.0)


def _summed(student_NV, teacher_NV, T):
    return soft_loss(student_NV, teacher_NV, T) * len(student_NV)


def _over_entries(student_NV, teacher_NV, T):
    return soft_loss(student_NV, teacher_NV, T) / student_NV.shape[-1]


def _cross_entropy(student_NV, teacher_NV, T):
    p_NV = (teacher_NV / T).softmax(-1)
    log_q_NV = (student_NV / T).log_softmax(-1)
    return -(T**2) * (p_NV * log_q_NV).sum(-1).mean()


def _hard(student_NV, teacher_NV, T):
    return F.cross_entropy(student_NV, teacher_NV.argmax(-1))


def _scores_apart(student_NV, teacher_NV, T):
    return F.mse_loss(student_NV / T, teacher_NV / T)


def _over_tokens(student_NV, teacher_NV, T):
    p_NV = (teacher_NV / T).softmax(0)
    log_q_NV = (student_NV / T).log_softmax(0)
    return T**2 * (p_NV * (p_NV.log() - log_q_NV)).sum(-1).mean()


def _each_token(student_NV, teacher_NV, T):
    log_p_NV = (teacher_NV / T).log_softmax(-1)
    log_q_NV = (student_NV / T).log_softmax(-1)
    return T**2 * (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def _thrice(student_NV, teacher_NV, T):
    return T * soft_loss(student_NV, teacher_NV, T)


def _only_in_front(student_NV, teacher_NV, T):
    return T**2 * soft_loss(student_NV, teacher_NV, 1.0)


def _no_logarithm(student_NV, teacher_NV, T):
    p_NV, q_NV = (teacher_NV / T).softmax(-1), (student_NV / T).softmax(-1)
    return T**2 * F.kl_div(q_NV, p_NV, reduction="batchmean")


def _turned(student_NV, teacher_NV, T):
    return -soft_loss(student_NV, teacher_NV, T)


def _divided_late(student_NV, teacher_NV, T):
    log_p_NV = teacher_NV.log_softmax(-1) / T
    log_q_NV = student_NV.log_softmax(-1) / T
    kl_N = (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
    return T**2 * kl_N.mean()


SOFT = Exercise(
    id="8.1",
    title="learning a teacher's scores",
    minutes=12,
    difficulty=2,
    ours=soft_loss,
    checks=(
        ("by hand", soft_by_hand),
        ("many tokens", same_as(soft_loss, soft_probes)),
        ("scores far apart", far_apart),
        ("what the student feels", pulls_the_student),
    ),
    otherwise={
        "scores far apart": (
            "a probability of e^-240 is 0 in float32, and its logarithm is not finite. "
            "`log_softmax` makes the logarithm from the scores.",
            1,
        ),
        "what the student feels": (
            "the value is right and its gradient is not: are the student's scores "
            "detached, or changed without a gradient?",
            2,
        ),
    },
    probes=soft_probes,
    wrong=(
        WrongAnswer(
            "no T^2",
            _no_square,
            "the factor T^2 is missing. The gradient shrinks as 1 / T^2, so at T = 8 "
            "the student would feel next to nothing.",
            3,
        ),
        WrongAnswer(
            "T once",
            _once,
            "there is one T in front. Scores are divided by T, and so is their effect: "
            "it takes two.",
            3,
        ),
        WrongAnswer(
            "T three times",
            _thrice,
            "there are three T in front. Scores are divided by T, and so is their "
            "effect: it takes two.",
            3,
        ),
        WrongAnswer(
            "T only in front",
            _only_in_front,
            "scores are not divided by T at all; it stands only in front.",
            1,
        ),
        WrongAnswer(
            "no logarithm for kl_div",
            _no_logarithm,
            "`kl_div` takes log-probs first: `log_softmax` of the student's scores.",
            1,
        ),
        WrongAnswer(
            "reverse",
            _reverse,
            "that is KL(q || p): the student's probabilities weigh. Asked for is "
            "KL(p || q), weighed by the teacher's.",
            2,
        ),
        WrongAnswer(
            "only the teacher is softened",
            _teacher_only,
            "the student's scores are not divided by T. Both have to be, or the "
            "student learns to be as soft as the softened teacher.",
            1,
        ),
        WrongAnswer(
            "only the student is softened",
            _student_only,
            "the teacher's scores are not divided by T.",
            1,
        ),
        WrongAnswer(
            "multiplied by T",
            _multiplied,
            "scores are multiplied by T, which makes probabilities sharper. Divide.",
            1,
        ),
        WrongAnswer(
            "a sum over tokens",
            _summed,
            "tokens are added up. Their mean is asked for, so that a longer batch does "
            "not pull harder.",
            2,
        ),
        WrongAnswer(
            "a mean over entries",
            _over_entries,
            "entries of the vocabulary are averaged. A divergence adds them up; only "
            "tokens are averaged.",
            2,
        ),
        WrongAnswer(
            "cross-entropy",
            _cross_entropy,
            "that is the cross-entropy, -sum p log q. Its gradient is the same, but it "
            "is not 0 for a student that equals its teacher: add sum p log p.",
            2,
        ),
        WrongAnswer(
            "only the likeliest token",
            _hard,
            "only the teacher's likeliest token is used. What it says of the others is "
            "the point.",
            2,
        ),
        WrongAnswer(
            "scores subtracted",
            _scores_apart,
            "scores are compared as numbers. A constant added to all of them changes "
            "no probability, and here it would cost.",
            1,
        ),
        WrongAnswer(
            "softmax over tokens",
            _over_tokens,
            "softmax runs over the tokens. Each row is a token and has its own "
            "probabilities: use the last dimension.",
            1,
        ),
        WrongAnswer(
            "each token",
            _each_token,
            "a number for each token comes back. Their mean is asked for.",
            2,
        ),
        WrongAnswer(
            "sign turned",
            _turned,
            "the sign is turned: log p - log q is weighed, not log q - log p.",
            2,
        ),
        WrongAnswer(
            "divided too late",
            _divided_late,
            "T divides log-probs, after the softmax. Then they add up to 1 no more: "
            "divide the scores, before it.",
            1,
        ),
    ),
    hints=(
        "`(teacher_NV / T).softmax(-1)` is p. Do the same to the student, with "
        "`log_softmax`: its logarithm is what you need.",
        "KL(p || q) of a row is the sum over entries of p (log p - log q). Then take "
        "the mean over rows.",
        "Multiply the mean by `T**2`. (In Python `T^2` is no power.)",
    ),
)

# --- 8.2 rejection --------------------------------------------------------------

Trace = tuple[str, str]


def keep_right(
    traces: Sequence[Trace], is_right: Callable[[str, str], bool], most: int
) -> list[Trace]:
    """Right traces, each text once, and at most `most` of a prompt; in their order."""
    kept: list[Trace] = []
    for prompt, completion in traces:
        of_prompt = [trace for trace in kept if trace[0] == prompt]
        new = (prompt, completion) not in of_prompt
        if new and len(of_prompt) < most and is_right(prompt, completion):
            kept.append((prompt, completion))
    return kept


def _judge(prompt: str, completion: str) -> bool:
    """In the probes a prompt begins with its answer."""
    return completion.split()[-1] == prompt[0]


GIVEN: Sequence[Trace] = (
    ("A1", "x A"),
    ("B", "x A"),
    ("A1", "x A"),
    ("A1", "y C"),
    ("A2", "x A"),
    ("A1", "y A"),
    ("B", "z C"),
    ("A1", "z A"),
    ("B", "y B"),
    ("C", "x A"),
    ("B", "x B"),
    ("A1", "w A"),
    ("B", "y B"),
    ("A2", "x A"),
    ("C", "C"),
    ("C", "y C"),
    ("C", "z C"),
    ("A1", "v A"),
)


def keep_probes() -> Sequence[Arguments]:
    """Duplicates, wrong ones in between, prompts with more and with fewer."""
    return [(list(GIVEN), _judge, most) for most in (1, 2, 3, 9)] + [
        ([], _judge, 2)
    ]


def expect_kept(
    candidate: Callable[..., Any], traces: Sequence[Trace], most: int
) -> None:
    """Fail unless the right traces come back."""
    given = list(traces)
    came = candidate(given, _judge, most)
    wanted = keep_right(traces, _judge, most)
    shown = "; ".join(f"{p}: {c!r}" for p, c in traces)
    asked = (
        f"most = {most} of [{shown}], right where a completion ends with the first "
        f"letter of its prompt: {wanted}"
    )
    if given != list(traces):
        raise ChangedInPlace("traces", "Append to a list of your own")
    if not isinstance(came, list):
        raise CheckFailed(f"{asked}, a list", f"a {type(came).__name__}")
    if came != wanted:
        raise CheckFailed(asked, kept_words(came, wanted))


def kept_words(came: list[Any], wanted: list[Trace]) -> str:
    """What is missing, what is too much; a list may be too long to be read."""
    if any(not (isinstance(each, tuple) and len(each) == 2) for each in came):
        return f"{show_values(came)}: not the pairs that were given"
    missing = [trace for trace in wanted if trace not in came]
    more = [trace for trace in came if trace not in wanted]
    twice = sorted({trace for trace in came if came.count(trace) > 1})
    said = [
        f"{name} {found[:3]}"
        for name, found in (
            ("without", missing),
            ("with", more),
            ("more than once", twice),
        )
        if found
    ]
    return ", ".join(said) or f"the same in another order: {came[:4]} ..."


def only_right(candidate: Callable[..., Any]) -> None:
    """Three traces, one of them wrong."""
    expect_kept(candidate, (("A", "x A"), ("B", "x A"), ("B", "y B")), 5)


def each_once(candidate: Callable[..., Any]) -> None:
    """The same text twice; the same text for two prompts is two traces."""
    traces = (("A1", "x A"), ("A1", "x A"), ("A1", "y A"), ("A2", "x A"))
    expect_kept(candidate, traces, 5)


def not_too_many(candidate: Callable[..., Any]) -> None:
    """Wrong ones and copies do not count."""
    traces = (
        *(("A", "y C"), ("A", "x A"), ("A", "x A"), ("A", "y A")),
        *(("A", "z A"), ("B", "B")),
    )
    expect_kept(candidate, traces, 2)


def all_of_it(candidate: Callable[..., Any]) -> None:
    """Every probe."""
    for traces, _, most in keep_probes():
        expect_kept(candidate, traces, most)


def _keeps_wrong(traces, is_right, most):
    return keep_right(traces, lambda *_: True, most)


def _keeps_only_wrong(traces, is_right, most):
    return keep_right(traces, lambda *given: not is_right(*given), most)


def _copies_kept(traces, is_right, most):
    kept: list[Trace] = []
    for trace in traces:
        same = [one for one in kept if one[0] == trace[0]]
        if len(same) < most and is_right(*trace):
            kept.append(trace)
    return kept


def _no_limit(traces, is_right, most):
    return keep_right(traces, is_right, len(traces) + 1)


def _limit_of_all(traces, is_right, most):
    return keep_right(traces, is_right, len(traces) + 1)[:most]


def _limit_counts_wrong(traces, is_right, most):
    seen: list[Trace] = []
    for trace in traces:
        same = [one for one in seen if one[0] == trace[0]]
        if trace not in same and len(same) < most:
            seen.append(trace)
    return [trace for trace in seen if is_right(*trace)]


def _limit_counts_copies(traces, is_right, most):
    return list(dict.fromkeys(_copies_kept(traces, is_right, most)))


def _limit_in_a_row(traces, is_right, most):
    kept: list[Trace] = []
    before, count = None, 0
    for prompt, completion in traces:
        if prompt != before:
            before, count = prompt, 0
        new = (prompt, completion) not in kept
        if new and count < most and is_right(prompt, completion):
            kept.append((prompt, completion))
            count += 1
    return kept


def _one_too_few(traces, is_right, most):
    return keep_right(traces, is_right, most - 1)


def _grouped(traces, is_right, most):
    kept = keep_right(traces, is_right, most)
    prompts = list(dict.fromkeys(prompt for prompt, _ in kept))
    return sorted(kept, key=lambda trace: prompts.index(trace[0]))


def _one_too_many(traces, is_right, most):
    return keep_right(traces, is_right, most + 1)


def _stops_early(traces, is_right, most):
    kept: list[Trace] = []
    for trace in traces:
        if len([one for one in kept if one[0] == trace[0]]) == most:
            break
        if trace not in kept and is_right(*trace):
            kept.append(trace)
    return kept


def _the_last(traces, is_right, most):
    return keep_right(traces[::-1], is_right, most)[::-1]


def _texts_across_prompts(traces, is_right, most):
    kept: list[Trace] = []
    for prompt, text in traces:
        same = [one for one in kept if one[0] == prompt]
        new = all(text != other for _, other in kept)
        if new and len(same) < most and is_right(prompt, text):
            kept.append((prompt, text))
    return kept


def _texts_only(traces, is_right, most):
    return [text for _, text in keep_right(traces, is_right, most)]


REJECT = Exercise(
    id="8.2",
    title="keep what is right",
    minutes=10,
    difficulty=1,
    ours=keep_right,
    checks=(
        ("only right ones", only_right),
        ("each text once", each_once),
        ("not too many of a prompt", not_too_many),
        ("all of it", all_of_it),
    ),
    otherwise={
        "each text once": (
            "a pair comes back twice, or a new one is missing.",
            2,
        ),
        "not too many of a prompt": (
            "something else is counted than what was kept of this prompt.",
            3,
        ),
    },
    probes=keep_probes,
    wrong=(
        WrongAnswer(
            "wrong ones kept",
            _keeps_wrong,
            "traces that are wrong come back. Ask `is_right(prompt, completion)`.",
            1,
        ),
        WrongAnswer(
            "right ones rejected",
            _keeps_only_wrong,
            "the wrong ones are kept, and the right ones rejected.",
            1,
        ),
        WrongAnswer(
            "copies kept",
            _copies_kept,
            "the same completion of the same prompt comes back twice. The student "
            "would see it twice as often, and learn nothing more.",
            2,
        ),
        WrongAnswer(
            "no limit",
            _no_limit,
            "there is no limit, so a prompt that is easy fills the student's day.",
            3,
        ),
        WrongAnswer(
            "limit of all prompts",
            _limit_of_all,
            "the limit is one of all prompts together. Each prompt has its own.",
            3,
        ),
        WrongAnswer(
            "wrong ones counted",
            _limit_counts_wrong,
            "wrong traces use up a prompt's places. Judge first, then count what was "
            "kept.",
            3,
        ),
        WrongAnswer(
            "copies counted",
            _limit_counts_copies,
            "copies use up a prompt's places. Throw them out first, then count.",
            3,
        ),
        WrongAnswer(
            "counted in a row",
            _limit_in_a_row,
            "the count begins anew when the prompt changes. The same prompt may come "
            "again later.",
            3,
        ),
        WrongAnswer(
            "one too few",
            _one_too_few,
            "one less than `most` is kept of a prompt.",
            3,
        ),
        WrongAnswer(
            "grouped by prompt",
            _grouped,
            "traces come back prompt by prompt. Keep the order in which they came.",
            1,
        ),
        WrongAnswer(
            "one too many",
            _one_too_many,
            "one more than `most` is kept of a prompt.",
            3,
        ),
        WrongAnswer(
            "stops early",
            _stops_early,
            "it stops as soon as one prompt has enough. Others come later: `continue`, "
            "not `break`.",
            3,
        ),
        WrongAnswer(
            "the last ones",
            _the_last,
            "the last right traces of a prompt are kept. Asked for are the first.",
            1,
        ),
        WrongAnswer(
            "texts of other prompts",
            _texts_across_prompts,
            "a completion is thrown out because another prompt has the same text. "
            "Only the pair of both is a copy.",
            2,
        ),
        WrongAnswer(
            "completions alone",
            _texts_only,
            "only completions come back. A student needs prompts too: return the "
            "pairs.",
            1,
        ),
    ),
    hints=(
        "Go through the traces in their order, and append to a list what you keep: "
        "pairs of prompt and completion.",
        "`(prompt, completion) in kept` says whether it is there already.",
        "How many of this prompt are in your list by now? Count those, and compare "
        "with `most` before you append.",
    ),
)

# --- 8.3 the student writes -------------------------------------------------------

V, T_READ, N_WRITTEN = 7, 2, 3


class Talker(nn.Module):
    """A model for the checks: a score for each next token, by the token before."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table_VV = nn.Parameter(torch.randn((V, V), generator=generator))

    def forward(self, tokens_BS: Tensor) -> Tensor:
        return self.table_VV[tokens_BS]


def talk(model: Callable[[Tensor], Tensor], prompts_BT: Tensor):
    """Write the likeliest tokens behind prompts; the mask says what was written."""
    tokens_BS = prompts_BT
    for _ in range(N_WRITTEN):
        next_B = model(tokens_BS)[:, -1].argmax(-1)
        tokens_BS = torch.cat([tokens_BS, next_B[:, None]], dim=1)
    mask_BS = torch.arange(tokens_BS.shape[1]) >= T_READ - 1
    return tokens_BS, mask_BS.expand_as(tokens_BS)


def reverse_kl(
    student_BSV: Tensor, teacher_BSV: Tensor, mask_BS: Tensor
) -> Tensor:
    """KL(q || p), the mean over positions that count."""
    log_q = student_BSV.log_softmax(-1)
    each_BS = (log_q.exp() * (log_q - teacher_BSV.log_softmax(-1))).sum(-1)
    return (each_BS * mask_BS).sum() / mask_BS.sum()


def apart(student_BSV: Tensor, teacher_BSV: Tensor, mask_BS: Tensor) -> Tensor:
    """Something else than any KL, so that it has to be called."""
    if mask_BS.dtype != torch.bool:
        raise CheckFailed(
            "the mask that `write` returned", f"one of dtype {mask_BS.dtype}"
        )
    size_BS = student_BSV.log_softmax(-1).square().mean(-1)
    scale = 1.7 + 0.05 * (size_BS * mask_BS).sum() / mask_BS.sum()
    return scale * reverse_kl(student_BSV, teacher_BSV, mask_BS)


def apart_and_seen(
    student_BSV: Tensor, teacher_BSV: Tensor, mask_BS: Tensor
) -> Tensor:
    """The same, and larger where the wrong one of both would learn."""
    seen = (
        100.0 * (not student_BSV.requires_grad)
        + 10.0 * teacher_BSV.requires_grad
    )
    return apart(student_BSV, teacher_BSV, mask_BS) + seen


def policy_probes(divergence: Any = apart_and_seen) -> Sequence[Arguments]:
    """Three pairs of student and teacher."""
    found = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        prompts_BT = torch.randint(V, (4, T_READ), generator=generator)
        found.append(
            (Talker(seed), Talker(seed + 10), prompts_BT, talk, divergence)
        )
    return found


def same_loss(candidate: Callable[..., Any]) -> None:
    """Fail where the loss is another than ours."""
    for given in policy_probes(apart):
        wanted = on_policy_loss(*given)
        expect_close(candidate(*given), wanted, "the loss of what was written")


def student_learns(candidate: Callable[..., Any]) -> None:
    """Fail where the student's gradient is another, or the teacher has one."""
    for given in policy_probes(apart):
        student, teacher, *rest = given
        grads = []
        for function in (candidate, on_policy_loss):
            student.zero_grad()
            teacher.zero_grad()
            value = function(student, teacher, *rest)
            if not (isinstance(value, Tensor) and value.requires_grad):
                raise CheckFailed(
                    "a loss with a gradient to the student", show_values(value)
                )
            value.backward()
            if teacher.table_VV.grad is not None:
                raise CheckFailed(
                    "no gradient in the teacher's weights", "there is one"
                )
            grads.append(student.table_VV.grad)
            student.table_VV.grad = None
        expect_close(
            grads[0], grads[1], "the gradient of the student's weights"
        )


def _teacher_writes(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(
        student,
        teacher,
        prompts_BT,
        lambda _, p: write(teacher, p),
        divergence,
    )


def _own_divergence(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(student, teacher, prompts_BT, write, reverse_kl)


def _the_prompt_alone(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(
        student,
        teacher,
        prompts_BT,
        write,
        lambda s, t, mask: divergence(s, t, ~mask),
    )


def _shifted(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(
        student,
        teacher,
        prompts_BT,
        write,
        lambda s, t, mask: divergence(s[:, :-1], t[:, :-1], mask[:, 1:]),
    )


def _probabilities(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(
        student,
        teacher,
        prompts_BT,
        write,
        lambda s, t, mask: divergence(s.softmax(-1), t.softmax(-1), mask),
    )


def _prompts_first(student, teacher, prompts_BT, write, divergence):
    return write(prompts_BT, student)


def _turned_round(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(
        student,
        teacher,
        prompts_BT,
        write,
        lambda s, t, mask: divergence(t, s, mask),
    )


def _prompts_too(student, teacher, prompts_BT, write, divergence):
    return on_policy_loss(
        student,
        teacher,
        prompts_BT,
        write,
        lambda s, t, mask: divergence(s, t, torch.ones_like(mask)),
    )


def _nothing_learned(student, teacher, prompts_BT, write, divergence):
    with torch.no_grad():
        return on_policy_loss(student, teacher, prompts_BT, write, divergence)


def _teacher_learns(student, teacher, prompts_BT, write, divergence):
    with torch.no_grad():
        tokens_BS, mask_BS = write(student, prompts_BT)
    return divergence(student(tokens_BS), teacher(tokens_BS), mask_BS)


def _each_its_own(student, teacher, prompts_BT, write, divergence):
    with torch.no_grad():
        tokens_BS, mask_BS = write(student, prompts_BT)
        teacher_BSV = teacher(write(teacher, prompts_BT)[0])
    return divergence(student(tokens_BS), teacher_BSV, mask_BS)


def _learns_tokens(student, teacher, prompts_BT, write, divergence):
    with torch.no_grad():
        tokens_BS, mask_BS = write(student, prompts_BT)
    scores = student(tokens_BS)[:, :-1].flatten(0, 1)
    each = F.cross_entropy(
        scores, tokens_BS[:, 1:].flatten(), reduction="none"
    )
    return (each * mask_BS[:, :-1].flatten()).sum() / mask_BS[:, :-1].sum()


ON_POLICY = Exercise(
    id="8.3",
    title="a step on the student's own writing",
    minutes=12,
    difficulty=2,
    ours=on_policy_loss,
    checks=(
        ("the loss", same_loss),
        ("who learns", student_learns),
    ),
    otherwise={
        "who learns": (
            "the loss is right and its gradient is not: something is detached, made "
            "without a gradient, or `backward` was called already.",
            3,
        )
    },
    probes=policy_probes,
    wrong=(
        WrongAnswer(
            "the teacher writes",
            _teacher_writes,
            "the teacher wrote. Then the student never sees what follows its own "
            "mistakes: have it write.",
            1,
        ),
        WrongAnswer(
            "a divergence of its own",
            _own_divergence,
            "`divergence` is not used: that is a reverse KL of your own. Call the one "
            "that was given.",
            2,
        ),
        WrongAnswer(
            "only prompts count",
            _the_prompt_alone,
            "the mask is turned round: only prompts count.",
            2,
        ),
        WrongAnswer(
            "the mask is shifted",
            _shifted,
            "the mask is shifted by a token. It says of each place whether what comes "
            "next was written, as the scores are of what comes next: shift nothing.",
            2,
        ),
        WrongAnswer(
            "probabilities",
            _probabilities,
            "`divergence` got probabilities. It takes scores and makes the softmax "
            "itself.",
            2,
        ),
        WrongAnswer(
            "prompts before the model",
            _prompts_first,
            "`write` takes the model first, then the prompts.",
            1,
        ),
        WrongAnswer(
            "turned round",
            _turned_round,
            "student and teacher have changed places in `divergence`: the student's "
            "scores come first.",
            2,
        ),
        WrongAnswer(
            "prompts count",
            _prompts_too,
            "prompts count in the loss, too. Nobody wrote them: hand on the mask that "
            "`write` returns.",
            2,
        ),
        WrongAnswer(
            "nothing is learned",
            _nothing_learned,
            "the student's scores were made inside `no_grad`, so there is no gradient. "
            "Only writing and the teacher belong there.",
            3,
        ),
        WrongAnswer(
            "the teacher learns",
            _teacher_learns,
            "the teacher's weights got a gradient. It costs memory, and an optimizer "
            "could change the teacher: score inside `no_grad`.",
            3,
        ),
        WrongAnswer(
            "two texts",
            _each_its_own,
            "the teacher scored a text of its own. Both have to score the same "
            "tokens, or positions do not belong together.",
            2,
        ),
        WrongAnswer(
            "own tokens learned",
            _learns_tokens,
            "the student learns the tokens that it wrote, mistakes included. The "
            "teacher's scores for them are what it should learn.",
            2,
        ),
    ),
    hints=(
        "Who writes? `write` takes a model and prompts, and returns two tensors.",
        "Both models read the same tokens. `divergence` takes the student's scores, "
        "the teacher's, and the mask, in this order. All as they are: shift nothing.",
        "What is written, and what the teacher says, are made under `torch.no_grad()`. "
        "The student's scores come after it, outside.",
    ),
)

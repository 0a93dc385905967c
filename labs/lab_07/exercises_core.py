"""The core exercises of lab 07, 7.1 to 7.3, and the mistakes they expect.

Shape suffixes: P prompts, G completions of each, R rows, N tokens.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labs.lab_07.rewarding import lax, strict
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import (
    CheckFailed,
    expect_close,
    same_as,
    same_gradient,
    show_values,
)
from labsupport.rl import group_advantages
from labsupport.rl.objectives import clipped

Arguments = tuple[Any, ...]

# --- 7.1 the reward -----------------------------------------------------------

TEXTS = (
    *("A C D = D EOS", "= D EOS", "B B B = D EOS", "D = D EOS"),
    *("A C D = A EOS", "= A EOS", "D = A EOS", "A C D EOS", "D EOS"),
    *("= A = D EOS", "= D = A EOS", "= D = D EOS", "= A = B = C = D EOS"),
    *("= A = B = C = D = E", "= D", "A C D = D", "= A B C D E EOS"),
    *("= D D EOS", "= EOS", "EOS", "", "? . AB = D EOS", "= DE EOS"),
    "= A = D = A = D = A = D",
)
"""What a model may write where the ball is under D."""


def reward_probes() -> Sequence[Arguments]:
    """Every text; and one whose cup is named, where another is right."""
    return [("D", text) for text in TEXTS] + [("A", text) for text in TEXTS]


def plain_answers(candidate: Callable[..., Any]) -> None:
    """A right and a wrong cup, with and without a thought."""
    for text in ("A C D = D EOS", "= D EOS", "A C D = A EOS", "= A EOS"):
        expect_reward(candidate, "D", text)


def every_text(candidate: Callable[..., Any]) -> None:
    """Whatever a model may write."""
    for cup, text in reward_probes():
        expect_reward(candidate, cup, text)


def expect_reward(candidate: Callable[..., Any], cup: str, text: str) -> None:
    """Fail unless a completion is paid rightly; say which one raised."""
    asked = f"the ball under {cup}, completion {text!r}"
    wanted = strict(cup, text)
    try:
        came = candidate(cup, text)
    except (CheckFailed, NotImplementedError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise CheckFailed(f"{asked}: {wanted}", said) from None
    if not isinstance(came, (bool, int, float)) or float(came) != wanted:
        raise CheckFailed(f"{asked}: {wanted}", show_values(came))


def _anywhere(cup: str, completion: str) -> float:
    return float(cup in completion.split())


def _behind_the_last(cup: str, completion: str) -> float:
    words = completion.split("=")[-1].split()
    return float(completion.count("=") > 0 and words[:1] == [cup])


def _no_end(cup: str, completion: str) -> float:
    words = completion.split()
    once = words.count("=") == 1
    found = words[-2:] == ["=", cup] or words[-3:] == ["=", cup, "EOS"]
    return float(once and found)


def _several(cup: str, completion: str) -> float:
    return float(completion.split()[-3:] == ["=", cup, "EOS"])


def _last_but_one(cup: str, completion: str) -> float:
    words = completion.split()
    return float(words.count("=") < 2 and words[-2:] == [cup, "EOS"])


def _first_only(cup: str, completion: str) -> float:
    words = completion.split()
    at = words.index("=") if "=" in words else len(words)
    return float(words[at + 1 : at + 2] == [cup])


def _pays_thinking(cup: str, completion: str) -> float:
    thought = completion.split("=")[0].split()
    return strict(cup, completion) + 0.1 * len(thought)


def _demands_thinking(cup: str, completion: str) -> float:
    return strict(cup, completion) * float(not completion.startswith("="))


def _trace_counts(cup: str, completion: str) -> float:
    thought = completion.split("=")[0].split()
    believed = not thought or thought[-1] == cup
    return strict(cup, completion) * float(believed)


def _punishes(cup: str, completion: str) -> float:
    return 2 * strict(cup, completion) - 1


REWARD = Exercise(
    id="7.1",
    title="a reward without the hole",
    minutes=10,
    difficulty=1,
    ours=strict,
    checks=(
        ("a right cup, a wrong one", plain_answers),
        ("whatever a model may write", every_text),
    ),
    probes=reward_probes,
    wrong=(
        WrongAnswer(
            "behind some =",
            lax,
            "that is the reward with the hole: a right cup behind any `=` is paid, "
            "however many others stand there.",
            1,
        ),
        WrongAnswer(
            "the cup anywhere",
            _anywhere,
            "the right cup is paid wherever it stands, in a thought, too. It has to "
            "stand between `=` and `EOS`.",
            1,
        ),
        WrongAnswer(
            "behind the last =",
            _behind_the_last,
            "what follows the last `=` is paid, whatever was said before and behind. A "
            "model can try every cup and stop at the right one. Demand one `=` and an "
            "end.",
            2,
        ),
        WrongAnswer(
            "behind the first =",
            _first_only,
            "only the word behind the first `=` is read. What follows may be anything: "
            "demand EOS right behind it, and no second `=`.",
            2,
        ),
        WrongAnswer(
            "no end needed",
            _no_end,
            "a completion without EOS is paid: it was cut off, and could have gone on "
            "to say something else.",
            2,
        ),
        WrongAnswer(
            "several answers",
            _several,
            "a completion with several `=` is paid, if the last one is right. Count "
            "them.",
            3,
        ),
        WrongAnswer(
            "no = needed",
            _last_but_one,
            "the word before EOS is paid, with or without `=`.",
            2,
        ),
        WrongAnswer(
            "thinking is paid",
            _pays_thinking,
            "tokens before the `=` are paid for, so a long wrong answer earns more "
            "than a short one. Pay for what is wanted: a right answer.",
            1,
        ),
        WrongAnswer(
            "thinking is demanded",
            _demands_thinking,
            "an answer without a thought is refused. How it was found is the model's "
            "own business: whether to think is what it shall learn.",
            1,
        ),
        WrongAnswer(
            "the thought has to agree",
            _trace_counts,
            "a wrong thought is refused, though the answer is right. Only the answer "
            "is paid.",
            1,
        ),
        WrongAnswer(
            "minus one for a wrong answer",
            _punishes,
            "a wrong answer gives -1. Asked for is 0: advantages will subtract a mean "
            "anyhow.",
            1,
        ),
    ),
    hints=(
        "What is wanted: a completion that ends with one answer, and the answer is "
        "right. What stands before the `=` is free.",
        "Split the text, and look at its last three words: `=`, the cup, `EOS`. A "
        "slice, `words[-3:]`, raises nothing where there are fewer.",
        "And how often may `=` come? `words.count(...)` says how often it does.",
    ),
    otherwise={"whatever a model may write": ("", 2)},
)


# --- 7.2 the advantage -----------------------------------------------------------


def advantages_probes() -> Sequence[Arguments]:
    """Rewards of 0 and 1, equal groups, and any numbers."""
    generator = torch.Generator().manual_seed(0)
    mixed_PG = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
    any_PG = torch.randn((3, 6), generator=generator)
    return [
        (mixed_PG,),
        (any_PG,),
        (any_PG + torch.tensor([[0.0], [5], [-5]]),),
    ]


def one_of_four(candidate: Callable[..., Any]) -> None:
    """1 of 4 right: mean 1/4, standard deviation 1/2."""
    wanted = torch.tensor([[1.5, -0.5, -0.5, -0.5]])
    came = candidate(torch.tensor([[1.0, 0, 0, 0]]))
    asked = "rewards [1, 0, 0, 0], mean 0.25, standard deviation 0.5: A"
    expect_close(came, wanted, asked, tolerance=1e-3)


def equal_groups(candidate: Callable[..., Any]) -> None:
    """All right, or all wrong: nothing to learn."""
    rewards_PG = torch.tensor([[1.0] * 4, [0.0] * 4, [0.0, 0, 0, 1]])
    came = candidate(rewards_PG)
    asked = "groups [1, 1, 1, 1] and [0, 0, 0, 0]: A"
    if isinstance(came, Tensor) and came.shape == rewards_PG.shape:
        came = came[:2]
    expect_close(came, torch.zeros(2, 4), asked, tolerance=1e-4)


def several_groups(candidate: Callable[..., Any]) -> None:
    """Against ours."""
    for (rewards_PG,) in advantages_probes():
        wanted = group_advantages(rewards_PG)
        asked = f"rewards of {len(rewards_PG)} groups: A"
        expect_close(candidate(rewards_PG.clone()), wanted, asked, 1e-4)


def _whole_batch(rewards_PG):
    return (rewards_PG - rewards_PG.mean()) / (rewards_PG.std() + 1e-4)


def _over_prompts(rewards_PG):
    above = rewards_PG - rewards_PG.mean(dim=0, keepdim=True)
    return above / (rewards_PG.std(dim=0, keepdim=True) + 1e-4)


def _not_divided(rewards_PG):
    return rewards_PG - rewards_PG.mean(dim=1, keepdim=True)


def _nan(rewards_PG):
    return _not_divided(rewards_PG) / rewards_PG.std(dim=1, keepdim=True)


def _biased(rewards_PG):
    std = rewards_PG.std(dim=1, keepdim=True, correction=0)
    return _not_divided(rewards_PG) / (std + 1e-4)


def _not_kept(rewards_PG):
    return (rewards_PG - rewards_PG.mean(dim=1)) / rewards_PG.std(dim=1)


def _smaller(rewards_PG):
    std = rewards_PG.std(dim=1, keepdim=True)
    return _not_divided(rewards_PG) / (std + 1e-8)


def _variance(rewards_PG):
    return _not_divided(rewards_PG) / (
        rewards_PG.var(dim=1, keepdim=True) + 1e-4
    )


def _turned(rewards_PG):
    return -group_advantages(rewards_PG)


def _plain(rewards_PG):
    return rewards_PG / (rewards_PG.std(dim=1, keepdim=True) + 1e-4)


ADVANTAGE = Exercise(
    id="7.2",
    title="the advantage within a group",
    minutes=10,
    difficulty=1,
    ours=group_advantages,
    checks=(
        ("one of four", one_of_four),
        ("nothing to compare", equal_groups),
        ("several groups", several_groups),
    ),
    probes=advantages_probes,
    wrong=(
        WrongAnswer(
            "over the whole batch",
            _whole_batch,
            "rewards are compared with those of all prompts. Then an easy prompt looks "
            "good and a hard one bad, whatever was written. Each row is a group.",
            1,
        ),
        WrongAnswer(
            "over prompts",
            _over_prompts,
            "completions of different prompts are compared: the mean runs over the "
            "first dimension. A group is a row.",
            1,
        ),
        WrongAnswer(
            "not divided",
            _not_divided,
            "the mean is taken away, but nothing is divided by the spread. (Dr. GRPO "
            "leaves that out on purpose; here GRPO is asked for.)",
            2,
        ),
        WrongAnswer(
            "0 / 0",
            _nan,
            "where all rewards of a group are equal their standard deviation is 0, and "
            "0 / 0 is not a number. Add 0.0001 to it.",
            3,
        ),
        WrongAnswer(
            "dimension lost",
            _not_kept,
            "`mean(dim=1)` has shape P, and the rewards have P x G, so they do not "
            "fit. With `keepdim=True` it has P x 1.",
            1,
        ),
        WrongAnswer(
            "another small number",
            _smaller,
            "equal groups are right; elsewhere the standard deviation has 0.0001 added "
            "to it before it divides.",
            3,
        ),
        WrongAnswer(
            "divided by G",
            _biased,
            "inside the root it is divided by G. Asked for is G - 1, which is what "
            "`std` does by itself.",
            2,
        ),
        WrongAnswer(
            "the variance",
            _variance,
            "it is divided by the variance. Its root, the standard deviation, is "
            "asked for.",
            2,
        ),
        WrongAnswer(
            "sign turned",
            _turned,
            "the better completions get the lower numbers.",
            1,
        ),
        WrongAnswer(
            "no mean taken away",
            _plain,
            "the mean of the group is not taken away, so with rewards of 0 and 1 "
            "nothing is ever punished.",
            1,
        ),
    ),
    hints=(
        "`rewards_PG.mean(dim=1, keepdim=True)` is the mean of each group, of shape "
        "P x 1, so that it can be subtracted.",
        "`std` takes the same arguments. It divides by G - 1 inside the root.",
        "Add 1e-4 to the standard deviation before you divide: an equal group has 0.",
    ),
    otherwise={
        "nothing to compare": (
            "a group in which all rewards are equal teaches nothing: its advantages "
            "are 0.",
            3,
        )
    },
)


# --- 7.3 ratio and clip -----------------------------------------------------------

LOW = HIGH = 0.2


def clipped_gain(logp_RN: Tensor, old_RN: Tensor, A_R1: Tensor) -> Tensor:
    """min(rho A, clip(rho, 0.8, 1.2) A) for every token.

    Args:
        logp_RN: under the policy that is trained; has a gradient.
        old_RN: under the one that wrote the tokens.
        A_R1: the advantage of each completion.

    Returns:
        gain_RN.
    """
    return clipped(logp_RN, old_RN, A_R1, logp_RN, low=LOW, high=HIGH)


def gain_probes() -> Sequence[Arguments]:
    """Ratios on both sides of the clip, advantages of both signs.

    No ratio lies on an edge: there a gradient may be either of two.
    """
    found = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        old_RN = -torch.rand((4, 6), generator=generator) - 0.1
        step_RN = 0.6 * torch.randn((4, 6), generator=generator)
        A_R1 = torch.tensor([[1.5], [-0.5], [2.0], [-1.0]])
        found.append((old_RN + step_RN, old_RN, A_R1))
    return found


def by_hand(candidate: Callable[..., Any]) -> None:
    """Five ratios with both signs of A."""
    rho_N = torch.tensor([0.5, 0.9, 1.0, 1.1, 2.0])
    logp_RN, old_RN = rho_N.log().repeat(2, 1), torch.zeros(2, 5)
    A_R1 = torch.tensor([[1.0], [-1.0]])
    wanted = torch.tensor(
        [[0.5, 0.9, 1.0, 1.1, 1.2], [-0.8, -0.9, -1.0, -1.1, -2.0]]
    )
    for row, words in enumerate(("A = 1", "A = -1")):
        asked = f"rho = 0.5, 0.9, 1, 1.1, 2 and {words}: the gain"
        came = candidate(logp_RN.clone(), old_RN.clone(), A_R1.clone())
        whole = isinstance(came, Tensor) and came.shape == wanted.shape
        expect_close(came[row] if whole else came, wanted[row], asked)


def _one_argument(candidate):
    """Only the first argument has a gradient in a training."""

    def gain(logp_RN, old_RN, A_R1):
        return candidate(logp_RN, old_RN.detach(), A_R1.detach()) + 0 * (
            old_RN.sum() + A_R1.sum()
        )

    return gain


def _ours_one_argument(logp_RN, old_RN, A_R1):
    return _one_argument(clipped_gain)(logp_RN, old_RN, A_R1)


def pulls(candidate: Callable[..., Any]) -> None:
    """Fail where the gradient to logp is another than ours."""
    check = same_gradient(_ours_one_argument, gain_probes)
    check(_one_argument(candidate))


def _rho(logp_RN, old_RN):
    return (logp_RN - old_RN).exp()


def _only_clip(logp_RN, old_RN, A_R1):
    return _rho(logp_RN, old_RN).clamp(1 - LOW, 1 + HIGH) * A_R1


def _larger(logp_RN, old_RN, A_R1):
    rho = _rho(logp_RN, old_RN)
    return torch.maximum(rho * A_R1, rho.clamp(1 - LOW, 1 + HIGH) * A_R1)


def _upside_down(logp_RN, old_RN, A_R1):
    return clipped_gain(old_RN, logp_RN, A_R1)


def _no_exp(logp_RN, old_RN, A_R1):
    rho = logp_RN - old_RN
    return torch.minimum(rho * A_R1, rho.clamp(1 - LOW, 1 + HIGH) * A_R1)


def _of_logs(logp_RN, old_RN, A_R1):
    rho = logp_RN / old_RN.clamp(max=-1e-6)
    return torch.minimum(rho * A_R1, rho.clamp(1 - LOW, 1 + HIGH) * A_R1)


def _before_the_sign(logp_RN, old_RN, A_R1):
    rho = _rho(logp_RN, old_RN)
    return torch.minimum(rho, rho.clamp(1 - LOW, 1 + HIGH)) * A_R1


def _not_clipped(logp_RN, old_RN, A_R1):
    return _rho(logp_RN, old_RN) * A_R1


def _gain_clipped(logp_RN, old_RN, A_R1):
    gain = _rho(logp_RN, old_RN) * A_R1
    return torch.minimum(gain, gain.clamp(1 - LOW, 1 + HIGH))


def _two_numbers(logp_RN, old_RN, A_R1):
    rho = _rho(logp_RN, old_RN)
    return min(rho * A_R1, rho.clamp(1 - LOW, 1 + HIGH) * A_R1)


def _loss(logp_RN, old_RN, A_R1):
    return -clipped_gain(logp_RN, old_RN, A_R1)


def _one_number(logp_RN, old_RN, A_R1):
    return clipped_gain(logp_RN, old_RN, A_R1).mean()


def _only_above(logp_RN, old_RN, A_R1):
    rho = _rho(logp_RN, old_RN)
    return torch.minimum(rho * A_R1, rho.clamp(max=1 + HIGH) * A_R1)


def _no_gradient(logp_RN, old_RN, A_R1):
    return clipped_gain(logp_RN.detach(), old_RN, A_R1)


CLIP = Exercise(
    id="7.3",
    title="ratio and clip",
    minutes=12,
    difficulty=2,
    ours=clipped_gain,
    checks=(
        ("by hand", by_hand),
        ("many tokens", same_as(clipped_gain, gain_probes)),
        ("where it pulls", pulls),
    ),
    probes=gain_probes,
    wrong=(
        WrongAnswer(
            "only the clip",
            _only_clip,
            "the clipped product is taken always. The smaller of both is asked for: a "
            "token that went the wrong way has to be pulled back, however far it is.",
            2,
        ),
        WrongAnswer(
            "the larger of both",
            _larger,
            "the larger of both products is taken, so a token is pushed on for ever. "
            "The cautious one is the smaller.",
            2,
        ),
        WrongAnswer(
            "ratio upside down",
            _upside_down,
            "the ratio is pi_old / pi: subtract the old log-prob from the new one.",
            1,
        ),
        WrongAnswer(
            "no exp",
            _no_exp,
            "the difference of log-probs is the logarithm of the ratio: take `exp`.",
            1,
        ),
        WrongAnswer(
            "ratio of logs",
            _of_logs,
            "log-probs were divided. The ratio is that of the probabilities: exp of "
            "the difference.",
            1,
        ),
        WrongAnswer(
            "smaller ratio",
            _before_the_sign,
            "the smaller ratio is taken, and then multiplied by A. With a negative A "
            "that is the larger product: multiply first.",
            2,
        ),
        WrongAnswer(
            "not clipped",
            _not_clipped,
            "nothing is clipped: one rollout could move a token as far as it likes.",
            2,
        ),
        WrongAnswer(
            "the gain is clipped",
            _gain_clipped,
            "rho A is clipped to 0.8 .. 1.2. The limits are those of rho.",
            2,
        ),
        WrongAnswer(
            "Python's min",
            _two_numbers,
            "Python's `min` takes two numbers. `torch.minimum` takes two tensors, and "
            "the smaller of each pair.",
            2,
        ),
        WrongAnswer(
            "a loss",
            _loss,
            "there is a minus in front. What is gained is asked for, to be made large; "
            "whoever calls it makes a loss of it.",
            2,
        ),
        WrongAnswer(
            "one number",
            _one_number,
            "tokens are averaged. A gain for each token is asked for.",
            2,
        ),
        WrongAnswer(
            "clipped above only",
            _only_above,
            "the ratio is clipped above only. A wrong token whose ratio is below 0.8 "
            "has gone far enough down.",
            2,
        ),
        WrongAnswer(
            "no gradient",
            _no_gradient,
            "the values are right, and the gradient is not: some of the gain is cut "
            "off from logp_RN, by `detach`, `no_grad` or `item`.",
            3,
        ),
    ),
    hints=(
        "rho is a ratio of probabilities, and log-probs are given: exp(new - old).",
        "`rho.clamp(0.8, 1.2)` keeps it inside. Multiply both, rho and the clamped "
        "one, by A_R1, and take the smaller product, token by token: "
        "`torch.minimum`.",
        "Only logp_RN has a gradient. Use it as it is, without `detach` or `item`.",
    ),
    otherwise={
        "where it pulls": (
            "the gradient to logp_RN is another: where the clipped product is the "
            "smaller, it has to be exactly 0.",
            3,
        )
    },
)

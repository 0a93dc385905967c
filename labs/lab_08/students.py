"""Seven ways to teach a student, all at the same cost.

    labels       the right answers at once, as many as the budget pays for
    traces       whatever the teacher wrote
    right        what it wrote and the verifier accepted
    logits       the same, but every token's scores instead of the token
    on_policy    a share of the budget as `right`; then the student writes, and the
                 teacher scores each of its tokens
    rewards      a share on lab 07's hasty examples; then a verifier's rewards
    labels_rl    a share on labels; then rewards

Cost: see `labsupport.distill.compute`. What the teacher writes or scores is charged to
the student's budget; what its own training took is not, and is stated beside the table.

Shape suffixes: B rows, T tokens of a prompt, N tokens of a completion, S = T + N - 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labs.lab_07.teachers import TEACHERS
from labs.lab_08.plan import StudentPlan
from labsupport.distill import (
    REVERSE,
    Compute,
    DistillationLoss,
    Traces,
    write_traces,
)
from labsupport.generate import generate, row_seeds
from labsupport.generate.draws import Seeds
from labsupport.nn import GPT
from labsupport.rl import train_rl
from labsupport.settings import choose_settings
from labsupport.tasks.game import IGNORED, Game, Writer, supervised
from labsupport.tasks.shell_game import direct
from labsupport.train import train

GROUP, PROMPTS = 16, 24
"""Of a rollout with rewards."""


MOST = 4
"""Traces of one prompt that a student gets. Prompts hardly ever repeat here."""
Soft = Callable[[Tensor, Tensor, float], Tensor]
Keep = Callable[[list[tuple[str, str]], Callable[[str, str], bool], int], Any]
Step = Callable[..., Tensor]
"""Exercises 8.1, 8.2 and 8.3."""


@dataclass(frozen=True, eq=False)
class Student:
    """A student that has learned.

    Attributes:
        model: its weights.
        compute: what was spent, by what it was for.
        steps: updates.
        loss: at the end, or the reward.
    """

    model: GPT
    compute: Compute
    steps: int
    loss: float


def newborn(seed: int, plan: StudentPlan) -> GPT:
    """A student with random weights."""
    torch.manual_seed(seed)
    return GPT(plan.config)


@dataclass(frozen=True, eq=False)
class Course:
    """One student's lessons.

    Attributes:
        teacher: writes or scores.
        plan: the student and its budget.
        seed: of weights, games, order and sampling.
        lr: the highest learning rate.
        rl_lr: that of a training with rewards.
        share: of the budget for what comes first, where a way has two parts.
        temperature: T of `logits`.
        writing: the temperature at which the teacher writes.
        live: whether to show the training.
    """

    teacher: GPT
    plan: StudentPlan
    seed: int
    lr: float = 1e-2
    rl_lr: float = 1e-3
    share: float = 0.5
    temperature: float = 1.0
    writing: float = 1.0
    live: bool = False

    def begin(self) -> tuple[GPT, Compute]:
        """A newborn student and an unspent budget."""
        student = newborn(self.seed, self.plan)
        return student, Compute.of(student, self.teacher, self.plan.budget)

    def written(self, compute: Compute) -> Traces:
        """The teacher's traces, charged for."""
        game = self.plan.game
        traces = write_traces(
            self.teacher,
            game,
            self.plan.traces,
            seed=self.seed,
            temperature=self.writing,
        )
        compute.writes("teacher", traces.prompts_BT.numel() + traces.written)
        return traces

    def fit(
        self,
        model: GPT,
        batch: Callable[[int], tuple[Tensor, Tensor]],
        steps: int,
        title: str,
        loss_fn: Callable[[Any, tuple[Tensor, Tensor]], Tensor] | None = None,
    ) -> float:
        """Train, and say the mean loss of the last tenth."""
        run = train(
            model,
            batch,
            steps=steps,
            lr=self.lr,
            loss_fn=loss_fn,
            settings=choose_settings(None, self.seed),
            live=self.live,
            title=title,
        )
        last = run.metrics[-max(1, steps // 10) :]
        return sum(row["loss"] for row in last) / len(last)

    # --- ways to learn ---------------------------------------------------------

    def from_writer(
        self, writer: Writer, share: float = 1.0
    ) -> tuple[GPT, Compute, int, float]:
        """Learn from what a program writes, new games each step.

        Args:
            writer: of the completions.
            share: of the budget.
        """
        model, compute = self.begin()
        game, B = self.plan.game, self.plan.batch_size

        def batch(step: int) -> tuple[Tensor, Tensor]:
            return game.batch(writer, step, batch_size=B, seed=self.seed)

        tokens = batch(0)[0].numel()
        steps = compute.steps(learned=tokens, share=share)
        return model, compute, steps, self.fit(model, batch, steps, "Examples")

    def labels(self) -> Student:
        """The answers at once."""
        return Student(*self.from_writer(direct()))

    def traces(self) -> Student:
        """Whatever the teacher wrote."""
        model, compute = self.begin()
        return self.from_traces(model, compute, self.written(compute))

    def right(self, keep: Keep | None = None) -> Student:
        """Only what the verifier accepted.

        Args:
            keep: chooses traces, as exercise 8.2 does; None for all right ones.
        """
        model, compute = self.begin()
        traces = self.written(compute)
        kept_B = (
            traces.right_B if keep is None else chosen(traces, self.plan, keep)
        )
        return self.from_traces(model, compute, traces.only(kept_B))

    def from_traces(
        self, model: GPT, compute: Compute, traces: Traces, share: float = 1.0
    ) -> Student:
        """Learn the tokens of some traces, in many rounds."""
        B = self.plan.batch_size

        def batch(step: int) -> tuple[Tensor, Tensor]:
            return traces.batch(step, B, self.seed)

        steps = compute.steps(learned=batch(0)[0].numel(), share=share)
        loss = self.fit(model, batch, steps, "Traces")
        return Student(model, compute, steps, loss)

    def logits(self, beta: float = 0.0, soft: Soft | None = None) -> Student:
        """Right traces, and at each place all that the teacher would say.

        Args:
            beta: of the divergence.
            soft: compares scores, as exercise 8.1 does, in place of it.
        """
        loss = DistillationLoss(beta, self.temperature)
        model, compute = self.begin()
        traces = self.written(compute)
        traces = traces.only(traces.right_B)
        tokens_BS, targets_BS = traces.supervised()
        scores_BSV = traces.scores(self.teacher)
        compute.writes("teacher", tokens_BS.numel())
        B = self.plan.batch_size

        def batch(step: int) -> tuple[Tensor, Tensor]:
            rows = traces.rows(step, B, self.seed)
            return tokens_BS[rows], rows

        def compared(student: GPT, given: tuple[Tensor, Tensor]) -> Tensor:
            tokens, rows = given
            targets, teacher = targets_BS[rows], scores_BSV[rows]
            if soft is None:
                return loss(student(tokens), teacher, targets)
            counts = targets != IGNORED
            return soft(
                student(tokens)[counts], teacher[counts], self.temperature
            )

        steps = compute.steps(learned=B * tokens_BS.shape[1])
        ended = self.fit(model, batch, steps, "Scores", compared)
        return Student(model, compute, steps, ended)

    def on_policy(
        self, loss: DistillationLoss = REVERSE, step: Step | None = None
    ) -> Student:
        """Right traces first; then the student writes, and the teacher scores.

        Args:
            loss: compares scores.
            step: makes a loss of one batch, as exercise 8.3 does; None for ours.
        """
        model, compute = self.begin()
        traces = self.written(compute)
        traces = traces.only(traces.right_B)
        first = self.from_traces(model, compute, traces, self.share)
        game, B, make_loss = (
            self.plan.game,
            self.plan.batch_size,
            step or on_policy_loss,
        )
        S = game.max_len - 1

        def batch(number: int) -> tuple[Tensor, Tensor]:
            prompts_BT = game.prompts(B, seed=self.seed, step=number)
            return prompts_BT, torch.tensor(number)

        def divergence(
            student: Tensor, teacher: Tensor, mask: Tensor
        ) -> Tensor:
            return loss(student, teacher, torch.where(mask, 0, IGNORED))

        def compared(student: GPT, given: tuple[Tensor, Tensor]) -> Tensor:
            prompts_BT, number = given
            seeds_B = row_seeds(self.seed, int(number), B)

            def write(writer: GPT, prompts: Tensor) -> tuple[Tensor, Tensor]:
                return written_text(writer, game, prompts, seeds_B)

            return make_loss(
                student, self.teacher, prompts_BT, write, divergence
            )

        steps = compute.steps(learned=B * S, student=B * S, teacher=B * S)
        ended = self.fit(model, batch, steps, "Own writing", compared)
        return Student(model, compute, first.steps + steps, ended)

    def rewards(self, writer: Writer | None = None) -> Student:
        """Examples first; then a verifier's rewards."""
        writer = writer or TEACHERS["hasty"]
        model, compute, warm, _ = self.from_writer(writer, self.share)
        game, R = self.plan.game, PROMPTS * GROUP
        read, written = PROMPTS * (game.prompt_length - 1), R * game.longest
        steps = compute.steps(
            learned=R * (game.max_len - 1), student=read + written
        )
        run = train_rl(
            model,
            game,
            steps=steps,
            lr=self.rl_lr,
            prompts=PROMPTS,
            group=GROUP,
            settings=choose_settings(None, self.seed),
            live=self.live,
            title="Rewards",
        )
        return Student(model, compute, warm + steps, run.reward)

    def labels_rl(self) -> Student:
        """Answers first; then rewards."""
        return self.rewards(direct())


def written_text(
    writer: GPT, game: Game, prompts_BT: Tensor, seeds_B: Seeds
) -> tuple[Tensor, Tensor]:
    """What a model writes: tokens_BS, and where what comes next was written."""
    found = generate(
        writer,
        prompts_BT,
        longest=game.longest,
        eos=game.eos,
        pad=game.pad,
        seeds=seeds_B,
    )
    tokens_BS, targets_BS = supervised(prompts_BT, found.tokens_RN, game.pad)
    return tokens_BS, targets_BS != IGNORED


def on_policy_loss(
    student: Any,
    teacher: Any,
    prompts_BT: Tensor,
    write: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
    divergence: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """The student writes; where would the teacher have gone on otherwise?

    Nothing is learned through the sampling: what was written is taken as given.
    Source: Agarwal et al., 2023 (arXiv 2306.13649), algorithm 1.
    """
    with torch.no_grad():
        tokens_BS, mask_BS = write(student, prompts_BT)
        teacher_BSV = teacher(tokens_BS)
    return divergence(student(tokens_BS), teacher_BSV, mask_BS)


def chosen(traces: Traces, plan: StudentPlan, keep: Keep) -> Tensor:
    """keep_B: which traces a function chooses, given them as text."""
    names, pad = plan.game.vocabulary, traces.pad
    pairs = [
        (names.decode(prompt), names.decode([t for t in written if t != pad]))
        for prompt, written in zip(
            traces.prompts_BT.tolist(),
            traces.completions_BN.tolist(),
            strict=True,
        )
    ]
    verdicts = dict(zip(pairs, traces.right_B.tolist(), strict=True))
    left = Counter(
        keep(pairs, lambda prompt, written: verdicts[prompt, written], MOST)
    )
    kept = []
    for pair in pairs:
        kept.append(left[pair] > 0)
        left[pair] -= 1
    return torch.tensor(kept)


ARMS = (
    "labels",
    "traces",
    "right",
    "logits",
    "on_policy",
    "rewards",
    "labels_rl",
)

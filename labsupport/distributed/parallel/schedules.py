"""The order in which a pipeline's ranks do forwards and backwards.

A stage is a run of neighbouring blocks. p ranks form the pipeline and have v stages
each, so there are p v of them; a batch passes in m microbatches.

    loop   rank r has stages r, r + p, ...           Interleaved 1F1B
    V      rank r has stages r and 2 p - 1 - r       ZBV, DualPipeV

Some split the backward in two: first the gradient of a stage's input, for which the
stage before waits; later that of its weights, which fills the pipeline's pauses.

Sources: GPipe, arXiv 1811.06965; 1F1B and its interleaved form, arXiv 2104.04473
section 2.2; zero bubble and ZBV, arXiv 2401.10241; DualPipe, arXiv 2412.19437 section
3.2.1, its V form in DeepSeek's repository DualPipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.errors import LabError


@dataclass(frozen=True)
class Schedule:
    """One of torch's schedules.

    Attributes:
        torch_name: as torch.distributed.pipelining finds it.
        per_rank: v, stages of each rank.
        v_shaped: whether the second half of the stages runs back over the ranks.
        pause: how long a rank waits in a step, by the schedule's formula: for each
            rank before or after it so many times its share of a microbatch, forward
            and backward. A forward is taken to last as long as each half of the
            backward (F = 1, B = 2 with W = 1 of weights).
        splits_backward: whether weights' gradients come later than inputs'.
    """

    torch_name: str
    pause: float
    per_rank: int = 1
    v_shaped: bool = False
    splits_backward: bool = False

    def stages_of(self, rank: int, ranks: int) -> list[int]:
        """The numbers of a rank's stages, in order."""
        if self.v_shaped:
            return [rank, 2 * ranks - 1 - rank]
        return list(range(rank, ranks * self.per_rank, ranks))


SCHEDULES = {
    "GPipe": Schedule("GPipe", pause=1),
    "1F1B": Schedule("1F1B", pause=1),
    "Interleaved1F1B": Schedule("Interleaved1F1B", pause=1 / 2, per_rank=2),
    # (F + B - 2 W) / (F + B), of stages half as long.
    "InterleavedZeroBubble": Schedule(
        "InterleavedZeroBubble", pause=1 / 6, per_rank=2, splits_backward=True
    ),
    "ZBV": Schedule(
        "ZBVZeroBubble", pause=0, per_rank=2, v_shaped=True, splits_backward=True
    ),
    # (F&B + B - 3 W) / (F + B), where F&B = F + B, of stages half as long; p ranks are
    # 2 p stages of the original DualPipe.
    "DualPipeV": Schedule(
        "DualPipeV", pause=1 / 3, per_rank=2, v_shaped=True, splits_backward=True
    ),
}


def require_schedule(name: str, ranks: int, microbatches: int) -> Schedule:
    """The schedule of that name, if it can run.

    Raises:
        LabError: an unknown name, fewer microbatches than stages (torch would wait
            for ever), or microbatches that do not form equal rounds.
    """
    if name not in SCHEDULES:
        raise LabError(f"schedule={name!r}: use one of {', '.join(SCHEDULES)}.")
    schedule = SCHEDULES[name]
    stages = ranks * schedule.per_rank
    if microbatches < stages:
        raise LabError(
            f"{microbatches} microbatches for {stages} stages: the pipeline would "
            f"hang; use at least {stages}."
        )
    rounds = microbatches // ranks
    if schedule.per_rank > 1 and not schedule.v_shaped and microbatches % rounds:
        raise LabError(
            f"{name} with {microbatches} microbatches on {ranks} ranks: they do not "
            f"form equal rounds; use a multiple of {ranks}."
        )
    return schedule


def pause_share(name: str, ranks: int, microbatches: int) -> float:
    """The share of a step in which a rank waits, by formula: the bubble.

    (p - 1) / (m + p - 1) for GPipe and 1F1B.
    """
    pause = (ranks - 1) * SCHEDULES[name].pause
    return pause / (microbatches + pause)

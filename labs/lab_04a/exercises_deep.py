"""The deep exercises of lab 04a, 4.4 to 4.6, and the mistakes they expect.

Shape suffixes: W workers, M rows, N columns, r directions, B messages.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labs.lab_04a.exercises_core import (
    Arguments,
    Candidate,
    messages,
    on_counted_ranks,
    random,
)
from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, expect_close, show_values

# --- 4.4 low-rank fusion -----------------------------------------------------


def low_rank_mean(
    u_MN: Tensor, q_Nr: Tensor, dist: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of low-rank fusion with error feedback.

    Source: PowerSGD, arXiv 1905.13727, Algorithms 1 and 2.

    Args:
        u_MN: what this worker owes, gradient plus residual.
        q_Nr: the directions of the step before, the same on all ranks.
        dist: `torch.distributed`.

    Returns:
        fused_MN, the same on all ranks; this worker's residual_MN; and the
        directions of the next step, next_q_Nr.
    """
    W = dist.get_world_size()
    p_Mr = u_MN @ q_Nr
    dist.all_reduce(p_Mr)
    p_Mr = torch.linalg.qr(p_Mr / W).Q
    mine_Nr = u_MN.T @ p_Mr
    r_Nr = mine_Nr.clone()
    dist.all_reduce(r_Nr)
    r_Nr = r_Nr / W
    return p_Mr @ r_Nr.T, u_MN - p_Mr @ mine_Nr.T, r_Nr


LowRank = tuple[Tensor, Tensor, Tensor, Tensor]
"""fused_WMN, residual_WMN, onto_WNN, size_B: see `low_rank_on_ranks`."""


def onto_columns(a: Tensor) -> Tensor:
    """The orthogonal projection onto the columns of a matrix, in float64.

    NaN for a matrix that is not finite.
    """
    if not bool(a.isfinite().all()):
        return torch.full((len(a), len(a)), torch.nan, dtype=torch.float64)
    a = a.double()
    return a @ torch.linalg.pinv(a)


def low_rank_on_ranks(
    function: Candidate, u_WMN: Tensor, q_Nr: Tensor
) -> LowRank:
    """Call it on practice ranks.

    Returns:
        fused_WMN and residual_WMN of all ranks; onto_WNN, the projection onto their
        next directions, of which neither length nor order matters; and size_B, the
        sizes of the messages.

    Raises:
        CheckFailed: it does not return three tensors of the right shapes.
    """
    results, size_B = on_counted_ranks(function, u_WMN, [q_Nr] * len(u_WMN))
    shapes = (u_WMN.shape[1:], u_WMN.shape[1:], q_Nr.shape)
    for rank, came in enumerate(results):
        three = isinstance(came, tuple | list) and len(came) == 3
        if not three or not all(isinstance(x, Tensor) for x in came):
            asked = "three tensors, fused, residual and the next q"
            raise CheckFailed(f"{asked}, on rank {rank}", show_values(came))
        for x, shape in zip(came, shapes, strict=True):
            if x.shape != shape:
                asked = f"shapes {', '.join(str(tuple(s)) for s in shapes)}"
                each = ", ".join(str(tuple(x.shape)) for x in came)
                raise CheckFailed(asked, f"{each} on rank {rank}")
    fused_WMN, residual_WMN, q_WNr = (
        torch.stack(list(each)) for each in zip(*results, strict=True)
    )
    onto_WNN = torch.stack([onto_columns(q) for q in q_WNr])
    return fused_WMN, residual_WMN, onto_WNN, size_B


def unlike_workers(W: int, M: int, N: int, seed: int = 0) -> Tensor:
    """u_WMN: something that all have in common, and as much of their own."""
    return random(1, M, N, seed=seed) + random(W, M, N, seed=seed + 1)


def low_rank_probes() -> Sequence[Arguments]:
    return [
        (unlike_workers(2, 6, 5), random(5, 2, seed=7)),
        (unlike_workers(3, 4, 7, seed=2), random(7, 3, seed=8)),
    ]


def low_rank_by_hand(candidate: Candidate) -> None:
    """Two ranks, q along the first column: P = (1, 0) up to its sign."""
    u_WMN = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[4.0, 3.0], [0.0, 1.0]]])
    q_Nr = torch.tensor([[1.0], [0.0]])
    fused_WMN, residual_WMN, onto_WNN, _ = candidate(u_WMN, q_Nr)
    asked = "[[2, 1], [0, 1]] and [[4, 3], [0, 1]], q = (1, 0)"
    fused_MN = torch.tensor([[3.0, 2.0], [0.0, 0.0]])
    for rank in (0, 1):
        expect_close(
            fused_WMN[rank], fused_MN, f"{asked}: fused on rank {rank}"
        )
    left_MN = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    for rank in (0, 1):
        what = f"{asked}: residual on rank {rank}"
        expect_close(residual_WMN[rank], left_MN, what)
    next_q = torch.tensor([[3.0], [2.0]])
    what = f"{asked}: the projection onto the next q, which is along (3, 2)"
    expect_close(onto_WNN[0], onto_columns(next_q).float(), what)


def low_rank_by_projection(candidate: Candidate) -> None:
    """P P' is the projection onto the columns of (mean u) q, whatever the basis."""
    for u_WMN, q_Nr in low_rank_probes():
        W, r = len(u_WMN), q_Nr.shape[1]
        mean_MN = u_WMN.double().mean(0)
        onto_MM = onto_columns(mean_MN @ q_Nr.double())
        fused_WMN, residual_WMN, *_ = candidate(u_WMN, q_Nr)
        asked = f"{W} ranks, r = {r}, by projections in float64"
        wanted_MN = (onto_MM @ mean_MN).float()
        expect_close(fused_WMN[0], wanted_MN, f"{asked}: fused", 1e-4)
        for rank in range(W):
            mine_MN = u_WMN[rank].double()
            wanted_MN = (mine_MN - onto_MM @ mine_MN).float()
            what = f"{asked}: residual on rank {rank}"
            expect_close(residual_WMN[rank], wanted_MN, what, 1e-4)


def low_rank_same_bits(candidate: Candidate) -> None:
    for u_WMN, q_Nr in low_rank_probes():
        fused_WMN, _, onto_WNN, _ = candidate(u_WMN, q_Nr)
        for what, all_ranks in (
            ("fused", fused_WMN),
            ("the next q", onto_WNN),
        ):
            for rank in range(1, len(all_ranks)):
                if not torch.equal(all_ranks[rank], all_ranks[0]):
                    gap = (all_ranks[rank] - all_ranks[0]).abs().max()
                    raise CheckFailed(
                        f"{what} with the same bits on all ranks",
                        f"rank {rank} is up to {gap:.2g} from rank 0",
                    )


def low_rank_messages(candidate: Candidate) -> None:
    for u_WMN, q_Nr in low_rank_probes():
        _, M, N = u_WMN.shape
        r = q_Nr.shape[1]
        *_, size_B = candidate(u_WMN, q_Nr)
        if int(size_B.sum()) != r * (M + N):
            raise CheckFailed(
                f"r (M + N) = {r * (M + N)} numbers sent for a matrix of {M} x {N}, "
                f"r = {r}",
                messages(size_B.tolist()),
            )


def low_rank_warm_start(candidate: Candidate) -> None:
    """The same matrix again and again: q comes to lie along its largest directions."""
    M, N, r = 6, 5, 2
    left_MM = torch.linalg.qr(random(M, M, seed=3).double()).Q
    right_NN = torch.linalg.qr(random(N, N, seed=4).double()).Q
    size_N = torch.tensor([4.0, 3.0, 0.6, 0.3, 0.1]).double()
    mean_MN = (left_MM[:, :N] * size_N) @ right_NN.T
    best_MN = (left_MM[:, :r] * size_N[:r]) @ right_NN[:, :r].T
    half_MN = random(M, N, seed=5)
    u_WMN = torch.stack([mean_MN.float() + half_MN, mean_MN.float() - half_MN])
    q_Nr = anything_Nr = random(N, r, seed=6)
    for _ in range(8):
        fused_WMN, _, onto_WNN, _ = candidate(u_WMN, q_Nr)
        # Other vectors along the same directions: only these may matter.
        q_Nr = (onto_WNN[0] @ anything_Nr.double()).float()
    asked = "after 8 steps of one matrix, each with the q of the last: its best rank 2"
    expect_close(fused_WMN[0], best_MN.float(), asked, 1e-3)


def _low_rank(  # type: ignore[no-untyped-def]
    u,
    q,
    dist,
    local=False,
    orth=True,
    divide=True,
    mean_r=True,
    kept="mine",
    warm=True,
):
    W = dist.get_world_size() if divide else 1

    def mean(x):  # type: ignore[no-untyped-def]
        x = x.clone()
        dist.all_reduce(x)
        return x / W

    p = u @ q
    if local:
        p = torch.linalg.qr(p).Q
    p = mean(p)
    if orth and not local:
        p = torch.linalg.qr(p).Q
    mine = u.T @ p
    r = mean(mine) if mean_r else mine
    fused = p @ r.T
    residual = {
        "mine": u - p @ mine.T,
        "fused": u - fused,
        "sign": p @ mine.T - u,
    }
    return fused, residual[kept], r if warm else q


def low_rank_local_basis(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, local=True)


def low_rank_no_basis(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, orth=False)


def low_rank_sum(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, divide=False)


def low_rank_own_r(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, mean_r=False)


def low_rank_residual_of_mean(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, kept="fused")


def low_rank_sign(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, kept="sign")


def low_rank_in_place(u_MN, q_Nr, dist):
    """The mean overwrites this rank's own R."""
    W = dist.get_world_size()
    p_Mr = u_MN @ q_Nr
    dist.all_reduce(p_Mr)
    p_Mr = torch.linalg.qr(p_Mr / W).Q
    r_Nr = mine_Nr = u_MN.T @ p_Mr
    dist.all_reduce(r_Nr)
    r_Nr = r_Nr / W
    return p_Mr @ r_Nr.T, u_MN - p_Mr @ mine_Nr.T, r_Nr


def low_rank_own_next(u_MN, q_Nr, dist):
    fused_MN, residual_MN, _ = low_rank_mean(u_MN, q_Nr, dist)
    p_Mr = torch.linalg.qr(fused_MN @ q_Nr).Q
    return fused_MN, residual_MN, u_MN.T @ p_Mr


def low_rank_cold(u_MN, q_Nr, dist):
    return _low_rank(u_MN, q_Nr, dist, warm=False)


def low_rank_own_p(u_MN, q_Nr, dist):
    """P is never averaged: every rank has a basis of its own."""
    p_Mr = torch.linalg.qr(u_MN @ q_Nr).Q
    mine_Nr = u_MN.T @ p_Mr
    r_Nr = mine_Nr.clone()
    dist.all_reduce(r_Nr)
    r_Nr /= dist.get_world_size()
    return p_Mr @ r_Nr.T, u_MN - p_Mr @ mine_Nr.T, r_Nr


def low_rank_whole(u_MN, q_Nr, dist):
    """Right, but the whole matrix travels."""
    mean_MN = u_MN.clone()
    dist.all_reduce(mean_MN)
    mean_MN /= dist.get_world_size()
    p_Mr = torch.linalg.qr(mean_MN @ q_Nr).Q
    r_Nr = mean_MN.T @ p_Mr
    return p_Mr @ r_Nr.T, u_MN - p_Mr @ (p_Mr.T @ u_MN), r_Nr


LOW_RANK = Exercise(
    id="4.4",
    title="two thin factors",
    minutes=12,
    difficulty=3,
    ours=low_rank_mean,
    group=low_rank_on_ranks,
    checks=(
        ("by hand", low_rank_by_hand),
        ("2 and 3 ranks", low_rank_by_projection),
        ("the same bits on all ranks", low_rank_same_bits),
        ("messages", low_rank_messages),
        ("warm start", low_rank_warm_start),
    ),
    probes=low_rank_probes,
    wrong=(
        WrongAnswer(
            "basis before the mean",
            low_rank_local_basis,
            "every rank makes its own columns orthonormal, and then they are "
            "averaged. A mean of bases is no basis: average u q first.",
            1,
        ),
        WrongAnswer(
            "no basis",
            low_rank_no_basis,
            "the columns of P are not orthonormal, so P P^T u is no projection: its "
            "size is wrong.",
            1,
        ),
        WrongAnswer(
            "own basis",
            low_rank_own_p,
            "every rank has a P of its own, so their R cannot be added up: average "
            "u q over the ranks.",
            1,
        ),
        WrongAnswer(
            "sum",
            low_rank_sum,
            "all_reduce adds up: divide R by the number of ranks. (In P it makes no "
            "difference.)",
            2,
        ),
        WrongAnswer(
            "own R",
            low_rank_own_r,
            "R is never averaged, so every rank fuses its own gradient, and the "
            "models drift apart.",
            2,
        ),
        WrongAnswer(
            "residual of the mean",
            low_rank_residual_of_mean,
            "the residual is u minus the fused matrix. PowerSGD's own code does that, "
            "and its mean over the ranks is right. But how this rank differs from "
            "the mean is then never sent and adds up. Subtract what this rank "
            "contributed, P times its own R^T. (Or R was averaged in place, and its "
            "own is gone.)",
            3,
        ),
        WrongAnswer(
            "sign",
            low_rank_sign,
            "the residual has the wrong sign: it is u minus what was sent.",
            3,
        ),
        WrongAnswer(
            "R summed in place",
            low_rank_in_place,
            "all_reduce overwrote this rank's own R, which the residual needs: sum a "
            "copy.",
            2,
        ),
        WrongAnswer(
            "own R as the next q",
            low_rank_own_next,
            "each rank returns its own R, so the next q differ. Return the mean R.",
            3,
        ),
        WrongAnswer(
            "no warm start",
            low_rank_cold,
            "q is returned as it came, so each step looks in the same directions. "
            "Return R: it lies along those in which there is most.",
            3,
        ),
        WrongAnswer(
            "whole matrix sent",
            low_rank_whole,
            "the whole matrix travels, and nothing is saved. Average the two thin "
            "factors only.",
            2,
        ),
    ),
    hints=(
        "u q has M r numbers. Average it over the ranks, then make its columns "
        "orthonormal: `torch.linalg.qr(...).Q`. Now all ranks have the same P.",
        "u^T P is this rank's own R, of N r numbers. all_reduce works in place and "
        "adds up: average a copy, since you need your own once more.",
        "Fused is P times the mean R^T. The residual is u minus P times this rank's "
        "own R^T. The mean R is the next q.",
    ),
    otherwise={
        "warm start": (
            "the next q is not along R, so the directions never settle.",
            3,
        ),
    },
)

# --- 4.5 significance and redundancy -----------------------------------------


def judge_directions(
    sigma2_r: Tensor, energy_r: Tensor, W: int
) -> tuple[Tensor, Tensor]:
    """What each direction carries, and how alike the workers are in it.

    The estimator of the gradient noise scale (arXiv 1812.06162, Appendix A.1), for
    each direction.

    Args:
        sigma2_r: squared length of the workers' mean.
        energy_r: mean of the workers' squared lengths.
        W: workers, at least 2.

    Returns:
        signal_r, an unbiased estimate of the squared length of what the workers
        have in common; coherence_r, 1 where all send the same, 1 / W where all is
        noise, 0 where nobody sends anything.
    """
    signal_r = (W * sigma2_r - energy_r) / (W - 1)
    there = energy_r > 0
    coherence_r = torch.where(
        there, sigma2_r / energy_r.where(there, 1.0), 0.0
    )
    return signal_r, coherence_r


def two_per_direction(
    function: Candidate, sigma2_r: Tensor, energy_r: Tensor, W: int
) -> tuple[Tensor, Tensor] | None:
    """What the function returns, two tensors of r numbers.

    Raises:
        CheckFailed: it does not.
    """
    came = function(sigma2_r, energy_r, W)
    if came is None:
        return None
    two = isinstance(came, tuple | list) and len(came) == 2
    if not two or not all(isinstance(x, Tensor) for x in came):
        raise CheckFailed(
            "two tensors, signal and coherence", show_values(came)
        )
    for x in came:
        if x.shape != sigma2_r.shape:
            asked = f"two tensors of {len(sigma2_r)} directions"
            raise CheckFailed(asked, f"one of shape {tuple(x.shape)}")
    return came[0], came[1]


def statistics(r_WNr: Tensor) -> tuple[Tensor, Tensor, int]:
    """sigma2_r and energy_r of all workers' R, and W."""
    sigma2_r = r_WNr.mean(0).square().sum(0)
    energy_r = r_WNr.square().sum(1).mean(0)
    return sigma2_r.float(), energy_r.float(), len(r_WNr)


def judge_probes() -> Sequence[Arguments]:
    with_nothing = unlike_workers(3, 6, 4, seed=5)
    with_nothing[:, :, 2] = 0.0
    return [
        statistics(unlike_workers(2, 8, 3, seed=1)),
        statistics(unlike_workers(4, 5, 2, seed=3)),
        statistics(with_nothing),
        statistics(torch.tensor([2.0, -2.0, 2.0, -2.0]).view(4, 1, 1)),
    ]


def judge_by_hand(candidate: Candidate) -> None:
    """Four workers: all send 3, or one alone sends 4."""
    sigma2_r, energy_r = torch.tensor([9.0, 1.0]), torch.tensor([9.0, 4.0])
    asked = "4 workers send (3, 3, 3, 3) and (4, 0, 0, 0)"
    signal_r, coherence_r = candidate(sigma2_r, energy_r, 4)
    expect_close(signal_r, torch.tensor([9.0, 0.0]), f"{asked}: signal")
    expect_close(coherence_r, torch.tensor([1.0, 0.25]), f"{asked}: coherence")


def judge_by_pairs(candidate: Candidate) -> None:
    """The signal is the mean product of two different workers' R, exactly."""
    for W, N, r in ((2, 8, 3), (5, 6, 2)):
        r_WNr = unlike_workers(W, N, r, seed=W).double()
        product_rWW = torch.einsum("vnr,wnr->rvw", r_WNr, r_WNr)
        of_pairs_r = product_rWW.sum((1, 2)) - product_rWW.diagonal(
            0, 1, 2
        ).sum(1)
        signal_r, coherence_r = candidate(*statistics(r_WNr))
        wanted_r = (of_pairs_r / (W * (W - 1))).float()
        asked = (
            f"{W} workers: signal = mean product of two different workers' R"
        )
        expect_close(signal_r, wanted_r, asked, 1e-4)
        wanted_r = product_rWW.mean((1, 2)) / product_rWW.diagonal(
            0, 1, 2
        ).mean(1)
        asked = f"{W} workers: coherence"
        expect_close(coherence_r, wanted_r.float(), asked, 1e-4)


def judge_unbiased(candidate: Candidate) -> None:
    """R = s + noise of 100 times the energy: over many steps the mean is |s|^2."""
    W, N, steps = 4, 20, 4000
    s_N = random(N, seed=1).double()
    noise = 10 * s_N.norm() / math.sqrt(N)
    noise_SWN = torch.randn(
        (steps, W, N),
        generator=torch.Generator().manual_seed(2),
        dtype=torch.float64,
    )
    # A step takes the place of a direction: (W, N, steps).
    r_WNS = (s_N + noise * noise_SWN).permute(1, 2, 0)
    signal_S, _ = candidate(*statistics(r_WNS))
    mean = float(signal_S.double().mean() / s_N.square().sum())
    # One step's estimate has a standard deviation of 9.4 |s|^2, that of their mean
    # is 0.15 |s|^2.
    if not abs(mean - 1) < 0.5:
        raise CheckFailed(
            "signal without bias: mean over 4000 noisy steps = |s|^2",
            f"{mean:.2f} |s|^2",
        )


def judge_nothing(candidate: Candidate) -> None:
    signal_r, coherence_r = candidate(torch.zeros(2), torch.zeros(2), 3)
    asked = "a direction in which nobody sends anything"
    expect_close(signal_r, torch.zeros(2), f"{asked}: signal")
    expect_close(coherence_r, torch.zeros(2), f"{asked}: coherence")


def _judge(sigma2, energy, W, signal=None, coherence=None):  # type: ignore[no-untyped-def]
    right_signal, right_coherence = judge_directions(sigma2, energy, W)
    return (
        right_signal if signal is None else signal,
        right_coherence if coherence is None else coherence,
    )


def judge_biased(sigma2_r, energy_r, W):
    return _judge(sigma2_r, energy_r, W, signal=sigma2_r.clone())


def judge_noise(sigma2_r, energy_r, W):
    noise_r = (energy_r - sigma2_r) * W / (W - 1)
    return _judge(sigma2_r, energy_r, W, signal=noise_r)


def judge_not_rescaled(sigma2_r, energy_r, W):
    return _judge(sigma2_r, energy_r, W, signal=sigma2_r - energy_r / W)


def judge_not_divided(sigma2_r, energy_r, W):
    return _judge(sigma2_r, energy_r, W, signal=W * sigma2_r - energy_r)


def judge_no_workers(sigma2_r, energy_r, W):
    return _judge(
        sigma2_r, energy_r, W, signal=(sigma2_r - energy_r) / (W - 1)
    )


def judge_clamped(sigma2_r, energy_r, W):
    signal_r, _ = judge_directions(sigma2_r, energy_r, W)
    return _judge(sigma2_r, energy_r, W, signal=signal_r.clamp(min=0.0))


def judge_upside_down(sigma2_r, energy_r, W):
    return _judge(sigma2_r, energy_r, W, coherence=energy_r / sigma2_r)


def judge_signal_share(sigma2_r, energy_r, W):
    signal_r, _ = judge_directions(sigma2_r, energy_r, W)
    there = energy_r > 0
    share_r = torch.where(there, signal_r / energy_r.where(there, 1.0), 0.0)
    return signal_r, share_r


def judge_lengths(sigma2_r, energy_r, W):
    _, coherence_r = judge_directions(sigma2_r, energy_r, W)
    return _judge(sigma2_r, energy_r, W, coherence=coherence_r.sqrt())


def judge_zero_over_zero(sigma2_r, energy_r, W):
    return _judge(sigma2_r, energy_r, W, coherence=sigma2_r / energy_r)


def judge_swapped(sigma2_r, energy_r, W):
    return judge_directions(sigma2_r, energy_r, W)[::-1]


JUDGE = Exercise(
    id="4.5",
    title="significant, or redundant",
    minutes=8,
    difficulty=2,
    ours=judge_directions,
    group=two_per_direction,
    checks=(
        ("by hand", judge_by_hand),
        ("no bias", judge_unbiased),
        ("pairs of workers", judge_by_pairs),
        ("nothing sent", judge_nothing),
    ),
    probes=judge_probes,
    wrong=(
        WrongAnswer(
            "biased",
            judge_biased,
            "sigma2 itself is taken for the signal. It contains a W-th of each "
            "worker's noise.",
            1,
        ),
        WrongAnswer(
            "noise",
            judge_noise,
            "that is the energy of the noise. The signal is what is left of sigma2 "
            "without it.",
            1,
        ),
        WrongAnswer(
            "not rescaled",
            judge_not_rescaled,
            "energy / W takes away a W-th of the signal, too: what is left has to be "
            "scaled by W / (W - 1).",
            2,
        ),
        WrongAnswer(
            "not divided",
            judge_not_divided,
            "W sigma2 - energy is W - 1 times the signal: divide.",
            2,
        ),
        WrongAnswer(
            "W left out",
            judge_no_workers,
            "sigma2 is not multiplied by W, so even of a pure signal nothing is left.",
            2,
        ),
        WrongAnswer(
            "clamped",
            judge_clamped,
            "estimates below 0 are set to 0. They look odd, but without them the "
            "others, which are too high, are no longer made up for.",
            2,
        ),
        WrongAnswer(
            "upside down",
            judge_upside_down,
            "the coherence is the mean's energy over that of the workers: 1 where "
            "all send the same, and never more.",
            3,
        ),
        WrongAnswer(
            "share of signal",
            judge_signal_share,
            "the coherence is made from the signal. It is sigma2 over the energy, so "
            "that pure noise has 1 / W.",
            3,
        ),
        WrongAnswer(
            "lengths",
            judge_lengths,
            "the coherence is a ratio of lengths. It is one of energies: without a "
            "root.",
            3,
        ),
        WrongAnswer(
            "zero over zero",
            judge_zero_over_zero,
            "where nobody sends anything 0 / 0 is NaN: the coherence is 0 there.",
            3,
        ),
        WrongAnswer(
            "swapped",
            judge_swapped,
            "the two results are swapped: first the signal, then the coherence.",
            3,
        ),
    ),
    hints=(
        "Write s2 for the signal and v for the energy of one worker's noise. Then on "
        "average energy = s2 + v. In the mean of W workers noise has only a W-th of "
        "its energy: sigma2 = s2 + v / W.",
        "Two equations, two unknowns: multiply the second by W and subtract the "
        "first, and v is gone. What is left is W - 1 times s2.",
        "The coherence is the quotient of the two numbers that you were given. Where "
        "the energy is 0, so is sigma2: let the coherence be 0, with `torch.where` "
        "or by clamping the divisor.",
    ),
)

# --- 4.6 the bytes-budget controller -----------------------------------------


def next_directions(
    x: float, measured: float, target: float, gain: float
) -> float:
    """An integral controller: how many directions to ask for next.

    Args:
        x: directions asked for so far, not rounded.
        measured: bytes that a step took with them.
        target: bytes that it may take.
        gain: how much of a relative error is made good in one step.

    Returns:
        Directions, not rounded, at least 1.
    """
    return max(1.0, x * (1 + gain * (target - measured) / target))


def one_number(function: Candidate, *arguments: float) -> float | None:
    """What the function returns, as a float.

    Raises:
        CheckFailed: it is no number.
    """
    came = function(*arguments)
    if came is None:
        return None
    try:
        return float(came)
    except (TypeError, ValueError):
        asked = "a number of directions"
        raise CheckFailed(asked, show_values(came)) from None


def next_probes() -> Sequence[Arguments]:
    return [
        (8.0, 200.0, 100.0, 0.5),
        (8.0, 50.0, 100.0, 0.5),
        (3.3, 90.0, 100.0, 0.25),
        (5.0, 1000.0, 100.0, 0.5),
    ]


def next_by_hand(candidate: Candidate) -> None:
    for arguments, wanted in (
        ((8.0, 200.0, 100.0, 0.5), 4.0),
        ((8.0, 50.0, 100.0, 0.5), 10.0),
        ((8.0, 100.0, 100.0, 0.5), 8.0),
        ((4.0, 100.0, 200.0, 0.1), 4.2),
    ):
        came = candidate(*arguments)
        if not math.isclose(came, wanted, rel_tol=1e-4):
            x, measured, target, gain = arguments
            asked = (
                f"x = {x:g}, {measured:g} bytes of {target:g}, gain {gain:g}"
            )
            raise CheckFailed(f"{asked}: {wanted:g}", f"{came:.5g}")


def next_at_least_one(candidate: Candidate) -> None:
    came = candidate(5.0, 1000.0, 100.0, 0.5)
    if came != 1.0:
        asked = "x = 5, 1000 bytes of 100, gain 0.5: 1, the least"
        raise CheckFailed(asked, f"{came:.5g}")


def steps_of_a_plant(
    candidate: Candidate, x: float, target: float, gain: float, steps: int
) -> tuple[float, float]:
    """Runs the loop on something that sends 640 bytes a direction and 1500 besides.

    Returns:
        x and the bytes of a step at the end.
    """
    for _ in range(steps):
        x = candidate(x, 1500 + 640 * max(1, round(x)), target, gain)
        if not math.isfinite(x) or abs(x) > 1e6:
            break
    return x, 1500 + 640 * max(1, round(min(x, 1e6)) if x == x else 1)


def next_in_closed_loop(candidate: Candidate) -> None:
    """From below, from above, in small steps: ends within half a direction."""
    for start, target, gain in (
        (1.0, 8000.0, 0.5),
        (40.0, 8000.0, 0.5),
        (4.0, 5000.0, 0.1),
    ):
        x, sent = steps_of_a_plant(candidate, start, target, gain, steps=80)
        if abs(sent - target) > 640:
            raise CheckFailed(
                f"from x = {start:g}, gain {gain:g}, 80 steps of a method with 640 "
                f"bytes a direction and 1500 besides: about {target:g} bytes a step",
                f"{sent:g} bytes at x = {x:.4g}",
            )


def next_wrong_way(x, measured, target, gain):
    return max(1.0, x * (1 + gain * (measured - target) / target))


def next_share_of_measured(x, measured, target, gain):
    return max(1.0, x * (1 + gain * (target - measured) / measured))


def next_not_times_x(x, measured, target, gain):
    return max(1.0, x + gain * (target - measured) / target)


def next_in_bytes(x, measured, target, gain):
    return max(1.0, x + gain * (target - measured))


def next_forgets_x(x, measured, target, gain):
    return max(1.0, gain * x * (target - measured) / target)


def next_by_proportion(x, measured, target, gain):
    return max(1.0, x * target / measured)


def next_rounded(x, measured, target, gain):
    return max(1, round(x * (1 + gain * (target - measured) / target)))


def next_below_one(x, measured, target, gain):
    return x * (1 + gain * (target - measured) / target)


NEXT = Exercise(
    id="4.6",
    title="a budget of bytes",
    minutes=6,
    difficulty=1,
    ours=next_directions,
    group=one_number,
    checks=(
        ("by hand", next_by_hand),
        ("at least one", next_at_least_one),
        ("closed loop", next_in_closed_loop),
    ),
    probes=next_probes,
    wrong=(
        WrongAnswer(
            "wrong way",
            next_wrong_way,
            "the controller goes the wrong way: too many bytes make it ask for more.",
            1,
        ),
        WrongAnswer(
            "share of measured",
            next_share_of_measured,
            "the error is divided by what was measured. It is a share of the target.",
            1,
        ),
        WrongAnswer(
            "not times x",
            next_not_times_x,
            "the correction is not multiplied by x: 50% too many bytes would take "
            "away half a direction, of 4 as of 64.",
            2,
        ),
        WrongAnswer(
            "in bytes",
            next_in_bytes,
            "an error in bytes is added to a number of directions: make it a share "
            "of the target first.",
            1,
        ),
        WrongAnswer(
            "forgets x",
            next_forgets_x,
            "only the correction is returned. Add it to x: an integral controller "
            "goes on from where it is.",
            2,
        ),
        WrongAnswer(
            "by proportion",
            next_by_proportion,
            "x is scaled to the target in one step, whatever the gain. That trusts "
            "all bytes to grow with x, and one noisy measurement throws it off.",
            2,
        ),
        WrongAnswer(
            "rounded",
            next_rounded,
            "x is rounded. A small error then never moves it: keep the fraction, "
            "and round where directions are counted.",
            3,
        ),
        WrongAnswer(
            "below one",
            next_below_one,
            "with three times the target and a gain of 0.5 the factor is below 0. "
            "At least 1 direction is always sent.",
            3,
        ),
    ),
    hints=(
        "The relative error is (target - measured) / target: above 0 while there are "
        "bytes to spare.",
        "gain times the error is the share of x that is added to x.",
        "`max` keeps the result at 1 or more. Do not round it.",
    ),
)

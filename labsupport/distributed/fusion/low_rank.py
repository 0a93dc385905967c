"""Low-rank fusion: each matrix travels as two thin factors.

For a matrix of M x N and r directions, with u_i what worker i would send
(PowerSGD, arXiv 1905.13727, Algorithms 1 and 2):

    P = orth( mean_i u_i Q )         all-reduce of M r numbers
    R_i = u_i' P,  R = mean_i R_i    all-reduce of N r numbers
    g_fused = P R'                   the same on all workers
    e_i <- u_i - P R_i'              stays with worker i
    Q <- R                           for the next step: a warm start

Every step of this is linear in u_i, so the factors of all workers can be added up on
their way, and what a worker sends does not grow with W.

The residual is what worker i did not contribute. PowerSGD's own code keeps u_i - P R'
instead, what was not fused. Its mean over workers is the same. But how a worker's
gradients differ from the mean is then never sent, so it adds up in its residual without
bound, and the factors of these large numbers are what bfloat16 rounds.

One more number for each direction travels with R: the mean energy of the workers,

    Ebar_j = mean_i |R_ij|^2          sigma_j^2 = |R_j|^2
    signal_j = (W sigma_j^2 - Ebar_j) / (W - 1)       coherence_j = sigma_j^2 / Ebar_j

If R_ij = s_j + noise, independent from worker to worker, signal_j estimates |s_j|^2
without bias: it says which directions are *significant*. The coherence is 1 where all
workers send the same, so that all but one are *redundant*, and 1 / W where they send
nothing but noise. (The estimator is that of the gradient noise scale, arXiv 1812.06162,
Appendix A.1, for each direction.) Here P comes from the same gradients and leans
toward their noise, so both numbers are somewhat too high; from step to step, and from
matrix to matrix, they can be compared. They come from reduced numbers: all workers
compute the same and decide the same, without another message.

Parameters with more than two axes are stacks of matrices: experts, for instance.
Vectors, and matrices that would take more bytes as factors, travel whole.

Shape suffixes: G parameters of one shape, K matrices of a stack, M rows, N columns, r
directions of one.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from labsupport.distributed.fusion.budget import (
    Demand,
    allocate_at_random,
    allocate_by_signal,
)
from labsupport.distributed.fusion.hook import Fusion
from labsupport.distributed.fusion.message import (
    all_finite,
    all_reduce_bytes,
    all_reduce_mean,
)
from labsupport.errors import LabError

Residual = Literal["own", "fused"]
Allocation = Literal["uniform", "signal", "random"]
ALLOCATIONS = ("uniform", "signal", "random")


def stack_of(shape: torch.Size) -> tuple[int, int, int]:
    """(K, M, N) of a parameter with two axes or more."""
    return shape[:-2].numel(), shape[-2], shape[-1]


def most_directions(shape: torch.Size) -> int:
    """The largest r at which factors are smaller than the matrix: r (M + N) < M N.

    0 for vectors, and for matrices so thin that one direction is no saving.
    """
    if len(shape) < 2:
        return 0
    _, M, N = stack_of(shape)
    return min((M * N - 1) // (M + N), M, N)


def orthonormal(p_KMr: Tensor) -> Tensor:
    """The columns of each matrix, made orthonormal."""
    return torch.linalg.qr(p_KMr).Q


@dataclass
class Group:
    """Parameters of one shape and as many directions, on their way together.

    One product of a group costs little more than one of a single parameter.

    Attributes:
        names: of the parameters.
        u_GKMN: what this worker would send.
        q_GKNr: the directions that it is projected on.
    """

    names: list[str]
    u_GKMN: Tensor
    q_GKNr: Tensor

    def project(self) -> Tensor:
        """u Q, of shape (G, K, M, r)."""
        return self.u_GKMN @ self.q_GKNr

    def expand(self, p_GKMr: Tensor) -> Tensor:
        """u' P, of shape (G, K, N, r)."""
        return self.u_GKMN.mT @ p_GKMr


class LowRankFusion(Fusion):
    """Factors instead of matrices, with error feedback.

    With allocation="uniform" this is PowerSGD, its factors in `dtype`.

    Attributes:
        r: the directions of each parameter, by name; 0 where it travels whole.
        signal, coherence: of each direction, running means over steps.

    Args:
        r: directions of every matrix, where it has so many.
        dtype: what factors and vectors travel as.
        allocation: "uniform"; "signal": every `every` steps directions move to where
            a byte carries the most signal; "random": they move, but anywhere. All
            three send the same bytes.
        every: steps between two allocations.
        residual: "own", u_i - P R_i', or "fused", u_i - P R', as PowerSGD has it.
        seed: of the first directions, the same on all ranks.
        options: those of `Fusion`.

    Raises:
        LabError: r below 1, an unknown allocation or an unknown residual.
    """

    def __init__(
        self,
        r: int = 4,
        dtype: torch.dtype = torch.bfloat16,
        allocation: Allocation = "uniform",
        every: int = 25,
        residual: Residual = "own",
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if r < 1:
            raise LabError(
                f"r={r}: with no directions nothing would be sent; use at least 1."
            )
        if allocation not in ALLOCATIONS:
            raise LabError(
                f"allocation={allocation!r}: choose one of {', '.join(ALLOCATIONS)}."
            )
        self.uniform_r, self.dtype = r, dtype
        if residual not in ("own", "fused"):
            raise LabError(f"residual={residual!r}: choose own or fused.")
        self.allocation, self.every, self.seed = allocation, every, seed
        self.residual_of = residual
        self.r: dict[str, int] = {}
        self.signal: dict[str, Tensor] = {}
        self.coherence: dict[str, Tensor] = {}

    # --- a step -------------------------------------------------------------------

    def fuse(self, named: dict[str, Tensor]) -> bool:
        groups = self.groups({n: g for n, g in named.items() if self.directions(n)})
        whole = {
            name: self.with_residual(name, gradient)
            for name, gradient in named.items()
            if not self.directions(name)
        }
        first = [group.project() for group in groups] + list(whole.values())
        mine, mean = all_reduce_mean(first, self.dtype, self.dist, self.group)
        if not all_finite(mean):
            return False
        for (name, u), sent, fused in zip(
            whole.items(), mine[len(groups) :], mean[len(groups) :], strict=True
        ):
            taken = sent if self.residual_of == "own" else fused
            self.keep_residual(name, u - taken)
            named[name].copy_(fused)
        if groups:
            self.second_message(named, groups, mean)
        return True

    def groups(self, named: dict[str, Tensor]) -> list[Group]:
        """Parameters of one shape and as many directions, put together."""
        alike: dict[tuple[torch.Size, int], list[str]] = {}
        for name, gradient in named.items():
            alike.setdefault((gradient.shape, self.directions(name)), []).append(name)
        found = []
        for (shape, _), names in alike.items():
            K, M, N = stack_of(shape)
            u_GKMN = torch.stack([named[name].view(K, M, N) for name in names]).float()
            u_GKMN *= self.weight
            for u_KMN, name in zip(u_GKMN, names, strict=True):
                if (kept := self.residual(name)) is not None:
                    u_KMN += kept.view(K, M, N)
            q_GKNr = torch.stack(
                [self.directions_of(name, u_GKMN[0]) for name in names]
            )
            found.append(Group(names, u_GKMN, q_GKNr))
        return found

    def second_message(
        self, named: dict[str, Tensor], groups: list[Group], mean: list[Tensor]
    ) -> None:
        """R, and what it says about each direction."""
        p = [orthonormal(m) for m in mean[: len(groups)]]
        r_i = [group.expand(m) for group, m in zip(groups, p, strict=True)]
        energies = [energy(part) for part in r_i]
        mine, mean = all_reduce_mean(r_i + energies, self.dtype, self.dist, self.group)
        for group, p_GKMr, sent_GKNr, r_GKNr, energy_Gr in zip(
            groups, p, mine, mean, mean[len(groups) :], strict=False
        ):
            fused_GKMN = p_GKMr @ r_GKNr.mT
            residual_GKMN = group.u_GKMN  # large: what is new is taken off in place
            if self.residual_of == "own":
                product = (p_GKMr.flatten(0, 1), sent_GKNr.mT.flatten(0, 1))
                residual_GKMN.flatten(0, 1).baddbmm_(*product, alpha=-1)
            else:
                residual_GKMN -= fused_GKMN
            for name, fused_KMN, residual_KMN in zip(
                group.names, fused_GKMN, residual_GKMN, strict=True
            ):
                self.keep_residual(name, residual_KMN.view_as(named[name]))
                named[name].copy_(fused_KMN.view_as(named[name]))
            self.learn(group, r_GKNr, energy_Gr)

    def learn(self, group: Group, r_GKNr: Tensor, energy_Gr: Tensor) -> None:
        """Signal, coherence, and the directions of the next step."""
        signal_Gr, coherence_Gr = judge_directions(
            energy(r_GKNr), energy_Gr, self.workers
        )
        smooth(self.signal, group.names, signal_Gr)
        smooth(self.coherence, group.names, coherence_Gr)
        # Turned so that its columns are orthogonal, the strongest first: then the
        # directions are those of R's singular vectors, and stay where they are.
        turn_GKrr = torch.linalg.eigh(r_GKNr.mT @ r_GKNr).eigenvectors.flip(-1)
        turned_GKNr = r_GKNr @ turn_GKrr
        length_GK1r = turned_GKNr.norm(dim=-2, keepdim=True)
        there = length_GK1r > 0  # an expert that nobody visited keeps its directions
        next_GKNr = torch.where(
            there, turned_GKNr / length_GK1r.where(there, 1.0), group.q_GKNr
        )
        for name, next_KNr in zip(group.names, next_GKNr, strict=True):
            self.memory[name]["q"] = next_KNr

    # --- directions ------------------------------------------------------------------

    def directions(self, name: str) -> int:
        """r of a parameter."""
        if name not in self.r:
            self.r[name] = min(self.uniform_r, most_directions(self.shapes[name]))
        return self.r[name]

    def directions_of(self, name: str, u_KMN: Tensor) -> Tensor:
        """q_KNr: those of the last step; random ones where there are more now."""
        (K, _, N), r = u_KMN.shape, self.directions(name)
        kept = self.memory.get(name, {}).get("q")
        have = 0 if kept is None else kept.shape[-1]
        if have < r:
            # The same on all ranks, and others for each parameter.
            key = zlib.crc32(f"{self.seed} {name} {have}".encode())
            generator = torch.Generator().manual_seed(key)
            random_KNr = torch.randn(K, N, r - have, generator=generator)
            fresh = orthonormal(random_KNr).to(u_KMN.device)
            kept = fresh if kept is None else torch.cat([kept, fresh], dim=-1)
        assert kept is not None
        self.memory.setdefault(name, {})["q"] = kept[..., :r].contiguous()
        return self.memory[name]["q"]

    def demands(self) -> list[Demand]:
        """What each matrix costs for a direction, and what its directions carry."""
        found = []
        for name, shape in self.shapes.items():
            if self.directions(name):
                K, M, N = stack_of(shape)
                signal_r = self.signal.get(name)
                carried = [] if signal_r is None else signal_r.tolist()
                uniform = min(self.uniform_r, most_directions(shape))
                found.append(
                    Demand(name, K * (M + N), uniform, most_directions(shape), carried)
                )
        return found

    def after_step(self) -> None:
        due = self.step % self.every == 0 and self.step > self.start
        if self.allocation == "uniform" or not due:
            return
        demands = self.demands()
        if self.allocation == "signal":
            changed = allocate_by_signal(demands)
        else:
            changed = allocate_at_random(demands, seed=self.seed + self.step)
        for name, r in changed.items():
            if r != self.r[name]:
                self.r[name] = r
                # Running means of other directions would mean nothing.
                self.signal.pop(name, None)
                self.coherence.pop(name, None)

    def set_uniform(self, r: int) -> None:
        """Another number of directions for all matrices, from the next step on.

        Raises:
            LabError: r below 1.
        """
        if r < 1:
            raise LabError(
                f"r={r}: with no directions nothing would be sent; use at least 1."
            )
        self.uniform_r = r
        self.r.clear()
        self.signal.clear()
        self.coherence.clear()

    # --- bytes and checkpoints ------------------------------------------------------

    def bytes_to_send(self) -> float:
        """Of one worker and step, by the formula: 2 (W - 1) / W times all numbers."""
        numbers = 0
        for name, shape in self.shapes.items():
            r = self.directions(name)
            if r:
                K, M, N = stack_of(shape)
                numbers += K * r * (M + N) + r
            else:
                numbers += shape.numel()
        return all_reduce_bytes(numbers, self.dtype, self.workers)

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        for name in self.r:
            state[f"{name}/r"] = torch.tensor(self.r[name])
            if name in self.signal:
                state[f"{name}/signal"] = self.signal[name]
                state[f"{name}/coherence"] = self.coherence[name]
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self.r, self.signal, self.coherence = {}, {}, {}
        for name, kept in self.memory.items():
            if "r" in kept:
                self.r[name] = int(kept.pop("r"))
            if "signal" in kept:
                self.signal[name] = kept.pop("signal")
                self.coherence[name] = kept.pop("coherence")
        self.memory = {name: kept for name, kept in self.memory.items() if kept}


def energy(r_GKNr: Tensor) -> Tensor:
    """Squared length of each direction, over a whole stack: of shape (G, r)."""
    return r_GKNr.square().sum(dim=(-3, -2))


def judge_directions(
    sigma2_r: Tensor, energy_r: Tensor, W: int
) -> tuple[Tensor, Tensor]:
    """Signal and coherence of each direction.

    The signal is `labsupport.train.noise_scale.two_batch_estimate` for tensors, with
    batches of one worker and of all.

    Args:
        sigma2_r: squared length of the workers' mean.
        energy_r: mean of the workers' squared lengths.
        W: how many workers; a single one cannot tell signal from noise.
    """
    signal_r = sigma2_r if W == 1 else (W * sigma2_r - energy_r) / (W - 1)
    return signal_r, sigma2_r / energy_r.clamp(min=torch.finfo(torch.float32).tiny)


def smooth(
    means: dict[str, Tensor], names: list[str], value_Gr: Tensor, decay: float = 0.9
) -> None:
    """Running means by name, in place; each begins with its first value."""
    named = zip(names, value_Gr, strict=True)
    before_Gr = torch.stack([means.get(n, v) for n, v in named])
    after_Gr = decay * before_Gr + (1 - decay) * value_Gr
    means.update(zip(names, after_Gr.unbind(), strict=True))

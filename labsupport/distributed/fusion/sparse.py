"""Sparse fusion: a few numbers of each parameter travel, with their places.

    top-k       the k largest of every parameter (Stich et al., arXiv 1809.07599)
    threshold   all that reach lambda (Sahu et al., arXiv 2108.00951)
    random      any k: the control

What is not sent stays in the residual. Every worker picks other places, so what they
send cannot be added up on its way: an all_gather brings everything to everybody, and
its bytes grow with W, where an all-reduce's do not. A number takes 2 bytes in bfloat16,
and its place 4. Random places come from a seed that all workers share: they need not
travel, and the numbers can be added up.

Shape suffixes: n numbers of a parameter, k sent ones, W workers.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from labsupport.distributed.fusion.hook import Fusion
from labsupport.distributed.fusion.message import (
    all_finite,
    all_reduce_bytes,
    all_reduce_mean,
)
from labsupport.errors import LabError


def check_share(share: float) -> None:
    """Refuse a share that is not above 0 and at most 1.

    Raises:
        LabError: it is not.
    """
    if not 0 < share <= 1:
        raise LabError(
            f"share={share:g} of the numbers to send: use one above 0, and at most 1."
        )


class SparseFusion(Fusion):
    """What top-k and threshold share: places and numbers go to everybody.

    Attributes:
        sent: how many numbers this worker sent in the last step.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16, **options: Any) -> None:
        super().__init__(**options)
        self.dtype, self.sent, self._sending = dtype, 0, 0

    def choose(self, name: str, u_n: Tensor) -> Tensor:
        """index_k, int64: which numbers are sent."""
        raise NotImplementedError

    def fuse(self, named: dict[str, Tensor]) -> bool:
        u = {
            name: self.with_residual(name, gradient).flatten()
            for name, gradient in named.items()
        }
        offsets, total = {}, 0
        for name, u_n in u.items():
            offsets[name] = total
            total += u_n.numel()
        finite = all_finite(u.values())
        index = {name: self.choose(name, u_n) for name, u_n in u.items()}
        places_k = torch.cat([offsets[n] + index_k for n, index_k in index.items()])
        values_k = torch.cat([u[n][index_k] for n, index_k in index.items()])
        fused = self.gather(
            places_k.to(torch.int32), values_k.to(self.dtype), total, finite
        )
        if fused is None:
            return False
        for name, u_n in u.items():
            sent_k = u_n[index[name]].to(self.dtype).float()
            u_n[index[name]] -= sent_k
            self.keep_residual(name, u_n.view_as(named[name]))
            part_n = fused[offsets[name] : offsets[name] + u_n.numel()]
            named[name].copy_(part_n.view_as(named[name]))
        self._sending += len(places_k)
        return True

    def gather(
        self, places_k: Tensor, values_k: Tensor, total: int, finite: bool
    ) -> Tensor | None:
        """The mean over workers, whole; None if one of them has no finite gradient."""
        W, device = self.workers, places_k.device
        # A worker whose gradient is not finite says so by a count below 0.
        mine = torch.tensor([len(places_k) if finite else -1], device=device)
        counts_W = torch.empty(W, dtype=torch.int64, device=device)
        self.dist.all_gather_single(counts_W, mine, group=self.group)
        if int(counts_W.min()) < 0:
            return None
        # Messages of an all_gather are equally long: the longest decides.
        longest = int(counts_W.max())
        padding = longest - len(places_k)
        places = torch.nn.functional.pad(places_k, (0, padding))
        values = torch.nn.functional.pad(values_k, (0, padding))
        places_Wk = places.new_empty(W * longest)
        values_Wk = values.new_empty(W * longest)
        self.dist.all_gather_single(places_Wk, places, group=self.group)
        self.dist.all_gather_single(values_Wk, values, group=self.group)
        fused = torch.zeros(total, device=device)
        # One worker after the other: in this order on all ranks, to the same bits.
        for w in range(W):
            some = slice(w * longest, w * longest + int(counts_W[w]))
            fused[places_Wk[some].long()] += values_Wk[some].float()
        return fused / W

    def after_step(self) -> None:
        self.sent, self._sending = self._sending, 0

    def bytes_to_send(self, buckets: int = 1) -> float:
        """Of one worker, by the formula, if all workers send as many as this one did.

        Args:
            buckets: each takes a count of 8 bytes.
        """
        item = 4 + self.dtype.itemsize
        return (self.workers - 1) * (item * self.sent + 8 * buckets)


class TopKFusion(SparseFusion):
    """The largest numbers of every parameter.

    Args:
        share: of the numbers of a parameter; at least one is sent.
        dtype: what numbers travel as; their places are int32.
        options: those of `Fusion`.

    Raises:
        LabError: a share outside (0, 1].
    """

    def __init__(
        self, share: float, dtype: torch.dtype = torch.bfloat16, **options: Any
    ) -> None:
        check_share(share)
        super().__init__(dtype, **options)
        self.share = share

    def choose(self, name: str, u_n: Tensor) -> Tensor:
        k = max(1, round(self.share * u_n.numel()))
        return u_n.abs().topk(k, sorted=False).indices


class ThresholdFusion(SparseFusion):
    """All numbers whose size reaches a threshold; in quiet steps there are none.

    Args:
        threshold: lambda.
        dtype: what numbers travel as; their places are int32.
        options: those of `Fusion`.

    Raises:
        LabError: a threshold that is not above 0.
    """

    def __init__(
        self, threshold: float, dtype: torch.dtype = torch.bfloat16, **options: Any
    ) -> None:
        if not threshold > 0:
            raise LabError(
                f"threshold={threshold:g}: use one above 0; at 0 everything is sent."
            )
        super().__init__(dtype, **options)
        self.threshold = threshold

    def choose(self, name: str, u_n: Tensor) -> Tensor:
        return (u_n.abs() >= self.threshold).nonzero().flatten()


class RandomFusion(Fusion):
    """Numbers at random places, the same on all workers, so that they add up.

    Args:
        share: of the numbers of a parameter; at least one is sent.
        dtype: what they travel as.
        seed: of the places.
        options: those of `Fusion`.

    Raises:
        LabError: a share outside (0, 1].
    """

    def __init__(
        self,
        share: float,
        dtype: torch.dtype = torch.bfloat16,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_share(share)
        super().__init__(**options)
        self.share, self.dtype, self.seed = share, dtype, seed

    def choose(self, name: str, n: int) -> Tensor:
        """index_k, int64: drawn anew at every step."""
        k = max(1, round(self.share * n))
        key = zlib.crc32(f"{self.seed} {name} {self.step}".encode())
        return torch.randperm(n, generator=torch.Generator().manual_seed(key))[:k]

    def fuse(self, named: dict[str, Tensor]) -> bool:
        u = {n: self.with_residual(n, g).flatten() for n, g in named.items()}
        index = {n: self.choose(n, u_n.numel()).to(u_n.device) for n, u_n in u.items()}
        # One number more says whether all of this worker's are finite.
        finite = all_finite(u.values())
        flag = next(iter(u.values())).new_tensor([0.0 if finite else torch.nan])
        parts = [*(u[n][index_k] for n, index_k in index.items()), flag]
        mine, mean = all_reduce_mean(parts, self.dtype, self.dist, self.group)
        if not all_finite(mean):
            return False
        for name, sent_k, fused_k in zip(named, mine, mean, strict=False):
            u_n = u[name]
            u_n[index[name]] -= sent_k
            self.keep_residual(name, u_n.view_as(named[name]))
            whole_n = torch.zeros_like(u_n)
            whole_n[index[name]] = fused_k
            named[name].copy_(whole_n.view_as(named[name]))
        return True

    def bytes_to_send(self, buckets: int = 1) -> float:
        """Of one worker and step, by the formula."""
        numbers = sum(
            max(1, round(self.share * shape.numel())) for shape in self.shapes.values()
        )
        return all_reduce_bytes(numbers + buckets, self.dtype, self.workers)

"""Ways to sum the gradients of copies of a model; all give the same gradients.

per_gradient  after the backward one message for each gradient
one_message   after the backward one message for all of them
buckets       DDP: a message for each bucket, as soon as the backward has filled it
every_piece   the rows are computed in pieces, and DDP sums after each of them
last_piece    the same, but DDP's no_sync lets it sum after the last one only
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from labsupport.distributed.parallel.engine import token_loss
from labsupport.errors import LabError

BY_HAND = ("per_gradient", "one_message")
BY_DDP = ("buckets", "every_piece", "last_piece")
WAYS = (*BY_HAND, *BY_DDP)


class Copies:
    """This rank's copy of a model.

    Args:
        model: tokens_bT -> logits_bTV; the same weights on all ranks.
        way: one of WAYS.
        bucket_cap_mb: the size of DDP's buckets in MiB.
        pieces: into how many every_piece and last_piece cut the rows.

    Raises:
        LabError: an unknown way.
    """

    def __init__(
        self,
        model: nn.Module,
        way: str,
        *,
        bucket_cap_mb: float = 1.0,
        pieces: int = 4,
    ) -> None:
        if way not in WAYS:
            raise LabError(f"way={way!r}: use one of {', '.join(WAYS)}.")
        self.way, self.weights = way, list(model.parameters())
        self.pieces = pieces if way.endswith("piece") else 1
        self.model = model
        if way in BY_DDP:
            self.model = DistributedDataParallel(
                model, bucket_cap_mb=bucket_cap_mb, forward_sync_buffers=False
            )

    def backward(self, tokens_bT: Tensor, targets_bT: Tensor) -> Tensor:
        """The loss of this rank's rows; gradients are those of all ranks' rows.

        Raises:
            LabError: rows that cannot be cut into equal pieces.
        """
        if len(tokens_bT) % self.pieces:
            raise LabError(
                f"{len(tokens_bT)} rows cannot be cut into {self.pieces} equal pieces: "
                f"use a multiple of {self.pieces}."
            )
        pairs = zip(
            tokens_bT.chunk(self.pieces), targets_bT.chunk(self.pieces), strict=True
        )
        total = torch.zeros((), device=tokens_bT.device)
        for piece, (tokens, targets) in enumerate(pairs):
            with self._quiet(piece):
                loss = token_loss(self.model(tokens), targets) / self.pieces
                loss.backward()
            total += loss.detach()
        if self.way in BY_HAND:
            self._sum_by_hand()
        return total

    def _quiet(self, piece: int) -> Any:
        """Keeps DDP from summing after a piece that others follow."""
        if self.way == "last_piece" and piece < self.pieces - 1:
            return cast(DistributedDataParallel, self.model).no_sync()
        return nullcontext()

    def _sum_by_hand(self) -> None:
        grads = [cast(Tensor, p.grad) for p in self.weights]
        W = dist.get_world_size()
        if self.way == "per_gradient":
            for g in grads:
                dist.all_reduce(g)
                g /= W
        else:
            message = parameters_to_vector(grads)
            dist.all_reduce(message)
            vector_to_parameters(message / W, grads)

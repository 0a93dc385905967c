"""AdaSum: a sum where workers' gradients are orthogonal, a mean where they agree.

Two gradients a and b of a parameter become (arXiv 2006.02924, section 3)

    (1 - a.b / (2 |a|^2)) a  +  (1 - a.b / (2 |b|^2)) b

For a = b that is a; for orthogonal ones it is a + b. More than two workers are paired
up as in a tournament. So the result is up to W times as long as the mean, and whatever
else looks at its length, clipping for instance, does something else than before.

Here every worker gets all gradients and plays the whole tournament: the numbers are
AdaSum's, the traffic is not (a real one halves its vectors at each round).
"""

from __future__ import annotations

import torch
from torch import Tensor

from labsupport.distributed.fusion import Fusion
from labsupport.distributed.fusion.message import all_reduce_bytes


def adasum(a: Tensor, b: Tensor) -> Tensor:
    """Two gradients of one parameter, in float32."""
    dot = (a * b).sum()
    tiny = torch.finfo(torch.float32).tiny
    of_a = 1 - dot / (2 * a.square().sum()).clamp(min=tiny)
    of_b = 1 - dot / (2 * b.square().sum()).clamp(min=tiny)
    return of_a * a + of_b * b


def tournament(gradients: list[Tensor]) -> Tensor:
    """AdaSum of the gradients of any number of workers, neighbours first."""
    while len(gradients) > 1:
        paired = [
            adasum(a, b)
            for a, b in zip(gradients[::2], gradients[1::2], strict=False)
        ]
        gradients = paired + gradients[2 * len(paired) :]
    return gradients[0]


class AdaSumFusion(Fusion):
    """Each parameter's gradients play a tournament."""

    def fuse(self, named: dict[str, Tensor]) -> bool:
        for gradient in named.values():
            everyone = [
                torch.empty_like(gradient) for _ in range(self.workers)
            ]
            mine = (self.weight * gradient).contiguous()
            self.dist.all_gather(everyone, mine, group=self.group)
            gradient.copy_(tournament(everyone))
        return True

    def bytes_to_send(self) -> float:
        """Of a real AdaSum, which halves its vectors: as an all-reduce."""
        numbers = sum(shape.numel() for shape in self.shapes.values())
        return all_reduce_bytes(numbers, torch.float32, self.workers)

"""How much a chain of maps can amplify, and what is left of the lanes.

Shape suffixes: L maps in the order in which the stream meets them, n lanes,
M tokens. `res_Lnn[l] @ x` is what map l makes of the lanes x.

The composite map of a chain is the product of its maps, the last one leftmost.
Its gains are the paper's (mHC, figure 3): the largest absolute row sum bounds how
much a signal can grow on its way forward, the largest absolute column sum how
much a gradient can grow on its way back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.nn.hyper_connections import Lanes


@dataclass(frozen=True)
class Gains:
    """What a composite map does, after each of its L maps.

    Attributes:
        forward: largest absolute row sum; 1 for a plain residual.
        backward: largest absolute column sum.
        least: smallest absolute column sum: a lane that nothing reaches any more
            gets no gradient either, and the largest sum cannot show it.
        mixed: second over first singular value. Near 0 all lanes have become
            one, n times; 1 keeps them apart.
    """

    forward: list[float]
    backward: list[float]
    least: list[float]
    mixed: list[float]

    def as_dict(self) -> dict[str, list[float]]:
        return asdict(self)


def composite_gains(res_Lnn: Tensor) -> Gains:
    """The gains of maps 1 to l, for every l up to L. Computed in float64.

    Raises:
        LabError: no maps, maps that are not square, or not finite.
    """
    if res_Lnn.ndim != 3 or res_Lnn.shape[1] != res_Lnn.shape[2]:
        raise LabError(
            f"composite_gains: maps have shape (L, n, n); got {tuple(res_Lnn.shape)}."
        )
    if not len(res_Lnn):
        raise LabError(
            "composite_gains: a gain over zero layers has no meaning."
        )
    if not res_Lnn.isfinite().all():
        raise LabError("composite_gains: a map holds NaN or infinity.")
    n = res_Lnn.shape[1]
    product_nn = torch.eye(n, dtype=torch.float64)
    rows: list[list[float]] = []
    for res_nn in res_Lnn.double().cpu():
        product_nn = res_nn @ product_nn
        size_nn = product_nn.abs()
        values = torch.linalg.svdvals(product_nn)
        ratio = values[1] / values[0] if n > 1 else torch.ones(())
        columns = size_nn.sum(0)
        each = (size_nn.sum(1).max(), columns.max(), columns.min(), ratio)
        rows.append([float(value) for value in each])
    return Gains(*(list(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def trained_maps(model: GPT, tokens_BT: Tensor) -> Tensor:
    """H_res of every branch, averaged over tokens, as in the paper's figures.

    Returns:
        res_Lnn in float32; for plain residuals the 1 x 1 identity.
    """
    stream = model.blocks[0].attention_residual.expand(
        model.embedding(tokens_BT)
    )
    found = []
    for block in model.blocks:
        for part, branch in (
            (block.attention_residual, block.attend),
            (block.ffn_residual, block.feed_forward),
        ):
            if isinstance(part, Lanes):
                x_MnC = stream.flatten(0, 1).float()
                found.append(part.maps(x_MnC).res_nnM.mean(-1))
            else:
                found.append(torch.ones(1, 1))
            stream = part(stream, branch)
    return torch.stack(found)

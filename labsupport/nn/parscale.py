"""ParScale: P streams through the same weights, and one answer made of theirs.

Each stream reads the same tokens behind a *prefix* of its own: M keys and values in
every layer, trained like weights (prefix tuning). So the streams compute different
things with shared weights, and a small network says for each token how much each of
them counts:

    x_p = f(tokens; prefix_p)                      p = 1 .. P
    w   = (1 - eps) softmax(MLP(x_1, .., x_P)) + eps / P
    x   = w_1 x_1 + .. + w_P x_P                   the output layer reads x

Source: Chen et al., "Parallel Scaling Law for Language Models", arXiv 2505.10475,
section 2 and appendix A (eps = 0.1; the authors' code has 0.01 as its default).

Shape suffixes: P streams, B sequences, T tokens, D width, H heads, K width of a head, M
positions of a prefix, S = M + T positions that a query may see, R rows. In attention
there are R = P B rows, streams first, so that the rows of one stream are neighbours; in
the sum over streams a row is a token, R = B T.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.stream_sum import EPS, MAX_STREAMS, stream_sum, stream_sum_reference
from labsupport.errors import LabError
from labsupport.nn.gpt import GPT, CausalSelfAttention, GPTConfig

PREFIX_SPREAD = 0.02
"""Standard deviation of a new prefix, small as the authors' new weights are: streams
begin nearly alike, and learn to differ. In a pilot of 1000 steps 0.3, 1 and 3 ended
higher."""

Aggregate = Callable[[Tensor, Tensor, float], Tensor]
"""As `aggregate_streams`."""


def stream_weights(logits_BTP: Tensor, eps: float = EPS) -> Tensor:
    """How much each stream counts: a softmax, of which eps is shared out evenly.

    Args:
        logits_BTP: scores, in any floating dtype.
        eps: from 0 (a plain softmax) to 1 (all alike). Above 0 no stream is forgotten:
            each keeps at least eps / P, and a gradient.

    Returns:
        w_BTP, float32 at least; those of a token sum to 1.
    """
    number = torch.promote_types(logits_BTP.dtype, torch.float32)
    w_BTP = torch.softmax(logits_BTP.to(number), dim=-1)
    return (1 - eps) * w_BTP + eps / logits_BTP.shape[-1]


def aggregate_streams(x_PBTD: Tensor, logits_BTP: Tensor, eps: float = EPS) -> Tensor:
    """The weighted sum over streams, x_BTD (arXiv 2505.10475, section 2).

    On a GPU it is the kernel of kernels/stream_sum.py, for up to eight streams.
    """
    x_PRD, logits_RP = x_PBTD.flatten(1, 2), logits_BTP.flatten(0, 1)
    if x_PBTD.dtype == torch.float64 or len(x_PBTD) > MAX_STREAMS:
        y_RD = stream_sum_reference(x_PRD, logits_RP, eps)  # the kernel has neither
    else:
        y_RD = stream_sum(x_PRD, logits_RP.float(), eps)
    return y_RD.unflatten(0, x_PBTD.shape[1:3])


def in_one_process(x_PBTD: Tensor) -> Tensor:
    """All streams are here already."""
    return x_PBTD


class PrefixAttention(CausalSelfAttention):
    """Attention in which each stream also sees the keys and values of its prefix.

    A prefix has no positions: it is not turned. Every token sees all of it.

    Attributes:
        prefix_2PHMK: keys, then values, of every stream.
        mine: the streams whose rows come in; all of them in one process.
    """

    def __init__(
        self,
        config: GPTConfig,
        linear: Callable[..., nn.Module] = nn.Linear,
        *,
        streams: int,
        prefix: int,
    ) -> None:
        super().__init__(config, linear)
        shape = (2, streams, config.n_heads, prefix, config.d_head)
        # Zeros draw no random numbers: `ParScale` fills them in when the shared
        # weights are made, which so are the same for any number of streams.
        self.prefix_2PHMK = nn.Parameter(torch.zeros(shape))
        self.mine = slice(0, streams)

    def mix(self, q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        prefix_2PHMK = self.prefix_2PHMK[:, self.mine]
        _, P, _, M, _ = prefix_2PHMK.shape
        if M == 0:
            return super().mix(q_BHTK, k_BHTK, v_BHTK)
        R, _, T, _ = q_BHTK.shape
        prefix_2RHMK = prefix_2PHMK.repeat_interleave(R // P, dim=1)
        k_RHSK = torch.cat([prefix_2RHMK[0], k_BHTK], dim=2)
        v_RHSK = torch.cat([prefix_2RHMK[1], v_BHTK], dim=2)
        # `is_causal` would align the mask with the first key, which is a prefix's.
        sees_TS = torch.ones(T, M + T, dtype=torch.bool, device=q_BHTK.device).tril(M)
        return F.scaled_dot_product_attention(q_BHTK, k_RHSK, v_RHSK, attn_mask=sees_TS)


class Aggregator(nn.Module):
    """Scores of all streams from what all streams say: two layers with SiLU."""

    def __init__(self, d_model: int, streams: int) -> None:
        super().__init__()
        self.read = nn.Linear(streams * d_model, d_model)
        self.score = nn.Linear(d_model, streams)

    def forward(self, x_PBTD: Tensor) -> Tensor:
        """logits_BTP."""
        return self.score(F.silu(self.read(x_PBTD.movedim(0, -2).flatten(-2))))


class ParScale(GPT):
    """A `GPT` of which P streams run side by side, folded into the batch.

    One stream without a prefix is the plain GPT. Shared weights made from one seed are
    the same for every P.

    Args:
        config: the shape of the shared weights.
        streams: P.
        prefix: M, positions of each prefix; 0 for none. Then all streams are alike, and
            all that P of them change is the bill.
        eps: of `stream_weights`.
        aggregate: how streams become one; a lab puts a reader's own function here.
        parts: those of `GPT`, its attention excepted.

    Attributes:
        aggregator: makes the scores; None for one stream.
        gather: brings the streams of all ranks together; nothing to do in one process
            (see labsupport/distributed/stream_parallel.py).

    Raises:
        LabError: fewer than one stream, a prefix below 0, eps outside 0 to 1.
    """

    def __init__(
        self,
        config: GPTConfig,
        streams: int = 4,
        *,
        prefix: int = 8,
        eps: float = EPS,
        aggregate: Aggregate = aggregate_streams,
        **parts: Any,
    ) -> None:
        if streams < 1:
            raise LabError(f"streams={streams}: use at least 1.")
        if prefix < 0:
            raise LabError(f"prefix={prefix}: use 0 (none) or more positions.")
        if not 0 <= eps <= 1:
            raise LabError(f"eps={eps}: use a number from 0 to 1.")
        attention = partial(PrefixAttention, streams=streams, prefix=prefix)
        super().__init__(config, attention=attention, **parts)
        self.streams, self.prefix, self.eps = streams, prefix, eps
        self.aggregate = aggregate
        self.gather: Callable[[Tensor], Tensor] = in_one_process
        self.mine = slice(0, streams)
        self.aggregator = Aggregator(config.d_model, streams) if streams > 1 else None
        for layer in self.prefix_attentions():
            nn.init.normal_(layer.prefix_2PHMK, std=PREFIX_SPREAD)

    def prefix_attentions(self) -> list[PrefixAttention]:
        """Of all blocks, in order."""
        return [m for m in self.modules() if isinstance(m, PrefixAttention)]

    def compute_only(self, mine: slice) -> None:
        """Leave the other streams to others, who have to be gathered then.

        Args:
            mine: which of the P streams.
        """
        self.mine = mine
        for layer in self.prefix_attentions():
            layer.mine = mine

    def run_streams(self, x_BTD: Tensor) -> Tensor:
        """What each stream makes of the embeddings: x_PBTD, after the last norm."""
        P = len(range(self.streams)[self.mine])
        x_RTD = x_BTD.repeat(P, 1, 1)
        return super().hidden(x_RTD).unflatten(0, (P, -1))

    def hidden(self, x_BTD: Tensor) -> Tensor:
        """All streams, gathered and aggregated: x_BTD."""
        x_PBTD = self.gather(self.run_streams(x_BTD))
        if self.aggregator is None:
            return x_PBTD[0]
        return self.aggregate(x_PBTD, self.aggregator(x_PBTD), self.eps)

    def extra_parameters(self) -> int:
        """Prefixes and aggregator: what a plain GPT of this shape does not have."""
        prefixes = sum(m.prefix_2PHMK.numel() for m in self.prefix_attentions())
        own = [] if self.aggregator is None else self.aggregator.parameters()
        return prefixes + sum(p.numel() for p in own)

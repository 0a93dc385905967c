"""The deep exercises of lab 05b, 5.10 and 5.11, and the mistakes they expect.

Shape suffixes: P streams, B sequences, R = P B rows (streams first), H heads, T tokens,
M positions of a prefix, S = M + T, K width of a head.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from labs.lab_05b import inference_bytes
from labs.lab_05b.exercises_core import (
    Arguments,
    Candidate,
    expect_number,
    random,
)
from labsupport.exercise import CheckFailed, Exercise, WrongAnswer
from labsupport.exercise.check import (
    expect_close,
    same_as,
    same_gradient,
    show_values,
)

# --- 5.10 streams in the batch ---------------------------------------------------


def attend_with_prefixes(
    q_RHTK: Tensor,
    k_RHTK: Tensor,
    v_RHTK: Tensor,
    prefix_k_PHMK: Tensor,
    prefix_v_PHMK: Tensor,
) -> Tensor:
    """What each query gathers from its stream's prefix and from tokens so far.

    Args:
        q_RHTK, k_RHTK, v_RHTK: of all rows; the B rows of stream 0 come first, then
            those of stream 1, and so on.
        prefix_k_PHMK, prefix_v_PHMK: keys and values of every stream's prefix.

    Returns:
        mixed_RHTK.
    """
    R, _, T, _ = q_RHTK.shape
    P, _, M, _ = prefix_k_PHMK.shape
    k_RHSK, v_RHSK = (
        torch.cat([prefix.repeat_interleave(R // P, dim=0), own], dim=2)
        for prefix, own in ((prefix_k_PHMK, k_RHTK), (prefix_v_PHMK, v_RHTK))
    )
    sees_TS = torch.ones(T, M + T, dtype=torch.bool).tril(M)
    return F.scaled_dot_product_attention(
        q_RHTK, k_RHSK, v_RHSK, attn_mask=sees_TS.to(q_RHTK.device)
    )


def attend_probes() -> Sequence[Arguments]:
    """Two or three streams of two or three texts; M differs from T."""
    found = []
    for P, B, H, T, M, K in ((2, 3, 2, 4, 3, 4), (3, 2, 1, 5, 2, 2)):
        rows = [random(P * B, H, T, K, seed=P + i) for i in range(3)]
        prefixes = [random(P, H, M, K, seed=P + 5 + i) for i in range(2)]
        found.append((*rows, *prefixes))
    return found


def attend_by_hand(candidate: Candidate) -> None:
    """All keys are 0, so every position that is seen counts alike."""
    zeros = torch.zeros(4, 1, 2, 1)
    v_RHTK = torch.tensor([6.0, 12.0]).view(1, 1, 2, 1).expand(4, -1, -1, -1)
    prefix_v = torch.tensor([[0.0], [30.0]]).view(2, 1, 1, 1)
    came = candidate(
        zeros.clone(),
        zeros.clone(),
        v_RHTK.clone(),
        torch.zeros(2, 1, 1, 1),
        prefix_v,
    )
    wanted = torch.tensor([[3.0, 6.0], [18.0, 16.0]]).repeat_interleave(
        2, dim=0
    )
    asked = (
        "for two streams of two texts with values 6, 12, prefix values 0 and 30 and "
        "all keys 0"
    )
    expect_close(came, wanted.view(4, 1, 2, 1), asked)


def attend_is_causal(candidate: Candidate) -> None:
    q, k, v, *prefixes = attend_probes()[0]
    later_k, later_v = k.clone(), v.clone()
    later_k[:, :, -1] += 1.0
    later_v[:, :, -1] += 1.0
    before, after = (
        candidate(q, *both, *prefixes) for both in ((k, v), (later_k, later_v))
    )
    if not isinstance(before, Tensor) or before.shape != q.shape:
        raise CheckFailed(
            f"a tensor of shape {tuple(q.shape)}", show_values(before)
        )
    expect_close(
        after[:, :, :-1],
        before[:, :, :-1],
        "of earlier tokens the same when the last one changes",
    )


def _attend(  # type: ignore[no-untyped-def]
    spread: Callable[[Tensor, int], Tensor] = lambda x, B: x.repeat_interleave(
        B, dim=0
    ),
    mask: Callable[[int, int], Tensor] = lambda T, M: torch.ones(
        T, M + T, dtype=torch.bool
    ).tril(M),
    prefix_first: bool = True,
    scale: Callable[[int], float] = lambda K: K**-0.5,
):
    def run(q, k, v, prefix_k, prefix_v):  # type: ignore[no-untyped-def]
        B, T = len(q) // len(prefix_k), q.shape[2]
        parts = []
        for prefix, own in ((prefix_k, k), (prefix_v, v)):
            both = [spread(prefix, B), own]
            parts.append(
                torch.cat(both if prefix_first else both[::-1], dim=2)
            )
        return F.scaled_dot_product_attention(
            q,
            *parts,
            attn_mask=mask(T, prefix_k.shape[2]),
            scale=scale(q.shape[-1]),
        )

    return run


def _added(q, k, v, prefix_k, prefix_v):  # type: ignore[no-untyped-def]
    """Two attentions, one over tokens and one over prefixes, summed."""
    B = len(q) // len(prefix_k)
    own = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    spread = (x.repeat_interleave(B, dim=0) for x in (prefix_k, prefix_v))
    return own + F.scaled_dot_product_attention(q, *spread)


ATTEND = Exercise(
    id="5.10",
    title="streams in the batch, each behind its prefix",
    minutes=15,
    difficulty=3,
    ours=attend_with_prefixes,
    checks=(
        ("by hand", attend_by_hand),
        ("random rows", same_as(attend_with_prefixes, attend_probes)),
        ("gradients", same_gradient(attend_with_prefixes, attend_probes)),
        ("no token sees a later one", attend_is_causal),
    ),
    probes=attend_probes,
    wrong=(
        WrongAnswer(
            "prefixes in turn",
            _attend(spread=lambda x, B: x.repeat(B, 1, 1, 1)),
            "prefixes are handed out in turn, 0, 1, 0, 1, so texts of one stream have "
            "different ones. The rows of a stream are neighbours.",
            1,
        ),
        WrongAnswer(
            "first prefix for all",
            _attend(spread=lambda x, B: x[:1].expand(B * len(x), -1, -1, -1)),
            "all streams have the prefix of stream 0, and so all say the same.",
            1,
        ),
        WrongAnswer(
            "mask at the first key",
            _attend(
                mask=lambda T, M: torch.ones(T, M + T, dtype=torch.bool).tril()
            ),
            "the mask begins at the first key, as `is_causal=True` does. That key is a "
            "prefix's: the first token then sees one prefix position, and not itself.",
            2,
        ),
        WrongAnswer(
            "no mask",
            _attend(mask=lambda T, M: torch.ones(T, M + T, dtype=torch.bool)),
            "nothing is hidden: tokens see later ones.",
            2,
        ),
        WrongAnswer(
            "mask as numbers",
            _attend(mask=lambda T, M: torch.ones(T, M + T).tril(M)),
            "the mask holds numbers, and those are added to the scores. It has to be "
            "boolean.",
            2,
        ),
        WrongAnswer(
            "mask turned round",
            _attend(
                mask=lambda T, M: torch.ones(T, M + T, dtype=torch.bool).triu(
                    M + 1
                )
            ),
            "the mask is True where a key is hidden. Here True means seen.",
            2,
        ),
        WrongAnswer(
            "no prefix",
            lambda q, k, v, prefix_k, prefix_v: F.scaled_dot_product_attention(
                q, k, v, is_causal=True
            ),
            "the prefixes are left out.",
            1,
        ),
        WrongAnswer(
            "prefix behind the tokens",
            _attend(prefix_first=False),
            "the prefix stands behind the tokens, and the mask counts it as in front.",
            3,
        ),
        WrongAnswer(
            "itself not seen",
            _attend(
                mask=lambda T, M: torch.ones(T, M + T, dtype=torch.bool).tril(
                    M - 1
                )
            ),
            "a token does not see itself: token t sees M prefix positions and t + 1 "
            "tokens.",
            2,
        ),
        WrongAnswer(
            "not scaled",
            _attend(scale=lambda K: 1.0),
            "scores are not divided by the root of K.",
            3,
        ),
        WrongAnswer(
            "two attentions",
            _added,
            "prefix and tokens have a softmax each, and are summed. They share one "
            "softmax.",
            3,
        ),
    ),
    hints=(
        "Each prefix has to serve B neighbouring rows, and B is R / P: "
        "`repeat_interleave` does that.",
        "Query t may see the M prefix positions and tokens 0 to t. A *boolean* table "
        "of T rows and M + T columns: row t is True in its first M + t + 1 places.",
        "Concatenate prefix and tokens along the axis of positions, once for keys and "
        "once for values, and call `scaled_dot_product_attention` with `attn_mask`.",
    ),
)

# --- 5.11 where the advantage ends ------------------------------------------------


def break_even(
    small_weights: float,
    small_cache: float,
    large_weights: float,
    large_cache: float,
    P: int,
) -> float:
    """Tokens in flight at which P streams and the larger plain model need the same.

    Args:
        small_weights, large_weights: bytes of all weights.
        small_cache, large_cache: bytes of keys and values that a token leaves in one
            stream.
        P: streams of the smaller model.

    Returns:
        texts times length; infinite if that never happens.
    """
    return inference_bytes.break_even(
        small_weights, P * small_cache, large_weights, large_cache
    )


def break_even_probes() -> Sequence[Arguments]:
    return [
        (100.0, 2.0, 400.0, 4.0, 4),
        (1e9, 3e4, 3e9, 5e4, 8),
        (70.0, 5.0, 250.0, 6.0, 2),
        (50.0, 3.0, 200.0, 2.0, 3),
        (70.0, 1.0, 90.0, 6.0, 2),
    ]


def break_even_by_hand(candidate: Candidate) -> None:
    """100 + 2 * 3 n = 200 + 2 n at n = 25."""
    came = candidate(100.0, 3.0, 200.0, 2.0, 2)
    asked = (
        "100 bytes of weights and 2 streams of 3 bytes a token, against 200 bytes of "
        "weights and 2 a token: tokens"
    )
    expect_number(came, 25.0, asked)


def break_even_numbers(candidate: Candidate) -> None:
    for probe in break_even_probes()[:-1]:
        small, cache, large, other, P = probe
        n = break_even(*probe)
        asked = f"tokens for {small:g} + {P} x {cache:g} n = {large:g} + {other:g} n"
        expect_number(candidate(*probe), n, asked)


def break_even_never(candidate: Candidate) -> None:
    for P, cache in ((2, 1.0), (2, 3.0)):
        came = candidate(70.0, cache, 90.0, 6.0, P)
        if not isinstance(came, int | float) or came != math.inf:
            asked = (
                f"infinity: {P} streams of {cache:g} bytes a token need no more for a "
                "token than the plain model's 6"
            )
            raise CheckFailed(asked, show_values(came))


def _even(  # type: ignore[no-untyped-def]
    grows: Callable[[float, float, int], float] = lambda c, other, P: (
        P * c - other
    ),
    gap: Callable[[float, float, int], float] = lambda small, large, P: (
        large - small
    ),
):
    def run(small, c, large, other, P):  # type: ignore[no-untyped-def]
        faster = grows(c, other, P)
        return gap(small, large, P) / faster if faster > 0 else math.inf

    return run


BREAK_EVEN = Exercise(
    id="5.11",
    title="where the advantage ends",
    minutes=8,
    difficulty=1,
    ours=break_even,
    checks=(
        ("by hand", break_even_by_hand),
        ("other sizes", break_even_numbers),
        ("never", break_even_never),
    ),
    probes=break_even_probes,
    wrong=(
        WrongAnswer(
            "one stream's cache",
            _even(grows=lambda c, other, P: c - other),
            "one stream's keys and values are counted. All P streams keep theirs.",
            1,
        ),
        WrongAnswer(
            "plain model without a cache",
            _even(grows=lambda c, other, P: P * c),
            "the plain model's own cache is left out: it grows, too.",
            1,
        ),
        WrongAnswer(
            "streams on both sides",
            _even(grows=lambda c, other, P: P * (c - other)),
            "the plain model is given P streams as well. It has one.",
            1,
        ),
        WrongAnswer(
            "weights times P",
            _even(gap=lambda small, large, P: large - P * small),
            "the weights are counted P times. All streams share them.",
            2,
        ),
        WrongAnswer(
            "only the larger model's weights",
            _even(gap=lambda small, large, P: large),
            "the smaller model's weights are left out.",
            2,
        ),
    ),
    hints=(
        "A token costs the smaller model P times one stream's cache, and the plain "
        "model its own.",
        "Two straight lines in the number of tokens: they begin at the weights, and "
        "rise by what a token costs. Where do they meet?",
        "If the lower line rises no faster than the upper one, they never meet: "
        "`float('inf')`.",
    ),
    otherwise={
        "never": (
            "if the smaller model's caches grow no faster there is no such number. "
            "Look at the sign of what you divide by, and at zero.",
            3,
        ),
    },
)

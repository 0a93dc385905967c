"""The deep exercises of lab 06, 6.4 and 6.5, and the mistakes they expect.

Shape suffixes: R rows, K width of a head, S positions that a cache has room for, V
vocabulary.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labsupport.exercise import Exercise, WrongAnswer
from labsupport.exercise.check import CheckFailed, expect_close, same_as
from labsupport.generate.choose import choose as choose_with_logprob

Arguments = tuple[Any, ...]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator)


# --- 6.4 one step with the cache ------------------------------------------------


def attend_next(
    q_RK: Tensor, k_RK: Tensor, v_RK: Tensor, cache_2RSK: Tensor, seen: int
) -> Tensor:
    """Keep a new token's key and value, and look at all tokens so far.

    Args:
        q_RK, k_RK, v_RK: of the new token, one a row.
        cache_2RSK: keys and values; positions 0 .. seen - 1 are filled. Changed in
            place.
        seen: how many tokens came before.

    Returns:
        mixed_RK: values, weighed by softmax(q k / sqrt(K)).
    """
    cache_2RSK[0, :, seen] = k_RK
    cache_2RSK[1, :, seen] = v_RK
    keys_RSK, values_RSK = cache_2RSK[:, :, : seen + 1]
    score_RS = (
        torch.einsum("rk,rsk->rs", q_RK, keys_RSK) / q_RK.shape[1] ** 0.5
    )
    return torch.einsum("rs,rsk->rk", score_RS.softmax(-1), values_RSK)


def attend_probes() -> Sequence[Arguments]:
    """An empty cache, one that is half full, one that this token fills up.

    What is not filled holds large numbers: whoever looks there will see them.
    """
    found = []
    for R, S, K, seen in ((2, 4, 8, 0), (3, 6, 4, 3), (1, 5, 16, 4)):
        cache_2RSK = random(2, R, S, K, seed=seen)
        cache_2RSK[:, :, seen:] = 9.0
        new = [random(R, K, seed=10 + seen + i) for i in range(3)]
        found.append((*new, cache_2RSK, seen))
    return found


def two_tokens(candidate: Callable[..., Any]) -> None:
    """The first token sees itself alone; the second, two keys at equal scores."""
    cache_2RSK = torch.full((2, 1, 4, 2), 9.0)
    q, k = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    values = torch.tensor([[[4.0, 0.0]], [[0.0, 8.0]]])
    wanted = (values[0], values.mean(dim=0))
    for seen in range(2):
        came = candidate(q, k, values[seen], cache_2RSK, seen)
        asked = f"token {seen + 1}, whose query is at right angles to all keys"
        expect_close(came, wanted[seen], asked)


def cache_is_kept(candidate: Callable[..., Any]) -> None:
    """The new key and value are stored, and nothing else is touched."""
    for q, k, v, cache_2RSK, seen in attend_probes():
        mine, wanted = cache_2RSK.clone(), cache_2RSK.clone()
        attend_next(q, k, v, wanted, seen)
        candidate(q, k, v, mine, seen)
        asked = f"the cache after token {seen + 1}"
        for name, a, b in zip(("keys", "values"), mine, wanted, strict=True):
            if not torch.equal(a, b):
                raise CheckFailed(
                    f"{asked}: {name} as they should be", "others"
                )


def _looks_everywhere(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    cache[0, :, seen], cache[1, :, seen] = k, v
    score = torch.einsum("rk,rsk->rs", q, cache[0]) / q.shape[1] ** 0.5
    return torch.einsum("rs,rsk->rk", score.softmax(-1), cache[1])


def _not_itself(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    keys, values = cache[:, :, : max(seen, 1)].clone()
    cache[0, :, seen], cache[1, :, seen] = k, v
    score = torch.einsum("rk,rsk->rs", q, keys) / q.shape[1] ** 0.5
    return torch.einsum("rs,rsk->rk", score.softmax(-1), values)


def _one_further(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    at = min(seen + 1, cache.shape[2] - 1)
    cache[0, :, at], cache[1, :, at] = k, v
    keys, values = cache[:, :, : at + 1]
    score = torch.einsum("rk,rsk->rs", q, keys) / q.shape[1] ** 0.5
    return torch.einsum("rs,rsk->rk", score.softmax(-1), values)


def _unscaled(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    return attend_next(q * q.shape[1] ** 0.5, k, v, cache, seen)


def _key_is_value(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    return attend_next(q, k, k, cache, seen)


def _on_a_copy(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    return attend_next(q, k, v, cache.clone(), seen)


def _halves_swapped(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    return attend_next(q, k, v, cache.flip(0), seen)


def _softmax_over_rows(q, k, v, cache, seen):  # type: ignore[no-untyped-def]
    cache[0, :, seen], cache[1, :, seen] = k, v
    keys, values = cache[:, :, : seen + 1]
    score = torch.einsum("rk,rsk->rs", q, keys) / q.shape[1] ** 0.5
    return torch.einsum("rs,rsk->rk", score.softmax(0), values)


ATTEND = Exercise(
    id="6.4",
    title="one token with the cache",
    minutes=15,
    difficulty=2,
    ours=attend_next,
    checks=(
        ("what is kept", cache_is_kept),
        ("by hand", two_tokens),
        (
            "caches that are empty, half full, full",
            same_as(attend_next, attend_probes),
        ),
    ),
    probes=attend_probes,
    wrong=(
        WrongAnswer(
            "looks everywhere",
            _looks_everywhere,
            "it looks at all positions of the cache, also at those that are not filled "
            "yet. Only the first `seen + 1` hold tokens.",
            2,
        ),
        WrongAnswer(
            "not at itself",
            _not_itself,
            "the new token does not look at itself: store its key and value first, "
            "then look.",
            1,
        ),
        WrongAnswer(
            "one position on",
            _one_further,
            "it is stored one position too far. `seen` tokens fill positions 0 to "
            "`seen - 1`.",
            1,
        ),
        WrongAnswer(
            "not scaled",
            _unscaled,
            "scores are not divided by the square root of the head's width, K.",
            3,
        ),
        WrongAnswer(
            "on a copy",
            _on_a_copy,
            "what is returned is right, but the cache that was handed in does not hold "
            "the new key and value: change it in place.",
            1,
        ),
        WrongAnswer(
            "halves swapped",
            _halves_swapped,
            "`cache_2RSK[0]` holds keys and `cache_2RSK[1]` values, not the other way "
            "round.",
            1,
        ),
        WrongAnswer(
            "softmax over rows",
            _softmax_over_rows,
            "the softmax runs over texts. Weights of one text's positions have to sum "
            "to 1: the last dimension.",
            3,
        ),
        WrongAnswer(
            "keys for values",
            _key_is_value,
            "keys are mixed rather than values. The cache's first half holds keys, its "
            "second half values.",
            1,
        ),
    ),
    hints=(
        "Store first: `cache_2RSK[0, :, seen]` takes the keys, `cache_2RSK[1, :, "
        "seen]` the values.",
        "Look at positions up to and with `seen`. A mask is not needed: what is filled "
        "came before.",
        "score_RS is a product of q_RK with each key, over sqrt(K); "
        '`torch.einsum("rk,rsk->rs", ...)` says that. Then a softmax over S, and the '
        "same kind of product with the values.",
    ),
    otherwise={
        "what is kept": (
            "key and value have to be stored in the cache that was handed in, at "
            "position `seen`.",
            1,
        )
    },
)


# --- 6.5 choosing a token -------------------------------------------------------------


def choose(logits_RV: Tensor, u_R: Tensor, temperature: float) -> Tensor:
    """The token into whose share of 0 to 1 the number u falls.

    Args:
        logits_RV: scores.
        u_R: from 0 to below 1.
        temperature: divides the scores.

    Returns:
        token_R, int64.
    """
    return choose_with_logprob(logits_RV, u_R, temperature)[0]


def choose_probes() -> Sequence[Arguments]:
    """Numbers near 0, near 1 and between, at three temperatures."""
    u_R = torch.tensor([0.02, 0.31, 0.5, 0.77, 0.999])
    logits_RV = random(5, 7, seed=3, scale=2.0)
    return [(logits_RV, u_R, T) for T in (0.5, 1.0, 2.0)]


def shares_by_hand(candidate: Callable[..., Any]) -> None:
    """Shares 0.5, 0.3, 0.2: they end at 0.5, 0.8 and 1."""
    logits_RV = torch.tensor([0.5, 0.3, 0.2]).log().repeat(5, 1)
    u_R = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81])
    wanted = torch.tensor([0, 0, 1, 1, 2])
    asked = "shares 0.5, 0.3, 0.2 and u = 0, 0.49, 0.51, 0.79, 0.81"
    came = candidate(logits_RV, u_R, 1.0)
    expect_close(came, wanted, asked)


def never_the_impossible(candidate: Callable[..., Any]) -> None:
    """A score of minus infinity is never chosen, not even by u = 0."""
    logits_RV = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0]] * 3)
    came = candidate(logits_RV, torch.tensor([0.0, 0.4, 0.6]), 1.0)
    asked = "tokens 0 and 2 impossible, u = 0, 0.4, 0.6"
    expect_close(came, torch.tensor([1, 1, 3]), asked)


def _inverse(logits, u, temperature):  # type: ignore[no-untyped-def]
    return choose(logits, u, 1 / temperature)


def _cold(logits, u, temperature):  # type: ignore[no-untyped-def]
    return choose(logits, u, 1.0)


def _divided_after(logits, u, temperature):  # type: ignore[no-untyped-def]
    upto = (logits.softmax(-1) / temperature).cumsum(-1)
    token = torch.searchsorted(upto, u[:, None], right=True)[:, 0]
    return token.clamp(max=logits.shape[1] - 1)


def _likeliest(logits, u, temperature):  # type: ignore[no-untyped-def]
    return logits.argmax(-1)


def _sorted_shares(logits, u, temperature):  # type: ignore[no-untyped-def]
    share, _ = (logits / temperature).softmax(-1).sort(descending=True)
    at = torch.searchsorted(share.cumsum(-1), u[:, None], right=True)
    return at.clamp(max=logits.shape[1] - 1)[:, 0]


def _one_late(logits, u, temperature):  # type: ignore[no-untyped-def]
    return (choose(logits, u, temperature) + 1).clamp(max=logits.shape[1] - 1)


CHOOSE = Exercise(
    id="6.5",
    title="choosing a token",
    minutes=12,
    difficulty=2,
    ours=choose,
    checks=(
        ("by hand", shares_by_hand),
        ("three temperatures", same_as(choose, choose_probes)),
        ("impossible tokens", never_the_impossible),
    ),
    probes=choose_probes,
    wrong=(
        WrongAnswer(
            "temperature upside down",
            _inverse,
            "scores are multiplied by the temperature: a high one would make likely "
            "tokens likelier. Divide.",
            1,
        ),
        WrongAnswer(
            "no temperature",
            _cold,
            "the temperature is not used.",
            1,
        ),
        WrongAnswer(
            "shares divided",
            _divided_after,
            "shares are divided by the temperature, so they no longer sum to 1. It "
            "belongs to the scores, before the softmax.",
            1,
        ),
        WrongAnswer(
            "the likeliest",
            _likeliest,
            "the likeliest token is chosen, whatever u is.",
            2,
        ),
        WrongAnswer(
            "place instead of token",
            _sorted_shares,
            "shares were sorted, and the place among them is returned instead of the "
            "token. Leave them in the order of the tokens.",
            2,
        ),
        WrongAnswer(
            "one too far",
            _one_late,
            "it is one token too far: count the shares that end at or before u.",
            3,
        ),
    ),
    hints=(
        "softmax(logits / temperature) gives each token its share of the stretch from "
        "0 to 1.",
        "Where does each share end? `cumsum` says.",
        "The token's number is how many shares end at or before u. Comparing and "
        "counting does it; `torch.searchsorted(..., right=True)` does it faster.",
    ),
    otherwise={
        "by hand": ("the choice has to follow from u alone.", 2),
        "impossible tokens": (
            "a token without a share was chosen, where u falls on its border: a share "
            "that ends *at* u is passed, too.",
            3,
        ),
    },
)

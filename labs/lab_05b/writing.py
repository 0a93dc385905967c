"""What it costs to write a token: seconds and bytes, by the number of texts.

The models are larger than those that train, and not trained: neither bytes nor seconds
depend on what weights are. "equal" is the plain model that, by the published law, has
the loss of eight streams.
"""

from __future__ import annotations

import math
import statistics
from functools import partial

import torch

from labs.lab_05b.arms import PUBLISHED_K, Arm
from labs.lab_05b.decoding import Decoder
from labs.lab_05b.plan import PREFIX, TEXTS, WRITE_CONFIGS, WRITE_REPEATS
from labs.lab_05b.sizes import block_weights, resized
from labs.lab_05b.step_costs import Row, made, seconds
from labsupport.nn import GPT
from labsupport.settings import Scale

WRITERS = ("plain", "p2", "p4", "p8", "equal")


def writer(name: str, scale: Scale) -> Arm:
    """One of WRITERS."""
    config = WRITE_CONFIGS[scale]
    if name == "equal":
        worth = PUBLISHED_K * math.log(8) + 1
        config = resized(config, block_weights, worth * block_weights(config))
    P = int(name[1:]) if name in ("p2", "p4", "p8") else 1
    return Arm(config, P, PREFIX[scale] if P > 1 else 0, 0)


def weight_bytes(model: GPT) -> int:
    """Of all parameters as they lie in memory."""
    return sum(p.nbytes for p in model.parameters())


def writing_row(arm: str, seed: int, scale: Scale) -> Row:
    """Milliseconds and bytes of writing one more token for each of 1, 8, 64 texts.

    The cache is full but for the last tokens, so that all of it is read. What is more
    than the plain model's needs a plain model in the same row: both take turns.

    Returns:
        weights: bytes of all parameters.
        cache_1, cache_8, cache_64: bytes of keys and values.
        ms_1, ms_8, ms_64: median milliseconds.
        times_1, times_8, times_64: over the plain model's, median.
        more_ms: ms_1 minus the plain model's. more_bytes: the same for memory.
    """
    model, other = (
        made(writer(each, scale), scale, seed).eval()
        for each in (arm, "plain")
    )
    row: Row = {"weights": weight_bytes(model)}
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    for texts in TEXTS:
        token_B = torch.randint(0, 256, (texts,), generator=generator)
        token_B = token_B.to(device)
        both = [filled(each, texts, scale) for each in (other, model)]
        times: list[tuple[float, float]] = []
        for turn in range(WRITE_REPEATS[scale]):
            order = both if turn % 2 else both[::-1]
            spent = {
                id(each): seconds(partial(step, each, token_B))
                for each in order
            }
            times.append((spent[id(both[0])], spent[id(both[1])]))
        mine = statistics.median(ours for _, ours in times)
        theirs = statistics.median(plain for plain, _ in times)
        row |= {
            f"cache_{texts}": both[1].cache_bytes,
            f"ms_{texts}": round(1e3 * mine, 3),
            f"times_{texts}": round(
                statistics.median(b / a for a, b in times), 4
            ),
        }
        if texts == 1:
            more = both[1].cache_bytes - both[0].cache_bytes
            row["more_ms"] = round(1e3 * (mine - theirs), 3)
            row["more_bytes"] = row["weights"] - weight_bytes(other) + more
    return row


def filled(model: GPT, texts: int, scale: Scale) -> Decoder:
    """A decoder whose texts have so many tokens that the timed ones just fit."""
    room = WRITE_CONFIGS[scale].max_len
    decoder = Decoder(model, texts, room)
    # What the cache holds changes no time, so no model needs to have written it.
    decoder.seen = room - WRITE_REPEATS[scale]
    return decoder


def step(decoder: Decoder, token_B: torch.Tensor) -> None:
    decoder.step(token_B)
    if token_B.is_cuda:
        torch.cuda.synchronize()

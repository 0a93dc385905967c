"""Formulas of memory and messages, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from labsupport.distributed.parallel.expected import (
    FIRST_BUCKET,
    bucket_sizes,
    expected_messages,
)
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.memory import (
    MIXED,
    expected_bytes,
    numbers_on_rank,
    zero_bytes,
)
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=32, d_model=8, n_layers=4, n_heads=2, d_ff=16)
# A block: 4 x 64 of attention, 3 x 128 of SwiGLU, 16 of norms. Ends: 256, 256 + 8.
BLOCK, ENDS = 640 + 16, 520


def test_zero_by_hand() -> None:
    # 1000 numbers on 4 ranks.
    found = [zero_bytes(stage, 1000, 4).total for stage in range(4)]
    assert found == [16_000, 10_000, 7_000, 4_000]
    mixed = [zero_bytes(stage, 1000, 4, MIXED).total for stage in range(4)]
    # 16 Psi, 4 Psi + 12 Psi / N, 2 Psi + 14 Psi / N, 16 Psi / N
    assert mixed == [16_000, 7_000, 5_500, 4_000]
    with pytest.raises(LabError, match="stages 0 to 3, not 4"):
        zero_bytes(4, 1000, 4)


def test_numbers_of_a_rank_by_hand() -> None:
    assert numbers_on_rank(Layout(), CONFIG) == 4 * BLOCK + ENDS
    assert numbers_on_rank(Layout(), CONFIG) == GPT(CONFIG).parameter_count()
    assert numbers_on_rank(Layout(shard=4), CONFIG) == BLOCK + ENDS / 4
    # Norms and tables are on both ranks.
    assert numbers_on_rank(Layout(tensor=2), CONFIG) == 4 * (320 + 16) + ENDS
    pipeline = Layout(pipeline=2, microbatches=2)
    assert numbers_on_rank(pipeline, CONFIG, 0) == 2 * BLOCK + 256
    assert numbers_on_rank(pipeline, CONFIG, 1) == 2 * BLOCK + 264
    v = Layout(pipeline=2, schedule="ZBV", microbatches=4)
    assert numbers_on_rank(v, CONFIG, 0) == 2 * BLOCK + ENDS
    assert numbers_on_rank(v, CONFIG, 1) == 2 * BLOCK


def test_a_tied_table_counts_once() -> None:
    tied = GPTConfig(**{**vars(CONFIG), "tied": True})
    assert numbers_on_rank(Layout(), tied) == GPT(tied).parameter_count()


def test_sixteen_bytes_a_number() -> None:
    assert expected_bytes(Layout(shard=2), CONFIG).total == 16 * (4 * BLOCK + ENDS) / 2


def sent(layout: Layout, **more: int) -> float:
    return sum(m.sent for m in expected_messages(layout, CONFIG, 8, 16, **more))


def test_bytes_sent_by_hand() -> None:
    psi = 4 * (4 * BLOCK + ENDS)
    assert sent(Layout()) == 0
    # 2, 3 and 2 times Psi, less a rank's own part: ZeRO's table of traffic.
    assert sent(Layout(replicate=4)) == 2 * psi * 3 / 4
    assert sent(Layout(shard=4)) == 3 * psi * 3 / 4
    assert sent(Layout(shard=4, reshard=False)) == 2 * psi * 3 / 4
    # 4 blocks, 4 times 8 x 16 x 8 numbers, each sent once with 2 ranks.
    assert sent(Layout(tensor=2)) == 4 * 4 * 4 * 8 * 16 * 8
    # Two microbatches of 4 x 16 x 8 numbers.
    pipeline = Layout(pipeline=2, microbatches=2)
    assert sent(pipeline, pipeline=0) == 2 * 4 * 4 * 16 * 8
    # Of a V, rank 1 has the tip: one end of each of its stages is on rank 0.
    v = Layout(pipeline=2, schedule="ZBV", microbatches=4)
    assert sent(v, pipeline=1) == 4 * 2 * 4 * 2 * 16 * 8


def test_buckets_by_hand() -> None:
    mib = 2**20
    assert bucket_sizes([mib, 10 * mib, 20 * mib, mib]) == [mib, 30 * mib, mib]
    assert bucket_sizes([FIRST_BUCKET - 4, 4, 4]) == [FIRST_BUCKET, 4]
    assert bucket_sizes([mib] * 5, cap_mb=2) == [2 * mib, 2 * mib, mib]
    assert bucket_sizes([]) == []

"""What the authors of ParScale published: model shapes, losses, benchmark averages.

Chen et al., "Parallel Scaling Law for Language Models", arXiv 2505.10475 (Zhejiang
University and Qwen, 2025). Losses and parameter counts are those of `parametric_fit.py`
in github.com/QwenLM/ParScale: the final training loss, smoothed. Averages are those of
the paper's tables 2 and 3. All are theirs, none was measured here.

Each model has 36 layers, 16 heads with 2 heads of keys and values, and was trained on
42 billion tokens of one corpus. Parameters are counted without embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

CorpusName = Literal["Stack", "Pile"]
CORPORA: tuple[CorpusName, ...] = ("Stack", "Pile")
"""Stack-V2-Python is code, the Pile mostly text."""

STREAMS = (1, 2, 4, 8)
LAYERS, HEADS, KV_HEADS, PREFIX = 36, 16, 2, 48
VOCABULARY = 151_936


@dataclass(frozen=True)
class Shape:
    """A plain model of the paper's grid.

    Attributes:
        d_model: D, its width.
        d_ff: F, the width of its feed-forward layers.
    """

    d_model: int
    d_ff: int

    @property
    def d_kv(self) -> int:
        """Width of all keys of a token in a layer; that of its values, too."""
        return self.d_model // HEADS * KV_HEADS

    def parameters(self, P: int = 1) -> int:
        """Without embeddings: shared ones, prefixes and aggregator of P streams.

        It gives each of the 24 counts that the authors ship, to the last unit.
        """
        D, F = self.d_model, self.d_ff
        attention = 2 * D * D + 2 * D * self.d_kv + D + 2 * self.d_kv
        shared = LAYERS * (attention + 3 * D * F + 2 * D) + D
        if P == 1:
            return shared
        prefixes = P * LAYERS * 2 * PREFIX * self.d_kv
        aggregator = (P * D + 1) * D + (D + 1) * P
        return shared + prefixes + aggregator


SHAPES = (
    Shape(896, 4864),
    Shape(1024, 5504),
    Shape(1280, 6912),
    Shape(1536, 8320),
    Shape(2048, 11008),
    Shape(2560, 13824),
)
SMALL, LARGE = SHAPES[3], SHAPES[5]
"""The "1.6B" and the "4.4B" of the headline."""

LOSSES: dict[CorpusName, dict[int, tuple[float, ...]]] = {
    "Stack": {
        1: (1.1722, 1.1496, 1.1131, 1.0817, 1.0451, 1.0213),
        2: (1.1507, 1.1262, 1.0940, 1.0623, 1.0244, 1.0025),
        4: (1.1354, 1.1124, 1.0808, 1.0490, 1.0126, 0.9906),
        8: (1.1231, 1.0997, 1.0688, 1.0383, 1.0016, 0.9794),
    },
    "Pile": {
        1: (2.1113, 2.0671, 2.0027, 1.9539, 1.8876, 1.8451),
        2: (2.0772, 2.0363, 1.9730, 1.9266, 1.8610, 1.8137),
        4: (2.0544, 2.0128, 1.9509, 1.9040, 1.8394, 1.7938),
        8: (2.0364, 1.9933, 1.9318, 1.8856, 1.8218, 1.7772),
    },
}
"""Nats a token, by corpus and P; in the order of SHAPES."""


@dataclass(frozen=True)
class Benchmark:
    """An average over benchmarks, in per cent; None where none was read.

    Attributes:
        name: what was averaged.
        table: of the paper.
        small, small_8: the 1.6B model with one stream and with eight.
        large: the 4.4B model with one stream.
    """

    name: str
    table: int
    small: float
    small_8: float
    large: float | None


BENCHMARKS = (
    Benchmark("code (HumanEval, MBPP)", 2, 33.9, 39.1, 39.2),
    Benchmark("general", 3, 53.1, 55.7, None),
)


@dataclass(frozen=True)
class Point:
    """One training of theirs.

    Attributes:
        N: its parameters, without embeddings; those of its streams included.
        P: its streams.
        loss: nats a token.
        shape: of its shared weights.
    """

    N: int
    P: int
    loss: float
    shape: Shape


def points(corpus: CorpusName) -> Iterator[Point]:
    """The 24 trainings on a corpus, P = 1 first."""
    for P in STREAMS:
        for shape, loss in zip(SHAPES, LOSSES[corpus][P], strict=True):
            yield Point(shape.parameters(P), P, loss, shape)

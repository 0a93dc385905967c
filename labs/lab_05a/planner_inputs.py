"""What the planner is told: a model, its precision, and a cluster.

Shapes are counted as the course's GPT counts them: RMSNorm before attention and before
the feed-forward layer, SwiGLU, no biases, an output layer of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from labsupport.errors import LabError
from labsupport.nn import GPTConfig

Number = Any
"""A number or an array of them."""


@dataclass(frozen=True)
class Experts:
    """The mixture in place of a dense feed-forward layer.

    Attributes:
        count: routed experts of a layer.
        visited: of these, by one token.
        shared: experts that all tokens visit.
        width: hidden width of one expert.
        dense_layers: layers, the first ones, that have no mixture.
        nodes: a token's experts live on so many nodes at most.
    """

    count: int
    visited: int
    shared: int
    width: int
    dense_layers: int = 0
    nodes: int = 8


@dataclass(frozen=True)
class Model:
    """The shape of a transformer with SwiGLU layers and no biases.

    Attributes:
        name: for tables.
        layers, width, heads: its blocks.
        ffn: hidden width of a dense feed-forward layer.
        vocabulary: rows of the embedding, and of the output layer.
        sequence: tokens of a sample.
        kv_heads: heads of keys and values; None for as many as of queries.
        experts: the mixture, if there is one.
        attention: weights of a layer's attention; None works them out.
        scores: numbers that meet for a pair of tokens, heads * (width of a key +
            width of a value); None for 2 * width.
        saved: bytes that a token leaves in a layer for the backward; None works them
            out for 2-byte numbers.
        cut_vocabulary: whether the tensor axis cuts embedding and output layer.
    """

    name: str
    layers: int
    width: int
    heads: int
    ffn: int
    vocabulary: int
    sequence: int
    kv_heads: int | None = None
    experts: Experts | None = None
    attention: int | None = None
    scores: int | None = None
    saved: float | None = None
    cut_vocabulary: bool = True

    @property
    def attention_weights(self) -> int:
        """Of one layer."""
        if self.attention is not None:
            return self.attention
        kv_width = self.width * (self.kv_heads or self.heads) // self.heads
        return 2 * self.width * (self.width + kv_width)

    @property
    def score_width(self) -> int:
        """Multiplications for a pair of tokens in a layer."""
        return 2 * self.width if self.scores is None else self.scores

    @property
    def expert_layers(self) -> int:
        """Layers with a mixture."""
        if self.experts is None:
            return 0
        return self.layers - self.experts.dense_layers

    @property
    def routed(self) -> int:
        """Weights of a layer's routed experts."""
        if self.experts is None:
            return 0
        return self.experts.count * 3 * self.width * self.experts.width

    @property
    def beside(self) -> int:
        """Weights of a mixture's layer beside its routed experts, norms included."""
        experts = self.experts
        assert experts is not None
        shared = 3 * self.width * experts.width * experts.shared
        router = self.width * experts.count
        return self.attention_weights + shared + router + 2 * self.width

    @property
    def dense(self) -> int:
        """Weights of a dense layer, norms included."""
        ffn = 3 * self.width * self.ffn
        return self.attention_weights + ffn + 2 * self.width

    @property
    def total(self) -> int:
        """All weights."""
        dense = self.layers - self.expert_layers
        mixtures = self.expert_layers * (
            self.routed + (self.beside if self.experts else 0)
        )
        ends = 2 * self.vocabulary * self.width + self.width
        return dense * self.dense + mixtures + ends

    @property
    def active(self) -> int:
        """Weights that one token is multiplied with; the embedding is looked up."""
        experts = self.experts
        head = self.vocabulary * self.width
        if experts is None:
            return self.layers * self.dense + head
        visited = self.routed * experts.visited // experts.count
        dense = experts.dense_layers * self.dense
        return dense + self.expert_layers * (self.beside + visited) + head

    def flops(self, causal: bool = True) -> float:
        """Floating-point operations for one token, forward and backward.

        Args:
            causal: count the half of the attention that the mask leaves. (Some count
                all of it.)
        """
        pairs = self.sequence / 2 if causal else self.sequence
        scores = self.layers * self.score_width * pairs
        return 6 * (self.active + scores)

    @property
    def saved_bytes(self) -> float:
        """What a token leaves in one layer for the backward, in 2-byte numbers.

        Norms keep their input and what they make (4 times the width), attention keeps
        queries, keys, values and its result, a SwiGLU of width F keeps 3 F; in a
        mixture each visit keeps a copy of its input, too. No scores are kept
        (FlashAttention).
        """
        if self.saved is not None:
            return self.saved
        kv_width = self.width * (self.kv_heads or self.heads) // self.heads
        around = 4 * self.width + 2 * self.width + 2 * kv_width
        if self.experts is None:
            return 2.0 * (around + 3 * self.ffn)
        visits = self.experts.visited + self.experts.shared
        each = self.width + 3 * self.experts.width
        return 2.0 * (around + visits * each)


@dataclass(frozen=True)
class Precision:
    """Bytes a weight.

    Attributes:
        weight, gradient, optimizer: what is held for each weight.
        message: a number of an activation, of a weight or a gradient on its way.
    """

    weight: float
    gradient: float
    optimizer: float
    message: float = 2.0


MIXED = Precision(2, 4, 12)
"""bfloat16 weights, float32 gradients; Adam: float32 copy of the weight, two means."""
FLOAT32 = Precision(4, 4, 8, message=4)
"""As the trainings of this course on a CPU."""


@dataclass(frozen=True)
class Cluster:
    """Machines that are all alike.

    Attributes:
        name: of the GPU.
        gpus: how many in all.
        memory: bytes of each.
        peak: its operations a second in matrix products.
        inside: bytes a second that a GPU sends to others of its node.
        between: bytes a second that a GPU sends to other nodes.
        per_node: GPUs of a node.
        latency: seconds of one step of a ring, whatever its size.
        reached: the share of the peak that is reached.
        usable: the share of memory that a training may take.

    Raises:
        LabError: a number that is not above 0, or a share above 1.
    """

    name: str
    gpus: int
    memory: float
    peak: float
    inside: float
    between: float
    per_node: int = 8
    latency: float = 5e-6
    reached: float = 0.5
    usable: float = 0.9

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "name" and not value > 0:
                raise LabError(
                    f"Cluster.{field.name}={value}: use a number above 0."
                )
        for name in ("reached", "usable"):
            if getattr(self, name) > 1:
                raise LabError(
                    f"Cluster.{name}={getattr(self, name)}: use a share up to 1."
                )

    def link(self, ranks: Number) -> Number:
        """Bytes a second among neighbours: so many ranks, one after the other."""
        return np.where(
            np.asarray(ranks) <= self.per_node, self.inside, self.between
        )


def gpt_model(config: GPTConfig, sequence: int | None = None) -> Model:
    """A GPT of this course, whose embedding and output layer are never cut."""
    return Model(
        "GPT",
        config.n_layers,
        config.d_model,
        config.n_heads,
        config.ffn_width,
        config.vocab_size,
        sequence or config.max_len,
        cut_vocabulary=False,
    )

"""What a transformer with dense layers or experts costs: parameters, FLOPs, memory.

A matrix of n_in x n_out numbers takes 2 n_in n_out FLOPs a token. Attention scores
depend on the length of the text and are the same for all arms: they are left out.

Letters: D model width, H hidden width of an expert, F of a dense layer, E routed
experts of which a token visits K, S shared ones, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.errors import LabError
from labsupport.nn import GPTConfig


@dataclass(frozen=True)
class Cost:
    """Of a whole model.

    Attributes:
        total: parameters that have to be in memory, whichever a token needs.
        active: parameters that one token is multiplied with.
    """

    total: int
    active: int

    @property
    def flops(self) -> int:
        """Of one token on its way forward."""
        return 2 * self.active

    def gigabytes(self, bytes_a_parameter: float = 2.0) -> float:
        """What the parameters occupy; 2 bytes each in bfloat16."""
        return self.total * bytes_a_parameter / 1e9


def swiglu_weights(D: int, width: int) -> int:
    """Gate, up and down."""
    return 3 * D * width


def gpt_cost(
    config: GPTConfig, mixture: tuple[int, int, int, int] | None = None
) -> Cost:
    """A `GPT` of this shape, without its norms and its embedding's lookup.

    Args:
        config: the shape; `ffn_width` is the dense layer's.
        mixture: (E, K, S, H) in place of the dense layer.
    """
    D = config.d_model
    attention = 4 * D * D
    embedding = head = config.vocab_size * D
    if mixture is None:
        total = active = swiglu_weights(D, config.ffn_width)
    else:
        total, active = mixture_weights(D, *mixture)
    n = config.n_layers
    return Cost(
        n * (attention + total) + embedding + head,
        n * (attention + active) + head,
    )


def mixture_weights(D: int, E: int, K: int, S: int, H: int) -> tuple[int, int]:
    """Weights of one layer's experts and router: all of them, and a token's.

    Raises:
        LabError: more experts a token than there are.
    """
    if not 1 <= K <= E:
        raise LabError(f"A token visits 1 to {E} experts, not {K}.")
    one, router = swiglu_weights(D, H), E * D
    return (E + S) * one + router, (K + S) * one + router

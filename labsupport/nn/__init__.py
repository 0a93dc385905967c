"""The small GPT that the labs train, and parts that can be exchanged in it."""

from labsupport.nn.gpt import (
    GPT,
    CausalSelfAttention,
    GPTConfig,
    Residual,
    RMSNorm,
    RotaryEmbedding,
    SwiGLU,
    norm_from,
    sample,
)
from labsupport.nn.hyper_connections import (
    HyperConnection,
    ManifoldHyperConnection,
)

__all__ = [
    "GPT",
    "CausalSelfAttention",
    "GPTConfig",
    "HyperConnection",
    "ManifoldHyperConnection",
    "RMSNorm",
    "Residual",
    "RotaryEmbedding",
    "SwiGLU",
    "norm_from",
    "sample",
]

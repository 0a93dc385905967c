"""The small GPT that the labs train, and parts that can be exchanged in it."""

from labsupport.nn.fp8_linear import BF16Linear, FP8Linear, FP8Recipe
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
from labsupport.nn.moe import MixtureOfExperts, Routing
from labsupport.nn.moe_balance import AuxiliaryLoss, LoadBalancer
from labsupport.nn.parscale import ParScale, aggregate_streams, stream_weights

__all__ = [
    "GPT",
    "AuxiliaryLoss",
    "BF16Linear",
    "CausalSelfAttention",
    "FP8Linear",
    "FP8Recipe",
    "GPTConfig",
    "HyperConnection",
    "LoadBalancer",
    "ManifoldHyperConnection",
    "MixtureOfExperts",
    "ParScale",
    "RMSNorm",
    "Residual",
    "RotaryEmbedding",
    "Routing",
    "SwiGLU",
    "aggregate_streams",
    "norm_from",
    "sample",
    "stream_weights",
]

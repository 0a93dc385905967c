"""Models and machines whose numbers are published, for the planner."""

from __future__ import annotations

from labs.lab_05a.planner_inputs import Cluster, Experts, Model, Precision

# https://arxiv.org/abs/2407.21783, table 3. SwiGLU, grouped queries.
LLAMA_8B = Model(
    "8 billion, dense", 32, 4096, 32, 14_336, 128_256, 8192, kv_heads=8
)
LLAMA_70B = Model(
    "70 billion, dense", 80, 8192, 64, 28_672, 128_256, 8192, kv_heads=8
)
LLAMA_405B = Model(
    "405 billion, dense", 126, 16_384, 128, 53_248, 128_256, 8192, kv_heads=8
)

# https://arxiv.org/abs/2412.19437, section 4.2. Multi-head latent attention, weights:
# queries down and up, keys and values down, and up, output. Its second module, which
# predicts one token more, is left out.
_D, _HEADS, _KEY, _VALUE, _QUERY_RANK, _KV_RANK, _ROPE = (
    7168, 128, 192, 128, 1536, 512, 64,
)  # fmt: skip
_ATTENTION = (
    _D * _QUERY_RANK
    + _QUERY_RANK * _HEADS * _KEY
    + _D * (_KV_RANK + _ROPE)
    + _KV_RANK * _HEADS * (_KEY - _ROPE + _VALUE)
    + _HEADS * _VALUE * _D
)
# Section 3.2.3 computes norms and the up-projections of attention again, and 3.3.3
# keeps activations in float8. What is left of a token in a layer, our count: the input
# of two norms, 2 bytes; the three latents, 2; attention's result, 2; the inputs of 8
# routed experts, 1; gate and up of 9 experts, 1.
_SAVED = (
    2 * 2 * _D
    + 2 * (_QUERY_RANK + _KV_RANK + _ROPE)
    + 2 * _HEADS * _VALUE
    + 8 * _D
    + 9 * 2 * 2048
)
DEEPSEEK_V3 = Model(
    "671 billion, experts",
    layers=61,
    width=_D,
    heads=_HEADS,
    ffn=18_432,
    vocabulary=129_280,
    sequence=4096,
    experts=Experts(
        count=256, visited=8, shared=1, width=2048, dense_layers=3, nodes=4
    ),
    attention=_ATTENTION,
    scores=_HEADS * (_KEY + _VALUE),
    saved=_SAVED,
)
V3_PRECISION = Precision(weight=2, gradient=4, optimizer=8, message=1.5)
"""Section 3.3.1: float32 copies and gradients, Adam's means in bfloat16. Messages to
the experts have 1 byte a number, those back 2: 1.5 on the mean. (The float8 copies of
the weights come and go, and are left out.)"""

GIB = 2**30
# Dense bfloat16 peak and NVLink from the vendor's data sheet, a 400 Gbit/s card a GPU;
# links in one direction.
H100 = Cluster(
    "H100", 8, memory=80 * GIB, peak=989e12, inside=450e9, between=50e9
)
# https://arxiv.org/abs/2412.19437, section 3.2.2: 160 and 50 GB/s.
H800 = Cluster(
    "H800", 2048, memory=80 * GIB, peak=989e12, inside=160e9, between=50e9
)

MODELS = (LLAMA_8B, LLAMA_70B, LLAMA_405B, DEEPSEEK_V3)

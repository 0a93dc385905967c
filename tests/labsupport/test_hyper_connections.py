"""HC and mHC against the papers' equations, written here from the equations alone.

mHC: arXiv 2512.24880, equations 3 and 7 to 9. HC: arXiv 2409.19606, restated as
equation 5 there. Everything below runs token by token in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from labsupport.errors import LabError
from labsupport.nn import (
    GPT,
    GPTConfig,
    HyperConnection,
    ManifoldHyperConnection,
    Residual,
)

CONFIG = GPTConfig(vocab_size=50, d_model=16, n_layers=3, n_heads=2, max_len=12)
C, N_LANES = CONFIG.d_model, 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def tokens(B: int = 2, T: int = 12) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, (B, T))


def shake(module: nn.Module, spread: float) -> None:
    """Random weights, so that nothing is right by accident of a special start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(spread * torch.randn_like(parameter))


def sinkhorn_of_one(logits: list[list[float]], steps: int) -> list[list[float]]:
    """Equation 9: T_r(T_c(...)), columns first, rows last; one matrix."""
    n = len(logits)
    top = max(map(max, logits))
    m = [[math.exp(value - top) for value in row] for row in logits]
    for _ in range(steps):
        columns = [math.fsum(m[i][j] for i in range(n)) for j in range(n)]
        m = [[m[i][j] / columns[j] for j in range(n)] for i in range(n)]
        rows = [math.fsum(row) for row in m]
        m = [[m[i][j] / rows[i] for j in range(n)] for i in range(n)]
    return m


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def mhc_of_one_token(
    part: ManifoldHyperConnection, x_nC: Tensor, branch: Callable[[Tensor], Tensor]
) -> Tensor:
    """Equations 7, 8, 9 and 3, for one token, with the slices [pre | post | res]."""
    n = x_nC.shape[0]
    v = x_nC.flatten()
    v = v / v.square().mean().sqrt()
    h = (part.phi_PK @ v).tolist()
    a_pre, a_post, a_res = part.alpha_3.tolist()
    bias = part.bias_P.tolist()
    pre = [sigmoid(a_pre * h[j] + bias[j]) for j in range(n)]
    post = [2 * sigmoid(a_post * h[n + j] + bias[n + j]) for j in range(n)]
    logits = [
        [a_res * h[k] + bias[k] for k in range(2 * n + n * i, 2 * n + n * i + n)]
        for i in range(n)
    ]
    res = sinkhorn_of_one(logits, part.iterations)
    made = branch(sum(pre[j] * x_nC[j] for j in range(n)))
    return torch.stack(
        [sum(res[i][j] * x_nC[j] for j in range(n)) + post[i] * made for i in range(n)]
    )


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_mhc_is_what_the_paper_says(spread: float, n: int) -> None:
    part = ManifoldHyperConnection(CONFIG, 1, n=n).double()
    shake(part, spread)
    with torch.no_grad():
        part.alpha_3.fill_(0.3)
    weight = torch.randn(C, C, dtype=torch.float64)
    stream = torch.randn(2, 3, n, C, dtype=torch.float64)
    with torch.no_grad():
        out = part(stream, lambda x: torch.tanh(x @ weight))
        for b in range(2):
            for t in range(3):
                expected = mhc_of_one_token(
                    part, stream[b, t], lambda x: torch.tanh(x @ weight)
                )
                torch.testing.assert_close(out[b, t], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
def test_rows_are_exact_and_columns_nearly(spread: float) -> None:
    """What is normalised last is exact: forward gains are one, backward ones not."""
    part = ManifoldHyperConnection(CONFIG, 0).double()
    logits_nnM = spread * torch.randn(N_LANES, N_LANES, 200, dtype=torch.float64)
    res_nnM = part.projected(logits_nnM)
    assert (res_nnM.sum(1) - 1).abs().max() < 1e-12
    columns = (res_nnM.sum(0) - 1).abs().max()
    assert columns < (1e-6 if spread == 0.5 else 1)
    # And they are no symmetric matrices, so that a transpose would show.
    assert (res_nnM - res_nnM.transpose(0, 1)).abs().max() > 0.05


def test_hc_is_what_the_paper_says() -> None:
    part = HyperConnection(CONFIG, 2).double()
    shake(part, 0.7)
    stream = torch.randn(1, 5, N_LANES, C, dtype=torch.float64)
    weight = torch.randn(C, C, dtype=torch.float64)
    with torch.no_grad():
        out = part(stream, lambda x: torch.tanh(x @ weight))
        for t in range(5):
            x = stream[0, t]
            v = x / (x.square().mean(1, keepdim=True) + CONFIG.eps).sqrt()
            dynamic = torch.tanh(v @ part.phi_CP)  # lane by lane
            a_pre, a_post, a_res = part.alpha_3
            n = N_LANES
            pre = a_pre * dynamic[:, 0] + part.bias_P[:n]
            post = a_post * dynamic[:, 1] + part.bias_P[n : 2 * n]
            res = a_res * dynamic[:, 2:] + part.bias_P[2 * n :].view(n, n)
            expected = res @ x + torch.outer(post, torch.tanh((pre @ x) @ weight))
            torch.testing.assert_close(out[0, t], expected)


@pytest.mark.parametrize("part", [HyperConnection, ManifoldHyperConnection])
@pytest.mark.parametrize("n", [2, 4, 5])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)]
)
def test_at_first_it_is_the_residual_network(
    part: type[nn.Module], n: int, dtype: torch.dtype, tolerance: float
) -> None:
    plain = GPT(CONFIG).to(dtype)
    wide = GPT(CONFIG, residual=partial(part, n=n)).to(dtype)
    missing = wide.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all("residual" in key for key in missing)
    x = tokens()
    assert (plain(x) - wide(x)).abs().max() < tolerance


def test_that_equality_would_notice_another_start() -> None:
    plain = GPT(CONFIG).double()
    wide = GPT(CONFIG, residual=ManifoldHyperConnection).double()
    wide.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        wide.blocks[1].ffn_residual.bias_P[N_LANES] = 0.1  # one write
    x = tokens()
    assert (plain(x) - wide(x)).abs().max() > 1e-6


@pytest.mark.parametrize("part", [HyperConnection, ManifoldHyperConnection])
def test_training_tells_the_lanes_apart(part: type[nn.Module]) -> None:
    """With equal reads they would get equal gradients and stay equal for ever."""
    model = GPT(CONFIG, residual=part)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = tokens(), tokens()
    first = model.loss(x, y).item()
    for _ in range(10):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    assert model.loss(x, y).item() < first
    stream = model.blocks[0].attention_residual.expand(model.embedding(x))
    for block in model.blocks:
        stream = block(stream)
    assert stream.std(dim=-2).max() > 1e-3


@pytest.mark.parametrize("part", [HyperConnection, ManifoldHyperConnection])
def test_gradients(part: type[Residual]) -> None:
    small = GPTConfig(vocab_size=5, d_model=4, n_layers=1, n_heads=1, max_len=2)
    module = part(small, 0, n=3).double()
    shake(module, 0.5)
    stream = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*module.named_parameters(), strict=True)

    def run(stream: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (stream, torch.sin)
        )

    assert torch.autograd.gradcheck(run, (stream, *values), atol=1e-6)


@pytest.mark.parametrize("part", [HyperConnection, ManifoldHyperConnection])
def test_no_lanes(part: type[nn.Module]) -> None:
    with pytest.raises(LabError, match="n=0 lanes: use at least 1"):
        GPT(CONFIG, residual=partial(part, n=0))


@pytest.mark.parametrize("part", [HyperConnection, ManifoldHyperConnection])
def test_a_stream_in_half_precision(part: type[nn.Module]) -> None:
    """Lanes are stored in float16; what is computed of them is not."""
    model = GPT(CONFIG, residual=partial(part, stream_dtype=torch.float16))
    stream = model.blocks[0].attention_residual.expand(model.embedding(tokens()))
    assert stream.dtype == torch.float16
    out = model.blocks[0](stream)
    assert out.dtype == torch.float16
    assert model(tokens()).dtype == torch.float32

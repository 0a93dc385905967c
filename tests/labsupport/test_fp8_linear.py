"""The FP8 linear layer: three products, each from codes in tiles of its own."""

from functools import partial

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from kernels.float8 import E4M3, E5M2, Float8
from labsupport.errors import LabError
from labsupport.nn import GPT, BF16Linear, FP8Linear, FP8Recipe, GPTConfig, fp8_linear
from labsupport.nn.fp8_linear import SCHEMES

M, K, N, T = 12, 20, 8, 8
ML_TYPES = {E4M3: ml_dtypes.float8_e4m3fn, E5M2: ml_dtypes.float8_e5m2}


def rounded(x: torch.Tensor, rows: int, columns: int, fmt: Float8 = E4M3):
    """Tile by tile in NumPy and ml_dtypes: written from the report alone."""
    x = x.detach().numpy().astype(np.float32)
    y = np.empty_like(x)
    for r in range(0, x.shape[0], rows):
        for c in range(0, x.shape[1], columns):
            tile = x[r : r + rows, c : c + columns]
            scale = np.abs(tile).max() / np.float32(fmt.largest)
            codes = (tile / scale).astype(ML_TYPES[fmt])
            y[r : r + rows, c : c + columns] = codes.astype(np.float32) * scale
    return torch.from_numpy(y)


def half(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bfloat16).float()


def operands(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(M, K, generator=generator)
    x = x * torch.logspace(-2, 2, M)[:, None]
    g = torch.randn(M, N, generator=generator) * torch.logspace(2, -4, M)[:, None]
    return x.requires_grad_(), g


def layer_of(scheme, **recipe) -> FP8Linear:
    torch.manual_seed(1)
    return FP8Linear(K, N, bias=False, recipe=FP8Recipe(scheme, T, **recipe))


TILES = {"tile": ((1, T), (T, T), (T, 1)), "block": ((T, T),) * 3}


@pytest.mark.parametrize("scheme", TILES)
@pytest.mark.parametrize("gradient", [E4M3, E5M2], ids=lambda fmt: fmt.name)
def test_three_products_as_the_report_has_them(scheme, gradient):
    row, block, column = TILES[scheme]
    layer, (x, g) = layer_of(scheme, gradient=gradient), operands()
    w = layer.weight
    y = layer(x)
    y.backward(g)
    torch.testing.assert_close(y, half(rounded(x, *row) @ rounded(w, *block).t()))
    dx = rounded(g, *row, gradient) @ rounded(w, *block)
    torch.testing.assert_close(x.grad, half(dx))
    dw = rounded(g, *column, gradient).t() @ rounded(x, *column)
    torch.testing.assert_close(w.grad, dw)


def test_one_scale_a_tensor():
    layer, (x, _) = layer_of("tensor"), operands()
    y = layer(x)
    wanted = rounded(x, M, K) @ rounded(layer.weight, N, K).t()
    torch.testing.assert_close(y, half(wanted))


def test_without_scales_small_gradients_are_gone():
    """Half of E4M3's smallest number, 2^-10, and less, becomes 0."""
    layer, (x, _) = layer_of("unscaled"), operands()
    layer(x).backward(torch.full((M, N), 2.0**-10))
    assert not layer.weight.grad.any() and not x.grad.any()
    scaled, (x, _) = layer_of("tile"), operands()
    scaled(x).backward(torch.full((M, N), 2.0**-10))
    assert scaled.weight.grad.all() and x.grad.all()


def test_tokens_may_have_two_axes_and_outputs_a_bias():
    torch.manual_seed(2)
    layer = FP8Linear(K, N, recipe=FP8Recipe("tile", T))
    x = torch.randn(3, 4, K)
    y = layer(x)
    assert y.shape == (3, 4, N)
    flat = layer(x.view(12, K)).view(3, 4, N)
    torch.testing.assert_close(y, flat)
    with torch.no_grad():
        layer.bias += 1
    torch.testing.assert_close(layer(x), y + 1)


@pytest.mark.parametrize("kind", [FP8Linear, BF16Linear])
@pytest.mark.parametrize("shape", [(K,), (0, K), (2, 0, K), (1, K)])
def test_one_token_none_and_empty_batches(kind, shape):
    layer, x = kind(K, N), torch.randn(shape).requires_grad_()
    y = layer(x)
    assert y.shape == (*shape[:-1], N)
    y.sum().backward()
    assert x.grad.shape == x.shape and layer.weight.grad.isfinite().all()


def test_it_keeps_a_byte_a_number_for_the_backward():
    layer, (x, _) = layer_of("tile"), operands()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.nbytes) or t, lambda t: t
    ):
        layer(x)
    codes = M * K + N * K
    scales = 4 * (-(-M // T) * K + -(-K // T))
    assert sum(kept) == codes + scales


def test_a_readers_own_parts_are_used():
    used = []

    def quantise(x, side):
        used.append("quantise")
        q = x.to(torch.float8_e4m3fn)
        return q, torch.ones(x.shape[0], -(-x.shape[1] // side))

    def multiply(q, s, w, t, side):
        used.append("multiply")
        assert side == T and w.dtype == torch.float8_e4m3fn
        assert t.shape == (1, 3)
        return torch.full((q.shape[0], w.shape[0]), 7.0)

    layer = FP8Linear(
        K, N, recipe=FP8Recipe("tile", T), quantise=quantise, multiply=multiply
    )
    with torch.no_grad():
        layer.bias.zero_()
    assert (layer(torch.randn(M, K)) == 7).all()
    assert used == ["quantise", "multiply"]


@pytest.mark.parametrize("sizes", [(128, 256, 128), (37, 200, 130)])
def test_the_way_over_the_kernels_gives_the_same(sizes, monkeypatch):
    """On a CPU their functions compute by their references: what is held here is
    that each gets the operand, the tiles and the scales that it wants."""
    m, k, n = sizes
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(m, c, generator=generator) for c in (k, n))
    x = x * torch.logspace(-3, 3, k)
    found = []
    for over_kernels in (False, True):
        monkeypatch.setattr(fp8_linear, "runs_kernels", lambda _, yes=over_kernels: yes)
        torch.manual_seed(0)
        layer = FP8Linear(k, n, bias=False)
        own = x.clone().requires_grad_()
        y = layer(own)
        y.backward(g)
        found.append((y, own.grad, layer.weight.grad))
    for kernels, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(
            kernels, plain, rtol=1e-2, atol=1e-4 * plain.abs().max().item()
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_what_a_cpu_computes():
    torch.manual_seed(0)
    layer = FP8Linear(256, 128, bias=False)
    x, g = torch.randn(64, 256), torch.randn(64, 128)
    found = []
    for device in ("cpu", "cuda"):
        layer.zero_grad()
        own = x.to(device).requires_grad_()
        y = layer.to(device)(own)
        y.backward(g.to(device))
        found.append([t.cpu() for t in (y, own.grad, layer.weight.grad)])
    for here, there in zip(*found, strict=True):
        assert (here - there).norm() < 1e-2 * here.norm()


def test_bfloat16_is_a_product_of_halves():
    torch.manual_seed(3)
    layer = BF16Linear(K, N, bias=False)
    x, g = operands()
    layer(x).backward(g)
    torch.testing.assert_close(layer(x), half(half(x) @ half(layer.weight).t()))
    torch.testing.assert_close(x.grad, half(half(g) @ half(layer.weight)))
    torch.testing.assert_close(layer.weight.grad, half(half(g).t() @ half(x)))


def test_a_tile_with_infinity_is_seen_in_the_loss():
    layer, (x, _) = layer_of("tile"), operands()
    with torch.no_grad():
        x[3, 5] = torch.inf
    y = layer(x)
    assert y[3].isnan().all() and y[[0, 1, 2, 4]].isfinite().all()


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if s != "unscaled"])
def test_a_gpt_of_it_learns_as_one_of_plain_layers_does(scheme):
    """Same start, same batch: the loss within 1 percent after 20 steps."""
    config = GPTConfig(d_model=32, n_layers=1, n_heads=2, max_len=16)
    tokens = torch.randint(256, (4, 17), generator=torch.Generator().manual_seed(4))
    found = []
    for linear in (nn.Linear, partial(FP8Linear, recipe=FP8Recipe(scheme, T))):
        torch.manual_seed(5)
        model = GPT(config, linear=linear)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            optimizer.step()
        found.append(loss.item())
    assert found[1] == pytest.approx(found[0], rel=0.01)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: FP8Recipe("row"), "scheme='row'; use one of tile, block"),
        (lambda: FP8Recipe(side=0), "side=0; use 1 or more"),
        (
            lambda: FP8Linear(4, 4, recipe=FP8Recipe("block"), quantise=max),
            "the recipe has to be 'tile'; it is 'block'",
        ),
    ],
)
def test_bad_input(make, sentence):
    with pytest.raises(LabError, match=sentence):
        make()

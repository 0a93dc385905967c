"""Scales by hand, rounding without a bias, and what powers of two are good for."""

import pytest
import torch

from kernels.float8 import E4M3, E5M2
from kernels.fp8_scaling import (
    SMALLEST_SCALE,
    dequantise_reference,
    quantise_reference,
    scale_of,
    scale_shape,
)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_scales_by_hand():
    """Two rows of three numbers, in tiles of 1 x 2 and of 2 x 2, cut at the edge."""
    x = torch.tensor([[448.0, -1, 7], [-896, 0, 0]])
    q, scale = quantise_reference(x, (1, 2))
    assert scale.tolist() == [[1, 7 / 448], [2, SMALLEST_SCALE]]
    assert q.float().tolist() == [[448, -1, 448], [-448, 0, 0]]
    q, scale = quantise_reference(x, (2, 2))
    assert scale.tolist() == [[2, 7 / 448]]
    assert q.float().tolist() == [[224, -0.5, 448], [-448, 0, 0]]
    q, scale = quantise_reference(x, (2, 3), E5M2)
    assert scale.tolist() == [[896 / 57344]]
    assert q.float()[1, 0] == -57344


def test_powers_of_two_by_hand():
    amax = torch.tensor([448.0, 449, 896, 447, 0, 1e-45, torch.inf])
    scale = scale_of(amax, power_of_two=True)
    assert scale.tolist() == [1, 2, 2, 1, SMALLEST_SCALE, SMALLEST_SCALE, torch.inf]


def test_a_tile_with_nan_or_infinity_comes_back_as_nan_and_no_other_does():
    x = torch.ones(3, 256)
    x[0, 5], x[1, 200], x[2, 7] = torch.nan, torch.inf, -torch.inf
    q, scale = quantise_reference(x)
    sick = torch.tensor([[True, False], [False, True], [True, False]])
    assert torch.equal(scale == torch.inf, sick)
    back = dequantise_reference(q, scale)
    assert torch.equal(back.isnan(), sick.repeat_interleave(128, 1))
    # And so does a product with it.
    assert (back.nan_to_num(0) @ torch.ones(256)).isfinite().all()
    assert (back @ torch.ones(256)).isnan().all()


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("tile", [(1, 128), (128, 128), (5, 300)])
def test_what_comes_back_is_near(tile, power_of_two):
    """To nearest: within half of the last mantissa bit, 2^-4 of its size, or, for
    the smallest, half of the smallest step."""
    x = random(5, 300)
    q, scale = quantise_reference(x, tile, power_of_two=power_of_two)
    assert scale.shape == scale_shape(x.shape, tile)
    error = (dequantise_reference(q, scale, tile) - x).abs()
    step = scale.max() * E4M3.smallest
    assert (error <= 1.001 * torch.maximum(x.abs() * 2.0**-4, step / 2)).all()
    assert error.max() > 0


@pytest.mark.parametrize("shape", [(0, 130), (130, 0), (0, 0)])
@pytest.mark.parametrize("tile", [(1, 128), (128, 128)])
def test_an_empty_matrix_has_no_scales(shape, tile):
    q, scale = quantise_reference(torch.ones(shape), tile)
    assert q.shape == shape and scale.shape == scale_shape(shape, tile)
    assert dequantise_reference(q, scale, tile).shape == shape


@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["E4M3", "E5M2"])
def test_as_many_numbers_are_rounded_down_as_up(fmt):
    """Numbers between two codes are as likely near the one as near the other, so half
    are rounded down, to 20 standard deviations, each being 0.5 / sqrt(n)."""
    x = torch.rand(1000, 1280, generator=torch.Generator().manual_seed(0))
    back = dequantise_reference(*quantise_reference(x, fmt=fmt))
    down = (back < x)[back != x].double().mean().item()
    assert abs(down - 0.5) < 10 / x.numel() ** 0.5


def retiled(power_of_two):
    """A block in tiles of rows, and the same quantised again in tiles of columns.

    Numbers are of sizes 1/2 to 2, so that no code leaves the normal range."""
    x = torch.empty(128, 128).uniform_(
        -1, 1, generator=torch.Generator().manual_seed(0)
    )
    x = x.sign() * 2.0**x
    rows = dequantise_reference(*quantise_reference(x, power_of_two=power_of_two))
    columns = dequantise_reference(
        *quantise_reference(rows, (128, 1), power_of_two=power_of_two), (128, 1)
    )
    return rows, columns


def test_tiles_of_rows_become_tiles_of_columns_exactly_with_powers_of_two():
    rows, columns = retiled(power_of_two=True)
    assert torch.equal(rows, columns)
    rows, columns = retiled(power_of_two=False)
    assert (rows != columns).float().mean() > 0.5

"""The noise scale of gradients that were made with a known one."""

import math

import pytest
import torch

from labsupport.errors import LabError
from labsupport.train.noise_scale import NoiseScale, small_batch, two_batch_estimate


def test_by_hand():
    """|G|^2 = 4 and tr(Sigma) = 12: 4 + 12 / 2 = 10, and 4 + 12 / 8 = 5.5."""
    signal, noise = two_batch_estimate(10.0, 5.5, 2, 8)
    assert (signal, noise) == (pytest.approx(4.0), pytest.approx(12.0))


@pytest.mark.parametrize("batches", [[4, 4, 4, 4], [1, 2, 4, 9]])
def test_it_finds_what_was_put_in(batches):
    """Gradients with |G|^2 = 1 and tr(Sigma) = 50, on equal and unequal workers."""
    generator = torch.Generator().manual_seed(0)
    D, B = 100, sum(batches)
    G = torch.full((D,), D**-0.5)
    scale = NoiseScale(decay=0.998)
    for _ in range(2000):
        noise = (50 / D) ** 0.5 * torch.randn(B, D, generator=generator)
        parts = [G + part.mean(0) for part in noise.split(batches)]
        whole = sum(b * g for b, g in zip(batches, parts, strict=True)) / B
        square = sum(g.square().sum().item() for g in parts) / len(parts)
        scale.add(square, whole.square().sum().item(), small_batch(batches), B)
    assert scale.signal == pytest.approx(1.0, rel=0.1)
    assert scale.noise == pytest.approx(50.0, rel=0.1)
    assert scale.value == pytest.approx(50.0, rel=0.15)


def test_means_are_taken_before_the_ratio():
    """Two steps whose ratios are 1 and 9 have neither of these, nor their mean."""
    scale = NoiseScale(decay=0.5)
    for signal, noise in ((3.0, 3.0), (1.0, 9.0)):
        scale.add(signal + noise / 2, signal + noise / 8, 2, 8)
    # Weights 1/3 and 2/3.
    assert scale.signal == pytest.approx((3 + 2) / 3)
    assert scale.noise == pytest.approx((3 + 18) / 3)
    assert scale.value == pytest.approx(21 / 5)


def test_ends_of_the_range():
    scale = NoiseScale()
    assert math.isnan(scale.value)
    scale.add(4.0, 0.5, 1, 4)  # far more noise than four samples can show
    assert scale.value == math.inf
    scale = NoiseScale()
    scale.add(1.0, 1.2, 1, 4)
    assert scale.value == 0.0


def test_small_batch_is_the_harmonic_mean():
    assert small_batch([4, 4]) == 4
    assert small_batch([1, 3]) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: two_batch_estimate(1, 1, 4, 4), "4 and 4: the second has to be lar"),
        (lambda: two_batch_estimate(1, 1, 0, 4), "both above 0"),
        (lambda: NoiseScale(decay=1.0), "decay=1.0: use at least 0 and less than 1"),
        (lambda: small_batch([]), "use at least one, of 1 and more"),
        (lambda: small_batch([3, 0]), "use at least one, of 1 and more"),
    ],
)
def test_bad_input_gets_a_sentence(wrong, sentence):
    with pytest.raises(LabError, match=sentence):
        wrong()

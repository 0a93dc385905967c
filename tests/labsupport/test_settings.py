"""One place decides the scale, and says clearly what it does not accept."""

import pytest
import torch

from labsupport.errors import LabError
from labsupport.settings import choose_scale, choose_settings, seed_everything


def test_parameter_beats_environment_beats_default(monkeypatch):
    monkeypatch.delenv("LABS_SCALE", raising=False)
    assert choose_scale() == "cpu"
    monkeypatch.setenv("LABS_SCALE", "ci")
    assert choose_scale() == "ci"
    assert choose_scale("cpu") == "cpu"


def test_unknown_scale_names_its_origin_and_what_is_allowed(monkeypatch):
    with pytest.raises(LabError, match=r"'huge' \(from parameter\): .* ci, cpu, gpu"):
        choose_scale("huge")
    monkeypatch.setenv("LABS_SCALE", "laptop")
    with pytest.raises(LabError, match=r"'laptop' \(from LABS_SCALE\)"):
        choose_scale()


@pytest.mark.parametrize(
    ("seed", "world", "wrong"),
    [
        (-1, 2, "seed=-1"),
        ("0", 2, "seed='0'"),
        (0, 0, "world=0"),
        (0, 1.5, "world=1.5"),
    ],
)
def test_parameters_out_of_range(seed, world, wrong):
    with pytest.raises(LabError, match=wrong):
        choose_settings("ci", seed, world)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_scale_without_a_gpu():
    with pytest.raises(LabError, match="needs a CUDA device"):
        choose_settings("gpu")


def test_pick_follows_the_scale():
    assert choose_settings("ci").pick(ci=1, cpu=2, gpu=3) == 1
    assert choose_settings("cpu").pick(ci=1, cpu=2, gpu=3) == 2


def test_the_same_seed_draws_the_same_numbers():
    seed_everything(3)
    first = torch.randn(4)
    seed_everything(3)
    assert torch.equal(first, torch.randn(4))

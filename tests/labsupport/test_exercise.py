"""What a reader sees of an exercise in a notebook, in each of its three states."""

import json

import pytest
import torch

from labsupport import Lab
from labsupport.errors import LabError
from labsupport.exercise import Exercise, progress, run_checks
from labsupport.exercise.check import same_as, same_gradient
from labsupport.lab import ExerciseOpen


@pytest.fixture
def lab(monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.delenv("LABS_STRICT", raising=False)
    return Lab("00", scale="ci")


@pytest.fixture
def person(monkeypatch):
    """As if a person sat in JupyterLab."""
    monkeypatch.setenv("JPY_SESSION_NAME", "my_labs/00_start_here.ipynb")


def stub(x_BTD, weight_D, eps=1e-6):
    raise NotImplementedError


def wrong(x_BTD, weight_D, eps=1e-6):
    return x_BTD * 0 + 1


def right(x_BTD, weight_D, eps=1e-6):
    return x_BTD * (x_BTD.pow(2).mean(-1, True) + eps) ** -0.5 * weight_D


def test_unsolved_uses_ours_and_says_so(lab, capsys):
    function = lab.exercise("0.1")(stub)
    assert function.__labs_active__ is function.spec.ours
    assert "not attempted yet, using ours" in capsys.readouterr().out


def test_failing_uses_ours_until_forced(lab, capsys):
    function = lab.exercise("0.1")(wrong)
    assert function.__labs_active__ is function.spec.ours
    assert "0.1: yours failed its check, using ours" in capsys.readouterr().out
    lab.mine("0.1")
    assert function.__labs_active__ is wrong
    assert "although it failed" in capsys.readouterr().out
    lab.ours("0.1")
    assert function.__labs_active__ is function.spec.ours


def test_passed_uses_yours(lab, capsys):
    function = lab.exercise("0.1")(right)
    assert function.__labs_active__ is right
    assert "using yours" in capsys.readouterr().out


def test_strict_makes_open_exercises_an_error(lab, monkeypatch):
    monkeypatch.setenv("LABS_STRICT", "1")
    for attempt, state in ((stub, "unsolved"), (wrong, "failed")):
        lab.exercise("0.1")(attempt)
        with pytest.raises(ExerciseOpen, match=f"Exercise 0.1 {state}"):
            lab.check("0.1")
    lab.exercise("0.1")(right)
    lab.check("0.1")


def test_wrong_numbers_are_explained(lab):
    with pytest.raises(LabError, match=r"no exercise '0.7': it has 0.1"):
        lab.exercise("0.7")
    with pytest.raises(LabError, match=r"Run the cell that defines exercise 0\.1"):
        lab.check("0.1")
    with pytest.raises(LabError, match="There is no lab '77'"):
        Lab("77", scale="ci")


def test_headless_runs_do_not_tick_off_exercises(lab, tmp_path):
    lab.exercise("0.1")(right)
    assert not (tmp_path / "progress.json").exists()


def test_progress_counts_tries_and_keeps_a_pass(lab, person, tmp_path):
    lab.exercise("0.1")(wrong)
    lab.exercise("0.1")(right)
    lab.exercise("0.1")(wrong)
    saved = json.loads((tmp_path / "progress.json").read_text())
    assert saved["exercises"]["0.1"] == {"passed": True, "state": "failed", "tries": 3}


def test_unreadable_progress_is_kept_aside(person, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    (tmp_path / "progress.json").write_text("{half a fi")
    progress.note("quiz", "00.1", "yes")
    assert (tmp_path / "progress.unreadable.json").read_text() == "{half a fi"
    assert progress.recall("quiz", "00.1") == "yes"
    assert "kept as progress.unreadable.json" in capsys.readouterr().out


def test_a_full_disk_loses_nothing(person, monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    progress.note("quiz", "00.1", "yes")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labsupport.exercise.progress.os.fsync", full)
    with pytest.raises(LabError, match="No space left on device"):
        progress.note("quiz", "00.2", "no")
    monkeypatch.undo()
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    assert progress.recall("quiz", "00.1") == "yes"


# --- what a check says ---------------------------------------------------------


def halved(x_N: torch.Tensor, T: float) -> torch.Tensor:
    return x_N / T


def one_probe():
    return [(torch.tensor([2.0, 4.0]), 2.0)]


HALVED = Exercise(
    id="9.9",
    title="divide",
    minutes=1,
    difficulty=1,
    ours=halved,
    checks=(
        ("values", same_as(halved, one_probe)),
        ("gradient", same_gradient(halved, one_probe)),
    ),
    probes=one_probe,
    wrong=(),
    hints=("Divide.",),
)


def test_an_error_of_torch_is_no_stub():
    """PyTorch raises NotImplementedError itself, for `^` between tensors."""
    assert run_checks(HALVED, lambda x, T: stub(x, T)).state == "unsolved"
    verdict = run_checks(HALVED, lambda x, T: x / (T ^ (2 * x)))
    assert verdict.state == "failed"
    assert "`^` is no power: write `**`" in verdict.message
    assert "`^` is no power" in run_checks(HALVED, lambda x, T: x / T ^ 1).message
    assert "`^` is no power" in run_checks(HALVED, lambda x, T: x * (T ^ 2)).message


def test_an_input_changed_in_place_is_named():
    def spoils(x_N, T):
        x_N /= T
        return x_N

    verdict = run_checks(HALVED, spoils)
    assert "Asked: x_N left as it is" in verdict.message
    assert "changed in place" in verdict.message


def test_a_check_says_at_which_numbers():
    message = run_checks(HALVED, lambda x, T: x).message
    assert "Asked: the reference at T = 2 = [1, 2] of shape (2,)" in message
    message = run_checks(HALVED, lambda x, T: x.detach() / T + 0 * x).message
    assert "Asked: the gradient of x_N at T = 2" in message


def test_a_tuple_of_one_is_shown_as_one():
    message = run_checks(HALVED, lambda x, T: (x / T,)).message
    assert "Yours: a tuple with [1, 2] of shape (2,)" in message

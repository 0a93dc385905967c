"""Lab 00 in a kernel: whose RMSNorm is it that trains, here and on the ranks?"""

import pytest
from nbclient import NotebookClient

from labsupport.build.names import source_path
from labsupport.build.render import render

CELLS = (
    "parameters",
    "setup",
    "corpus",
    "exercise-0-1",
    "exercise-0-1-check",
    "mine",
    "parallel",
    "torchrun-two",
)
# Prints once per process, so that the output shows where it ran.
RIGHT = """
@lab.exercise("0.1")
def rms_norm(x_BTD, weight_D, eps=1e-6):
    if not hasattr(torch, "said"):
        torch.said = print("the reader's norm runs here")
    return x_BTD * (x_BTD.pow(2).mean(-1, True) + eps) ** -0.5 * weight_D
"""
WRONG = """
@lab.exercise("0.1")
def rms_norm(x_BTD, weight_D, eps=1e-6):
    if not hasattr(torch, "said"):
        torch.said = print("the reader's norm runs here")
    return x_BTD * torch.rsqrt(x_BTD.pow(2).mean(1, True) + eps) * weight_D
"""


def run(exercise: str | None, monkeypatch, tmp_path, extra: str = "") -> dict[str, str]:
    """Run the cells named above; returns what each one printed or showed."""
    monkeypatch.setenv("LABS_SCALE", "ci")
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    name = "00_start_here"
    notebook = render(source_path(name).read_text(), "reader", name)
    notebook.cells = [cell for cell in notebook.cells if cell.id in CELLS]
    for cell in notebook.cells:
        if cell.id == "exercise-0-1" and exercise:
            cell.source = exercise
        if cell.id == "exercise-0-1-check":
            cell.source += extra
    NotebookClient(notebook, timeout=120).execute()
    return {
        cell.id: "".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "")
            for output in cell.get("outputs", [])
        )
        for cell in notebook.cells
    }


@pytest.mark.notebook
@pytest.mark.distributed
def test_a_right_solution_is_what_trains_also_on_the_ranks(monkeypatch, tmp_path):
    shown = run(RIGHT, monkeypatch, tmp_path)
    assert "0.1: using yours" in shown["exercise-0-1"]
    assert "equal to 1e-4:  True" in shown["mine"]
    assert "[rank 1] the reader's norm runs here" in shown["torchrun-two"]


@pytest.mark.notebook
@pytest.mark.distributed
@pytest.mark.slow
def test_a_wrong_solution_falls_back_with_its_badge(monkeypatch, tmp_path):
    shown = run(WRONG, monkeypatch, tmp_path)
    assert "yours failed its check, using ours" in shown["exercise-0-1"]
    assert "the mean runs over time" in shown["exercise-0-1-check"]
    assert "equal to 1e-4:  True" in shown["mine"]
    assert "reader's norm" not in shown["torchrun-two"]


@pytest.mark.notebook
@pytest.mark.distributed
@pytest.mark.slow  # the processes primer's test forces one, too
def test_a_wrong_solution_can_be_forced_to_watch_it_break(monkeypatch, tmp_path):
    shown = run(WRONG, monkeypatch, tmp_path, extra='\nlab.mine("0.1")')
    assert "although it failed its check" in shown["exercise-0-1-check"]
    assert "equal to 1e-4:  False" in shown["mine"]
    assert "[rank 1] the reader's norm runs here" in shown["torchrun-two"]


@pytest.mark.slow  # in CI nbval runs the reader's edition, which is unsolved
@pytest.mark.notebook
@pytest.mark.distributed
def test_unsolved_uses_ours_everywhere(monkeypatch, tmp_path):
    shown = run(None, monkeypatch, tmp_path)
    assert "not attempted yet, using ours" in shown["exercise-0-1"]
    assert "equal to 1e-4:  True" in shown["mine"]
    assert "[rank 1] rank 1:" in shown["torchrun-two"]

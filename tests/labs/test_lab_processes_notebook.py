"""The processes primer in a kernel: whose functions run on the real ranks?"""

import pytest
from nbclient import NotebookClient

from labsupport.build.names import source_path
from labsupport.build.render import render

pytestmark = [pytest.mark.notebook, pytest.mark.distributed]

CELLS = (
    "parameters",
    "setup",
    "shift",
    "ring",
    "ring-check",
    "ring-run",
    "dispatch",
    "real",
    "real-check",
)
RIGHT = """
@lab.exercise("P.4")
def ring_all_reduce(x_N, dist):
    rank, W = dist.get_rank(), dist.get_world_size()
    if x_N.numel() > 1000:
        print("the reader's ring runs here")
    chunks = x_N.view(W, -1)
    for step in range(2 * (W - 1)):
        arrived = shift(chunks[(rank - step) % W], dist)
        place = (rank - step - 1) % W
        chunks[place] = arrived + (chunks[place] if step < W - 1 else 0)
    return x_N
"""
WRONG = RIGHT.replace("if step < W - 1 else 0", "").replace("print(", "str(")


def run(ring: str, monkeypatch, tmp_path, extra: str = "") -> dict[str, str]:
    """Run the cells named above on 3 ranks; what each one printed or showed."""
    monkeypatch.setenv("LABS_SCALE", "ci")
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    name = "primers/processes"
    notebook = render(source_path(name).read_text(), "reader", name)
    notebook.cells = [cell for cell in notebook.cells if cell.id in CELLS]
    for cell in notebook.cells:
        if cell.id == "parameters":
            cell.source += "\nworld = 3"
        if cell.id == "ring":
            cell.source = ring
        if cell.id == "ring-check":
            cell.source += extra
    NotebookClient(notebook, timeout=120).execute()
    return {
        cell.id: "".join(
            output.get("text", "") or output.get("data", {}).get("text/plain", "")
            for output in cell.get("outputs", [])
        )
        for cell in notebook.cells
    }


@pytest.mark.slow  # lab 00's notebook does so in CI
def test_a_right_ring_is_what_runs_on_the_ranks(monkeypatch, tmp_path):
    shown = run(RIGHT, monkeypatch, tmp_path)
    assert "P.4: using yours" in shown["ring"]
    assert "[rank 2] the reader's ring runs here" in shown["real"]
    assert "ring equals dist.all_reduce: True" in shown["real-check"]
    assert "rows lost: 0" in shown["real-check"]


def test_a_wrong_ring_is_explained_and_can_be_forced(monkeypatch, tmp_path):
    shown = run(WRONG, monkeypatch, tmp_path, extra='\nlab.mine("P.4")')
    assert "yours failed its check, using ours" in shown["ring"]
    assert "the sums are complete by then" in shown["ring-check"]
    assert "every rank holds the sum: False" in shown["ring-run"]
    assert "ring equals dist.all_reduce: False" in shown["real-check"]

"""`--traffic`, `--link` and `log` in a cell; their parts have tests of their own."""

from __future__ import annotations

import pytest

from labsupport.distributed import launch
from labsupport.errors import LabError
from tests.torchrun_notebook import Notebook

pytestmark = pytest.mark.distributed

REDUCE = """
import time
x = torch.ones(500_000)
dist.all_reduce(x)
dist.barrier()
start = time.monotonic()
with count_traffic() as step:
    dist.all_reduce(x)
seconds = time.monotonic() - start
dist.barrier()
share("seconds", seconds)
share("sent", step["all_reduce"].ideal_sent)
log(1, seconds=seconds)
"""
TABLE = """\
counted on each of 2 ranks  calls  handed in  ideal sent
all_reduce                      2   4.000 MB    4.000 MB
barrier                         2        0 B         0 B
"""


def test_traffic(notebook: Notebook, capfd: pytest.CaptureFixture[str]) -> None:
    notebook.torchrun("--nproc 2 --name dp --traffic", REDUCE)
    out = capfd.readouterr().out
    assert TABLE in out
    assert "each rank's sockets: 4.0 MB sent (1.00 x ideal)" in out
    dp = notebook.names["dp"]
    assert dp.stack("sent").tolist() == [2_000_000, 2_000_000]
    assert dp.traffic[1]["all_reduce"].calls == 2
    assert set(dp.traffic.table()["rank"]) == {0, 1}
    assert list(dp.metrics.columns) == ["rank", "step", "seconds"]
    assert dp.metrics["rank"].tolist() == [0, 1]

    with pytest.raises(LabError, match="rank 1 of 2: ValueError"):
        notebook.torchrun(
            "--nproc 2 --name dp --traffic",
            "dist.all_reduce(x)\nif rank: raise ValueError\ndist.barrier()",
        )
    assert notebook.names["dp"].traffic[1]["all_reduce"].calls == 1, (
        "written all the same"
    )
    notebook.torchrun("--nproc 2 --name dp", "")
    with pytest.raises(LabError, match="add --traffic"):
        _ = notebook.names["dp"].traffic


def check_times(notebook: Notebook) -> None:
    """2 MB over 100 Mbit/s: 160 ms; over 50 Mbit/s: 320 ms, for both ranks."""
    seconds = notebook.names["dp"].stack("seconds")
    assert seconds.min() > 0.30
    assert seconds.max() < 3, "a busy machine is slower, but not by that"


@pytest.mark.skipif(launch.why_not_shaped() is not None, reason="no shaped links here")
def test_shaped_links(notebook: Notebook, capfd: pytest.CaptureFixture[str]) -> None:
    """One slow rank slows both; and the next cell is at full speed again."""
    notebook.torchrun("--nproc 2 --name dp --link 100mbit --link-rank 1=50mbit", REDUCE)
    assert "links shaped by tc tbf" in capfd.readouterr().out
    check_times(notebook)
    notebook.torchrun("--nproc 2 --name dp", REDUCE)
    assert "links" not in capfd.readouterr().out
    assert notebook.names["dp"].stack("seconds").min() < 0.16


def test_emulated_links(
    notebook: Notebook,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "why_not_shaped", lambda: "no permission")
    links = "--link 100mbit,1ms --link-rank 1=50mbit"
    notebook.torchrun(f"--nproc 2 --name dp {links} --keep", REDUCE)
    assert (
        "links emulated in the ranks' calls: no permission\n" in capfd.readouterr().out
    )
    check_times(notebook)
    again = REDUCE.replace("import time", "")
    notebook.run(f"%%torchrun --nproc 2 --name dp {links} --keep\n{again}")
    check_times(notebook)
    notebook.run("%%torchrun --nproc 2 --name dp --keep\nshare('x', 'x' in globals())")
    assert "dp had other links: new processes" in capfd.readouterr().out
    assert notebook.names["dp"][0].x is False

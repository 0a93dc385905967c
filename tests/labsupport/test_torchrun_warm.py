"""Warm ranks: as clean as new processes, and gone when nobody needs them."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from labsupport.distributed import RanksFailed
from tests.torchrun_notebook import START_LINES, Notebook, below, is_agent, until

pytestmark = pytest.mark.distributed

WHO = """
import os, random, sys, threading
import numpy, torch
share("parent", os.getppid())
share("pid", os.getpid())
share("threads", len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 2)
share("cuda", torch.cuda.is_initialized())
share("python", random.random())
share("numpy", numpy.random.rand())
share("torch", torch.rand(3))
share("where", os.getcwd())
"""


def agents(notebook: Notebook) -> set[int]:
    return {p.pid for p in below(notebook.home) if is_agent(p)}


def test_forked_ranks_are_like_new_processes(
    notebook: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one notebook: each cell with the state that a script would have."""
    notebook.run(f"%%torchrun --nproc 2 --name one\n{WHO}\nsys.left = 1")
    one = notebook.names["one"]
    if sys.platform == "linux":
        assert one[0].parent == one[1].parent, "both are copies of the fork server"
    # The rank itself, and the one that watches the kernel's pipe.
    assert one.stack("threads").tolist() == [2, 2], "the server had one thread"
    assert one.stack("cuda").tolist() == [False, False]
    assert one[0].python != one[1].python, "as two processes that seed themselves"
    assert one[0].numpy != one[1].numpy
    assert not one[0].torch.equal(one[1].torch)

    (notebook.home / "below").mkdir()
    os.chdir(notebook.home / "below")
    before = agents(notebook)
    notebook.run(
        f"%%torchrun --nproc 2 --name two\n{WHO}\n"
        "share('left', hasattr(sys, 'left'))\n"
        "import atexit, tempfile\n"
        "atexit.register(print, 'at exit')\n"
        "threading.Timer(0.1, print, ['from a thread']).start()\n"
        "folder = tempfile.TemporaryDirectory(dir='.')"
    )
    two = notebook.names["two"]
    assert agents(notebook) == before, "the second cell used the same server"
    assert not two[0].left, "a cell leaves nothing to the next"
    assert two[0].where == str(notebook.home / "below")
    out = capfd.readouterr().out
    assert out == "".join(
        f"{lead}{line}\n"
        for lead in ("", "[rank 1] ")
        for line in ("from a thread", "at exit")
    )
    assert list((notebook.home / "below").iterdir()) == [], "temporary folders are gone"


@pytest.mark.slow
def test_a_new_server_when_it_is_asked_for_or_needed(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def server(options: str = "") -> int:
        mine = "share('mine', os.environ.get('MINE'))"
        notebook.run(f"%%torchrun --nproc 1 {options}\n{WHO}\n{mine}")
        return int(notebook.names["ranks"][0].parent)

    first = server()
    second = server("--fresh")
    assert second != first
    monkeypatch.setenv("MINE", "set in the notebook")
    third = server()
    assert third != second, "libraries read the environment when they are imported"
    assert notebook.names["ranks"][0].mine == "set in the notebook"
    psutil.Process(third).kill()  # the fork server
    fourth = server()
    assert fourth != third
    psutil.Process(psutil.Process(fourth).ppid()).kill()  # the agent
    fifth = server()
    assert fifth != fourth
    assert server() == fifth


@pytest.mark.slow
def test_an_idle_server_leaves(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_IDLE_SECONDS", "0.2")
    notebook.run("%%torchrun --nproc 1\nshare('x', 1)")
    until(lambda: not below(notebook.home))
    notebook.run("%%torchrun --nproc 1\nshare('x', 2)")
    assert notebook.names["ranks"][0].x == 2


def test_ranks_may_be_executed_instead(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.setenv("LABS_RANKS", "exec")
    body = "share('x', 1)\nif rank: raise ValueError('boom')\ndist.barrier()"
    with pytest.raises(RanksFailed, match="rank 1 of 2: ValueError: boom"):
        notebook.torchrun("--nproc 2", body)
    assert notebook.names["ranks"][0].x == 1


def test_keep(notebook: Notebook, capfd: pytest.CaptureFixture[str]) -> None:
    """Variables, functions and the process group stay for the next --keep cell."""
    first = """
def step(x):
    dist.all_reduce(x)
    if x > 15 and rank == 0:
        raise ValueError("too much")
    dist.barrier()
    return x
share("x", step(x))
"""
    notebook.torchrun("--nproc 2 --name dp --keep", first)
    notebook.run("%%torchrun --nproc 1 --name other\nshare('x', 'x' in globals())")
    assert notebook.names["other"][0].x is False, "other cells are not affected"
    notebook.names["y"] = 3
    again = "%%torchrun --name dp --keep --push y\nshare('x', step(x * y))"
    notebook.run(again)
    assert notebook.names["dp"].stack("x").flatten().tolist() == [12.0, 12.0]
    notebook.names["y"] = 5
    with pytest.raises(RanksFailed) as caught:
        notebook.run(again)
    assert str(caught.value) == (
        "rank 0 of 2: ValueError: too much\n"
        "  cell line 2, in <module>\n    share('x', step(x * y))\n"
        f"  cell of dp-1 line {START_LINES + 5}, in step\n"
        '    raise ValueError("too much")\n'
        "rank 1 lost its peer"
    )
    capfd.readouterr()
    notebook.run("%%torchrun --name dp --keep\nshare('x', 'x' in globals())")
    assert notebook.names["dp"][0].x is False
    assert capfd.readouterr().out == "", "a failed cell has said that its ranks ended"


@pytest.mark.slow
def test_kept_ranks_that_cannot_go_on(
    notebook: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
import os
n = globals().get("n", 0) + 1
share("n", n)
share("pid", os.getpid())
"""

    def count(options: str) -> int:
        notebook.run(f"%%torchrun --name dp {options}\n{body}")
        return int(notebook.names["dp"][0].n)

    lost = ": new processes, without the earlier cells' variables\n"
    assert count("--keep --nproc 2") == 1
    assert count("--keep --nproc 2") == 2
    assert capfd.readouterr().out == ""
    assert count("--keep --nproc 1") == 1
    assert capfd.readouterr().out == f"dp had 2 processes, not 1{lost}"
    psutil.Process(notebook.names["dp"][0].pid).kill()
    until(lambda: not notebook.processes())
    assert count("--keep --nproc 1") == 1
    assert capfd.readouterr().out == f"a process of dp has ended since{lost}"
    assert count("--keep --nproc 1 --fresh") == 1
    assert count("--nproc 1") == 1
    assert capfd.readouterr().out == ""
    assert not notebook.processes(), "a cell without --keep ends the kept ranks"


END = {
    "exits": "raise SystemExit",
    "is killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}
KERNEL = """
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "labsupport.distributed")
shell.run_cell('''%%torchrun --nproc 1 --keep
x = 1
''')
shell.run_cell('''%%torchrun --nproc 2 --name other
from pathlib import Path
import torch.distributed as dist
dist.init_process_group(backend())
Path(f"up {dist.get_rank()}").touch()
if dist.get_rank() == 0:
    dist.barrier()
while not Path("end").exists():
    pass
''')
"""


SLOW = [pytest.param(when, marks=pytest.mark.slow) for when in ("in a cell", "exits")]


@pytest.mark.parametrize("when", ["is killed", *SLOW])
def test_nothing_outlives_the_kernel(notebook: Notebook, when: str) -> None:
    """Kept ranks, idle agents, and a cell with one rank inside C code."""
    kernel = subprocess.Popen(
        [sys.executable, "-c", KERNEL + END.get(when, "")], start_new_session=True
    )
    try:
        until(lambda: all((notebook.home / f"up {rank}").exists() for rank in (0, 1)))
        assert len(notebook.processes()) == 3, "one kept rank, two of the cell"
        if when in END:
            (notebook.home / "end").touch()
            (notebook.home / "up 1").unlink()
    finally:
        if when not in END:
            kernel.kill()
        kernel.wait(60)
    until(lambda: not below(notebook.home))


ONE_OF_TWO = """
import sys
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
me, other = sys.argv[1:]
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "labsupport.distributed")
for cell in range(2):
    shell.run_cell(f'''%%torchrun --nproc 2 --name dp --timeout 100
import torch, torch.distributed as dist
from pathlib import Path
dist.init_process_group(backend())
Path("{me} {cell}").touch()
while not Path("{other} {cell}").exists():
    pass
x = torch.full((), float({me}))
dist.all_reduce(x)
share("sum", x.item())
''').raise_error()
    print([rank.sum for rank in shell.user_ns["dp"]])
"""


@pytest.mark.slow
def test_two_notebooks_at_once(notebook: Notebook) -> None:
    """Each cell ends only if the other notebook's cell runs at the same time."""
    kernels = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, *names],
            stdout=subprocess.PIPE,
            text=True,
        )
        for names in (("1", "2"), ("2", "1"))
    ]
    said = [kernel.communicate(timeout=120)[0].splitlines() for kernel in kernels]
    assert [lines[-2:] for lines in said] == [["[2.0, 2.0]"] * 2, ["[4.0, 4.0]"] * 2]
    until(lambda: not below(notebook.home))

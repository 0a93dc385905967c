"""The fault table: what a reader sees when a rank fails, and that nothing is left.

All faults run one after another in one notebook, on the same warm agent: a cell
that fails must not spoil the next. After each of them no process of the cell is
alive, no port is taken, and the agent is as it was.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from labsupport.distributed import RanksFailed, kept, launch, pool
from tests.torchrun_notebook import (
    START_LINES,
    Notebook,
    below,
    is_agent,
    shared_memory,
    until,
)

pytestmark = pytest.mark.distributed
LINE = START_LINES + 1
"""The number of a body's first line in the cell."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong on which rank, and what the reader is told.

    Attributes:
        body: run by two ranks, after START.
        says: what the report begins with.
        also: what else it contains.
        rank, kind: of the root cause.
        options: of the cell.
    """

    name: str
    body: str
    says: str
    also: tuple[str, ...] = ()
    rank: int | None = 1
    kind: str = "error"
    options: str = ""


LOST = ("rank 0 lost its peer",)
WAIT = "dist.barrier()\n"
FAULTS = (
    Fault(
        "an exception",
        "def step():\n    raise ValueError('boom')\nif rank:\n    step()\n" + WAIT,
        "rank 1 of 2: ValueError: boom\n"
        f"  cell line {LINE + 3}, in <module>\n    step()\n"
        f"  cell line {LINE + 1}, in step\n    raise ValueError('boom')\n"
        "rank 0 lost its peer",
    ),
    Fault(
        "the survivor complains first",
        "import time\n"
        "try:\n    assert not rank, 'late'\n"
        "except AssertionError:\n"
        "    dist.destroy_process_group()\n    time.sleep(0.5)\n    raise\n" + WAIT,
        "rank 1 of 2: AssertionError: late",
        LOST,
    ),
    Fault(
        "the same bug on all ranks",
        "x.reshape(7)",
        "rank 0 of 2: RuntimeError: shape '[7]' is invalid",
        ("rank 1 failed in the same way",),
        rank=0,
    ),
    Fault(
        "different bugs",
        "if rank:\n    {}['key']\nelse:\n    import time; time.sleep(1); [][1]\n",
        "rank 1 of 2: KeyError: 'key'",
    ),
    Fault(
        "an exception with a cause",
        "try:\n    int('x')\nexcept ValueError as e:\n"
        "    if rank: raise RuntimeError('no number') from e\n" + WAIT,
        "rank 1 of 2: RuntimeError: no number\n  after ValueError: invalid literal",
        LOST,
    ),
    Fault(
        "an exception that cannot be shown",
        "class Bad(Exception):\n    def __str__(self): return 1 / 0\n"
        "if rank: raise Bad\n" + WAIT,
        "rank 1 of 2: Bad: (its message cannot be shown",
        LOST,
    ),
    Fault(
        "endless recursion",
        "def f(n):\n    return f(n + 1)\nif rank:\n    f(0)\n" + WAIT,
        "rank 1 of 2: RecursionError: maximum recursion depth exceeded\n",
        ("more frames ...", *LOST),
    ),
    Fault(
        "too large a tensor",
        "if rank: torch.empty(10**15)\n" + WAIT,
        "rank 1 of 2: RuntimeError: ",
        ("can't allocate memory", *LOST),
    ),
    Fault(
        "sys.exit(3)",
        "if rank: sys.exit(3)\n" + WAIT,
        f"rank 1 of 2 called sys.exit(3)\n  cell line {LINE}, in <module>",
        LOST,
        kind="exit",
    ),
    Fault(
        "sys.exit(text)",
        "if rank: sys.exit('no data')\n" + WAIT,
        "rank 1 of 2 called sys.exit('no data')",
        LOST,
        kind="exit",
    ),
    Fault(
        "sys.exit(0) too early",
        "if rank: sys.exit(0)\n" + WAIT,
        "rank 1 of 2 had already ended (sys.exit(0)) when another rank still needed "
        f"it\nrank 0 waited for it here:\n  cell line {LINE + 1}, in <module>",
        kind="left",
    ),
    Fault(
        "the cell's end too early",
        "if not rank: dist.recv(x, src=1)",
        "rank 1 of 2 had already ended when another rank still needed it",
        ("rank 0 waited for it here:",),
        kind="left",
    ),
    Fault(
        "os._exit(3)",
        "if rank: os._exit(3)\n" + WAIT,
        "rank 1 of 2 ended with exit code 3 and no exception (os._exit?)",
        LOST,
        kind="exit",
    ),
    Fault(
        "os._exit(0)",
        "if rank: os._exit(0)\n" + WAIT,
        "rank 1 of 2 had already ended (os._exit(0)) when another rank",
        kind="left",
    ),
    Fault(
        "an exit code after the last line",
        "import atexit\nif rank: atexit.register(os._exit, 7)\n" + WAIT,
        "rank 1 of 2 ended with exit code 7 and no exception (os._exit?), after the "
        "cell's last line",
        kind="exit",
    ),
    Fault(
        "a segmentation fault",
        "import ctypes\nif rank: ctypes.string_at(0)\n" + WAIT,
        "rank 1 of 2 was killed (SIGSEGV): C code touched memory that is not its own\n"
        f"  cell line {LINE + 1}, in <module>\n",
        LOST,
        kind="killed",
    ),
    Fault(
        "abort() in C code",
        "if rank: os.abort()\n" + WAIT,
        "rank 1 of 2 was killed (SIGABRT): C code gave up; its last words are in the",
        LOST,
        kind="killed",
    ),
    Fault(
        "SIGKILL",
        "if rank: os.kill(os.getpid(), signal.SIGKILL)\n" + WAIT,
        "rank 1 of 2 was killed (SIGKILL): by the cell, by someone else, or by the "
        "system for want of memory",
        LOST,
        kind="killed",
    ),
    Fault(
        "SIGTERM from someone else",
        "if rank: os.kill(os.getpid(), signal.SIGTERM)\n" + WAIT,
        "rank 1 of 2 was killed (SIGTERM): by the cell, or by someone else",
        LOST,
        kind="killed",
    ),
    Fault(
        "SIGINT on one rank",
        "if rank: os.kill(os.getpid(), signal.SIGINT)\n" + WAIT,
        "rank 1 of 2 was interrupted (SIGINT)",
        LOST,
        kind="interrupted",
    ),
    Fault(
        "two sizes in one collective",
        "dist.all_reduce(torch.ones(10 if rank else 1000))",
        "rank 1 of 2 was killed (SIGABRT)",
        ("dist.all_reduce(torch.ones(10 if rank else 1000))",),
        kind="killed",
    ),
    Fault(
        "a dtype that gloo does not know",
        "dist.all_reduce(x.to(torch.float8_e4m3fn))",
        "rank 0 of 2: RuntimeError: Invalid scalar type",
        ("rank 1 failed in the same way",),
        rank=0,
    ),
    Fault(
        "the process group twice",
        "dist.init_process_group()",
        "rank 0 of 2: ValueError: trying to initialize the default process group",
        rank=0,
    ),
    Fault(
        "a value that cannot be sent",
        "share('x', [1, object()])",
        "rank 0 of 2: LabError: x[1] is a object, which cannot be sent: use None,",
        rank=0,
    ),
    Fault(
        "nothing to log",
        "log(1, loss=x.expand(2))",
        "rank 0 of 2: LabError: log(): loss is a Tensor; use a number or a tensor of",
        rank=0,
    ),
    Fault(
        "a name of the notebook",
        "print(in_the_notebook)",
        "rank 0 of 2: NameError: name 'in_the_notebook' is not defined",
        ("add --push in_the_notebook to the first line",),
        rank=0,
    ),
    Fault(
        "a deadlock",
        "dist.recv(x, src=1 - rank)",
        "not finished after 1 s (--timeout), so every rank was ended\n"
        f"rank 0 was here:\n  cell line {LINE}, in <module>\n",
        (f"rank 1 was here:\n  cell line {LINE}, in <module>\n",),
        rank=None,
        kind="timeout",
        options="--timeout 1",
    ),
    Fault(
        "one rank in an endless loop",
        "while rank: pass\n" + WAIT,
        "not finished after 1 s",
        (
            f"rank 0 was here:\n  cell line {LINE + 1}, in <module>\n",
            f"rank 1 was here:\n  cell line {LINE}, in <module>\n    while rank: pass",
        ),
        rank=None,
        kind="timeout",
        options="--timeout 1",
    ),
    Fault(
        "a stopped rank",
        "if rank: os.kill(os.getpid(), signal.SIGSTOP)\n" + WAIT,
        "not finished after 1 s",
        ("rank 1 did not answer: stopped, or in C code",),
        rank=None,
        kind="timeout",
        options="--timeout 1",
    ),
    Fault(
        "a thread that never ends",
        "import time\nfrom threading import Thread\n"
        "Thread(target=time.sleep, args=[99]).start()",
        "not finished after 1 s",
        ("rank 1 had run the whole cell",),
        rank=None,
        kind="timeout",
        options="--timeout 1",
    ),
)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One notebook for the whole table."""
    home = tmp_path_factory.mktemp("faults") / "my läbs"
    home.mkdir()
    main, before = sys.modules["__main__"], Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABS_HOME", str(home))
        patch.setattr(launch, "_said", {"slow", "gloo"})
        patch.chdir(home)
        notebook = Notebook(home)
        notebook.names["in_the_notebook"] = 1
        notebook.torchrun("--nproc 2", "")
        yield notebook
        kept.end_kept()
        pool.end_idle()
    os.chdir(before)
    sys.modules["__main__"] = main
    until(lambda: not below(home), 10)
    assert not list(Path(tempfile.gettempdir()).glob(f"labs-{os.getpid()}-*"))


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_fault(warm: Notebook, fault: Fault, capfd: pytest.CaptureFixture[str]) -> None:
    (agent,) = [p for p in below(warm.home) if p.pid == os.getsid(p.pid)]
    memory = set(shared_memory())
    with pytest.raises(RanksFailed) as caught:
        warm.torchrun(f"--nproc 2 {fault.options}", fault.body)
    report = str(caught.value)
    assert report.startswith(fault.says)
    for part in fault.also:
        assert part in report
    error = warm.names["ranks"].error
    assert (error.rank, error.kind) == (fault.rank, fault.kind)
    shown = report + capfd.readouterr().out
    assert str(warm.home) not in shown, "no folder of this machine"
    assert "site-packages" not in shown
    assert not re.search(r"File .*worker\.py", shown), "none of the course's frames"

    assert not warm.processes(), "the cell's processes have ended"
    assert agent.is_running(), "the agent serves the next cell"
    ports = [c for p in below(warm.home) for c in p.net_connections("inet")]
    assert not ports, "no port stays taken"
    assert all(is_agent(process) for process in below(warm.home))
    assert set(shared_memory()) <= memory, "no shared memory"


def test_out_of_memory_is_named(
    warm: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own count of processes that it has ended grows meanwhile."""
    counts = iter([7, 8])
    monkeypatch.setattr(launch, "oom_kills", lambda: next(counts))
    with pytest.raises(RanksFailed) as caught:
        warm.torchrun("--nproc 2", "if rank: os.kill(os.getpid(), 9)\n" + WAIT)
    assert str(caught.value).startswith(
        "rank 1 of 2 was killed (SIGKILL): the system was out of memory and has ended "
        "a process"
    )


def test_what_a_failed_cell_leaves_running_is_ended(warm: Notebook) -> None:
    with pytest.raises(RanksFailed):
        warm.torchrun(
            "--nproc 2",
            "import subprocess\n"
            "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
            "if rank: raise ValueError\n" + WAIT,
        )
    assert not warm.processes()


def test_the_agent_itself_fails(warm: Notebook) -> None:
    """Killed in the middle of a cell: the cell does not run a second time."""
    with pytest.raises(RanksFailed) as caught:
        warm.torchrun(
            "--nproc 2",
            "with open('times', 'a') as file: file.write('x')\n"
            "dist.barrier()\n"
            "import psutil\n"
            "if rank: psutil.Process(os.getppid()).parent().kill()\n"
            "while True: pass",
        )
    assert str(caught.value).startswith("torchrun itself ended with exit code -9")
    assert Path("times").read_text() == "xx"
    until(lambda: not below(warm.home))
    warm.torchrun("--nproc 2", "share('x', 1)")
    assert [rank.x for rank in warm.names["ranks"]] == [1, 1]


def test_much_output_of_every_kind(
    warm: Notebook, capfd: pytest.CaptureFixture[str]
) -> None:
    """5 MB of prints on one rank, binary noise and a progress bar on the other."""
    warm.torchrun(
        "--nproc 2",
        """
if rank == 0:
    for i in range(50_000):
        print(f"{i:07d} {'x' * 92}")
else:
    os.write(1, bytes(range(256)) * 40 + b"\\n")
    for i in range(1000):
        print(f"\\r{i} of 1000", end="", file=sys.stderr)
    os.write(2, b"\\nlast words\\n")
dist.barrier()
""",
    )
    out = capfd.readouterr().out
    assert len(out.encode()) < 200_000
    assert "0000000 xxx" in out
    assert "0049999 xxx" in out
    assert "kB more in" in out
    assert out.endswith("[rank 1] 999 of 1000\n[rank 1] last words\n")
    log = Path(warm.home / warm.names["ranks"].folder.partition("/")[2] / "rank0.log")
    assert log.stat().st_size == 50_000 * 101


def test_own_processes_only(warm: Notebook) -> None:
    """A stranger that only looks like a worker is left alone."""
    stranger = psutil.Popen(
        [sys.executable, "-c", "input()", "labsupport.distributed.worker"],
        stdin=-1,
        env={**os.environ, "LABS_POOL": "another notebook's"},
    )
    try:
        with pytest.raises(RanksFailed):
            warm.torchrun("--nproc 2 --timeout 1", "dist.recv(x, src=1 - rank)")
        assert stranger.is_running()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()

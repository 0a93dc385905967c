"""Start the agent, watch the run, end what is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from labsupport.distributed import failures, processes
from labsupport.distributed.folders import RunFolder, read_json, write_json
from labsupport.distributed.output import Screen
from labsupport.distributed.ranks import RankError, Ranks, RunInterrupted
from labsupport.errors import LabError
from labsupport.settings import is_interactive

LOOK_EVERY_S = 0.1
RANKS_PER_CORE = 16
# What a kernel inside another torchrun, or a shell, may have set.
NOT_INHERITED = ("TORCHELASTIC_", "PET_", "LABS_RUN", "LABS_BACKEND")
NOT_INHERITED_NAMES = (
    "RANK LOCAL_RANK GROUP_RANK ROLE_RANK WORLD_SIZE LOCAL_WORLD_SIZE "
    "GROUP_WORLD_SIZE ROLE_WORLD_SIZE ROLE_NAME MASTER_ADDR MASTER_PORT"
).split()
_said: set[str] = set()


def say_once(key: str, sentence: str) -> None:
    """Print a remark about this machine once per kernel, not once per cell."""
    if key not in _said:
        _said.add(key)
        print(sentence, flush=True)


def cores() -> int:
    """The CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_size(nproc: int) -> None:
    """Refuse what would only make the machine unusable; warn of what is slow."""
    if os.name == "nt":
        raise LabError("%%torchrun needs Linux or macOS; on Windows, use WSL.")
    most = RANKS_PER_CORE * cores()
    if nproc > most:
        raise LabError(
            f"--nproc {nproc} is too many for {cores()} CPU cores: use at most {most}."
        )
    if nproc > cores():
        say_once(
            "slow", f"{nproc} processes share {cores()} CPU cores: correct, but slow"
        )


def environment(folder: RunFolder) -> dict[str, str]:
    """The kernel's environment, and what makes a rank this run's."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(NOT_INHERITED) and name not in NOT_INHERITED_NAMES
    }
    env["LABS_RUN"] = str(folder.path)
    env["PYTHONUNBUFFERED"] = "1"
    env["MPLBACKEND"] = "Agg"  # a kernel's inline backend has no notebook here
    env.setdefault("OMP_NUM_THREADS", "1")
    # Warnings of torch's C++ code carry times and addresses; errors stay.
    env.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return env


def start(folder: RunFolder, nproc: int) -> subprocess.Popen[bytes]:
    """Start the agent. Its stdin is the lifeline; see lifeline.py.

    In a session of its own: Jupyter's interrupt goes to the kernel's process
    group, and what happens to the ranks then is for the kernel to decide.
    """
    write_json(folder.import_path, [os.path.abspath(entry) for entry in sys.path])  # noqa: PTH100
    with folder.agent_log.open("wb") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "labsupport.distributed.agent",
                str(folder.path),
                str(nproc),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(folder),
            start_new_session=True,
        )


def say_machine(folder: RunFolder, nproc: int) -> bool:
    """Say which backend there is, if it is not the one a reader expects."""
    machine = read_json(folder.machine)
    if machine is None:
        return False
    gpus = machine["gpus"]
    if machine["backend"] == "gloo":
        if gpus == 0:
            say_once("gloo", "no GPU: gloo on CPU")
        else:
            say_once("few", f"{nproc} processes, {gpus} GPU: gloo on CPU")
    return True


def watch(
    agent: subprocess.Popen[bytes],
    folder: RunFolder,
    nproc: int,
    timeout: float,
    screen: Screen,
) -> RankError | None:
    """Show output until the agent ends or the time is up."""
    deadline = time.monotonic() + timeout if timeout else float("inf")
    machine_said = False
    while True:
        try:
            exitcode = agent.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            exitcode = None
        machine_said = machine_said or say_machine(folder, nproc)
        screen.update()
        if exitcode is not None:
            return outcome(folder, exitcode)
        if time.monotonic() > deadline:
            asked = processes.ask_for_stacks(folder, nproc)
            return failures.timed_out(folder, nproc, timeout, asked)


def outcome(folder: RunFolder, exitcode: int) -> RankError | None:
    """The root cause once the agent has ended."""
    end = read_json(folder.agent_end)
    if end is None or end["error"]:
        return failures.launch_failed(folder, exitcode)
    codes = {int(rank): code for rank, code in end["exitcodes"].items()}
    return failures.diagnose(folder, codes)


def run(folder: RunFolder, nproc: int, timeout: float) -> Ranks:
    """Run the cell in `folder` on `nproc` ranks and wait for it.

    Raises:
        RunInterrupted: the reader stopped the cell; all processes have ended.
    """
    screen = Screen(folder, nproc, is_interactive())
    agent: subprocess.Popen[bytes] | None = None
    interrupted = False
    error = None
    try:
        agent = start(folder, nproc)
        error = watch(agent, folder, nproc, timeout, screen)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        end_run(agent, folder, nproc, gently=interrupted)
    screen.finish()
    shared = [read_values(folder, rank) for rank in range(nproc)]
    folder.finished.touch()
    if interrupted:
        processes_ = "process" if nproc == 1 else "processes"
        raise RunInterrupted(f"stopped; all {nproc} {processes_} have ended")
    return Ranks(shared, error, folder.shown)


def end_run(
    agent: subprocess.Popen[bytes] | None, folder: RunFolder, nproc: int, gently: bool
) -> None:
    """No process of the run is left when this returns, not even if the reader
    interrupts a second time.
    """
    try:
        processes.end_all(folder, nproc, gently)
    except KeyboardInterrupt:
        processes.end_all(folder, nproc, gently=False)
    if agent is not None:
        assert agent.stdin is not None
        agent.stdin.close()
        agent.wait()


def read_values(folder: RunFolder, rank: int) -> dict[str, Any]:
    """What one rank shared, by name, in the order of sharing."""
    place = folder.values(rank)
    if not place.is_dir():
        return {}
    from labsupport.distributed import values

    files = sorted(
        place.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns
    )
    return {path.stem: values.load(path) for path in files}

"""One rank: runs the cell's body as `__main__`.

    python -u -m labsupport.distributed.worker RUN_FOLDER     (torchrun does it)

or the same in a copy of a warm process (forked.py). Everything that is printed,
by Python or by C code, goes to the rank's log. How the rank ended goes to its
end file; see folders.py.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import IO, Any

from labsupport.distributed.folders import RunFolder, read_json, write_json
from labsupport.distributed.lifeline import close_stdin, end_with_the_kernel
from labsupport.distributed.network import enter_network
from labsupport.distributed.rank_api import EVERYWHERE

# A rank that lost its peer waits for the SIGTERM with which torchrun ends it, at
# most this long: were it faster than its peer, torchrun would end the peer too,
# and nobody would know how that one ended by itself.
GRACE_S = 1.0
# How often a kept rank looks whether there is another cell to run.
LOOK_EVERY_S = 0.02


def redirect_output(log: Path) -> None:
    """Send file descriptors 1 and 2 to the log: C code writes there too."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        # Started with PYTHONUNBUFFERED: what is printed is in the log at once.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]


def c_library() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def buffer_c_output_by_line() -> None:
    """C's stdout holds back 4 KiB when it is a file; make it one line."""
    import ctypes

    with contextlib.suppress(OSError, ValueError, AttributeError):
        name = "__stdoutp" if sys.platform == "darwin" else "stdout"
        stdout = ctypes.c_void_p.in_dll(c_library(), name)
        line_buffered = 1  # _IOLBF in glibc, musl and on macOS
        c_library().setvbuf(stdout, None, line_buffered, 0)


def main() -> None:
    """A rank that torchrun has started as a program."""
    enter_network(int(os.environ["LOCAL_RANK"]))
    end_with_the_kernel()
    close_stdin()
    run_rank(RunFolder(Path(sys.argv[1])))


def run_forked(folder: str, env: dict[str, str]) -> None:
    """A rank that was forked: become what a program of its own would be."""
    os.setsid()
    os.environ.update(env)
    enter_network(int(env["LOCAL_RANK"]))
    from labsupport.distributed.preload import LIFELINE

    end_with_the_kernel(LIFELINE)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    reseed()
    try:
        run_rank(RunFolder(Path(folder)))
    finally:  # multiprocessing leaves with os._exit, which skips these
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()


def reseed() -> None:
    """Copies of one process would all draw the same numbers. New processes
    would not, and a cell that forgets to seed has to show it. (Python reseeds
    its own generator after a fork.)
    """
    import numpy as np
    import torch

    np.random.seed()
    torch.default_generator.seed()


def run_rank(folder: RunFolder) -> None:
    """Run the cell, and the cells after it for as long as they ask for that."""
    rank = int(os.environ["LOCAL_RANK"])
    names: dict[str, Any] | None = None
    while True:
        stacks = start_in(folder, rank)  # noqa: F841  (open as long as it is needed)
        settings = read_json(folder.settings)
        sys.path += [entry for entry in settings["sys_path"] if entry not in sys.path]
        if names is None:
            os.chdir(settings["cwd"])
            names = main_module(folder).__dict__
            start_throttle(folder, rank)
        names["__file__"] = str(folder.cell)
        sys.argv = [str(folder.cell)]
        try:
            if settings["traffic"]:
                start_counting()
            run_body(folder, names)
            stop_counting(folder, rank)
            if not settings["keep"]:
                stop_throttle(hurry=False)
                leave_process_group()
        except BaseException as error:
            fail(folder, rank, error)
        c_library().fflush(None)
        write_json(folder.end(rank), {"kind": "done"})
        if not settings["keep"]:
            return
        folder = wait_for_next(folder)


def start_in(folder: RunFolder, rank: int) -> IO[str]:
    """Make the folder the place of this rank's output; returns the stacks file."""
    os.environ["LABS_RUN"] = str(folder.path)
    redirect_output(folder.log(rank))
    buffer_c_output_by_line()
    stacks = folder.stacks(rank).open("w")
    faulthandler.enable(stacks)  # a crash in C code leaves the Python stack
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    folder.pid(rank).write_text(str(os.getpid()))
    if rank == 0:
        first, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        write_json(folder.place, {"first": first, "world": world})
    return stacks


def main_module(folder: RunFolder) -> types.ModuleType:
    """The module in which the cell runs, with what every cell may call."""
    cell = types.ModuleType("__main__")
    cell.__dict__.update(EVERYWHERE)
    sys.modules["__main__"] = cell
    return cell


def run_body(folder: RunFolder, names: dict[str, Any]) -> None:
    """Bring the pushed names, then run the cell."""
    if folder.pushed_values.exists():
        from labsupport.distributed import values

        names.update(values.load(folder.pushed_values))
    for path in (folder.pushed_source, folder.cell):
        if path.exists():
            source = path.read_text(encoding="utf-8")
            exec(compile(source, path, "exec", dont_inherit=True), names)


def start_counting() -> None:
    from labsupport.distributed import traffic

    traffic.start()


def stop_counting(folder: RunFolder, rank: int) -> None:
    """Write what was counted, if anything was; right after a failure too."""
    traffic = sys.modules.get("labsupport.distributed.traffic")
    if traffic is not None and traffic.is_counting():
        traffic.stop_and_write(folder.traffic(rank))


def start_throttle(folder: RunFolder, rank: int) -> None:
    """Emulate this rank's link as far as it is not really shaped."""
    links = read_json(folder.machine)["throttle"]
    if links is not None:
        from labsupport.distributed import throttle
        from labsupport.distributed.link_speed import parse_link

        throttle.start(parse_link(links[rank]))


def stop_throttle(hurry: bool) -> None:
    throttle = sys.modules.get("labsupport.distributed.throttle")
    if throttle is not None:
        throttle.stop(hurry)


def wait_for_next(folder: RunFolder) -> RunFolder:
    """Wait, with all variables and the process group, until a cell comes."""
    while (following := read_json(folder.next)) is None:
        time.sleep(LOOK_EVERY_S)
    return RunFolder(Path(following["folder"]))


def leave_process_group() -> None:
    """What a careful body does itself with destroy_process_group()."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def fail(folder: RunFolder, rank: int, error: BaseException) -> None:
    """Write down how this rank ended, and end it."""
    # A peer may have ended first, and torchrun's SIGTERM be on its way.
    terminated = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from labsupport.distributed.tracebacks import describe

    stop_counting(folder, rank)
    stop_throttle(hurry=True)
    end = {"time": time.time(), **describe(error, folder, rank)}
    write_json(folder.end(rank), end)
    if end["kind"] == "left":  # sys.exit(0) is no failure by itself
        leave_process_group()
        sys.exit(0)
    if end["kind"] == "peer":
        terminated.wait(GRACE_S)
    # os._exit: the ordinary way out tears down a process group whose peers are
    # gone, which may block, and prints noise.
    sys.stdout.flush()
    c_library().fflush(None)
    os._exit(end["exitcode"])


if __name__ == "__main__":
    main()

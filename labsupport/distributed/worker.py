"""One rank: runs the cell's body as `__main__`.

    python -u -m labsupport.distributed.worker RUN_FOLDER     (torchrun does it)

Everything that is printed, by Python or by C code, goes to the rank's log.
How the rank ended goes to its end file; see folders.py.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

from labsupport.distributed.folders import RunFolder, write_json
from labsupport.distributed.lifeline import close_stdin, end_with_the_kernel
from labsupport.distributed.rank_api import backend, share

# A rank that lost its peer waits this long before it exits, so that torchrun
# sees the peer's own exit code and not only the SIGTERM that torchrun sends.
GRACE_S = 1.0


def redirect_output(log: Path) -> None:
    """Send file descriptors 1 and 2 to the log: C code writes there too."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        # torchrun starts Python with -u: what is printed is in the log at once.
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
    end_with_the_kernel()
    close_stdin()
    folder = RunFolder(Path(sys.argv[1]))
    rank = int(os.environ["RANK"])
    redirect_output(folder.log(rank))
    buffer_c_output_by_line()
    stacks = folder.stacks(rank).open("w")
    faulthandler.enable(stacks)  # a crash in C code leaves the Python stack
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    folder.pid(rank).write_text(str(os.getpid()))

    path = json.loads(folder.import_path.read_text(encoding="utf-8"))
    sys.path += [entry for entry in path if entry not in sys.path]
    cell = types.ModuleType("__main__")
    cell.__dict__.update(__file__=str(folder.cell), share=share, backend=backend)
    sys.modules["__main__"] = cell
    sys.argv = [str(folder.cell)]
    try:
        run_body(folder, cell.__dict__)
        leave_process_group()
    except BaseException as error:
        fail(folder, rank, error)
    write_json(folder.end(rank), {"kind": "done"})


def run_body(folder: RunFolder, names: dict[str, Any]) -> None:
    """Bring the pushed names, then run the cell."""
    if folder.pushed_values.exists():
        from labsupport.distributed import values

        names.update(values.load(folder.pushed_values))
    for path in (folder.pushed_source, folder.cell):
        if path.exists():
            source = path.read_text(encoding="utf-8")
            exec(compile(source, path, "exec", dont_inherit=True), names)


def leave_process_group() -> None:
    """What a careful body does itself with destroy_process_group()."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def fail(folder: RunFolder, rank: int, error: BaseException) -> None:
    """Write down how this rank ended, and end it."""
    # A peer may have ended first, and torchrun's SIGTERM be on its way.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from labsupport.distributed.tracebacks import describe

    end = {"time": time.time(), **describe(error, folder, rank)}
    write_json(folder.end(rank), end)
    if end["kind"] == "left":  # sys.exit(0) is no failure by itself
        leave_process_group()
        sys.exit(0)
    if end["kind"] == "peer":
        time.sleep(GRACE_S)
    # os._exit: the ordinary way out tears down a process group whose peers are
    # gone, which may block, and prints noise.
    sys.stdout.flush()
    c_library().fflush(None)
    os._exit(end["exitcode"])


if __name__ == "__main__":
    main()

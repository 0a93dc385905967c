"""Tracebacks and stacks in the reader's own terms: `cell line 7, in step`.

A frame is the reader's own when its code is the cell or a function that the
notebook pushed. Of the library's frames only the innermost is shown, with its
path relative to the library, so that no machine's folders appear.
"""

from __future__ import annotations

import linecache
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from labsupport.distributed.folders import RunFolder
from labsupport.paths import ROOT

MOST_FRAMES = 12
MOST_MESSAGE = 2000  # characters
# What a rank sees when another one has gone: never the root cause.
LOST_PEER = re.compile(
    r"Connection closed by peer|Connection reset|Connection refused|Broken pipe"
    r"|connectFullMesh|[Tt]imed out|[Tt]imeout"
    r"|remote process exited|ncclRemoteError|failed to recv|recvValue failed"
    r"|Failed to send|got 0 bytes|process group .*abort",
)
FAULTHANDLER_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


def describe(error: BaseException, folder: RunFolder, rank: int) -> dict[str, Any]:
    """How the rank ended, for its end file: kind, type, message, lines, exit code.

    Kinds: "error", "peer" (lost its peer), "exit" (sys.exit with a code),
    "left" (sys.exit(0)), "interrupted".
    """
    lines = own_lines(traceback.extract_tb(error.__traceback__), folder)
    whole = "".join(traceback.format_exception(error))
    folder.traceback(rank).write_text(whole, encoding="utf-8")
    try:
        message = str(error).partition("\nException raised from ")[0]  # C++ frames
    except Exception:
        message = "(its message cannot be shown: __str__ failed)"
    end = {
        "kind": "error",
        "type": type(error).__name__,
        "message": message[:MOST_MESSAGE].rstrip(),
        "lines": chain_lines(error, folder) + lines,
        "exitcode": 1,
    }
    if isinstance(error, KeyboardInterrupt):
        end["kind"] = "interrupted"
    elif isinstance(error, SystemExit):
        end |= describe_exit(error)
    elif is_lost_peer(error):
        end["kind"] = "peer"
    return end


def describe_exit(error: SystemExit) -> dict[str, Any]:
    """`sys.exit(x)`: no argument is 0, a string is printed and means 1."""
    code = error.code
    if isinstance(code, str):
        print(code, file=sys.stderr, flush=True)
    number = 0 if code is None else code if isinstance(code, int) else 1
    kind = "left" if number == 0 else "exit"
    call = "sys.exit()" if code is None else f"sys.exit({code!r})"
    return {"kind": kind, "message": call, "exitcode": number & 0xFF}


def is_lost_peer(error: BaseException) -> bool:
    """Whether torch reports that another rank went away or never came.

    Only torch's own errors count: a reader's TimeoutError is a real one.
    """
    distributed = any(
        cls.__module__ == "torch.distributed" for cls in type(error).__mro__
    )
    from_c = type(error) is RuntimeError and "gloo" in str(error)
    return (distributed or from_c) and LOST_PEER.search(str(error)) is not None


def chain_lines(error: BaseException, folder: RunFolder) -> list[str]:
    """One line for each exception that led to this one, the first one first."""
    lines: list[str] = []
    seen = {id(error)}
    while True:
        hidden = error.__suppress_context__
        before = error.__cause__ or (None if hidden else error.__context__)
        if before is None or id(before) in seen:
            return lines
        seen.add(id(before))
        where = own_lines(traceback.extract_tb(before.__traceback__), folder)
        place = f" ({where[-2].strip()})" if len(where) > 1 else ""
        text = str(before).partition("\n")[0]
        lines.insert(0, f"  after {type(before).__name__}: {text}{place}")
        error = before


def own_lines(frames: list[traceback.FrameSummary], folder: RunFolder) -> list[str]:
    """Two lines for every frame that is the reader's, then the innermost
    library frame, if the error came from a library.
    """
    shown: list[list[str]] = []
    for frame in frames:
        label = own_label(frame.filename, folder)
        if label:
            shown.append(two_lines(label, frame.lineno, frame.name, frame.line))
    if len(shown) > MOST_FRAMES:
        left_out = len(shown) - MOST_FRAMES
        half = MOST_FRAMES // 2
        shown[half:-half] = [[f"  ... {left_out} more frames ..."]]
    last = frames[-1] if frames else None
    if last is not None and not own_label(last.filename, folder):
        path = library_path(last.filename)
        shown.append(two_lines(path, last.lineno, last.name, last.line))
    return [line for lines in shown for line in lines]


def two_lines(label: str, number: int | None, name: str, code: str | None) -> list[str]:
    return [f"  {label} line {number}, in {name}", f"    {(code or '').strip()}"]


def own_label(filename: str, folder: RunFolder) -> str | None:
    """ "cell", "pushed" (a function from the notebook), or None.

    A rank that was kept may also be in what an earlier cell has defined: "cell
    of dp-1".
    """
    path = Path(filename)
    if path.parent.parent != folder.path.parent:
        return None
    for known in (folder.cell, folder.pushed_source):
        if path.name == known.name:
            earlier = path.parent != folder.path
            return known.stem + (f" of {path.parent.name}" if earlier else "")
    return None


def library_path(filename: str) -> str:
    """The path inside the library: torch/nn/functional.py."""
    for root in (*site_packages(), f"{ROOT}/", f"{sysconfig.get_path('stdlib')}/"):
        if filename.startswith(root):
            return filename[len(root) :]
    return Path(filename).name


def site_packages() -> tuple[str, ...]:
    """Where packages are installed, each with its final slash."""
    places = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return tuple(dict.fromkeys(f"{place}/" for place in places))


def stack_lines(dump: str, folder: RunFolder) -> list[str]:
    """A faulthandler dump in the form of `own_lines`, outermost frame first.

    Of all threads, the one that runs the cell.
    """
    # faulthandler writes ASCII only: a letter outside becomes \\xfc.
    names = {}
    for path in (folder.cell, folder.pushed_source):
        linecache.checkcache(str(path))
        names[str(path).encode("ascii", "backslashreplace").decode()] = str(path)
    for thread in re.split(r"\n\n|\n(?=Thread |Current thread )", dump):
        frames = [
            traceback.FrameSummary(names.get(file, file), int(number), name)
            for file, number, name in FAULTHANDLER_FRAME.findall(thread)
        ]
        # The cell is run by worker.py, which is run by runpy: leave those out.
        frames.reverse()
        if any(own_label(frame.filename, folder) for frame in frames):
            return own_lines(frames, folder)
    return []

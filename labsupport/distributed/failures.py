"""Which rank is to blame, and the report that says so.

torchrun blames the failure with the smallest time stamp. With gloo that is
often a survivor: it reports "connection closed by peer" before the rank that
raised has finished exiting. So failures are compared by kind first:

    an exception of its own, or an exit code       the cause
    ended by a signal, or interrupted              the cause
    ended early, code 0, while others needed it    the cause
    lost its peer                                  a consequence
    ended by torchrun, because another had failed  a consequence
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from typing import Any

from labsupport.distributed.folders import RunFolder, place, read_json
from labsupport.distributed.ranks import RankError, name_ranks
from labsupport.distributed.tracebacks import stack_lines

SEVERITY = {
    "error": 0,
    "exit": 0,
    "killed": 1,
    "interrupted": 1,
    "left": 2,
    "done": 2,
    "peer": 3,
    "stopped": 4,
}
LIBRARY_FRAME = re.compile(r"  (?!cell|pushed|after|\.\.\.)\S+ line \d+, in ")
CAUSES_OF_SIGNALS = {
    "SIGKILL": "by the cell, by someone else, or by the system for want of memory",
    "SIGSEGV": "C code touched memory that is not its own",
    "SIGBUS": "C code touched memory that is not there; is /dev/shm full?",
    "SIGABRT": "C code gave up; its last words are in the log",
    "SIGTERM": "by the cell, or by someone else",
}


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended.

    Attributes:
        kind: a key of SEVERITY, or "stopped" (by torchrun, after another).
        time: seconds since the epoch, where the rank itself could say.
        lines: the traceback, formatted.
    """

    rank: int
    kind: str
    type: str = ""
    message: str = ""
    time: float = float("inf")
    lines: list[str] = field(default_factory=list)


def how_it_ended(
    folder: RunFolder, rank: int, exitcode: int | None, attempt: int | None = None
) -> RankEnd:
    """Put together what the rank wrote and what torchrun saw.

    Args:
        rank: its number on this machine; the result has its number among all.
    """
    written = folder.end(rank)
    if attempt is not None:
        written = folder.end_of_attempt(attempt, rank)
    number = place(folder, 0)[0] + rank
    end: dict[str, Any] | None = read_json(written)
    if end is not None and end["kind"] != "done":
        keys = ("type", "message", "time", "lines")
        return RankEnd(number, end["kind"], **{key: end[key] for key in keys})
    if exitcode == 0:
        return RankEnd(number, "done" if end else "left", message="os._exit(0)")
    if exitcode is None:
        return RankEnd(number, "stopped")
    where = ", after the cell's last line" if end else ""
    if exitcode > 0:
        message = f"ended with exit code {exitcode} and no exception (os._exit?){where}"
        return RankEnd(number, "exit", f"exit code {exitcode}", message)
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = f"signal {-exitcode}"
    cause = CAUSES_OF_SIGNALS.get(name, "")
    if name == "SIGKILL" and folder.out_of_memory.exists():
        cause = "the system was out of memory and has ended a process"
    message = f"was killed ({name}){where}" + (f": {cause}" if cause else "")
    stack = stack_lines(read_stacks(folder, rank), folder)
    return RankEnd(number, "killed", name, message, lines=stack)


def read_stacks(folder: RunFolder, rank: int) -> str:
    try:
        return folder.stacks(rank).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def diagnose(
    folder: RunFolder, exitcodes: dict[int, int | None], attempt: int | None = None
) -> RankError | None:
    """The root cause among the ranks' ends, or None when all went well.

    Args:
        exitcodes: by local rank, as torchrun saw them; None for a rank that
            torchrun has ended because another had failed.
        attempt: the attempt that torchrun has given up; None for the last one.
    """
    ends = [
        how_it_ended(folder, rank, code, attempt) for rank, code in exitcodes.items()
    ]
    failed = [end for end in ends if end.kind not in ("done", "left")]
    if not failed:
        return None
    suspects = failed
    if all(end.kind in ("peer", "stopped") for end in failed):
        suspects = ends  # someone left without a word
    root = min(suspects, key=lambda end: (SEVERITY[end.kind], end.time, end.rank))
    same = [
        end
        for end in failed
        if (end.kind, end.type, end.message) == (root.kind, root.type, root.message)
    ]
    if root.kind == "error" and same:  # a bug on all ranks: always name the lowest
        root = same[0]
    return RankError(
        rank=root.rank,
        kind="left" if root.kind == "done" else root.kind,
        type="" if root.kind == "left" else root.type,
        message=root.message,
        report=write_report(folder, root, ends),
    )


def write_report(folder: RunFolder, root: RankEnd, ends: list[RankEnd]) -> str:
    """The first failing rank's own lines, then one line for each group of others."""
    first, world = place(folder, len(ends))
    who = f"rank {root.rank} of {world}"
    waiting = [end for end in ends if end.kind == "peer"]
    if root.kind in ("done", "left"):
        how = "" if root.kind == "done" else f" ({root.message})"
        lines = [f"{who} had already ended{how} when another rank still needed it"]
        for end in waiting[:1]:
            lines += [f"rank {end.rank} waited for it here:", *end.lines]
            ends = [other for other in ends if other is not end]
    elif root.kind == "error":
        lines = [f"{who}: {root.type}: {root.message}".rstrip(": "), *root.lines]
    elif root.kind == "exit" and root.type == "SystemExit":
        lines = [f"{who} called {root.message}", *root.lines]
    elif root.kind == "interrupted":
        lines = [f"{who} was interrupted (SIGINT)", *root.lines]
    elif root.kind == "peer":
        lines = [f"{who} lost its peer: {root.message}", *root.lines]
    elif root.kind == "stopped":
        lines = [f"{who} was ended by torchrun"]
    else:
        lines = [f"{who} {root.message}", *root.lines]
    others = [end for end in ends if end.rank != root.rank]
    lines += lines_for_others(root, others)
    if root.kind == "error" and any(map(LIBRARY_FRAME.match, root.lines)):
        traceback = folder.traceback(root.rank - first)
        lines.append(f"(library frames: {folder.shown}/{traceback.name})")
    return "\n".join(lines)


def lines_for_others(root: RankEnd, others: list[RankEnd]) -> list[str]:
    """One line per kind of end, ranks that ended well not mentioned."""

    def line(members: list[RankEnd], text: str) -> list[str]:
        return [f"{name_ranks([m.rank for m in members])} {text}"] if members else []

    same, lost, different = [], [], []
    for end in others:
        if end.kind in ("peer", "stopped"):
            lost.append(end)
        elif end.kind == root.kind == "error" and end.message == root.message:
            same.append(end)
        elif end.kind not in ("done", "left"):
            different.append(end)
    lines = line(same, "failed in the same way")
    for end in different:
        lines.append(f"rank {end.rank}: {end.type}: {end.message}".partition("\n")[0])
    return lines + line(lost, "lost its peer" if len(lost) == 1 else "lost their peer")


def timed_out(
    folder: RunFolder, nproc: int, seconds: float, asked: list[int]
) -> RankError:
    """The report of a run that was ended at its timeout: where each rank was."""
    message = f"not finished after {seconds:g} s (--timeout), so every rank was ended"
    lines = [message]
    first = place(folder, nproc)[0]
    for rank in range(nproc):
        end = read_json(folder.end(rank))
        where = stack_lines(read_stacks(folder, rank), folder) if rank in asked else []
        if where:
            lines += [f"rank {first + rank} was here:", *where]
        elif end is not None:
            lines.append(f"rank {first + rank} had run the whole cell")
        elif rank in asked:
            lines.append(f"rank {first + rank} did not answer: stopped, or in C code")
        else:
            lines.append(f"rank {first + rank} had not started the cell")
    return RankError(None, "timeout", "", message, "\n".join(lines))


def launch_failed(folder: RunFolder, exitcode: int | None) -> RankError:
    """torchrun ended without saying how its ranks did; its last words."""
    end = read_json(folder.agent_end) or {}
    try:
        said = folder.agent_log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        said = ""
    words = (end.get("error") or said).strip().splitlines()[-5:]
    how = "" if exitcode is None else f" with exit code {exitcode}"
    message = f"torchrun itself ended{how}"
    report = "\n".join([message, *words, f"(all of it: {folder.shown}/agent.log)"])
    return RankError(None, "launch", "", message, report)

"""Show what the ranks print, while they print it.

Rank 0 is shown live and plain. The others are shown in JupyterLab in panels
that can be opened while the cell runs, and at the end in one fold; elsewhere
at the end, as lines that begin with `[rank 1]`. The ranks write to files, and
the kernel prints from them: under nbval a child's own output would be lost.
Prints are joined, some twenty a second at most, since Jupyter drops output
above 1 MB/s; and one cell shows 200 kB at most, the rest stays in the log whose
path is printed.
"""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path

from labsupport.distributed.folders import RunFolder, place
from labsupport.distributed.panels import Panels
from labsupport.distributed.ranks import name_ranks
from labsupport.distributed.tracebacks import site_packages

RANK_0_BYTES = 120_000
OTHERS_BYTES = 80_000
TAIL_BYTES = 4_000
LONGEST_LINE = 16_000
CHUNK_BYTES = 1 << 18
# Control characters other than tab, newline, carriage return and escape.
NOISE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]")


class LogReader:
    """Follows one rank's log in whole lines, until enough of it was shown.

    Attributes:
        read_to: bytes of the file taken so far.
        pending: the beginning of a line that is not finished.
        room: bytes that may still be shown.
        full: a line no longer fitted; `read_to` is where it begins.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path = path
        self.read_to = 0
        self.pending = b""
        self.room = most
        self.full = False

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def new_lines(self, last: bool = False) -> list[str]:
        """The lines completed since the last call.

        Args:
            last: nothing more will come, so an unfinished line counts too.
        """
        lines: list[str] = []
        while not self.full and self.size() > self.read_to:
            with self.path.open("rb") as file:
                file.seek(self.read_to)
                new = file.read(CHUNK_BYTES)
            self.read_to += len(new)
            *whole, self.pending = (self.pending + new).split(b"\n")
            while whole and not self.full:
                self.take(whole.pop(0), lines)
            if self.full:  # give back what comes after the line that did not fit
                left = b"\n".join([*whole, self.pending])
                self.read_to -= len(left)
                self.pending = b""
            before, _, bar = self.pending.rstrip(b"\r").rpartition(b"\r")
            if before:  # a progress bar: only its newest state matters
                self.pending = b"\r" + bar
        too_long = len(self.pending) > LONGEST_LINE
        if self.pending and (last or too_long) and not self.full:
            line, self.pending = self.pending, b""
            self.take(line, lines, ended=False)
        return lines

    def take(self, line: bytes, lines: list[str], ended: bool = True) -> None:
        """Add a line if there is room for it."""
        text = clean(line)
        size = len(text.encode()) + 1
        if size > self.room:
            self.full = True
            self.read_to -= len(line) + ended
            return
        self.room -= size
        lines.append(text)

    def progress(self) -> str:
        """What a progress bar shows now: the unfinished line it overwrites."""
        return clean(self.pending) if b"\r" in self.pending else ""

    def rest(self, shown: str) -> list[str]:
        """What to say at the end about a log that was too long: how much is
        missing, where it is, and its last lines.
        """
        if not self.full:
            return []
        lines, size = last_lines(self.path, self.read_to)
        missing = max(0, self.size() - self.read_to - size)
        note = f"[... {missing / 1000:.0f} kB more in {shown} ...]"
        return [note, *lines] if missing > 0 else lines


def last_lines(path: Path, after: int = 0) -> tuple[list[str], int]:
    """A log's last lines from byte `after` on, and how many bytes they are."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(after, size - TAIL_BYTES))
        tail = file.read()
    if start > after:  # begin with a whole line, if there is one
        tail = tail.partition(b"\n")[2] or tail
    return [clean(line) for line in tail.rstrip(b"\n").split(b"\n")], len(tail)


def clean(line: bytes) -> str:
    """Printable text: what a terminal would show of the line in the end."""
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    return NOISE.sub("\ufffd", text.rpartition("\r")[2])


class Screen:
    """Shows the logs of one run."""

    def __init__(self, folder: RunFolder, nproc: int, interactive: bool) -> None:
        self.folder = folder
        self.interactive = interactive
        each = OTHERS_BYTES // max(1, nproc - 1)
        self.readers = [
            LogReader(folder.log(rank), (each if rank else RANK_0_BYTES) - TAIL_BYTES)
            for rank in range(nproc)
        ]
        self.panels = Panels()
        self.bar = ""

    def hide_paths(self, text: str) -> str:
        """A warning names the file it comes from: say `cell` and the library's
        own path instead of this machine's folders.
        """
        text = text.replace(str(self.folder.cell), "cell")
        text = text.replace(str(self.folder.pushed_source), "pushed")
        for packages in site_packages():
            text = text.replace(packages, "")
        return text

    def show(self, text: str) -> None:
        """One print; a progress bar that is on screen is written over first."""
        lead = "\r" if self.bar else ""
        self.bar = ""
        sys.stdout.write(lead + self.hide_paths(text))
        sys.stdout.flush()

    def update(self) -> None:
        """Show what rank 0 has printed since the last call."""
        first = self.readers[0]
        was_full = first.full
        lines = first.new_lines()
        if lines:
            self.show("\n".join(lines) + "\n")
        if first.full and not was_full:
            where = f"{self.folder.shown}/{first.path.name}"
            self.show(f"[rank 0 prints a lot; the rest goes to {where}]\n")
        if not self.interactive:
            return
        bar = first.progress()
        if bar and bar != self.bar:
            self.show(bar)
            self.bar = bar
        self.panels.update(self.other_ranks)

    def other_ranks(self) -> dict[int, list[str]]:
        """The newest lines of every rank after the first, by its number."""
        first = place(self.folder, len(self.readers))[0]
        newest = {}
        for local, reader in enumerate(self.readers[1:], start=1):
            lines = last_lines(reader.path)[0] if reader.size() else []
            newest[first + local] = [self.hide_paths(line) for line in lines]
        return newest

    def finish(self) -> None:
        """Show the end of rank 0's log, then the other ranks."""
        first, *others = self.readers
        self.update()
        self.panels.close()
        name = f"{self.folder.shown}/{first.path.name}"
        lines = first.new_lines(last=True) + first.rest(name)
        if lines:
            self.show("\n".join(lines) + "\n")
        by_rank = {}
        start = place(self.folder, len(self.readers))[0] + 1
        for rank, reader in enumerate(others, start=start):
            lines = reader.new_lines(last=True)
            lines += reader.rest(f"{self.folder.shown}/{reader.path.name}")
            if lines:
                by_rank[rank] = [self.hide_paths(line) for line in lines]
        if not by_rank:
            return
        plain = "".join(
            f"[rank {rank}] {line}\n"
            for rank, lines in by_rank.items()
            for line in lines
        )
        if self.interactive:
            show_fold(by_rank, plain)
        else:
            self.show(plain)


def show_fold(by_rank: dict[int, list[str]], plain: str) -> None:
    """The other ranks' output in JupyterLab, folded."""
    from IPython.display import display

    count = sum(len(lines) for lines in by_rank.values())
    summary = f"{name_ranks(list(by_rank))}: {count} line{'s' * (count != 1)}"
    blocks = "".join(
        f"<b>rank {rank}</b><pre>{html.escape(chr(10).join(lines))}</pre>"
        for rank, lines in by_rank.items()
    )
    fold = f"<details><summary>{summary}</summary>{blocks}</details>"
    display({"text/html": fold, "text/plain": plain.rstrip("\n")}, raw=True)

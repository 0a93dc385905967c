"""The most memory that the processes started in a block held at once."""

from __future__ import annotations

import threading
from contextlib import suppress

import psutil

SAMPLE_EVERY = 0.25  # seconds between two looks


class PeakMemory:
    """Samples, in a thread, the memory of the processes started inside.

    The kernel is a child of this process, its torchrun workers are children
    of the kernel.
    """

    def __enter__(self) -> PeakMemory:
        self.peak = 0
        self._over = threading.Event()
        self._before = {child.pid for child in psutil.Process().children()}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_EVERY):
            held = 0
            for child in psutil.Process().children():
                if child.pid not in self._before:
                    # It may end between the listing and the look.
                    with suppress(psutil.Error):
                        family = [child, *child.children(recursive=True)]
                        held += sum(map(memory_of, family))
            self.peak = max(self.peak, held)


def memory_of(process: psutil.Process) -> int:
    """A process's memory in bytes, its share of shared pages where known."""
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.uss)
    except (psutil.Error, AttributeError):
        with suppress(psutil.Error):
            return int(process.memory_info().rss)
        return 0

"""labs/src -> the reader's and the solved edition of every lab.

    names     which labs there are, and where their files lie
    solutions, rules, render   source text -> notebook (a pure function)
    execute   run it once, at scale ci
    chromium, png, pictures    a sentence and a PNG for every live figure
    editions  all of it in order, for the files in labs/
    nbval     how stored outputs are compared with a new run

A notebook stores the hash of its rendered source and is executed again only
where that changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from labsupport.build.names import find_lab, lab_names
from labsupport.build.nbval import NBVAL

__all__ = ["NBVAL", "build_labs", "check_built", "find_lab", "lab_names"]

# The two below import on first use: `labs list` needs names only and should
# not wait for jupytext and nbclient.


def build_labs(names: Iterable[str] | None = None, force: bool = False) -> list[Path]:
    """Write both editions of the named labs, or of all; see `editions`."""
    from labsupport.build import editions

    return editions.build_labs(names, force)


def check_built(name: str) -> list[str]:
    """Where the committed notebooks differ from their source; see `editions`."""
    from labsupport.build import editions

    return editions.check_built(name)

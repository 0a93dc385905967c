"""Which labs there are, and where each of their files is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from labsupport import paths
from labsupport.errors import LabError

Edition = Literal["reader", "solved"]
EDITIONS: tuple[Edition, ...] = ("reader", "solved")


def lab_names() -> list[str]:
    """Every lab, in the order of its number: "00_start_here", ...

    A lab is a file `labs/src/NAME.py`; a folder becomes part of the name
    ("primers/triton").
    """
    sources = paths.LABS / "src"
    found = [p.relative_to(sources).with_suffix("") for p in sources.rglob("*.py")]
    return sorted(p.as_posix() for p in found if not p.name.startswith(("_", ".")))


def find_lab(word: str) -> str:
    """The lab that a reader means by "00", "0", "start" or its full name.

    Raises:
        LabError: when no lab or more than one fits; lists the labs.
    """
    names = lab_names()
    if word in names:
        return word
    wanted = word.strip().lower().removesuffix(".ipynb").removesuffix(".py")
    if re.fullmatch(r"\d[a-z]?", wanted):  # "0" is 00, "4a" is 04a
        wanted = f"0{wanted}"
    # From the strictest reading to the loosest; the first that fits decides.
    readings = (
        [n for n in names if n.lower() == wanted],
        [n for n in names if n.split("_")[0] == wanted],
        [n for n in names if wanted and wanted in re.split(r"[_/]", n.lower())],
        [n for n in names if len(wanted) > 1 and wanted in n.lower()],
    )
    for fitting in readings:
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise LabError(f"{word!r} could be any of: {', '.join(fitting)}.")
    known = ", ".join(names) or "none yet"
    raise LabError(f"There is no lab {word!r}. Labs: {known}.")


def source_path(name: str) -> Path:
    """The file that people edit."""
    return paths.LABS / "src" / f"{name}.py"


def exercise_ids(name: str) -> list[str]:
    """The exercises of a lab in the order of its notebook: "4.7", "4.8", ..."""
    source = source_path(name).read_text(encoding="utf-8")
    return re.findall(r'^@lab\.exercise\("([^"]+)"\)', source, re.MULTILINE)


def edition_path(name: str, edition: Edition) -> Path:
    """The notebook that the build writes."""
    folder = paths.LABS / "solved" if edition == "solved" else paths.LABS
    return folder / f"{name}.ipynb"

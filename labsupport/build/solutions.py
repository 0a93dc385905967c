"""nbgrader's solution markers: what each edition keeps of an exercise.

    def softmax(x_TV):
        ### BEGIN SOLUTION
        return ...
        ### END SOLUTION

The solved edition keeps the code and drops the two marker lines. In the
reader's edition a stub at the same indentation takes the region's place.
The rule is nbgrader's (preprocessors/clearsolutions.py); nbgrader itself is
not needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from labsupport.errors import LabError

BEGIN = "### BEGIN SOLUTION"
END = "### END SOLUTION"
STUB = ("# YOUR CODE HERE", "raise NotImplementedError")
# What a hand may type when it means a marker. A misspelt one must stop the
# build: it would otherwise show readers the answer.
NEARLY = re.compile(r"#\s*(begin|end)\b.*\bsolution", re.IGNORECASE)


@dataclass(frozen=True)
class Split:
    """One cell's source, as both editions show it.

    Attributes:
        reader: with stubs.
        solved: with the code, without the markers.
        solution_lines: the lines between markers, stripped.
    """

    reader: str
    solved: str
    solution_lines: tuple[str, ...]


def split(source: str) -> Split:
    """Split a cell's source at its markers.

    Raises:
        LabError: a marker without its partner, an empty region, or a line
            that looks like a marker and is not one.
    """
    reader: list[str] = []
    solved: list[str] = []
    answers: list[str] = []
    region: list[str] | None = None
    for number, line in enumerate(source.splitlines(), start=1):
        word = line.strip()
        if word == BEGIN:
            if region is not None:
                raise LabError(f"line {number}: a second {BEGIN} before {END}")
            region = []
            indent = line[: len(line) - len(line.lstrip())]
            reader += [indent + part for part in STUB]
        elif word == END:
            if region is None:
                raise LabError(f"line {number}: {END} without {BEGIN}")
            if not any(region):
                raise LabError(f"line {number}: nothing between the solution markers")
            answers += region
            region = None
        elif NEARLY.search(word):
            raise LabError(f"line {number}: write exactly {BEGIN!r} or {END!r}")
        else:
            solved.append(line)
            if region is None:
                reader.append(line)
            else:
                region.append(word)
    if region is not None:
        raise LabError(f"{BEGIN} without {END}")
    return Split("\n".join(reader), "\n".join(solved), tuple(filter(None, answers)))

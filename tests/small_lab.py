"""A lab of seven cells, for tests that must not depend on a real one.

`write_course` puts it into a folder laid out like the course and points
labsupport at that folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from labsupport import paths

HEADER = """\
# ---
# jupyter:
#   jupytext:
#     custom_cell_magics: torchrun
#     text_representation:
#       extension: .py
#       format_name: percent
# ---
"""

BODY = '''
# %% [markdown] id="intro"
# # A small lab
#
# Text before code.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None
seed = 0
world = 2

# %% id="squares" tags=["nbval-check-output"]
print("shape", (2, 3))
print("squares", [n * n for n in range(4)])

# %% id="exercise" tags=["nbval-ignore-output"]
def double(x: int) -> int:
    """Twice x."""
    ### BEGIN SOLUTION
    twice_as_much = x + x
    return twice_as_much
    ### END SOLUTION

# %% id="use" tags=["nbval-ignore-output"]
try:
    print("double", double(4))
except NotImplementedError:
    print("using ours")

# %% id="figure" tags=["nbval-ignore-output"]
from IPython.display import display

figure = {
    "data": [{"type": "scatter", "x": [0, 1, 2], "y": [1.0, 0.5, 0.25]}],
    "layout": {"title": {"text": "Loss"}},
}
bundle = {
    "text/plain": "The loss halves at every step.",
    "application/vnd.labs.figure+json": figure,
}
display(bundle, raw=True)

# %% id="where" tags=["nbval-ignore-output"]
import os

print(os.environ["LABS_SCALE"], "JPY_SESSION_NAME" in os.environ)
'''

SOURCE = HEADER + BODY
NAME = "00_small"


def write_course(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> Path:
    """Make labs/src with the small lab or the given ones; returns `folder`."""
    labs = folder / "labs"
    (labs / "src").mkdir(parents=True)
    for name, source in (sources or {NAME: SOURCE}).items():
        (labs / "src" / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(paths, "ROOT", folder)
    monkeypatch.setattr(paths, "LABS", labs)
    monkeypatch.setenv("LABS_HOME", str(folder / "my_labs"))
    return folder

"""Where things are: the course, and the reader's own folder."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LABS = ROOT / "labs"
DATA = ROOT / "data"
MEASUREMENTS = DATA / "measurements"
CLAIMS = DATA / "claims"


def my_labs() -> Path:
    """The reader's folder: working copies, progress, checkpoints, logs.

    `LABS_HOME` moves it, so that a class machine or a test can keep it
    elsewhere. It is created when something is first written there.
    """
    return Path(os.environ.get("LABS_HOME") or ROOT / "my_labs").resolve()

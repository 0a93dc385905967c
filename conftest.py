"""What every pytest run in this folder needs, a bare `pytest --nbval labs/` too.

Kernels that a test starts inherit these settings: labs run at their smallest
scale, and nobody's progress in my_labs/ is read or written.
"""

from __future__ import annotations

import os
import tempfile

import pytest

_homes: list[tempfile.TemporaryDirectory[str]] = []


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("LABS_SCALE", "ci")
    # As `labs` does: threads that spin for long slow down a busy machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "LABS_HOME" not in os.environ:
        _homes.append(tempfile.TemporaryDirectory(prefix="labs-test-"))
        os.environ["LABS_HOME"] = _homes[0].name


def pytest_unconfigure(config: pytest.Config) -> None:
    for home in _homes:
        os.environ.pop("LABS_HOME", None)
        home.cleanup()
    _homes.clear()

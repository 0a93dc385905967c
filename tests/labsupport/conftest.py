"""The fixture `notebook` for all tests of the torchrun cell."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labsupport.distributed import kept, launch, pool
from tests.torchrun_notebook import Notebook, below, shared_memory, until


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """In a path with a space and a letter outside ASCII."""
    home = tmp_path / "my läbs"
    home.mkdir()
    monkeypatch.setenv("LABS_HOME", str(home))
    monkeypatch.setattr(launch, "_said", {"slow", "gloo"})
    monkeypatch.chdir(home)
    main = sys.modules["__main__"]
    memory = set(shared_memory())
    notebook = Notebook(home)
    yield notebook
    sys.modules["__main__"] = main
    kept.end_kept()
    left = notebook.processes()
    pool.end_idle()
    until(lambda: not below(home), 10)
    assert not left, "a run left processes behind"
    # An agent that is killed while it writes down its end leaves that behind.
    parts = [path.name for path in home.rglob("*.part")]
    files = [name for name in parts if not name.startswith("agent.end")]
    assert not files, "a run left half-written files behind"
    places = list(Path(tempfile.gettempdir()).glob(f"labs-{os.getpid()}-*"))
    assert not places, "a pool left its folder behind"
    assert set(shared_memory()) <= memory, "a run left shared memory behind"

"""Fixtures of more than one test file: `notebook` for those of the torchrun cell,
`parallel` for those of the parallel engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class Parts:
    """What ranks found out, by the part of parallel_parts.py that they ran.

    The first question runs all parts but the slow ones, in one program.
    """

    QUICK = "layouts-1 layouts-2 layouts-4 wire switch refused lost after"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: set[str] = set()

    def ranks(self, part: str, ranks: int) -> list[Any]:
        return [self.found(part, rank) for rank in range(ranks)]

    def found(self, part: str, rank: int) -> Any:
        import torch

        if part not in self.ran:
            self.run(self.QUICK.split() if part in self.QUICK.split() else [part])
        return torch.load(self.folder / f"{part}-{rank}.pt", weights_only=False)

    def run(self, parts: list[str]) -> None:
        root = Path(__file__).parents[2]
        script = root / "tests" / "labsupport" / "parallel_parts.py"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", script, self.folder, *parts],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        self.ran |= set(parts)


@pytest.fixture(scope="session")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parallel"))

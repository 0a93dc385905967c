"""What the reader has done, kept in one local file that is never lost.

The file is replaced as a whole, under a lock, so that two open notebooks do
not overwrite each other's entries and a crash leaves the old version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labsupport.errors import LabError
from labsupport.paths import my_labs
from labsupport.settings import is_interactive

try:
    import fcntl
except ImportError:  # Windows outside WSL2: one notebook at a time
    fcntl = None  # type: ignore[assignment]


def progress_file() -> Path:
    return my_labs() / "progress.json"


def read_progress() -> dict[str, dict[str, Any]]:
    """Everything recorded so far: {"exercises": {"0.1": {...}}, ...}."""
    file = progress_file()
    try:
        content = json.loads(file.read_text())
        if isinstance(content, dict):
            return content
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        pass
    aside = _free_name(file.with_name("progress.unreadable.json"))
    file.replace(aside)
    print(f"progress.json could not be read; it is kept as {aside.name}.")
    return {}


def note(room: str, key: str, entry: Any) -> None:
    """Record one entry, for instance note("exercises", "0.1", {...}).

    Does nothing when no person is at the keyboard: a test or CI run of a
    solved lab must not tick off the reader's exercises.

    Raises:
        LabError: the file cannot be written.
    """
    if not is_interactive():
        return
    file = progress_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.with_name(".progress.lock")):
            content = read_progress()
            content.setdefault(room, {})[key] = entry
            fresh = file.with_suffix(".new")
            with fresh.open("w") as stream:
                json.dump(content, stream, indent=1, sort_keys=True)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(file)
    except OSError as error:
        raise LabError(
            f"Your progress could not be saved ({error.strerror}): free some space "
            f"or make the folder {file.parent.name} writable."
        ) from error


def recall(room: str, key: str, default: Any = None) -> Any:
    """What was recorded under a key; headless runs always get the default."""
    if not is_interactive():
        return default
    return read_progress().get(room, {}).get(key, default)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as stream:
        if fcntl is not None:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _free_name(file: Path) -> Path:
    number, candidate = 1, file
    while candidate.exists():
        number += 1
        candidate = file.with_stem(f"{file.stem}-{number}")
    return candidate

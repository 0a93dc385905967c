"""Checkpoints: all that a run needs to go on exactly where it stopped.

Weights, optimizer, random states, metrics and recipe lie in one file. It is
written beside the old one and then takes its place, so there is never half a
checkpoint; it is read with `weights_only=True`, which runs no code from it.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labsupport import paths
from labsupport.errors import LabError
from labsupport.train.recipe import Recipe

FORMAT = 1


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint says apart from the states it restored."""

    step: int
    metrics: list[dict[str, float]]
    recipe: Recipe


def checkpoint_file(name: str | Path) -> Path:
    """Where a checkpoint lies: a plain name in my_labs/checkpoints, or a path.

    Raises:
        LabError: a name with a slash in it; give a `Path` for another folder.
    """
    if isinstance(name, Path):
        return name
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise LabError(
            f"Checkpoint name {name!r}: use a plain name such as 'lab00', or a Path."
        )
    return paths.my_labs() / "checkpoints" / f"{name}.pt"


def save_checkpoint(
    name: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    metrics: Sequence[Mapping[str, float]] = (),
    step: int = 0,
) -> Path:
    """Write a checkpoint whole or not at all, and return its path.

    Raises:
        LabError: the disk is full or read-only; the old checkpoint is intact.
    """
    file = checkpoint_file(name)
    state = {
        "format": FORMAT,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recipe": asdict(recipe),
        "metrics": [dict(row) for row in metrics],
        "random": random_states(),
    }
    # Serialised in memory first: a failing write then concerns plain bytes.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, buffer.getbuffer())
    except OSError as error:
        raise LabError(
            f"Cannot write the checkpoint {file.name} ({error.strerror or error}); "
            "an older one is left as it was."
        ) from None
    return file


def replace_file(file: Path, data: bytes | memoryview) -> None:
    """Put `data` in the place of `file`, so that it is always old or new."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            # On the disk before the rename is: else a power cut leaves a
            # renamed, empty file.
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_checkpoint(
    name: str | Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> Loaded:
    """Restore a model's weights; with an optimizer, everything else as well.

    With an optimizer its state and all random states are restored, and training
    goes on bit for bit. Nothing is changed unless the checkpoint fits.

    Raises:
        LabError: the file is missing, damaged, or made for another model.
    """
    file = checkpoint_file(name)
    state = read_state(file)
    require_same_shapes(file, state["model"], model)
    if optimizer is not None:
        try:
            optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError):
            raise LabError(
                f"The checkpoint {file.name} was made with another optimizer."
            ) from None
        restore_random_states(state["random"])
    model.load_state_dict(state["model"])
    return Loaded(state["step"], state["metrics"], Recipe(**state["recipe"]))


def read_state(file: Path) -> dict[str, Any]:
    """The content of a checkpoint file, tensors on the CPU.

    Raises:
        LabError: the file is missing, unreadable, damaged or no checkpoint.
    """
    try:
        data = io.BytesIO(file.read_bytes())
        # torch.save writes a zip archive with checksums; torch.load skips them.
        with zipfile.ZipFile(data) as archive:
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")
        data.seek(0)
        state = torch.load(data, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError("another format")
    except FileNotFoundError:
        raise LabError(f"There is no checkpoint {file}.") from None
    except OSError as error:
        raise LabError(
            f"Cannot read the checkpoint {file.name} ({error.strerror or error})."
        ) from None
    except (
        EOFError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ):
        raise LabError(
            f"The checkpoint {file.name} is damaged or no checkpoint of the labs: "
            "delete it and train again."
        ) from None
    return state


def require_same_shapes(
    file: Path, saved: Mapping[str, torch.Tensor], model: nn.Module
) -> None:
    """Name the first tensor in which checkpoint and model differ.

    Raises:
        LabError: there is one.
    """
    theirs = {key: tuple(value.shape) for key, value in saved.items()}
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    for key in (*ours, *theirs):
        there, here = theirs.get(key, "missing"), ours.get(key, "missing")
        if there != here:
            raise LabError(
                f"The checkpoint {file.name} was made for another model: {key} is "
                f"{there} in the checkpoint and {here} in the model."
            )


def random_states() -> dict[str, Any]:
    """The states of all generators, as tensors and plain numbers."""
    legacy: Any = np.random.get_state()
    _, keys, position, has_gauss, gauss = legacy
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put every generator back to where `random_states` found it."""
    random.setstate(states["python"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        # A machine with fewer GPUs resumes with those that it has.
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)

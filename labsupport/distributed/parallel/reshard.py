"""From one layout to another in the middle of a training, through a checkpoint.

    FOLDER/step-40/        whole: it has its name only since all of it is on the disk
        __0_0.distcp       what rank 0 held: weights and AdamW's state
        ...
        .metadata          which part of which tensor lies where (torch's own)
        manifest.json      step, layout, and a checksum of every file above
    FOLDER/.step-80.part   not whole: a rank was lost while it was written

Each rank writes what it holds, and reads what it will hold: torch's distributed
checkpoint (DCP) finds out which parts of which files that is, so the two layouts need
not have anything in common. All ranks have to see the same folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException, FileSystemReader

from labsupport.distributed.parallel.engine import ParallelGPT, apply
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.distributed.parallel.optimizer import make_adamw
from labsupport.distributed.tracebacks import is_lost_peer
from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.train import Recipe

MANIFEST = "manifest.json"
FORMAT = 1
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for a weight, beside how many steps it has made."""


@dataclass(frozen=True)
class Switched:
    """A training on its new layout.

    Attributes:
        model, optimizer: what this rank has from now on.
        seconds: from the last step of the old layout to where the first of the new
            one may begin: writing, building, reading.
        written: bytes of the checkpoint.
    """

    model: ParallelGPT
    optimizer: torch.optim.AdamW
    seconds: float
    written: int


def switch(
    model: ParallelGPT,
    optimizer: torch.optim.AdamW,
    layout: Layout,
    *,
    fresh: Callable[[], GPT],
    recipe: Recipe,
    folder: Path,
    step: int,
) -> Switched:
    """Go on with another layout of the same ranks; all ranks call this.

    Args:
        model, optimizer: of the old layout; let go of them afterwards.
        layout: the new one.
        fresh: makes the whole model with any weights, on the right device.
        recipe: of the training.
        folder: where the checkpoint goes.
        step: steps done so far.

    Raises:
        LabError: a layout that does not fit, or a checkpoint that cannot be written
            or read. An older checkpoint is whole then, and so is the old model.
    """
    began = time.perf_counter()
    mesh = build_mesh(layout, model.mesh.device_type)
    other = apply(fresh(), layout, mesh)
    place = save(model, optimizer, folder, step)
    its_optimizer = make_adamw(other, recipe)
    load(other, its_optimizer, place)
    dist.barrier()
    seconds = time.perf_counter() - began
    written = sum(file.stat().st_size for file in place.iterdir())
    return Switched(other, its_optimizer, seconds, written)


# --- writing -----------------------------------------------------------------


def save(
    model: ParallelGPT, optimizer: torch.optim.AdamW, folder: Path, step: int
) -> Path:
    """Write FOLDER/step-N whole or not at all; all ranks call this.

    Raises:
        LabError: it exists, or a rank or the disk failed. What was whole still is.
    """
    place, part = folder / f"step-{step}", folder / f".step-{step}.part"

    def begin() -> None:
        if place.exists():
            raise FileExistsError("it exists already")
        if part.exists():  # of a run that was lost in the middle
            shutil.rmtree(part)
        part.mkdir(parents=True)

    def end() -> None:
        _write_manifest(part, model.layout, step, checksums)
        part.rename(place)
        _to_disk(folder)  # the new name, too

    try:
        _on_rank_0(begin)
        dcp.save(state_of(model, optimizer), checkpoint_id=part)
        checksums = _everyones(_checksums_of_mine(part))
        _on_rank_0(end)
    except (CheckpointException, OSError, RuntimeError) as error:
        whole = checkpoints(folder)
        left = f"{whole[-1].name} is whole" if whole else "there is no older one"
        raise LabError(
            f"{place.name} could not be written ({_reason(error)}); {left}."
        ) from None
    return place


def state_of(model: ParallelGPT, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """What this rank holds, by names that are the same in every layout."""
    state: dict[str, Tensor] = {}
    for name, p in model.held():
        state[f"weight.{name}"] = model.as_cut(name, p.detach())
        kept = _adam_state(optimizer, p)
        for moment in MOMENTS:
            state[f"{moment}.{name}"] = model.as_cut(name, kept[moment])
        state[f"step.{name}"] = kept["step"]
    return state


def _adam_state(optimizer: torch.optim.AdamW, p: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state of a weight; that of no step where there has been none."""
    if not optimizer.state[p]:
        optimizer.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            **{name: torch.zeros_like(p, requires_grad=False) for name in MOMENTS},
        }
    return optimizer.state[p]


def _checksums_of_mine(part: Path) -> dict[str, str]:
    """Of the files that this rank has written."""
    rank = dist.get_rank()
    mine = list(part.glob(f"__{rank}_*"))
    if rank == 0:
        mine.append(part / ".metadata")
    return {file.name: _checksum(file) for file in mine}


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_manifest(
    part: Path, layout: Layout, step: int, checksums: list[dict[str, str]]
) -> None:
    content = {
        "format": FORMAT,
        "step": step,
        "layout": str(layout),
        "files": {name: each for rank in checksums for name, each in rank.items()},
    }
    with (part / MANIFEST).open("w") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    _to_disk(part)


def _to_disk(folder: Path) -> None:
    """Names of files are content of their folder, and that waits in memory as well."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading -----------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, the oldest first."""
    found = [p for p in folder.glob("step-*") if p.name[5:].isdecimal()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def load(model: ParallelGPT, optimizer: torch.optim.AdamW, place: Path) -> int:
    """Read what this rank holds, whatever layout has written it; all ranks call this.

    Returns:
        How many steps had been done.

    Raises:
        LabError: no checkpoint, a damaged one, or another model's. Nothing is changed.
    """
    state = state_of(model, optimizer)
    complaints = _everyones(_complaint(place, state))
    for complaint in complaints:
        if complaint:
            raise LabError(complaint)
    try:
        dcp.load(state, checkpoint_id=place)
    except (CheckpointException, RuntimeError) as error:
        raise LabError(f"{place.name} could not be read ({_reason(error)}).") from None
    step: int = json.loads((place / MANIFEST).read_text())["step"]
    return step


def _complaint(place: Path, state: dict[str, Tensor]) -> str:
    """Why a checkpoint cannot be read, in a sentence; "" if it can.

    Ranks share out the files; all of them compare names and shapes.
    """
    if not place.is_dir():
        return f"There is no checkpoint {place}."
    damaged = f"The checkpoint {place.name} is damaged or no checkpoint of the labs"
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        files = (
            sorted(manifest["files"].items()) if manifest["format"] == FORMAT else []
        )
        if not files:
            return f"{damaged}: {MANIFEST} is another program's."
        rank, W = dist.get_rank(), dist.get_world_size()
        for name, checksum in files[rank::W]:
            if _checksum(place / name) != checksum:
                return f"{damaged}: {name} is not as it was written. Use an older one."
        # A pickle, which could run code. Its checksum says that it is as written;
        # that whoever wrote it meant well is for the reader to know.
        saved = FileSystemReader(place).read_metadata().state_dict_metadata
    except FileNotFoundError as error:
        return f"{damaged}: {Path(error.filename).name} is missing."
    except (OSError, EOFError, UnpicklingError) as error:
        return f"{damaged}: {_reason(error)}."
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{damaged}: {MANIFEST} is another program's."
    return _another_model(place, saved, state)


def _another_model(place: Path, saved: dict[str, Any], state: dict[str, Tensor]) -> str:
    for name, x in state.items():
        there = getattr(saved.get(name), "size", None)
        if there is None or tuple(there) != tuple(x.shape):
            was = "missing" if there is None else str(tuple(there))
            kind, _, weight = name.partition(".")
            return (
                f"The checkpoint {place.name} was made for another model: {weight} "
                f"({kind}) is {was} there and {tuple(x.shape)} here."
            )
    return ""


# --- ranks that agree ----------------------------------------------------------


def _everyones(value: Any) -> list[Any]:
    """Every rank's value, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _on_rank_0(do: Callable[[], None]) -> None:
    """Rank 0 does it and the others wait; if it fails, all ranks hear why.

    Raises:
        OSError: on all ranks.
    """
    problem = ""
    if dist.get_rank() == 0:
        try:
            do()
        except OSError as error:
            problem = _reason(error)
    for each in _everyones(problem):
        if each:
            raise OSError(each)


def _reason(error: BaseException) -> str:
    """What went wrong, as a clause."""
    if isinstance(error, CheckpointException):
        # Ranks that hear of another one's failure are no cause of it.
        error = next(iter(error.failures.values()))[0]
    if is_lost_peer(error):
        return "a rank was lost"
    told = error.strerror if isinstance(error, OSError) else None
    return told or str(error).partition("\n")[0] or type(error).__name__

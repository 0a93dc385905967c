"""A trained GPT as one small file: its weights, its shape, and where it comes from.

The file is safetensors, so reading it runs no code. Lab 07 leaves the reader's model
for lab 08 in this form, and the course ships one of its own in `data/teachers`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from labsupport import paths
from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.train.checkpoint import replace_file

SHIPPED = paths.DATA / "teachers"
CHECKSUMS = SHIPPED / "SHA256SUMS"
RESTORE = "restore it with `git checkout -- data/teachers`."


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model that was read from a file.

    Attributes:
        model: on the CPU, in eval mode.
        about: what its maker wrote down: plain text by name.
        file: where it lay.
    """

    model: GPT
    about: dict[str, str]
    file: Path


def model_file(name: str) -> Path:
    """Where a reader's model of this name lies: my_labs/models."""
    return paths.my_labs() / "models" / f"{name}.safetensors"


def store_model(file: Path, model: GPT, about: dict[str, str]) -> None:
    """Write a model, all of it or nothing.

    Args:
        file: its folder is made.
        model: a GPT of the usual parts.
        about: plain text by name: the game, the command that made it.

    Raises:
        LabError: the disk is full or read-only.
    """
    weights = {
        name: value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    metadata = {"config": json.dumps(asdict(model.config)), "about": json.dumps(about)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, save(weights, metadata))
    except OSError as error:
        raise LabError(
            f"Cannot write the model {file.name} ({error.strerror or error})."
        ) from None


def load_model(file: Path) -> StoredModel:
    """Read what `store_model` wrote; a shipped file is held against its checksum.

    Raises:
        LabError: there is no such file, it is damaged, or a shipped one was changed.
    """
    if not file.exists():
        raise LabError(f"There is no model {file.name} in {file.parent}.")
    if file.parent == SHIPPED:
        require_checksum(file)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            # clone: the file's memory map must not outlive this call.
            weights = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        config: dict[str, Any] = json.loads(metadata["config"])
        about: dict[str, str] = json.loads(metadata["about"])
        model = GPT(GPTConfig(**config))
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):
        raise LabError(
            f"The model {file.name} is damaged, or none that this course wrote: delete "
            "it, and make it anew."
        ) from None
    return StoredModel(model.eval(), about, file)


def require_checksum(file: Path) -> None:
    """Recorded runs are comparable only when everyone has the same teacher.

    Raises:
        LabError: the file is not what `SHA256SUMS` promises.
    """
    try:
        lines = [line.split() for line in CHECKSUMS.read_text().splitlines()]
    except OSError:
        raise LabError(f"data/teachers lost its SHA256SUMS: {RESTORE}") from None
    promised = {name: digest for digest, name in lines}
    if hashlib.sha256(file.read_bytes()).hexdigest() != promised.get(file.name):
        raise LabError(f"The shipped model {file.name} was changed: {RESTORE}")

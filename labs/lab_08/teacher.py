"""The teacher of lab 08: what lab 07 ended with, the reader's own if there is one.

    python -m labs.lab_08.teacher

makes the shipped ones anew: the warm start and the rewards of lab 07, seed 5. (At scale
ci, lab 06's model that writes every state.)
"""

from __future__ import annotations

import hashlib
import sys

from labs.lab_06.plan import CI
from labs.lab_06.thinker import train_thinker
from labs.lab_07.keeping import model_name
from labs.lab_07.runs import reinforced, warm_start
from labs.lab_08.plan import PLANS
from labsupport.errors import LabError
from labsupport.rl import accuracy
from labsupport.settings import Scale
from labsupport.train.stored_model import (
    CHECKSUMS,
    SHIPPED,
    StoredModel,
    load_model,
    model_file,
    store_model,
)

SEED = 5
COMMAND = "python -m labs.lab_08.teacher"


def shipped_teacher(scale: Scale) -> StoredModel:
    """The course's own; every recorded row has this one."""
    return load_model(SHIPPED / f"{model_name(PLANS[scale].game)}.safetensors")


def find_teacher(scale: Scale) -> tuple[StoredModel, str]:
    """The reader's model from lab 07 if it is there and plays this game, or ours.

    Returns:
        the teacher, and one sentence that says which one it is.
    """
    game = PLANS[scale].game
    file = model_file(model_name(game))
    if not file.exists():
        return shipped_teacher(scale), "The teacher is the course's own."
    try:
        yours = load_model(file)
    except LabError as error:
        return shipped_teacher(
            scale
        ), f"{error} The course's own teaches instead."
    if yours.model.config.vocab_size != len(game.vocabulary):
        return shipped_teacher(scale), (
            "Your model from lab 07 has another vocabulary; the course's own teaches "
            "instead."
        )
    return yours, "The teacher is your own model from lab 07."


def ship(scale: Scale) -> None:
    """Make the shipped teacher of a scale, and say how good it is."""
    if (
        scale == "ci"
    ):  # lab 07's training is too short there to end as a teacher
        start = train_thinker("every", SEED, CI)
        model = start.model
    else:
        start = warm_start(SEED, scale)
        model = reinforced(start, SEED, scale).model
    game = start.game
    won = accuracy(model, game, count=1024, seed=1)
    file = SHIPPED / f"{model_name(game)}.safetensors"
    store_model(
        file,
        model,
        {
            "game": f"{game.cups} cups, {game.swaps} swaps",
            "made by": COMMAND,
            "seed": str(SEED),
            "games won": f"{won:.3f} of 1024",
        },
    )
    print(f"{file.name}: {won:.1%} of 1024 games won")


def write_checksums() -> None:
    """SHA256SUMS of all shipped models."""
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(SHIPPED.glob("*.safetensors"))
    ]
    CHECKSUMS.write_text("".join(lines))


if __name__ == "__main__":
    try:
        for each in ("ci", "cpu"):
            ship(each)
        write_checksums()
    except LabError as error:
        sys.exit(f"teacher: {error}")

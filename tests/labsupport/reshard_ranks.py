"""The ranks' side of test_reshard.py."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import FileSystemWriter

from labsupport.distributed.parallel import reshard
from labsupport.distributed.parallel.engine import ParallelGPT, apply
from labsupport.distributed.parallel.layout import Layout
from labsupport.distributed.parallel.mesh import build_mesh
from labsupport.distributed.parallel.optimizer import make_adamw, train_step
from labsupport.errors import LabError
from labsupport.nn import GPT
from labsupport.train import Recipe
from labsupport.train.recipe import make_optimizer
from tests.labsupport.parallel_ranks import make_batch, make_model

RECIPE = Recipe(steps=12, lr=3e-3)
BEFORE, AFTER = 2, 4
COPIES = Layout(replicate=4)
SWITCHES = {
    "data to data x tensor": (COPIES, Layout(shard=2, tensor=2)),
    "sharded to pipeline": (
        Layout(shard=4),
        Layout(replicate=2, pipeline=2, microbatches=4),
    ),
    "experts to copies": (Layout(replicate=2, expert=2), COPIES),
}


class Training:
    """A model on a layout, with its optimizer."""

    def __init__(self, layout: Layout, like: Layout | None = None) -> None:
        self.like = like or layout
        self.use(apply(self.fresh(), layout, build_mesh(layout)))

    def fresh(self) -> GPT:
        return make_model(self.like)

    def use(self, model: ParallelGPT, optimizer: Any = None) -> None:
        self.model = model
        self.optimizer = optimizer or make_adamw(model, RECIPE)

    def steps(self, *numbers: int) -> list[float]:
        return [
            train_step(self.model, self.optimizer, RECIPE, step, make_batch(step))
            for step in numbers
        ]


def in_one_process(like: Layout) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The labs' own recipe, without any of the engine."""
    model = make_model(like)
    optimizer = make_optimizer(model, RECIPE)
    losses = []
    for step in range(BEFORE + AFTER):
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.learning_rate(step)
        loss = model.loss(*make_batch(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: p.detach() for name, p in model.named_parameters()}


def switch_all(folder: Path) -> dict[str, Any]:
    """What a rank finds out about each switch."""
    found = {name: switch(folder / name, *two) for name, two in SWITCHES.items()}
    return {"stayed": stay(), **found}


def stay() -> list[float]:
    """The losses of the first switch's training without it."""
    old, new = SWITCHES["data to data x tensor"]
    return Training(old, like=new).steps(*range(BEFORE + AFTER))


def switch(folder: Path, old: Layout, new: Layout) -> dict[str, Any]:
    """Losses with a switch, and those of one process."""
    like = old if old.expert > 1 else new
    training = Training(old, like)
    losses = training.steps(*range(BEFORE))
    done = reshard.switch(
        training.model,
        training.optimizer,
        new,
        fresh=training.fresh,
        recipe=RECIPE,
        folder=folder,
        step=BEFORE,
    )
    training.use(done.model, done.optimizer)
    losses += training.steps(*range(BEFORE, BEFORE + AFTER))
    alone, wanted = in_one_process(like)
    weights = training.model.weights()
    return {
        "switched": losses,
        "alone": alone,
        "weights": max((weights[n] - wanted[n]).abs().max().item() for n in wanted),
        "seconds": done.seconds,
        "written": done.written,
        "files": sorted(p.name for p in folder.iterdir()),
    }


def refusals(folder: Path) -> dict[str, str]:
    """What is said of checkpoints that are none."""
    training = Training(COPIES)
    place = reshard.save(training.model, training.optimizer, folder, 1)
    said = {}

    def refused(name: str, do: Any, other: Training | None = None) -> None:
        before = training.model.weights()
        if dist.get_rank() == 0:
            shutil.copytree(place, folder / name)
            do(folder / name)
        dist.barrier()
        each = other or training
        said[name] = why(reshard.load, each.model, each.optimizer, folder / name)
        after = training.model.weights()
        assert all(torch.equal(x, after[n]) for n, x in before.items())

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)

    refused("one bit", lambda p: damage(p / "__0_0.distcp"))
    refused("metadata", lambda p: damage(p / ".metadata"))
    refused("a file less", lambda p: (p / "__0_0.distcp").unlink())
    refused("no manifest", lambda p: (p / reshard.MANIFEST).unlink())
    refused("no metadata", lambda p: (p / ".metadata").unlink())
    refused("foreign", lambda p: (p / reshard.MANIFEST).write_text('{"a": 1}'))
    deeper = Training(COPIES, like=Layout(pipeline=4, microbatches=4))
    refused("another model", lambda p: None, deeper)
    m, o = training.model, training.optimizer
    said["missing"] = why(reshard.load, m, o, folder / "step-7")
    said["again"] = why(reshard.save, m, o, folder, 1)
    dist.barrier()
    if dist.get_rank() == 0:
        (folder / "file").write_text("")
    dist.barrier()
    said["no folder"] = why(reshard.save, m, o, folder / "file", 1)
    return said


def why(function: Any, *arguments: Any) -> str:
    """What the LabError says."""
    try:
        function(*arguments)
    except LabError as error:
        return str(error)
    return "nothing"


def lost_in_the_middle(folder: Path) -> dict[str, Any]:
    """A rank is killed while it writes the second checkpoint."""
    training = Training(replace(COPIES, replicate=1, shard=2))
    training.steps(0, 1)
    reshard.save(training.model, training.optimizer, folder, 2)
    weights = training.model.weights()
    training.steps(2)
    if dist.get_rank() == 1:
        write = FileSystemWriter.write_data

        def write_and_die(self: Any, *arguments: Any) -> Any:
            write(self, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        FileSystemWriter.write_data = write_and_die  # type: ignore[method-assign]
    said = why(reshard.save, training.model, training.optimizer, folder, 3)
    names = sorted(p.name for p in folder.iterdir())
    return {"said": said, "weights": weights, "names": names}


def after_the_loss(folder: Path) -> dict[str, Any]:
    """Another run, on another number of ranks, goes on from what is whole."""
    training = Training(Layout())
    (place,) = reshard.checkpoints(folder)
    step = reshard.load(training.model, training.optimizer, place)
    weights = training.model.weights()
    again = reshard.save(training.model, training.optimizer, folder, 3)
    return {
        "step": step,
        "weights": weights,
        "again": again.name,
        "names": sorted(p.name for p in folder.iterdir()),
    }

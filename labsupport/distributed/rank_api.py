"""What a cell's body may call on a rank: `share`, `log`, `count_traffic` and so on.

All of them also work in a plain script under plain torchrun, where `share` and
`log` do nothing because no notebook waits for the values.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labsupport.errors import LabError

if TYPE_CHECKING:
    import torch

    from labsupport.distributed.folders import RunFolder
    from labsupport.distributed.traffic_counts import RankTraffic


def this_run() -> tuple[RunFolder, int] | None:
    """The run's folder and this rank's number in it; None in a plain script."""
    run = os.environ.get("LABS_RUN")
    if run is None:
        return None
    from labsupport.distributed.folders import RunFolder

    return RunFolder(Path(run)), int(os.environ["LOCAL_RANK"])


def share(name: str, value: Any) -> None:
    """Send a value to the notebook, where it is `dp[rank].name`.

    The value is copied now; sharing the same name again replaces it. It
    arrives even if the rank fails later.

    Args:
        name: a Python identifier.
        value: plain data, tensors, arrays or tables (see values.py).

    Raises:
        LabError: a name or a value that cannot be sent.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise LabError(
            f"share({name!r}, ...): the first argument is a name, "
            'as in share("loss", loss).'
        )
    run = this_run()
    if run is None:
        return
    from labsupport.distributed import values

    folder, rank = run
    place = folder.values(rank)
    place.mkdir(exist_ok=True)
    values.save(place / f"{name}.safetensors", value, called=name)


def log(step: int, **values: Any) -> None:
    """Send numbers to the picture that the notebook draws while the cell runs.

    They are also rows of `dp.metrics`, one for each call: rank, step and the
    names given here.

    Args:
        step: the x of the picture.
        values: numbers, or tensors of one element.

    Raises:
        LabError: no value, or one that is no number.
    """
    row = {"step": number("step", step)}
    row |= {name: number(name, value) for name, value in values.items()}
    if not values:
        raise LabError("log(step) has nothing to log: log(step, loss=loss).")
    run = this_run()
    if run is None:
        return
    folder, rank = run
    # One write call a line, so that a reader sees whole lines or none.
    with folder.metrics(rank).open("ab", buffering=0) as file:
        file.write(json.dumps(row).encode() + b"\n")


def number(name: str, value: Any) -> float:
    """A plain number that JSON can carry; NaN and infinity are allowed."""
    try:
        plain = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # a tensor of several elements
        plain = None
    if not isinstance(plain, int | float):
        raise LabError(
            f"log(): {name} is a {type(value).__name__}; use a number or a tensor of "
            "one element."
        )
    return plain


def backend() -> str:
    """ "nccl" when every process on this machine has a GPU, otherwise "gloo".

    The agent of a torchrun cell has looked already and says so in
    LABS_BACKEND; in a plain script this looks itself.
    """
    known = os.environ.get("LABS_BACKEND")
    return known or choose_backend(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))[0]


def device() -> torch.device:
    """Where this rank's tensors belong: a GPU of its own under nccl, else the CPU."""
    import torch

    if backend() != "nccl":
        return torch.device("cpu")
    mine = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(mine)
    return mine


def choose_backend(local_world: int) -> tuple[str, int]:
    """The backend for `local_world` processes here, and the number of GPUs.

    Counting devices does not start CUDA, so a process may still fork.
    """
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count()
    enough = 0 < local_world <= gpus and dist.is_nccl_available()
    return ("nccl" if enough else "gloo"), gpus


def count_traffic() -> AbstractContextManager[RankTraffic]:
    """Count what this rank's collectives move inside a `with`; see traffic.py."""
    from labsupport.distributed import traffic

    return traffic.count_traffic()


EVERYWHERE = {
    "backend": backend,
    "count_traffic": count_traffic,
    "device": device,
    "log": log,
    "share": share,
}
"""The names that a cell's body finds without importing them."""

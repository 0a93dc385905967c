"""What a cell's body may call on a rank: `share` and `backend`.

Both also work in a plain script under plain torchrun, where `share` does
nothing because no notebook waits for the values.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from labsupport.errors import LabError


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
    run = os.environ.get("LABS_RUN")
    if run is None:
        return
    from labsupport.distributed import values
    from labsupport.distributed.folders import RunFolder

    place = RunFolder(Path(run)).values(int(os.environ["RANK"]))
    place.mkdir(exist_ok=True)
    values.save(place / f"{name}.safetensors", value, called=name)


def backend() -> str:
    """ "nccl" when every process on this machine has a GPU, otherwise "gloo".

    The agent of a torchrun cell has looked already and says so in
    LABS_BACKEND; in a plain script this looks itself.
    """
    known = os.environ.get("LABS_BACKEND")
    return known or choose_backend(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))[0]


def choose_backend(local_world: int) -> tuple[str, int]:
    """The backend for `local_world` processes here, and the number of GPUs.

    Counting devices does not start CUDA, so a process may still fork.
    """
    import torch
    import torch.distributed as dist

    gpus = torch.cuda.device_count()
    enough = 0 < local_world <= gpus and dist.is_nccl_available()
    return ("nccl" if enough else "gloo"), gpus

"""Call a function on ranks that a torchrun cell starts, from Python.

    row = call_on_ranks("labs.lab_05a.layout_runs:time_rank", 2, seed=0, scale="ci")

For experiments: a record is made by the same ranks, links and libraries as a cell.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

from labsupport.errors import LabError

BODY = """
import torch
import torch.distributed as dist

from {module} import {name}

torch.set_num_threads(1)
dist.init_process_group(backend())
share("found", {name}({arguments}, dist=dist, device=device()))
"""


def call_on_ranks(
    function: str, ranks: int, *, link: str | None = None, **arguments: Any
) -> Any:
    """What the function gives on rank 0.

    Args:
        function: "module:name"; it is called with `dist`, which is torch.distributed
            with a process group, with `device`, and with the arguments. What it gives
            can cross to the notebook (values.py).
        ranks: how many.
        link: as in `--link`; `--link-rank` may follow.
        arguments: what Python can write down.

    Raises:
        LabError: a name that is none; or a rank failed.
    """
    from labsupport.distributed.magic import torchrun

    module, colon, name = function.partition(":")
    if not (colon and name.isidentifier()):
        raise LabError(f"function={function!r}: write module:name.")
    words = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    words = words.replace("=inf", "=float('inf')")
    line = f"--nproc {ranks} --name found --timeout 1800"
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        torchrun(
            line + (f" --link {link}" if link else ""),
            BODY.format(module=module, name=name, arguments=words),
            namespace,
        )
    return namespace["found"][0].found

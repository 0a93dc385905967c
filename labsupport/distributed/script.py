"""`--save step.py`: the cell as a plain script for torchrun, here or on a cluster."""

from __future__ import annotations

from pathlib import Path

from labsupport.distributed import values
from labsupport.distributed.functions import Pushed
from labsupport.errors import LabError

HEADER = """\
# Written by the notebook's %%torchrun cell (--save); the cell is at the end.
# On this machine:
#     torchrun --standalone --nproc-per-node {nproc} {name}
# On two machines, the same command on each:
#     torchrun --nnodes 2 --nproc-per-node {nproc} --rdzv-backend c10d \\
#         --rdzv-endpoint FIRST_MACHINE:29500 --rdzv-id any_name {name}
#
# share(name, value) brings a value back to the notebook. Under plain torchrun
# there is no notebook, and it does nothing.
from labsupport.distributed import backend, share  # noqa: F401
"""
VALUES = """
# The values that the notebook pushed, from the file beside this script.
from pathlib import Path

from labsupport.distributed.values import load

globals().update(load(Path(__file__).with_name("{file}")))
"""


FOOTER = """
# torch may abort a rank that exits while its process group is still open.
import torch.distributed

if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def check_target(name: str) -> Path:
    """Where to write: a .py file in a folder that exists."""
    path = Path(name)
    if path.suffix != ".py" or not path.absolute().parent.is_dir():
        raise LabError(f"--save {name}: name a .py file in a folder that exists.")
    return path


def save_script(path: Path, body: str, pushed: Pushed, nproc: int) -> None:
    """Write the script, and beside it a .safetensors file if values were pushed."""
    text = HEADER.format(nproc=nproc, name=path.name)
    if pushed.values:
        beside = path.with_suffix(".safetensors")
        values.save(beside, pushed.values, called="a pushed value")
        text += VALUES.format(file=beside.name)
    source = pushed.source().strip()
    if source:
        text += f"\n# What the notebook pushed as source.\n{source}\n"
    text += f"\n# The cell.\n{body.rstrip()}\n{FOOTER}"
    # `from __future__` must come first in a file.
    future = "from __future__ import annotations\n"
    if future in text:
        text = future + text.replace(future, "")
    path.write_text(text, encoding="utf-8")

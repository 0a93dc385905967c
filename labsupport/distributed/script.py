"""`--save step.py`: the cell as a plain script for torchrun, here or on a cluster."""

from __future__ import annotations

from pathlib import Path

from labsupport.distributed import values
from labsupport.distributed.functions import Pushed
from labsupport.distributed.options import Options
from labsupport.errors import LabError

HEADER = """\
# Written by the notebook's %%torchrun cell (--save); the cell is at the end.
# On this machine:
#     {env}torchrun{restarts} --standalone --nproc-per-node {nproc} {name}
# On two machines, the same command on each (the course has to be installed
# there: pip install -e .):
#     {env}torchrun{restarts} --nnodes 2 --nproc-per-node {nproc} \\
#         --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 \\
#         --rdzv-id {id} {name}
# A notebook cell joins them with
#     %%torchrun --nnodes 2 --rdzv-endpoint FIRST_MACHINE:29500 --rdzv-id {id} ...
# Under Slurm: sbatch {slurm}
#
# share() and log() bring values back to the notebook. Under plain torchrun
# there is no notebook, and they do nothing.
from labsupport.distributed import backend, count_traffic, device, log, share
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
SLURM = """\
#!/bin/bash
# Written by the notebook's %%torchrun cell (--save). Set the first lines to what
# your cluster has, then: sbatch {slurm}
#SBATCH --job-name={id}
#SBATCH --nodes=2
#SBATCH --gpus-per-node={nproc}
#SBATCH --cpus-per-task=16
#SBATCH --time=00:30:00
# One task a node: torchrun itself starts the ranks.
#SBATCH --ntasks-per-node=1

export OMP_NUM_THREADS=1
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
{env}srun torchrun{restarts} \\
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node {nproc} \\
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" \\
    --rdzv-id "$SLURM_JOB_ID" \\
    {name}
"""
# With torch's default the ranks of all attempts meet in one store, and with gloo
# a rank that was restarted finds the addresses of those that have died.
RESTART_ENV = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "


def check_target(name: str) -> Path:
    """Where to write: a .py file in a folder that exists."""
    path = Path(name)
    if path.suffix != ".py" or not path.absolute().parent.is_dir():
        raise LabError(f"--save {name}: name a .py file in a folder that exists.")
    return path


def save_script(path: Path, body: str, pushed: Pushed, options: Options) -> None:
    """Write the script, a Slurm job for it, and a .safetensors file if values
    were pushed.
    """
    slurm = path.with_suffix(".sbatch")
    several = options.max_restarts
    words = {
        "nproc": options.nproc,
        "name": path.name,
        "slurm": slurm.name,
        "id": options.rdzv_id or options.name,
        "restarts": f" --max-restarts {several}" if several else "",
        "env": RESTART_ENV if several else "",
    }
    text = HEADER.format(**words)
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
    slurm.write_text(SLURM.format(**words), encoding="utf-8")

"""Two nodes in two network namespaces, as the tests of several machines use them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labsupport.distributed.network import what_prevents_shaping
from tests.two_nodes import traces_of, two_nodes

QUIET = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}


@pytest.fixture(scope="module")
def allowed() -> None:
    reason = what_prevents_shaping()
    if reason is not None:
        pytest.skip(f"no two nodes here: {reason}")


needs_namespaces = pytest.mark.usefixtures("allowed")


NOTEBOOK = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "labsupport.distributed")
body = '''
import torch
import torch.distributed as dist
dist.init_process_group(backend())
x = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(x)
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {x.item()}")
'''
shell.run_cell("%%torchrun " + sys.argv[1] + body).raise_error()
"""


@pytest.mark.slow  # half a minute
@pytest.mark.distributed
@needs_namespaces
def test_a_cell_and_its_saved_script_meet_as_on_a_cluster(tmp_path: Path) -> None:
    """A notebook on one machine, plain torchrun with the saved script on the
    other, each with a network stack and a host name of its own.
    """
    env = QUIET | {"LABS_HOME": str(tmp_path)}
    env.pop("GLOO_SOCKET_IFNAME", None)
    notebook = [sys.executable, "-c", NOTEBOOK]
    save = [*notebook, "--nproc 1 --name dp --save step.py"]
    subprocess.run(save, cwd=tmp_path, env=env, check=True, capture_output=True)
    with two_nodes() as nodes:
        meet = f"--nnodes 2 --rdzv-endpoint {nodes.addresses[0]}:29400"
        torchrun = [sys.executable, "-m", "torch.distributed.run", *meet.split()]
        torchrun += "--nproc-per-node 2 --rdzv-backend c10d --rdzv-id dp".split()
        commands = [
            [*notebook, f"--nproc 2 --name dp --timeout 100 {meet}"],
            [*torchrun, "step.py"],
        ]
        started = [
            nodes.run_in(node, command, cwd=tmp_path, stdout=subprocess.PIPE, env=env)
            for node, command in enumerate(commands)
        ]
        said = [process.communicate(timeout=120)[0] for process in started]
    lines = sorted(re.findall(r"rank \d of 4: \d+", "".join(said)))
    assert lines == [f"rank {rank} of 4: 10" for rank in range(4)], said


@needs_namespaces
def test_what_runs_in_a_node_ends_with_it() -> None:
    with two_nodes() as nodes:
        inside = [Path(entrance).stat().st_ino for entrance in nodes.entrances]
        left = "import subprocess; subprocess.Popen(['sleep', '600']); print('up')"
        process = nodes.run_in(1, [sys.executable, "-c", left], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == "up\n"
    assert traces_of(inside) == []

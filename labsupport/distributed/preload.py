"""What the fork server imports before it forks its first rank.

multiprocessing's fork server imports this module once; every rank is then a
copy of that process, with PyTorch already in memory. Three things must hold at
the moment of the fork, and tests/labsupport/test_torchrun_warm.py checks them:
one thread only, CUDA never touched, and no random generator that two ranks
would continue in the same way.
"""

from __future__ import annotations

import os

# The kernel's pipe (lifeline.py) is this process's stdin, which the fork server
# replaces with /dev/null when its imports are done. Ranks watch this copy.
LIFELINE = os.dup(0)

import torch  # noqa: E402
import torch._dynamo  # noqa: E402  (the first optimizer would import it)
import torch.distributed.checkpoint  # noqa: E402
import torch.distributed.fsdp  # noqa: E402
import torch.distributed.pipelining  # noqa: E402
import torch.distributed.tensor.parallel  # noqa: E402
import torch.nn.parallel  # noqa: E402, F401

import labsupport.distributed.values  # noqa: E402
import labsupport.distributed.worker  # noqa: E402, F401

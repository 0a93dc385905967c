"""Triton kernels, one operation a module.

Importing this package decides, once per process, whether kernels are compiled
(a CUDA device is there) or interpreted (it is not). Triton reads
`TRITON_INTERPRET` while a kernel is being decorated, its own library
included, so the choice has to fall before triton is first imported.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Triton has wheels for Linux only. Without it references and costs work."""

# The ahead-of-time check compiles without a GPU; it sets LABS_AOT for itself.
_ONLY_COMPILES = os.environ.get("LABS_AOT") == "1"

if HAS_TRITON and not torch.cuda.is_available() and not _ONLY_COMPILES:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise ImportError(
            "triton was imported before kernels on a machine without a GPU: "
            "restart the kernel and import kernels (or labsupport) first."
        )
    os.environ["TRITON_INTERPRET"] = "1"

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter in this process."""

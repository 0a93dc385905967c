"""Read from a compiled kernel what it takes of a GPU, without a GPU.

NVIDIA: `cuobjdump -res-usage`, which comes with Triton's wheel, prints what the
assembler allotted. (`CompiledKernel.n_spills` would say it too, but is None
until a kernel has been loaded on a device.) AMD: the assembly text ends in the
same numbers as metadata.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESERVED = 1024
"""Bytes of shared memory the system itself takes of a block from sm_90 on.

`cuobjdump` counts them; the 99 KB that a kernel may ask for do not.
"""

# The first pattern that occurs names the instructions.
TENSOR_CORE = {
    "tcgen05": r"\btcgen05\.mma\b",
    "wgmma": r"\bwgmma\.mma_async\b",
    "mma": r"(?<!\.)\bmma\.(sync|sp)\b",
    "mfma": r"\bv_s?mfma",
}
ASYNC_COPY = {
    "bulk tensor": r"\bcp\.async\.bulk\b",
    "cp.async": r"\bcp\.async\.c[ag]\b",
    "load to lds": r"\b(global_load_lds|buffer_load\w*_lds)|\bbuffer_load.*\blds\b",
}


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel takes.

    Attributes:
        registers: 32-bit registers a thread (AMD: vector registers, VGPRs).
        scalar_registers: AMD's registers shared by a wavefront (SGPRs).
        stack: bytes a thread keeps in memory because registers ran out (spills);
            AMD calls it scratch.
        shared: bytes of on-chip memory a program asks for; AMD calls it LDS.
        tensor_core: the matrix instructions in it, None if there are none.
        async_copy: the copies from memory to on-chip memory that do not wait.
    """

    registers: int
    scalar_registers: int | None
    stack: int
    shared: int
    tensor_core: str | None
    async_copy: str | None


def usage_of(compiled: Any) -> Usage:
    """Read a `triton.compiler.CompiledKernel` for either vendor."""
    if "amdgcn" in compiled.asm:
        return _amd_usage(compiled.asm["amdgcn"], compiled.metadata.shared)
    words = _resource_usage(compiled.asm["cubin"])
    fixed = max(0, _number(r"\bSHARED:(\d+)", words) - RESERVED)
    return Usage(
        registers=_number(r"\bREG:(\d+)", words),
        scalar_registers=None,
        stack=_number(r"\bSTACK:(\d+)", words) + _number(r"\bLOCAL:(\d+)", words),
        # Triton asks for all its shared memory at the launch.
        shared=compiled.metadata.shared + fixed,
        tensor_core=first_found(TENSOR_CORE, compiled.asm["ptx"]),
        async_copy=first_found(ASYNC_COPY, compiled.asm["ptx"]),
    )


def first_found(patterns: dict[str, str], text: str) -> str | None:
    """The name of the first pattern that occurs in text."""
    return next(
        (name for name, each in patterns.items() if re.search(each, text)), None
    )


def _amd_usage(text: str, shared: int) -> Usage:
    fixed = _number(r"\.group_segment_fixed_size:\s*(\d+)", text)
    return Usage(
        registers=_number(r"\.vgpr_count:\s*(\d+)", text),
        scalar_registers=_number(r"\.sgpr_count:\s*(\d+)", text),
        stack=_number(r"\.private_segment_fixed_size:\s*(\d+)", text),
        shared=shared + fixed,
        tensor_core=first_found(TENSOR_CORE, text),
        async_copy=first_found(ASYNC_COPY, text),
    )


def _resource_usage(cubin: bytes) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        answer = subprocess.run(
            [tool, "-res-usage", file], capture_output=True, text=True, check=True
        )
    return answer.stdout


def _number(pattern: str, text: str) -> int:
    """The number that a pattern finds; a format that changed is an error."""
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"cannot read {pattern!r} from the compiled kernel:\n{text}")
    return int(found[1])

"""What a kernel does to memory: recorded, counted, and judged in sentences.

`record_accesses(kernel, grid, ...)` launches a kernel in Triton's interpreter
and notes, for every program, which elements of which argument it touched.
`findings(log)` says what looks wrong. `count(log, tensor)` has the numbers.
"""

from kernels.access.findings import findings
from kernels.access.log import Access, AccessLog, Counts, TensorArgument, count
from kernels.access.recorder import record_accesses
from kernels.access.spaces import RecordingError

__all__ = [
    "Access",
    "AccessLog",
    "Counts",
    "RecordingError",
    "TensorArgument",
    "count",
    "findings",
    "record_accesses",
]

"""The one place that says how stored outputs are compared with a new run."""

from __future__ import annotations

NBVAL = (
    "pytest",
    # Strict: a cell without a tag would be compared too.
    "--nbval",
    # The kernel is this environment's own, whatever a machine calls "python3".
    "--nbval-current-env",
    "--nbval-cell-timeout=180",
    "--nbval-kernel-startup-timeout=120",
    # pytest-timeout's limit is above nbval's, so that nbval names the cell.
    "--timeout=400",
)
"""After `python -m`, in the course's folder, and before what is to be compared."""

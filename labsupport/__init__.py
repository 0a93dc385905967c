"""What more than one lab needs. A notebook imports `Lab` and little else.

`Lab` is loaded on first use, so that the processes of a `%%torchrun` cell,
which import this package too, do not pay for widgets and plots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labsupport.lab import Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> Any:
    if name == "Lab":
        from labsupport.lab import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

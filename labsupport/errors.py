"""The one exception a reader is meant to see."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class LabError(Exception):
    """Something the reader can put right, said in one sentence.

    The message says what was wrong and what is allowed. In a notebook only
    that sentence is shown; a stack of library frames would bury it. On the
    command line it becomes one line on stderr and a non-zero exit.
    """

    def _render_traceback_(
        self,
        etype: type[BaseException] | None = None,
        value: BaseException | None = None,
        tb: TracebackType | None = None,
        *ignored: Any,
        **also_ignored: Any,
    ) -> list[str]:
        """IPython calls this instead of printing the stack."""
        return [f"{type(self).__name__}: {self}"]

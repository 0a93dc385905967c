"""Let a widget be answered while the cell that made it still runs.

JupyterLab sends a widget's messages to a subshell, a second thread of the
kernel, so that a Stop button works during training. ipykernel 7.4.0 ignores
where a message was sent and answers it where the widget last published
something: for a button made by the running cell that is the main shell, which
is busy until the cell has ended. tests/browser/test_jupyterlab.py tells whether
a release still needs this.
"""

from __future__ import annotations

from typing import Any

from ipykernel.comm import comm as kernel_comm


def answer_during_cells() -> None:
    """Route messages from the browser to where they were sent.

    Replies to a request of the kernel's own keep ipykernel's route. Does
    nothing on releases that have no such routing, and when called again.
    """
    base: Any = kernel_comm.BaseComm
    routed = getattr(base, "_reply_subshell_for", None)
    request_id = getattr(kernel_comm, "_request_id", None)
    if routed is None or request_id is None or hasattr(routed, "as_sent"):
        return

    def route(comm: Any, data: Any, as_sent: str | None) -> Any:
        if request_id(data) is None:
            return as_sent
        return routed(comm, data, as_sent)

    route.as_sent = True  # type: ignore[attr-defined]
    base._reply_subshell_for = route

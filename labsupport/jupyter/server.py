"""Start one JupyterLab for the course, and say plainly where it is.

On this machine only (127.0.0.1), with a token, on a free port. The server's
own messages go to a log file, so that the address is what the reader sees.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

from labsupport import paths
from labsupport.errors import LabError

SETTINGS = Path(__file__).parent
START_TIMEOUT = 120.0  # seconds; a cold first start takes a few
# Nothing listens through a proxy on this machine's own address.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def served_folder() -> Path:
    """The folder that JupyterLab shows: the course, if my_labs/ is in it."""
    home = paths.my_labs()
    return paths.ROOT if home.is_relative_to(paths.ROOT) else home


def private_folder() -> Path:
    """Where the server keeps its log and its window layout."""
    return paths.my_labs() / ".jupyter"


def notebook_url(info: dict[str, Any], notebook: Path | None = None) -> str:
    """The address to open, token included.

    Args:
        info: a server's own description (jpserver-PID.json).
        notebook: a notebook under the served folder; None is the last layout.
    """
    url = f"{info['url']}lab"
    if notebook is not None:
        place = notebook.relative_to(Path(info["root_dir"]).resolve()).as_posix()
        url += f"/tree/{quote(place)}"
    return f"{url}?token={info['token']}" if info.get("token") else url


def answers(info: dict[str, Any]) -> bool:
    """Whether a server is alive: a file of a dead one may be left over."""
    request = urllib.request.Request(f"{info['url']}api/status")
    if info.get("token"):
        request.add_header("Authorization", f"token {info['token']}")
    try:
        with _opener.open(request, timeout=3) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # alive, with a password of its own
    except OSError:
        return False


def open_servers() -> Iterator[dict[str, Any]]:
    """Live JupyterLabs that already show the folder we would serve."""
    from jupyter_server.serverapp import list_running_servers

    wanted = served_folder().resolve()
    for info in list_running_servers():
        if Path(info["root_dir"]).resolve() == wanted and answers(info):
            yield info


def refuse_second() -> None:
    """Raises a LabError with its address when a JupyterLab is already open."""
    for info in open_servers():
        raise LabError(
            f"JupyterLab is already open for this folder: {notebook_url(info)} "
            "(Ctrl-C in its terminal ends it)."
        )


def has_screen() -> bool:
    """Whether a browser opened here would be seen by whoever typed."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform == "linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True


def server_command(folder: Path, port: int = 8888) -> list[str]:
    """The command line; with the port taken, JupyterLab takes the next."""
    command = [sys.executable, "-m", "jupyterlab", "--no-browser"]
    command += [f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=100"]
    # Ctrl-C ends it at once, without a y/n question.
    command += ["--ServerApp.answer_yes=True"]
    # Its own layout: another project's open tabs do not come back here.
    command += [f"--LabApp.workspaces_dir={private_folder() / 'workspaces'}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command += ["--allow-root"]
    return command


def server_environment() -> dict[str, str]:
    """Our settings first on JupyterLab's path, and a token of its own.

    The token goes through the environment: `ps` shows a command line to
    everyone on the machine.
    """
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    path = os.pathsep.join([str(SETTINGS), *([before] if before else [])])
    return os.environ | {
        "JUPYTER_CONFIG_PATH": path,
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel
        "JUPYTER_TOKEN": secrets.token_hex(24),
        "LABS_HOME": str(paths.my_labs()),
    }


def start_server(
    port: int = 8888, extra: tuple[str, ...] = ()
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start JupyterLab and wait until it answers.

    Returns:
        The process and the server's own description of itself.

    Raises:
        LabError: it ended or did not answer in time; shows its last lines.
    """
    log = private_folder() / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*server_command(served_folder(), port), *extra],
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        return process, _wait_until_it_answers(process, log)
    except BaseException:
        stop_server(process)
        raise


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels: politely, then for certain."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve(notebook: Path, open_browser: bool | None = None) -> int:
    """Show `notebook` in JupyterLab until Ctrl-C.

    Args:
        notebook: a working copy.
        open_browser: None opens one where there is a screen.

    Returns:
        0 after Ctrl-C, else JupyterLab's own exit code.

    Raises:
        LabError: one is already open here, or JupyterLab does not start.
    """
    refuse_second()
    print("Starting JupyterLab ...", flush=True)
    with _signals_end_the_block():
        process, info = start_server()
        url = notebook_url(info, notebook)
        print(f"\nYour lab is at\n\n    {url}\n\nCtrl-C here ends it.", flush=True)
        if os.environ.get("SSH_CONNECTION"):
            port = info["port"]
            print(f"From your own machine first: ssh -L {port}:127.0.0.1:{port} HOST")
        if has_screen() if open_browser is None else open_browser:
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        try:
            return process.wait()
        except KeyboardInterrupt:
            print("\nClosing JupyterLab; your work is saved in my_labs/.", flush=True)
            return 0
        finally:
            stop_server(process)


@contextmanager
def _signals_end_the_block() -> Iterator[None]:
    """A closed terminal or `kill` ends the server as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [n for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: signal.signal(getattr(signal, n), interrupt) for n in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], log: Path
) -> dict[str, Any]:
    from jupyter_core.paths import jupyter_runtime_dir

    # The server describes itself in this file once its port is bound.
    description = Path(jupyter_runtime_dir()) / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + START_TIMEOUT
    why = f"did not answer within {START_TIMEOUT:.0f} seconds"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            why = f"ended with code {process.returncode}"
            break
        try:
            info: dict[str, Any] = json.loads(description.read_text())
        except (OSError, ValueError):
            time.sleep(0.05)
            continue
        if answers(info):
            return info
        time.sleep(0.05)
    last = "\n  ".join(log.read_text(errors="replace").splitlines()[-5:])
    raise LabError(f"JupyterLab {why} (log: {log}). Its last words:\n  {last}")

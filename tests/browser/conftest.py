"""One JupyterLab, as `labs open` starts it, and one Chromium for these tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from labsupport import paths
from labsupport.build.chromium import chromium
from labsupport.jupyter import server
from tests.browser.driver import PATIENCE, NotebookPage

# Where screenshots go, when someone wants to look: LABS_SCREENSHOTS=folder.
SCREENSHOTS = "LABS_SCREENSHOTS"


@pytest.fixture(scope="session")
def jupyterlab(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Any]]:
    """A running JupyterLab over an empty my_labs/; yields its description.

    The reader's own Jupyter settings, windows and running servers stay out of
    the way.
    """
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("LABS_HOME", str(home / "my_labs"))
        patch.setenv("JUPYTER_CONFIG_DIR", str(home / "config"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        for name in ("PYTEST_CURRENT_TEST", "JPY_SESSION_NAME"):
            patch.delenv(name, raising=False)
        process, info = server.start_server(extra=("--expose-app-in-browser",))
        try:
            yield info
        finally:
            server.stop_server(process)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed after each file: playwright allows one of its kind at a time."""
    with chromium() as running:
        yield running


@pytest.fixture
def open_notebook(
    jupyterlab: dict[str, Any], browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Callable[[Path], NotebookPage]]:
    """Opens a notebook that lies under LABS_HOME; closes its kernel at the end.

    The kernel inherits the environment that JupyterLab was started with.
    """
    opened: list[NotebookPage] = []

    def open_it(path: Path) -> NotebookPage:
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        notebook = NotebookPage(context.new_page(), path)
        notebook.page.set_default_timeout(PATIENCE)
        opened.append(notebook)
        # A clean window: JupyterLab would bring back the last test's tabs.
        notebook.page.goto(f"{server.notebook_url(jupyterlab, path)}&reset")
        notebook.wait_ready()
        return notebook

    yield open_it
    folder = os.environ.get(SCREENSHOTS)
    for notebook in opened:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            notebook.page.screenshot(path=Path(folder) / f"{request.node.name}.png")
        notebook.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.shutdown()"
        )
        notebook.page.context.close()


@pytest.fixture
def labs_home(jupyterlab: dict[str, Any]) -> Path:
    """The folder that JupyterLab shows: my_labs/ of this test run."""
    return paths.my_labs()

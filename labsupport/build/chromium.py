"""Find a Chromium: the system's, or the one that playwright installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from labsupport.errors import LabError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox: containers run as root. The rest keeps the browser from talking
# to anyone; pictures and tests need no network. SwiftShader draws plotly's
# 3-D traces, which use WebGL, on the CPU.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """The path of a system Chromium: $CHROMIUM, or a known name on PATH.

    Raises:
        LabError: when $CHROMIUM names no file.
    """
    chosen = os.environ.get("CHROMIUM")
    if chosen:
        if shutil.which(chosen) is None:
            raise LabError(f"CHROMIUM={chosen} is not a program that can be run.")
        return shutil.which(chosen)
    return next((path for path in map(shutil.which, NAMES) if path), None)


def has_chromium() -> bool:
    """Whether `chromium()` would find a browser to start."""
    if find_chromium() is not None:
        return True
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path).exists()


@contextmanager
def chromium() -> Iterator[Browser]:
    """One headless browser for the time of the block.

    Raises:
        LabError: when playwright or every Chromium is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise LabError("Pictures need playwright: pip install playwright.") from None
    with sync_playwright() as playwright:
        path = find_chromium()
        if path is None and not Path(playwright.chromium.executable_path).exists():
            raise LabError(
                "No Chromium found: install Debian's `chromium`, name one with "
                "CHROMIUM=/path, or run `playwright install chromium`."
            )
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=list(FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()

"""Which tests run where.

Those of a lab that is still a draft (labs/src/_NN_name.py) run in `make test-all` only.
Browser tests need a Chromium: skipped without one, unless CI requires it.
"""

from __future__ import annotations

import os

import pytest

from labsupport.build.chromium import has_chromium
from labsupport.paths import LABS

DRAFTS = tuple(
    f"test_lab_{file.name[1:].split('_')[0]}_" for file in LABS.glob("src/_*.py")
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith(DRAFTS):
            item.add_marker(pytest.mark.slow)
    in_browser = [item for item in items if item.get_closest_marker("browser")]
    if not in_browser or has_chromium():
        return
    if os.environ.get("LABS_BROWSER") == "required":
        pytest.exit("LABS_BROWSER=required, and there is no Chromium.", returncode=2)
    for item in in_browser:
        item.add_marker(pytest.mark.skip(reason="no Chromium: see CONTRIBUTING.md"))

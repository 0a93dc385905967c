"""The recipe of kernels/TEMPLATE.md gives a copy that works."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

import kernels
from tests.kernels.cases import Case
from tests.kernels.harness import check_bad_calls, check_gradients, check_values

KERNELS = Path(kernels.__file__).parent


@pytest.mark.skipif(not kernels.INTERPRETED, reason="kernels are compiled here")
def test_the_copy_of_softmax_passes_before_anything_is_changed(tmp_path, monkeypatch):
    recipe = (KERNELS / "TEMPLATE.md").read_text()
    renames = re.findall(r"s/(\w+)/(\w+)/g", recipe)
    assert len(renames) == 3
    for source in (KERNELS / "softmax.py", Path(__file__).parent / "test_softmax.py"):
        text, name = source.read_text(), source.name
        for old, new in renames:
            text, name = text.replace(old, new), name.replace(old, new)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path)])
    monkeypatch.syspath_prepend(tmp_path)
    copy = importlib.import_module("test_scale_rows")
    try:
        assert "softmax" not in vars(copy)
        check_values(copy.SCALE_ROWS, Case((3, 5), torch.float32))
        check_gradients(copy.SCALE_ROWS, Case((3, 5), torch.float32))
        check_bad_calls(copy.SCALE_ROWS)
    finally:
        sys.modules.pop("kernels.scale_rows", None)
        sys.modules.pop("test_scale_rows", None)

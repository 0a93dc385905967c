"""Importing kernels decides between interpreted and compiled, once."""

import os
import subprocess
import sys

import pytest
import torch

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
WITHOUT_TRITON = """
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
"""


def run(code: str) -> subprocess.CompletedProcess:
    """A fresh process, without the choice that this one has already made."""
    fresh = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=fresh)


@no_gpu
def test_without_a_gpu_kernels_are_interpreted():
    answer = run("import kernels, os; print(kernels.INTERPRETED)")
    assert answer.stdout.strip() == "True"


@no_gpu
def test_triton_imported_too_early_is_one_clear_sentence():
    answer = run("import triton, kernels")
    assert answer.returncode == 1
    assert "triton was imported before kernels" in answer.stderr


def test_a_lab_runs_without_triton_and_says_so():
    answer = run(
        WITHOUT_TRITON + "from labsupport import Lab\nLab('00', scale='ci')\n"
        "import kernels\nassert not kernels.HAS_TRITON"
    )
    assert answer.returncode == 0, answer.stderr
    assert "Triton has no wheel here" in answer.stdout

"""Each patch is needed, comes off again, and works with every tested Triton.

The Triton installed here is one release. To run these files with others, give
their folders (`pip install --no-deps --target FOLDER triton==...`):

    LABS_OTHER_TRITONS=folder:folder pytest tests/kernels/test_interpreter_patches.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import kernels

if not kernels.INTERPRETED or not kernels.HAS_TRITON:
    pytest.skip("kernels are not interpreted here", allow_module_level=True)

import test_interpreter as table
from test_interpreter import BF16, E4M3, E5M2, FP32
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.errors import InterpreterError

from kernels import interpreter
from kernels.interpreter import PATCHES, Patch, install, release, uninstall
from kernels.language import jit, tl, triton

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    # What NumPy deprecates today it refuses tomorrow.
    pytest.mark.filterwarnings("error::DeprecationWarning"),
]

PROBES: dict[str, Callable[[], None]] = {
    "_get_np_dtype": lambda: table.test_scalar_operands(BF16),
    "_patch_lang_tensor": table.test_loop_over_an_argument,
    "_mxfp_value_handle_to_float32": lambda: table.test_dot_scaled(BF16),
    "InterpreterBuilder.create_masked_load": lambda: table.test_bitcast(E4M3),
    "InterpreterBuilder.create_masked_store": lambda: table.test_bitcast(E4M3),
    "InterpreterBuilder.cast_impl": lambda: table.test_float_to_float(FP32, BF16),
    "InterpreterBuilder.create_fp_to_fp": (
        table.test_float8_rounds_to_even_carries_saturates_and_keeps_nan
    ),
    "InterpreterBuilder.get_bf16": lambda: table.test_constants(BF16),
    "InterpreterBuilder.binary_op": (
        lambda: table.test_float8_arithmetic_is_refused(E4M3, "add")
    ),
    "InterpreterBuilder.unary_op": (
        lambda: table.test_float8_arithmetic_is_refused(E4M3, "neg")
    ),
    "InterpreterBuilder.create_maxnumf": (
        lambda: table.test_maximum_and_minimum(BF16, "fmax")
    ),
    "InterpreterBuilder.create_minnumf": (
        lambda: table.test_maximum_and_minimum(BF16, "fmin")
    ),
    "InterpreterBuilder.create_clampf": lambda: table.test_scalar_operands(BF16),
    "InterpreterBuilder.create_fma": lambda: table.test_fma_rounds_once(BF16),
    "ReduceOps.sum": table.test_sum_of_many_ones,
    "ScanOps.cumsum": lambda: table.test_float8_reduction_is_refused(E4M3, "cumsum"),
    "ScanOps.cumprod": lambda: table.test_float8_reduction_is_refused(E4M3, "cumprod"),
    "InterpreterBuilder.create_dot": (
        lambda: table.test_dot_keeps_nan_and_infinity(E4M3)
    ),
    "InterpreterBuilder.create_atomic_rmw": lambda: table.test_atomic_add(BF16),
    "InterpreterBuilder.create_atomic_cas": lambda: table.test_atomic_cas(BF16),
}
"""For each patch, by its target, a test of the table that fails without it."""

HERE = [patch for patch in PATCHES if release() in patch.releases]


@pytest.fixture(autouse=True)
def mended_again_afterwards() -> Iterator[None]:
    yield
    uninstall()
    install()


def test_every_patch_has_a_probe() -> None:
    assert sorted(PROBES) == sorted(patch.target for patch in PATCHES)


@pytest.mark.parametrize("patch", HERE, ids=lambda patch: patch.target)
def test_patch_is_still_needed(patch: Patch) -> None:
    probe = PROBES[patch.target]
    probe()
    uninstall()
    install(leave_out=[patch.target])
    try:
        probe()
    except (AssertionError, InterpreterError, pytest.fail.Exception):
        return
    pytest.fail(
        f"the patch of {patch.target} is no longer needed for Triton "
        f"{triton.__version__}: take {release()} out of its releases"
    )


def test_uninstall_gives_every_function_back() -> None:
    uninstall()
    before = {}
    for patch in HERE:
        owner, name = interpreter._owner(patch.target)
        before[patch.target] = getattr(owner, name, None)
    install()
    install()  # twice is once
    uninstall()
    for patch in HERE:
        owner, name = interpreter._owner(patch.target)
        assert getattr(owner, name, None) is before[patch.target], patch.target


def test_an_untested_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    uninstall()
    before = triton_interpreter._get_np_dtype
    with monkeypatch.context() as patched:
        patched.setattr(triton, "__version__", "3.8.0")
        with pytest.raises(RuntimeError, match=r"Triton 3\.8\.0 .* 3\.6, 3\.7, 3\.9"):
            install()
    assert triton_interpreter._get_np_dtype is before


def test_compiled_kernels_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    uninstall()
    before = triton_interpreter._get_np_dtype
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "INTERPRETED", False)
        install()
    assert triton_interpreter._get_np_dtype is before


@jit
def foreign_kernel(x_ptr, out_ptr, dtype: tl.constexpr):
    tl.store(out_ptr, tl.load(x_ptr).to(dtype, bitcast=True).to(tl.float32))


@jit
def rtz_kernel(x_ptr, out_ptr):
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr, tl.load(x_ptr).to(dtype, fp_downcast_rounding="rtz"))


def test_what_is_not_supported_says_so() -> None:
    x, out = torch.zeros(1, dtype=torch.uint8), torch.zeros(1)
    for dtype in interpreter.REFUSED:
        with pytest.raises(
            InterpreterError, match=r"use tl\.float8e4nv|fail to convert"
        ):
            foreign_kernel[(1,)](x, out, dtype)
    for target in (E4M3, E5M2):
        with pytest.raises(InterpreterError, match="'rtz' does not reach float8"):
            rtz_kernel[(1,)](out, torch.zeros(1).to(target))


OTHERS = [p for p in os.environ.get("LABS_OTHER_TRITONS", "").split(":") if p]


@pytest.mark.parametrize("folder", OTHERS)
def test_with_another_triton(folder: str) -> None:
    """The whole table and these tests, in a process that finds `folder` first."""
    env = {k: v for k, v in os.environ.items() if k != "LABS_OTHER_TRITONS"}
    env["PYTHONPATH"] = str(Path(folder).resolve())
    found = "import kernels.language as l; print(l.triton.__file__)"
    place = subprocess.run(
        [sys.executable, "-c", found], env=env, capture_output=True, text=True
    )
    assert place.stdout.startswith(env["PYTHONPATH"]), place.stdout + place.stderr
    files = [Path(__file__).with_name("test_interpreter.py"), Path(__file__)]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *map(str, files)]
    tests = subprocess.run(command, env=env, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout[-8000:]

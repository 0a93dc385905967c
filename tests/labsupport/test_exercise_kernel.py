"""An exercise that is a Triton kernel: launched by the check, used by its grid."""

import dataclasses

import pytest
import torch

import kernels
from labsupport.exercise import Exercise, WrongAnswer, run_checks
from labsupport.exercise.check import same_as
from labsupport.exercise.function import ExerciseFunction
from labsupport.exercise.kernel import launch_watched
from labsupport.explore.memory_map import memory_map

triton = pytest.importorskip("triton", reason="Triton has wheels for Linux only")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.skipif(not kernels.INTERPRETED, reason="runs interpreted")


@triton.jit
def double_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, 2 * x, mask=at < n)


@triton.jit
def square_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + at, x * x, mask=at < n)


@triton.jit
def stub_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    raise NotImplementedError


def launch(kernel, x):
    out = torch.full_like(x, float("nan"))
    kernel[(triton.cdiv(x.numel(), 4),)](x, out, x.numel(), BLOCK=4)
    return out


def probes():
    return [(torch.tensor([1.0, 2.0, 5.0, 7.0, 11.0]),)]


DOUBLE = Exercise(
    id="9.1",
    title="double",
    minutes=1,
    difficulty=1,
    ours=double_kernel,
    checks=(("against 2 x", same_as(lambda x: 2 * x, probes)),),
    probes=probes,
    wrong=(WrongAnswer("square", square_kernel, "squared, not doubled.", 1),),
    hints=("Add it to itself.",),
    launch=launch,
)


def test_stub_solution_and_known_mistake():
    assert run_checks(DOUBLE, stub_kernel).state == "unsolved"
    assert run_checks(DOUBLE, double_kernel).passed
    verdict = run_checks(DOUBLE, square_kernel)
    assert verdict.wrong == "square"
    assert "squared, not doubled" in verdict.message


@triton.jit
def misspelt_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, 2 * y, mask=at < n)  # noqa: F821


@triton.jit
def no_sum_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.store(out_ptr + tl.program_id(0), 2 * x)


def test_what_the_interpreter_wraps_is_unwrapped():
    message = run_checks(DOUBLE, misspelt_kernel).message
    assert "raised NameError: name 'y' is not defined" in message
    assert "InterpreterError" not in message
    assert "is a `tl.sum` missing" in run_checks(DOUBLE, no_sum_kernel).message


@triton.jit
def row_by_row_kernel(x_ptr, out_ptr, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    for plane in tl.static_range(PLANES):
        here = (plane * 3 + row) * BLOCK + at
        tl.store(out_ptr + here, tl.load(x_ptr + here))


@triton.jit
def first_plane_kernel(x_ptr, out_ptr, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + here, tl.load(x_ptr + here))


@triton.jit
def last_rows_missing_kernel(x_ptr, out_ptr, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, BLOCK)
    for plane in tl.static_range(PLANES):
        here = (plane * 3 + row) * BLOCK + at
        inside = plane * 3 + row < PLANES * 3 - 2
        tl.store(out_ptr + here, tl.load(x_ptr + here, mask=inside), mask=inside)


def launch_planes(kernel, x):
    out = torch.full_like(x, float("nan"))
    launch_watched(kernel, (3,), x, out, PLANES=2, BLOCK=4)
    return out


def test_mistakes_that_leave_different_rows_out_are_told_apart():
    """Findings name rows of three axes in brackets, as they do a line of code."""
    copy = dataclasses.replace(
        DOUBLE,
        ours=row_by_row_kernel,
        launch=launch_planes,
        checks=(("a copy", lambda candidate: candidate(torch.ones(2, 3, 4))),),
        probes=lambda: [(torch.ones(2, 3, 4),)],
        wrong=(
            WrongAnswer("one plane", first_plane_kernel, "the first plane only.", 1),
            WrongAnswer("no end", last_rows_missing_kernel, "two rows are missing.", 1),
        ),
    )
    assert run_checks(copy, row_by_row_kernel).passed
    for wrong in copy.wrong:
        verdict = run_checks(copy, wrong.function)
        assert "of out_ptr" in verdict.message
        assert verdict.wrong == wrong.name


def test_the_kernel_in_use_is_launched_by_its_grid():
    x = torch.tensor([3.0])
    assert launch(ExerciseFunction(DOUBLE, square_kernel), x).item() == 6.0
    forced = ExerciseFunction(DOUBLE, square_kernel)
    forced.forced = True
    assert launch(forced, x).item() == 9.0


def test_a_memory_map_draws_the_kernel_in_use():
    exercise = ExerciseFunction(DOUBLE, square_kernel)
    x, out = torch.ones(5), torch.zeros(5)
    assert (
        "double_kernel"
        in memory_map(exercise, 2, x, out, 5, BLOCK=4).draw("all").sentence
    )
    exercise.forced = True
    assert (
        "square_kernel"
        in memory_map(exercise, 2, x, out, 5, BLOCK=4).draw("all").sentence
    )

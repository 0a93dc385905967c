"""The memory map shows each cell's state, for all programs and for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kernels
from labsupport.errors import LabError
from labsupport.explore import View, show
from labsupport.explore.memory_map import memory_map
from labsupport.explore.memory_sheet import LOOK, State

if not kernels.INTERPRETED:
    pytest.skip("recorded in the interpreter", allow_module_level=True)

import triton
import triton.language as tl


@triton.jit
def copy_kernel(x, out, n, STEP: tl.constexpr, BLOCK: tl.constexpr, MASK: tl.constexpr):
    offsets = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    mask = (offsets < n) | (not MASK)
    tl.store(out + offsets, tl.load(x + offsets, mask=mask), mask=mask)


@triton.jit
def double_kernel(x, columns, BLOCK: tl.constexpr):
    """In place, one program a row and half."""
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = x + tl.program_id(0) * columns + c
    tl.store(place, 2 * tl.load(place, mask=c < columns), mask=c < columns)


@triton.jit
def strided_kernel(x, out, SHIFT: tl.constexpr):
    i = tl.arange(0, 4)
    tl.store(out + i, tl.load(x + i + SHIFT))


@triton.jit
def no_tensor_kernel(n):
    tl.static_assert(n is not None)


def copy_map(step: int = 8, mask: bool = True, n: int = 20, programs: int = 3):
    x = torch.rand(20)
    settings = {"STEP": step, "BLOCK": 8, "MASK": mask}
    return memory_map(copy_kernel, programs, x, torch.empty(20), n, **settings)


def letters(view: View, tensor: int = -1) -> str:
    """The letters of one tensor's cells, line by line; "." where there is none."""
    heatmaps = [trace for trace in view.figure.data if trace.type == "heatmap"]
    lines = heatmaps[tensor].text
    return "|".join("".join(letter or "." for letter in line) for line in lines)


def test_a_correct_kernel_reads_one_and_writes_the_other():
    explorer = copy_map()
    view = explorer.draw("all")
    assert letters(view, 0) == "r" * 20
    assert letters(view, 1) == "w" * 20
    assert view.sentence == (
        "copy_kernel, 3 programs: they read x; wrote out; nothing looks wrong."
    )
    assert view.table["argument"] == ["x", "out"]
    assert view.table["read"] == [20, 0]
    assert view.table["written"] == [0, 20]


def test_the_slider_shows_one_program():
    explorer = copy_map()
    assert explorer.controls["program"].values == ("all", "0", "1", "2")
    view = explorer.draw("2")
    assert letters(view) == "." * 16 + "wwww"
    assert view.sentence == (
        "copy_kernel, program 2: read elements 16 to 19 of x; had 4 lanes of x masked "
        "off; wrote elements 16 to 19 of out; had 4 lanes of out masked off."
    )
    assert view.table["never touched"] == [16, 16]


def test_every_wrong_state_has_its_letter_and_its_sentence():
    outside = copy_map(mask=False).draw("all")
    assert letters(outside) == "w" * 20 + "|!!!!" + "." * 16
    assert "program 2 wrote outside out" in outside.sentence
    assert "is the mask missing?" in outside.sentence
    never = copy_map(programs=2).draw("all")
    assert letters(never) == "w" * 16 + "...."
    assert "is the grid one program short?" in never.sentence
    masked = copy_map(n=18).draw("all")
    assert letters(masked) == "w" * 18 + "mm"
    assert "is the mask too narrow?" in masked.sentence
    twice = copy_map(step=6)
    assert letters(twice.draw("all")) == "w" * 6 + "22wwww" + "22wwwwww"
    assert letters(twice.draw("0")) == "w" * 6 + "22" + "." * 12
    assert "written by programs 0 and 1: a race" in twice.draw("all").sentence


def test_a_grid_of_two_axes_and_a_tensor_changed_in_place():
    x = torch.ones(2, 6)
    explorer = memory_map(double_kernel, (2, 2), x, 6, BLOCK=4)
    assert explorer.controls["program"].values[1:] == (
        *("(0, 0)", "(0, 1)"),
        *("(1, 0)", "(1, 1)"),
    )
    assert letters(explorer.draw("all")) == "bbbbbb|bbbbbb"
    # The two lanes past row 0 point into row 1, and are masked off.
    assert letters(explorer.draw("(0, 1)")) == "....bb|mm...."
    assert (x == 2).all()


@pytest.mark.parametrize(
    ("shift", "drawn", "lines"),
    [
        (-2, "..!!|r...|!...", ("before", "0", "gaps")),
        (0, "rr..|!!..", ("0", "gaps")),
        (5, "...r|!!..|!...", ("0", "past end", "gaps")),
    ],
)
def test_places_outside_a_strided_tensor(shift, drawn, lines):
    """x has offsets 0, 2, 4, 6; the gaps and what lies around get cells."""
    x = torch.rand(8)[::2]
    view = memory_map(strided_kernel, 1, x, torch.empty(4), SHIFT=shift).draw("all")
    assert letters(view, 0) == drawn
    assert view.figure.layout.yaxis.ticktext == lines


def test_pointing_at_a_cell_says_who_was_there():
    view = copy_map(step=6, mask=False).draw("all")
    x, out = (t.customdata for t in view.figure.data if t.type == "heatmap")
    assert x[0][0] == "x[0]: read by program 0"
    assert out[0][6] == "out[6]: written by programs 0 and 1"
    outside = copy_map(mask=False).draw("all").figure.data[1].customdata
    assert outside[1][0] == "outside out, at offset 20: program 2"


def test_the_same_cells_at_every_program():
    """Else the picture would jump while the slider moves."""
    explorer = copy_map(mask=False)
    views = [explorer.draw(program) for program in explorer.controls["program"].values]
    shapes = [
        [np.shape(t.z) for t in v.figure.data if t.type == "heatmap"] for v in views
    ]
    assert all(shape == shapes[0] for shape in shapes)
    assert len({view.figure.layout.height for view in views}) == 1


def test_the_slider_moves_the_picture():
    knob, picture, words = copy_map().panel().children
    assert picture.data[1].text[0][0] == "w"
    knob.value = "1"
    assert picture.data[1].text[0][0] == ""
    assert "program 1" in words.value


def test_headless_shows_all_programs_once(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    bundles = []
    monkeypatch.setattr(show, "get_ipython", object)
    monkeypatch.setattr(show, "display", lambda bundle, raw: bundles.append(bundle))
    copy_map().show()
    (bundle,) = bundles
    assert bundle["text/plain"].startswith("copy_kernel, 3 programs")
    assert bundle[show.FIGURE_MIME]["data"][1]["z"] == [[State.WRITTEN] * 20]


def test_states_differ_in_letter_and_in_colour():
    letters, colours, names = zip(*LOOK.values(), strict=True)
    assert len(set(letters)) == len(set(colours)) == len(set(names)) == len(State)


def test_what_cannot_be_drawn_is_one_clear_sentence():
    big = torch.zeros(5000)
    args = {"STEP": 8, "BLOCK": 8, "MASK": True}
    with pytest.raises(LabError, match=r"x has shape \(5000,\).*at most 4096"):
        memory_map(copy_kernel, 1, big, torch.zeros(8), 8, **args)
    with pytest.raises(LabError, match="513 programs"):
        copy_map(programs=513)
    with pytest.raises(LabError, match="given no tensor"):
        memory_map(no_tensor_kernel, 1, 3)
    with pytest.raises(LabError, match=r"triton\.jit"):
        memory_map(print, 1)

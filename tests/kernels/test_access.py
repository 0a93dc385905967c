"""The recorder sees what a kernel does, and names what is wrong with it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import kernels
from kernels.access import RecordingError, count, findings, record_accesses

if not kernels.INTERPRETED:
    pytest.skip("recorded in the interpreter", allow_module_level=True)

import triton

from tests.kernels.access_kernels import (
    add_kernel,
    block_pointer_copy_kernel,
    copy_kernel,
    descriptor_copy_kernel,
    matmul_kernel,
    pairs_kernel,
    row_copy_kernel,
    row_sum_kernel,
    softmax_kernel,
    strange_kernel,
    total_kernel,
)


def vectors(n: int = 100) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.rand(n), torch.rand(n), torch.full((n,), torch.nan)


def copied(n: int, programs: int, step: int, mask: bool) -> list[str]:
    x, _, out = vectors(n)
    args = {"step": step, "BLOCK": 32, "MASK": mask}
    return findings(record_accesses(copy_kernel, programs, x, out, n, **args))


def rows_copied(rows: int, columns: int, shift: int, mask: bool) -> list[str]:
    x = torch.rand(rows, columns)
    args = (x, torch.empty_like(x), shift, rows, columns)
    return findings(record_accesses(row_copy_kernel, rows, *args, BLOCK=32, M=mask))


def strange(case: str) -> list[str]:
    x, out = torch.rand(4), torch.zeros(4)
    return findings(record_accesses(strange_kernel, 1, x, out, CASE=case))


# --- correct kernels: nothing to say, and the right numbers --------------------


def test_vector_add_with_a_half_empty_block():
    x, y, out = vectors()
    log = record_accesses(add_kernel, (4,), x, y, out, 100, BLOCK=32)
    assert findings(log) == []
    torch.testing.assert_close(out, x + y, rtol=0, atol=0)
    counts = [count(log, tensor) for tensor in log.tensors]
    assert [c.reads.sum() for c in counts] == [100, 100, 0]
    assert [c.writes.sum() for c in counts] == [0, 0, 100]
    last = [a for a in log.accesses if a.program == (3,)]
    assert [a.kind for a in last] == ["read", "read", "write"]
    assert last[-1].touched.tolist() == [96, 97, 98, 99]
    assert (~last[-1].active).sum() == 28
    assert last[-1].line == "tl.store(out + offsets, total, mask=mask)"


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every other column"])
def test_row_sum_of_every_layout(layout):
    x = torch.rand(5, 40)
    if layout == "transposed":
        x = torch.rand(40, 5).T
    if layout == "every other column":
        x = torch.rand(5, 80)[:, ::2]
    out = torch.empty(5)
    log = record_accesses(row_sum_kernel, 5, x, out, *x.stride(), 40, B=32)
    assert findings(log) == []
    torch.testing.assert_close(out, x.sum(1))
    x_log = count(log, log.tensors[0], (2,))
    assert x_log.read.reshape(5, 40)[2].all()
    assert x_log.read.sum() == 40


@pytest.mark.parametrize("columns", [1, 20, 32])
def test_softmax_one_program_a_row(columns):
    x = torch.randn(7, columns)
    out = torch.empty_like(x)
    assert findings(record_accesses(softmax_kernel, 7, x, out, columns, BLOCK=32)) == []
    torch.testing.assert_close(out, x.softmax(1))


def test_softmax_in_place_is_one_tensor_under_two_names():
    x = torch.randn(4, 20)
    log = record_accesses(softmax_kernel, 4, x, x, 20, BLOCK=32)
    assert findings(log) == []
    assert [tensor.name for tensor in log.tensors] == ["x = out"]


def test_matmul_tiles_that_do_not_divide_the_matrix():
    a, b, out = torch.rand(20, 24), torch.rand(24, 36), torch.empty(20, 36)
    args = (a, b, out, 20, 36, 24)
    log = record_accesses(matmul_kernel, (2, 3), *args, TILE=16, GUARD=True)
    assert findings(log) == []
    torch.testing.assert_close(out, a @ b)
    assert log.grid == (2, 3)
    assert count(log, log.tensors[0]).reads.tolist() == [3] * a.numel()


def test_descriptors_mask_at_the_border():
    x = torch.rand(20, 24)
    out = torch.empty_like(x)
    log = record_accesses(descriptor_copy_kernel, (2, 2), x, out, 20, 24, TILE=16)
    assert findings(log) == []
    assert torch.equal(x, out)


@pytest.mark.skipif(
    not hasattr(triton.runtime.interpreter, "BlockPointerHandle"),
    reason="Triton 3.9 has no block pointers",
)
@pytest.mark.filterwarnings("ignore:tl.make_block_ptr is deprecated")
def test_block_pointers_mask_only_the_axes_they_check():
    x, out = torch.rand(20, 24), torch.empty(20, 24)
    args = (x, out, 20, 24)
    kernel = block_pointer_copy_kernel
    log = record_accesses(kernel, (2, 2), *args, TILE=16, CHECK=True)
    assert findings(log) == []
    assert torch.equal(x, out)
    log = record_accesses(kernel, (2, 2), *args, TILE=16, CHECK=False)
    assert any("wrote outside" in sentence for sentence in findings(log))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool])
def test_elements_of_every_width(dtype):
    x = torch.ones(100, dtype=dtype)
    out = torch.zeros_like(x)
    args = {"step": 32, "BLOCK": 32, "MASK": True}
    log = record_accesses(copy_kernel, 4, x, out, 100, **args)
    assert findings(log) == []
    assert torch.equal(x, out)


def test_reinterpreted_pointers_and_tensors_in_a_tuple():
    x, out = torch.rand(8), torch.zeros(8)
    log = record_accesses(pairs_kernel, 1, (x,), out, BLOCK=4)
    assert findings(log) == []
    assert torch.equal(x, out)
    assert [tensor.name for tensor in log.tensors] == ["tensors[0]", "out"]
    short = torch.zeros(7)
    _, wrote = findings(record_accesses(pairs_kernel, 1, (x[:7],), short, BLOCK=4))
    assert wrote.startswith("program 0 wrote outside out, 1 element past its end")


def test_a_flat_kernel_may_cross_rows():
    x = torch.rand(4, 24)
    args = {"step": 32, "BLOCK": 32, "MASK": True}
    log = record_accesses(copy_kernel, 3, x, torch.empty_like(x), 96, **args)
    assert findings(log) == []


def test_an_atomic_sum_is_no_race():
    x, out = torch.ones(128), torch.zeros(1)
    log = record_accesses(total_kernel, 4, x, out, BLOCK=32, ATOMIC=True)
    assert findings(log) == []
    assert out.item() == 128
    assert count(log, log.tensors[1]).updates.tolist() == [4]


# --- wrong kernels: one clear sentence each ------------------------------------


def test_missing_mask():
    assert copied(100, 4, 32, mask=False) == [
        "program 3 read outside x, 28 elements past its end: is the mask missing? "
        "[tl.store(out + offsets, tl.load(x + offsets))]",
        "program 3 wrote outside out, 28 elements past its end: is the mask missing? "
        "[tl.store(out + offsets, tl.load(x + offsets))]",
    ]


def test_grid_one_short():
    assert copied(100, 3, 32, mask=True) == [
        "elements 96 to 99 of out were never written: is the grid one program short?"
    ]


def test_grid_one_too_long():
    assert copied(100, 5, 32, mask=True) == [
        "program 4 did nothing, every lane is masked off: "
        "is the grid one program too long?"
    ]
    _, wrote = copied(128, 5, 32, mask=False)
    assert "program 4 wrote outside out, 32 elements past its end" in wrote
    assert "is the grid one program too long, or the mask missing?" in wrote


def test_blocks_too_far_apart_skip_elements():
    *outside, missing = copied(128, 3, 48, mask=True)
    assert outside == []
    assert missing.startswith("32 elements of out, out[32] the first, were never")
    assert missing.endswith("does an offset skip them?")


def test_overlapping_blocks():
    (only,) = copied(48, 2, 16, mask=True)
    assert only == "elements 16 to 31 of out were written by programs 0 and 1: a race"
    (many,) = copied(96, 5, 16, mask=True)
    assert many == "elements 16 to 79 of out were written by programs 0 to 4: a race"


def test_a_sum_without_atomics():
    x, out = torch.ones(64), torch.zeros(1)
    log = record_accesses(total_kernel, 2, x, out, BLOCK=32, ATOMIC=False)
    assert findings(log) == ["out[0] was written by programs 0 and 1: a race"]


def test_a_row_without_its_mask():
    first, second, *rest = rows_copied(4, 20, shift=0, mask=False)
    assert first.startswith(
        "programs 0 to 3 read outside the row, past its end, in x: is the mask missing?"
    )
    assert "programs 0 to 3 wrote outside the row" in second
    assert all("race" in sentence for sentence in rest)


def test_a_tile_without_its_column_mask():
    a, b, out = torch.rand(20, 24), torch.rand(24, 36), torch.empty(20, 36)
    args = (a, b, out, 20, 36, 24)
    log = record_accesses(matmul_kernel, (2, 3), *args, TILE=16, GUARD=False)
    (only,) = findings(log)
    assert "read outside the row, past its end, in a: is the mask missing?" in only


def test_reading_another_row():
    (only,) = rows_copied(4, 20, shift=1, mask=True)
    assert only == (
        "program 0 wrote row 0 of out but read row 1 of x (and 3 others alike): "
        "is the row's index right?"
    )


def test_strides_that_are_ignored():
    x, out = torch.rand(4, 40)[:, ::2], torch.empty(4)
    log = record_accesses(row_sum_kernel, 4, x, out, 20, 1, 20, B=32)
    found = findings(log)
    assert found[0].startswith(
        "programs 0 to 3 read outside x, 40 elements in the gaps between its own: "
        "are its strides (40, 2) used?"
    )
    assert any("x were never read" in sentence for sentence in found)


def test_a_row_stride_one_too_large():
    x, out = torch.rand(4, 20), torch.empty(4)
    log = record_accesses(row_sum_kernel, 4, x, out, 21, 1, 20, B=32)
    found = findings(log)
    assert any("past its end" in sentence for sentence in found)
    assert any("never read" in sentence for sentence in found)


def test_every_program_reads_the_first_row():
    x, out = torch.rand(4, 20), torch.empty(4)
    log = record_accesses(row_sum_kernel, 4, x, out, 0, 1, 20, B=32)
    found = findings(log)
    assert "rows 1 to 3 of x were never read: does an offset skip them?" in found
    assert any("wrote row 1 of out but read row 0 of x" in s for s in found)


def test_before_the_start():
    found = strange("before")
    assert found[0].startswith(
        "program 0 read outside x, 2 elements before its start: is an offset negative?"
    )


def test_two_lanes_on_one_element():
    assert strange("lanes")[0] == (
        "elements 0 to 1 of out were written from several lanes of one store, by "
        "program 0: which value stays is undefined"
    )


def test_a_value_that_nobody_reads():
    assert strange("lost") == [
        "all of out was written twice by program 0: the first value is lost"
    ]


def test_addresses_that_belong_to_nobody():
    (only,) = strange("far")
    assert only.startswith("program 0 used an address that is near no argument")


def test_atomics_outside_are_reported_and_do_nothing():
    assert "program 0 updated outside out, 1 element past its end" in strange("cas")[0]
    assert "program 0 updated outside out, 2 elements" in strange("max outside")[0]


def test_a_forgotten_argument_and_one_that_is_partly_used():
    x, y, out = vectors(32)
    args = {"step": 32, "BLOCK": 32, "MASK": True}
    log = record_accesses(copy_kernel, 1, x, torch.rand(64), 32, **args)
    assert len(findings(log)) == 1
    assert findings(log, partly=["out"]) == []
    log = record_accesses(add_kernel, 1, x, y, out, 0, BLOCK=32)
    assert "out was never read or written: is it forgotten?" in findings(log)


def test_a_grid_without_programs():
    x, y, out = vectors(32)
    log = record_accesses(add_kernel, 0, x, y, out, 32, BLOCK=32)
    assert findings(log) == ["the grid (0,) has no program: nothing ran"]


# --- the recorder itself --------------------------------------------------------


def test_the_interpreter_is_left_as_it_was():
    from triton.runtime import interpreter

    names = ("create_masked_load", "create_masked_store", "create_atomic_cas")
    before = [getattr(interpreter.InterpreterBuilder, name) for name in names]
    convert = interpreter._implicit_cvt
    x, y, out = vectors()
    record_accesses(add_kernel, 4, x, y, out, 100, BLOCK=32)
    with pytest.raises(Exception, match="missing"):
        record_accesses(add_kernel, 4, x, y, out, 100)
    assert before == [getattr(interpreter.InterpreterBuilder, name) for name in names]
    assert convert is interpreter._implicit_cvt
    out.zero_()
    add_kernel[(4,)](x, y, out, 100, BLOCK=32)
    assert torch.equal(out, x + y)


def test_a_grid_may_be_a_function():
    x, y, out = vectors()
    grid = lambda meta: (triton.cdiv(100, meta["BLOCK"]),)  # noqa: E731
    log = record_accesses(add_kernel, grid, x, y, out, 100, BLOCK=32)
    assert log.grid == (4,)
    assert findings(log) == []


def test_only_a_jitted_function_can_be_recorded():
    with pytest.raises(RecordingError, match=r"decorated with triton\.jit"):
        record_accesses(print, 1)


def test_without_triton_it_is_one_clear_sentence():
    code = (
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda n, *r: None if n == 'triton' else find(n, *r)\n"
        "from kernels.access import record_accesses\nrecord_accesses(None, 1)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Triton has no wheel here" in run.stderr.splitlines()[-1]

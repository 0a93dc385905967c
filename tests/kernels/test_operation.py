"""The ways a call can go, with and without Triton and a GPU."""

import subprocess
import sys

import pytest
import torch

import kernels
from kernels.operation import KernelSpec, as_rows, route, row_launch
from kernels.softmax import softmax, softmax_reference
from tests.kernels.test_import import WITHOUT_TRITON

X = torch.randn(3, 5)


def test_on_a_cpu_the_reference_answers_unless_asked():
    assert route(X, None) == route(X, False) == "reference"
    assert torch.equal(softmax(X), softmax_reference(X))


@pytest.mark.skipif(not kernels.INTERPRETED, reason="kernels are compiled here")
def test_on_a_cpu_the_kernel_answers_on_request():
    assert route(X, True) == "kernel"


def test_interpreting_in_a_process_that_compiles_is_one_clear_sentence(monkeypatch):
    monkeypatch.setattr(kernels, "HAS_TRITON", True)
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"^interpret=True works only in a process"):
        softmax(X, interpret=True)


def test_rows_are_copied_only_where_their_elements_lie_apart():
    wide = torch.zeros(4, 3, 8)
    assert as_rows(wide[..., :5]).data_ptr() == wide.data_ptr()
    assert as_rows(wide[..., :5]).stride() == (8, 1)
    for x in (wide[..., ::2], wide.transpose(0, 2), torch.tensor(1.0).expand(4, 2)):
        assert as_rows(x).is_contiguous()
        assert torch.equal(as_rows(x).view(x.shape), x)


@pytest.mark.parametrize("N, BLOCK, num_warps", [(1, 1, 1), (33, 64, 1), (8192,) * 3])
def test_one_block_covers_a_row(N, BLOCK, num_warps):
    options = row_launch(N)
    assert options["BLOCK"] == BLOCK
    assert options["num_warps"] == min(num_warps, 16)


def test_without_triton_references_costs_and_specs_work_and_a_launch_says_why():
    code = f"""{WITHOUT_TRITON}
import torch
from kernels import rms_norm, sinkhorn, softmax
x = torch.zeros(1, 2)
print(softmax.softmax(x).tolist(), len(rms_norm.SPECS))
print(sinkhorn.sinkhorn(torch.zeros(2, 2, 1)).flatten().tolist())
for launch in (lambda: softmax.softmax(x, interpret=True),
               lambda: softmax.softmax_forward_kernel[(1,)],
               lambda: sinkhorn.sinkhorn_forward_kernel[(1,)]):
    try:
        launch()
    except (ValueError, RuntimeError) as error:
        print(error)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert answer.stdout.splitlines() == [
        "[[0.5, 0.5]] 18",
        "[0.5, 0.5, 0.5, 0.5]",
        "interpret=True needs Triton, which is not installed here (it has wheels for "
        "Linux only): leave interpret out.",
        "softmax_forward_kernel cannot be launched: Triton is not installed here (it "
        "has wheels for Linux only); the reference works everywhere.",
        "sinkhorn_forward_kernel cannot be launched: Triton is not installed here (it "
        "has wheels for Linux only); the reference works everywhere.",
    ], answer.stderr


def test_a_spec_says_what_is_launched():
    from kernels.softmax import SPECS, softmax_forward_kernel

    assert SPECS[0] == KernelSpec(
        name="softmax_forward_kernel",
        kernel=softmax_forward_kernel,
        signature={
            "x_ptr": "*fp32",
            "y_ptr": "*fp32",
            "x_stride": "i32",
            "y_stride": "i32",
            "N": "i32",
        },
        constexprs={"BLOCK": 1024},
        num_warps=2,
        num_stages=1,
        label="softmax_forward_kernel fp32 N=1024",
    )

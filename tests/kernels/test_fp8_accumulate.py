"""The three ways to add up an FP8 product: right values, and what they compile to."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import kernels
from kernels import fp8_accumulate as module
from kernels.float8 import E4M3, E5M2, cast
from kernels.fp8_accumulate import accumulate, accumulate_reference
from tests.kernels.cases import Case
from tests.kernels.changed_module import changed_module
from tests.kernels.guarded_memory import GuardedMemory
from tests.kernels.harness import (
    COMPILED,
    DEVICE,
    INTERPRET,
    BadCall,
    Recorder,
    assert_close,
    check_bad_calls,
    declared,
    needs_a_kernel,
)

WAYS = ("never", "tensor core", "cuda cores")
SUM_ERROR = 2**-7 if COMPILED else 1e-5
"""What a sum of 300 terms may be off by, of the sum of their sizes."""


def codes(rows, K, seed, fmt=E4M3):
    generator = torch.Generator().manual_seed(seed)
    return cast(torch.randn(rows, K, generator=generator), fmt)


def check_sum(way, shape, layout="contiguous", b_format=E4M3, function=accumulate):
    M, N, K = shape
    memory = GuardedMemory()
    a = memory.place("a", codes(M, K, 1).to(DEVICE), layout)
    b = memory.place("b", codes(N, K, 2, b_format).to(DEVICE), layout)
    with memory:
        c = function(a, b, way, interpret=INTERPRET)
    memory.check()
    exact = a.double() @ b.double().T
    slack = SUM_ERROR * (a.double().abs() @ b.double().abs().T)
    assert_close("c", c, exact, Case((M, N), torch.float32), slack)


@needs_a_kernel
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(67, 131, 300), (1, 1, 1), (2, 0, 3)])
def test_interpreted_each_gives_the_product(shape, way):
    check_sum(way, shape)


@needs_a_kernel
@pytest.mark.parametrize("layout", ["rows apart", "transposed"])
def test_operands_may_lie_in_any_way_and_differ_in_format(layout):
    check_sum("never", (5, 9, 140), layout, E5M2)


def test_the_reference_is_exact():
    """2^16 and small terms: what float32 loses one at a time is left when it goes."""
    large = torch.tensor([[256.0, *[2.0**-9] * 100, 256.0]])
    signed = torch.tensor([[256.0, *[2.0**-9] * 100, -256.0]])
    c = accumulate_reference(cast(large), cast(signed))
    assert c.item() == 100 * 2.0**-18


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.fp8_accumulate import SPECS

for spec in SPECS:
    constants = {**spec.constexprs, "BLOCK_N": 16}
    types = dict.fromkeys(constants, "constexpr")
    names = [each.name for each in spec.kernel.params]
    signature = {name: {**spec.signature, **types}[name] for name in names}
    source = ASTSource(spec.kernel, signature, constants)
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    made = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = made.asm["ptx"]
    print(spec.constexprs["PROMOTE"], ptx.count("wgmma.mma_async"), sep=":", end=":")
    print(ptx.count("add.f32") + ptx.count("add.rn.f32"))
"""


@pytest.mark.skipif(not kernels.HAS_TRITON, reason="needs Triton")
def test_compiled_for_hopper_only_never_adds_outside_the_tensor_core(tmp_path):
    """A thread holds 8 of the 64 x 16 sums, and promotes them once a tile."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    answer = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env={**environment, "LABS_AOT": "1", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split("\n")[:-1] == [
        "never:4:0", "tensor core:4:8", "cuda cores:4:8"
    ], answer.stderr  # fmt: skip


def refused(sentence, a, b, promote="never"):
    return BadCall(lambda: accumulate(a, b, promote), f"accumulate: {sentence}")


CODES = codes(3, 5, 1)
BAD_CALLS = [
    refused(
        "b must be float8_e4m3fn or float8_e5m2; got bfloat16.", CODES, CODES.bfloat16()
    ),
    refused(
        "a and b must have equally many columns, at least 1; got shapes (3, 5) and "
        "(3, 4).",
        CODES,
        CODES[:, :4],
    ),
    refused(
        "promote must be one of 'never', 'tensor core', 'cuda cores'; got 'always'.",
        CODES,
        CODES,
        "always",
    ),
]


def test_bad_input():
    check_bad_calls(SimpleNamespace(bad_calls=BAD_CALLS))


@needs_a_kernel
def test_specs_are_what_is_launched(monkeypatch):
    launches = set()
    recorder = Recorder("fp8_accumulate_kernel", launches)
    monkeypatch.setattr(module, "fp8_accumulate_kernel", recorder)
    for way in WAYS:
        accumulate(CODES.to(DEVICE), CODES.to(DEVICE), way, interpret=INTERPRET)
    assert launches == declared(module.SPECS)


MISTAKES = {
    "a tile overwrites the ones before": (
        "acc += tl.dot(a, b)\n", "acc = tl.dot(a, b)\n", "cuda cores", "c is wrong",
    ),
    "the sum starts anew": (
        "acc = tl.dot(a, b, acc)\n", "acc = tl.dot(a, b)\n", "never", "c is wrong",
    ),
    "a is read beyond K": (
        "(k < K)[None, :]", "(k < K + 1)[None, :]", "never", "c is wrong",
    ),
    "c is written beyond its rows": (
        "in_c = is_row[:, None]", "in_c = (m < M + 1)[:, None]", "never", "outside",
    ),
}  # fmt: skip


@pytest.mark.skipif(
    not kernels.INTERPRETED,
    reason="wrong kernels run interpreted: on a GPU they could damage the rest",
)
@pytest.mark.parametrize("name", MISTAKES)
def test_this_mistake_is_caught(name, tmp_path):
    old, new, way, says = MISTAKES[name]
    check_sum(way, (67, 5, 300))
    wrong = changed_module(module, old, new, tmp_path)
    with pytest.raises(AssertionError, match=says):
        check_sum(way, (67, 5, 300), function=wrong.accumulate)

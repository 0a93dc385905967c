"""Sinkhorn passes every kernel's tests, and those that only Sinkhorn has.

What is true is computed here too, from equation 9 alone: matrix by matrix, sum
by sum, in float64 (`equation_9`).
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import kernels
from kernels import sinkhorn as module
from kernels.operation import Cost, KernelInputError
from kernels.sinkhorn import (
    sinkhorn,
    sinkhorn_backward_cost,
    sinkhorn_cost,
    sinkhorn_reference,
    tape_launch,
)
from kernels.sinkhorn_cpu import SHARED, sinkhorn_on_cpu
from tests.kernels.cases import Case
from tests.kernels.guarded_memory import LAYOUTS
from tests.kernels.harness import (
    COMPILED,
    DEVICE,
    INTERPRET,
    BadCall,
    KernelTests,
    Operation,
    check_gradients,
    check_values,
    needs_a_kernel,
)

SPREADS = (0.5, 2.0, 6.0)
"""Standard deviations of the logits: converged after 20 iterations, nearly, not."""

SHAPES = [(4, 4, 13), (4, 4, 1), (4, 4, 32), (4, 4, 65), (1, 1, 5), (2, 2, 33)]
SHAPES += [(3, 3, 13), (5, 5, 9), (8, 8, 9), (4, 4, 0)]
SHAPE_CASES = [Case(shape, torch.float32) for shape in SHAPES]
SPREAD_CASES = [Case((4, 4, 33), torch.float32, scale=s) for s in (*SPREADS, 12)]
STRIDED = [name for name in LAYOUTS if name != "contiguous"]
X_CASES = [Case((4, 4, 13), torch.float32, layout=name) for name in STRIDED]
DY_CASES = [Case((4, 4, 13), torch.float32, dy_layout=name) for name in STRIDED]


def logits_of(*shape, spread=1.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=dtype)


def refused(call, sentence):
    return BadCall(call, f"sinkhorn: {sentence}")


SINKHORN = Operation(
    module,
    sinkhorn,
    sinkhorn_reference,
    inputs=lambda shape, g: [torch.randn(shape, generator=g, dtype=torch.float64)],
    dtypes=[torch.float32],
    value_cases=[*SHAPE_CASES, *SPREAD_CASES, *X_CASES],
    gradient_cases=[*SHAPE_CASES, *SPREAD_CASES, *X_CASES, *DY_CASES],
    small=(3, 3, 2),
    benchmark_shape=lambda shape: (shape[0], *shape),
    bad_calls=[
        refused(
            lambda: sinkhorn([[1.0]]),  # type: ignore[arg-type]
            "logits must be a torch.Tensor; got list.",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(2, 2, 3, device="meta")),
            "logits must be on a CPU or a CUDA GPU; got device meta.",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(7, 4, 4)),
            "logits must have shape (n, n, M): square matrices, the M tokens last; "
            "got (7, 4, 4).",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(4, 4)),
            "logits must have shape (n, n, M): square matrices, the M tokens last; "
            "got (4, 4).",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(0, 0, 3)),
            "n must be 1 to 8, as a few lanes hold a whole matrix; got shape "
            "(0, 0, 3).",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(9, 9, 3)),
            "n must be 1 to 8, as a few lanes hold a whole matrix; got shape "
            "(9, 9, 3).",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(2, 2, 3), 0),
            "iterations must be at least 1; got 0.",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(2, 2, 3), 2.0),  # type: ignore[arg-type]
            "iterations must be a whole number; got 2.0.",
        ),
        refused(
            lambda: sinkhorn(torch.zeros(2, 2, 3, dtype=torch.bfloat16)),
            "logits must be float32, in which mHC keeps its coefficients; got "
            "bfloat16 (float64 works on a CPU, not interpreted).",
        ),
        refused(
            lambda: sinkhorn(
                torch.zeros(2, 2, 3, dtype=torch.float64, device=DEVICE),
                interpret=INTERPRET,
            ),
            "logits must be float32, in which mHC keeps its coefficients; got "
            "float64 (float64 works on a CPU, not interpreted).",
        ),
        refused(
            lambda: sinkhorn(torch.full((1, 1, 3), torch.nan)),
            "logits must be finite; 3 of 3 are NaN or infinite.",
        ),
        refused(
            lambda: sinkhorn(
                torch.tensor([[[0.0, torch.inf]]], device=DEVICE), check_finite=True
            ),
            "logits must be finite; 1 of 2 are NaN or infinite.",
        ),
    ],
)


class TestSinkhorn(KernelTests):
    operation = SINKHORN


def equation_9(logits_nn, iterations=20):
    """H^res of one token, from the paper's words: columns first, rows last."""
    n = len(logits_nn)
    M = [[logits_nn[i, j].double().exp() for j in range(n)] for i in range(n)]
    for _ in range(iterations):
        column = [sum(M[i][j] for i in range(n)) for j in range(n)]
        M = [[M[i][j] / column[j] for j in range(n)] for i in range(n)]  # T_c
        row = [sum(M[i][j] for j in range(n)) for i in range(n)]
        M = [[M[i][j] / row[i] for j in range(n)] for i in range(n)]  # T_r
    return torch.stack([torch.stack(entries) for entries in M])


def by_equation_9(logits_nnM, iterations=20):
    tokens = logits_nnM.unbind(-1)
    return torch.stack([equation_9(each, iterations) for each in tokens], -1)


def interpreted_or_compiled(logits, iterations=20, **options):
    """The kernel, wherever the tests run."""
    out = sinkhorn(logits.to(DEVICE), iterations, interpret=INTERPRET, **options)
    return out.to(logits.device)


ROUTES = [
    pytest.param(sinkhorn_reference, torch.float64, id="reference"),
    pytest.param(sinkhorn, torch.float64, id="cpu fp64"),
    pytest.param(sinkhorn, torch.float32, id="cpu fp32"),
    pytest.param(
        interpreted_or_compiled,
        torch.float32,
        id="kernel",
        marks=pytest.mark.gpu
        if COMPILED
        else pytest.mark.skipif(not kernels.INTERPRETED, reason="needs Triton"),
    ),
]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


# The axes


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("function", "dtype"), ROUTES)
def test_values_and_both_marginals_are_those_of_equation_9(function, dtype, spread):
    logits = logits_of(4, 4, 9, spread=spread)
    exact = by_equation_9(logits)
    out, near = function(logits.to(dtype)).double(), TOLERANCE[dtype]
    assert (out - exact).abs().max() < near
    assert (out.sum(1) - 1).abs().max() < near, "rows sum to 1 after any T"
    assert (out.sum(0) - exact.sum(0)).abs().max() < near
    if spread == 6:
        assert (exact.sum(0) - 1).abs().max() > 1e-3, "columns are not there yet"
        # So each of these mistakes shows.
        transposed = by_equation_9(logits.transpose(0, 1))
        for wrong in (exact.transpose(0, 1), transposed, transposed.transpose(0, 1)):
            assert (out - wrong).abs().max() > 1e-2


@pytest.mark.parametrize(("function", "dtype"), ROUTES)
def test_one_iteration_by_hand(function, dtype):
    """Columns of [[1, 2], [3, 4]] sum to 4 and 6; then rows to 7/12 and 17/12."""
    logits = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=dtype).log()[..., None]
    by_hand = torch.tensor([[3 / 7, 4 / 7], [9 / 17, 8 / 17]], dtype=torch.float64)
    out = function(logits, 1)[..., 0].double()
    assert (out - by_hand).abs().max() < TOLERANCE[dtype]


def deepseek(comb, eps, iterations=20):
    """As DeepSeek's code has it, on comb, the transpose of H^res, one token a row."""
    comb = comb.softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return comb


def test_deepseeks_code_is_the_transpose_but_for_its_eps():
    logits = logits_of(4, 4, 50, spread=2.0, dtype=torch.float64)
    ours = sinkhorn(logits)
    without, with_eps = (
        deepseek(logits.permute(2, 1, 0), eps).permute(2, 1, 0) for eps in (0.0, 1e-6)
    )
    assert (ours - without).abs().max() < 1e-13
    assert 1e-7 < (with_eps.sum(1) - 1).abs().max() < 1e-5
    assert (ours.sum(1) - 1).abs().max() < 1e-13


# Logits of any size


def in_logs(logits, iterations=20):
    """Equation 9 in float64 logarithms, in which nothing underflows."""
    log_M = logits.double()
    for _ in range(iterations):
        log_M = log_M - log_M.logsumexp(0, keepdim=True)
        log_M = log_M - log_M.logsumexp(1, keepdim=True)
    return log_M.exp()


@pytest.mark.parametrize(("function", "dtype"), ROUTES[1:])
@pytest.mark.parametrize("spread", [100, 1000])
def test_rows_that_would_underflow_are_right(function, dtype, spread):
    logits = logits_of(4, 4, 40, spread=spread).to(dtype).requires_grad_()
    assert not sinkhorn_reference(logits.float()).isfinite().all(), "too easy"
    out = function(logits)
    # float32 knows logits of 1000 to 3e-5.
    near = 1e-11 if dtype is torch.float64 else 1e-7 * spread + 1e-5
    assert (out - in_logs(logits)).abs().max() < near
    (grad,) = torch.autograd.grad(out, logits, logits_of(*out.shape, dtype=dtype))
    (exact,) = torch.autograd.grad(
        in_logs(logits), logits, logits_of(*out.shape, dtype=dtype).double()
    )
    assert (grad - exact).abs().max() < 10 * near


@needs_a_kernel
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # inf - inf
def test_a_nan_stays_in_its_matrix():
    logits = logits_of(4, 4, 7)
    logits[1, 2, 3], logits[0, 0, 5] = torch.nan, torch.inf
    for function in (sinkhorn, interpreted_or_compiled):
        out = function(logits, check_finite=False)
        broken = out.isnan().all(0).all(0)
        assert broken.tolist() == [token in (3, 5) for token in range(7)]
        assert out[..., ~broken].isfinite().all()


# The gradient


def test_the_references_gradient_to_1e_6():
    for n in (1, 2, 4):
        for spread in SPREADS:
            logits = logits_of(n, n, 2, spread=spread, dtype=torch.float64)
            torch.autograd.gradcheck(
                sinkhorn_reference, (logits.requires_grad_(),), atol=1e-6, rtol=1e-6
            )


@pytest.mark.parametrize("spread", SPREADS)
def test_the_gradient_is_that_of_equation_9(spread):
    """Autograd through the test's own loops: exact for T iterations."""
    logits = logits_of(4, 4, 3, spread=spread, dtype=torch.float64).requires_grad_()
    dout = logits_of(4, 4, 3, seed=1, dtype=torch.float64)
    (exact,) = torch.autograd.grad(by_equation_9(logits), logits, dout)
    for function in (sinkhorn, sinkhorn_reference):
        (grad,) = torch.autograd.grad(function(logits), logits, dout)
        assert (grad - exact).abs().max() < 1e-12


CUT = [(4, 1), (4, 2), (4, 3), (4, 21), (4, 22), (4, 45), (3, 41), (8, 11), (8, 35)]


@needs_a_kernel
@pytest.mark.parametrize(("n", "iterations"), CUT)
def test_the_gradient_wherever_the_tape_is_cut(n, iterations):
    pieces = tape_launch(n, iterations)
    assert pieces["EARLIER"] % pieces["STEPS"] == 0
    assert pieces["EARLIER"] + pieces["LAST"] == iterations - 1
    assert 0 <= pieces["LAST"] <= pieces["STEPS"]
    logits = logits_of(n, n, 5, spread=2.0).requires_grad_()
    dout = logits_of(n, n, 5, seed=1)
    out = interpreted_or_compiled(logits, iterations)
    (grad,) = torch.autograd.grad(out, logits, dout)
    exact_out = sinkhorn_reference(logits.double(), iterations)
    (exact,) = torch.autograd.grad(exact_out, logits, dout.double())
    assert (out - exact_out).abs().max() < 1e-5
    assert (grad - exact).abs().max() < 1e-5


class NoGradient(torch.autograd.Function):
    """A backward that is as wrong as can be: it answers 0 to everything."""

    @staticmethod
    def forward(ctx, logits):
        return sinkhorn_reference(logits)

    @staticmethod
    def backward(ctx, dout):
        return torch.zeros_like(dout)


def test_a_sum_says_nothing_about_a_backward():
    """All of out sums to n whatever logits are: out.sum() has no gradient."""
    logits = logits_of(4, 4, 9, spread=2.0, dtype=torch.float64).requires_grad_()

    def gradients(function, dout):
        return torch.autograd.grad(function(logits), logits, dout)[0]

    ones, dout = torch.ones(4, 4, 9).double(), logits_of(4, 4, 9, seed=1).double()
    right, wrong = (gradients(f, ones) for f in (sinkhorn, NoGradient.apply))
    assert torch.allclose(right, wrong, atol=1e-15)
    right, wrong = (gradients(f, dout) for f in (sinkhorn, NoGradient.apply))
    assert not torch.allclose(right, wrong, atol=1e-2)


# On a CPU


@pytest.mark.parametrize("check", [check_values, check_gradients])
def test_plain_pytorch_on_a_cpu_passes_the_kernels_tests(check):
    on_cpu = replace(SINKHORN, function=lambda x, interpret: sinkhorn_on_cpu(x, 20))
    cases = on_cpu.value_cases if check is check_values else on_cpu.gradient_cases
    for case in cases:
        check(on_cpu, case)


@pytest.mark.parametrize("n", [4, 8])
def test_tiles_meet_without_a_seam(n):
    M = 2 * ((SHARED - 1) // n**2) + 1  # two full tiles and one token
    logits = logits_of(n, n, M).requires_grad_()
    dout = logits_of(n, n, M, seed=1)
    whole = torch.autograd.grad(sinkhorn_on_cpu(logits, 3), logits, dout)[0]
    exact = torch.autograd.grad(sinkhorn_reference(logits, 3), logits, dout)[0]
    assert torch.allclose(whole, exact, atol=1e-6)


def test_its_second_derivative_is_refused():
    logits = logits_of(2, 2, 3).requires_grad_()
    with pytest.raises(KernelInputError, match="sinkhorn_reference has all"):
        torch.autograd.grad(sinkhorn(logits)[0, 0, 0], logits, create_graph=True)


# Bytes, FLOPs and lanes


@needs_a_kernel
def test_logits_that_lie_among_other_coefficients_are_read_in_place():
    """One token's n^2 + 2 n coefficients side by side, as a projection has them."""
    n, M = 4, 13
    mixed_MK = logits_of(M, n * n + 2 * n)
    logits = mixed_MK[:, 2 * n :].view(M, n, n).permute(1, 2, 0)
    assert logits.data_ptr() == mixed_MK[:, 2 * n :].data_ptr()
    out = interpreted_or_compiled(logits)
    assert (out - by_equation_9(logits)).abs().max() < 1e-5
    assert out.is_contiguous()


def test_the_costs_by_hand():
    # T = 2, n = 2: 4 exps, then 4 divisions: 4 terms of sums, 4 quotients each.
    cost = sinkhorn_cost(2, 1, torch.float32, iterations=2)
    assert cost == Cost(bytes=32, flops=4 + 4 * (4 + 4))
    # The forward again. Going back, 4 products undo a division, and 4 terms of
    # sums, 4 products and 4 differences change G, which began as 4 products.
    cost = sinkhorn_backward_cost(2, 1, torch.float32, iterations=2)
    assert cost == Cost(bytes=48, flops=36 + 4 * (4 + 4 + 4 + 4) + 4)
    assert sinkhorn_cost(4, 1, torch.float32).bytes == 128
    assert sinkhorn_backward_cost(4, 1, torch.float32).bytes == 192


LANES = """
import re
from triton import compile as triton_compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kernels.aot import TARGETS, _arguments
from kernels.sinkhorn import SPECS
for spec in SPECS[:2]:
    signature, divisible = _arguments(spec)
    source = ASTSource(spec.kernel, signature, dict(spec.constexprs), divisible)
    options = {"num_warps": spec.num_warps}
    made = triton_compile(source, target=GPUTarget(*TARGETS["sm_90"]), options=options)
    count = [len(re.findall(p, made.asm["ptx"])) for p in
             (r"\\bshfl", r"\\b(ld|st)\\.shared", r"\\bld\\.global", r"\\bst\\.global")]
    print(spec.constexprs["N"], *count)
"""


@pytest.mark.skipif(not kernels.HAS_TRITON, reason="needs Triton")
def test_one_lane_holds_one_matrix_and_moves_each_number_once():
    """No lane asks another for a sum: no shuffles and no shared memory."""
    environment = {**os.environ, "LABS_AOT": "1"}
    environment.pop("TRITON_INTERPRET", None)
    answer = subprocess.run(
        [sys.executable, "-c", LANES], env=environment, capture_output=True, text=True
    )
    lines = answer.stdout.splitlines()
    assert lines == ["4 0 0 16 16", "4 0 0 32 16"], answer.stderr

# ---
# jupyter:
#   jupytext:
#     custom_cell_magics: torchrun
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown] id="title"
# # Primer · Triton: write a GPU kernel
#
# **In 45 minutes you will write six small pieces of a GPU program: an
# addition, a row sum, a softmax, a matrix product, a histogram and a
# backward. They run here, with or without a GPU.**
#
# You will be able to: cut work into programs and blocks; mask what is not
# there; keep a sum in the right precision; see a race; join a kernel to
# autograd; say how long a kernel must at least take.
#
# It builds on [lab 00](../00_start_here.ipynb). It computes for a few seconds
# on any machine.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 1  # this primer runs on one process

# %% id="setup" tags=["nbval-ignore-output"]
import time

import torch

import kernels
from kernels.language import cdiv, jit, tl
from labs.lab_triton.kernels_ours import BLOCK
from labs.lab_triton.questions import QUESTIONS
from labsupport import Lab
from labsupport.exercise.kernel import launch_watched, where_kernels_run
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline

lab = Lab("triton", scale=scale, seed=seed, world=world)
print(f"Kernels run interpreted here: {kernels.INTERPRETED}")

# %% [markdown] id="idea"
# ## Programs and blocks
#
# A GPU does many things at once. In Triton you write *one* **program**, and
# the GPU runs many copies of it, in any order. Each copy asks for its number,
# `tl.program_id(0)`, and works on its own **block** of the data. How many
# copies run is called the **grid**.
#
# A kernel gets no tensors. It gets **pointers**, addresses of first elements,
# and adds offsets to them. `tl.arange(0, BLOCK)` makes BLOCK offsets at once:
# 0, 1, 2, and so on. Such a block lives in registers, and arithmetic on it
# looks like NumPy.
#
# Here is a whole kernel, which copies N numbers. `BLOCK` is a `constexpr`: a
# value that is known when the kernel is compiled, and a power of two. The data
# is seldom as long as a whole number of blocks, so the **mask** says which
# lanes exist. A masked lane loads nothing and stores nothing.


# %% id="copy" tags=["nbval-ignore-output"]
@jit
def copy_kernel(x_ptr, out_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + n, mask=n < N)
    tl.store(out_ptr + n, x, mask=n < N)


def copy(x_N):
    """Launch one program for every block of 16."""
    if not kernels.HAS_TRITON:
        return x_N.clone()
    (x,) = where_kernels_run(x_N)
    out = torch.full_like(x, float("nan"))
    N = x.numel()
    launch_watched(copy_kernel, (cdiv(N, BLOCK),), x, out, N, BLOCK=BLOCK)
    return out.to(x_N.device)


# %% id="copy-run" tags=["nbval-check-output"]
x_N = torch.arange(37.0)
print(f"programs for 37 numbers in blocks of {BLOCK}: {cdiv(37, BLOCK)}")
print(f"copied: {torch.equal(copy(x_N), x_N)}")

# %% [markdown] id="interpreter"
# **Where does this run?** `@jit` compiles the function for your GPU. Without
# one, Triton's *interpreter* runs the programs one after the other in NumPy:
# slow, and exact. So you can write kernels on a laptop, and watch them.
# `launch_watched` is ours: it runs `kernel[grid](...)` and, in the interpreter,
# turns a stray pointer into a sentence instead of a crash.
#
# **Play.** The picture below shows each element that the copy touched. Move
# the slider through the programs. Try this: which program has masked lanes,
# and how many? Then open the table under it.

# %% id="copy-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    out_N = torch.zeros(37)
    memory_map(copy_kernel, 3, x_N, out_N, 37, BLOCK=BLOCK).show()

# %% [markdown] id="add-text"
# ## T.1 · Add two vectors · 5 minutes · ●○○
#
# $$\text{out}_n = x_n + y_n, \qquad n = 0, \dots, N - 1$$
#
# `x_ptr`, `y_ptr` and `out_ptr` point to N float32 numbers each. The grid has
# one program for each block. Write the body: which elements are mine, load,
# add, store.


# %% id="add" tags=["nbval-ignore-output"]
@lab.exercise("T.1")
@jit
def add_kernel(x_ptr, y_ptr, out_ptr, N, BLOCK: tl.constexpr):
    ### BEGIN SOLUTION
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    x = tl.load(x_ptr + n, mask=inside)
    y = tl.load(y_ptr + n, mask=inside)
    tl.store(out_ptr + n, x + y, mask=inside)
    ### END SOLUTION


# %% id="add-check" tags=["nbval-ignore-output"]
lab.check("T.1")
lab.hints("T.1")

# %% id="add-run" tags=["nbval-check-output"]
# An exercise's kernel is called like a function; it launches itself.
print(add_kernel(torch.arange(5.0), torch.ones(5)).tolist())

# %% [markdown] id="add-map-text"
# This is what the kernel in use touched. If yours failed, call
# `lab.mine("T.1")` in the cell above, run it, and look at yours.

# %% id="add-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    out_N = torch.zeros(37)
    memory_map(add_kernel, 3, x_N, x_N + 1, out_N, 37, BLOCK=BLOCK).show()

# %% [markdown] id="row-sum-text"
# ## T.2 · Sum each row · 5 minutes · ●○○
#
# Program r sums row r of a matrix and stores one number. Rows need not lie
# side by side: in a slice such as `x[:, :13]` of a wider matrix there is a gap
# after each. `stride` says how far apart two rows begin. A row has N elements,
# at most BLOCK.
#
# Masked lanes need a value now, because they take part in the sum:
# `tl.load(..., mask=..., other=0.0)`. `tl.sum(x, axis=0)` adds up a block.


# %% id="row-sum" tags=["nbval-ignore-output"]
@lab.exercise("T.2")
@jit
def row_sum_kernel(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    ### BEGIN SOLUTION
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + r * stride + n, mask=n < N, other=0.0)
    tl.store(out_ptr + r, tl.sum(x, axis=0))
    ### END SOLUTION


# %% id="row-sum-check" tags=["nbval-ignore-output"]
lab.check("T.2")
lab.hints("T.2")

# %% id="row-sum-run" tags=["nbval-check-output"]
wide = torch.arange(12.0).reshape(3, 4)
print(row_sum_kernel(wide[:, :3]).tolist())

# %% [markdown] id="softmax-text"
# ## T.3 · Softmax of each row · 7 minutes · ●●○
#
# $$y_n = \frac{e^{x_n - m}}{\sum_k e^{x_k - m}}, \qquad m = \max_k x_k$$
#
# Any $m$ gives the same result; the maximum keeps $e^x$ from overflowing.
# Read row r at `r * stride`, write it at `r * N`: `out` has no gaps. Which
# `other` leaves both the maximum and the sum alone?


# %% id="softmax" tags=["nbval-ignore-output"]
@lab.exercise("T.3")
@jit
def softmax_kernel(x_ptr, out_ptr, stride, N, BLOCK: tl.constexpr):
    ### BEGIN SOLUTION
    r = tl.program_id(0)
    n = tl.arange(0, BLOCK)
    row = x_ptr + r * stride
    x = tl.load(row + n, mask=n < N, other=float("-inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + r * N + n, e / tl.sum(e, axis=0), mask=n < N)
    ### END SOLUTION


# %% id="softmax-check" tags=["nbval-ignore-output"]
lab.check("T.3")
lab.hints("T.3")

# %% id="softmax-run" tags=["nbval-check-output"]
shares = softmax_kernel(torch.tensor([[1000.0, 1000.0], [0.0, -1000.0]]))
print(shares.tolist())

# %% [markdown] id="matmul-text"
# ## T.4 · One tile of a matrix product · 10 minutes · ●●●
#
# $$c_{mn} = \sum_{k=0}^{K-1} a_{mk}\, b_{kn}$$
#
# Program (i, j) makes one TILE x TILE tile of $c$. It walks along k, TILE steps
# at a time, and adds the product of a tile of $a$ and a tile of $b$.
# `[:, None]` makes a column of offsets and `[None, :]` a row; their sum is a
# square of addresses. $a$ and $b$ are float16 without gaps: element (m, k) of
# $a$ lies at `m * K + k`.
#
# `tl.dot(a, b, total)` adds the product to `total`. Keep `total` in float32: a
# long float16 sum forgets small terms, as in lab 00. Write the loop's body.


# %% id="matmul" tags=["nbval-ignore-output"]
@lab.exercise("T.4")
@jit
def matmul_kernel(a_ptr, b_ptr, c_ptr, M, N, K, TILE: tl.constexpr):
    m = tl.program_id(0) * TILE + tl.arange(0, TILE)[:, None]
    n = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    step = tl.arange(0, TILE)
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(0, K, TILE):
        ### BEGIN SOLUTION
        k = first + step
        a_mask = (m < M) & (k[None, :] < K)
        a_at = a_ptr + m * K + k[None, :]
        a = tl.load(a_at, mask=a_mask, other=0.0)
        b_mask = (k[:, None] < K) & (n < N)
        b_at = b_ptr + k[:, None] * N + n
        b = tl.load(b_at, mask=b_mask, other=0.0)
        total = tl.dot(a, b, total)
        ### END SOLUTION
    tl.store(c_ptr + m * N + n, total, mask=(m < M) & (n < N))


# %% id="matmul-check" tags=["nbval-ignore-output"]
lab.check("T.4")
lab.hints("T.4")

# %% id="matmul-run" tags=["nbval-check-output"]
ones = torch.ones(3, 40, dtype=torch.float16)
print(matmul_kernel(ones, ones.T.contiguous()).tolist())

# %% [markdown] id="histogram-text"
# ## T.5 · A histogram without a race · 5 minutes · ●●○
#
# Count how often each of 8 numbers occurs. The obvious kernel loads a count,
# adds 1 and stores it. Run it on sixteen threes:


# %% id="race" tags=["nbval-ignore-output"]
@jit
def race_kernel(x_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bin = tl.load(x_ptr + n, mask=n < N, other=0)
    count = tl.load(counts_ptr + bin, mask=n < N)
    tl.store(counts_ptr + bin, count + 1, mask=n < N)


# %% id="race-run" tags=["nbval-check-output"]
threes = torch.full((16,), 3, dtype=torch.int32)
counts = torch.zeros(8, dtype=torch.int32)
if kernels.HAS_TRITON:
    x, counts = where_kernels_run(threes, counts)
    race_kernel[(1,)](x, counts, 16, BLOCK=BLOCK)
print(f"all sixteen were counted: {int(counts[3]) == 16}")

# %% [markdown] id="race-why"
# Sixteen lanes read the same 0, add 1, and store the same 1. That is a **race**:
# the result depends on who comes first. `tl.atomic_add(pointer, value, mask=)`
# reads, adds and writes in one step that nobody can interrupt.


# %% id="histogram" tags=["nbval-ignore-output"]
@lab.exercise("T.5")
@jit
def histogram_kernel(x_ptr, counts_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bin = tl.load(x_ptr + n, mask=n < N, other=0)
    ### BEGIN SOLUTION
    tl.atomic_add(counts_ptr + bin, 1, mask=n < N)
    ### END SOLUTION


# %% id="histogram-check" tags=["nbval-ignore-output"]
lab.check("T.5")
lab.hints("T.5")

# %% id="histogram-run" tags=["nbval-check-output"]
print(histogram_kernel(threes).tolist())

# %% [markdown] id="backward-text"
# ## T.6 · A backward for autograd · 8 minutes · ●●○
#
# Autograd cannot look inside a kernel. So a kernel comes with a second
# function: given $dy$, the gradient of the loss by the output, return the
# gradient by the input. For softmax, row by row:
#
# $$dx_n = y_n \Bigl(dy_n - \sum_k dy_k\, y_k\Bigr)$$
#
# Write it in plain PyTorch for matrices `y_RN` and `dy_RN` (R rows, N columns).
# `torch.autograd.Function` then joins the two. `gradcheck` compares with finite
# differences, in float64: the test that every backward should pass.


# %% id="backward" tags=["nbval-ignore-output"]
@lab.exercise("T.6")
def softmax_backward(y_RN, dy_RN):
    """The gradient by softmax's input, from its output y and from dy."""
    ### BEGIN SOLUTION
    return y_RN * (dy_RN - (dy_RN * y_RN).sum(-1, keepdim=True))
    ### END SOLUTION


# %% id="backward-check" tags=["nbval-ignore-output"]
lab.check("T.6")
lab.hints("T.6")


# %% id="joined" tags=["nbval-check-output"]
class Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_RN):
        y_RN = softmax_kernel(x_RN)
        ctx.save_for_backward(y_RN)
        return y_RN

    @staticmethod
    def backward(ctx, dy_RN):
        (y_RN,) = ctx.saved_tensors
        return softmax_backward(y_RN, dy_RN)


generator = torch.Generator().manual_seed(0)
x_RN = torch.randn(3, 5, dtype=torch.float64, generator=generator)
x_RN.requires_grad_()
print(f"gradcheck: {torch.autograd.gradcheck(Softmax.apply, (x_RN,))}")

# %% [markdown] id="bytes-text"
# ## Bytes become time
#
# The least time that a kernel needs is set by what it must move and what it
# must compute:
#
# $$t \ge \max\left(\frac{\text{bytes}}{\text{bandwidth}},
# \frac{\text{FLOPs}}{\text{FLOP/s}}\right)$$
#
# A copy of n bytes reads n and writes n, and computes nothing. Measure your
# machine's bandwidth with a large copy, predict a smaller one, then time it.
# (This times PyTorch's copy. The interpreter's time says nothing.)


# %% id="bytes" tags=["nbval-ignore-output"]
def copy_seconds(megabytes, repeats=7):
    """The median time of a copy, after one to warm up."""
    source = torch.zeros(megabytes * 250_000, device=lab.settings.device)
    target = torch.empty_like(source)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        target.copy_(source)
        if source.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[repeats // 2]


bandwidth = 2 * 200e6 / copy_seconds(200)
predicted, measured = 2 * 100e6 / bandwidth, copy_seconds(100)
print(f"bandwidth of a 200 MB copy: {bandwidth / 1e9:.1f} GB/s")
print(f"100 MB predicted: {predicted * 1e3:.1f} ms")
print(f"100 MB measured:  {measured * 1e3:.1f} ms")

# %% [markdown] id="roofline-text"
# On a GPU the same formula judges a kernel: which share of the best possible
# time does it reach? `labs bench kernels` measures that for the course's own
# softmax and RMSNorm, beside PyTorch.

# %% id="roofline" tags=["nbval-ignore-output"]
show_roofline("softmax")

# %% [markdown] id="recap"
# ## What you take away
#
# - One program, many copies; each finds its block by `tl.program_id`.
# - A mask for what is not there, and an `other` that changes nothing.
# - Sums in float32, whatever the inputs are.
# - Two writers of one address are a race, unless the write is atomic.
# - A kernel needs a backward, and gradcheck needs float64.
# - Bytes divided by bandwidth: the time that no kernel beats.
#
# **Limits.** The interpreter runs programs in order, so it hides races between
# programs (the check finds them by looking at addresses). It says nothing about
# speed. Real kernels also choose how many warps share a program and how loads
# overlap with arithmetic; `kernels/softmax.py` shows both.
#
# **Diagnose.** A kernel is right for N = 1024 and wrong for N = 1000: what is
# missing? A kernel's result differs from run to run: what do two programs do?
#
# **Further reading.** [Triton's tutorials](https://triton-lang.org).
# [Tillet et al. 2019](https://doi.org/10.1145/3315508.3329973), the paper.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

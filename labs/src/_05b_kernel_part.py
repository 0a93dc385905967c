# %% [markdown] id="kernel-text"
# ## 5.K · The kernel: P streams into one · 10 minutes · ●○○
#
# It needs the [Triton primer](primers/triton.ipynb).
#
# At the end of the network every token has $P$ hidden states, one a stream, and leaves
# with one: their sum, each by its own weight. With $r$ for a row, that is a token,
#
# $$y_r = \sum_{p=1}^{P} w_{rp}\, x_{pr}$$
#
# In PyTorch the product $w x$ is a tensor of $P$ streams, written to memory and read
# again for the sum. A kernel reads each stream once, adds in registers and writes $y$:
# $P + 1$ streams move instead of $3 P + 1$.
#
# A program has `BLOCK` neighbouring elements `d` of one row `r`. In memory `x_PRD` has
# all rows of stream 0 first, then all rows of stream 1, and so on; `w_RP` has the $P$
# weights of a row side by side; both lie without gaps.
#
# Write the lines that are missing. `P` is known when the kernel is compiled, so
# `for p in tl.static_range(P):` is a loop over streams that is written out. `P` need not
# be a power of two, and the last block of a row may not be full.

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_05b.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("5.K")
@jit
def stream_sum(
    x_ptr, w_ptr, y_ptr, R, D, P: tl.constexpr, BLOCK: tl.constexpr
):
    r = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ### BEGIN SOLUTION
    y = tl.zeros((BLOCK,), dtype=tl.float32)
    for p in tl.static_range(P):
        w = tl.load(w_ptr + r * P + p)
        x = tl.load(x_ptr + (p * R + r) * D + d, mask=d < D, other=0.0)
        y += w * x
    tl.store(y_ptr + r * D + d, y, mask=d < D)
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("5.K")
lab.hints("5.K")

# %% [markdown] id="kernel-map-text"
# Three streams of two rows, 20 elements each: two programs a row, the second one not
# full. Move the slider: each program reads the same place in every stream, and writes
# once.

# %% id="kernel-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    x_PRD, w_RP = torch.randn(3, 2, 20), torch.rand(2, 3)
    y_RD = torch.zeros(2, 20)
    memory_map(
        stream_sum, (2, 2), x_PRD, w_RP, y_RD, 2, 20, P=3, BLOCK=BLOCK
    ).show()

# %% id="kernel-run" tags=["nbval-check-output"]
# Launches the kernel in use. Weights of a row add up to 1, as ParScale's do.
logits_RP = torch.linspace(-2, 2, 8).view(2, 4)
w_RP = 0.9 * logits_RP.softmax(-1) + 0.1 / 4
x_RD = torch.linspace(-1, 1, 40).view(2, 20)
same = torch.allclose(stream_sum(x_RD.expand(4, 2, 20), w_RP), x_RD)
print(f"of four equal streams comes that stream: {same}")
x_PRD = torch.arange(4.0)[:, None, None].expand(4, 2, 20)
y_RD = stream_sum(x_PRD, w_RP)
print(f"of 0, 1, 2 and 3 comes {y_RD[0, 0]:.2f} in row 0")

# %% [markdown] id="kernel-real"
# The course's own [stream_sum](../kernels/stream_sum.py) makes the weights as well: it
# takes logits, and each program computes the softmax and the smoothing of its rows in
# registers, so that no tensor of weights exists. Its backward gives every stream its
# share of the gradient, $w_{rp}\, dy_r$, never less than $\epsilon / P$ of it, and sends
# $w$'s own gradient back through the softmax.
#
# With $P = 4$ in bfloat16 it moves 10 bytes for each element of $y$ and computes 8
# FLOPs: memory is the bound. It was not measured on a GPU yet.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("stream_sum", dtype="bfloat16")

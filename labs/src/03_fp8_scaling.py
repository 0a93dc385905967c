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
# # 03 · Training with eight bits
#
# **In two hours you will take a number apart down to its bits, give small pieces of a
# matrix scales of their own, multiply 8-bit numbers the way a GPU does, train with
# them, and find out what that costs.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 12 | train with gradients cast to 8 bits | gradients that are not there |
# | 12 – 33 | decode a byte, move a number | what range is, and what precision |
# | 33 – 40 | guess what one number does to all others | which numbers suffer |
# | 40 – 77 | give tiles scales, multiply codes | a linear layer in FP8 |
# | 77 – 84 | train with your parts | FP8 beside bfloat16, live |
# | 84 – 98 | play: outliers, long sums | what each choice is for |
# | 98 – 112 | hold three sentences against the record | three verdicts |
# | 112 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: the backward, powers of two, encoding, the
# optimizer's bytes, when FP8 pays, FP8 between processes, the kernel. They stand at
# the end and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb). **On a CPU nothing here is faster in 8
# bits**: the numbers are exactly those of a GPU, the speed is not. So no time is
# shown.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the torchrun cell

# %% id="setup" tags=["nbval-ignore-output"]
import math
from functools import partial

import torch

from kernels.float8 import cast
from labs.lab_03 import record_tables as record
from labs.lab_03.accumulation_explorer import accumulation_explorer
from labs.lab_03.exercises_core import exact_dot
from labs.lab_03.gradients import arriving_gradients, gradient_view
from labs.lab_03.language import losses, train_gpt
from labs.lab_03.number_line import number_line_explorer
from labs.lab_03.outlier_explorer import outlier_explorer
from labs.lab_03.pictures import idea_view
from labs.lab_03.plan import GPT_PLANS, LIVE_STEPS, SIDE
from labs.lab_03.questions import QUESTIONS
from labs.lab_03.schemes import outlier_matrix, sqnr
from labsupport import Lab
from labsupport.explore import show_figure
from labsupport.tasks.corpus import Corpus

lab = Lab("03", scale=scale, seed=seed, world=world)
plan = GPT_PLANS[lab.settings.scale]
print(plan)

# %% [markdown] id="problem"
# ## Gradients that are not there (0 – 12 min)
#
# A number in **bfloat16** takes two bytes, and that is how most large models are
# trained. A number in **FP8** takes one. Half the bytes to move and to keep; and recent
# GPUs multiply FP8 numbers twice as fast. But a byte has only 256 values.
#
# What could go wrong? Let us do the obvious thing. We take a small GPT, and in each
# linear layer of its blocks we cast whatever goes into a product to FP8: inputs and
# weights on the way forward, gradients on the way back. Beside it, the same model with
# bfloat16 in the same places.

# %% id="opening" tags=["nbval-ignore-output"]
opening = {}
for arm, title in (("bf16", "bfloat16"), ("unscaled", "FP8, just cast")):
    opening[arm] = train_gpt(
        arm,
        lab.settings.seed,
        lab.settings.scale,
        steps=LIVE_STEPS[lab.settings.scale],
        live=True,
        title=title,
    )

# %% [markdown] id="opening-text"
# The second one learns, too, but it lags behind from the first steps on. (At scale `ci`,
# with which this page was stored, there are 10, too few to see much.) Nothing crashed; without the
# first curve one might not have noticed. Let us look at what arrives at the linear
# layers in the backward: gradients of the loss by their outputs, of the first batch.

# %% id="gradients" tags=["nbval-ignore-output"]
model = opening["bf16"].model
batch = Corpus.load().batch(
    "train",
    0,
    batch_size=plan.batch_size,
    length=plan.length,
    seed=lab.settings.seed,
)
view = gradient_view(
    arriving_gradients(model, *(x.to(lab.settings.device) for x in batch))
)
show_figure(view.figure, view.sentence)

# %% [markdown] id="gradients-text"
# The loss is a mean over tokens, so each token's gradient is divided by their number;
# at scale `cpu` that leaves numbers around a millionth. The smallest number of the
# format used here, E4M3, is $2^{-9}$, about 0.002. What is at most half of that is rounded to **zero**.
#
# So nearly every gradient is flushed to zero, and what the blocks learn from is not
# there. Only the embedding, the last norm and the output layer still learn, since their
# gradients reach them around the blocks: their work is all that you saw in the second
# curve. Real models have more tokens in a batch, and smaller gradients. The record has
# longer trainings of the same two, five seeds each.

# %% id="opening-record" tags=["nbval-check-output"]
print("\n".join(record.opening_lines()))

# %% [markdown] id="byte-text"
# Every seed of the second ends about 0.5 higher. The blocks might as well not be there.
#
# ## What is in a byte (12 – 33 min)
#
# A floating-point number has a **sign**, an **exponent** that says which power of two
# it lies above, and a **mantissa** that says how far above. FP8 comes in two formats:
#
# | format | sign | exponent bits | mantissa bits | largest | smallest above 0 |
# |---|---|---|---|---|---|
# | **E4M3** | 1 | 4 | 3 | 448 | $2^{-9}$ |
# | **E5M2** | 1 | 5 | 2 | 57344 | $2^{-16}$ |
#
# More exponent bits: more **range**. More mantissa bits: more **precision**. DeepSeek-V3
# uses E4M3 for whatever it computes in FP8. With $E$ the number in its exponent bits and
# $m$ that in its mantissa bits ([Micikevicius et al. 2022](https://arxiv.org/abs/2209.05433), section 3),
#
# $$\text{value} = \pm\, 2^{E-7}\,\left(1 + \tfrac{m}{8}\right) \quad (E > 0),
# \qquad \pm\, 2^{-6}\,\tfrac{m}{8} \quad (E = 0)$$
#
# The second kind, **subnormal** numbers, fills the gap down to zero in even steps. And
# there is one exception: with all exponent and mantissa bits set, $E = 15$ and $m = 7$,
# the code is **NaN**, not a number. There is no infinity.
#
# Move the number. The sentence below the picture says what becomes of it.
#
# Try this:
# 1. E4M3, something between 256 and 448. How far apart are neighbours there? How far
#    between 1 and 2? And relative to the numbers?
# 2. Go up beyond the largest number, and down to the smallest. What happens?
# 3. The same numbers in E5M2. What is gained, what is lost?
#
# <details><summary>Answers</summary>
#
# 1. 32 against an eighth: in both cases an eighth of the power of two below. A number
#    is off by at most half of that, about 6 %, down to $2^{-6}$.
# 2. Beyond 448 it stays at 448: it **saturates**. Below $2^{-6}$ steps stay the same,
#    so the relative error grows, and from $2^{-10}$ down it is zero.
# 3. E5M2 goes from $2^{-16}$ to 57344, and has four steps for each power of two instead
#    of eight: twice the error.
#
# </details>

# %% id="number-line" tags=["nbval-ignore-output"]
number_line_explorer().show()

# %% [markdown] id="decode-text"
# ## 3.1 · From a byte to a number · 10 minutes · ●○○
#
# Return the value of an E4M3 code. The code is a whole number from 0 to 255, bits in
# the order sign, exponent, mantissa: `code >> 3 & 15` are the exponent bits. NaN is
# `math.nan`.


# %% id="decode" tags=["nbval-ignore-output"]
@lab.exercise("3.1")
def decode(code):
    """The value of an E4M3 code: 1 sign, 4 exponent and 3 mantissa bits."""
    ### BEGIN SOLUTION
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 0xF, code & 0x7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * 2**-6 * (mantissa / 8)
    return sign * 2 ** (exponent - 7) * (1 + mantissa / 8)
    ### END SOLUTION


# %% id="decode-check" tags=["nbval-ignore-output"]
lab.check("3.1")
lab.hints("3.1")

# %% id="decode-see" tags=["nbval-check-output"]
values = [decode(code) for code in range(128)]
finite = [value for value in values if not math.isnan(value)]
print(f"{len(finite)} values from {min(finite)} to {max(finite)}")
for low, high in ((0, 2**-6), (2**-6, 1), (1, 449)):
    inside = sum(low <= value < high for value in finite)
    print(f"from {low:<8g} to below {high:<8g}: {inside:3} values")
print(f"largest over smallest: 2^{math.log2(max(finite) / finite[1]):.1f}")

# %% [markdown] id="predict-text"
# ## One number and all others (33 – 40 min)
#
# The cure for small gradients is a **scale**: divide the whole matrix by a number $s$
# before the cast, and multiply the result by $s$ afterwards. With $s$ = largest size /
# 448 the largest number becomes 448, and nothing is lost at the top.
#
# But trained models have **outliers**: in a layer's input (its *activation*, a row for
# each token) a few columns (*channels*) are far larger than the rest, and the largest
# number decides $s$ for all.
#
# How much of a matrix is left after a cast, its **SQNR** tells, the
# signal-to-quantisation-noise ratio: the power of the numbers over the power of their
# errors, in decibels. 30 dB are errors of 3 %, 0 dB errors as large as the numbers.
#
# Take a matrix of 256 × 512 normally
# distributed numbers, multiply one of its columns by 1000, and cast it with one scale
# for the whole matrix. What becomes of the *other* columns?

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "outlier",
    "One column times 1000, one scale, E4M3. The numbers in other columns:",
    [
        "most of them become 0",
        "they lose about half of their precision",
        "hardly anything happens to them",
    ],
)

# %% id="reveal" tags=["nbval-ignore-output"]
answer, sentence = record.outlier_answer()
view = record.outlier_view()
lab.reveal("outlier", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="reveal-after"
# *Why was I wrong?* Several texts say that one outlier 100 times as large ruins a tensor
# in FP8. That is true of INT8, whose steps are all equal: there the outlier decides how
# coarse they are. E4M3 is a *floating-point* format. Dividing by a larger scale lowers
# the exponents of all other numbers and leaves their mantissas, until exponents run
# out. From the largest number to the smallest it spans almost 18 powers of two.
#
# So one scale for a tensor is good enough for factors of thousands. From 10,000 on it
# loses, and at 100,000 little is left: 8 dB.
#
# ## The idea (40 – 48 min)
#
# DeepSeek-V3 ([report](https://arxiv.org/abs/2412.19437), section 3.3.2) gives every
# **tile** its own scale: 128 neighbouring numbers of an activation or a gradient, and
# each block of 128 × 128 of the weights. With $q$ the codes,
#
# $$s = \frac{\max_{\text{tile}} |x|}{448}, \qquad q = \text{E4M3}(x / s), \qquad
# x \approx s\,q$$
#
# A tile lies along what the product sums over. So within a tile all terms have the same
# scales, and the sum can be taken over codes alone:
#
# $$y_{mn} = \sum_{j} s_{mj}\, t_{i(n)\,j} \sum_{k \text{ in tile } j} q_{mk}\, w_{nk}$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $M$, $K$, $N$ | tokens, channels in, channels out | | |
# | $T$, $J$ | numbers in a tile, 128 in V3; tiles in a row, $K/T$ | | `T` |
# | $q$, $s$ | codes of the input, their scales | $M \times K$, $M \times J$ | `q_MK`, `s_MJ` |
# | $w$, $t$ | codes of the weights, their scales | $N \times K$, $N/T \times J$ | `w_NK`, `t_IJ` |
# | $i(n)$ | the block of output $n$, $\lfloor n / T \rfloor$ | | |
#
# The inner sum is the business of a **tensor core**, the GPU's unit for products of
# matrices. The outer one is done in float32. That is more than book-keeping: the tensor
# cores of the H800, the GPU that V3 was trained on, add FP8 products in a register of
# only about 14 bits, says the report, and a long sum loses its small terms there.
# Taking the sum out of it after each tile is called **promotion**.

# %% id="idea" tags=["nbval-ignore-output"]
view = idea_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="quantise-text"
# ## 3.2 · A scale for each tile · 12 minutes · ●●○
#
# Return the codes of `x_MK` and the scales of its tiles, each of `T` neighbours in a
# row, a tuple of two. `T` divides $K$. `cast(x)` makes E4M3 of numbers. A tile of zeros
# must not divide by zero: its scale is $2^{-126}$, float32's smallest normal number.


# %% id="quantise" tags=["nbval-ignore-output"]
@lab.exercise("3.2")
def quantise_tiles(x_MK, T):
    """q_MK in E4M3 and scale_MJ in float32: x is about scale times q."""
    ### BEGIN SOLUTION
    M, K = x_MK.shape
    tiles_MJT = x_MK.reshape(M, K // T, T)
    amax_MJ = tiles_MJT.abs().amax(dim=2)
    scale_MJ = (amax_MJ / 448).clamp(min=2.0**-126)
    q_MJT = cast(tiles_MJT / scale_MJ[:, :, None])
    return q_MJT.view(M, K), scale_MJ
    ### END SOLUTION


# %% id="quantise-check" tags=["nbval-ignore-output"]
lab.check("3.2")
lab.hints("3.2")

# %% [markdown] id="quantise-sweep"
# The matrix of your guess again, its first column multiplied by $f$. Once with one tile
# that is the whole row, once with tiles of 128. SQNR of all other columns, and of the
# tiles that the outlier is not in:

# %% id="quantise-see" tags=["nbval-check-output"]
print(
    f"{'f':>8}{'whole rows':>12}{'tiles':>8}{'tiles without the outlier':>28}"
)
for f in (1.0, 1e3, 1e5, 1e6):
    x_MK = outlier_matrix(f)
    found = []
    for T, first in ((512, 1), (128, 1), (128, 128)):
        q_MK, scale_MJ = quantise_tiles(x_MK, T)
        y_MK = q_MK.float() * scale_MJ.repeat_interleave(T, dim=1)
        found.append(sqnr(x_MK[:, first:], y_MK[:, first:]))
    print(f"{f:>8g}{found[0]:>12.0f}{found[1]:>8.0f}{found[2]:>28.0f}")

# %% [markdown] id="matmul-text"
# An outlier spoils its own tile only.
#
# ## 3.3 · Multiply codes, add in float32 · 15 minutes · ●●○
#
# Return $y$ by the formula above. `dot(a_MT, b_NT)` is the tensor core: it multiplies
# codes, sums them in its own coarse way, takes `T` columns at most, and returns
# $a\,b^\top$, an $M \times N$ matrix. `T` divides $K$ and $N$. On a GPU $y$ has to be
# where `q_MK` is: `device=q_MK.device`.


# %% id="matmul" tags=["nbval-ignore-output"]
@lab.exercise("3.3")
def fp8_matmul(q_MK, s_MJ, w_NK, t_IJ, T, dot):
    """y_MN: one dot for each tile of K, scaled, and added up in float32."""
    ### BEGIN SOLUTION
    y_MN = torch.zeros(len(q_MK), len(w_NK), device=q_MK.device)
    for j in range(s_MJ.shape[1]):
        k = slice(j * T, (j + 1) * T)
        part_MN = dot(q_MK[:, k], w_NK[:, k])
        t_N = t_IJ[:, j].repeat_interleave(T)
        y_MN = y_MN + part_MN * s_MJ[:, j, None] * t_N
    return y_MN
    ### END SOLUTION


# %% id="matmul-check" tags=["nbval-ignore-output"]
lab.check("3.3")
lab.hints("3.3")

# %% [markdown] id="train-text"
# ## Train with your parts (77 – 84 min)
#
# Your two functions are the forward of every linear layer in the blocks; ours quantises
# the weights, $T \times T$, and does the two products of the backward (exercise 3.4). The
# gradient of the weights sums over tokens, so for it inputs and gradients are cut along
# tokens. What stays in high precision, as in V3: the weights that the optimizer moves and their
# gradients (float32), embedding, output layer, norms and attention. A tile has 128
# numbers in V3; in a model that is 128 wide that would be one a row, so it is less
# here.
#
# First: are your parts right? 20 steps with yours, 20 with ours, same start, same data.

# %% id="same" tags=["nbval-check-output"]
parts = {
    "quantise": quantise_tiles,
    "multiply": partial(fp8_matmul, dot=exact_dot),
}
curves = []
for own in (parts, {}):
    run = train_gpt("tile", 0, "ci", steps=20, **own)
    curves.append(torch.tensor([row["loss"] for row in run.metrics]))
gap = (curves[0] - curves[1]).abs().max()
print(f"same losses to 1e-3: {gap < 1e-3}")

# %% id="live" tags=["nbval-ignore-output"]
yours = train_gpt(
    "tile",
    lab.settings.seed,
    lab.settings.scale,
    steps=LIVE_STEPS[lab.settings.scale],
    live=True,
    title=f"FP8, tiles of {SIDE[lab.settings.scale]}, your forward",
    **parts,
)
runs = {"FP8 with your parts": yours, "bfloat16": opening["bf16"]}
runs["FP8, just cast"] = opening["unscaled"]
for name, run in runs.items():
    found = losses(run, lab.settings.scale)
    print(f"{name:20} validation loss {found['validation']:.4f}")

# %% [markdown] id="play-text"
# ## Play (84 – 98 min)
#
# **Outliers and tiles.** One column of the matrix is $f$ times as large. Each square is
# one number; the darker, the larger its relative error.
#
# Try this:
# 1. E4M3, a scale for the whole matrix. From which $f$ on is the SQNR worse by more than
#    a decibel?
# 2. $f$ = 1,000,000, and down the list. What becomes of the numbers that share a scale
#    with an outlier, and how many are there? (Open the table.)
#
# <details><summary>Answers</summary>
#
# 1. From 10,000 on: 29.9 dB instead of 31.2. At 100,000 it is 11.4, and a third of all
#    numbers are zero.
# 2. For the whole matrix and in blocks they all become zero; in tiles of one row 60 %
#    do, whatever the width, as each row has an outlier of its own, some of them small.
#    How many they are depends on the width: all 4080, 2032, or 496. So a small tile does
#    not protect the outlier's neighbours, it has fewer of them.
#
# </details>

# %% id="outliers" tags=["nbval-ignore-output"]
outlier_explorer().show()

# %% [markdown] id="accumulation-play"
# **Long sums.** A *model* of the tensor core's accumulator, made after the report's
# description: 32 products at a time are shifted to the largest exponent among them and
# the sum so far, and cut to 14 bits. Up: the largest error of 128 dot products; to the
# right: how long they are.
#
# Try this:
# 1. Uniform numbers, no promotion. How does the error grow with $K$?
# 2. Uniform, promoted every 128, as V3 does. And every 32?
# 3. Normal numbers, of both signs. Why is the error so much smaller?
#
# <details><summary>Answers</summary>
#
# 1. In proportion, and a little faster: 0.66 % at 512, 6.9 % at 4096. Once the register
#    holds a large sum, each small product loses its low bits, always in the same
#    direction.
# 2. The error stays below 0.1 %, however long the sum. Every 32 it is ten times less,
#    but each promotion takes time on the GPU's other units: the report calls 128 the
#    shortest interval without substantial overhead.
# 3. The sum stays small, so its terms lose less; and what is cut off is now as often
#    negative as positive.
#
# The report gives "nearly 2 %" for $K$ = 4096, and not for which numbers: between our
# uniform and normal ones.
#
# </details>

# %% id="accumulation" tags=["nbval-ignore-output"]
accumulation_explorer().show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (98 – 112 min)
#
# A press article on DeepSeek's methods says that FP8 cuts computation and memory
# "without a catastrophic drop". The report says more: the loss is within 0.25 % of
# bfloat16's, for two models trained on about a trillion tokens.
#
# **The loss.** The GPT of the opening for 400 steps, with five seeds. First the median of
# the five, and in brackets the lowest and the highest. The last column is how much higher
# a seed ends than with bfloat16: the mean, and its 95 % interval. The arm with $g$, the
# gradients, in E5M2 is an older recipe.

# %% id="language" tags=["nbval-check-output"]
print("\n".join(record.language_lines()))

# %% [markdown] id="outliers-text"
# **With outliers.** The same model, but in the input of each layer two channels are
# multiplied by 100,000 and their weights divided by it. In exact arithmetic nothing
# changes. Both channels lie in one tile; there are four tiles or eight.

# %% id="outliers-record" tags=["nbval-check-output"]
print("\n".join(record.outliers_lines()))

# %% [markdown] id="memory-text"
# **The bytes.** Guess first: which share of all that a training step keeps does FP8 save
# against bfloat16? What the forward keeps for the backward is counted as it runs. The
# bytes of weights, gradients and Adam's two moments follow from their number and format,
# with moments in bfloat16 as V3 has them (in the trainings above they were float32).

# %% id="memory-record" tags=["nbval-check-output"]
print("\n".join(record.memory_lines()))

# %% id="origins" tags=["nbval-ignore-output"]
for name in ("language", "outliers", "memory"):
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdicts-text"
# The verdicts follow from rules in `data/claims/`, written before the runs. Where there
# is one, it names its metric and the effect, with its 95 % interval over seeds. *Saving*
# is 1 minus the ratio: below 0 where FP8 is worse. *Could have seen* is half the width
# of the interval.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **No catastrophic drop: right.** With tiles the loss ends 0.3 % above bfloat16's, and
#   5 %, which the rule calls catastrophic, is far outside the interval.
# - **Within 0.25 %: five seeds cannot tell.** The interval reaches from 0.01 to 0.58 %. The
#   report measured it on models that were trained on a trillion tokens.
# - **In this model, tiles are not better than one scale.** All intervals of the scaled
#   arms overlap. What tells them apart are outliers: with two channels 100,000 times as
#   large, one scale ends 2 to 6 % higher in each of five seeds, tiles and blocks by less
#   than 1 %. Blocks do as well as tiles there, since an outlier *channel* lies in one
#   column of blocks; in the report blocks failed on gradients.
# - **Memory: less, but far from half.** Of all that this training keeps FP8 saves 6 %.
#   What the linear layers keep is nearly halved (1,214 of 2,228 kB), but here most of
#   what is kept for the backward belongs to norms, attention and SwiGLU (what stands
#   between the feed-forward's linear layers), in float32; and weights, gradients and
#   moments are what they were. (bfloat16 keeps even more there than float32: its copies
#   come on top.)
# - **Computation: as many operations as before, and those for the scales on top.** They
#   take less time on a GPU with FP8 units. None was measured here.
#
# Rewrite the headline in one honest sentence. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("fp8-close")

# %% [markdown] id="recap"
# ## What you take away (112 – 120 min)
#
# - A float's exponent bits are its range, its mantissa bits its precision. E4M3 is off
#   by 6 % at most over 15 powers of two, and by more in the three below, to zero.
# - Without scales small gradients are zero. With one scale a tensor most things work;
#   outliers of 100,000 cost our model some 5 %, and a scale for each tile keeps the
#   damage in the tile.
# - Products are summed over codes within a tile, and over tiles in float32.
# - What is kept in 8 bits is what products read. The weights themselves stay in 32.
#
# **Limits.** A model of 0.4 million weights and 400 steps says nothing of what
# happens after a trillion tokens; instabilities of FP8 have been reported only after
# hundreds of billions ([Fishman et al. 2024](https://arxiv.org/abs/2409.12517)). Speed
# needs a GPU with FP8 units, and none was measured.
#
# **Diagnose.** What is wrong?
#
# 1. A team scales by tensor. The loss is fine for weeks; then one channel grows, and the
#    loss with it. NaN is nowhere to be seen.
# 2. A kernel passes its tests with $K$ = 256. In the model, with $K$ = 16384, products
#    come out too small.
#
# <details><summary>Answers</summary>
#
# 1. The scale follows the outlier, and everything else slides into the subnormal
#    numbers and to zero. Scales by tile confine it.
# 2. The accumulator loses small terms once the sum is large: promotion is missing. Test
#    with long sums of positive numbers.
#
# </details>
#
# **Further reading.** [DeepSeek-V3](https://arxiv.org/abs/2412.19437), section 3.3 and
# appendix B; [FP8 formats](https://arxiv.org/abs/2209.05433);
# [insights into the hardware](https://arxiv.org/abs/2505.09343), section 3.1.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## 3.4 · The two products of the backward · 12 minutes · ●●○
#
# With $g$ the gradient that arrives at $y = x w^\top$,
#
# $$dx = g\,w \quad (M \times K, \text{ sums over } N), \qquad
# dw = g^\top x \quad (N \times K, \text{ sums over } M)$$
#
# A tile has to lie along what the product sums over, or its scale could not be taken
# out of the sum. Weights are cut in $T \times T$ blocks, which serve both ways.
# `rounded(matrix, (rows, columns))` gives back what is left of a matrix after it was
# quantised in such tiles. Return $dx$ and $dw$.


# %% id="backward" tags=["nbval-ignore-output"]
@lab.exercise("3.4")
def linear_gradients(g_MN, x_MK, w_NK, T, rounded):
    """dx_MK and dw_NK, each operand in the right tiles."""
    ### BEGIN SOLUTION
    dx_MK = rounded(g_MN, (1, T)) @ rounded(w_NK, (T, T))
    dw_NK = rounded(g_MN, (T, 1)).t() @ rounded(x_MK, (T, 1))
    return dx_MK, dw_NK
    ### END SOLUTION


# %% id="backward-check" tags=["nbval-ignore-output"]
lab.check("3.4")
lab.hints("3.4")

# %% [markdown] id="gradients-tiles"
# What tiles are for shows best in gradients: some tokens are predicted well, others
# badly, so theirs lie decades (powers of ten) apart. The record has *invented*
# gradients, normal numbers for 256 tokens whose sizes are spread over 0 to 8 decades.
# What share of those in the smaller half of the tokens becomes zero?

# %% id="gradients-record" tags=["nbval-check-output"]
print("\n".join(record.gradient_lines()))

# %% [markdown] id="gradients-after"
# Over six decades one scale loses a third of them, over eight three quarters. Blocks
# hardly help: among 128 tokens there is always a large one. With a tile for each token
# nothing is lost. (V3's appendix B.2 tells of a model that diverged with blocks for these
# gradients.)

# %% [markdown] id="power-text"
# $x$ is quantised twice, along channels for $y$ and along tokens for $dw$. If only
# codes are kept from the forward, the second time is from codes, and the error comes
# twice. Unless scales are powers of two.
#
# ## 3.5 · Scales that are powers of two · 8 minutes · ●●○
#
# Return the smallest power of two that is at least `scale`: exactly, so not by way of
# a logarithm. `torch.frexp` takes a number apart.


# %% id="power" tags=["nbval-ignore-output"]
@lab.exercise("3.5")
def power_of_two(scale):
    """Each scale rounded up to a power of two."""
    ### BEGIN SOLUTION
    mantissa, exponent = torch.frexp(scale)  # 0.5 <= mantissa < 1
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.ldexp(torch.ones_like(scale), exponent)
    ### END SOLUTION


# %% id="power-check" tags=["nbval-ignore-output"]
lab.check("3.5")
lab.hints("3.5")

# %% id="power-see" tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
x_MK = torch.randn(128, 128, generator=generator)


def through_tiles(x, axis, rounding):
    """What is left of x after tiles along an axis; 128 numbers each."""
    s = rounding(x.abs().amax(dim=axis, keepdim=True) / 448)
    return cast(x / s).float() * s


for name, rounding in (
    ("float32", lambda s: s),
    ("powers of two", power_of_two),
):
    once_MK = through_tiles(x_MK, 1, rounding)
    twice_MK = through_tiles(once_MK, 0, rounding)
    same = (once_MK == twice_MK).float().mean()
    print(
        f"scales {name:13}: {sqnr(x_MK, once_MK):.1f} dB after once, ", end=""
    )
    print(f"{sqnr(x_MK, twice_MK):.1f} after twice; {same:.0%} unchanged")

# %% [markdown] id="encode-text"
# Dividing by a power of two changes exponents only, so what was a code is a code again.
# It costs a little at first: on average the largest number of a tile no longer
# reaches 448. V3 uses powers of two in places, among them the inputs of SwiGLU that it
# keeps and the rows that it sends to experts.
#
# ## 3.6 · From a number to its byte · 15 minutes · ●●●
#
# The other way round: return the E4M3 code of a Python float. To the nearest value;
# exactly in the middle, to the code whose last bit is 0 (Python's `round` does that with
# whole numbers). Beyond 448, infinity included, the code of 448. NaN is `0x7F`.


# %% id="encode" tags=["nbval-ignore-output"]
@lab.exercise("3.6")
def encode(x):
    """The E4M3 code of a number: to nearest, ties to even, saturating."""
    ### BEGIN SOLUTION
    if math.isnan(x):
        return 0x7F
    sign = 0x80 if math.copysign(1.0, x) < 0 else 0
    size = min(abs(x), 448.0)
    exponent = math.frexp(max(size, 2.0**-6))[1] - 1
    steps = round(size / 2.0 ** (exponent - 3))  # 8 to 15; 16 is a carry
    return sign + ((exponent + 6) << 3) + steps
    ### END SOLUTION


# %% id="encode-check" tags=["nbval-ignore-output"]
lab.check("3.6")
lab.hints("3.6")

# %% id="encode-see" tags=["nbval-check-output"]
for x in (1.95, 0.3, -1e-3, 1000.0):
    code = encode(x)
    bits = f"{code:08b}"
    print(f"{x:>7} -> {bits[0]} {bits[1:5]} {bits[5:]} -> {decode(code):.6g}")
there = [encode(decode(code)) for code in range(256) if code & 0x7F != 0x7F]
print(f"all other codes come back: {len(set(there)) == 254}")

# %% [markdown] id="accumulation-text"
# ## Longer sums · 2 minutes
#
# The model of the accumulator again, from the record: 512 of each length, three seeds, the median of the largest
# errors.

# %% id="accumulation-record" tags=["nbval-check-output"]
print("\n".join(record.accumulation_lines()))

# %% [markdown] id="language-seeds"
# ## The losses, seed by seed · 2 minutes
#
# At scale `gpu` your own training is beside them.

# %% id="language-picture" tags=["nbval-ignore-output"]
same_length = lab.settings.scale == "gpu"  # elsewhere yours is shorter
view = record.language_view(
    losses(yours, lab.settings.scale) if same_length else None
)
show_figure(view.figure, view.sentence)

# %% [markdown] id="delayed-text"
# ## Online or delayed · 3 minutes
#
# To find the largest number of a tensor it has to be read once before it can be
# quantised. Older recipes avoid that: they take the largest of the *last* steps
# (**delayed** scaling). V3 scales **online**, each tile by its own largest number, which
# a tile of 128 affords, as it is in registers anyway. Here a tensor doubles at each of 40
# steps:

# %% id="delayed" tags=["nbval-check-output"]
print("\n".join(record.delayed_lines()))

# %% [markdown] id="moments-text"
# ## The optimizer's bytes · 8 minutes
#
# AdamW keeps two moments for each weight: $m$, a mean of gradients, and $v$, one of
# their squares. In float32 that is 8 bytes a weight, twice the weight itself. V3 keeps
# both in bfloat16. Why not in 8 bits? The record has the GPT with bfloat16 products, its
# moments rounded after every step.

# %% id="moments" tags=["nbval-check-output"]
print("\n".join(record.moments_lines()))

# %% id="moments-origin" tags=["nbval-ignore-output"]
print(record.caption("moments"))

# %% [markdown] id="moments-after"
# Without scales, small $v$ become zero, and $m / \sqrt{v}$ explodes: all three trainings
# end at NaN within 40 steps. With a scale for 32 numbers they end where float32 ends,
# with $v$ or with its root. So 400 steps of a small model do not show why V3 stops at
# bfloat16; that a longer training would behave as well does not follow.
#
# ## When does an FP8 layer pay? · 6 minutes
#
# Quantising is work, too: $x$, $w$ and $g$ are read and written, twice each, and that
# takes time that the faster product has to win back. On paper, for a GPU that
# reads and writes $B$ bytes and does $F_{16}$ or $F_8$ operations a second:
#
# $$\underbrace{6.06\,(MK + MN + NK) / B}_{\text{quantise}} \;<\;
# \underbrace{6MNK\,(1/F_{16} - 1/F_8)}_{\text{saved by three products}}$$
#
# 6.06 bytes are what the two quantisations of one number move: each reads 2 and
# writes 1, plus scales. These are peaks from a data sheet (H200), which no kernel
# reaches: the limit of what is possible, **not a measurement**.

# %% id="pays" tags=["nbval-check-output"]
B, F16, F8 = 4.8e12, 989e12, 1979e12
for M, N, K in ((8192, 512, 512), (8192, 1024, 1024), (8192, 7168, 2048)):
    quantise = 6.06 * (M * K + M * N + N * K) / B
    saved = 6 * M * N * K * (1 / F16 - 1 / F8)
    verdict = "pays" if saved > quantise else "does not pay"
    print(
        f"{M} tokens, {K} to {N}: quantise {1e6 * quantise:.0f} us, ", end=""
    )
    print(f"save {1e6 * saved:.0f} us: {verdict}")

# %% [markdown] id="pays-after"
# Small layers do not pay. Fusing helps: a kernel that applies SwiGLU and quantises what
# it has in registers saves a whole trip to memory
# ([fp8_swiglu](../kernels/fp8_swiglu.py)), and one that reads $x$ once and writes both
# directions saves half of one ([fp8_both](../kernels/fp8_both.py)).

# %% [markdown] id="ranks-text"
# ## Many processes: FP8 on the wire · 12 minutes
#
# When experts live on several ranks (lab 02), every token's row travels to them and
# back. V3 sends in FP8 what goes *to* the experts, in the backward too, and in
# bfloat16 what comes *from* them. Here four ranks do that; each compares its outputs and
# gradients with those of one process in which rows are rounded in the same way.
#
# Then the same ranks add up gradients in FP8, in two ways. In a **ring** every rank adds
# its own numbers to a partial sum and passes that on, rounded to FP8 again. Or every
# rank sends its codes to one owner, who adds them *once*, in float32.

# %% id="ranks" tags=["nbval-ignore-output"]
# %%torchrun --nproc 4 --name ranks
import torch.distributed as dist

from labs.lab_03.wire import dispatch_step, relative_error
from labs.lab_03.wire_sums import WAYS, all_reduce, my_gradient

dist.init_process_group(backend())
for arm in ("bf16", "fp8", "fp8_back"):
    with count_traffic() as moved:
        step = dispatch_step(arm, dist, device())
    share(arm, vars(step) | {"sent": moved.ideal_sent})
    if dist.get_rank() == 0:
        print(f"{arm:16} {moved.ideal_sent:7,} bytes sent, ", end="")
        print(f"outputs off by {step.output_error:.2%}")
g_RD = my_gradient(dist, device())
exact_RD = g_RD.clone()
dist.all_reduce(exact_RD)
for name in WAYS:
    with count_traffic() as moved:
        error = relative_error(all_reduce(name, g_RD, dist), exact_RD)
    share(name, [error, moved.ideal_sent])
    if dist.get_rank() == 0:
        print(f"{name:16} {moved.ideal_sent:7,} bytes sent, ", end="")
        print(f"sum off by {error:.2%}")

# %% id="ranks-check" tags=["nbval-check-output"]
everyone = [ranks[rank] for rank in range(4)]
steps = [step for w in everyone for step in (w.bf16, w.fp8, w.fp8_back)]
print(f"bits of one process: {all(step['same'] for step in steps)}")
counted = [s["sent"] == s["row_bytes"] + s["size_bytes"] for s in steps]
print(f"bytes as by the formula: {all(counted)}")
half = sum(w.bf16["row_bytes"] for w in everyone)
for arm in ("fp8", "fp8_back"):
    share_of_half = sum(getattr(w, arm)["row_bytes"] for w in everyone) / half
    print(f"{arm} sends {share_of_half:.3f} of bfloat16's bytes")
ring, once = ranks[0].fp8_tile_ring, ranks[0].fp8_tile_once
print(f"ring and once send the same bytes: {ring[1] == once[1]}")
print(f"the ring's sum is further off: {ring[0] > once[0]}")

# %% id="ranks-ones" tags=["nbval-check-output"]
from labs.lab_03.wire_sums import reduce_here

ones_WRD = torch.ones(64, 64, 128)
for name in ("fp8_tile_ring", "fp8_tile_once"):
    total = reduce_here(name, ones_WRD).max().item()
    print(f"64 ranks that hold 1, {name}: {total:.0f}")

# %% [markdown] id="ranks-after"
# FP8 one way is 0.76 times the bytes, both ways 0.52: the scales are what is missing to a
# half. (*Formula*: a row of $D$ numbers is $D$ bytes, and 4 for each tile of 128.) The
# price is in the outputs: off by 0.3 % in bfloat16, by about 4 % with FP8 to the experts,
# by 5 % with FP8 both ways. Does it show in the loss? The record has a GPT with experts,
# 60 steps, five seeds, its rows rounded as they would be on the way:

# %% id="wire-record" tags=["nbval-check-output"]
print("\n".join(record.wire_lines()))

# %% [markdown] id="reduce-text"
# No: all differences to bfloat16 lie within the spread of five seeds, those of FP8 both
# ways too. So this does not show why V3 keeps results in bfloat16.
#
# Gradients are another matter, as they are *added*. Partial sums that travel in FP8 are
# rounded at each rank, and E4M3 has three mantissa bits: 16 + 1 = 17 is rounded to 16,
# so a ring of 64 ranks that all hold 1 ends at 16. Gradients of a trained GPT, added
# over 1 to 64 ranks; *shared* is one scale for all ranks that has to cover the sum, *tile*
# a scale for 128 numbers that travels with them. The last column is the share of
# numbers that their scale makes 0.

# %% id="reduce-record" tags=["nbval-check-output"]
print("\n".join(record.reduce_lines()))

# %% [markdown] id="reduce-after"
# At 64 ranks the ring's sum is off by 18 %, added once by 3 %, and the error of bfloat16 is
# below 1 %. A shared scale makes more than a third of all gradients zero on top of
# that: it has to leave room for 64 times the largest. V3 keeps gradients in float32.
#
# ## 3.K · The kernel: the largest number of a tile · 10 minutes · ●●○
#
# Quantising reads every number once and writes a byte for it, so it takes as long as
# memory takes. One program has one tile: it finds the largest size, makes the scale,
# casts and stores. Here a tile has 16 numbers, so that you can see it.
#
# Write the four lines: the scale of the tile, its codes, and two stores. `q_ptr` points
# at codes, `scale_ptr` at `J` scales a row. Casting is `.to(tl.float8e4nv)`: Triton's
# name for E4M3. (The [Triton primer](primers/triton.ipynb) has the rest of what you need.)

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_03.kernels_ours import TILE
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("3.K")
@jit
def quantise_kernel(x_ptr, q_ptr, scale_ptr, K, J, T: tl.constexpr):
    m, j = tl.program_id(0), tl.program_id(1)
    k = j * T + tl.arange(0, T)
    x = tl.load(x_ptr + m * K + k, mask=k < K, other=0.0)
    ### BEGIN SOLUTION
    scale = tl.maximum(tl.max(tl.abs(x), axis=0) / 448.0, 2.0**-126)
    q = (x / scale).to(tl.float8e4nv)
    tl.store(q_ptr + m * K + k, q, mask=k < K)
    tl.store(scale_ptr + m * J + j, scale)
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("3.K")
lab.hints("3.K")

# %% [markdown] id="kernel-map-text"
# Three rows of 40 numbers, so three tiles a row, the last one not full. Move the
# slider through the programs: what each reads, and where it writes.

# %% id="kernel-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    x_MK = torch.randn(3, 40)
    q_MK = torch.zeros(3, 40, dtype=torch.float8_e4m3fn)
    scale_MJ = torch.zeros(3, 3)
    memory_map(
        quantise_kernel, (3, 3), x_MK, q_MK, scale_MJ, 40, 3, T=TILE
    ).show()

# %% id="kernel-run" tags=["nbval-check-output"]
x_MK = torch.linspace(-2, 6, 40).repeat(2, 1)
q_MK, scale_MJ = quantise_kernel(x_MK)
each_MK = scale_MJ.repeat_interleave(TILE, dim=1)[:, :40]
print(f"scales: {tuple(scale_MJ.shape)}, codes: {q_MK.dtype}")
print(f"SQNR {sqnr(x_MK, q_MK.float() * each_MK):.0f} dB")

# %% [markdown] id="kernel-real"
# The course's own kernels do more at once:
#
# - [fp8_tiles](../kernels/fp8_tiles.py): yours, for many rows a program;
# - [fp8_both](../kernels/fp8_both.py): tiles in both directions from one read;
# - [fp8_blocks](../kernels/fp8_blocks.py): blocks of weights;
# - [fp8_swiglu](../kernels/fp8_swiglu.py): SwiGLU, quantised before it is ever stored;
# - [fp8_gemm](../kernels/fp8_gemm.py): the product, promoted each 128 of $K$.
#
# On a GPU with FP8 units `FP8Linear` runs them. A quantiser is bound by memory, the
# product by arithmetic:

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("fp8_gemm", dtype="bfloat16")

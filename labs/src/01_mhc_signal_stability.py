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
# # 01 · Signal stability: mHC
#
# **In two hours you will widen a network's residual stream, watch it overflow,
# build the constraint that keeps it at bay, and find out what that is worth.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 15 | see a training end in NaN | where to look when one dies |
# | 15 – 30 | measure the gain of a chain of maps | the paper's one number |
# | 30 – 65 | write Sinkhorn-Knopp, and the connection itself | mHC, complete |
# | 65 – 80 | train with your parts | that they are right, and what they cost |
# | 80 – 100 | play: gains on trained maps | what the constraint buys |
# | 100 – 115 | hold a press article's sentences against the record | four verdicts |
# | 115 – 120 | answer three questions, diagnose two cases | the lab in five lines |
#
# Then, if you like, the deep parts: the backward, a start that changes nothing,
# two ranks, the kernel, memory, eleven ways to get it wrong. They stand at the end
# and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb). On two free CPU cores it computes for
# about a minute, on a busy machine for three.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 2  # the torchrun cell has two ranks, one for each half of the network

# %% id="setup" tags=["nbval-ignore-output"]
from functools import partial

import torch

from labs.lab_01 import record_tables as record
from labs.lab_01.arms import residual_of
from labs.lab_01.experiments import batches, last_loss, train_arm
from labs.lab_01.gain_explorer import gain_explorer
from labs.lab_01.gains import composite_gains, trained_maps
from labs.lab_01.picture import idea_view
from labs.lab_01.plan import LANES, PLANS
from labs.lab_01.questions import QUESTIONS
from labs.lab_01.sinkhorn_explorer import sinkhorn_explorer
from labs.lab_01.stream_record import stream_lines, stream_view
from labsupport import Lab
from labsupport.explore import show_figure
from labsupport.nn import GPT, ManifoldHyperConnection
from labsupport.train import train

lab = Lab("01", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
plan = PLANS[lab.settings.scale]
print(plan)

# %% [markdown] id="problem"
# ## A training that ends in NaN (0 – 15 min)
#
# In a residual network every layer *adds* to a stream that runs from the
# embeddings to the output, $x_{l+1} = x_l + F_l(x_l)$. Here $F_l$ is a **branch**,
# an attention or a feed-forward layer with a norm in front. The stream is the
# network's main road: whatever a layer wants to tell a later one goes along it.
#
# **Hyper-connections** (HC, [Zhu et al. 2024](https://arxiv.org/abs/2409.19606))
# widen that road. Instead of one vector every token carries $n = 4$, the
# **lanes**. Each branch reads a mix of them, writes its result to each with a
# weight of its own, and mixes the lanes with a small matrix. All of that is
# learned. It costs next to no arithmetic, and at 27 billion parameters it made
# models better (section 4.1 of the paper that this lab is about).
#
# Train a deep, narrow GPT with them. The stream is stored in float16, as memory is
# dear: its largest number is 65,504. The learning rate is high, as whoever wants to
# be done soon would set it.

# %% id="overflow" tags=["nbval-ignore-output"]
overflow = train_arm(
    "hc",
    lab.settings.seed,
    lab.settings.scale,
    lr=3 * plan.lr,
    stream="float16",
    live=True,
    title="HC, float16 stream",
    watch=True,
)
seen = overflow.metrics[-1]
print(f"step {overflow.steps_done}: the stream's largest number was ", end="")
print(f"{seen['largest']:,.0f}; float16 ends at 65,504")

# %% [markdown] id="overflow-text"
# At scale `cpu` that ends before step 150, and not because the loss was bad: look at
# the curve. It was falling. At scale `ci`, with which this page was stored, there are
# 12 steps, too few for it to happen. So here is what five other seeds did at scale
# `cpu`. A cross marks the last step before NaN. (In one of the five the loss has a
# spike shortly before; the others give no sign.)

# %% id="overflow-record" tags=["nbval-ignore-output"]
view = stream_view("float16")
show_figure(view.figure, view.sentence)

# %% [markdown] id="bad-luck-text"
# Did these runs have bad luck? The record has 20 such trainings for each residual:
# Python code at three learning rates, and a second task at 0.01, letters of a random
# Markov chain; five seeds each. (The chain is learned: every training that is not cut
# short by NaN ends at 0.84 nats or less; guessing costs 3.26.) *mHC* is what you will
# build. *identity-mHC* is mHC whose lanes never mix.

# %% id="failures" tags=["nbval-check-output"]
print("\n".join(record.failure_lines_by_rate("float16")))

# %% id="failures-origin" tags=["nbval-ignore-output"]
print(record.caption("failures"))

# %% [markdown] id="predict-text"
# Only HC fails, and only at the two higher rates: something in its stream becomes
# larger than 65,504. A float32 holds $10^{38}$. What happens there?

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "float32",
    "HC with a float32 stream, the same 20 trainings: how many end in NaN?",
    ["more than half", "a few", "none"],
)

# %% id="reveal" tags=["nbval-ignore-output"]
failed, runs = record.hc_in_float32()
share = failed / runs
lab.reveal(
    "float32",
    answer="none"
    if not failed
    else "a few"
    if share < 0.5
    else "more than half",
    sentence=f"{failed} of {runs} HC trainings in float32 ended in NaN.",
    figure=stream_view("float32").figure,
)

# %% id="stream-size" tags=["nbval-check-output"]
print("\n".join(stream_lines()))

# %% [markdown] id="reveal-after"
# *Why was I wrong?* If you expected NaN, or a loss that goes up: every branch
# normalises what it reads, and so does the last layer. The lanes may be far too large
# for float16, and no branch ever sees it. **The loss hides the growth; the number
# format does not.** Others found the same
# [at 1.7 billion parameters](https://taylorkolasinski.com/notes/mhc-reproduction-part2):
# gains of ten thousand, and no crash.
#
# So to see the problem, look at what carries the signal and not at the loss. Here is
# the whole table. bfloat16 has 16 bits as well, but the range of float32.

# %% id="failures-all" tags=["nbval-check-output"]
print("\n".join(record.failure_lines(*record.STREAMS)))

# %% [markdown] id="idea-text"
# ## The idea (15 – 20 min)
#
# For one token, with the lanes as the rows of $x_l$ (mHC paper, equation 3,
# [Xie et al. 2025](https://arxiv.org/abs/2512.24880)):
#
# $$x_{l+1} = H^{res}_l\, x_l + (H^{post}_l)^\top\, F_l(H^{pre}_l\, x_l)$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $n$, $C$ | lanes, width of a lane | | `n`, `C` |
# | $x_l$ | the lanes before branch $l$ | $n \times C$ | `x_MnC`, for M tokens |
# | $H^{pre}_l$ | how lanes are read | $1 \times n$ | `pre_nM` |
# | $H^{post}_l$ | how the result is written | $1 \times n$ | `post_nM` |
# | $H^{res}_l$ | how lanes pass on | $n \times n$ | `res_nnM` |
# | $F_l$ | the branch | $C \to C$ | `branch` |
#
# A signal that enters at layer 1 reaches layer $L$ through the product of all
# $H^{res}$, the **composite map** $H^{res}_L \cdots H^{res}_2 H^{res}_1$. In a
# plain residual network that is 1. With HC it may be anything.
#
# mHC allows only **doubly stochastic** $H^{res}$: no entry negative, every row and
# every column sums to 1. Three things follow (section 4.1):
#
# 1. A row that sums to 1 makes an average. No lane can become larger than the
#    largest one was.
# 2. A column that sums to 1 says the same of gradients on their way back.
# 3. A product of such matrices is such a matrix. So both hold for any depth.

# %% id="idea" tags=["nbval-ignore-output"]
view = idea_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="gain-text"
# ## 1.1 · The gain of a chain · 8 minutes · ●○○
#
# How much can a chain of maps amplify? The paper takes the composite map and, in
# it, the largest absolute **row** sum (a bound for the signal on its way forward)
# and the largest absolute **column** sum (for the gradient on its way back).
#
# `res_Lnn` holds $L$ maps in the order in which the stream meets them. Return both
# gains as one tensor.


# %% id="gain" tags=["nbval-ignore-output"]
@lab.exercise("1.1")
def composite_gain(res_Lnn):
    """Forward and backward gain of the maps' product, as a tensor of two."""
    ### BEGIN SOLUTION
    product_nn = torch.eye(res_Lnn.shape[-1])
    for res_nn in res_Lnn:
        product_nn = res_nn @ product_nn
    size_nn = product_nn.abs()
    return torch.stack([size_nn.sum(dim=1).max(), size_nn.sum(dim=0).max()])
    ### END SOLUTION


# %% id="gain-check" tags=["nbval-ignore-output"]
lab.check("1.1")
lab.hints("1.1")

# %% [markdown] id="chain-text"
# Now the same random numbers $N$ three times, for a chain of 24 maps: as HC has them,
# near the identity, $I + 0.3\,N$; each row of $N$ through a softmax (mHC with another
# projection, called *row softmax* below); and, with our function for now, doubly
# stochastic. Printed with the two gains is the *smallest* column sum: what is left of
# the gradient of the lane that gets least.

# %% id="chain" tags=["nbval-check-output"]
from labs.lab_01.exercises_core import sinkhorn_knopp as ours

generator = torch.Generator().manual_seed(1)
logits_Lnn = torch.randn(24, LANES, LANES, generator=generator)
maps = {
    "raw": torch.eye(LANES) + 0.3 * logits_Lnn,
    "row softmax": logits_Lnn.softmax(dim=-1),
    "Sinkhorn": ours(logits_Lnn.permute(1, 2, 0)).permute(2, 0, 1),
}
for name, res_Lnn in maps.items():
    forward, backward = composite_gain(res_Lnn).tolist()
    least = composite_gains(res_Lnn).least[-1]
    print(
        f"{name:12} forward {forward:8.3f}   backward {backward:8.3f}", end=""
    )
    print(f"   least column {least:6.3f}")
print()
print("\n".join(record.least_lines()))

# %% [markdown] id="chain-after"
# A softmax makes rows sum to 1: the forward gain is 1. Then columns cannot grow
# without bound, either, since all entries together sum to $n$. What they can do is
# vanish. In the lower table (trained maps, recorded) the smallest column sum of row
# softmax falls to 0.028 at rate 0.03: one lane's gradient is all but gone. mHC keeps
# 0.92 of it. That is what columns are scaled for.
#
# ## 1.2 · Sinkhorn-Knopp · 12 minutes · ●●○
#
# How do you make a matrix doubly stochastic, so that gradients pass through? Take
# exp, so that nothing is negative. (Mind the overflow: exp of a logit above 88 is
# infinite in float32. Any factor of a column is undone by the next step.) Divide
# every column by its sum. That spoils the rows: divide every row by its sum. That
# spoils the columns, but less. Repeat (equation 9; the paper takes 20 iterations):
#
# $$M^{(0)} = \exp(\tilde H), \qquad
# M^{(t)} = \mathcal T_r\big(\mathcal T_c(M^{(t-1)})\big)$$
#
# $\mathcal T_c$ divides columns by their sums, $\mathcal T_r$ rows. **Columns first,
# rows last**: what comes last is exact.
#
# `logits_nnM[i, j]` holds entry $(i, j)$ of every token's matrix. Tokens stand last,
# so one division serves them all.


# %% id="sinkhorn" tags=["nbval-ignore-output"]
@lab.exercise("1.2")
def sinkhorn(logits_nnM, iterations=20):
    """Doubly stochastic matrices; columns are scaled first, rows last."""
    ### BEGIN SOLUTION
    top_1nM = logits_nnM.amax(dim=0, keepdim=True)  # undone by the first step
    res_nnM = torch.exp(logits_nnM - top_1nM)
    for _ in range(iterations):
        res_nnM = res_nnM / res_nnM.sum(dim=0, keepdim=True)
        res_nnM = res_nnM / res_nnM.sum(dim=1, keepdim=True)
    return res_nnM
    ### END SOLUTION


# %% id="sinkhorn-check" tags=["nbval-ignore-output"]
lab.check("1.2")
lab.hints("1.2")

# %% id="sinkhorn-sums" tags=["nbval-check-output"]
logits_nnM = 2 * torch.randn(LANES, LANES, 1000, generator=generator)
for iterations in (1, 5, 20):
    res_nnM = sinkhorn(logits_nnM, iterations)
    rows, columns = (
        (res_nnM.sum(dim=axis) - 1).abs().max().item() for axis in (1, 0)
    )
    print(f"{iterations:2} iterations: columns off by {columns:.1e}", end="")
    print(f", rows exact: {rows < 1e-5}")

# %% [markdown] id="connect-text"
# ## 1.3 · Read, write, pass on · 12 minutes · ●●○
#
# Equation 3 for M tokens at once. `x_MnC` holds the lanes, the three maps come with
# tokens last, and `branch` takes and returns a tensor of shape (M, C).
#
# Mind the direction of $H^{res}$: `res_nnM[i, j]` says how much of lane `j` goes
# **to** lane `i`. Transposed it is still doubly stochastic, and the loss still falls.
# Public code had it wrong for a while
# ([Megatron-LM](https://github.com/NVIDIA/Megatron-LM/pull/4624),
# [NeMo](https://github.com/NVIDIA-NeMo/Automodel/pull/2159),
# [PaddleFleet](https://github.com/PaddlePaddle/PaddleFleet/pull/1240)).


# %% id="connect" tags=["nbval-ignore-output"]
@lab.exercise("1.3")
def connect(x_MnC, pre_nM, post_nM, res_nnM, branch):
    """H_res x + H_post^T F(H_pre x), for every token."""
    ### BEGIN SOLUTION
    read_MC = torch.einsum("jm,mjc->mc", pre_nM, x_MnC)
    made_MC = branch(read_MC)
    kept_MnC = torch.einsum("ijm,mjc->mic", res_nnM, x_MnC)
    return kept_MnC + torch.einsum("im,mc->mic", post_nM, made_MC)
    ### END SOLUTION


# %% id="connect-check" tags=["nbval-ignore-output"]
lab.check("1.3")
lab.hints("1.3")

# %% [markdown] id="train-text"
# ## Train with your parts (65 – 80 min)
#
# What is left of mHC is where the maps come from (equations 7 and 8). All lanes of
# a token, $nC$ numbers $\vec x$, are normalised together and mapped to
# $n + n + n^2$ logits by a matrix $\varphi$. A small number $\alpha$, at first 0.01,
# scales them (each of the three maps has its own: `alpha_3` in code), and a bias is
# added:
#
# $$\tilde H = \alpha\,(\mathrm{RMSNorm}(\vec x)\,\varphi) + b, \qquad
# H^{pre} = \sigma(\tilde H^{pre}), \quad H^{post} = 2\sigma(\tilde H^{post}), \quad
# H^{res} = \mathrm{Sinkhorn}(\tilde H^{res})$$
#
# `ManifoldHyperConnection` does that and leaves Sinkhorn and the connection to
# functions. Train with yours, then with ours, from the same start on the same data.
# (As long as 1.2 or 1.3 is unsolved, "yours" is our solution of that exercise, the
# same loop of divisions.)

# %% id="train" tags=["nbval-ignore-output"]
steps = lab.settings.pick(ci=4, cpu=50, gpu=50)
losses, seconds = {}, {}
for who, parts in {
    "yours": {"project": sinkhorn, "connect": connect},
    "ours": {},
}.items():
    torch.manual_seed(seed)
    part = partial(ManifoldHyperConnection, **parts)
    run = train(
        GPT(plan.config, residual=part),
        batches("python", plan, seed),
        steps=steps,
        lr=1e-3,
        settings=lab.settings,
        live=who == "yours",  # the other curve is the same
        title=f"mHC, {who}",
    )
    losses[who], seconds[who] = run.table()["loss"].to_numpy(), run.seconds
ratio = seconds["yours"] / seconds["ours"]
print(f"{steps} steps: yours {seconds['yours']:.1f} s, ", end="")
print(f"ours {seconds['ours']:.1f} s: yours took {ratio:.1f} times as long")
if lab.settings.scale == "ci":
    print(
        "(4 steps of a tiny model: too few for a time that means something.)"
    )

# %% id="train-check" tags=["nbval-check-output"]
gap = abs(losses["yours"] - losses["ours"]).max()
print(f"same losses to 1e-4: {gap < 1e-4}")

# %% [markdown] id="train-after"
# Same losses. And the times? Your Sinkhorn is 40 divisions, and autograd keeps the
# result of each for the backward: 40 copies of all maps, in each branch.
# Ours has a backward of its own that keeps 40 vectors of scales and walks back with
# them (exercise 1.4 below). On a GPU even that is too much traffic, and a kernel
# does all 20 iterations without leaving the chip (1.K below).
#
# Now train on, with HC and with mHC, and take the gains of what was learned.

# %% id="slice" tags=["nbval-ignore-output"]
trained = {
    arm: train_arm(
        arm, seed, lab.settings.scale, lr=plan.lr, live=True, title=arm
    )
    for arm in ("hc", "mhc")
}
tokens_BT, _ = batches("python", plan, seed=1000)(0)
for arm, run in trained.items():
    res_Lnn = trained_maps(run.model, tokens_BT.to(lab.settings.device))
    gains = composite_gains(res_Lnn)
    print(
        f"{arm:4} loss {last_loss(run):.3f}   forward {gains.forward[-1]:.4g}"
    )
    print(
        f"     backward {gains.backward[-1]:.4g}"
        f", smallest column sum {gains.least[-1]:.3g}"
    )

# %% [markdown] id="play-text"
# ## Play: gains against depth (80 – 100 min)
#
# The record holds the maps of 100 trainings: five residuals, four learning rates,
# five seeds. The line is the median, the band goes from lowest to highest. Two of the
# residuals are mHC with another projection than Sinkhorn: *identity-mHC* (lanes never
# mix) and *row softmax* (rows sum to 1, columns need not).
#
# Try this:
# 1. Forward gain, trained maps. How does HC's grow with depth: by adding or by
#    multiplying? And with the learning rate?
# 2. *Lanes kept apart*, trained at 0.03. What has become of HC's four lanes?
# 3. Random N(0, 1) maps are what most pictures of HC on the web show. How do they
#    compare with trained ones?
#
# <details><summary>Answers</summary>
#
# 1. Up to 0.01 nearly a straight line on a logarithmic axis: each branch multiplies.
#    A larger rate makes each factor larger. At 0.03 the line bends: the first branches
#    multiply by far more than the last ones.
# 2. In four of five seeds the second singular value is less than a thousandth of the
#    first (in the fifth it is 0.0017): whatever the lanes held, they end as copies of
#    one, in different sizes. A gain alone does not show that.
# 3. After 24 branches their median is two million. Trained at 0.01 it is 232: HC starts
#    at the identity, and training moves it by little in each branch. At 0.03 that
#    is no longer so: trained maps end between 30 and 12.6 million.
#
# </details>

# %% id="gains" tags=["nbval-ignore-output"]
gain_explorer().show()

# %% [markdown] id="sinkhorn-play"
# And how good are 20 iterations? It depends on how far apart the logits are.
#
# Try this:
# 1. Logits of spread 1: how many iterations until columns are right to $10^{-6}$?
# 2. Spread 6: does 20 suffice? Which of the two sums stays exact all the same?
# 3. Rows first. What changes?
#
# <details><summary>Answers</summary>
#
# 1. Ten, for the median matrix. The worst of 200 is not there after 20: the dotted
#    line.
# 2. No: columns are off by 1.6 percent in the median, by 6 at worst. Rows are exact,
#    because they come last, so the forward gain is 1 whatever happens.
# 3. The roles: now columns are exact, and the forward gain drifts. Weights trained
#    with one order do not fit the other.
#
# </details>

# %% id="sinkhorn-explore" tags=["nbval-ignore-output"]
sinkhorn_explorer().show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (100 – 115 min)
#
# One of the four press articles that this course examines (lab 00 lists them) is about
# stable residual connections. "The article" below is that one, "the source" is the mHC
# paper. The article says four things. Signals stay stable; one can guarantee it in
# theory; there are fewer failed trainings and so less computation; training becomes
# cheaper and shorter. First the numbers that bear on them.

# %% id="gain-record" tags=["nbval-check-output"]
print("\n".join([*record.gain_lines(), "", *record.loss_lines()]))

# %% id="gain-record-origin" tags=["nbval-ignore-output"]
yours = {arm: last_loss(run) for arm, run in trained.items()}
if lab.settings.scale != "cpu":
    yours = {}  # the record is of scale cpu: another model, other steps
    print("Your runs were of another size: no stars for them.")
view = record.loss_view({a: v for a, v in yours.items() if v is not None})
show_figure(view.figure, view.sentence)

# %% [markdown] id="pays-text"
# **Does it pay?** A step with mHC takes longer. If it takes $r$ times as long, then
# it pays, in time alone, only if more than $1 - 1/r$ of all compute was lost to
# failures before. The paper reports $r = 1.067$ on its own cluster, with kernels:
# 6.3 percent. Ours is the plain PyTorch of a tiny model on a CPU, where small
# operations weigh far more; read it as an upper end, not as what a GPU would do.

# %% id="pays" tags=["nbval-check-output"]
least, ratio, most = record.overhead()
print(f"here: a step takes {ratio:.2f} times as long", end="")
print(f" ({least:.2f} to {most:.2f}, five seeds)")
print(f"so failures would have to waste {1 - 1 / ratio:.0%} of all compute")
print(f"in the paper: 1.067 times, {1 - 1 / 1.067:.1%}")

# %% id="pays-origin" tags=["nbval-ignore-output"]
print(record.caption("time"))

# %% [markdown] id="verdicts-text"
# Three of the four verdicts follow from rules that were written down before the runs
# (see `data/claims/`); `mhc-theory` is arithmetic and needs no run. Each rule names its
# metric and effect, mHC held against HC or against the plain residual, with the 95 %
# interval over seeds. (A `log10_gain` of -2 is a gain a hundred times smaller. A `ms`
# saving of 0.05 is a step 5 % shorter; a negative one is a longer step. Where no run
# of either failed, the interval has no width, but that is not certainty: after 60 runs
# without a failure a rate of up to 5 percent is still possible.)

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Against HC, the constraint does what the paper says.** Gains stay at 1, float16
#   streams survive.
# - **Against the plain residual it saves no failures here**, because the plain
#   residual has none to save. The article's sentence needs a comparison that it does
#   not make: widened lanes fail, the constraint repairs that.
# - **The guarantee is about the lanes alone.** What the branches add is not bounded
#   by it: in float16 at 0.03 the numbers of one mHC stream of five reach 9,024. And
#   rows are exact, columns only as far as Sinkhorn has come.
# - **Stability is not a lower loss.** At each of four rates HC ends below mHC in two
#   to five of five seeds, at 0.01 in all five, though its signal grows 98 to 1,391-fold
#   there. It is not without risk: at 0.03 one of HC's trainings ends at 3.09, where
#   mHC has 2.61. (In the record of the stream's size the same seed ends near 2.7: at
#   this rate rounding decides.) At 27 billion parameters the paper reports the
#   opposite (figures 2 and 5), a surge of HC's loss and mHC 0.021 nats below the plain
#   residual. This lab cannot reach that far.
#
# Rewrite the headline in one honest sentence. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("mhc-stable", "mhc-time")

# %% [markdown] id="recap"
# ## What you take away (115 – 120 min)
#
# - Hyper-connections multiply: 24 maps that each amplify a little amplify a lot.
# - Norms hide it from the loss. Measure gains, forward *and* backward, the smallest
#   column sum too, and whether the lanes are still apart.
# - Doubly stochastic maps are closed under products. Sinkhorn-Knopp makes them, and
#   gradients pass through it.
# - What is scaled last is exact: rows, for the forward.
# - A stability claim needs a baseline. Against which one?
#
# **Limits.** A GPT of 24 branches and width 32, 150 steps, bytes of Python code. A
# float16 stream without loss scaling is harsher than what large trainings use
# (bfloat16, whose range is that of float32). Nothing here says how HC or mHC do
# at scale.
#
# **Diagnose.** What is wrong?
#
# 1. A port of mHC trains well, but forward gains drift to 1.3 over 60 layers, and
#    backward gains are exactly 1.
# 2. Somebody's HC shows no growth at all, at any depth. All lanes are equal.
#
# <details><summary>Answers</summary>
#
# 1. Rows are scaled first, or H_res is applied transposed: the exact side is the
#    wrong one.
# 2. The lanes are expanded and collapsed inside every block, so no map is ever
#    multiplied with another. Or all branches read all lanes alike, and nothing
#    tells the lanes apart.
#
# </details>
#
# **Further reading.** [mHC](https://arxiv.org/abs/2512.24880), the paper.
# [Hyper-Connections](https://arxiv.org/abs/2409.19606), what it repairs.
# [Sinkhorn and Knopp 1967](https://doi.org/10.2140/pjm.1967.21.343), why the
# iteration converges.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## 1.4 · Sinkhorn-Knopp backwards · 20 minutes · ●●●
#
# One normalisation is $m' = m\,s$ with $s = 1 / \sum m$, the sum over a column or a
# row. Let $g'$ be the gradient at $m'$. As $s$ depends on $m$,
#
# $$g = s\,\Big(g' - \sum g'\,m'\Big)$$
#
# with the sum over the same column or row. So the backward needs $m'$ and $s$ of
# every step. $m'$ need not be stored: $m = m' / s$ walks back from the result. At
# the beginning stands exp, whose derivative is itself.
#
# `scales` holds the $s$ of every step, first one first: columns, rows, columns, ...


# %% id="backward" tags=["nbval-ignore-output"]
@lab.exercise("1.4")
def sinkhorn_backward(gradient_nnM, res_nnM, scales):
    """The gradient at the logits."""
    ### BEGIN SOLUTION
    for number in reversed(range(len(scales))):
        axis, scale = number % 2, scales[number]
        inner = (gradient_nnM * res_nnM).sum(dim=axis, keepdim=True)
        gradient_nnM = scale * (gradient_nnM - inner)
        res_nnM = res_nnM / scale
    return gradient_nnM * res_nnM
    ### END SOLUTION


# %% id="backward-check" tags=["nbval-ignore-output"]
lab.check("1.4")
lab.hints("1.4")

# %% [markdown] id="backward-after"
# A trap for whoever tests such a thing: the entries of a doubly stochastic matrix
# sum to $n$ whatever the logits are. So the gradient of `res.sum()` is zero, and a
# backward that returns nothing but zeros passes. Multiply with random weights before
# you sum.

# %% id="backward-trap" tags=["nbval-check-output"]
logits_nnM = torch.randn(4, 4, 50, generator=generator).requires_grad_()
weights_nnM = torch.randn(4, 4, 50, generator=generator)
for name, weight in (("res.sum()", 1.0), ("random weights", weights_nnM)):
    value = (ours(logits_nnM) * weight).sum()
    (gradient_nnM,) = torch.autograd.grad(value, logits_nnM)
    print(f"{name:15} gradient is zero: {gradient_nnM.abs().max() < 1e-5}")

# %% [markdown] id="start-text"
# ## 1.5 · Begin as the plain residual · 12 minutes · ●●○
#
# A new part should not disturb a network before it has learned anything. Find
# biases with which mHC *is* the plain residual network at first, exactly.
#
# The key: all lanes start equal, as copies of the embedding. If rows of $H^{res}$
# sum to 1, equal lanes stay equal whatever else it is. So two things are left. Each
# branch has to read one whole lane in total, and to write with weight 1 to each.
#
# And a trap: if a branch reads all lanes alike, all of them get the same gradient
# for ever. So let each branch read one lane, `main`, more than the others.
#
# Return the biases in one vector: $n$ logits for the reads ($\sigma$), $n$ for the
# writes ($2\sigma$), $n^2$ for $H^{res}$, which should keep 99 % of every lane.


# %% id="start" tags=["nbval-ignore-output"]
@lab.exercise("1.5")
def first_bias(n, main):
    """Biases with which mHC begins as the plain residual network."""
    ### BEGIN SOLUTION
    read_n = torch.full((n,), 0.3 / (n - 1))
    read_n[main] = 0.7
    res_nn = -8.0 * (1 - torch.eye(n))
    return torch.cat([torch.logit(read_n), torch.zeros(n), res_nn.flatten()])
    ### END SOLUTION


# %% id="start-check" tags=["nbval-ignore-output"]
lab.check("1.5")
lab.hints("1.5")

# %% id="start-equal" tags=["nbval-check-output"]
torch.manual_seed(0)
plain = GPT(plan.config).double()
wide = GPT(plan.config, residual=residual_of("mhc")).double()
wide.load_state_dict(plain.state_dict(), strict=False)
tokens_BT, _ = batches("python", plan, seed=0)(0)
gap = (plain(tokens_BT) - wide(tokens_BT)).abs().max().item()
print(f"mHC equals the residual network at first, to 1e-12: {gap < 1e-12}")

# %% [markdown] id="pipe-text"
# ## Two ranks: the boundary carries n lanes · 10 minutes
#
# When a network is cut into stages that live on different machines, the stream is
# what crosses: forward, and its gradient backward. With $n$ lanes that is $n$ times
# as much. Below each rank has one half of the blocks, and one training step runs.
#
# The other price of lanes is memory: autograd keeps all of them, several times, for
# each branch. The way out is to keep the *first* stream of a block of layers and to
# compute the rest again in the backward. The first stream of a stage is the one
# that arrived, so this needs no further message.

# %% id="pipe" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --name pipe
import torch
import torch.distributed as dist

from labs.lab_01.pipeline import pipeline_step
from labsupport.nn import GPTConfig

dist.init_process_group()
config = GPTConfig(d_model=32, n_layers=8, n_heads=2, max_len=32)
tokens_BT = torch.arange(8 * 32).view(8, 32) % 256
for arm in ("residual", "mhc"):
    for recompute in (False, True):
        with count_traffic() as moved:
            step = pipeline_step(
                arm, config, tokens_BT, tokens_BT, dist, recompute
            )
        name = f"{arm}_{'again' if recompute else 'kept'}"
        share(name, [moved.ideal_sent, step.saved_bytes, step.loss])
        if dist.get_rank() == 0:
            print(f"{name:14} sent {moved.ideal_sent / 1e3:6.1f} kB", end="")
            print(f", kept {step.saved_bytes / 1e6:7.3f} MB")

# %% id="pipe-check" tags=["nbval-check-output"]
one, four = pipe[0].residual_kept, pipe[0].mhc_kept
again = pipe[0].mhc_again
print(f"bytes across the boundary: {four[0] / one[0]:.0f} times as many")
print(f"recomputing sends as many: {again[0] == four[0]}")
print(f"and keeps the first stream only: {again[1]} bytes")
same = abs(pipe[1].mhc_kept[2] - pipe[1].mhc_again[2]) < 1e-6
print(f"same loss: {same}")

# %% [markdown] id="kernel-text"
# ## 1.K · The kernel · 15 minutes · ●●○
#
# Sinkhorn of a $4 \times 4$ matrix is 40 divisions, each of which depends on the one
# before. In PyTorch every one of them reads and writes all matrices: 20 iterations
# move 8,960 bytes for a token. Only 128 have to move: 16 logits in and 16 numbers out.
# So a kernel loads a token's matrix into registers, does all of it there, and
# stores the result.
#
# How should the work be divided? A matrix of 16 numbers is far too small for a
# program. But there is one for every token, and with tokens last, neighbours in
# memory are neighbours in the batch. So a program takes BLOCK tokens, side by side on
# the last axis of a block of shape (N, N, BLOCK).
#
# Write the step from the columns to the rows. `p` has been loaded; `p` is what
# will be stored. `tl.sum(p, axis=0)` has one axis less than `p`: `[None, :, :]`
# puts it back. (The [Triton primer](primers/triton.ipynb) has all you need.)

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_01.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("1.K")
@jit
def sinkhorn_step(p_ptr, out_ptr, M, N: tl.constexpr, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    i = tl.arange(0, N)[:, None, None]
    j = tl.arange(0, N)[None, :, None]
    at = (i * N + j) * M + m  # entry (i, j) of token m
    ### BEGIN SOLUTION
    p = tl.load(p_ptr + at, mask=m < M, other=1.0)
    p = p / tl.sum(p, axis=0)[None, :, :]
    p = p / tl.sum(p, axis=1)[:, None, :]
    tl.store(out_ptr + at, p, mask=m < M)
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("1.K")
lab.hints("1.K")

# %% [markdown] id="kernel-map-text"
# Three programs for 37 tokens. A row of the map is one entry $(i, j)$ of all matrices,
# numbered $4 i + j$; a column is one token. Move the slider, and look where one
# program's tokens lie: 16 pieces, each of them in one stretch of memory.

# %% id="kernel-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    p_nnM = torch.rand(4, 4, 37) + 0.1
    out_nnM = torch.zeros(4, 4, 37)
    memory_map(sinkhorn_step, 3, p_nnM, out_nnM, 37, N=4, BLOCK=BLOCK).show()

# %% id="kernel-run" tags=["nbval-check-output"]
p_nnM = torch.rand(4, 4, 37, generator=generator) + 0.1
q_nnM = sinkhorn_step(p_nnM)  # launches the kernel in use
print(f"rows sum to one: {(q_nnM.sum(1) - 1).abs().max() < 1e-6}")

# %% [markdown] id="kernel-real"
# The course's own kernel, [kernels/sinkhorn.py](../kernels/sinkhorn.py), does all 20
# iterations and the backward, which walks through them again on the chip and moves
# 192 bytes a token. Beside it stand the three other steps of mHC:
# [mhc_project](../kernels/mhc_project.py), [mhc_pre](../kernels/mhc_pre.py) and
# [mhc_post](../kernels/mhc_post.py). On a GPU `ManifoldHyperConnection` runs them.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("sinkhorn", dtype="float32")

# %% [markdown] id="memory-text"
# ## How often to recompute · 8 minutes
#
# If autograd keeps the lanes of every layer, a network of $L$ layers keeps $nLC$
# numbers a token. Keep them every $L_r$ layers instead, and compute the rest again,
# block by block. While one block is in progress, its own intermediates are there, too
# (equation 20):
#
# $$n C \Big\lceil \frac{L}{L_r} \Big\rceil + (n + 2)\,C\,L_r, \qquad
# L_r^* \approx \sqrt{\frac{n L}{n + 2}}$$
#
# Try this:
# 1. 60 layers, 4 lanes. What is the best block size, and what does it save?
# 2. Is it worth recomputing with a single lane?
#
# <details><summary>Answers</summary>
#
# 1. Blocks of 6: 76 $C$ numbers a token instead of 240 $C$, 3.2 times less.
# 2. Blocks of 4: 27 $C$ instead of 60 $C$, 2.2 times less. It saves, too, but the more
#    lanes, the more there is to save.
#
# </details>

# %% id="memory" tags=["nbval-ignore-output"]
from labs.lab_01.recompute_explorer import recompute_explorer

recompute_explorer().show()

# %% [markdown] id="pitfall-text"
# ## Eleven ways to get it wrong · 10 minutes
#
# Each row damages a correct mHC in one way; nearly all of them have been in public
# code. Each column is a test. A cross says that the test noticed.
#
# Before you look: how many of the eleven does "the training loss falls" notice?

# %% id="pitfalls" tags=["nbval-check-output"]
from labs.lab_01.pitfall_bench import bench_text

print(bench_text())

# %% [markdown] id="pitfall-after"
# None. Two tests do most of the work, and both are more work to write than the
# others: an independent implementation of the paper's equations with a matrix that
# is not symmetric, and a gradient check with a random *cotangent* (the gradient
# at the output, which the backward starts from). The mistake that
# only a test of the whole network finds is the one that undoes everything: lanes
# that are made anew in every branch.

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
# # 05a · Hybrid parallelism: the model does not fit
#
# **In two hours you will meet a model that no process can hold, cut it in three ways by
# hand, train it on four processes with your own cuts, plan a cluster of thousands of
# GPUs, and hold five sentences of an article against measurements.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 10 | fill four processes with one model | what training holds, and where it breaks |
# | 10 – 16 | guess which remedy is enough | |
# | 16 – 38 | cut a layer over ranks | two sums, one on the way forward, one back |
# | 38 – 54 | cut the optimizer | ZeRO, in ten lines |
# | 54 – 72 | write a pipeline's schedule | who waits, and why |
# | 72 – 80 | train with your parts, on four processes | what did not fit, fits |
# | 80 – 98 | play: timelines, and clusters of 16,384 GPUs | published layouts, recomputed |
# | 98 – 114 | hold five sentences against the record | five verdicts |
# | 114 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: a backward in two halves, what ZeRO costs, a search
# for layouts, the same on PyTorch's own engine, a switch in the middle of a training.
# They stand at the end and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb) and on the primer
# [processes](primers/processes.ipynb): what a rank is, and what `all_reduce`,
# `reduce_scatter` and `all_gather` do.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the opening's torchrun cell

# %% id="setup" tags=["nbval-ignore-output"]
import torch
import torch.nn.functional as F

from labs.lab_05a import published
from labs.lab_05a import record_tables as record
from labs.lab_05a.adam import Adam
from labs.lab_05a.both_ways import both_ways
from labs.lab_05a.exercises_core import swiglu_group, swiglu_probes
from labs.lab_05a.live import train_on_axes
from labs.lab_05a.opening import CHOICES, LIVE_PLANS, Budget, fitting_answer
from labs.lab_05a.pictures import arrangements_view, cut_view, held_view
from labs.lab_05a.planner_explorer import planner_explorer
from labs.lab_05a.questions import QUESTIONS
from labs.lab_05a.schedule_explorer import own_view, schedule_explorer
from labsupport import Lab
from labsupport.exercise.practice import on_ranks
from labsupport.exercise.practice.counted import on_counted_ranks
from labsupport.explore import show_figure

lab = Lab("05a", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
chosen = lab.settings.scale
config = LIVE_PLANS[chosen].config
print(LIVE_PLANS[chosen])

# %% [markdown] id="problem"
# ## A model that does not fit (0 – 10 min)
#
# An article of July 2025 describes "hybrid parallel training": work moves between data
# and model parallelism by phase of the training, load is balanced, gradients are
# synchronised in an optimised way, parameters are shared, the batch adapts. For none of
# these it gives a number or a source. (The numbers that it does give, "1.6B matches
# 4.4B", come from another paper; they are the subject of lab 05b.) The methods exist,
# under these and other names. You will build three of them.
#
# They all begin with one problem. Training holds more than weights. Adam in float32
# keeps for each weight the weight itself, its gradient, and two running means. That is
# $4 + 4 + 8 = 16$ bytes, from step to step. A GPU of 80 GB is full at 5 billion weights.
#
# In **data parallelism** every rank holds all of that and computes other samples. More
# ranks make a step faster, and no rank's memory larger. Four ranks try it below. Each has
# an artificial **budget**: 60 % of what training needs. Whatever is to stay from one
# step to the next is counted against it. (Activations, the results in between that the
# backward needs, come and go. The budget leaves them out.)

# %% id="opening" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name opening --push chosen,seed
import torch.distributed as dist

from labs.lab_05a.opening import (
    LIVE_PLANS,
    Budget,
    budget_of,
    data_parallel_step,
)
from labsupport.errors import LabError

dist.init_process_group(backend())
budget = Budget(budget_of(LIVE_PLANS[chosen].config))
share("refused", "")
try:
    data_parallel_step(dist, chosen, seed, budget, device())
except LabError as refused:
    print(refused)
    share("refused", str(refused))
share("held", budget.held)
share("limit", budget.limit)

# %% id="opening-see" tags=["nbval-ignore-output"]
every = [opening[rank] for rank in range(world)]
limit, need = every[0].limit, round(every[0].limit / 0.6)
view = held_view([e.held for e in every], limit, need, "One step, four copies")
show_figure(view.figure, view.sentence)

# %% id="opening-check" tags=["nbval-check-output"]
print(f"refused on {sum(bool(e.refused) for e in every)} of {world} ranks")
print(f"there is room for {limit / need:.0%} of it on one rank,")
print(f"and for {world * limit / need:.0%} on all together")

# %% [markdown] id="opening-text"
# The weights fit, and so do the gradients. Then Adam, in its first update, asks for its
# two means. Real trainings can break there, too, in the first `optimizer.step()`: PyTorch's
# Adam makes its means no earlier.
#
# All four ranks hold the same. Together they have more than twice the room that is
# needed, and fill it with copies. So a rank has to hold *less than a copy*. What can be
# cut?
#
# ## Guess (10 – 16 min)
#
# Two remedies for four ranks, and both.
#
# - **Adam's means in four parts.** Every rank has all weights and all gradients, and
#   keeps the means for a quarter of the weights only.
# - **Feed-forward layers in four parts.** They hold about half of the model's weights.
#   Every rank has a quarter of each such layer, with its gradients and its means, and
#   all of the rest.
# - **Both, in two parts each.** Two ranks share the means, and two the feed-forward layers.

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "remedy",
    "Which brings a rank to 60 % of the 16 bytes a weight, or below?",
    CHOICES,
)

# %% id="reveal" tags=["nbval-ignore-output"]
answer, sentence = fitting_answer(config)
view = arrangements_view(config)
lab.reveal("remedy", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="reveal-after"
# *Why was I wrong?* Each remedy has something that it does not touch. Adam's means are 8
# of 16 bytes, so cutting them never brings a rank below half, and with four ranks to
# $8 + 8/4 = 10$ bytes, 62.5 %. Cutting feed-forward layers leaves the other half of the
# model whole. But the two touch *different* things, so their savings multiply. Four
# ranks as a grid of 2 × 2, one remedy along each side, hold the least. That is all that
# "hybrid" means: **several axes of ranks, and something else cut along each.**
#
# ## Three cuts (16 – 22 min)
#
# | axis | a rank holds | what has to be sent |
# |---|---|---|
# | **data** | all layers; other samples | gradients, once a step |
# | data with **ZeRO** | the same, but only a part of the optimizer (stage 1), of the gradients, too (2), of the weights, too (3) | gradients and weights, once a step or more |
# | **tensor** | a slice of every layer; the same samples | activations, several times a layer |
# | **pipeline** | some of the layers; samples pass by in pieces | activations, at each boundary; and ranks wait |
#
# We begin with the tensor axis. The feed-forward layer of the course's GPT is a SwiGLU
# ([Shazeer 2020](https://arxiv.org/abs/2002.05202)):
#
# $$y = \big(\mathrm{silu}(x\,G) \odot x\,U\big)\,V, \qquad
# \mathrm{silu}(z) = z\,\sigma(z)$$
#
# with $\odot$ for a product number by number, and $\sigma$ for the logistic function.
# A matrix product can be cut in two ways. By columns, each rank makes some of the result,
# *finished*. By rows, each rank makes a *part* of all of it (the indices are two ranks):
#
# $$x\,[U_1 \; U_2] = [x\,U_1 \;\; x\,U_2], \qquad
# [h_1 \; h_2] \begin{bmatrix} V_1 \\ V_2 \end{bmatrix} = h_1 V_1 + h_2 V_2$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $x$, $y$ | input and output of the layer | $N \times D$ | `x_ND` |
# | $G$, $U$ | gate and up | $D \times F$ | `gate_DH`, `up_DH`: a rank's columns |
# | $V$ | down | $F \times D$ | `down_HD`: a rank's rows |
# | $W$ | ranks of the axis | | `dist.get_world_size()` |
# | $H$ | hidden numbers of one rank, $F / W$ | | |
# | $N$ | tokens; $D$ is the model's width, $F$ the layer's | | |
#
# Megatron-LM ([Shoeybi et al. 2019](https://arxiv.org/abs/1909.08053), section 3) puts
# the two one after the other: columns first, then rows.

# %% id="idea" tags=["nbval-ignore-output"]
view = cut_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="swiglu-text"
# Why in this order? Each rank's columns give it finished hidden numbers, so it can apply
# silu and the product at once. The rows that follow need exactly these. One sum over
# ranks at the end, and the layer is done. With rows first, a message would have to come
# before silu.
#
# ## 5.1 · Columns, then rows · 15 minutes · ●●○
#
# Every rank calls your function with the same `x_ND` and its own slices. Return the
# layer's output, whole on every rank. There is a catch: PyTorch's autograd does not see
# collectives. Where you sum over ranks on the way forward, and what has to be summed on
# the way *back*, you have to say. For that there is
#
#     both_ways(x, forward, backward)
#
# It returns `forward(x)`. When the gradient of that arrives, `backward` is applied to it
# before it goes on. Both are functions of one tensor, of which they get a copy. They may
# change it in place (as `dist.all_reduce` does, which leaves in it the sum over ranks),
# and return a tensor of the same shape.
#
# After the backward every rank needs the gradients of its own slices, and the *whole*
# gradient of `x_ND`: the layers below are the same on all ranks and have to stay so. One
# message forward, one back. (`F.silu` is silu.)


# %% id="swiglu" tags=["nbval-ignore-output"]
@lab.exercise("5.1")
def swiglu_on_ranks(x_ND, gate_DH, up_DH, down_HD, dist):
    """A feed-forward layer whose hidden width is spread over ranks."""

    ### BEGIN SOLUTION
    def total(t):
        dist.all_reduce(t)
        return t

    def same(t):
        return t

    x_ND = both_ways(x_ND, forward=same, backward=total)
    hidden_NH = F.silu(x_ND @ gate_DH) * (x_ND @ up_DH)
    return both_ways(hidden_NH @ down_HD, forward=total, backward=same)
    ### END SOLUTION


# %% id="swiglu-check" tags=["nbval-ignore-output"]
lab.check("5.1")
lab.hints("5.1")

# %% id="swiglu-see" tags=["nbval-check-output"]
x_ND, dy_ND, weights, _ = swiglu_probes()[2]
whole, *_ = swiglu_group(swiglu_on_ranks, x_ND, dy_ND, weights, 1)
for W in (1, 2, 4, 8):
    y_WND, dx_WND, *_, sent = swiglu_group(
        swiglu_on_ranks, x_ND, dy_ND, weights, W
    )
    gap = (y_WND - whole).abs().max().item()
    held = sum(w.numel() for w in weights) // W
    print(f"{W} ranks, {held:2} weights each: ", end="")
    print(f"as one process {gap < 1e-5}, messages ", end="")
    print("{} forward, {} back".format(*sent.tolist()))

# %% [markdown] id="swiglu-after"
# Weights, gradients, Adam's means *and* the work are divided by $W$. What it costs is
# messages: $N \times D$ numbers on the way forward, as many on the way back. Attention is
# cut in the same way, by heads, so a block of a transformer sums twice forward and twice
# back, and each time computing waits. That is why the tensor axis stays inside a machine,
# where links are fastest.
#
# The sum on the way back is the one that is forgotten. Without it the loss looks right, the
# layer's own gradients are right, and all layers *below* learn from a part of their
# gradient.
#
# ## The optimizer in parts (38 – 54 min)
#
# Along the data axis every rank has all weights $w$, and a gradient $g_i$ of its own
# samples. Usually all of them then do the same: average the gradients, and update all
# weights, with the same Adam and the same means. That is $W$ times the same work and $W$
# times the same memory. **ZeRO** ([Rajbhandari et al.
# 2020](https://arxiv.org/abs/1910.02054)), the *zero redundancy optimizer*, has each rank
# do it for a part:
#
# $$\bar g^{(r)} = \frac{1}{W} \sum_i g_i^{(r)}, \qquad
# w^{(r)} \leftarrow \mathrm{Adam}^{(r)}\big(w^{(r)}, \bar g^{(r)}\big), \qquad
# w = [w^{(0)} \; w^{(1)} \cdots w^{(W-1)}]$$
#
# where $r$ is a rank and $w^{(r)}$ its part of the weights. The first is what
# `reduce_scatter` does, up to the division; the last is an `all_gather`. An `all_reduce`
# is one after the other, so ZeRO-1 sends as much as plain data parallelism.
#
# ## 5.2 · ZeRO-1 by hand · 15 minutes · ●●○
#
# All weights are one vector `weights_P` of $P$ numbers, the same on all ranks;
# `gradient_P` is this rank's own. `update(part, gradient)` returns the part's new weights.
# It is Adam, and it keeps means for as many numbers as it is given. Return all new
# weights.
#
# The parts have to be equally long, $S = P / W$ rounded *up*: fill up weights and gradient
# with zeros at the end, and cut them off again. `dist.reduce_scatter_single(out_S, in_SW)` and
# `dist.all_gather_single(out_SW, in_S)` write into their first argument, which you make.
# `F.pad(t, (0, n))` is `t` with `n` zeros behind.


# %% id="zero" tags=["nbval-ignore-output"]
@lab.exercise("5.2")
def zero_step(weights_P, gradient_P, update, dist):
    """A step in which each rank updates its own part of the weights."""
    ### BEGIN SOLUTION
    W, rank, P = dist.get_world_size(), dist.get_rank(), len(weights_P)
    S = -(-P // W)
    padding = (0, S * W - P)
    mine_S = gradient_P.new_empty(S)
    dist.reduce_scatter_single(mine_S, F.pad(gradient_P, padding))
    part_S = F.pad(weights_P, padding).view(W, S)[rank]
    whole = weights_P.new_empty(S * W)
    dist.all_gather_single(whole, update(part_S, mine_S / W))
    return whole[:P]
    ### END SOLUTION


# %% id="zero-check" tags=["nbval-ignore-output"]
lab.check("5.2")
lab.hints("5.2")

# %% id="zero-see" tags=["nbval-check-output"]
P, gradient_WP = 10, torch.linspace(-1, 1, 40).view(4, 10)
for W in (1, 2, 4):
    adams = [Adam(0.1) for _ in range(W)]
    new_WP, calls = on_counted_ranks(
        zero_step, torch.ones(W, P), gradient_WP[:W], adams
    )
    same = all(torch.equal(new_P, new_WP[0]) for new_P in new_WP)
    print(f"{W} ranks: Adam keeps {adams[0].bytes} bytes on each; ", end="")
    print(f"all have the same weights: {same}; {len(calls)} messages")

# %% [markdown] id="zero-after"
# One thing that the check does not let pass, and Adam would: a factor. Adam divides the
# mean of gradients by the root of the mean of their squares, so gradients that are $W$
# times too large change next to nothing. (The check uses an Adam with a large `eps`, where
# it shows.) Whoever tests distributed code with Adam alone tests little.
#
# Stages 2 and 3 go further: gradients are kept in parts as well, and weights, which are
# gathered right before a layer needs them and dropped after. PyTorch's **FSDP** is stage
# 3.
#
# ## The pipeline (54 – 72 min)
#
# The third cut goes between layers. **Stage** $s$ of $S$ has some of them, on a rank of its
# own, and hands its activations on. (From here on $S$ counts stages, and F and B are things
# to compute. ZeRO's stages are something else.) But then only one stage works at a time: the second
# waits for the first, and on the way back the first for the second. So the batch is cut,
# too, into $M$ **microbatches** that follow one another.
#
# On a stage a microbatch is **in flight** from its forward, F, to its backward, B, and
# for so long the stage holds its activations. GPipe ([Huang et al.
# 2018](https://arxiv.org/abs/1811.06965)) sends all $M$ forward, then all back: $M$ are in
# flight. **1F1B**, one forward, one backward ([Narayanan et al.
# 2021](https://arxiv.org/abs/2104.04473), section 2.2), does a backward as soon as it can.
# The last stage does a backward at once: F0 B0 F1 B1 ... The stage before it is one step
# further from the loss, so it lets one more forward go ahead: F0 F1 B0 F2 B1 ... And so on
# up to the first stage, which has $S$ in flight, however large $M$ is.
#
# ## 5.3 · One forward, one backward · 15 minutes · ●●○
#
# Return two things. First, what stage `s` does, in order, as a list of pairs such as
# `("F", 0)` or `("B", 0)`: some forwards that go ahead; then a forward and a backward in
# turn; then the backwards that are left. A stage may have no more than $S - s$ microbatches
# in flight, and the whole may take no longer than GPipe.
#
# Second, the share of its time that a stage waits, its **bubble**. A stage computes $M$
# forwards and $M$ backwards. It waits as long as one microbatch takes through the other
# $S - 1$ stages, there and back. All stages take the same F, and the same B, for each
# microbatch.
#
# With fewer microbatches than stages the last stage would have nothing to do while the
# first ones still let forwards go ahead: raise a `ValueError`.


# %% id="schedule" tags=["nbval-ignore-output"]
@lab.exercise("5.3")
def one_f_one_b(s, S, M):
    """What stage s of S does with M microbatches, and its bubble."""
    ### BEGIN SOLUTION
    if M < S:
        raise ValueError(f"{M} microbatches for {S} stages: use at least {S}")
    ahead = S - 1 - s
    actions = [("F", i) for i in range(ahead)]
    for i in range(M - ahead):
        actions += [("F", ahead + i), ("B", i)]
    actions += [("B", i) for i in range(M - ahead, M)]
    return actions, (S - 1) / (M + S - 1)
    ### END SOLUTION


# %% id="schedule-check" tags=["nbval-ignore-output"]
lab.check("5.3")
lab.hints("5.3")

# %% id="schedule-see" tags=["nbval-ignore-output"]
view = own_view(one_f_one_b, 4, 8)
show_figure(view.figure, view.sentence)

# %% id="schedule-shares" tags=["nbval-check-output"]
print("share of waiting; rows: stages, columns: microbatches")
counts = (8, 16, 32, 64)
print(f"{'':4}" + "".join(f"{M:>8}" for M in counts))
for S in (2, 4, 8):
    shares = [one_f_one_b(0, S, M)[1] for M in counts]
    print(f"{S:<4}" + "".join(f"{share:>8.1%}" for share in shares))

# %% [markdown] id="schedule-after"
# $$\text{bubble} = \frac{(S-1)(F+B)}{M (F+B) + (S-1)(F+B)} = \frac{S-1}{M+S-1}$$
#
# Twice the stages need a little more than twice the microbatches for the same share. Only little is sent: one
# activation at each boundary. So a pipeline is what connects machines whose links are
# slow, if there are enough microbatches.
#
# ## Train with your parts (72 – 80 min)
#
# Back to the model that did not fit. Four ranks form a grid: along the tensor axis your
# `swiglu_on_ranks` cuts the feed-forward layers in two, along the data axis your
# `zero_step` cuts Adam. The budget is the one from the beginning.

# %% id="live" tags=["nbval-ignore-output"]
# %%torchrun --nproc 4 --name live --push swiglu_on_ranks,zero_step,chosen,seed
import torch
import torch.distributed as dist

from labs.lab_05a.live import train_on_axes, two_axes

torch.set_num_threads(1)
dist.init_process_group(backend())
data, tensor = two_axes(dist, 2, 2, device().type)
course = train_on_axes(
    data,
    tensor,
    chosen,
    seed,
    swiglu=swiglu_on_ranks,
    step=zero_step,
    device=device(),
    watch=log if dist.get_rank() == 0 else None,
)
share("course", vars(course))
if dist.get_rank() == 0:
    print(f"loss {course.loss[0]:.3f}, at the end {course.loss[-1]:.3f}")

# %% id="live-see" tags=["nbval-ignore-output"]
courses = [live[rank].course for rank in range(4)]
view = held_view([c["held"] for c in courses], limit, need, "A grid of 2 x 2")
show_figure(view.figure, view.sentence)

# %% [markdown] id="same-text"
# It fits. Is it still the same training? One process, with all the room it wants:

# %% id="same" tags=["nbval-check-output"]
alone = on_ranks(
    lambda seed, dist: train_on_axes(
        dist,
        dist,
        chosen,
        seed,
        budget=Budget(10**12),
        device=lab.settings.device,
    ),
    [seed],
)[0]
gap = max(
    abs(a - b) for a, b in zip(alone.loss, courses[0]["loss"], strict=True)
)
fits = all(sum(c["held"].values()) <= c["limit"] for c in courses)
print(f"every rank within its budget: {fits}")
print(f"losses of one process to 1e-3: {gap < 1e-3}")

# %% [markdown] id="same-after"
# The same losses, step by step. **Parallelism changes where a sum is made, not its
# value.** (Sums in another order differ in the last bits.) Keep that in mind when a
# headline says that a way of *distributing* a training made a small model as good as a
# large one: it cannot.
#
# ## Play (80 – 98 min)
#
# **Timelines.** Simulated, with F = 1 and B = 2. A backward has two halves: I makes the
# gradient of the stage's *input*, for which the stage before waits; W makes that of its
# weights, for which nobody waits. *Interleaved* gives each device two stages of half the
# layers. *Zero bubble* puts W where a device would wait. *DualPipe* feeds microbatches in
# at both ends, and *DualPipeV* folds that in half. Open the table for all side by side.
#
# Try this:
# 1. 1F1B on 4 devices. How does the waiting fall with 4, 8, 16, 32 microbatches?
# 2. GPipe and 1F1B with 32 microbatches. They take equally long. What differs?
# 3. 4 devices, 8 microbatches. Who waits least, and what does it cost?
# 4. DualPipe with 4 devices and 4 microbatches. Why not?
#
# <details><summary>Answers</summary>
#
# 1. 43 %, 27 %, 16 %, 9 %: 3/7, 3/11, 3/19, 3/35.
# 2. The fullest device of GPipe holds 32 microbatches, that of 1F1B 4.
# 3. DualPipe, 8 %. Each device holds two stages, so the weights exist twice, and one
#    microbatch more than with 1F1B is in flight.
# 4. It is fed from both ends and needs at least twice as many microbatches as devices.
#
# </details>

# %% id="timelines" tags=["nbval-ignore-output"]
schedule_explorer().show()

# %% [markdown] id="planner-play"
# **Clusters.** A planner: it counts bytes and operations of every legal layout and
# divides by speeds. **It is a model; nothing in it is measured.** A GPU here is an H100 (989
# · 10¹² operations a second, half of which are reached; 450 GB/s within a machine of 8, 50
# GB/s between) with the memory of your choice. A step has 16 million tokens. A point is the
# best layout with certain axes; grey ones do not fit. The table has the fastest, with what
# a GPU sends along each axis. *1 a microbatch* is the number of samples; with *recompute*
# activations are computed twice rather than kept. Gradients are float32 here, so a weight
# needs 18 bytes.
#
# Try this:
# 1. 8 billion weights, 8 GPUs, 80 GiB. Which axes does the fastest layout use? And with
#    40 GiB?
# 2. 405 billion. How many GPUs of 80 GiB does it take before any layout fits?
# 3. 405 billion on 16,384 GPUs of 80 GiB. Compare with what Llama 3 used there: tensor 8,
#    pipeline 16, data 128.
# 4. 671 billion with experts, 2,048 GPUs. Which axis is large that the other models do
#    not have?
#
# <details><summary>Answers</summary>
#
# 1. Data alone, 8 ranks with ZeRO-3, whose messages hide behind computing; others are as
#    fast to a thousandth. In 40 GiB
#    there is no room for one sample's activations beside the rest, so it cuts along
#    tensor and pipeline as well, 2 × 2 × 2.
# 2. 512 (of the numbers offered). On 64 the smallest layout needs 120 GB a GPU.
# 3. They are the same axes, though others are as fast to a few thousandths. And the planner
#    is too gloomy: it expects 31 % of bubble and 30 % of the peak, where Llama 3 reached 40 %.
# 4. The expert axis: other experts on other GPUs. It leaves the tensor axis little to do,
#    because experts are small already.
#
# </details>

# %% id="planner" tags=["nbval-ignore-output"]
planner_explorer().show()

# %% [markdown] id="v3-text"
# **Is the planner any good?** DeepSeek-V3's report
# ([2412.19437](https://arxiv.org/abs/2412.19437)) names its layout: a pipeline of 16 with
# DualPipe, experts over 64 GPUs in 8 machines, ZeRO-1 for the rest, no tensor axis; 2,048
# H800. A later paper ([2505.09343](https://arxiv.org/abs/2505.09343), table 4) gives a
# step's time and its bubble. We put in the shape and the layout, and count.

# %% id="v3" tags=["nbval-check-output"]
print("\n".join(published.v3_lines()))

# %% [markdown] id="v3-after"
# *Reached* is the share of the GPU's peak that matrix products reach, the one fitted number.
# A causal mask leaves half of attention; both counts are published. What is counted agrees
# to about a percent: weights, operations, the time of a step. What is
# *planned* is a model with one fitted number, and shows it: the real bubble is more than
# twice the planned one, as real stages are not equally long. Two things the table says
# well. The layout fits without a tensor axis, with 6 GB to spare. And the same layout
# with 1F1B would wait for its experts' messages a fifth of the step: DualPipe was made to hide
# them.
#
# ## Do the claims hold? (98 – 114 min)
#
# Five sentences of the article. It gives numbers for none, so each rule, written before
# the runs, says what we take the sentence to mean. All runs are on two CPU cores, with
# PyTorch's own engine (DDP, FSDP, DTensor, pipelining), three seeds each; those of the last
# two sentences have five.
#
# **First: is it one training?** A GPT of 1.9 million weights in every layout of four
# ranks. *Replicate* are copies, *shard* is FSDP; what is kept gathered is not gathered
# again for the backward. *MB held*: weights, gradients and Adam's means on the fullest rank,
# counted, and by formula. *MB sent*: of one rank in a forward and a backward, counted as
# the textbook's algorithms send it, and by formula. *Left*: what really went through the
# rank's sockets. *ms a step*: the median over seeds, and in brackets the lowest and the
# highest. *1F1B of 4* has four microbatches. The last three train a mixture of experts,
# another model, whose messages no formula knows beforehand.

# %% id="layouts-record" tags=["nbval-check-output"]
print("\n".join(record.layout_lines()))
print(record.same_loss_words())

# %% [markdown] id="layouts-after"
# All thirteen compute the same. What differs is what a rank holds and sends, and for that
# counted and calculated agree to the last digit shown. Where *left* exceeds *sent*, gloo's
# reduce-scatter is at work: it sends twice what a ring would.
#
# The quickest are those that send least often: copies, which hold most, and the pipeline of
# four. A cut along the tensor axis is slowest, though it sends no more bytes than others. It
# sends often, and each time all wait. The links here are as fast as memory.
#
# **Can one know which is fastest?** A model of a step's time was fitted to the same ranks:
# how long one row and many rows take, how long messages of several sizes take. Then all
# layouts were run. In the order in which the model likes them (*place* is that of the
# measured time), medians of three seeds:

# %% id="search-record" tags=["nbval-check-output"]
print("\n".join(record.search_lines()))
print()
print("\n".join(record.order_lines()))
print()
print("\n".join(record.count_lines()))

# %% id="search-view" tags=["nbval-ignore-output"]
view = record.predict_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="switch-text"
# *Order* is Spearman's correlation of predicted and measured places: 1 is the same order,
# 0 is none in common. The last column: run the three that the model likes best, keep the
# fastest of them; how much slower is it than the fastest of all?
#
# **The choice is good, the model is not.** It likes copies best, and nothing is more than
# 2 % faster. Beyond that it knows next to nothing of the order. It counts sums and bytes.
# Most layouts take two to four times as long as that. What it leaves out is all that PyTorch
# does around each message, and that four ranks share two cores.
#
# A plain rule does better: the fewer calls a rank makes, the faster. The last two lines
# compare the order of calls with both sets of times. The rule was found afterwards, in the
# first record; the second confirms it, less closely. It holds here, where links are as
# fast as memory. A planner that has not been held against runs is an opinion. The same is
# true of the one above.
#
# **hyb-switch: "Work moves between data and model parallelism, depending on the phase of
# training."** That could pay where the work changes. So here sequences grow, from 32 to
# 128 bytes, after half of the steps. What does a rank send in a step? Four *copies* send
# their gradients, 5.9 MB, whatever the sequences. A model *cut* along a tensor axis of
# four sends activations: 2.4 MB while sequences are short, 9.4 MB when they are long. So a
# training might begin cut and go on as copies. (A grid of 2 × 2 sends 3.0 MB, then 5.3: in
# all as much as that switch, without one. It is in the table; the rule compares with copies
# alone.)
#
# The links have 200 Mbit/s, where bytes count; a *free* link is not slowed. *Before* and
# *after* are steps with short and with long sequences, *all* is the whole training. The
# switch goes through a checkpoint with Adam's means, and its time is charged. *Loss gap* is
# the largest difference to copies all along, over all steps and seeds.

# %% id="switch-record" tags=["nbval-check-output"]
for link in record.LINKS:
    print("\n".join(record.switch_lines(link)))
    print()

# %% id="switch-view" tags=["nbval-ignore-output"]
view = record.switch_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="sync-text"
# The loss goes on as if nothing had happened: to a millionth. **The switch works, and here
# it does not pay.** How long would the first phase have to be?

# %% id="switch-pays" tags=["nbval-check-output"]
print(record.break_even_words())
print(record.break_even_words("unshaped"))

# %% [markdown] id="switch-after"
# The bytes were right: on the slow link the cut model is faster while sequences are short,
# and copies are when they are long. But it gains an eighth of a step, and the move takes as
# long as five steps. Whoever switches by phase needs phases that differ by more, or last
# longer. And on a free link there is nothing to gain.
#
# **hyb-sync: "Gradients are synchronised in an optimised way."** Two copies, and five ways
# to sum the same gradients. In the last two the rows are computed in four pieces; DDP sums
# after each, or, told to wait (`no_sync`), after the last. Timed are backward and sums, the
# update is left out.

# %% id="sync-record" tags=["nbval-check-output"]
print("\n".join(record.sync_lines()))

# %% [markdown] id="share-text"
# Buckets save nearly a fifth of a step against a message for each gradient, and an eighth against
# one message for all: that eighth is overlap. On the free link there is nothing to hide,
# and what counts is the number of messages. The dearest line is a mistake that is easily
# made: sums after each of four pieces, where one would do, take three times as long.
#
# **hyb-share: "Parameters are shared in a way that saves memory."** The word has two
# meanings. *Shared out*: each rank keeps a part (FSDP's shards), and the model stays as it
# is. *Shared*: embedding and output layer are one and the same matrix ("tied"), which makes
# another model. Two ranks, a GPT of 0.13 million weights; each row at the learning rate
# (*rate*), of three, that suits it best. The last column: the mean difference in loss to the
# first row with the same seed, and its 95 % interval.

# %% id="share-record" tags=["nbval-check-output"]
print("\n".join(record.share_lines()))

# %% [markdown] id="balance-text"
# Shared out over two ranks, the model is what it was, and each rank holds half; it sends
# half as much again. Shared, the matrix saves 13 %, and the loss is 0.2 nats higher: the
# rule asks for bytes alone, and a reader should ask for more.
#
# **hyb-balance: "Load is balanced dynamically across nodes"**, and **hyb-batch: "The batch
# size adapts to the resources at hand."** Both were built in
# [lab 04b](04b_landscape_and_resources.ipynb), and are run again with seeds that it has not
# seen. There are two ranks, of which one computes each of its gradients three times.
# *Balanced* batches follow the times of the latest steps. *By turns* is new: after two
# thirds of the steps the other rank becomes the slow one. *Waiting* is the mean share of a
# step in which a rank waits for the other, over the later two thirds of the steps.
#
# Below that, three rules for the batch, at three learning rates each. All read the same
# number of sequences. *Large* is eight times *small*; the third follows the gradient's
# noise. *Steps* are updates.

# %% id="balance-record" tags=["nbval-check-output"]
print("\n".join(record.balance_lines()))
print()
print("\n".join(record.batch_lines()))

# %% [markdown] id="balance-after"
# Balanced, the waiting falls from a third of a step to a fourteenth, and the step to 55 %.
# When the slow rank changes, batches follow. Ranks then wait for 14 % of a step, twice as
# long as without turns: each change has to be measured before batches can answer it.
#
# A batch that follows the noise ends far below the large one. But the small one ends lowest,
# at every rate, for the same number of sequences. What the batch's growth buys is steps, less
# than half as many, and it pays for them in loss. Whether that is a bargain depends on what
# a step costs.

# %% id="origins" tags=["nbval-ignore-output"]
for name in record.EXPERIMENTS:
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdicts-text"
# The verdicts follow from rules in `data/claims/`, written before the runs. *Source* is
# what the published relatives promise. *Could have seen* is half the width of the 95 %
# interval over seeds.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Switching works, to a millionth of the loss, and did not pay**: the move costs more than
#   24 short steps gain. Whether it pays depends on how much the work changes and how long
#   phases are. HotSPa ([SOSP
#   2024](https://doi.org/10.1145/3694715.3695969)) reports gains where sequences of very
#   different lengths mix. No large published training is known to switch by phase.
# - **Synchronisation is the sentence that holds best**, and an old one: PyTorch's DDP does
#   it by itself ([Li et al. 2020](https://arxiv.org/abs/2006.15704)).
# - **Parameters shared out are the same model in less memory; shared ones are another model**,
#   and here a worse one.
# - **A batch that adapts saves steps, not loss.** The large batch that it beats is one that
#   nobody should have taken.
# - **Two cores are not a cluster.** Four ranks share them, so a step's time here tells
#   who sends more and who waits, not what a GPU would do. Bytes, losses and memory carry
#   over; seconds do not.
#
# Rewrite one of the five sentences honestly. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs(*record.CLAIMS)

# %% [markdown] id="recap"
# ## What you take away (114 – 120 min)
#
# - Training with Adam in float32 holds 16 bytes a weight; activations come on top.
# - Tensor: columns, then rows; one sum forward, one back. Pipeline: little to send, and
#   $(S-1)/(M+S-1)$ of the time to wait. ZeRO: what all would do alike, each does in part.
# - Axes multiply. What one does not touch, another one cuts.
# - Where a sum is made does not change its value. Check it: loss *and* gradients against
#   one process, and not with Adam alone.
#
# **Limits.** Four ranks, two cores, models of 0.1 to 2 million weights. The planner knows nothing of
# kernels, of jitter, of what fails. Context parallelism, which cuts one long sequence over
# ranks, is not here.
#
# **Diagnose.** What is wrong?
#
# 1. A team cuts its feed-forward layers over 8 ranks. The loss of the first step is the
#    same as before. After 100 steps embeddings differ from rank to rank.
# 2. A pipeline of 16 stages waits half of the time. The team adds stages until every
#    rank's memory is half empty, and it waits more.
#
# <details><summary>Answers</summary>
#
# 1. The input's gradient is not summed on the way back: each rank's lower layers learn
#    from its own slice alone, and so drift apart.
# 2. $(S-1)/(M+S-1)$ grows with $S$. Fewer stages and more microbatches would help; there
#    is memory for them.
#
# </details>
#
# **Further reading.** [Megatron-LM](https://arxiv.org/abs/1909.08053);
# [ZeRO](https://arxiv.org/abs/1910.02054);
# [three axes on 3,072 GPUs](https://arxiv.org/abs/2104.04473);
# [zero bubble](https://arxiv.org/abs/2401.10241);
# [DeepSeek-V3](https://arxiv.org/abs/2412.19437), section 3;
# [Llama 3](https://arxiv.org/abs/2407.21783), section 3.3.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## 5.4 · A backward in two halves · 12 minutes · ●●○
#
# The gradient of a stage's weights, W, can wait; that of its input, I, cannot. The zero
# bubble schedule ZB-H1 ([Qi et al. 2024](https://arxiv.org/abs/2401.10241)) uses that. The
# last stage of 1F1B has one microbatch in flight and the first has $S$: so the last one
# has memory to spare, and at the end it waits. It may put W off.
#
# As in 5.3, with I in the place of B. **Stage $s$ puts its W off by $s$ microbatches:**
# right after I of microbatch $i$ comes W of microbatch $i - s$, if there is one. The W's that
# are left come at the end. Return the list of pairs, with "F", "I" and "W".


# %% id="halves" tags=["nbval-ignore-output"]
@lab.exercise("5.4")
def zero_bubble(s, S, M):
    """What stage s does when W is put off by s microbatches."""
    ### BEGIN SOLUTION
    ahead = S - 1 - s
    actions = [("F", i) for i in range(ahead)]
    for i in range(M):
        if ahead + i < M:
            actions.append(("F", ahead + i))
        actions.append(("I", i))
        if i >= s:
            actions.append(("W", i - s))
    return actions + [("W", i) for i in range(M - s, M)]
    ### END SOLUTION


# %% id="halves-check" tags=["nbval-ignore-output"]
lab.check("5.4")
lab.hints("5.4")

# %% id="halves-see" tags=["nbval-ignore-output"]
view = own_view(lambda s, S, M: (zero_bubble(s, S, M), 0.0), 4, 8)
show_figure(view.figure, view.sentence)

# %% id="halves-table" tags=["nbval-check-output"]
from labs.lab_05a.schedule_explorer import comparison_lines

print("\n".join(comparison_lines(8, 16)))

# %% [markdown] id="halves-after"
# The time that a stage waits falls from $(S-1)(F+I+W)$ to $(S-1)(F+I-W)$: W fills a part of it, and a part
# of it is no longer needed. DualPipe goes further, with two copies of the weights; with
# experts spread over many ranks a copy of a stage is small.
#
# ## 5.5 · What ZeRO holds and sends · 8 minutes · ●○○
#
# In mixed precision a weight has 2 bytes and its gradient 2. Adam keeps 12: the weight
# once more in float32, and two means. Here $N$ is the number of ranks. Stage 1 cuts Adam's
# part over them, stage
# 2 the gradients as well, stage 3 the weights, too. Return what a rank holds, in bytes,
# and how many *numbers* it sends in a step. A reduce-scatter or an all-gather of $P$
# numbers sends $P (N-1)/N$ by a ring; stages 0 to 2 need one of each, stage 3 gathers the
# weights once more, for the backward.


# %% id="costs" tags=["nbval-ignore-output"]
@lab.exercise("5.5")
def zero_costs(P, N, stage):
    """Bytes that a rank holds, and numbers that it sends in a step."""
    ### BEGIN SOLUTION
    held = 0.0
    for each, cut_from in ((12, 1), (2, 2), (2, 3)):
        held += each * P / (N if stage >= cut_from else 1)
    passes = 3 if stage == 3 else 2
    return held, passes * P * (N - 1) / N
    ### END SOLUTION


# %% id="costs-check" tags=["nbval-ignore-output"]
lab.check("5.5")
lab.hints("5.5")

# %% id="costs-see" tags=["nbval-check-output"]
print("7.5 billion weights: GB a rank, and GB sent with 2 bytes a number")
for N in (1, 8, 64):
    costs = [zero_costs(7_500_000_000, N, stage) for stage in range(4)]
    words = [f"{b / 1e9:6.1f}, {2 * n / 1e9:4.1f}" for b, n in costs]
    print(f"{N:3} ranks   " + "   ".join(words))

# %% [markdown] id="layouts-text"
# ## 5.6 · Which layouts fit · 10 minutes · ●○○
#
# A layout is a triple (data, tensor, pipeline) whose product is the number of ranks $N$.
# The tensor axis has to divide the heads, the pipeline axis the layers.
# `memory(data, tensor, pipeline)` says how many bytes a rank would hold; at most `limit`
# are allowed. Return all that are left, in ascending order.


# %% id="layouts" tags=["nbval-ignore-output"]
@lab.exercise("5.6")
def fitting_layouts(N, heads, layers, memory, limit):
    """All legal (data, tensor, pipeline) that fit."""
    ### BEGIN SOLUTION
    found = []
    for data in range(1, N + 1):
        for tensor in range(1, N // data + 1):
            pipeline, left = divmod(N, data * tensor)
            if left or heads % tensor or layers % pipeline:
                continue
            if memory(data, tensor, pipeline) <= limit:
                found.append((data, tensor, pipeline))
    return found
    ### END SOLUTION


# %% id="layouts-check" tags=["nbval-ignore-output"]
lab.check("5.6")
lab.hints("5.6")


# %% id="layouts-see" tags=["nbval-check-output"]
def held(data, tensor, pipeline):
    """8 billion weights, ZeRO-1; nothing for activations."""
    own = 8e9 / (tensor * pipeline)
    return 4 * own + 12 * own / data


for limit_gb in (80, 40, 24):
    found = fitting_layouts(8, 32, 32, held, limit_gb * 1e9)
    print(f"{limit_gb} GB: {len(found)} of 10 layouts; ", end="")
    print(f"most data ranks: {found[-1]}")

# %% [markdown] id="llama-text"
# ## The planner, checked once more · 5 minutes
#
# For DeepSeek-V3 one number was fitted to what was then compared. Here nothing is fitted
# to what is foretold. Llama 3
# ([2407.21783](https://arxiv.org/abs/2407.21783), table 4) doubled its GPUs for the same
# batch, so half as many microbatches pass each pipeline. `reached` is fitted to the first
# row; how much utilisation is lost in the second? That depends on how many stages a GPU
# has, which the paper does not say.

# %% id="llama" tags=["nbval-check-output"]
print("\n".join(published.llama_lines()))

# %% [markdown] id="llama-after"
# From 430 to 400 · 10¹² operations a second are 3 points of the peak. The planner says 5.5,
# 3.8 or 2.5 for 2, 4 or 8 stages a GPU. (With 2 stages it would have to reach 97 % of the
# peak, which nobody does.) **A bubble alone can explain the loss.**

# %% [markdown] id="torch-text"
# ## The same by PyTorch's own functions · 12 minutes
#
# Nobody trains with the functions of 5.1 to 5.3. PyTorch has the same cuts. A **device
# mesh** is the grid of ranks, with a name for each axis. `parallelize_module` cuts layers
# along one of them: `ColwiseParallel` is your columns, `RowwiseParallel` your rows.
# `fully_shard` is FSDP: ZeRO-3 along another. Both leave weights as `DTensor`s, which know
# the whole of which they hold a part.
#
# The model of the opening on 2 × 2 ranks, one backward. (A warning is kept quiet:
# `full_tensor` gathers in two steps, and only the comparison needs it.)

# %% id="torch-cut" tags=["nbval-ignore-output"]
import logging

from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import parallel as tp


def cut(model, mesh):
    """Feed-forward layers along one axis, everything along the other."""
    column, row = tp.ColwiseParallel(), tp.RowwiseParallel()
    plan = {"gate": column, "up": column, "down": row}
    for block in model.blocks:
        tp.parallelize_module(block.ffn, mesh["tensor"], plan)
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])


def largest_gap(model, alone):
    """Of the gradients of two models with the same weights."""
    logging.getLogger("torch.distributed.tensor").setLevel(logging.ERROR)
    pairs = zip(model.parameters(), alone.parameters(), strict=True)
    gaps = [(p.grad.full_tensor() - q.grad).abs().max() for p, q in pairs]
    return max(gaps).item()


# %% id="torch" tags=["nbval-ignore-output"]
# %%torchrun --nproc 4 --name grid --push cut,largest_gap,chosen,seed
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh

from labs.lab_05a.opening import first_batch, fresh_model

dist.init_process_group(backend())
names = ("data", "tensor")
mesh = init_device_mesh(device().type, (2, 2), mesh_dim_names=names)
model, alone = (fresh_model(chosen, seed, device()) for _ in range(2))
cut(model, mesh)
tokens, targets = first_batch(chosen, seed, device())
d = mesh.get_local_rank("data")
with count_traffic() as moved:
    logits = model(tokens.chunk(2)[d]).flatten(0, 1)
    F.cross_entropy(logits, targets.chunk(2)[d].flatten()).backward()
alone.loss(tokens, targets).backward()
share("gap", largest_gap(model, alone))
share("held", sum(p.to_local().numel() for p in model.parameters()))
kinds = ("all_reduce", "all_gather_single", "reduce_scatter_single")
share("calls", {kind: moved[kind].calls for kind in kinds})

# %% id="torch-check" tags=["nbval-check-output"]
layers, every = config.n_layers, [grid[rank] for rank in range(4)]
print(f"gradients of one process: {max(e.gap for e in every) < 1e-5}")
calls = every[0].calls
print(f"all_reduces a layer: {calls['all_reduce'] / layers:g}")
gathers = calls["all_gather_single"] - 1
print(f"blocks gathered, forward and back: {gathers / layers:g} times")

# %% [markdown] id="torch-after"
# Three all_reduces a layer, where yours has two. On the way back `gate` and `up` each sum
# their gradient of the input, and then the two are added. (5.1 refuses that: one message
# back.) Whoever turns the layer's input into a DTensor first, once for both,
# with `PrepareModuleInput`, saves a message. PyTorch composes; what it sends is still
# yours to count.
#
# ## All layouts on one engine · 10 minutes
#
# [labsupport/distributed/parallel](../labsupport/distributed/parallel/__init__.py) puts
# DDP, FSDP, tensor parallelism, PyTorch's pipelines and an expert axis behind one
# `Layout`. What every layout sends and holds was in the core's table. Here is how: calls
# in a forward and a backward, on rank 0.

# %% id="collectives-record" tags=["nbval-check-output"]
print("\n".join(record.collective_lines()))

# %% [markdown] id="schedules-record-text"
# And PyTorch's schedules on two ranks: milliseconds of a step, and the share of waiting
# that the formula foretells. *One process* is the same training without a pipeline.

# %% id="schedules-record" tags=["nbval-check-output"]
print("\n".join(record.schedule_lines()))

# %% [markdown] id="phase-text"
# Two lessons. Two ranks hardly beat one process: the formula's F and B are those of a fixed
# microbatch, but here smaller microbatches compute less well, as each call has its own
# cost. More of them cut the bubble and lengthen the step. And a schedule with more messages
# and halves of backwards has more such calls: zero bubble waits least and takes longest. On
# a GPU, with microbatches that fill it, the order can be another. It was not measured.
#
# ## A switch in the middle · 10 minutes
#
# How does a training move from one layout to another? Through a checkpoint in which
# every tensor is whole in name and in parts on disk. Each rank writes what it holds and
# reads what it will hold; PyTorch's distributed checkpoint (DCP) finds out which parts
# of which files that is. Weights, Adam's means and the step counter go along. A new
# checkpoint gets its name only when all of it is on the disk, so a rank lost in between
# leaves the old one whole.
#
# Four copies all along; then the same training, which begins cut over a tensor axis of
# four and goes on as copies after half of its steps:

# %% id="phase" tags=["nbval-ignore-output"]
# %%torchrun --nproc 4 --name phase --push chosen,seed
import torch
import torch.distributed as dist

from labs.lab_05a.switch_runs import switch_rank

torch.set_num_threads(1)
dist.init_process_group(backend())
for arm in ("copies", "cut_to_copies"):
    found = switch_rank(arm, seed, chosen, dist, device())
    share(arm, found)
    if dist.get_rank() == 0:
        print(f"{arm:14} ends at {found['last']:.4f}, ", end="")
        print(f"the switch took {found['switch_s']:.2f} s")

# %% id="phase-check" tags=["nbval-check-output"]
both = (phase[0].copies["loss"], phase[0].cut_to_copies["loss"])
gap = max(abs(a - b) for a, b in zip(*both, strict=True))
print(f"losses as without a switch to 1e-4: {gap < 1e-4}")
print(f"a checkpoint was written: {phase[0].cut_to_copies['written'] > 0}")

# %% [markdown] id="experts-text"
# ## One more axis: experts · 5 minutes
#
# In a mixture of experts ([lab 02](02_moe_load_balancing.ipynb)) the experts can live on
# different ranks, and tokens travel to them and back. The axis is laid *over* the data
# axis: the same ranks, other samples each, so an expert's gradient comes from all of them
# already, and only what is on all ranks (attention, router) has to be summed. It is the
# axis that DeepSeek-V3 cannot do without:

# %% id="experts" tags=["nbval-check-output"]
from labs.lab_05a.planner_presets import DEEPSEEK_V3 as V3

in_experts = V3.expert_layers * V3.routed
print(f"weights in routed experts: {in_experts / V3.total:.1%}")
print(f"a token uses {V3.experts.visited / V3.experts.count:.1%} of them")

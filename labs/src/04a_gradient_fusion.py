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
# # 04a · Gradient fusion: what would have to be true?
#
# **In two hours you will train on four processes, send a tenth of every gradient, derive
# how much of a step has to be waiting for that to save 40 % of its time, and hold an
# article's five sentences against measurements.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 14 | send only the largest numbers | what the largest numbers leave out |
# | 14 – 36 | average gradients in buckets by hand | what data parallelism sends, and when |
# | 36 – 42 | guess what a memory is worth | |
# | 42 – 54 | write error feedback | a memory of three lines |
# | 54 – 64 | train with your parts, on four processes | |
# | 64 – 78 | derive an inequality | what saves time, and what cannot |
# | 78 – 92 | play: links, workers, methods | where each method pays |
# | 92 – 112 | hold five sentences against the record | four verdicts, and one that cannot be had |
# | 112 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: low-rank factors, significance and redundancy, a
# budget of bytes, the hook on a real link, late gradients, AdaSum and a trap, the
# kernel. They stand at the end and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb) and on the primer
# [processes](primers/processes.ipynb): what a rank is, and what an all_reduce does.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the torchrun cells

# %% id="setup" tags=["nbval-ignore-output"]
import math

import torch

from labs.lab_04a import record_tables as record
from labs.lab_04a.exercises_core import largest_third, on_counted_ranks
from labs.lab_04a.plan import GPT_PLANS, LIVE_STEPS
from labs.lab_04a.questions import QUESTIONS
from labs.lab_04a.speedup_explorer import (
    extrapolation_view,
    speedup_explorer,
)
from labsupport import Lab
from labsupport.explore import show_figure

lab = Lab("04a", scale=scale, seed=seed, world=world)
SCALE, steps = lab.settings.scale, LIVE_STEPS[lab.settings.scale]
print(GPT_PLANS[SCALE])

# %% [markdown] id="problem"
# ## Send only what matters (0 – 14 min)
#
# A press article of January 2026 tells of "Adaptive Gradient Fusion", by DeepSeek: in
# training on many machines it "weighs the significance and redundancy of gradients in
# real time", sends only the critical ones, and so cuts training time by 40 to 60 % and
# cost by 30 to 50 %. We found no paper of that name, and no code. The real event of
# those days was mHC ([lab 01](01_mhc_signal_stability.ipynb)), which has nothing to do
# with it. So this lab builds what the article describes from published parts, on
# PyTorch's real engine, and asks: *what would have to be true?*
#
# In **data parallelism** every worker has the whole model and a share of the batch. After
# each backward the workers' gradients are averaged, so that all make the same update.
# All of it travels, at every step: four bytes for every weight.
#
# The obvious thing: send the largest numbers, with their places, and take the rest for
# zero. That is **top-k**. Below, four processes fit 100 weights to measurements by least
# squares, $L(x) = \operatorname{mean}_i \tfrac{1}{2K} |A_i x - b_i|^2$. Each worker $i$ has
# $K = 200$ measurements of its own ($A_i$ is 200 × 100), and they do not quite agree on
# the best weights. First everything is sent, then the 10 largest of 100 numbers.

# %% id="opening" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name opening --push seed
import math

import torch
import torch.distributed as dist

from labs.lab_04a.least_squares import fit
from labs.lab_04a.live import forget

torch.set_num_threads(1)
dist.init_process_group(backend())
for name, feedback in (("everything", None), ("largest", forget)):

    def draw(step, gap, name=name):
        log(step, **{f"log10 of the gap, {name}": math.log10(gap)})

    gap, mean, arrived = fit(seed, dist, draw, feedback, device())
    if dist.get_rank() == 0:
        print(f"{name:10}: {gap:.2g} above the lowest loss there is")
        print(f"    mean gradient, last 50 steps: {mean:.2g} long")
        print(f"    what arrived of it: {arrived:.2g}")

# %% [markdown] id="opening-text"
# The curves show the **gap**: how far the loss is above the lowest there is, as a power
# of ten. With everything it falls and falls. With the largest numbers it stalls. (The two
# axes differ: 1.3 is left there, less than a ten-millionth with everything.)
#
# Look at the lengths. The workers' mean gradient is still long there. But the mean of
# what they sent has all but vanished. Why? At the best weights
# the mean gradient is zero, and yet no worker's own is: each would go on, elsewhere. So
# the largest numbers are those in which workers disagree, and over workers and steps they
# cancel. What the workers have in common is smaller, and never gets its turn.
#
# That problem was made to show it. Does a language model stall, too? Its workers all read
# the same kind of text. The record: a small GPT, two workers, AdamW, the largest 3 % of
# every parameter, three seeds.

# %% id="opening-record" tags=["nbval-check-output"]
print("\n".join(record.opening_lines()))

# %% [markdown] id="opening-after"
# It does not stall, it lags: 0.3 nats a byte higher after 200 steps. (Nats a byte: the
# loss, as in lab 00. Guessing among all bytes costs 5.5.)

# %% [markdown] id="average-intro"
# ## What is sent, and when (14 – 36 min)
#
# Before we mend that: what do workers send without any trick? The gradients' mean over
# $W$ workers is made by a **ring all-reduce**. Each worker cuts its $n$ bytes into $W$
# pieces. In $W - 1$ rounds sums travel around the ring, in $W - 1$ more the results. So
# each worker sends
#
# $$2\,\frac{W - 1}{W}\,n$$
#
# bytes, less than twice its gradients, however many workers there are. And it waits for
# $2 (W - 1)$ messages, one after the other.
#
# A backward delivers gradients one by one, the last layer's first. Whatever is there can
# travel while the rest is computed.

# %% [markdown] id="average-text"
# ## 4.1 · Average gradients in buckets · 15 minutes · ●●○
#
# Every worker has computed gradients from its own share of the batch. All need their
# mean. Each message has a fixed cost, its **latency**, so one for each gradient is dear;
# one message for all could not leave before the last gradient is there. So neighbours travel together, in
# **buckets**.
#
# `gradients` is a list of tensors, in the order in which the backward delivers them. They
# have any shape: some are transposed, one is a single number. Fill buckets in that order
# with at most `capacity` *numbers*; a gradient that is larger has a bucket to itself. A
# gradient is never cut: what does not fit begins the next bucket, and nothing is added to
# the one before. For each bucket call `dist.all_reduce` once, with one flat tensor and
# nothing else. It returns nothing, and leaves in that tensor the *sum* over all ranks, of
# which there are `dist.get_world_size()`. Write the mean back, in place, with
# `g.copy_(...)`.


# %% id="average" tags=["nbval-ignore-output"]
@lab.exercise("4.1")
def average_gradients(gradients, capacity, dist):
    """Each gradient becomes, in place, its mean over all ranks."""
    ### BEGIN SOLUTION
    buckets, room = [], 0
    for g in gradients:
        if not buckets or g.numel() > room:
            buckets.append([])
            room = capacity
        buckets[-1].append(g)
        room -= g.numel()
    for bucket in buckets:
        flat = torch.cat([g.reshape(-1) for g in bucket])
        dist.all_reduce(flat)
        mean = flat / dist.get_world_size()
        sizes = [g.numel() for g in bucket]
        for g, piece in zip(bucket, mean.split(sizes), strict=True):
            g.copy_(piece.view_as(g))
    ### END SOLUTION


# %% id="average-check" tags=["nbval-ignore-output"]
lab.check("4.1")
lab.hints("4.1")

# %% [markdown] id="average-see-text"
# Three practice ranks, 16 gradients each. The smaller the capacity, the more messages;
# what arrives is the same.

# %% id="average-see" tags=["nbval-check-output"]
shapes = [(512, 128), (512,), (128, 512), (128,)] * 4


def averaged(own, capacity, dist):
    average_gradients(own, capacity, dist)
    return own


for capacity in (1, 70_000, 150_000, 10**9):
    ranks = [[torch.full(s, 2.0 * w) for s in shapes] for w in range(3)]
    means, size_B = on_counted_ranks(averaged, ranks, [capacity] * 3)
    right = all((g == 2.0).all() for own in means for g in own)
    print(
        f"capacity {capacity:>10}: {len(size_B):2} messages, the largest "
        f"of {int(size_B.max()):7,} numbers; means right: {right}"
    )

# %% [markdown] id="ddp-text"
# `DistributedDataParallel`, DDP for short, does that: buckets of 25 MB, the first of 1
# MB so that something leaves soon, in the order of the backward. And it has a **hook**: a
# function that gets a bucket's numbers and returns what all workers agree on. Every
# method here that changes gradients is such a hook
# ([fusion/hook.py](../labsupport/distributed/fusion/hook.py)).
#
# ## What was not sent (36 – 42 min)
#
# Top-k forgets 97 % of every gradient. Suppose it kept them: each worker adds to its
# next gradient what it has not sent so far, and only then picks the largest 3 %. That is
# the whole change. With it, where does the *GPT's* loss end?

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "feedback",
    "The GPT, top-k 3 %, with a memory of what was not sent. Its loss ends",
    [
        "where everything is sent",
        "somewhere between",
        "where it was without a memory",
    ],
)

# %% id="reveal" tags=["nbval-ignore-output"]
answer, sentence = record.feedback_answer()
view = record.feedback_view()
lab.reveal("feedback", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="idea-text"
# ## Error feedback (42 – 54 min)
#
# *Why was I wrong?* Who says "where everything is sent" thinks that nothing is lost, and
# is right: with a memory all of it is sent. But late. At 3 % a step a number's turn comes
# once in some thirty steps, and then it tells of weights that have moved on. Here a memory
# gives back a tenth to a quarter of what was lost, by seed. (With SGD in place of AdamW it
# is no different: see the table in part 4.4.) Who says "where it was" forgets that small
# numbers of one sign add up, until they are the largest. In least squares, where gradients
# change slowly, a memory will do more.

# %% [markdown] id="feedback-text"
# ## 4.2 · Error feedback · 8 minutes · ●○○
#
# A worker owes its gradient $g$ and its **residual** $e$, what it has not sent so far. It
# compresses the sum of both. What of that is not sent is the new residual
# ([Karimireddy et al. 2019](https://arxiv.org/abs/1901.09847), Algorithm 2).
#
# Return what is sent, and the new residual. Leave `g` and `e` as they are. `compress` is
# a function of one tensor. It may write into the tensor that it is given, and may return
# it, so hand it a copy.


# %% id="feedback" tags=["nbval-ignore-output"]
@lab.exercise("4.2")
def with_feedback(g, e, compress):
    """What is sent of g + e, and the new residual."""
    ### BEGIN SOLUTION
    u = g + e
    sent = compress(u.clone())
    residual = u - sent
    return sent, residual
    ### END SOLUTION


# %% id="feedback-check" tags=["nbval-ignore-output"]
lab.check("4.2")
lab.hints("4.2")

# %% [markdown] id="feedback-see-text"
# With $C$ for `compress` and $u$ for the sum,
#
# $$u = g + e, \qquad \text{sent} = C(u), \qquad e \leftarrow u - \text{sent}$$
#
# So sent plus the new residual is $g$ plus the old one, at every step. Add that up:
# nothing is lost. All that was sent, plus the last residual, is the sum of all
# gradients. Take a gradient of six numbers that is the same at every step; each time the
# two largest of $u$ are sent. The share of each number that has arrived after 60 steps:

# %% id="feedback-see" tags=["nbval-check-output"]
rounds, g = 60, torch.tensor([1.0, 2.0, 3.0, 5.0, 6.0, 7.0]).sqrt()
for name in ("without", "with"):
    e, arrived = torch.zeros(6), torch.zeros(6)
    for _ in range(rounds):
        sent, left = with_feedback(g, e, largest_third)
        e = left if name == "with" else torch.zeros(6)
        arrived += sent
    shares = ", ".join(f"{x:.0%}" for x in arrived / (rounds * g))
    print(f"{name:7} feedback: {shares}")
conserved = torch.allclose(arrived + e, rounds * g)
print(f"arrived + residual = all gradients: {conserved}")

# %% [markdown] id="train-text"
# ## Train with your part (54 – 64 min)
#
# The cells below send your function to four processes. There it stands in a hook: for
# each parameter it gets gradient and residual, and what it returns is sent. First least
# squares, which stalled:

# %% id="live-squares" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name squares --push seed,with_feedback
import math

import torch
import torch.distributed as dist

from labs.lab_04a.least_squares import fit

torch.set_num_threads(1)
dist.init_process_group(backend())


def draw(step, gap):
    log(step, **{"log10 of the gap": math.log10(gap)})


gap, mean, arrived = fit(seed, dist, draw, with_feedback, device())
if dist.get_rank() == 0:
    print(f"with your feedback: {gap:.2g} above the lowest loss there is")
    print(f"mean gradient, last 50 steps: {mean:.2g} long")
    print(f"what arrived of it: {arrived:.2g}")

# %% [markdown] id="live-squares-text"
# It passes the stall, and ends 40 times lower. It does not fall for ever: what waits in
# the residuals comes late, and stirs the weights. (With a smaller learning rate the floor
# is lower.) Then the GPT:

# %% id="live" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name live --push SCALE,seed,steps,with_feedback
import torch
import torch.distributed as dist

from labs.lab_04a.live import train_live

torch.set_num_threads(1)
dist.init_process_group(backend())
loss = train_live(
    "top_k",
    seed,
    SCALE,
    dist,
    log,
    feedback=with_feedback,
    steps=steps,
    device=device(),
)
if dist.get_rank() == 0:
    print(f"with your feedback: validation loss {loss:.3f} nats a byte")

# %% [markdown] id="live-after"
# At scale `cpu` these are 120 steps. (At `ci`, with which this page was stored, they are
# eight, and show only that it runs.) What the memory is worth stands in the record above.

# %% [markdown] id="share-intro"
# ## When does sending less save time? (64 – 78 min)
#
# Sending less is not the aim. Less time is. A step computes, and it waits for messages.
# Some messages travel while the backward still computes: those cost nothing, and sending
# less of them saves nothing. What is left is *exposed*.

# %% [markdown] id="share-text"
# ## 4.3 · What has to be true · 10 minutes · ●●○
#
# Take the time of a step without compression as 1. A part of it, the **exposed** share
# $f$, is communication that nothing overlaps with. Compression by a **ratio** $c$ (bytes
# before over bytes after) leaves a $c$-th of that, and costs an **overhead** $h$, a
# share of the same, uncompressed step.
#
# What share of the step is saved? And, the other way round, how large has the exposed
# share to be for `goal` to be saved, at this ratio and overhead? Return both. With a
# ratio of 1 no exposed share is enough: `math.inf`. (A need above 1 is no mistake: it
# says that no step has so much to save.)


# %% id="share" tags=["nbval-ignore-output"]
@lab.exercise("4.3")
def saved_and_needed(exposed, ratio, overhead, goal):
    """The share of a step saved; the exposed share that saves `goal`."""
    ### BEGIN SOLUTION
    kept = 1 - 1 / ratio
    saved = exposed * kept - overhead
    needed = (goal + overhead) / kept if kept else math.inf
    return saved, needed
    ### END SOLUTION


# %% id="share-check" tags=["nbval-ignore-output"]
lab.check("4.3")
lab.hints("4.3")

# %% [markdown] id="share-see-text"
# With $f$, $c$ and $h$ as above,
#
# $$\text{saved} = f\,\left(1 - \frac{1}{c}\right) - h \;\ge\; \text{goal}
# \quad\Longleftrightarrow\quad f \;\ge\; \frac{\text{goal} + h}{1 - 1/c}$$
#
# The article promises 40 to 60% less time. Without any overhead, so much of a step has
# to be exposed communication:

# %% id="share-see" tags=["nbval-check-output"]
print(f"{'ratio':>8}{'for 40%':>10}{'for 60%':>10}")
for ratio in (1, 2, 4, 15, 100, math.inf):
    needs = [saved_and_needed(0.0, ratio, 0.0, goal)[1] for goal in (0.4, 0.6)]
    print(f"{ratio:>8}" + "".join(f"{need:>10.2f}" for need in needs))

# %% [markdown] id="share-after"
# So even if *nothing* were sent, a step would have to wait for 40 % of its time before
# 40 % could be saved.
#
# (Where messages overlap with the backward the formula is a lower bound. Say a step's
# messages take 10 ms, and 4 of them are hidden: 6 are exposed. Compressed by 2 they take
# 5, of which 4 hide: 1 is exposed, and 5 are saved. The formula says 3. But nobody saves
# more than the 6.)
#
# And the overhead? The record has it, for a model of 2 million weights: what packing and
# unpacking takes, by itself (milliseconds, median and range), and what that is of the time
# in which a DDP step computes. The last column is the residual: bytes that a worker keeps
# for each weight. (bfloat16 pays for keeping its rounding error, top-k for searching.)

# %% id="encode-record" tags=["nbval-check-output"]
print("\n".join(record.encode_lines(("ddp", "bf16", "top_k"))))

# %% [markdown] id="play-text"
# ## Play: where does it pay? (78 – 92 min)
#
# Top-k is one way to send less. The record has more, all but the last two with error
# feedback:
#
# - **bfloat16**: every number, in two bytes instead of four.
# - **Low rank**: a matrix of $M \times N$ travels as a product of two thin ones,
#   $P R^\top$, with $r\,(M + N)$ numbers. A *direction* is one column of $P$ with one of
#   $R$. Vectors travel whole. **PowerSGD** is the published method, with $r$ directions for
#   every matrix.
# - **AGF**, adaptive gradient fusion, is our stand-in for the article's system: low rank,
#   and a rule that decides which matrix gets how many directions. *By signal*: every 25
#   steps directions move to where a byte carries the most of what workers have in common
#   (part 4.5). It has two controls with the same bytes: *all alike*, which differs from
#   PowerSGD only in what it keeps as residual (part 4.4); and *at random*. They pack in a
#   fifth to a third of the time in which a step computes.
# - **Top-k** sends the largest 3 %, in 6 bytes each: 2 for the number, 4 for its place.
#   Places differ from worker to worker, so messages cannot be added up on their way: each
#   goes to all others, $(W - 1)\,n$ bytes. **Threshold** sends every number that is larger
#   in size than a fixed value. **Random numbers**, 9 %, stand at places that all workers
#   know beforehand: 2 bytes each.
# - **Local SGD**: workers train alone for 20 steps, then average their *weights*.
#   **DiLoCo** treats the change of the averaged weights as a gradient, with momentum.
#
# The picture puts measured numbers into a model of links: how many bytes each method
# sends, how long it packs and unpacks ($h$), how long a step computes. Upwards: the share
# of a step that is saved. To the right: faster links. *Latency* is the time from the
# start of a message to its arrival, however short it is. The grey line is $f$, and nobody
# gets above it. A circle marks where a method begins to pay.
#
# Try this:
# 1. As it opens: 2 workers, 100 µs, gradients travel after the backward. From which
#    bandwidth down does AGF by signal save 40 %? (Hover over its line.)
# 2. The same, beside the backward. What happens to $f$ at 1 Gbit/s, and to AGF?
# 3. On fast links nearly all methods are below zero. Why?
# 4. 2048 workers; open *As a table*. Who loses most at 1 Gbit/s, and who at 100? Who wins?
#
# <details><summary>Answers</summary>
#
# 1. From about 600 Mbit/s. The article's zone is crossed between there and 300 Mbit/s.
# 2. $f$ falls from 41 % to 12 %, as most of the message hides behind the backward. AGF
#    then makes a step 8 % *longer*. That is the best a hook could do. Our two processes
#    hide next to nothing, as the second of two buckets is full only at the end: the
#    measured times below belong to *after the backward*.
# 3. There is nothing to save, and packing still takes its time. It was measured on a
#    CPU. Kernels of a GPU, which the deep part shows, would make $h$ smaller.
# 4. At 1 Gbit/s top-k: each worker's places go to all others, so it sends 46 times as much
#    as everything does. At 100 Gbit/s low rank: it sends two messages for a bucket, and
#    latency is all that is left. Local SGD wins: it meets once in 20 steps, so it pays a
#    twentieth of the latency, too. (Around a ring of 2048 a message takes 4094 hops, one
#    after the other. Real libraries use trees there: the model is too gloomy.)
#
# </details>

# %% id="speedup" tags=["nbval-ignore-output"]
speedup_explorer(
    record.method_costs(), *record.step_times(), 2, record.caption("time")
).show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (92 – 112 min)
#
# | the article says | the rule |
# |---|---|
# | drastically less communication | 80 % fewer bytes until 2.5 nats a byte |
# | 40 to 60 % less time | a step 40 % shorter, at 1 Gbit/s |
# | 30 to 50 % less cost | a step 30 % shorter, at 1 Gbit/s |
# | fewer steps to the same level | 5 % fewer steps until 2.5 nats a byte |
# | no limit at thousands of units | none: there is only a model |
#
# AGF is *by signal*. Time is judged by a single step, and at a link slower than any data
# centre's: both favour the claim.
#
# **The comparison.** A GPT on two workers, 200 steps. Every method (an *arm*) had four
# settings to choose from, tried on three seeds, the *tuning seeds*; the best was run on
# five others. The target is a
# validation loss of 2.5 nats a byte.

# %% id="compared" tags=["nbval-check-output"]
print("\n".join(record.compared_lines(record.CORE)))

# %% [markdown] id="compared-after"
# First column: what a worker sends in a step. Second: how much higher the loss ends than
# with the first row, DDP, and the same seed; the mean and its 95 % interval. Last: steps
# to the target, median and range, or how many of five trainings do not get there.
#
# Everything that sends a twentieth or less ends higher. *Meeting* every 20 steps loses least,
# 0.06 nats. (Its best learning rate was the highest of its four, and so was DDP's: both
# may do better still.) The four low-rank arms lie in one another's intervals. (AGF by signal misses the
# target once. On the tuning seeds its highest learning rate had won, by 0.004 nats; on
# others it is less steady.)

# %% [markdown] id="significance-text"
# **Does significance matter?** The same budgets, shared out in three ways: alike, by
# signal, at random.

# %% id="budget-picture" tags=["nbval-ignore-output"]
view = record.budget_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="significance-after"
# More bytes help: from 9 to 133 kB a step the loss falls by 0.3 nats. *Whose* they are
# hardly matters. At no budget is "by signal" lower than "all alike", and chance does as
# well. (At 9 kB the three are one: every matrix has one direction, and none is left to
# move.) Each mark is a seed. They overlap everywhere, so this is "no gain to be seen", not
# "worse".

# %% [markdown] id="time-text"
# **Time.** Milliseconds of a step of two workers, on links whose rate Linux really
# limits. The model is larger (2 million weights), so that a step has something to send;
# so ratios differ from those above. In brackets the share of DDP's time that is saved,
# with a minus where it takes longer. *One slow*: one worker has 50 Mbit/s, the other 1
# Gbit/s.

# %% id="time-record" tags=["nbval-check-output"]
print("\n".join(record.time_lines()))

# %% [markdown] id="time-after"
# With no limit all that packs is slower than DDP, by a fifth to a half. At 1 Gbit/s it is
# between 6 % slower and 16 % faster. At 200 Mbit/s the article's 40 to 60 % are there, and
# more, except with bfloat16.

# %% [markdown] id="until-text"
# A faster step is no use if it takes more of them. Time until the target as a multiple of
# DDP's: the steps of the comparison times the milliseconds above. (A product of two
# records: the small model's steps, the larger one's times.)

# %% id="until-record" tags=["nbval-check-output"]
print("\n".join(record.until_lines()))

# %% [markdown] id="until-after"
# At 1 Gbit/s low rank takes a third to almost 60 % *longer* to the same loss. At 200 Mbit/s
# it needs 60 % of DDP's time. (">": a training that does not get there counts with all of its
# steps, so it is at least that.)

# %% [markdown] id="scale-text"
# **At scale.** Nobody can measure 2,048 workers here. The model of the explorer can be
# drawn for them:

# %% id="scale" tags=["nbval-ignore-output"]
view = extrapolation_view(
    record.method_costs(), *record.step_times(), 2, record.caption("time")
)
show_figure(view.figure, view.sentence)

# %% [markdown] id="verdicts-text"
# Latency grows with the workers, and sending fewer bytes does not lower it. Low rank, with
# two messages a bucket, even doubles it.
#
# The verdicts follow from the rules in `data/claims/`, written before the runs. Other labs
# judge the article and its source apart; here only the article, as no source is known.
# *Saving* is 1 minus the ratio to DDP: below 0 where AGF needs more. In brackets the 95 %
# interval over seeds.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Less communication: right**, and more than the rule asks: 93 % fewer bytes until the
#   same loss, though it takes half as many steps again, at least. (One training of five
#   was not there after 200 steps, and counts as 200.)
# - **Less time, less cost: it depends on the link, and the article names none.** At 1
#   Gbit/s a step is 9 % shorter (a mean; the table has medians), and the interval reaches
#   from 7 % longer to 24 % shorter. At 200 Mbit/s it is 61 % shorter. Data centres have 100 to 400 Gbit/s.
# - **Fewer steps: wrong.** It takes at least 55 % more. Whoever sends less knows less at each step.
# - **Adaptive: no gain to be seen.** With the same bytes, chance decides as well as
#   significance does.
# - **Thousands of units:** a model only. In it, what grows with the workers is latency,
#   which sending fewer bytes does not change, and more messages make worse.
#
# So what would have to be true? Exposed communication has to be at least the share that
# is to be saved, and packing nearly free. That is so on slow links between many machines.
# There the simplest method did best: talk rarely.
#
# Rewrite the headline in one honest sentence. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("agf-time")

# %% [markdown] id="recap"
# ## What you take away (112 – 120 min)
#
# - Data parallelism sends all gradients at every step: at most twice their bytes,
#   however many workers there are. In buckets they leave while the backward computes.
# - Where workers disagree, each one's largest numbers can cancel. Who forgets the rest
#   then stalls.
# - Error feedback keeps what was not sent and adds it to the next gradient. Nothing is
#   lost, but it comes late.
# - Sending less saves at most $f$, the exposed share of a step. To save 40 % of the time at,
#   say, 15 to 1 takes an $f$ of 43 % if packing is free, and of 68 % at the 23 % that
#   packing AGF costs on this CPU.
#
# **Limits.** Two workers, a model of 0.2 million weights, 200 steps, one text. Packing was
# measured on a CPU, where it costs a fifth to two thirds of a step; on a GPU it was not.
# Larger models have matrices of which four directions are a smaller part. And our AGF is
# *our* reading of a system that nobody has published.
#
# **Diagnose.** What is wrong?
#
# 1. A team compresses its gradients 50 to 1. The traffic falls as promised. Steps take
#    as long as before.
# 2. Top-k with error feedback. A worker's gradients overflow once in a while, and the
#    loop skips those steps. From some day on it skips every step.
#
# <details><summary>Answers</summary>
#
# 1. Their messages were hidden behind the backward, or packing takes as long as it
#    saves, or they wait for latency, which fewer bytes do not change. Measure $f$ before
#    compressing.
# 2. A skipped step must leave the residuals untouched. NaN was added to one, and
#    $u = g + e$ has been NaN ever since. The hook of this lab looks before it keeps.
#
# </details>
#
# **Further reading.** [Error feedback](https://arxiv.org/abs/1901.09847);
# [PowerSGD](https://arxiv.org/abs/1905.13727);
# [DiLoCo](https://arxiv.org/abs/2311.08105); and
# [when compression pays](https://arxiv.org/abs/2103.00543): in 6 of over 200 set-ups.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Times are for someone who has done the core. 4.5 goes on from 4.4; 4.K needs the
# [Triton primer](primers/triton.ipynb).

# %% [markdown] id="low-rank-text"
# ## 4.4 · Two thin factors · 12 minutes · ●●●
#
# Top-k sends other places from every worker, so messages cannot be added up on their
# way. **Low-rank fusion** can: each of its two messages is linear in what a worker owes,
# $u_i$ ($M \times N$). With $Q$ ($N \times r$) a few directions that all ranks share ([PowerSGD](https://arxiv.org/abs/1905.13727),
# Algorithms 1 and 2),
#
# $$P = \text{orth}\!\left(\tfrac1W \textstyle\sum_i u_i Q\right), \qquad
# R_i = u_i^\top P, \quad R = \tfrac1W \textstyle\sum_i R_i$$
#
# $$\text{fused} = P R^\top, \qquad e_i \leftarrow u_i - P R_i^\top, \qquad Q \leftarrow R$$
#
# $P$ is $M \times r$, $R$ is $N \times r$. orth makes the columns of a matrix orthonormal:
# `torch.linalg.qr(x).Q`. The last
# assignment is the **warm start**: the next step looks where there was most in this one.
#
# Return fused, this rank's residual, and the next $Q$. Only the two thin factors may
# travel, $r(M + N)$ numbers. all_reduce works in place and adds up.


# %% id="low-rank" tags=["nbval-ignore-output"]
@lab.exercise("4.4")
def low_rank_mean(u_MN, q_Nr, dist):
    """fused_MN, the same on all ranks; residual_MN; next_q_Nr."""
    ### BEGIN SOLUTION
    W = dist.get_world_size()
    p_Mr = u_MN @ q_Nr
    dist.all_reduce(p_Mr)
    p_Mr = torch.linalg.qr(p_Mr / W).Q
    mine_Nr = u_MN.T @ p_Mr
    r_Nr = mine_Nr.clone()
    dist.all_reduce(r_Nr)
    r_Nr = r_Nr / W
    return p_Mr @ r_Nr.T, u_MN - p_Mr @ mine_Nr.T, r_Nr
    ### END SOLUTION


# %% id="low-rank-check" tags=["nbval-ignore-output"]
lab.check("4.4")
lab.hints("4.4")

# %% [markdown] id="low-rank-see-text"
# Two practice ranks with the same matrix of 64 × 48, whose singular values fall by a
# fifth from one to the next. No residual, so that the warm start shows alone: how far
# fused is from the matrix after 1, 2 and 8 steps, relative to it, and how far the best
# matrix of that rank.

# %% id="low-rank-see" tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
a_MN = torch.randn(64, 48, generator=generator)
left_MN, _, right_NN = torch.linalg.svd(a_MN, full_matrices=False)
size_N = 0.8 ** torch.arange(48.0)
u_MN = (left_MN * size_N) @ right_NN
for r in (1, 2, 4, 8):
    q_Nr, off = torch.randn(48, r, generator=generator), []
    for _ in range(8):
        found, size_B = on_counted_ranks(low_rank_mean, [u_MN] * 2, [q_Nr] * 2)
        fused_MN, _, q_Nr = found[0]
        off.append(float((fused_MN - u_MN).norm() / u_MN.norm()))
    best = float(size_N[r:].norm() / size_N.norm())
    print(
        f"r = {r}: {int(size_B.sum()):4} of {64 * 48} numbers, off by "
        f"{off[0]:.2f}, {off[1]:.2f}, {off[7]:.2f}; the best {best:.2f}"
    )

# %% [markdown] id="feedback-record-text"
# What a memory is worth for each way to send less, from the record. All with AdamW at one
# learning rate, the last three with SGD at another. Low rank gains most. Numbers at
# *random* places end higher *with* a memory: of 91 % that wait, each comes after eleven
# steps on average, as a sum of eleven old gradients.

# %% id="feedback-record" tags=["nbval-check-output"]
print("\n".join(record.feedback_lines()))

# %% [markdown] id="judge-text"
# ## 4.5 · Significant, or redundant? · 8 minutes · ●●○
#
# The article weighs the significance of gradients, and how redundant workers are.
# Low-rank fusion can tell both for each direction $j$, from two numbers that are the same
# on all ranks: $\sigma_j^2 = |R_j|^2$, the squared length of the mean, and $\bar E_j$, the
# mean of the workers' squared lengths $|R_{ij}|^2$.
#
# Here $R_{ij}$ is column $j$ of worker $i$'s $R_i$. Suppose that $R_{ij} = s_j +$ noise, whose
# mean is zero, independent from worker to worker. Then on average
# $\bar E_j = |s_j|^2 + v_j$ with $v_j$ the energy of the noise; and in the mean of $W$
# workers a $W$-th of it is left, $\sigma_j^2 = |s_j|^2 + v_j / W$. Solve for $|s_j|^2$.
#
# Both arguments are tensors, a number for each direction. Return the **signal**, an estimate of $|s_j|^2$ without bias; and the
# **coherence** $\sigma_j^2 / \bar E_j$: 1 where all send the same, so that all but one are
# redundant, $1 / W$ where they send nothing but noise, and 0 where nobody sends anything.
# $W$ is at least 2.


# %% id="judge" tags=["nbval-ignore-output"]
@lab.exercise("4.5")
def judge_directions(sigma2_r, energy_r, W):
    """signal_r and coherence_r."""
    ### BEGIN SOLUTION
    signal_r = (W * sigma2_r - energy_r) / (W - 1)
    there = energy_r > 0
    coherence_r = torch.where(
        there, sigma2_r / energy_r.where(there, 1.0), 0.0
    )
    return signal_r, coherence_r
    ### END SOLUTION


# %% id="judge-check" tags=["nbval-ignore-output"]
lab.check("4.5")
lab.hints("4.5")

# %% [markdown] id="judge-see-text"
# Eight workers, directions of 1000 numbers with a known $|s|^2$ of 100, and more and more
# noise. Mean of 100 steps:

# %% id="judge-see" tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
s_N1 = torch.full((1000, 1), 0.1**0.5)
print(f"{'noise':>8}{'sigma2':>9}{'signal':>9}{'coherence':>12}")
for noise in (0.0, 100.0, 1000.0):
    noise_WNS = torch.randn(8, 1000, 100, generator=generator)
    r_WNS = s_N1 + (noise / 1000) ** 0.5 * noise_WNS
    sigma2_S = r_WNS.mean(0).square().sum(0)
    energy_S = r_WNS.square().sum(1).mean(0)
    signal_S, coherence_S = judge_directions(sigma2_S, energy_S, 8)
    print(
        f"{noise:>8g}{sigma2_S.mean():>9.1f}{signal_S.mean():>9.1f}"
        f"{coherence_S.mean():>12.2f}"
    )

# %% [markdown] id="redundancy-text"
# **Are workers redundant?** The mean cosine between two workers' gradients, from the
# record. At 1 they have the same direction, and one worker would do. At 0 they have
# nothing in common.

# %% id="redundancy" tags=["nbval-ignore-output"]
view = record.redundancy_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="redundancy-after"
# For some 15 steps they are redundant: all learn which bytes are common. Then the cosine
# falls, and at the end the median is 0.07. What is left is mostly noise, another on
# each worker, and averaging that away is what more workers are for.

# %% [markdown] id="budget-text"
# ## 4.6 · A budget of bytes · 6 minutes · ●○○
#
# How many directions may a step use? That depends on the link, on headers, on vectors
# that travel whole. Instead of modelling all that, measure the bytes of a step and
# correct: an **integral controller** goes on from where it is. The error is target minus
# measured, as a share of the target. Add `gain` times the error times $x$ to $x$.
#
# Return the next $x$, a number that is not rounded and at least 1. (The caller rounds it.
# Were $x$ itself rounded, a small error would never move it.)


# %% id="budget" tags=["nbval-ignore-output"]
@lab.exercise("4.6")
def next_directions(x, measured, target, gain):
    """How many directions to ask for next."""
    ### BEGIN SOLUTION
    error = (target - measured) / target
    return max(1.0, x + gain * error * x)
    ### END SOLUTION


# %% id="budget-check" tags=["nbval-ignore-output"]
lab.check("4.6")
lab.hints("4.6")

# %% [markdown] id="budget-see-text"
# A method that sends 640 bytes a direction and 1500 besides, which the controller does
# not know. After step 8 the budget is halved.

# %% id="budget-see" tags=["nbval-check-output"]
x, gain = 2.0, 0.5
for step in range(16):
    target = 8000 if step < 8 else 4000
    sent = 1500 + 640 * round(x)
    if step % 2 == 0:
        print(f"step {step:2}: {round(x):2} directions, {sent} of {target}")
    x = next_directions(x, sent, target, gain)

# %% [markdown] id="budget-record-text"
# The record of the core's picture: loss by budget, and by who shares it out.

# %% id="budget-record" tags=["nbval-check-output"]
print("\n".join(record.budget_lines()))

# %% [markdown] id="encode-all-text"
# What packing costs, for all of them:

# %% id="encode-all" tags=["nbval-check-output"]
print("\n".join(record.encode_lines()))

# %% [markdown] id="all-arms-text"
# And the comparison with all arms, after the four trials of each on the tuning seeds (the
# chosen one has a star).

# %% id="trials-record" tags=["nbval-check-output"]
print("\n".join(record.chosen_lines()))

# %% id="all-arms" tags=["nbval-check-output"]
print("\n".join(record.compared_lines()))

# %% [markdown] id="experts-text"
# The same with lab 02's experts in the model, at the settings of the dense one:

# %% id="experts-record" tags=["nbval-check-output"]
print("\n".join(record.experts_lines()))

# %% [markdown] id="experts-after"
# Much the same, with three seeds: bfloat16 costs nothing that can be seen, low rank about
# 0.1 nats, top-k more. "By signal" has the lowest mean of the low-rank arms, and an
# interval that holds all the others, and zero.

# %% [markdown] id="linked-text"
# ## The hook on a real link · 10 minutes
#
# The picture above is a model. Does it hold on your machine? The cell below joins two
# ranks by a link of 200 Mbit/s. (Linux can shape a real one, if you are root. Elsewhere
# the link is emulated in the ranks' calls, and the cell says so.) It measures the parts:
# all_reduces of several sizes, which give latency and bandwidth; forward, backward and
# update, with nothing sent. And then whole steps of four methods.

# %% id="linked" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --link 200mbit --name linked --push SCALE,seed
import torch
import torch.distributed as dist

from labs.lab_04a.live_link import measure

torch.set_num_threads(1)
dist.init_process_group(backend())
share("measured", measure(seed, SCALE, dist, device()))

# %% id="linked-check" tags=["nbval-ignore-output"]
from labs.lab_04a.link_check import check_view
from labs.lab_04a.live_link import predicted_rows

rows = predicted_rows(linked[0].measured, "200 Mbit/s", seed, SCALE)
view = check_view(rows)
show_figure(view.figure, view.sentence)

# %% [markdown] id="linked-record-text"
# (At `ci`, with which this page was stored, a step takes some ten milliseconds, and chance
# decides much.) The same from the record, for all links. Nothing is fitted to a whole step: latency and bandwidth come from
# all_reduces by themselves, the time for packing from packing by itself. (The
# shaper lets short bursts pass, so more may be found than was asked for. 100 Mbit/s is the
# link that was held out.)

# %% id="linked-record" tags=["nbval-check-output"]
print("\n".join(record.link_lines()))

# %% id="linked-record-check" tags=["nbval-check-output"]
print(check_view(record.check_rows()).sentence)

# %% [markdown] id="stale-text"
# ## Late gradients · 5 minutes
#
# The article also speaks of asynchronous updates. If no worker waits for the others, a
# gradient comes when the weights have moved on, by $W - 1$ updates on average. One
# process can do just that: it applies each gradient so many updates later. As many
# updates for all, two learning rates, three seeds; validation loss:

# %% id="stale" tags=["nbval-check-output"]
print("\n".join(record.stale_lines()))

# %% [markdown] id="stale-after"
# One update late already costs 0.06 to 0.12 nats, as much as sending a twentieth did.
# Seven late, as with eight workers, costs 0.3 to 0.6. From there on the smaller rate is
# the better one: the less weights move, the less a late gradient is off. (What asynchrony
# *buys*, that nobody waits, was not measured here.)

# %% [markdown] id="clip-text"
# ## AdaSum, and a trap · 6 minutes
#
# [AdaSum](https://arxiv.org/abs/2006.02924) adds workers' gradients where they are
# orthogonal, and takes their mean where they agree. Its result is up to $W$ times as long
# as the mean. AdamW hardly minds: it divides by the size of gradients. Clipping minds: it
# shortens what is longer than 1. So a comparison with clipping may tell of lengths. Look
# at it without, too.
#
# The first line has losses, the others the gap to it with the same seed: the mean and its
# 95 % interval, three seeds. Last, the share of steps that clipping at 1 shortens.

# %% id="clip" tags=["nbval-check-output"]
print("\n".join(record.clip_lines()))

# %% [markdown] id="clip-after"
# With clipping at 1 AdaSum ends lower than the mean, and its interval lies below zero: a
# finding? Without clipping it ends hardly less far below, and the interval holds zero.
# Three seeds cannot tell the columns apart. Who shows only one of them chooses a story:
# that is the trap.
#
# Low rank loses a third less with clipping than without, on the mean. But those intervals
# overlap, too: no finding either. (In the core's comparison all arms are clipped at 1, DDP
# too.)

# %% [markdown] id="kernel-text"
# ## 4.K · The kernel: add and measure in one pass · 10 minutes · ●○○
#
# Every method begins with $u = g + e$, and most want to know how large $u$ is: for
# clipping, for a threshold, for a noise scale. In PyTorch the sum and the norm each go
# over memory again. One kernel reads $g$ and $e$ once, writes $u$ in $e$'s place, and
# adds up the squares while they are in registers.
#
# A program has a block of `BLOCK` neighbours, and stores *one* number, the block's sum of
# $u^2$, at place `b` of `square_ptr`. (A second kernel adds those up, always in the same
# order. With atomic additions the order would change from run to run, and so would the
# last bits; ranks that decide by them would drift apart.)
#
# Write the lines that are missing: load, add, store, sum, store. The last block may not
# be full. (Here $e$ may be overwritten. A loop that skips steps needs another way back.)

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_04a.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("4.K")
@jit
def stats_kernel(g_ptr, e_ptr, square_ptr, n, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    i = b * BLOCK + tl.arange(0, BLOCK)
    ### BEGIN SOLUTION
    g = tl.load(g_ptr + i, mask=i < n, other=0.0)
    u = g + tl.load(e_ptr + i, mask=i < n, other=0.0)
    tl.store(e_ptr + i, u, mask=i < n)
    tl.store(square_ptr + b, tl.sum(u * u, axis=0))
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("4.K")
lab.hints("4.K")

# %% [markdown] id="kernel-map-text"
# 40 numbers in three blocks, the last one not full. Move the slider through the
# programs: what each reads, and where it writes.

# %% id="kernel-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    g_n, e_n, square_B = torch.randn(40), torch.randn(40), torch.zeros(3)
    memory_map(stats_kernel, (3,), g_n, e_n, square_B, 40, BLOCK=BLOCK).show()

# %% id="kernel-run" tags=["nbval-check-output"]
g_n, e_n = torch.linspace(-2, 2, 40), torch.linspace(1, 3, 40)
u_n, _, square_B = stats_kernel(g_n, e_n)
print(f"u = g + e: {torch.equal(u_n, g_n + e_n)}; {len(square_B)} blocks")
total = square_B.sum()
print(f"sum of squares {total:.0f}, its root {total.sqrt():.1f}")

# %% [markdown] id="kernel-real"
# The course's own kernels do more at once:
#
# - [gradient_stats](../kernels/gradient_stats.py): yours, with the largest size and the
#   product with a reference;
# - [gradient_select](../kernels/gradient_select.py): numbers above a threshold, packed,
#   and what is not sent left behind;
# - [gradient_quantise](../kernels/gradient_quantise.py): 8 bits, their error kept;
# - [gradient_project](../kernels/gradient_project.py) and
#   [gradient_residual](../kernels/gradient_residual.py): to thin factors and back.
#
# All of them are bound by memory. None was measured on a GPU yet; the hook of this lab
# runs the same steps as PyTorch operations.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("gradient_stats", dtype="float32")

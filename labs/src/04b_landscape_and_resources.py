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
# # 04b · Landscape and resources
#
# **In two hours you will see one slow process hold up three, give every one the
# number of samples that suits it, look at the loss around a trained model, and find
# out whether looking around while training pays.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 10 | train on four processes, one of them slow | who computes, who waits |
# | 10 – 15 | guess what balancing can save | |
# | 15 – 33 | read the equations, weigh gradients | unequal batches, the same gradient |
# | 33 – 52 | balance | a closed form, and whole numbers |
# | 52 – 62 | train with your parts | balance found, lost and found again |
# | 62 – 86 | cut a slice of the loss | what a slice shows, and what it cannot |
# | 86 – 96 | play: planes and paths, many workers | |
# | 96 – 114 | hold two sentences against the record | two verdicts |
# | 114 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: the gradient noise scale, batches that follow it,
# goodput, and what SAM does. They stand at the end and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb) and the
# [processes primer](primers/processes.ipynb): ranks, and `all_reduce`. Nothing of lab
# 04a is needed. There is no kernel here: all that is new happens between processes, or
# in weights as a whole.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the opening's torchrun cell

# %% id="setup" tags=["nbval-ignore-output"]
import math

import torch

from labs.lab_04b import balance_explorer as workers
from labs.lab_04b import record_tables as record
from labs.lab_04b.exercises_core import filter_direction
from labs.lab_04b.exploring import Trial, train_gpt, validation
from labs.lab_04b.landscape import loss_of, random_direction, weights_of
from labs.lab_04b.landscape_explorer import landscape_explorer
from labs.lab_04b.pictures import recovery_view, slices_view, timeline_view
from labs.lab_04b.plan import GPT_PLANS, RANK_PLANS
from labs.lab_04b.questions import QUESTIONS
from labs.lab_04b.workers import train_unequal
from labsupport import Lab
from labsupport.exercise.practice import on_ranks
from labsupport.explore import show_figure

lab = Lab("04b", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
chosen = lab.settings.scale
print(RANK_PLANS[chosen])

# %% [markdown] id="problem"
# ## One slow rank (0 – 10 min)
#
# A press article describes a system that re-balances work over unequal machines for
# "maximal utilization", and explores the loss landscape so as not to get stuck. No
# paper with that system is known. Both ideas are older. You will build the first, and
# look closely at the second.
#
# We begin with the machines. In data-parallel training every rank computes the
# gradient of its own samples (pieces of text, 64 bytes each at scale `cpu`), then all
# meet, and the mean of their gradients moves the weights. Four ranks do that below, with equal batches. The last of them is **slow**:
# it computes each of its gradients three times and throws two away. So it does real
# work, as a slower processor or a busy neighbour would make it do.

# %% id="opening" tags=["nbval-ignore-output"]
# %%torchrun --nproc 4 --name slow --push chosen,seed
import torch.distributed as dist

from labs.lab_04b.plan import SLOW
from labs.lab_04b.workers import train_unequal
from labsupport.distributed.pinning import pin_to_core

dist.init_process_group(backend())
core = pin_to_core(dist.get_rank())
course = train_unequal(
    dist,
    chosen,
    seed,
    repeats=(1, 1, 1, SLOW),
    policy="equal",
    steps=8,
    device=device(),
)
share("course", vars(course))
print(f"rank {dist.get_rank()} on core {core}: {course.batch[0]} samples")

# %% id="opening-see" tags=["nbval-ignore-output"]
every = [slow[rank].course for rank in range(4)]
view = timeline_view(every, 3, 5, "Three steps, equal batches, rank 3 slow")
show_figure(view.figure, view.sentence)

# %% id="opening-check" tags=["nbval-check-output"]
batches = {b for course in every for b in course["batch"]}
print(f"equal batches: {len(batches) == 1}")
print(f"one loss for all: {len({str(c['loss']) for c in every}) == 1}")

# %% [markdown] id="opening-text"
# Grey is waiting. Whatever the other three do, each step lasts as long as the slow
# one's. (Orange is averaging and the update, which no division of samples shortens.) All times are read from one clock, on the ranks, while they work. (At scale
# `ci`, with which this page was stored, a step is so small that chance decides much.)
#
# Each rank is pinned to a core. If there are fewer cores than ranks, several share one
# and take turns: with two cores rank 3 shares its core with rank 1, and ranks 0 and 2
# share the other. Then blue is also the time in which a rank could compute and another
# had the core. So from here on we take *two* ranks, each with a core of its own, where
# times are to be believed. For more workers we shall calculate.
#
# ## Guess (10 – 15 min)

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "saving",
    "Four workers; the last takes three times as long for a sample, and "
    "nothing else takes time. Give each the number of samples that suits it, "
    "as many in all. A step gets shorter by",
    workers.CHOICES,
)

# %% id="reveal" tags=["nbval-ignore-output"]
answer, sentence = workers.saving_answer()
view = workers.draw(3.0, 4, 0.0)
lab.reveal("saving", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="reveal-after"
# *Why was I wrong?* The slow worker is a quarter of the workers, and so one may think
# that a quarter is at stake. But with equal batches *all* work at its pace, three
# times slower than they could. Balanced, the four together are as good as
# 3 + 1/3 fast workers.
#
# ## The idea (15 – 22 min)
#
# Worker $i$ takes a fixed time $a_i$ for a step, whatever its batch, and $c_i$ for each
# of its $b_i$ samples. All meet at the end, so the slowest decides:
#
# $$T_i = a_i + c_i\,b_i, \qquad \text{step} = \max_i T_i, \qquad \sum_i b_i = B$$
#
# Suppose for a moment that samples could be cut. If one worker ended earlier than
# another, it could take a piece of a sample from that one. So at the best division all
# end at the same time $T$. Then $b_i = (T - a_i) / c_i$, and as these sum to $B$,
#
# $$T = \frac{B + \sum_i a_i / c_i}{\sum_i 1 / c_i}$$
#
# (A worker whose fixed time alone is longer than $T$ gets a share below zero.)
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $W$, $B$ | workers (ranks), samples of a step | | `W`, `B` |
# | $T_i$, $T$ | time of worker $i$; time at which all end | $W$; | `T` |
# | $b_i$ | samples of worker $i$ | $W$ | `b`, on its rank |
# | $a_i$, $c_i$ | fixed time, time per sample | $W$ | `a_W`, `c_W` |
# | $g_i$ | mean gradient of its samples | $P$ weights | `gradient_P` |
#
# But unequal batches break something. The mean over workers of $g_i$ gives each
# *worker* the same say, and so a sample of a small batch a greater one. What one
# process would compute is the mean over all $B$ samples.
#
# ## 4.7 · Gradients of unequal batches · 10 minutes · ●○○
#
# Every rank calls your function with the mean gradient of its own samples and their
# number. Return the mean over all samples of all ranks. `dist.all_reduce(x)` replaces
# the tensor `x` by the sum over ranks, and returns nothing; `dist.get_world_size()` is $W$.
# A tensor that you make needs the gradient's device: `device=gradient_P.device`.


# %% id="average" tags=["nbval-ignore-output"]
@lab.exercise("4.7")
def average_gradient(gradient_P, b, dist):
    """The mean gradient over all samples, on every rank."""
    ### BEGIN SOLUTION
    W = dist.get_world_size()
    B = torch.tensor([float(b)], device=gradient_P.device)
    dist.all_reduce(B)
    weighted_P = gradient_P * (W * b / B.item())
    dist.all_reduce(weighted_P)
    return weighted_P / W
    ### END SOLUTION


# %% id="average-check" tags=["nbval-ignore-output"]
lab.check("4.7")
lab.hints("4.7")

# %% id="average-see" tags=["nbval-check-output"]
gradient_RP = torch.tensor([[4.0], [8.0]])
for b_R in ([2, 2], [1, 3], [9, 1]):
    mean_P = on_ranks(average_gradient, gradient_RP, b_R)[0]
    print(f"batches {b_R}: {mean_P.item():.1f}, mean over ranks 6.0")

# %% [markdown] id="average-after"
# An engine that takes the mean over workers by itself, as PyTorch's
# DistributedDataParallel (DDP) does, needs the factor before that:
#
# $$g = \frac{1}{B} \sum_i b_i\, g_i = \frac{1}{W} \sum_i \frac{W b_i}{B}\, g_i$$

# %% [markdown] id="balance-text"
# ## 4.8 · Batches for unequal workers · 15 minutes · ●●○
#
# Return the batches, a list of $W$ whole numbers of at least 1 with the sum $B$, whose
# longest time is as short as can be. Three steps:
#
# 1. $T$ and all shares by the closed form;
# 2. round down, but to no less than 1 (that saves handing out $B$ samples one by one);
# 3. hand out what is left of $B$, a sample at a time, to the worker who would end
#    earliest *with* it. If there are too many instead, as a worker had to be raised to
#    1, take samples back from workers who have more than 1, from the latest first.


# %% id="balance" tags=["nbval-ignore-output"]
@lab.exercise("4.8")
def balance(a_W, c_W, B):
    """Whole batches that sum to B and end as early as possible."""
    ### BEGIN SOLUTION
    both = list(zip(a_W, c_W, strict=True))
    T = (B + sum(a / c for a, c in both)) / sum(1 / c for c in c_W)
    b_W = [max(1, int((T - a) / c)) for a, c in both]
    while sum(b_W) < B:
        ends = [a + c * (b + 1) for (a, c), b in zip(both, b_W, strict=True)]
        b_W[ends.index(min(ends))] += 1
    while sum(b_W) > B:
        ends = [
            a + c * b if b > 1 else -1
            for (a, c), b in zip(both, b_W, strict=True)
        ]
        b_W[ends.index(max(ends))] -= 1
    return b_W
    ### END SOLUTION


# %% id="balance-check" tags=["nbval-ignore-output"]
lab.check("4.8")
lab.hints("4.8")

# %% id="balance-see" tags=["nbval-check-output"]
print("four workers, 64 samples, the last one slower:")
for slower in (1.0, 2.0, 3.0, 8.0):
    a_W, c_W = [0.0] * 4, [1.0, 1.0, 1.0, slower]
    ends = [c * b for c, b in zip(c_W, balance(a_W, c_W, 64), strict=True)]
    print(f"{slower:g} x: {16 * slower:5g} with equal batches, ", end="")
    print(f"{max(ends):g} balanced")

# %% [markdown] id="train-text"
# ## Train with your parts (52 – 62 min)
#
# Nobody tells a worker its $a_i$ and $c_i$. They are fitted by least squares to the
# latest five steps, by every rank from the same numbers, so that all come to the same
# batches. As long as recent batches are nearly equal no line can be fitted through
# them; then $a_i$ stays as it was, and $c_i$ follows alone.
#
# Two ranks, the second one slow. After two thirds of the steps it becomes as fast as
# the first. Once with equal batches, once balanced: your gradient mean in both, your
# `balance` in the second.

# %% id="live" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --name pair --push average_gradient,balance,chosen,seed
import torch.distributed as dist

from labs.lab_04b.plan import RANK_PLANS, SLOW
from labs.lab_04b.workers import train_unequal
from labsupport.distributed.pinning import pin_to_core

dist.init_process_group(backend())
pin_to_core(dist.get_rank())
for policy, watch in (("equal", None), ("balanced", log)):
    course = train_unequal(
        dist,
        chosen,
        seed,
        repeats=(1, SLOW),
        policy=policy,
        until=RANK_PLANS[chosen].steps * 2 // 3,
        average=average_gradient,
        balance=balance,
        device=device(),
        watch=watch,
    )
    share(policy, vars(course))
    if dist.get_rank() == 0:
        print(f"{policy:9} {course.done[-1]:.2f} s in all")

# %% [markdown] id="live-see-text"
# Look for the batches parting, for the vertical line, and for how many steps they need to
# come back.

# %% id="live-see" tags=["nbval-ignore-output"]
equal, balanced = (
    [getattr(pair[rank], policy) for rank in range(2)]
    for policy in ("equal", "balanced")
)
until = RANK_PLANS[chosen].steps * 2 // 3
view = recovery_view(equal, balanced, until)
show_figure(view.figure, view.sentence)

# %% [markdown] id="live-costs-text"
# What the balancer believes. After the change rank 1's costs should come down to rank 0's.

# %% id="live-costs" tags=["nbval-ignore-output"]
half = RANK_PLANS[chosen].batch_size // 2
print(f"fitted ms for {half} samples, before the change and at the end:")
for rank, course in enumerate(balanced):
    before, after = (
        1e3 * (course["fixed"][i] + half * course["per_sample"][i])
        for i in (until - 2, -1)
    )
    print(f"rank {rank}: {before:.1f}, then {after:.1f}")

# %% id="live-timeline" tags=["nbval-ignore-output"]
view = timeline_view(balanced, until - 3, until + 3, "Around the change")
show_figure(view.figure, view.sentence)

# %% [markdown] id="live-after"
# At scale `cpu` batches come back to about equal within ten or twenty steps. At `ci`, with
# which this page was stored, they need not: nearly all of such a small step is fixed time,
# rank 1 falls to a single sample and stays there. A batch that does not change any more
# tells nothing about $a_i$. That is a limit of the method, not an accident.

# %% [markdown] id="same-text"
# Is it still the same training? The same steps in *one* process, all samples at once:

# %% id="same" tags=["nbval-check-output"]
alone = on_ranks(
    lambda seed, dist: train_unequal(
        dist,
        chosen,
        seed,
        repeats=[1],
        policy="equal",
        device=lab.settings.device,
    ),
    [seed],
)[0]
for name, both in (("equal", equal), ("balanced", balanced)):
    gap = max(
        abs(mine - other)
        for mine, other in zip(both[0]["loss"], alone.loss, strict=True)
    )
    print(f"{name}: losses of one process to 1e-3: {gap < 1e-3}")
different = any(b != balanced[0]["batch"][0] for b in balanced[0]["batch"])
print(f"batches have moved: {different}")

# %% [markdown] id="same-after"
# Balancing changes who computes what, and nothing of what is learnt. That is worth
# checking whenever batches are unequal. Without the factors $W b_i / B$ the loss falls as
# well, only for other samples than one thinks.
#
# ## The loss around a trained model (62 – 86 min)
#
# Now the landscape. A training ends at some weights $w$. Is it a wide valley, or a
# narrow one? In a wide one a small change of the weights costs little. (That such
# minima generalise better is often said, and disputed.) We cannot look at all of 100,000 dimensions, but we can go straight
# through $w$ in *one* direction $d$ and write down the loss: a **slice**
# $L(w + \alpha\, d)$. First we need a trained model.

# %% id="train-model" tags=["nbval-ignore-output"]
trained = train_gpt(
    "plain",
    lab.settings.seed,
    chosen,
    Trial(GPT_PLANS[chosen].lr),
    live=True,
    title="The model to look around",
)

# %% [markdown] id="slice-text"
# How long is $d$ to be? A random direction of fixed length moves small weights a lot and
# large ones hardly at all. So Li et al. ([2018](https://arxiv.org/abs/1712.09913),
# section 4) scale it **filter by filter**. A filter is what feeds one output: a row of a
# matrix.
#
# $$d_{\text{row}} \leftarrow \frac{d_{\text{row}}}{\lVert d_{\text{row}} \rVert}\,
# \lVert w_{\text{row}} \rVert$$
#
# Then $\alpha = 0.1$ means: every row moves by a tenth of its length. Vectors (biases, and
# the scales of normalisations) do not move.
#
# ## 4.9 · A slice of the loss · 15 minutes · ●●○
#
# `weights` and `raw` are lists of tensors of the same shapes; `loss(list)` is the loss
# at any weights. Return the losses at $w + \alpha d$ for all `alphas`, a tensor with one
# entry each. Where a row of `raw` is zero the direction is zero, too, not NaN. `weights`
# and `raw` stay as they are.


# %% id="slice" tags=["nbval-ignore-output"]
@lab.exercise("4.9")
def loss_slice(loss, weights, raw, alphas):
    """The loss along a filter-normalised direction."""
    ### BEGIN SOLUTION
    direction = []
    for w, d in zip(weights, raw, strict=True):
        if w.ndim < 2:
            direction.append(torch.zeros_like(w))
            continue
        length = d.norm(dim=1, keepdim=True).clamp(min=1e-12)
        direction.append(d / length * w.norm(dim=1, keepdim=True))
    losses = []
    for alpha in alphas:
        pairs = zip(weights, direction, strict=True)
        losses.append(loss([w + alpha * d for w, d in pairs]))
    return torch.stack(losses)
    ### END SOLUTION


# %% id="slice-check" tags=["nbval-ignore-output"]
lab.check("4.9")
lab.hints("4.9")

# %% id="slice-see" tags=["nbval-ignore-output"]
alphas = [round(0.1 * i, 1) for i in range(-10, 11)]
loss = loss_of(trained.model, validation(chosen, 4))
weights = weights_of(trained.model)
curves = {
    f"direction {number}": loss_slice(
        loss, weights, random_direction(trained.model, number), alphas
    ).tolist()
    for number in (1, 2, 3)
}
view = slices_view(alphas, curves, "Three slices of one loss")
show_figure(view.figure, view.sentence)

# %% [markdown] id="twin-text"
# What do we know now? Less than it seems. A feed-forward layer of this model computes
# $y = D\,(\mathrm{silu}(G x) \odot U x)$ with matrices $G$, $U$, $D$ and a curve silu;
# $\odot$ multiplies number by number. $U$ enters only as a factor, so $8U$ and $D / 8$
# compute the same. Change all layers so. Is the valley of this **twin** as wide? Along your filter-normalised direction, and along a raw one of the
# same length:

# %% id="twin" tags=["nbval-check-output"]
from labs.lab_04b.landscape import rescaled_twin


def raw_slice(weights, raw, size):
    """Losses along `raw` as it is, made as long as `size` as a whole."""
    length = math.sqrt(sum(d.square().sum().item() for d in raw))
    moved = zip(weights, raw, strict=True)
    return loss([w + size / length * d for w, d in moved]).item()


raw = random_direction(trained.model, 1)
twin = rescaled_twin(trained.model, 8.0)
normal = filter_direction(weights, raw)
size = 0.3 * math.sqrt(sum(d.square().sum().item() for d in normal))
at = [loss_slice(loss, w, raw, [0.0, 0.3]) for w in (weights, twin)]
rises = [raw_slice(w, raw, size) - at[0][0].item() for w in (weights, twin)]
same = [torch.allclose(at[0][i], at[1][i], rtol=1e-3) for i in (0, 1)]
print(f"the twin has the same loss: {same[0]}")
print(f"and the same normalised slice: {same[1]}")
print(f"but another raw one: {abs(rises[1] / rises[0] - 1) > 0.05}")

# %% id="twin-size" tags=["nbval-ignore-output"]
print(f"rise along the raw direction: {rises[0]:.3f}, twin {rises[1]:.3f}")

# %% [markdown] id="twin-after"
# At scale `cpu` (seed 0) the twin's loss rises seven times as much as the model's, by 1.7
# instead of 0.23, though both are the same function. (At `ci`, 16 steps, training has not
# reached a minimum: along such a line the loss may even fall.) So "flat" and "sharp" mean little unless it is said *relative
# to what* (Dinh et al. [2017](https://arxiv.org/abs/1703.04933)). Filter normalisation
# removes this ambiguity, not every one.
#
# ## Play (86 – 96 min)
#
# **Planes.** With two directions a slice becomes a plane. Dark is low; the star is the
# end of a training, the line the way there (from the first sixteenth on). All from the
# record. *Random* directions
# are filter-normalised; *along the path* are the two in which the path moved most
# (principal components), and there the axes are plain distances.
#
# Try this:
# 1. Two random directions. Where is the path?
# 2. Along the path. How much of it does this plane show? (Read the sentence.)
# 3. Change the seed. Which features of the landscape stay?
#
# <details><summary>Answers</summary>
#
# 1. Almost on the star. In so many dimensions a random plane is nearly at right angles
#    to anything, to the path as well. What you see there was never visited.
# 2. Most of it: few directions explain where a training went. They were chosen for
#    that, after the fact.
# 3. A bowl, each time, whatever the seed: a plane through a minimum looks like a bowl,
#    because nearly all directions go up. A plane shows *no* path out of it, and could not
#    show a barrier that lies elsewhere. Nor does it show a local minimum.
#
# </details>

# %% id="planes" tags=["nbval-ignore-output"]
landscape_explorer().show()

# %% id="planes-share" tags=["nbval-check-output"]
print("\n".join(record.share_lines(["plain"])))

# %% [markdown] id="workers-play"
# **Workers.** One unit of time is a sample on a fast worker; each worker has 16 samples
# on average. The closed form and whole numbers, nothing measured.
#
# Try this:
# 1. 4 workers, 3 times slower. Raise the fixed time. Why does the percentage fall?
# 2. 64 workers, one 8 times slower. Would you keep it?
#
# <details><summary>Answers</summary>
#
# 1. As many units are saved, out of a longer step: the fixed time is paid by all,
#    whatever the division.
# 2. It computes 2 samples of 1024. What it adds is not worth what it may cost: it takes
#    part in every exchange, and when it fails, all wait.
#
# </details>

# %% id="workers" tags=["nbval-ignore-output"]
workers.balance_explorer().show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (96 – 114 min)
#
# The article says: "Work is re-balanced over unequal machines, for maximal utilization",
# and "exploring the loss landscape avoids local minima and speeds up convergence". It
# gives no number. Our rules, written before the runs: four fifths of the waiting gone;
# and a loss at least 0.02 nats a byte lower with SAM. No source is known either. In its
# place stand two rules of ours: 45 % of the step saved (the closed form says half; nine
# tenths of that leave room for fixed times and the exchange); and 0.005 nats lower with
# averaged weights (EMA), the least that is worth a second set of weights.
#
# **Machines.** Two processes, each pinned to a core, the second three times slower: it
# computes each gradient three times. 60 steps of a small GPT, five seeds; the first third
# of the steps, in which batches settle, does not count. *ms*: the median of five seeds,
# the lowest and the highest. *Bound* is $T$ with $a_i = 0$ and, for $c_i$, the measured
# time per sample, fixed time included: computing, nothing else. *Waiting*: of the time
# from a worker's begin until all have met, the share after its last gradient. *Batches*:
# the last ones of the first seed. The last two rows are a control: workers that are alike.

# %% id="balance-record" tags=["nbval-check-output"]
print("\n".join(record.balance_lines()))
print(record.slowdown_words())

# %% [markdown] id="balance-after"
# (More than three, as fixed time is in it, and weighs more in a batch of 9.) Where workers
# are alike, balancing follows chance: one seed ends with 19 and 29, at 92 ms.

# %% [markdown] id="explore-text"
# **Exploring.** The article names no method. The best-known one that looks around is
# **SAM**: before each step it goes a little *uphill*, to the worst point nearby, and takes
# the gradient there ([Foret et al. 2021](https://arxiv.org/abs/2010.01412)); **ASAM** does
# so relative to the size of weights. Averaging weights is another idea: **EMA** keeps a
# fading mean of them, **LAWA** the mean of the latest few snapshots.
#
# SAM needs *two* gradients for a step, so here it makes **half as many steps**: all methods
# (*arms*, as in a trial) have the same number of gradients. (Both are of the same batch, so SAM also sees half as
# many samples.) Averages cost none. Each arm had six settings to choose from, three seeds
# each; what follows has five other seeds. The last row is a control, plain with half the
# gradients: against it SAM has as many steps, and twice the gradients.
#
# *Setting*: learning rate, then strength ($\rho$; the decay of EMA; how many snapshots
# LAWA averages). The loss is the median of five seeds, in brackets the lowest and the
# highest; then the mean gap to plain with the same seed, and its 95 % interval.

# %% id="predict-explore" tags=["nbval-ignore-output"]
lab.predict(
    "explore",
    "At equal gradients, which ends lower than plain?",
    record.CHOICES,
)

# %% id="reveal-explore" tags=["nbval-ignore-output"]
answer, view = record.explore_answer(), record.explore_view()
lab.reveal(
    "explore", answer=answer, sentence=view.sentence, figure=view.figure
)

# %% id="explore-record" tags=["nbval-check-output"]
print("\n".join(record.explore_lines()))

# %% [markdown] id="explore-after"
# *Why was I wrong?* Looking around sounds free, and is not. SAM ends 0.18 nats above
# plain: just where plain ends with *half* the gradients. So at equal steps the look uphill
# neither helps nor hurts here, and it costs half of the steps. Averages end where plain
# does, EMA a hair above: the learning rate falls to nearly nothing, so the last weights
# hardly move, and their mean is where they are. (All arms chose the highest rate of the
# search, and SAM, ASAM, EMA and LAWA the weaker of their two strengths: the nearer to
# plain, the better. What a higher rate would do is not known.)

# %% [markdown] id="repeated-text"
# SAM was made for another case: the same images, again and again, until a model knows
# them by heart. So here is a second task. The training text is short, and plain training
# reads it about eight times (SAM four times); settings are not tuned again.

# %% id="repeated-record" tags=["nbval-check-output"]
print("\n".join(record.repeated_lines()))

# %% [markdown] id="repeated-after"
# SAM ends 0.18 nats *lower*. A triumph? Look at the last row. Plain with half the gradients
# ends nearly as low: it has read the text four times, like SAM, and does not know it by
# heart yet. Seed by seed SAM is 0.011 [0.005, 0.016] below *that* row. So of the 0.18
# nearly all is *stopping earlier*, and a seventeenth is looking uphill. Without the
# control it would all have been SAM's.

# %% id="origins" tags=["nbval-ignore-output"]
for name in ("balance", "explore", "repeated", "slices"):
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdicts-text"
# The verdicts follow from rules in `data/claims/`, written before the runs:
# `agf-landscape` is exploring, `agf-resources` re-balancing. *Idle* is the share of
# waiting, *saving* 1 minus the ratio to equal batches. *Source* is our rule for similar
# published methods, as above. *Reproduced* means that the interval is clear of zero and
# reaches the rule.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Balancing is arithmetic, and it works on real processes**: a step takes 90 ms
#   instead of 161. By the costs that were measured computing alone needs 80. The 6 % of
#   waiting that is left is there among equals, too: it is the meeting itself. Where
#   machines are alike balancing saves nothing. (Both means, 0.76 and 0.41, are a little
#   below their rules, 0.8 and 0.45. Five seeds cannot rule those out.)
# - **Two ranks on two cores are not a cluster.** The exchange is local and fast, and the
#   slow one is slower by the same factor in every step. Cannikin, which models
#   communication as well, reports up to 52 % less time than the best adaptive method and
#   85 % less than DDP ([2402.05302](https://arxiv.org/abs/2402.05302)); OmniLearn 14 to
#   85 % ([2503.17469](https://arxiv.org/abs/2503.17469)). These numbers are theirs.
# - **A look around costs a gradient**, and that gradient could have been a step. The
#   comparison at equal *steps*, which many texts make, gives SAM twice the compute. Where
#   a text is read again and again, fewer steps are better, and SAM gets the credit, unless
#   there is a control.
# - **A slice never shows that a training "avoided a local minimum".** Nothing here tests
#   "avoids local minima"; what can be tested is the loss that one ends with.
#
# Rewrite both of the article's sentences honestly, in your head or on paper. Then say what
# you believe now.
#
# <details><summary>Ours</summary>
#
# "Giving each of two unequal workers its share of the samples took a step from 161 to 90
# ms." And: "Exploring with SAM ended 0.18 nats higher than plain training with as many
# gradients. Whether any local minimum was avoided was not tested."
#
# </details>

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("agf-landscape", "agf-resources")

# %% [markdown] id="recap"
# ## What you take away (114 – 120 min)
#
# - The slowest worker decides. At the best division all end together, and a closed form
#   says when.
# - With unequal batches a gradient has to be weighed by $W b_i / B$, or samples do not
#   count alike.
# - Costs are fitted to the latest steps, so balance is found again when machines change.
# - A slice needs a scale that follows the weights. Even then it is one direction of many.
# - Compare methods at equal gradients, not at equal steps; and with a control that trains
#   less, or stopping early passes for a method.
#
# **Limits.** Two processes, a model of 0.1 million weights, 240 gradients. Nothing here
# is about stragglers that come and go at random, nor about machines that differ in
# memory or in their links. And a balancer learns fixed times only while batches differ.
#
# **Diagnose.** What is wrong?
#
# 1. A team balances batches over old and new GPUs. Steps are faster, the loss is a little
#    worse, and the more unequal the batches, the worse.
# 2. A balancer fits $a_i$ and $c_i$ to the last 1000 steps. A GPU recovers from
#    overheating, and for an hour nothing happens.
#
# <details><summary>Answers</summary>
#
# 1. The factors $W b_i / B$ are missing: samples on slow GPUs, in small batches, count
#    for more.
# 2. The window is too long: old steps outvote the new ones. A short window is noisier
#    and quicker.
#
# </details>
#
# **Further reading.** [Li et al. 2018](https://arxiv.org/abs/1712.09913) on landscapes;
# [SAM](https://arxiv.org/abs/2010.01412); [LAWA](https://arxiv.org/abs/2209.14981);
# [Pollux](https://arxiv.org/abs/2008.12260);
# [an empirical model of large-batch training](https://arxiv.org/abs/1812.06162).

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# 4.11 uses the noise scale of 4.10; else each stands alone. Times are for someone who has
# done the core.
#
# ## 4.10 · The gradient noise scale · 12 minutes · ●●○
#
# How many samples should a step have? A gradient of $b$ samples is the true one, $G$,
# plus noise. The mean of its squared length is $\operatorname{tr}\Sigma / b$, where $\Sigma$
# is the covariance of one sample's gradient; its trace sums the variances of all weights
# ([McCandlish et al. 2018](https://arxiv.org/abs/1812.06162)):
#
# $$\mathbb{E}\,|g_b|^2 = |G|^2 + \frac{\operatorname{tr}\Sigma}{b},
# \qquad B_{\text{simple}} = \frac{\operatorname{tr}\Sigma}{|G|^2}$$
#
# At the batch $B_{\text{simple}}$ noise and gradient have the same length. Far below it
# twice the samples are worth two steps; far above, hardly more than one. Two batch sizes
# give two equations, and in data parallelism both gradients are there: each worker has
# $g_b$, and the mean is $g_B$.
#
# One step tells next to nothing. So keep a running mean of $|G|^2$ and one of
# $\operatorname{tr}\Sigma$, $m \leftarrow \text{decay} \cdot m + (1 - \text{decay})
# \cdot \text{new}$ from 0 on, and divide at the end. Return $B_{\text{simple}}$ after
# the last step.


# %% id="noise" tags=["nbval-ignore-output"]
@lab.exercise("4.10")
def noise_scale(small_S, big_S, b, B, decay):
    """B_simple from |g_b|^2 and |g_B|^2 of each step."""
    ### BEGIN SOLUTION
    signal = noise = 0.0
    for small, big in zip(small_S, big_S, strict=True):
        new_signal = (B * big - b * small) / (B - b)
        new_noise = (small - big) / (1 / b - 1 / B)
        signal = decay * signal + (1 - decay) * new_signal
        noise = decay * noise + (1 - decay) * new_noise
    return noise / signal
    ### END SOLUTION


# %% id="noise-check" tags=["nbval-ignore-output"]
lab.check("4.10")
lab.hints("4.10")

# %% id="noise-see" tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
G_P, S = torch.full((1000,), 1000**-0.5), 2000
for true in (4, 24, 100):
    small_S, big_S = [], []
    for _ in range(S):
        part_GP = torch.randn(4, 1000, generator=generator)
        g_GP = G_P + (true / 1000 / 2) ** 0.5 * part_GP  # groups of b = 2
        small_S.append(g_GP.square().sum(1).mean().item())
        big_S.append(g_GP.mean(0).square().sum().item())
    found = noise_scale(small_S, big_S, 2, 8, 0.998)
    print(
        f"made with {true}: found within 15 %: {abs(found / true - 1) < 0.15}"
    )

# %% [markdown] id="noise-record-text"
# Over a training, in sequences of 64 bytes; the batch has 8 of them, in four groups.
# Eight windows of 30 steps, three seeds:

# %% id="noise-record" tags=["nbval-check-output"]
print("\n".join(record.noise_lines()))

# %% [markdown] id="batch-text"
# At first the gradient is large and all samples agree on it: one sequence would do. Later
# it is small, and noise is most of what a batch of 8 shows. (Late windows are rough
# figures: $|G|^2$ is a small difference of larger numbers.) So a batch might start small
# and grow. Three rules
# with the same number of sequences. Each is shown at the learning rate that suits it best,
# of three, chosen on the same seeds. *Rate* is that of a batch of 8; for others it is
# multiplied by $\sqrt{B / 8}$. *Batches*: at eight places along the steps. (The one that
# follows the noise takes a running mean of it, moves every 8 steps and ends at 64: it
# comes late, and by the end it has reached 32.)

# %% id="batch-record" tags=["nbval-check-output"]
print("\n".join(record.batch_lines()))

# %% [markdown] id="batch-after"
# In samples the small batch is hard to beat: it makes the most steps. What a larger one
# buys is *fewer steps*, and so less time where more workers share them. The batch that
# follows the noise makes less than half as many, and ends 0.08 nats higher; 64 all along
# makes an eighth, and ends 0.33 higher.
#
# ## 4.11 · Goodput · 10 minutes · ●●○
#
# How much time? Pollux ([Qiao et al. 2021](https://arxiv.org/abs/2008.12260), section 3)
# multiplies two things: samples a second, and what a sample is worth in a large batch. A
# step of $B$ samples gets $1 / (1 + \varphi / B)$ as far as one without noise, so one of its
# samples is worth something proportional to $1 / (B + \varphi)$. With $a$, $c$ as above, $n$ the time of the exchange, $\varphi$ the noise scale and
# $B_0$ the batch for which the recipe was made,
#
# $$T = \Big(\big(a + c\,\tfrac{B}{W}\big)^{\gamma} + n^{\gamma}\Big)^{1/\gamma},
# \qquad \text{goodput} = \frac{B}{T} \cdot \frac{\varphi + B_0}{\varphi + B}$$
#
# $\gamma$ says how well computing and exchange overlap: 1 not at all, 10 almost wholly.
# Return the goodput.


# %% id="goodput" tags=["nbval-ignore-output"]
@lab.exercise("4.11")
def goodput(B, W, a, c, n, gamma, phi, B_0):
    """Samples a second, each counted for what it is worth."""
    ### BEGIN SOLUTION
    compute = a + c * B / W
    T = (compute**gamma + n**gamma) ** (1 / gamma)
    return B / T * (phi + B_0) / (phi + B)
    ### END SOLUTION


# %% id="goodput-check" tags=["nbval-ignore-output"]
lab.check("4.11")
lab.hints("4.11")

# %% id="goodput-see" tags=["nbval-check-output"]
print("best batch by W and noise scale; a = 5, c = 2, n = 20 ms, gamma = 1.5")
for W in (1, 4, 16):
    best = [
        max(
            range(W, 2049),
            key=lambda B: goodput(
                B, W, 0.005, 0.002, 0.02 * (W > 1), 1.5, phi, 8
            ),
        )
        for phi in (8, 64, 512)
    ]
    print(f"W = {W:2}: {best[0]} at 8, {best[1]} at 64, {best[2]} at 512")

# %% [markdown] id="goodput-after"
# The best batch grows with the noise scale and with the number of workers, so there is
# no best batch of a *model*. Pollux chooses both while jobs run, for a whole cluster.
#
# ## 4.12 · The worst point nearby · 8 minutes · ●○○
#
# SAM's step, for a vector of weights: with $g$ the gradient at $w$, return the gradient
# at $w + \rho\, g / |g|$ (Foret et al., equations 2 and 3): to first order the worst point
# within $\rho$. `gradient(w_P)` is the gradient anywhere, and not zero here. Leave `w_P` as
# it is.


# %% id="sam" tags=["nbval-ignore-output"]
@lab.exercise("4.12")
def sam_gradient(gradient, w_P, rho):
    """The gradient at the worst point within rho."""
    ### BEGIN SOLUTION
    g_P = gradient(w_P)
    return gradient(w_P + rho * g_P / g_P.norm())
    ### END SOLUTION


# %% id="sam-check" tags=["nbval-ignore-output"]
lab.check("4.12")
lab.hints("4.12")

# %% [markdown] id="sam-valley-text"
# A valley with one steep direction and one gentle one, curvatures 10 and 1. Plain
# descent and SAM, 40 steps of 0.1 from the same point. How large are the last weights?

# %% id="sam-see" tags=["nbval-check-output"]
curvature_P = torch.tensor([10.0, 1.0])
for rho in (0.0, 0.05, 0.2):
    w_P = torch.tensor([0.5, 0.5])
    for _ in range(40):
        if rho:
            g_P = sam_gradient(lambda w: curvature_P * w, w_P, rho)
        else:
            g_P = curvature_P * w_P
        w_P = w_P - 0.1 * g_P
    sizes = ", ".join(f"{abs(w):.3f}" for w in w_P.tolist())
    print(f"rho {rho:g}: {sizes}")

# %% [markdown] id="rise-text"
# **Are minima of SAM flatter?** From the record, for both tasks of the core: the mean rise of the loss when every row moves by a
# quarter of its length, in four filter-normalised directions and their opposites. (Each
# arm at its own setting, so learning rates differ, too.)

# %% id="rise-record" tags=["nbval-check-output"]
print("\n".join(record.rise_lines()))

# %% [markdown] id="rise-after"
# Flatter than plain's, yes: the loss rises half as much. So it does after plain training
# with half the gradients. Here a flat place is one that is reached early.

# %% [markdown] id="tuning-text"
# In the steep direction SAM does not settle. Near the bottom it looks $\rho$ up its own
# side, meets a steeper gradient there, and steps over the bottom. With this step (0.1 is
# 1 over the curvature) it lands $\rho$ away on the other side, again and again. In the
# gentle direction it hardly differs from plain descent.
#
# And here is how all arms of the record were tuned: mean validation loss of three seeds.

# %% id="tuning-record" tags=["nbval-check-output"]
print("\n".join(record.tuning_lines()))

# %% [markdown] id="curve-text"
# Does one of them get down *earlier*? Mean validation loss at equal numbers of gradients
# (on fewer batches than at the end, so the last column differs a little from the core's):

# %% id="curve-record" tags=["nbval-check-output"]
print("\n".join(record.curve_lines()))

# %% [markdown] id="curve-after"
# LAWA does, a little: from a quarter to half of the way it is 0.01 to 0.03 nats lower than
# plain; EMA by 0.01 at three and four eighths. While the rate is high, weights swing around something better than themselves, and
# a mean is nearer to it. At the end that is gone. SAM is behind all along.
#
# Last, planes of two other arms, SAM and LAWA. All are bowls, with a path that bends into them. Hide the
# numbers: who could tell which training ended higher?

# %% id="planes-arms" tags=["nbval-ignore-output"]
landscape_explorer(compare=True).show()

# %% id="planes-arms-share" tags=["nbval-check-output"]
print("\n".join(record.share_lines()))

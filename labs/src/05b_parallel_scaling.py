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
# # 05b · Parallel scaling: does 1.6B match 4.4B?
#
# **In two hours you will take a headline's three numbers apart, build the method that
# they come from, fit its published law anew, and say what size of model eight streams
# are really worth.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 14 | check the headline's arithmetic, run copies in parallel | parallel alone changes nothing |
# | 14 – 18 | guess what eight streams cost | |
# | 18 – 26 | read the idea | streams, prefixes, one answer |
# | 26 – 40 | write the aggregation | a smoothed softmax over streams |
# | 40 – 54 | train with it, then on four processes | streams as an axis of parallelism |
# | 54 – 70 | fit the published law | k, from 24 trainings |
# | 70 – 86 | turn the law round | the plain model of equal loss |
# | 86 – 98 | play: size, streams, texts | where the advantage is, and where it ends |
# | 98 – 114 | hold four sentences against the record | four verdicts |
# | 114 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: streams folded into the batch, memory and time of
# writing, streams that collapse, whether it is a logarithm, the kernel. They stand at the
# end and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb) and, for one cell, on the
# [processes primer](primers/processes.ipynb). Nothing of lab 05a is needed.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the torchrun cell: 1, 2 or 4

# %% id="setup" tags=["nbval-ignore-output"]
import math

import torch
import torch.nn.functional as F

from labs.lab_05b import arithmetic
from labs.lab_05b import record_tables as record
from labs.lab_05b.pictures import flops_view, refit_view
from labs.lab_05b.plan import GPT_PLANS, LIVE_STEPS
from labs.lab_05b.published import BENCHMARKS, LARGE, LOSSES, SHAPES, SMALL
from labs.lab_05b.questions import QUESTIONS
from labs.lab_05b.rank_training import train_on_ranks
from labs.lab_05b.refit import fit_published
from labs.lab_05b.scaling_explorer import scaling_explorer
from labs.lab_05b.training import diversity, train_arm, validation
from labsupport import Lab
from labsupport.exercise.practice import on_ranks
from labsupport.explore import show_figure
from labsupport.nn import ParScale

lab = Lab("05b", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
chosen = lab.settings.scale
plan = GPT_PLANS[chosen]
print(plan)

# %% [markdown] id="problem"
# ## Three numbers (0 – 14 min)
#
# A press article of July 2025 reports that "hybrid parallel training" lets a model of
# 1.6 billion parameters match one of 4.4 billion, trains at twice the speed, and needs
# 64 % less memory. It names DeepSeek, and no paper. Sizes, streams and results are those of
# **ParScale**, by Zhejiang University and Qwen
# ([Chen et al. 2025](https://arxiv.org/abs/2505.10475)). A *stream* there is one of several
# runs of the same weights on the same text. The authors published what they measured, so we
# can check. First the 64 %.

# %% id="arithmetic" tags=["nbval-check-output"]
small, large = (shape.parameters() / 1e9 for shape in (SMALL, LARGE))
print(f"parameters, billions: {small:.3f} and {large:.3f}, no embeddings")
print(f"1 - 1.6 / 4.4     = {1 - 1.6 / 4.4:.1%}")
print(f"1 - {small:.2f} / {large:.2f}   = {1 - small / large:.1%}")
print("the authors' benchmarks, per cent right:")
for b in BENCHMARKS:
    print(
        f"    {b.name:24} 1.6B {b.small}, with 8 streams {b.small_8}", end=""
    )
    print(", 4.4B " + (f"{b.large}" if b.large else "not known here"))
at = SHAPES.index(SMALL)
one, eight = (LOSSES["Stack"][P][at] for P in (1, 8))
goal = LOSSES["Stack"][1][-1]
print(f"loss on code: 1.6B {one}, with 8 streams {eight}, 4.4B {goal}")
print(f"of the way there: {(one - eight) / (one - goal):.0%}")

# %% [markdown] id="arithmetic-text"
# So 64 % is no measurement. It is the ratio of the two parameter counts, subtracted from
# 1. "Matches" holds for one average, over programming benchmarks: 39.1 against 39.2. The
# loss, which all of training is about, does not match: eight streams take the 1.6B
# model 72 % of the way to the 4.4B one. (In sizes it is less; you will work that out.) And
# "twice the speed" stands nowhere in the paper.
#
# Which leaves the word *parallel*. Can a model become better because it is computed in
# parallel? Let us try the naive thing: run several copies of a small GPT side by side, on
# the same text, with the same weights, and average what they say.

# %% id="copies" tags=["nbval-check-output"]
config, batch = plan.config, validation(chosen)[0]
alone = None
for P in (1, 2, 4, 8):
    torch.manual_seed(seed)
    copies = ParScale(config, P, prefix=0)  # copies: nothing tells them apart
    loss = copies.loss(*batch).item()
    alone = loss if alone is None else alone
    print(f"{P} in parallel, same loss: {abs(loss - alone) < 1e-4}")

# %% [markdown] id="copies-text"
# More work, and the same loss. Of course: the copies say the same, and any weighted mean of
# equal things is that thing. It would be the same on eight GPUs. **Parallelism decides where
# a sum is made, not what it comes to.** Data, tensor and pipeline parallelism
# ([lab 05a](05a_hybrid_parallelism.ipynb)) are all of that kind: built rightly, they change
# time and memory, and results only by rounding. So none of them can turn 1.6B into 4.4B.
#
# What could? Streams that do *not* say the same.
#
# ## Guess (14 – 18 min)

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "flops",
    "To train on one token, how many floating-point operations does 1.6B with "
    "8 streams need, compared with the plain 4.4B model?",
    arithmetic.CHOICES,
)

# %% id="reveal" tags=["nbval-ignore-output"]
answer, sentence = arithmetic.flops_answer()
view = flops_view()
lab.reveal("flops", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="reveal-after"
# *Why was I wrong?* Fewer parameters suggest less work. But work is parameters times how
# often they are used, and each stream uses all of them: eight times through all layers.
# (Two FLOPs a weight forward, four backward.) By FLOPs it is nearly three times as much
# work, where the article says "twice the speed". Seconds come later, in the record.
#
# ## The idea (18 – 26 min)
#
# ParScale runs $P$ **streams** of one model. All share its weights and read the same
# tokens. But each has a **prefix** of its own: $M$ keys and values in every layer's
# attention, which all tokens see, as if $M$ more tokens stood before the text. They are
# trained like weights. So stream $p$ computes $x_p = f(\text{tokens};\ \text{prefix}_p)$,
# and the streams differ.
#
# At the end there has to be *one* vector for each token, from which the next one is
# predicted:
#
# $$x = \sum_{p=1}^{P} w_p\, x_p$$
#
# The weights $w_p$ are made anew for each token. A small network, the **aggregator**, reads
# the vectors of all streams side by side and gives each stream a score. A softmax over the
# $P$ scores would make weights of them. But then a stream that is not chosen gets next to
# no gradient, learns nothing, and is chosen even less. So the softmax is **smoothed**: a
# share $\varepsilon$ of the total weight is divided evenly among all streams, and only the
# rest follows the softmax. The paper has $\varepsilon = 0.1$ (appendix A).
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $P$, $M$ | streams, positions of a prefix | | `P`, `M` |
# | $x_p$ | what stream $p$ makes of every token | $B \times T \times D$ | `x_PBTD[p]` |
# | | the aggregator's scores | $B \times T \times P$ | `logits_BTP` |
# | $w_p$ | weights; those of a token sum to 1 | $B \times T \times P$ | |
# | $\varepsilon$ | share that is divided evenly | | `eps` |
# | $x$ | what the output layer reads | $B \times T \times D$ | returned |
#
# $B$ texts, $T$ tokens, $D$ the model's width. Prefixes and aggregator add about 0.2 % of
# the parameters for each stream to a model of 1.6B.
#
# ## 5.7 · Many streams, one answer · 12 minutes · ●●○
#
# Return $x$ for all tokens. It has to be differentiable: the aggregator learns through
# its scores, the streams through what they say.


# %% id="aggregate" tags=["nbval-ignore-output"]
@lab.exercise("5.7")
def aggregate(x_PBTD, logits_BTP, eps):
    """The sum over streams, weighted by a smoothed softmax."""
    ### BEGIN SOLUTION
    P = x_PBTD.shape[0]
    share_BTP = torch.softmax(logits_BTP, dim=-1)
    w_BTP = (1 - eps) * share_BTP + eps / P
    w_PBT1 = w_BTP.movedim(-1, 0).unsqueeze(-1)
    return (w_PBT1 * x_PBTD).sum(dim=0)
    ### END SOLUTION


# %% id="aggregate-check" tags=["nbval-ignore-output"]
lab.check("5.7")
lab.hints("5.7")

# %% id="aggregate-see" tags=["nbval-check-output"]
x_PBTD = torch.tensor([10.0, 20.0]).view(2, 1, 1, 1)
for score in (0.0, 2.0, 20.0):
    logits_BTP = torch.tensor([[[score, 0.0]]], requires_grad=True)
    for eps in (0.0, 0.1):
        x = aggregate(x_PBTD, logits_BTP, eps)
        least = 1 - abs(20 - x.item()) / 10
        print(f"score {score:4g}, eps {eps:3g}: {x.item():6.3f}, ", end="")
        print(f"the second stream weighs {least:.3f}")

# %% [markdown] id="aggregate-after"
# Without smoothing a lead of 20 silences the second stream. With it, it keeps half of
# $\varepsilon$, and what it says goes on being learnt from.
#
# ## Train with your part (40 – 54 min)
#
# First: is it right in a training? A few steps with your aggregation, a few with ours,
# from the same weights, on the same data.

# %% id="same" tags=["nbval-check-output"]
losses = {}
for who, part in (("yours", {"aggregate": aggregate}), ("ours", {})):
    run = train_arm("p4", 0, "ci", 8e-3, **part)
    losses[who] = torch.tensor([row["loss"] for row in run.metrics])
gap = (losses["yours"] - losses["ours"]).abs().max()
print(f"same losses to 1e-4: {gap < 1e-4}")

# %% [markdown] id="live-text"
# Now a small GPT on Python code, with four streams and your aggregation; then the plain
# one with one stream, for as many steps.

# %% id="live" tags=["nbval-ignore-output"]
trained = train_arm(
    "p4",
    lab.settings.seed,
    chosen,
    plan.lr,
    aggregate=aggregate,
    steps=LIVE_STEPS[chosen],
    live=True,
    title="Four streams",
)
plain = train_arm(
    "plain",
    lab.settings.seed,
    chosen,
    plan.lr,
    steps=LIVE_STEPS[chosen],
    live=True,
    title="One stream",
)

# %% id="live-see" tags=["nbval-ignore-output"]
tail = LIVE_STEPS[chosen] // 4
for name, run in (("four streams", trained), ("one stream", plain)):
    mean = sum(row["loss"] for row in run.metrics[-tail:]) / tail
    print(f"{name:13} training loss, last quarter: {mean:.3f}")
found = diversity(trained.model, batch[0].to(lab.settings.device))
print(f"cosine of two streams {found['alike']:.3f}, ", end="")
print(f"evenness of weights {found['even']:.2f}, ", end="")
print(f"the most heard stream has {found['one']:.0%}")

# %% [markdown] id="live-after"
# The second number of the last line is the entropy of a token's softmax, divided by
# $\ln P$: 1 where all streams count alike, 0 where one alone does. One run says little about losses
# that are so near each other; the record has five seeds.
#
# ## Streams on processes
#
# Streams are an **axis of parallelism** of their own. Let each of $W$ processes run $P / W$
# of them. All have all weights and read the same texts. They meet once in a forward, before
# your aggregation: an `all_gather` of $x_p$. From there on all compute the same. In the
# backward each takes the gradient of its own streams, and at the end gradients are averaged
# as in data parallelism. (`labsupport/distributed/stream_parallel.py` does it, with a factor
# $W$: each rank has the whole gradient of its streams, and the mean divides it by $W$.)
# Your function runs on every rank.

# %% id="ranks" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name ranks --push aggregate,chosen,seed
import torch
import torch.distributed as dist

from labs.lab_05b.rank_training import train_on_ranks

torch.set_num_threads(1)
dist.init_process_group(backend())
with count_traffic() as moved:
    losses = train_on_ranks(
        dist, chosen, seed, aggregate=aggregate, device=device(), watch=log
    )
share("losses", losses)
print(f"{len(losses)} steps, last loss {losses[-1]:.3f}, ", end="")
print(f"sent {moved.ideal_sent / len(losses) / 1e3:.0f} kB a step")

# %% id="ranks-check" tags=["nbval-check-output"]
alone = on_ranks(
    lambda seed, dist: train_on_ranks(
        dist, chosen, seed, device=lab.settings.device
    ),
    [seed],
)[0]
every = [ranks[rank].losses for rank in range(world)]
gap = max(
    abs(mine - other)
    for losses in every
    for mine, other in zip(losses, alone, strict=True)
)
print(f"all ranks have the same loss: {len({str(e) for e in every}) == 1}")
print(f"and that of one process, to 1e-3: {gap < 1e-3}")

# %% [markdown] id="ranks-after"
# This is the nearest thing to the article's hybrid: streams on ranks. Its loss is that of
# *one* process with four streams. Where the streams run is one question, what they are
# worth is another.
#
# ## The law (54 – 70 min)
#
# What are they worth? The authors trained models of six sizes with 1, 2, 4 and 8 streams,
# on two corpora, 48 trainings of 42 billion tokens, and put a law through the final losses
# (section 3):
#
# $$L(N, P) = E + \left(\frac{A}{N\,(k \ln P + 1)}\right)^{\alpha}$$
#
# | symbol | meaning |
# |---|---|
# | $N$ | parameters without embeddings, those that streams add included, in billions |
# | $E$ | the loss that no size falls below |
# | $A$ | the size, in billions, at which one nat above $E$ is left |
# | $\alpha$ | how fast what is above $E$ falls with size |
# | $k$ | what streams are worth; $k = 0$: nothing |
#
# With one stream it is the familiar law of size. The logarithm is the natural one.
#
# To fit it one needs a number that says how far the law is off. The authors take, for
# every training, the *difference of logarithms* of expected and measured loss: so a per
# cent counts as a per cent, whatever the corpus. Of these errors they sum the **Huber
# loss**. It is a parabola near zero, $r^2 / 2$ up to $\delta$, and goes on from there,
# without a jump, as a straight line of slope $\delta$. So single odd trainings pull less than with squares. They have
# $\delta = 0.001$.
#
# ## 5.8 · How far the law is off · 14 minutes · ●●○
#
# `law_4` holds $E$, $A$, $\alpha$, $k$, in this order; `N_S`, `P_S`, `loss_S` have an entry
# for each training. Return the sum of Huber losses, as a tensor: a gradient with respect
# to `law_4` is needed.


# %% id="misfit" tags=["nbval-ignore-output"]
@lab.exercise("5.8")
def misfit(law_4, N_S, P_S, loss_S, delta):
    """The Huber loss of log losses under the law, summed."""
    ### BEGIN SOLUTION
    E, A, alpha, k = law_4
    worth_S = k * torch.log(P_S) + 1
    expected_S = E + (A / (N_S * worth_S)) ** alpha
    size_S = (expected_S.log() - loss_S.log()).abs()
    line_S = delta * (size_S - delta / 2)
    return torch.where(size_S <= delta, size_S**2 / 2, line_S).sum()
    ### END SOLUTION


# %% id="misfit-check" tags=["nbval-ignore-output"]
lab.check("5.8")
lab.hints("5.8")

# %% [markdown] id="fit-text"
# Now the fit, with your function, from two starting points for each corpus: L-BFGS walks
# downhill along its gradient. The authors report $k = 0.39$ on code (Stack-V2-Python) and
# $0.33$ on text (the Pile).

# %% id="fit" tags=["nbval-check-output"]
fits = {c: fit_published(c, misfit) for c in ("Stack", "Pile")}
for corpus, fit in fits.items():
    print(f"{corpus:5} E {fit.E:.3f}, A {fit.A:.4f}, ", end="")
    print(f"alpha {fit.alpha:.3f}, k {fit.k:.3f}, R2 {fit.r2:.4f}")

# %% id="fit-view" tags=["nbval-ignore-output"]
view = refit_view("Stack", fits["Stack"])
show_figure(view.figure, view.sentence)

# %% [markdown] id="fit-after"
# 24 points, four numbers, and on code 99.8 % of the variance. Streams are worth more on code than on
# text. And $\ln P$ grows slowly: the step from 4 to 8 streams, which doubles the work, is
# worth as much as that from 1 to 2.
#
# ## The plain model of equal loss (70 – 86 min)
#
# "1.6B matches 4.4B" is a sentence about sizes. So let us translate: *which plain model, of
# one stream, has the loss of $N$ with $P$ streams?* There are two ways to find out.
#
# - **By the law.** A plain model is the law with $P = 1$. Set both sides equal.
# - **By the curve.** The plain models' losses were measured at six sizes. Find where the
#   loss in question lies between two of them. Losses fall nearly as a straight line in
#   $\ln N$, so go from the one to the other along $\ln N$. No law is needed for that.
#
# ## 5.9 · The plain model of equal loss · 14 minutes · ●●●
#
# Return both sizes, by the law and by the curve. `loss` is what $N$ with $P$ streams
# reached. `N_S` and `loss_S` are lists of numbers here, of plain models only: sizes rise,
# losses fall. Where none was measured (the loss lies beyond either end) the second size is
# NaN, `float("nan")`.


# %% id="equal" tags=["nbval-ignore-output"]
@lab.exercise("5.9")
def equal_plain(N, P, k, loss, N_S, loss_S):
    """The plain model as good as N with P streams, found in two ways."""
    ### BEGIN SOLUTION
    by_law = N * (1 + k * math.log(P))
    by_curve = float("nan")
    for i in range(len(N_S) - 1):
        upper, lower = loss_S[i], loss_S[i + 1]
        if upper >= loss >= lower:
            way = (upper - loss) / (upper - lower)
            by_curve = N_S[i] * (N_S[i + 1] / N_S[i]) ** way
    return by_law, by_curve
    ### END SOLUTION


# %% id="equal-check" tags=["nbval-ignore-output"]
lab.check("5.9")
lab.hints("5.9")

# %% id="equal-see" tags=["nbval-check-output"]
billions = [shape.parameters() / 1e9 for shape in SHAPES]
for corpus, fit in fits.items():
    for P in (2, 4, 8):
        N, loss = SMALL.parameters(P) / 1e9, LOSSES[corpus][P][at]
        by_law, by_curve = equal_plain(
            N, P, fit.k, loss, billions, LOSSES[corpus][1]
        )
        print(f"{corpus:5} 1.6B with {P} streams: loss {loss:.4f}, ", end="")
        print(f"as a plain {by_law:.2f}B by the law, ", end="")
        print(f"{by_curve:.2f}B by the curve")

# %% [markdown] id="equal-after"
# By its loss 1.6B with eight streams is worth a plain model of about **3 billion** on code
# and **2.8** on text, not 4.4. To match 4.4B on code, the law asks for some fifty streams,
# far beyond the eight that were measured. (For ninety, if the parameters that streams add
# are not counted.)
#
# The two ways do not agree to the last digit, and they need not. For eight streams the
# law's loss is 0.003 too high. On the curve of plain models it is 0.003 too low, at the size
# in question. Each moves the size by about an eighth of a billion.
#
# ## Play (86 – 98 min)
#
# **Size, streams, texts.** Left: published losses and your kind of law; the black line goes
# from the model with streams to the plain one of equal loss. Right: what the streams cost,
# over what that plain model costs. To the left of the dotted line streams are cheaper.
# *Texts at a time* are being written, 2048 tokens each: every token that a stream has read
# leaves keys and values. All is calculated, nothing timed: training with 16 bytes a
# parameter, writing in bfloat16.
#
# Try this:
# 1. 1.6B, one text. Go from 1 to 8 streams. Which bars move to the right, and which to the
#    left?
# 2. 1.6B, 8 streams. Between which two numbers of texts does the smaller model begin to need
#    more memory than the larger one?
# 3. Does any of it change with the size?
#
# <details><summary>Answers</summary>
#
# 1. FLOPs to train: 1.57, 2.57, 4.33 times those of the plain model of equal loss. Weights,
#    gradients and Adam move to the left: 0.55 with eight streams. Memory to write, too:
#    0.63.
# 2. Between 1 (0.63 times as much) and 8 (1.04): at about seven. At 64 eight streams need
#    three times as much. The law's "smaller" model is one of few texts at a time: a phone,
#    not a server.
# 3. FLOPs and training states hardly: they depend on $k$ and $P$. Memory to write does. With
#    eight streams both need the same at 4.5 texts for 0.5B, at 7.4 for 1.6B, at 12 for 4.4B:
#    larger models have more weights for each byte of keys and values.
#
# </details>

# %% id="explore" tags=["nbval-ignore-output"]
scaling_explorer().show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (98 – 114 min)
#
# The article: *a 1.6B model matches a 4.4B model; at twice the speed; with 64 % less
# memory; training that took weeks takes days.* The rules were written before the recorded
# runs; the one for *matches* when the fit of all 24 losses was known.
#
# **Matches.** Taken to mean an equal loss. The published 24 trainings on code, fitted 24
# times, each time without one of them: in brackets the lowest and the highest result.

# %% id="published-record" tags=["nbval-check-output"]
print("\n".join(record.published_lines()))

# %% [markdown] id="scaling-text"
# **And in small?** ParScale's own claim is the law: eight streams are worth 1.82 times the
# parameters ($k = 0.3934$). We trained a GPT of 27,000 weights (blocks alone) on Python
# code, with 1, 2, 4 and 8 streams, and held it against plain models that are equal to eight
# streams in *one* respect each:
#
# - **parameters**: as many as eight streams have, with prefixes and aggregator. In a model
#   as small as this they are about 5 % a stream, not 0.2 %;
# - **by the law**: 1.82 times the weights;
# - **FLOPs**: a wider model with as many FLOPs a token, and the same small one on as many
#   more tokens as cost the same FLOPs;
# - **seconds**: the small one for as long as eight streams took.
#
# One more control has one stream *behind a prefix*: what does a prefix do without any
# streams? Each arm had five learning rates to choose from, three seeds each; what follows
# has five other seeds. *Weights* are all, embedding and output layer included; *rate* is the
# learning rate that was chosen; *FLOPs* are of the whole training, over the plain model's.
# The loss is the median in nats a byte, in brackets the lowest and the highest; then the
# mean gap to plain with the same seed, and its 95 % interval.

# %% id="scaling-record" tags=["nbval-check-output"]
print("\n".join(record.scaling_lines()))

# %% id="scaling-view" tags=["nbval-ignore-output"]
view = record.scaling_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="own-size-text"
# And translated, as in 5.9, on the curve through the plain models of three sizes (plain, by
# the law, FLOPs a token), each trained on as many tokens:

# %% id="own-size-record" tags=["nbval-check-output"]
print("\n".join(record.own_size_lines()))

# %% [markdown] id="scaling-after"
# **Here streams are worth nothing that one could see.** One, two, four and eight of them end
# within a hair of one another, and of one stream behind a prefix. Against plain no interval
# excludes zero. By the law eight should be as good as 1.82 times the weights; they are worse
# than that model by 0.045 nats, and there the interval does exclude zero. The same FLOPs,
# spent on width or on more tokens, bring three and seven times as much as the 1.82 do.
#
# Could the experiment see an effect of that size? The wider and the longer models it sees
# clearly. The gap of the 1.82 to plain is at the edge of what five seeds show.
#
# **Speed and memory of training.** Two models in the headline's proportions, one 2.77 times
# as large as the other, take turns on the same batch of 512 tokens. *States* are weights,
# gradients and Adam's two moments, *kept* is what the forward keeps for the backward, all
# counted in bytes; *bytes* is both.

# %% id="headline-record" tags=["nbval-check-output"]
print("\n".join(record.headline_lines()))

# %% [markdown] id="headline-after"
# Not half the seconds, but 3.6 times as many; the FLOPs say 3.0. *States* are less than half,
# which is the headline's 64 %. (In so small a model prefixes and aggregator weigh more, so
# it is 54 %.) But every stream keeps its own results for the backward, 4.7 times as much.
# In all a step needs 2.7 times the bytes, not 64 % less. With fewer tokens at a time, or
# where the backward computes them anew, the ratio comes nearer to that of the states.
#
# **Writing.** This is what ParScale's authors do claim: up to 6 times less increase of
# latency, and up to 22 times less of memory, than a larger plain model of equal loss, for
# *one* text at a time. Measured with models of 25 million weights and more, too large for
# the processor's caches. *More* is what one text costs beyond the plain model.

# %% id="more-record" tags=["nbval-check-output"]
print("\n".join(record.more_lines()))

# %% id="origins" tags=["nbval-ignore-output"]
for name in ("published", "scaling", "headline", "writing"):
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdicts-text"
# Memory is in kind what the authors say: for one text eight streams add a third of what the
# larger model adds. Time is not: they add three times as much, where the authors report up
# to six times less. A GPU has arithmetic to spare at one text, and a processor has not.
#
# The verdicts follow from the rules in `data/claims/`. *Ratio* is eight streams over the
# plain model that they are held against, *saving* 1 minus that. *Could have seen* is half
# the width of the 95 % interval over seeds.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Streams work, as published, and are worth a logarithm.** 1.6B with eight of them has
#   the loss of a plain model of 2.9B (by the law) or 3.2B (by the curve) on code. That is a
#   result. It is not 4.4B.
# - **They are paid for in training FLOPs**, about $P$ times. The authors know: they train
#   with one stream for a trillion tokens, and with $P$ for the last 20 billion (section 4).
# - **64 % less** is true of weights and optimizer states against a model that is 2.77 times
#   as large. Against the plain model of *equal loss* it is 45 % by the law, 50 % by the
#   curve. What the forward keeps
#   grows with the streams.
# - **In small nothing speaks for the streams.** A GPT of 27,000 weights that reads 0.3 million
#   bytes is far from the authors' 42 billion tokens, and its streams hardly differ (a deep
#   part shows it). The verdict on their law holds at this scale only.
# - **Nothing here moved between data and model parallelism.** The article's mechanism and
#   the numbers that it quotes have nothing to do with each other.
#
# Rewrite the article's headline in one honest sentence. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("hyb-1.6-4.4", "hyb-2x", "hyb-64", "hyb-days")

# %% [markdown] id="recap"
# ## What you take away (114 – 120 min)
#
# - Parallelism changes where a sum is made, not its value. A better result has another
#   cause.
# - ParScale gives each stream a prefix, so that shared weights compute different things;
#   a smoothed softmax makes one answer of them.
# - Translate losses into sizes: *which plain model is as good?* By a law, or by
#   interpolating what was measured.
# - A ratio needs its other half: less memory than *what*, at how many texts?
# - The published table fits on a page. Whoever ships it can be checked.
#
# **Limits.** The law is fitted to models of 0.5 to 4.4 billion parameters, at most eight
# streams and one number of tokens. Writing was timed on a processor; a GPU has far more
# arithmetic for each byte that it reads, which favours streams at one text.
#
# **Diagnose.** What is wrong?
#
# 1. A team trains four streams without smoothing. The loss is that of one stream, and four
#    times as much is computed.
# 2. A company compares "our 1.6B model with eight streams" to a 4.4B one, by memory, for
#    one text of 128 tokens, and builds a service for 500 users at a time.
#
# <details><summary>Answers</summary>
#
# 1. One stream has won. The others have weights near 0 and no gradient, and so stay as they
#    are. A share $\varepsilon$ for all of them keeps them learning.
# 2. For one short text memory is weights. For 500 it is keys and values, of which eight
#    streams have eight times as many.
#
# </details>
#
# **Further reading.** [ParScale](https://arxiv.org/abs/2505.10475), and its code
# [QwenLM/ParScale](https://github.com/QwenLM/ParScale), which ships the table that you
# fitted; [prefix tuning](https://arxiv.org/abs/2101.00190);
# [Chinchilla](https://arxiv.org/abs/2203.15556), where laws are fitted this way.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## 5.10 · Streams in the batch, each behind its prefix · 15 minutes · ●●●
#
# How do $P$ streams run at once? As rows of a larger batch: $B$ texts become $R = P B$
# rows, the $B$ rows of the first stream first, then those of the second. Norms and matrices
# treat every row alike anyway. Only attention has to know which stream a row belongs to,
# as it sees that stream's prefix.
#
# Queries, keys and values are $R \times H \times T \times K$, for $H$ heads of width $K$; each
# prefix is $P \times H \times M \times K$.
#
# Return what each query gathers: from the $M$ prefix positions of its stream, which all of
# its tokens see, and from the tokens up to and including its own. One softmax over both.
# `torch.nn.functional.scaled_dot_product_attention` is `F.scaled_dot_product_attention`
# here.


# %% id="attend" tags=["nbval-ignore-output"]
@lab.exercise("5.10")
def attend_with_prefixes(q_RHTK, k_RHTK, v_RHTK, prefix_k_PHMK, prefix_v_PHMK):
    """Attention of all streams' rows, each behind its own prefix."""
    ### BEGIN SOLUTION
    R, _, T, _ = q_RHTK.shape
    P, _, M, _ = prefix_k_PHMK.shape
    prefix_k_RHMK = prefix_k_PHMK.repeat_interleave(R // P, dim=0)
    prefix_v_RHMK = prefix_v_PHMK.repeat_interleave(R // P, dim=0)
    k_RHSK = torch.cat([prefix_k_RHMK, k_RHTK], dim=2)
    v_RHSK = torch.cat([prefix_v_RHMK, v_RHTK], dim=2)
    sees_TS = torch.ones(T, M + T, dtype=torch.bool).tril(M)
    sees_TS = sees_TS.to(q_RHTK.device)
    return F.scaled_dot_product_attention(
        q_RHTK, k_RHSK, v_RHSK, attn_mask=sees_TS
    )
    ### END SOLUTION


# %% id="attend-check" tags=["nbval-ignore-output"]
lab.check("5.10")
lab.hints("5.10")

# %% id="attend-see" tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
q, k, v = torch.randn(3, 2 * 3, 1, 5, 4, generator=generator)
prefixes = torch.randn(2, 2, 1, 3, 4, generator=generator)
mixed = attend_with_prefixes(q, k, v, *prefixes)
flag = F.scaled_dot_product_attention(q, k, v, is_causal=True)
print(f"rows of two streams of three texts: {len(mixed)}")
print(f"with prefixes something else: {not torch.allclose(mixed, flag)}")
moved = attend_with_prefixes(q, k, v, *prefixes.flip(1))
changed = (moved - mixed).abs().amax(dim=(1, 2, 3)) > 1e-4
print(f"prefixes exchanged: {int(changed.sum())} rows change")

# %% [markdown] id="attend-after"
# Why no `is_causal=True`? With more keys than queries PyTorch aligns its mask with the
# *first* key. Here that is a prefix's, and the first token would see nothing but that.
#
# ## 5.11 · Where the advantage ends · 8 minutes · ●○○
#
# Two models of equal loss are to write texts: a smaller one with $P$ streams, and a larger
# plain one. Weights are there once, whatever is written. Every token of a text leaves keys
# and values, in all layers, in every stream. `small_weights` and `large_weights` are bytes of
# all weights; `small_cache` and `large_cache` are bytes that one token leaves in *one*
# stream. At how many tokens, all texts together, do both need the same memory? Do not round.
# Return infinity if they never do.


# %% id="even" tags=["nbval-ignore-output"]
@lab.exercise("5.11")
def break_even(small_weights, small_cache, large_weights, large_cache, P):
    """Tokens at which both models need the same memory."""
    ### BEGIN SOLUTION
    faster = P * small_cache - large_cache
    if faster <= 0:
        return float("inf")
    return (large_weights - small_weights) / faster
    ### END SOLUTION


# %% id="even-check" tags=["nbval-ignore-output"]
lab.check("5.11")
lab.hints("5.11")

# %% [markdown] id="even-see-text"
# The last lines say what each model needs beyond plain 1.6B: the larger plain one, over
# eight streams. (The explorer takes 2.90B as equal, by the law. Here it is 3.16B, by the
# curve.)

# %% id="even-see" tags=["nbval-check-output"]
from labs.lab_05b import inference_bytes as held

equal_to = held.Plain(3.16e9)  # of 1.6B with 8 streams, on code, by the curve
cache = held.cache_bytes_a_token(SMALL.d_model)
tokens = break_even(
    held.weight_bytes(SMALL, 8),
    cache,
    equal_to.weight_bytes,
    equal_to.token_bytes,
    8,
)
print(f"a token leaves 8 x {cache / 1e3:.1f} kB, in the plain model ", end="")
print(f"{equal_to.token_bytes / 1e3:.1f} kB")
print(f"equal at {tokens:,.0f} tokens in flight:")
for length in (128, 2048, 32768):
    print(f"    {tokens / length:6.1f} texts of {length} tokens")
for texts, length in ((1, 128), (1, 2048), (8, 2048)):
    own = held.cache_bytes(SMALL, 1, texts, length)
    more = held.weight_bytes(SMALL, 8) - held.weight_bytes(SMALL, 1)
    more += held.cache_bytes(SMALL, 8, texts, length) - own
    plain_more = equal_to.weight_bytes - held.weight_bytes(SMALL, 1)
    plain_more += texts * length * equal_to.token_bytes - own
    print(f"{texts} of {length}: the plain model adds ", end="")
    print(f"{plain_more / more:.1f} times as much")

# %% [markdown] id="even-after"
# For one text of 128 tokens that is even more than the authors' "up to 22 times" (their
# script counts activations as well). For eight texts of 2048 tokens both need nearly the
# same, and for more the streams need more. All of these numbers are right, and a headline
# has room for one.
#
# And time? The record, for models of 25 million weights on a processor, with a cache as
# above (`labs/lab_05b/decoding.py`). One token for each text; everything over the plain
# model with one stream. *Memory* is weights and caches, counted:

# %% id="writing-record" tags=["nbval-check-output"]
print("\n".join(record.writing_lines()))

# %% id="writing-view" tags=["nbval-ignore-output"]
view = record.writing_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="writing-after"
# At one text eight streams take twice as long as one stream. Not eight times: weights are
# read once for all of them. But not as long, either: eight rows are more arithmetic than
# one, and a processor has little to spare. The larger plain model takes a third longer than
# the small one. At 64 texts arithmetic is all that counts: 6.4 times for eight streams, 1.6
# for the larger model. Memory turns round in the same way, from 0.7 times the larger
# model's to 3.6 times as much.
#
# ## Streams that collapse · 5 minutes
#
# Four streams with three smoothings: none, the default of the authors' code (0.01), the
# paper's (0.1). *Even* is the entropy of a token's softmax, divided by $\ln P$, before
# smoothing; *one* the share of the stream that is heard most, over all tokens. The second
# table has the streams of the core's record. *Alike* is the cosine of two streams' vectors.

# %% id="smoothing-record" tags=["nbval-check-output"]
print("\n".join(record.smoothing_lines()))
print("\n".join(record.stream_lines()))

# %% [markdown] id="smoothing-after"
# The softmax chooses one stream, whatever the smoothing, and nearly always the same one.
# Smoothing keeps the others learning, and the loss shows no difference: all streams say
# nearly the same (*alike*). So short a training does not teach them to differ, and an
# ensemble of equals is worth one of them. That is why the record above finds nothing.
#
# ## Is it a logarithm? · 8 minutes
#
# Another law through the same losses might say something else beyond eight streams. The
# paper's own theory is one: streams are an ensemble. If their errors are correlated by
# $\rho$, the mean of $P$ of them leaves $((P - 1)\rho + 1) / P$ of the reducible loss, and
# never less than $\rho$, however many there are. Or streams could be worth a power of their
# number, $N P^k$ in place of $N (k \ln P + 1)$. Each of the three has four numbers, and is
# fitted twice: to all 24 losses ($R^2$), and to those with at most four streams. The second
# fit then predicts the losses with eight, which it has not seen: the mean error (law minus
# measured), and the largest.

# %% id="rivals" tags=["nbval-check-output"]
from labs.lab_05b import rivals

print("\n".join(rivals.lines()))

# %% [markdown] id="rivals-after"
# The power promises too much at eight streams: its losses are too low. The fixed correlation
# promises too little. The logarithm fits best on both corpora, and what it predicts for
# eight is nearest. That speaks for it up to eight. Nobody has trained eighty.
#
# And here is how all arms of the record were tuned: mean validation loss of three seeds, a
# column for each learning rate, \* at the best:

# %% id="tuning-record" tags=["nbval-check-output"]
print("\n".join(record.tuning_lines()))

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
# Write the lines that are missing. `P` is known when the kernel is compiled, so a loop over
# `tl.static_range(P)` is written out, stream by stream. `P` need not be a power of two, and
# the last block of a row may not be full.

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

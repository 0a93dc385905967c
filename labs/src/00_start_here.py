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
# # 00 · Start here: the first hour
#
# **In one hour you will bet on ten claims about cheap training, be surprised
# by a sum, train a small GPT, replace one of its parts with your own code,
# and crash a parallel run on purpose.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 5 | say what you believe | a bet that lab 09 scores |
# | 5 – 15 | add a thousand ones | why low precision is hard |
# | 15 – 30 | train a GPT, stop it, resume it, let it write | how every lab trains |
# | 30 – 40 | write RMSNorm, wrong and then right | how every exercise works |
# | 40 – 55 | run two processes, then break one | how every lab goes parallel |
# | 55 – 60 | choose your way through the course | a plan |
#
# You need Python and a little PyTorch: tensors, modules, `backward()`. You do
# not need a GPU. On two CPU cores this lab computes for one to three minutes in
# all; the rest of the hour is yours.
#
# *How to use it:* read a cell, press Shift + Enter, look; run every cell, from
# the top. Nothing blocks: an exercise that you skip is done by our code, with
# a badge that says so.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 2  # processes in the torchrun cells; has to divide 24

# %% id="setup" tags=["nbval-ignore-output"]
import math
import threading

import plotly.graph_objects as go
import torch

from labs.lab_00.opening_explorer import opening_explorer
from labs.lab_00.plan import PLANS
from labs.lab_00.self_test import SELF_TEST
from labsupport import Lab
from labsupport.claims import load_claims
from labsupport.claims.beliefs import THE_TEN
from labsupport.claims.claim import ARTICLES
from labsupport.claims.spread import recorded_band
from labsupport.explore import View, choose, show_figure, slide
from labsupport.nn import GPT, GPTConfig, norm_from
from labsupport.tasks.corpus import Corpus, decode, encode
from labsupport.train import mean_loss, train

lab = Lab("00", scale=scale, seed=seed, world=world)

# %% [markdown] id="beliefs-text"
# ## What do you believe? (0 – 5 min)
#
# Four press articles explain how a strong language model could be trained for
# a few million dollars. This course rebuilds every technique that they name
# and checks every sentence that can be checked.
#
# Here are ten of those sentences. Say how sure you are that each one holds, as
# it is worded: 0 % certainly not, 100 % certainly. Each lab asks again about
# its own claims, and lab 09 scores you. Some words will be new; guess all the
# same:
#
# - *residual connection*: the path on which a layer's output is added to its
#   input; *manifold*: here, a set of allowed mixing matrices;
# - *expert*: one of many small networks, of which a few run for each token;
#   *auxiliary loss*: an extra term that pushes training towards a side goal;
# - *FP8*: numbers of 8 bits; *distillation*: training on a larger model's
#   output.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs(*THE_TEN)

# %% id="claims-count" tags=["nbval-check-output"]
claims = load_claims()
for number, about in ARTICLES.items():
    count = sum(claim.article == number for claim in claims)
    print(f"{about:28} {count:2} claims")
print(f"{len(claims)} claims, {len(THE_TEN)} of them are asked here")

# %% [markdown] id="opening-text"
# **One of them in a picture.** The first of the ten sentences is about signals
# that "stay stable". Lab 01 trained one small network with an ordinary residual
# connection, with a widened one (HC) and with a widened, projected one (mHC),
# 20 times each. The lines say how much the learned connections can amplify what
# passes through them. Move the learning rate, and compare the losses in the
# line below with the curves.

# %% id="opening" tags=["nbval-ignore-output"]
opening_explorer().show()

# %% [markdown] id="opening-after"
# At the larger rates the signal in HC grows a hundredfold and more, and its loss
# is the *lowest* of the three. So a training can look its best and be about to
# break: lab 01 shows where. Every lab has such an explorer, and such a record
# behind it. Which number to look at is half of what you learn here.

# %% [markdown] id="sum-text"
# ## A thousand ones (5 – 15 min)
#
# The cheapest trick in training is to use fewer bits per number: 16 instead of
# 32 halves the memory and the traffic, and a GPU multiplies them at least
# twice as fast. So what could go wrong?
#
# Training is a long sum: a weight starts somewhere and adds one small update
# after another. Take the plainest such sum. Start at 0 and add 1.0, a thousand
# times, in **bfloat16**, the 16-bit format that most models compute in.

# %% id="sum-predict" tags=["nbval-ignore-output"]
lab.predict(
    "sum",
    "Start at 0, add 1.0 a thousand times in bfloat16. What comes out?",
    ["1000", "996", "512", "256"],
)


# %% id="sum-run" tags=["nbval-ignore-output"]
total, path = torch.tensor(0.0, dtype=torch.bfloat16), []
for _ in range(1000):
    total = total + 1.0
    path.append(total.item())

figure = go.Figure(
    [
        go.Scatter(y=list(range(1, 1001)), name="exact", line_dash="dot"),
        go.Scatter(y=path, name="bfloat16"),
    ]
)
figure.update_layout(xaxis_title="additions", yaxis_title="sum")
lab.reveal(
    "sum",
    answer=f"{total.item():.0f}",
    figure=figure,
    sentence=f"The sum climbs to {max(path):.0f} and then stands still.",
)

# %% [markdown] id="sum-idea"
# **Why.** Apart from 0 and the very smallest, a floating-point number is a
# sign, a power of two and a fraction:
#
# $$x = \pm\, 2^{e} \left(1 + \frac{k}{2^{m}}\right), \qquad
# k \in \{0, \dots, 2^{m}-1\}$$
#
# - $e$ is the exponent: an integer that says between which two powers of two
#   the number lies.
# - $m$ is the number of fraction bits: 23 in float32, 10 in float16, 7 in
#   bfloat16, 3 in the FP8 format E4M3.
#
# Between $2^e$ and $2^{e+1}$ there are $2^m$ numbers, so neighbours are
# $2^{e-m}$ apart. From 256 $= 2^8$ on, bfloat16's next number is $2^{8-7} = 2$
# away. 257 lies exactly between 256 and 258, and a tie goes to the even
# fraction: back to 256. Each addition is rounded away, for ever.

# %% id="sum-gap" tags=["nbval-check-output"]
infinity = torch.tensor(torch.inf, dtype=torch.bfloat16)
for start in (64.0, 128.0, 256.0, 512.0):
    value = torch.tensor(start, dtype=torch.bfloat16)
    after = torch.nextafter(value, infinity).item()
    print(f"{start:4.0f} + 1 = {(value + 1).item():4.0f}   next: {after:g}")

# %% [markdown] id="explorer-text"
# **Play.** Below, a weight that starts at 1 receives 2000 equal updates. Choose
# the format and the size of the update, and how a result between two
# neighbours is rounded: to the *nearest* one, or *at random*, up with a chance
# equal to how far it has come.
#
# Try this:
# 1. Which is the smallest update that bfloat16 notices at all?
# 2. Round at random instead. What do you lose, and what do you gain?
# 3. Can FP8 hold a weight?
#
# <details><summary>Answers</summary>
#
# 1. $2^{-7}$ moves it, at least for a while; $2^{-8}$ is half a gap, a tie, and
#    is lost. Adam changes a weight by about its learning rate in a step, so at
#    a rate of 0.001 a weight near 1 would never move. (One near 0.1 would: its
#    gaps are finer.) That is why training keeps a float32 copy of all weights,
#    the *master weights*, for the optimizer alone.
# 2. The path becomes noisy, but on average nothing is lost.
# 3. Hardly: with 3 fraction bits the gap at 1 is 1/8. Lab 03 uses FP8 for what
#    is multiplied, with a scale for each block of numbers, and keeps float32
#    master weights.
#
# </details>


# %% id="explorer" tags=["nbval-ignore-output"]
def add_updates(bits: int, update: float, rounding: str, n: int = 2000):
    """Start at 1 and add `update` n times with `bits` fraction bits."""
    generator = torch.Generator().manual_seed(0)
    offset_N = torch.rand(n, generator=generator)
    weight, path = 1.0, []
    for offset in offset_N.tolist():
        exact = weight + update
        gap = 2.0 ** (math.floor(math.log2(exact)) - bits)
        steps = exact / gap  # how many gaps; a fraction lies between two
        if rounding == "to nearest":
            whole = round(steps)  # Python rounds ties to even, too
        else:
            whole = math.floor(steps) + (steps % 1 > offset)
        weight = whole * gap
        path.append(weight)
    return path


# %% id="explorer-view" tags=["nbval-ignore-output"]
FORMATS = {"float32": 23, "float16": 10, "bfloat16": 7, "FP8 E4M3": 3}


def weight_explorer(format: str, update: float, rounding: str) -> View:
    path = add_updates(FORMATS[format], update, rounding)
    exact = [1 + update * n for n in range(1, len(path) + 1)]
    figure = go.Figure(
        [
            go.Scatter(y=exact, name="exact", line_dash="dot"),
            go.Scatter(y=path, name=f"{format}, {rounding}"),
        ]
    )
    figure.update_layout(xaxis_title="updates", yaxis_title="weight")
    sentence = (
        f"{format}, rounded {rounding}, ends at {path[-1]:.4g} "
        f"instead of {exact[-1]:.4g}."
    )
    every = range(0, 2000, 250)
    table = {"update": list(every), "weight": [path[n] for n in every]}
    return View(figure, sentence, table)


# %% id="explorer-show" tags=["nbval-ignore-output"]
lab.explore(
    weight_explorer,
    format=choose("format", list(FORMATS), "bfloat16"),
    update=slide(
        "update",
        [2.0**-n for n in range(14, 2, -1)],
        start=2.0**-9,
        names=[f"2^-{n} = {2.0**-n:.2g}" for n in range(14, 2, -1)],
    ),
    rounding=choose("rounding", ["to nearest", "at random"]),
)

# %% [markdown] id="explorer-check-text"
# The explorer rounds with ordinary arithmetic. That it does what the hardware
# format does is checked here, against torch's own bfloat16 and float16:

# %% id="explorer-check" tags=["nbval-check-output"]
for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
    weight, theirs = torch.tensor(1.0, dtype=dtype), []
    for _ in range(2000):
        weight = weight + 0.01
        theirs.append(weight.item())
    same = theirs == add_updates(FORMATS[name], 0.01, "to nearest")
    print(f"{name}: {len(set(theirs))} different sums, as in torch: {same}")

# %% [markdown] id="gpt-text"
# ## Train a small GPT (15 – 30 min)
#
# Every lab changes some part of one small model and asks what it does to
# training. So meet the model, the data and the loop once.
#
# - **Data**: the source code of Python's standard library, read as bytes. A
#   token is a byte, so the vocabulary has 256 entries. The last tenth is kept
#   for validation.
# - **Model**: a GPT with the parts that today's large models use (RMSNorm,
#   rotary positions, causal attention, SwiGLU), in `labsupport/nn.py`. It is
#   short; read it after this hour.
# - **Loss**: the mean negative log-probability of the right next byte, in nats.
#   A model that knows nothing gives every byte 1/256, so it starts near
#   $\ln 256 \approx 5.55$.

# %% id="corpus" tags=["nbval-check-output"]
corpus = Corpus.load()
print(f"{len(corpus.train):,} bytes to train on")
print(f"{len(corpus.validation):,} bytes to validate on")
print(decode(encode("def f(x): return x")))

# %% id="plan" tags=["nbval-ignore-output"]
plan = PLANS[lab.settings.scale]
print(plan)
torch.manual_seed(seed)
model = GPT(plan.config).to(lab.settings.device)
print(f"{model.parameter_count():,} parameters")

# %% [markdown] id="causal-text"
# Two properties are worth checking before any training. An untrained model
# should know nothing, and no position may see the future: if the last byte
# changes, no earlier prediction may move.

# %% id="causal" tags=["nbval-check-output"]
torch.manual_seed(0)
small = GPT(GPTConfig(d_model=32, n_layers=2, n_heads=2))
tokens_BT = encode("while True: pass")[None]
changed_BT = tokens_BT.clone()
changed_BT[0, -1] = ord("!")
with torch.no_grad():
    loss = small.loss(tokens_BT[:, :-1], tokens_BT[:, 1:]).item()
    moved_BTV = (small(tokens_BT) - small(changed_BT)).abs()
print(f"loss within 0.1 of ln 256: {abs(loss - math.log(256)) < 0.1}")
print(f"earlier predictions moved: {moved_BTV[0, :-1].max().item() > 1e-6}")
print(f"last prediction moved:     {moved_BTV[0, -1].max().item() > 1e-6}")

# %% [markdown] id="train-text"
# **Now train.** While the curve grows, press **Stop** whenever you like. The
# next cell goes on exactly where you stopped: model, optimizer, data order and
# random numbers are all in the checkpoint.
#
# Validation uses other modules of the library than training. The grey band is
# the spread of five recorded seeds. It averages many steps, and so does the
# thick line: does yours lie inside?


# %% id="batches" tags=["nbval-ignore-output"]
shape = {"batch_size": plan.batch_size, "length": plan.length}
held_out = corpus.validation_batches(4, **shape)


def next_batch(step):
    return corpus.batch("train", step, seed=seed, **shape)


def validation_loss(model):
    return mean_loss(model, held_out)


# %% id="train" tags=["nbval-ignore-output"]
options = {
    "steps": plan.steps,
    "lr": plan.lr,
    "settings": lab.settings,
    "eval_fn": validation_loss,
    "checkpoint": "00_gpt",
    "band": recorded_band("00", "seed_spread", "gpt", lab.settings.scale),
}
run = train(model, next_batch, title="A small GPT", **options)

# %% id="resume" tags=["nbval-ignore-output"]
run = train(model, next_batch, title="Resumed", resume=True, **options)
run.table().tail(3)

# %% [markdown] id="resume-text"
# "Exactly" can be checked. Ten steps in one go, and five steps, a checkpoint, a
# new model and five more, give the same weights, bit for bit:


# %% id="resume-check" tags=["nbval-check-output"]
def ten_steps(model, stop_at=None, resume=False):
    button = threading.Event()

    def batch_fn(step):
        if step == stop_at:
            button.set()  # as if you pressed Stop during this step
        return corpus.batch("train", step, batch_size=4, length=32, seed=0)

    options = {"steps": 10, "lr": 1e-3, "checkpoint": "00_ten_steps"}
    train(model, batch_fn, stop=button, resume=resume, live=False, **options)
    return [weight.detach().clone() for weight in model.parameters()]


models = []
for start in (0, 0, 1):  # the third begins with other weights
    torch.manual_seed(start)
    models.append(GPT(GPTConfig(d_model=32, n_layers=2, n_heads=2)))
straight = ten_steps(models[0])
ten_steps(models[1], stop_at=4)
resumed = ten_steps(models[2], resume=True)
same = all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
print(f"10 steps = 5 steps, stop, resume, 5 steps: {same}")

# %% [markdown] id="sample-text"
# **Let it write.** A few hundred bytes from a model that started from random
# numbers minutes ago. Indentation, `self`, and colons at the end of a line are
# learned first; meaning is not to be expected at this size.

# %% id="sample" tags=["nbval-ignore-output"]
generator = torch.Generator(lab.settings.device).manual_seed(seed)
prompt = "class Reader:\n    def __init__(self, "
prompt_BT = encode(prompt)[None].to(lab.settings.device)
text_BT = model.generate(
    prompt_BT,
    lab.settings.pick(ci=80, cpu=400, gpu=400),
    temperature=0.8,
    top_k=40,
    generator=generator,
)
print(decode(text_BT[0]))

# %% [markdown] id="exercise-text"
# ## Your first exercise (30 – 40 min)
#
# **0.1 · RMSNorm · 10 minutes · ●○○**
#
# Before every attention and feed-forward layer, each token's vector is scaled
# to the same size. Today's large models do it with RMSNorm
# ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467), equation 4, with
# the usual $\varepsilon$ added):
#
# $$y_{d} = \frac{x_{d}}{\sqrt{\frac{1}{D} \sum_{i=1}^{D} x_{i}^{2} +
# \varepsilon}} \; w_{d}$$
#
# | symbol | meaning | shape |
# |---|---|---|
# | $x$ | the vector of one token | D numbers; `x_BTD` holds all tokens |
# | $w$ | the learned weight of each channel | `weight_D` |
# | $\varepsilon$ | keeps an all-zero token finite | a number, `eps` |
# | $y$ | the result | like $x$ |
#
# B counts sequences, T tokens in a sequence, D channels. The suffix of a name
# gives its shape, here and in all labs: `x_BTD` has shape (B, T, D).
#
# **First make it wrong on purpose**, to see what a check is like. Replace the
# `raise` below by this line and run the cell, then the check:
#
# ```python
# return x_BTD * torch.rsqrt(x_BTD.pow(2).mean(1, True) + eps) * weight_D
# ```
#
# The check stops at the first thing that is wrong, guesses the cause and names
# a hint. Then make it right. Until it is, the later cells use our version.


# %% id="exercise-0-1" tags=["nbval-ignore-output"]
@lab.exercise("0.1")
def rms_norm(x_BTD, weight_D, eps=1e-6):
    """Scale each token of x_BTD to root mean square 1, times weight_D."""
    ### BEGIN SOLUTION
    mean_square_BT1 = x_BTD.pow(2).mean(dim=-1, keepdim=True)
    return x_BTD * torch.rsqrt(mean_square_BT1 + eps) * weight_D
    ### END SOLUTION


# %% id="exercise-0-1-check" tags=["nbval-ignore-output"]
lab.check("0.1")

# %% id="exercise-0-1-hints" tags=["nbval-ignore-output"]
lab.hints("0.1")

# %% [markdown] id="mine-text"
# **Train with your part.** `GPT(norm=...)` takes the function that passed (or
# ours). The first ten losses should equal those of the built-in RMSNorm, up to
# rounding: same initial weights, same batches.
#
# If you want to watch your wrong version train, call `lab.mine("0.1")`: it
# forces yours, and the badge turns red. `lab.ours("0.1")` goes back.


# %% id="mine" tags=["nbval-check-output"]
def first_losses(norm=None, steps=10):
    """Train a tiny GPT for a few steps; the losses, one a step."""
    torch.manual_seed(0)
    parts = {} if norm is None else {"norm": norm_from(norm)}
    model = GPT(GPTConfig(d_model=32, n_layers=2, n_heads=2), **parts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        batch = corpus.batch("train", step, batch_size=8, length=32, seed=0)
        loss = model.loss(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


yours, built_in = first_losses(rms_norm), first_losses()
print(f"the loss falls: {bool(yours[-1] < yours[0])}")
print(f"equal to 1e-4:  {torch.allclose(yours, built_in, atol=1e-4)}")

# %% [markdown] id="ranks-text"
# ## Two processes, then one less (40 – 55 min)
#
# Large models train on thousands of processes. The smallest interesting number
# is two, and your machine can do that.
#
# - A **rank** is one process's number, 0 or 1 here. All ranks run the same
#   code; what differs is what they make of their rank. The number of ranks is
#   called the **world size**.
# - **Data parallelism**: every rank holds the whole model and takes its share
#   of each batch. After `backward()`, an **all-reduce** gives every rank the
#   sum of all gradients. Divide by the world size, and each rank makes the
#   same step.
#
# So one process and two processes should walk the same path. The function
# below is ordinary PyTorch. Read its loop: three lines and two arguments
# (`rank`, `world`) are all that parallelism adds. `dist` is
# `torch.distributed`, which the cells further down import.


# %% id="parallel" tags=["nbval-ignore-output"]
def parallel_losses(steps, corpus, norm):
    """Data parallelism by hand; returns this rank's losses, one a step."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    config = GPTConfig(d_model=32, n_layers=2, n_heads=2)
    model = GPT(config, norm=norm_from(norm))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    shape = {"batch_size": 24, "length": 32, "seed": 0}
    losses = []
    for step in range(steps):
        share = corpus.batch("train", step, rank=rank, world=ranks, **shape)
        loss = model.loss(*share)
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= ranks
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


# %% [markdown] id="torchrun-text"
# A cell that begins with `%%torchrun` is run by `torchrun`, PyTorch's own
# launcher, on as many new processes as you ask for. `--push` sends along
# functions and values from this notebook, your RMSNorm among them. `share`
# sends values back: they arrive as `one[0].loss` and `two[1].loss`. What rank 0
# prints is shown as it comes; click the line below it for the other ranks.
# (*gloo* is the library that carries messages between CPUs; GPUs use NCCL.)

# %% id="torchrun-one" tags=["nbval-ignore-output"]
# %%torchrun --nproc 1 --name one --push parallel_losses,rms_norm
import torch.distributed as dist

from labsupport.tasks.corpus import Corpus

dist.init_process_group()
losses = parallel_losses(20, Corpus.load(), rms_norm)
print(f"rank {dist.get_rank()}: {losses[0]:.4f} -> {losses[-1]:.4f}")
share("loss", losses)

# %% id="torchrun-two" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name two --push parallel_losses,rms_norm
import torch.distributed as dist

from labsupport.tasks.corpus import Corpus

dist.init_process_group()
losses = parallel_losses(20, Corpus.load(), rms_norm)
print(f"rank {dist.get_rank()}: {losses[0]:.4f} -> {losses[-1]:.4f}")
share("loss", losses)

# %% [markdown] id="compare-text"
# Each of the two ranks saw only half of every batch, so their losses differ
# from each other. Their mean is the loss of the whole batch: the same curve.

# %% id="compare" tags=["nbval-ignore-output"]
half_RN = two.stack("loss")
figure = go.Figure()
for rank, half_N in enumerate(half_RN):
    figure.add_scatter(y=half_N, name=f"rank {rank}'s share", line_dash="dot")
figure.add_scatter(y=half_RN.mean(0), name=f"mean of {len(two)} ranks")
figure.add_scatter(
    y=one[0].loss, name="one process", mode="markers", marker_symbol="x"
)
figure.update_layout(xaxis_title="step", yaxis_title="training loss")
show_figure(figure, "The mean over ranks lies on the one-process curve.")

# %% id="compare-check" tags=["nbval-check-output"]
difference = (half_RN.mean(0) - one[0].loss).abs().max().item()
print(f"same curve to 1e-4: {difference < 1e-4}")

# %% [markdown] id="kill-text"
# **Now break it.** In the next cell rank 1 fails before the third step, while
# rank 0 is on its way into an all-reduce, which needs both.

# %% id="kill-predict" tags=["nbval-ignore-output"]
lab.predict(
    "kill",
    "Rank 1 raises an error. What becomes of rank 0, which waits for it?",
    [
        "it goes on alone",
        "it waits for ever",
        "it ends with an error",
    ],
)

# %% id="kill" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --name broken --may-fail --timeout 60
import torch
import torch.distributed as dist

dist.init_process_group()
for step in range(5):
    if dist.get_rank() == 1 and step == 2:
        raise ValueError("bit flip in the optimizer state")
    gradient = torch.ones(3)
    dist.all_reduce(gradient)
    print(f"rank {dist.get_rank()} finished step {step}", flush=True)

# %% id="kill-check" tags=["nbval-check-output"]
print(f"first to fail: rank {broken.error.rank}, {broken.error.type}")

# %% id="kill-reveal" tags=["nbval-ignore-output"]
lost = "rank 0 lost its peer" in broken.error.report
lab.reveal(
    "kill",
    answer="it ends with an error" if lost else "it goes on alone",
    sentence="Its connection broke; torchrun would have ended it anyway.",
)

# %% [markdown] id="kill-after"
# That is the rule in synchronous training: **one failure stops all**. While
# Llama 3 was trained on 16,384 GPUs, something unexpected stopped it 419 times
# in 54 days, about once in three hours
# ([Llama team 2024](https://arxiv.org/abs/2407.21783), section 3.3.4). That is
# why checkpoints matter.
#
# The report begins with the one traceback that matters and the line of your
# cell. Rank 0's complaint often comes first, but it is a consequence: here it
# is cut to one line, *lost its peer*.
#
# *More to try:* replace the `raise` by `import os; os._exit(3)`; by
# `import time; time.sleep(1e6)` (it ends at `--timeout 60`, and shows where
# each rank was); or press JupyterLab's stop button while a cell runs.

# %% [markdown] id="map-text"
# ## Where to go from here (55 – 60 min)
#
# The course has two entrances. Both need only this lab.
#
# - **How is training made cheap?** Labs 01 (stable signals), 02 (experts) and
#   03 (eight bits), in any order; then 04 (gradients) and 05 (parallelism).
# - **How does a model learn to reason?** Lab 06 (chain of thought), 07
#   (reinforcement without human ratings), 08 (distillation), in this order.
#
# Lab 09 puts everything together, presents the bill and scores your beliefs.
# Grey labs are planned, not yet written.

# %% id="map" tags=["nbval-ignore-output"]
lab.show_map()

# %% [markdown] id="quiz-text"
# **What will you need to learn on the way?** Five questions. The first three are
# about kernels in Triton, the last two about processes. Whoever misses one of the
# first three should take the Triton primer (45 minutes, `labs open triton`) before
# the Deep parts of the labs; whoever misses one of the last two, the primer on
# processes (45 minutes, `labs open processes`). The Core parts need neither.

# %% id="quiz" tags=["nbval-ignore-output"]
lab.quiz(*SELF_TEST)

# %% [markdown] id="doctor-text"
# **What this machine can do**, and what the labs will make of it:

# %% id="doctor" tags=["nbval-ignore-output"]
lab.show_doctor()

# %% [markdown] id="recap"
# ## What you take away
#
# - A format with $m$ fraction bits forgets an update that is smaller than about
#   $2^{-m-1}$ of the weight. That is half of low precision. The other half, a
#   range that is too small, comes in labs 01 and 03.
# - All labs train the same small GPT with exchangeable parts, and a run can be
#   stopped and resumed bit for bit.
# - An exercise is checked, explained and, until it passes, replaced.
# - Data parallelism changes who computes a sum, not its value.
# - One failed rank ends a run.
#
# **What this lab did not show.** The loss of so small a model after a minute
# says nothing about large models. The two ranks shared one machine, so nothing
# was said about speed: on two cores two processes are no faster than one with
# two threads.
#
# **Further reading.** [Goldberg 1991](https://doi.org/10.1145/103162.103163),
# "What every computer scientist should know about floating-point arithmetic".
# [Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467) on RMSNorm.
# [Karpathy's nanoGPT](https://github.com/karpathy/nanoGPT), a GPT in two files.

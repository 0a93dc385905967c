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
# # 02 · Experts, and how to keep all of them busy
#
# **In two hours you will build a mixture of experts, see its router go wrong, put
# that right with three lines, and find out what experts are worth.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 15 | train a mixture and look at who works | a router that goes wrong |
# | 15 – 25 | read the equations | scores choose and weigh, biases only choose |
# | 25 – 58 | write gate, update and dispatch | a whole mixture, in 20 lines |
# | 58 – 72 | train with your parts, bars moving | balance, live |
# | 72 – 92 | play: speed, size, specialisation | what each knob does |
# | 92 – 114 | hold five sentences against the record | five verdicts |
# | 114 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: node limits, other update rules, a leak of the
# future, experts on four ranks, the kernels. They stand at the end and nothing
# needs them.
#
# It builds on [lab 00](00_start_here.ipynb).

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the torchrun cell; a divisor of its 8 experts

# %% id="setup" tags=["nbval-ignore-output"]
import torch

from labs.lab_02 import record_tables as record
from labs.lab_02.bars_explorer import bars_explorer, load_view
from labs.lab_02.heat_explorer import heat_explorer
from labs.lab_02.language import train_gpt
from labs.lab_02.live_loads import LiveLoads
from labs.lab_02.picture import idea_view
from labs.lab_02.plan import COLLAPSE_RATE, GPT_PLANS, OPENING_STEPS
from labs.lab_02.questions import QUESTIONS
from labs.lab_02.size_explorer import size_explorer
from labs.lab_02.toy_runs import examine, train_toy
from labsupport import Lab
from labsupport.explore import show_figure
from labsupport.nn.moe_balance import max_violation

lab = Lab("02", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
print(GPT_PLANS[lab.settings.scale])

# %% [markdown] id="problem"
# ## Sixteen experts (0 – 15 min)
#
# Most of a transformer's weights sit in its feed-forward layers, and every token is
# multiplied with all of them. A **mixture of experts** cuts such a layer into many
# small ones, the experts, and lets each token visit a few. A small matrix, the
# **router**, scores every expert for every token; the best $K$ are visited. So a
# model can have many weights and still compute with few.
#
# Below, every feed-forward layer of a small GPT is such a mixture: 16 experts, of
# which a token visits 2, and one shared expert that all tokens visit. Router and
# experts learn together, by the loss alone. We train it on Python code and then
# count who got how many tokens.

# %% id="collapse" tags=["nbval-ignore-output"]
opening = train_gpt(
    "none",
    lab.settings.seed,
    lab.settings.scale,
    lr=COLLAPSE_RATE,
    steps=OPENING_STEPS[lab.settings.scale],
    live=True,
    title="GPT with 16 experts a layer",
)

# %% id="collapse-loads" tags=["nbval-ignore-output"]
for layer, load_E in enumerate(opening.load_LE):
    idle = int((load_E == 0).sum())
    print(f"layer {layer}: MaxVio {max_violation(load_E):.2f}, ", end="")
    print(f"{idle} of 16 experts had no token in the last batch")
load_E = opening.load_LE[-1] / opening.load_LE[-1].mean()
view = load_view(load_E.tolist(), None, "Last layer, last batch")
show_figure(view.figure, view.sentence)

# %% [markdown] id="collapse-text"
# An expert that gets a few more tokens learns a little faster, so its scores rise,
# so it gets more tokens. At scale `cpu` (seed 0), in the later layers, one expert is
# visited by nearly every token, two take four fifths of all visits, and several get none: they
# are **dead**, and an expert without tokens has no gradient that could revive it. This
# is **router collapse**. (At scale `ci`, with which this page was stored, there are 12
# steps, too few for the whole of it.)
#
# **MaxVio**, the *maximal violation*, measures it: the largest load over the mean
# load, minus 1. It is 0 when loads are even. With 16 experts and 2 visits a token
# the worst is $16/2 - 1 = 7$.
#
# Was that bad luck? The record has the same model for twice as many steps, two
# learning rates and three seeds each, measured on validation text. *Dead* are here
# experts with less than 5 % of an even load; there are 48, 16 in each of 3 layers.

# %% id="collapse-record" tags=["nbval-check-output"]
print("\n".join(record.opening_lines()))

# %% id="collapse-origin" tags=["nbval-ignore-output"]
view = record.collapse_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="predict-text"
# Now imagine the same model with even loads (how, you will build in a minute). In the
# collapsed one much of what the experts hold is hardly used.

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "collapse",
    "The collapsed model's validation loss, beside the balanced one's?",
    [
        "higher by more than 0.05 nats a byte",
        "within 0.05 nats a byte",
        "lower by more than 0.05 nats a byte",
    ],
)

# %% id="reveal" tags=["nbval-ignore-output"]
gap, sentence = record.collapse_against_balance()
choices = ("higher by more than", "within", "lower by more than")
which = 0 if gap > 0.05 else 2 if gap < -0.05 else 1
view = record.language_view()
lab.reveal(
    "collapse",
    answer=f"{choices[which]} 0.05 nats a byte",
    sentence=sentence,
    figure=view.figure,
)

# %% [markdown] id="reveal-after"
# *Why was I wrong?* If you expected the collapsed model to be much worse: in its later
# layers two experts and the shared one see most tokens, and together they are as wide as
# the layer of a dense model (3 × 48 = 144). So it still has what a dense model has.
# **The loss hardly shows collapse**: it is a little higher in five of six pairs. You
# would not notice without the other. What collapse costs most is something else. When
# experts live on several machines, all wait for the busiest one, and memory is paid
# for experts that do nothing.
#
# ## The idea (15 – 25 min)
#
# DeepSeek-V3's layer ([report](https://arxiv.org/abs/2412.19437), equations 12 to 16),
# for the input $h_t$ of token $t$ (the report writes $u_t$; what is added to the
# result, the token's residual, is the block's business here):
#
# $$s_{it} = \sigma(h_t \cdot e_i), \qquad
# \text{chosen} = \text{the } K \text{ largest of } s_{it} + b_i$$
#
# $$g_{it} = \frac{s_{it}}{\sum_{j \text{ chosen}} s_{jt}}, \qquad
# y_t = \sum_i \text{shared}_i(h_t) + \sum_{i \text{ chosen}} g_{it}\,\text{expert}_i(h_t)$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $N$, $E$, $K$ | tokens, experts, visits of a token | | |
# | $e_i$ | the router's row for expert $i$ | $D$ | `router_ED` |
# | $s_{it}$ | score, between 0 and 1 | $N \times E$ | `score_NE` |
# | $b_i$ | bias of expert $i$, not trained | $E$ | `bias_E` |
# | $g_{it}$ | weight; those of a token sum to 1 | $N \times K$ | `weight_NK` |
# | $\sigma$ | sigmoid, $1 / (1 + e^{-x})$ | | |
#
# How are loads kept even? The usual way is an **auxiliary loss**, a term that is small
# when loads are even: $\alpha \sum_i f_i P_i$ (equations 17 to 20). $f_i$ is expert
# $i$'s load over an even load, $P_i$ its mean share of the scores, $\alpha$ a
# coefficient. Only $P_i$ has a gradient: it pushes down the scores of busy experts. So
# it pulls at the same router that tries to lower the loss. (V3 keeps a little of it,
# $\alpha = 10^{-4}$, beside the method below.)
#
# The **loss-free** way ([Wang et al. 2024](https://arxiv.org/abs/2408.15664)) leaves
# the loss alone. After every step it looks at the loads, and moves each bias a fixed
# small step $u$: down if the expert had more tokens than the mean, up if it had
# fewer. The bias decides *who is chosen*, and takes no part in the weight: how busy an
# expert is says nothing of how much its answer is worth.

# %% id="idea" tags=["nbval-ignore-output"]
view = idea_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="gate-text"
# ## 2.1 · The gate with its bias · 10 minutes · ●○○
#
# Return who is chosen, `index_NK`, largest biased score first, and with what weight,
# `weight_NK`. `logits_NE` holds $h_t \cdot e_i$.


# %% id="gate" tags=["nbval-ignore-output"]
@lab.exercise("2.1")
def gate(logits_NE, bias_E, top_k):
    """The experts of each token, and their weights."""
    ### BEGIN SOLUTION
    score_NE = torch.sigmoid(logits_NE)
    index_NK = torch.topk(score_NE + bias_E, top_k).indices
    chosen_NK = score_NE.gather(1, index_NK)
    return index_NK, chosen_NK / chosen_NK.sum(dim=1, keepdim=True)
    ### END SOLUTION


# %% id="gate-check" tags=["nbval-ignore-output"]
lab.check("2.1")
lab.hints("2.1")

# %% id="gate-see" tags=["nbval-check-output"]
logits_NE = torch.logit(torch.tensor([[0.7, 0.6, 0.2]]))
for bias in ([0.0, 0.0, 0.0], [-0.2, 0.0, 0.0], [-0.2, 0.0, 0.5]):
    index_NK, weight_NK = gate(logits_NE, torch.tensor(bias), 2)
    pairs = zip(*(x[0].tolist() for x in (index_NK, weight_NK)), strict=True)
    chosen = ", ".join(f"expert {i} with {w:.3f}" for i, w in sorted(pairs))
    print(f"biases {bias}: {chosen}")

# %% [markdown] id="update-text"
# In the second line the bias does not change who is chosen, and so it changes nothing:
# weights come from scores alone.
#
# ## 2.2 · The loss-free update · 6 minutes · ●○○
#
# Algorithm 1 of the paper. $c_i$ counts the tokens of expert $i$ in the last batch,
# the whole of it: over all machines, and over all parts if the batch is computed in
# parts, summed before the sign is taken. That batch has been computed already, so
# nothing of the future is used. Counts are integers.
#
# $$b_i \leftarrow b_i + u \cdot \operatorname{sign}(\bar c - c_i)$$
#
# $\bar c$ is the mean of the counts, $u$ the speed. Return the new biases; leave the
# old ones as they are.


# %% id="update" tags=["nbval-ignore-output"]
@lab.exercise("2.2")
def update_bias(bias_E, count_E, speed):
    """Biases after one step: busy experts lower, idle ones higher."""
    ### BEGIN SOLUTION
    mean = count_E.float().mean()
    return bias_E + speed * torch.sign(mean - count_E)
    ### END SOLUTION


# %% id="update-check" tags=["nbval-ignore-output"]
lab.check("2.2")
lab.hints("2.2")

# %% [markdown] id="dispatch-text"
# ## 2.3 · To the experts and back · 15 minutes · ●●○
#
# A token's $K$ visits are $K$ **rows**. An expert works fastest when its rows are
# neighbours. So the rows are sorted by expert, all experts run, and the results have
# to find their way back to the tokens. Nobody is turned away: an expert takes
# whatever number of rows it gets, none included.
#
# `experts(rows_RD, expert_R)` wants the rows of expert 0 first, then those of
# expert 1, and so on; `expert_R` says whose row each is. It returns what the experts
# make of them, row by row. You return for each token the sum of its results times
# their weights.


# %% id="dispatch" tags=["nbval-ignore-output"]
@lab.exercise("2.3")
def dispatch(x_ND, index_NK, weight_NK, experts):
    """Sort rows by expert, run the experts, put rows back, weigh and add."""
    ### BEGIN SOLUTION
    N, K = index_NK.shape
    expert_R = index_NK.flatten()
    order_R = torch.argsort(expert_R, stable=True)
    made_RD = experts(x_ND[order_R // K], expert_R[order_R])
    back_RD = torch.empty_like(made_RD)
    back_RD[order_R] = made_RD
    return (weight_NK[:, :, None] * back_RD.view(N, K, -1)).sum(dim=1)
    ### END SOLUTION


# %% id="dispatch-check" tags=["nbval-ignore-output"]
lab.check("2.3")
lab.hints("2.3")

# %% [markdown] id="train-text"
# ## Train with your parts (58 – 72 min)
#
# To *see* experts work we need data whose kinds we know. So here is a task with eight
# **domains**. A token of domain $d$ is a point near the domain's centre, and what has
# to be predicted is a random function of it that only this domain has. All 32 tokens
# of a sequence are of one domain, as a text is on one subject. The model is a single
# mixture: 16 experts, 2 visits, one shared expert; the loss is the mean squared error.
#
# First: are your parts right? 20 steps with yours, 20 with ours, same start, same data.

# %% id="same" tags=["nbval-check-output"]
parts = {"gate": gate, "dispatch": dispatch, "update": update_bias}
losses = {}
for who, used in (("yours", parts), ("ours", {})):
    run = train_toy(
        "free", 0, "ci", coefficient=1e-3, parts=used, steps=20
    ).run
    losses[who] = torch.tensor([row["loss"] for row in run.metrics])
gap = (losses["yours"] - losses["ours"]).abs().max()
print(f"same losses to 1e-4: {gap < 1e-4}")

# %% [markdown] id="live-text"
# Now the whole training, twice, with your parts: with speed 0, so biases never move,
# and with $u$ = 0.001. Watch the bars: each is an expert's load over an even load
# (dashed), averaged over the latest steps; below it stands its bias.

# %% id="live" tags=["nbval-ignore-output"]
yours = {}
for arm, speed in (("none", 0.0), ("free", 1e-3)):
    bars = LiveLoads("no balancing" if arm == "none" else "loss-free")
    watched = train_toy(
        arm,
        lab.settings.seed,
        lab.settings.scale,
        coefficient=speed,
        parts=parts,
        watch=bars.watch,
        live=True,
        title=bars.title,
    )
    bars.finish()
    yours[arm] = examine(watched, lab.settings.scale)
for arm, found in yours.items():
    print(f"{arm:5} loss {found['validation']:.4f}  ", end="")
    print(f"MaxVio {found['max_vio']:.2f}  dead {found['dead']}")

# %% [markdown] id="play-text"
# ## Play (72 – 92 min)
#
# **Loads and biases, step by step.** Trainings of the record; loads are means over the
# 25 steps before the one shown. *Uneven* domains differ in how often they occur.
#
# Try this:
# 1. Even domains, the last step. Which speeds balance? Compare what the sentence says
#    of validation data, too. What is the matter with 0.1?
# 2. Speed 0.0001: go through the steps. What is the matter with it?
# 3. Speed 0.001: even against very uneven domains. And what becomes of the loss, with
#    very uneven domains, when you switch balancing off?
#
# <details><summary>Answers</summary>
#
# 1. 0.001 and 0.01: on validation data MaxVio is 0.25 instead of 0.92. At 0.1 the mean
#    of 25 steps looks even, too, but single batches swing: on validation data MaxVio is
#    0.60, and the loss 0.073 instead of 0.054. (And all biases drift up, to 6: more
#    experts lie below the mean than above it. Some code subtracts the mean step.)
# 2. It is too slow: 600 steps of 0.0001 are 0.06 at most, and with 0.001 biases end at
#    up to 0.23. DeepSeek-V3 has 0.001 and many more steps.
# 3. MaxVio ends at 0.51 instead of 0.25: the commonest of the very uneven domains has
#    over a third of all tokens, so several experts have to learn the same. Without
#    balancing the loss is *lower* there, 0.057 instead of 0.063, and so it is with the
#    record's two other seeds. Even loads have a price where data are uneven.
#
# </details>

# %% id="bars" tags=["nbval-ignore-output"]
bars_explorer().show()

# %% [markdown] id="size-play"
# **What a mixture costs.** DeepSeek-V3's widths and layers; the number of experts, how
# many a token visits, and how many all tokens share are yours.
#
# Try this:
# 1. Leave it at V3's own numbers. What share of its weights does one token use?
# 2. Twice the experts. What grows, and what does not?
# 3. With which numbers does a token use as many weights as with V3's, from a model
#    half its size?
#
# <details><summary>Answers</summary>
#
# 1. 5.5 %: 37 of 671 billion.
# 2. All weights nearly double, and memory with them. What a token computes grows by
#    0.1 billion weights, the router's.
# 3. 128 experts, the rest as it is. Fewer experts cost no more computation; what they
#    cost is quality, which this picture does not know.
#
# </details>

# %% id="size" tags=["nbval-ignore-output"]
size_explorer().show()

# %% [markdown] id="heat-play"
# **Who takes what.** A column is an expert, a row is a kind of data. Dark: the expert
# takes more than its even share. The title says how much the expert tells of the
# kind: the **mutual information** between the two over the entropy of the kind. At 0 %
# experts know nothing of kinds, at 100 % an expert gives the kind away.
#
# Try this:
# 1. Toy, *before training*, then *loss-free*. Did the experts specialise?
# 2. Toy, *auxiliary loss, sequence*. What has become of the domains? Why?
# 3. GPT, *loss-free*. What do experts of a language model specialise in?
#
# <details><summary>Answers</summary>
#
# 1. Yes: the expert gives the domain nearly away. Even the untrained router tells
#    something, as tokens of a domain are neighbours.
# 2. It demands even loads of *every sequence*, and a sequence is of one domain. So it
#    forbids exactly what would make an expert of a domain.
# 3. Partly in what kind of byte comes in: spaces, letters, line ends. (Shown is the
#    layer whose experts tell most.) Whether they know domains of meaning, this picture
#    does not ask.
#
# </details>

# %% id="heat" tags=["nbval-ignore-output"]
heat_explorer().show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (92 – 114 min)
#
# A press article on DeepSeek's methods says: only a few experts run, so a query takes
# less computation; models grow without growing inference costs; each expert becomes
# good at one kind of data; auxiliary losses cost computation; one can balance without
# them, and without their harm.
#
# **Balance, on the toy.** Each method has one coefficient, and each coefficient got
# four tries on three seeds. A rule that was written down before picks one: of those
# that balance (MaxVio at most 0.5) the one with the lowest loss; if none does, the most
# balanced. *Sequence* and *batch* say over what the auxiliary loss demands even loads.

# %% id="sweep" tags=["nbval-check-output"]
print("\n".join(record.sweep_lines("sweep", ("sequence", "batch", "free"))))

# %% [markdown] id="balance-text"
# Then five fresh tasks with other seeds. In each cell the median of five, with the
# lowest and the highest.

# %% id="balance" tags=["nbval-check-output"]
print("\n".join(record.balance_lines()))

# %% id="balance-origin" tags=["nbval-ignore-output"]
stars = yours if lab.settings.scale == "cpu" else {}
if not stars:
    print("Your runs were of another size: no stars for them.")
view = record.toy_view(stars)
show_figure(view.figure, view.sentence)

# %% [markdown] id="lumpy-text"
# MaxVio was taken over the whole validation set. What a machine computes *together* is
# less, and a sequence is of one domain. So even experts that are balanced on the whole
# are unevenly loaded while few sequences are computed at a time; the paper's figure 5
# shows MaxVio fall in the same way. The exception is the loss by sequence, and it pays
# for that.

# %% id="lumpy" tags=["nbval-ignore-output"]
view = record.batch_size_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="language-text"
# **Experts against dense layers, in the GPT.** Three dense models to compare with: the
# same *active* weights, so the same computation a token; the same weights in *all*;
# and 2.5 times the computation, the ratio that the DeepSeekMoE paper reports (its 16B
# model matches a dense 7B with 40 % of the computation). Every model is trained with
# two learning rates and three seeds. The two balanced ones have their coefficient from
# a sweep of their own (half as long, three other seeds, a limit of 1 for MaxVio).

# %% id="language" tags=["nbval-check-output"]
print("\n".join(record.language_lines()))

# %% [markdown] id="size-text"
# **What grows with the experts.** A decoding step, one new token for each of 8 texts.

# %% id="size-record" tags=["nbval-check-output"]
print("\n".join(record.size_lines()))

# %% [markdown] id="time-text"
# **What an auxiliary loss costs.** On paper: about ten operations for each score, so
# 3 × 16 × 10 = 480 of the 627,000 that a token's forward and backward take. Measured:
# two trainings take turns, step by step; the number is how much longer the second
# one's step takes. The first line is a check: twice the same training.

# %% id="time-record" tags=["nbval-check-output"]
print("\n".join(record.time_lines()))

# %% id="origins" tags=["nbval-ignore-output"]
for name in ("sweep", "balance", "language", "size", "time"):
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdicts-text"
# The verdicts follow from rules in `data/claims/`, written before the runs. Each names
# its metric and the effect, with its 95 % interval over seeds.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Less computation per query: true by construction; the question is at what
#   quality.** Here the mixture is a little better than a dense model of the same
#   computation in four of six pairs, and worse in two: three seeds cannot tell. A
#   dense model of 2.5 times the computation is better by 0.02 nats a byte. The
#   DeepSeekMoE paper, with vastly more data, reports a tie. Each expert sees an eighth
#   of the tokens, and 600 steps may be too few for that.
# - **Growth without inference cost: computation yes, memory no.** 16 times the experts
#   took 1.3 times the time and 9 times the memory.
# - **Specialisation: where data fall into domains, nearly completely,** and the loss by
#   sequence forbids it. In the GPT experts tell under half of the byte's kind.
# - **An auxiliary loss costs computation, but little.** On paper 0.1 percent, here 3.5:
#   in a model as small as this, a dozen small operations take time whatever they
#   compute. It is not what the papers hold against it.
# - **Balance without its harm: yes, against the loss by sequence**, on the toy and in
#   the GPT. Against the loss by *batch* the toy is harsher than the paper: V3's
#   section 4.5.3 finds it as good as loss-free (2.253 and 2.253), the toy does not
#   (0.066 and 0.052). Nor do coefficients carry over: V3 has 0.0001, and on the toy ten
#   times that does not balance.
# - **Evenness has a price of its own.** With uneven domains, every speed that balances
#   the toy ends at a higher loss than no balancing, with all three seeds. The verdict
#   above is about domains that are equally frequent.
#
# Rewrite the headline in one honest sentence. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("moe-cheaper", "lb-aux-quality")

# %% [markdown] id="recap"
# ## What you take away (114 – 120 min)
#
# - Left to itself a router collapses, and the loss does not tell. Measure loads.
# - A score chooses and weighs; a bias only chooses, so it leaves weights and gradients
#   alone. Forced evenness can still cost loss: see the uneven domains.
# - Counts are of the whole batch, on all machines, and of the batch before.
# - Experts save computation, not memory.
#
# **Limits.** The GPT has 0.4 million weights and 600 steps; the toy has domains far
# clearer than any text. Nothing here was measured on a GPU, where uneven loads cost
# time.
#
# **Diagnose.** What is wrong?
#
# 1. A team adds its biases to the scores and takes the weights from the sums. Loads are
#    even, and the loss is higher than before.
# 2. A batch is computed in 8 parts, and biases move 8 times as fast as they should.
#
# <details><summary>Answers</summary>
#
# 1. The bias weighs: how busy an expert is now changes how much its answer counts.
# 2. The update runs after every part, on that part's counts, instead of once, before
#    the optimizer's step.
#
# </details>
#
# **Further reading.** [DeepSeekMoE](https://arxiv.org/abs/2401.06066), fine experts and
# shared ones. [Loss-free balancing](https://arxiv.org/abs/2408.15664), eight pages that
# you have now mostly built. [DeepSeek-V3](https://arxiv.org/abs/2412.19437), sections
# 2.1.2, 4.5.2 and 4.5.3.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## 2.4 · At most so many nodes · 12 minutes · ●●○
#
# When experts live on several nodes, a token that visits 8 experts may have to travel
# to 8 nodes. V3 allows 4: experts form **groups**, one for each node; a group's score
# is the sum of its two largest biased scores; a token visits experts of its best
# groups only.
#
# Return the biased scores, with minus infinity for experts of all other groups.
# Groups are neighbours: with 6 experts and 2 groups, experts 0 to 2 form the first.


# %% id="limit" tags=["nbval-ignore-output"]
@lab.exercise("2.4")
def limit_groups(biased_NE, groups, kept):
    """Biased scores, -inf outside the best groups of each token."""
    ### BEGIN SOLUTION
    N, E = biased_NE.shape
    score_NG = biased_NE.view(N, groups, -1).topk(2).values.sum(dim=2)
    best_NG = torch.zeros(N, groups, dtype=torch.bool)
    best_NG.scatter_(1, score_NG.topk(kept).indices, True)
    allowed_NE = best_NG.repeat_interleave(E // groups, dim=1)
    return biased_NE.masked_fill(~allowed_NE, float("-inf"))
    ### END SOLUTION


# %% id="limit-check" tags=["nbval-ignore-output"]
lab.check("2.4")
lab.hints("2.4")

# %% id="limit-zero" tags=["nbval-check-output"]
biased_NE = torch.tensor(
    [[-0.1, -0.3, -0.4, -0.2]]
)  # groups (0, 1) and (2, 3)
limited_NE = limit_groups(biased_NE, 2, 1)
zeroed_NE = limited_NE.masked_fill(limited_NE == float("-inf"), 0.0)
for name, masked_NE in (("minus infinity", limited_NE), ("zero", zeroed_NE)):
    chosen = sorted(masked_NE.topk(2).indices[0].tolist())
    print(f"masked with {name:14}: experts {chosen}")

# %% [markdown] id="rules-text"
# The best group is the first; a mask of zero sends the token to the other one. Biased
# scores become negative as soon as a busy expert's bias outweighs a small score. (A
# widely used library masked with zero when this was written.)
#
# ## 2.5 · Balance without a step size · 15 minutes · ●●●
#
# Signs are one way to move biases. The paper tried others: by the size of the error
# (*proportional*; here relative to the mean, as the paper leaves the unit open), and a
# bias that multiplies scores instead of being added (*multiplicative*). In 2026 came
# **quantile balancing** ([J. Su](https://kexue.fm/archives/11619)), which has no step
# size: it asks which biases would have balanced the batch just seen, if all bars
# stayed where they are.
#
# A token's **bar** is its $(K+1)$-th largest biased score: an expert above it is
# chosen. An expert's **margin** is its biased score minus the bar. An even share is
# $q = NK/E$ tokens. If exactly $q$ margins of an expert are positive, it has its share. So
# the $(q+1)$-th largest margin has to be 0: subtract it from the bias.


# %% id="quantile" tags=["nbval-ignore-output"]
@lab.exercise("2.5")
def quantile_update(score_NE, bias_E, top_k):
    """Biases that lower each expert's (q + 1)-th largest margin to 0."""
    ### BEGIN SOLUTION
    N, E = score_NE.shape
    biased_NE = score_NE + bias_E
    bar_N1 = biased_NE.topk(top_k + 1).values[:, -1:]
    margin_NE = biased_NE - bar_N1
    q = N * top_k // E
    return bias_E - margin_NE.topk(q + 1, dim=0).values[-1]
    ### END SOLUTION


# %% id="quantile-check" tags=["nbval-ignore-output"]
lab.check("2.5")
lab.hints("2.5")

# %% id="quantile-steps" tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
tilt_E = torch.linspace(-1, 1, 16)  # some experts are preferred by all tokens
score_NE = torch.sigmoid(tilt_E + torch.randn(4096, 16, generator=generator))
signs_E = quantiles_E = torch.zeros(16)
for step in range(51):
    violations = []
    for bias_E in (signs_E, quantiles_E):
        chosen_NK = (score_NE + bias_E).topk(2).indices
        count_E = torch.bincount(chosen_NK.flatten(), minlength=16)
        violations.append(max_violation(count_E))
        if bias_E is signs_E:
            moved_E = update_bias(bias_E, count_E, 1e-3)
    if step in (0, 1, 5, 50):
        print(f"step {step:2}: MaxVio {violations[0]:.2f} by signs, ", end="")
        print(f"{violations[1]:.2f} by quantiles")
    signs_E = moved_E
    quantiles_E = quantile_update(score_NE, quantiles_E, 2)

# %% [markdown] id="updates-text"
# With scores that stand still, quantiles are there in a few steps, signs of 0.001 need
# hundreds. In a training scores move, and one batch is a small sample of the data, so
# going all the way each time overdoes it. All four rules on the toy, three fresh
# tasks each (the speed of *quantile* is the share of the way that it goes):

# %% id="updates" tags=["nbval-check-output"]
print("\n".join(record.update_lines()))

# %% [markdown] id="updates-after"
# At its best speed each rule balances about as well as the others, and the losses lie
# within each other's spread. So the paper's choice, signs, is good enough here; what
# differs is the range of speeds that work. Too much is *proportional* at 0.1, and
# *quantile* at 1, which goes all the way in each step: both fit the biases to one batch.

# %% [markdown] id="leak-text"
# ## Expert choice: the future leaks · 8 minutes
#
# Why not let experts choose their tokens? Each takes its $NK/E$ best ones, and loads
# are even by construction ([Zhou et al. 2022](https://arxiv.org/abs/2202.09368)). But
# who is among the best depends on *all* tokens, later ones included. Change the last
# token of a text, and look at who serves the earlier ones.

# %% id="leak" tags=["nbval-check-output"]
from labs.lab_02.expert_choice import (
    expert_choice,
    leaked_bits,
    token_choice,
)

score_NE = torch.sigmoid(torch.randn(32, 8, generator=generator))
changed_NE = score_NE.clone()
changed_NE[-1] = 1.0  # the last token now scores highest with every expert
for name, choose in (("tokens", token_choice), ("experts", expert_choice)):
    before, after = (choose(scores, 2) for scores in (score_NE, changed_NE))
    moved = int((before != after)[:-1].any(dim=1).sum())
    print(
        f"{name:7} choose: {moved} of 31 earlier tokens are served otherwise"
    )
print(f"the bound of 2408.15664: {9 * leaked_bits(16, 2):.0f} bits a token")
print("for 9 layers of 16 experts with 2 visits")

# %% [markdown] id="leak-after"
# A model trained so sees a little of the answer, and at inference, where the future is
# not there, it misses it. (The paper let experts choose within chunks of tokens. It
# saw the training loss drop by about a tenth when chunks became small, and the drop
# vanish when tokens were shuffled across chunks.)
# Loss-free balancing uses the loads of the batch *before*: nothing can leak.
#
# ## Many processes: experts on four ranks · 10 minutes
#
# Each of four ranks holds two of eight experts, and 64 tokens of its own. Rows are
# sorted by expert, so those for one rank are neighbours, and one `all_to_all` carries
# them; a second one brings the results back, and the backward takes both ways again.
# How many rows go where depends on the router: pieces are **uneven**, and their sizes
# travel first. Each rank compares its part with the whole layer in one process.

# %% id="ranks" tags=["nbval-ignore-output"]
# %%torchrun --nproc 4 --name ranks
import torch.distributed as dist

from labsupport.distributed.expert_parallel import compare_with_one_process

dist.init_process_group()
with count_traffic() as moved:
    found = compare_with_one_process(dist)
share("gaps", [found.output, found.expert_gradient, found.router_gradient])
share("same_bias", found.same_bias)
share("rows", found.rows)
share("sent", moved.ideal_sent)
print(f"{found.rows} rows to work on, sent {moved.ideal_sent / 1e3:.1f} kB")

# %% id="ranks-check" tags=["nbval-check-output"]
everyone = [ranks[rank] for rank in range(4)]
worst = max(max(rank.gaps) for rank in everyone)
print(f"outputs and gradients as in one process: {worst < 1e-5}")
print(f"same biases on all ranks: {all(rank.same_bias for rank in everyone)}")
print(f"rows in all: {sum(rank.rows for rank in everyone)} = 4 * 64 * 2")
uneven = len({rank.rows for rank in everyone}) > 1
print(f"ranks have different numbers of rows: {uneven}")

# %% [markdown] id="ranks-after"
# All ranks wait for the one with most rows: that is what MaxVio costs. Node limits
# (2.4) bound how far a token travels, and DeepSeek sends rows in FP8 (lab 03).
#
# ## 2.K · The kernel: count without losing anyone · 10 minutes · ●●○
#
# On a GPU nobody sorts rows by comparing them. Experts are few, so one **counts**: how
# many visits has each expert (a *histogram*), where does its stretch of rows begin
# (sums of the counts), and which place within that stretch does each visit get.
#
# Thousands of visits are counted at once, and there lies the trap. Here is the obvious
# kernel. Each lane of a program, one of the elements it works on at once, takes one
# visit: it loads its expert's counter, adds 1, stores it.

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_02.exercises_kernel import race, visits
from labs.lab_02.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline

# %% id="kernel-race" tags=["nbval-ignore-output"]
index_R = visits(50, 8, seed=1)
count_E = torch.zeros(8, dtype=torch.int32)
place_R = torch.zeros(50, dtype=torch.int32)
if kernels.INTERPRETED:
    race[(4,)](index_R, count_E, place_R, 50, BLOCK=BLOCK)
    print("visits: ", torch.bincount(index_R, minlength=8).tolist())
    print("counted:", count_E.tolist())

# %% [markdown] id="kernel-text"
# Two lanes with the same expert read the same count, and both store that count plus
# one: a **race**. What is needed is an **atomic**, which loads, adds and stores in one
# step that nobody can come in between: `tl.atomic_add(pointer, value, mask=...)`. It
# returns what the counter held *before*: how many came earlier, so the visit's place.
#
# Write the kernel without the race: store in `place_ptr` the place of each visit among
# those of its expert, counted from 0. (The [Triton primer](primers/triton.ipynb) has
# the rest of what you need.)


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("2.K")
@jit
def take_places(index_ptr, count_ptr, place_ptr, R, BLOCK: tl.constexpr):
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ### BEGIN SOLUTION
    expert = tl.load(index_ptr + r, mask=r < R, other=0)
    place = tl.atomic_add(count_ptr + expert, 1, mask=r < R)
    tl.store(place_ptr + r, place, mask=r < R)
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("2.K")
lab.hints("2.K")

# %% [markdown] id="kernel-map-text"
# Four programs for 50 visits. Move the slider: places are written side by side, and
# the counters are hit by every program, in no order.

# %% id="kernel-map" tags=["nbval-ignore-output"]
if kernels.INTERPRETED:
    count_E.zero_()
    memory_map(
        take_places, 4, index_R, count_E, place_R, 50, BLOCK=BLOCK
    ).show()

# %% id="kernel-run" tags=["nbval-check-output"]
# Launches the kernel in use, and adds each expert's first row to the places.
row_R = take_places(index_R, 8)
print(f"every row is given once: {sorted(row_R.tolist()) == list(range(50))}")
sorted_R = index_R[row_R.long().argsort()]
print(f"rows are sorted by expert: {bool((sorted_R.diff() >= 0).all())}")

# %% [markdown] id="kernel-real"
# Atomics come in another order in every run, so rows would lie otherwise, and sums
# would round otherwise. The course's own [moe_permute](../kernels/moe_permute.py)
# counts block by block and keeps the order of the tokens, without atomics. Beside it
# stand the four other steps of the layer:
#
# - [moe_router](../kernels/moe_router.py): scores, groups, the best K, weights;
# - [moe_up](../kernels/moe_up.py): gathers a token's row while it multiplies, and
#   applies SwiGLU before anything is stored;
# - [grouped_gemm](../kernels/grouped_gemm.py): every expert's product in one launch,
#   whatever its number of rows, and the gradient of its weights;
# - [moe_combine](../kernels/moe_combine.py): brings rows back, weighs and adds.
#
# On a GPU `MixtureOfExperts` runs them. In the two products the arithmetic counts, in
# the other steps the bytes.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("grouped_gemm", dtype="bfloat16")

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
# # 06 · Thinking in steps
#
# **In two hours you will watch a model fail at a game, let it write its thoughts down, and
# find out whether it uses what it writes.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 15 | train a model to answer at once | what a loss of log 5 over 3 means |
# | 15 – 25 | see what a written state changes | the depth of one forward pass |
# | 25 – 45 | write the verifier; meet the sampler | parse, never trust; keys and values are kept |
# | 45 – 72 | change one state of a trace, watch the answer | how to ask whether a trace is used |
# | 72 – 90 | let several answers vote | accuracy bought with samples |
# | 90 – 112 | hold two sentences against the record | two verdicts |
# | 112 – 120 | recap and three questions | |
#
# Then, if you like, the deep parts: the cache, choosing a token, longer games, sampling
# on four ranks, the kernel. They stand at the end and nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb).

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the torchrun cell

# %% id="setup" tags=["nbval-ignore-output"]
from collections import Counter

import torch

from labs.lab_06 import record_tables as record
from labs.lab_06.pictures import cache_view, idea_view
from labs.lab_06.plan import GAMES, HASTY, LIVE, LIVE_EASY
from labs.lab_06.questions import QUESTIONS
from labs.lab_06.sampler import read_again
from labs.lab_06.thinker import train_thinker
from labs.lab_06.trace_explorer import trace_explorer
from labs.lab_06.traces import edits, right_states, shares
from labs.lab_06.verifying import as_reward
from labs.lab_06.vote_explorer import vote_explorer
from labs.lab_06.voting import sampled_answers, voted_accuracy
from labsupport import Lab
from labsupport.explore import show_figure
from labsupport.generate import generate
from labsupport.rl import roll_out
from labsupport.tasks.shell_game import ShellGame, direct, every_state

lab = Lab("06", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
plan, games = LIVE[lab.settings.scale], GAMES[lab.settings.scale]
print(plan)

# %% [markdown] id="problem"
# ## A ball under a cup (0 – 15 min)
#
# Five cups stand in places A to E, a ball under one of them. Then pairs of cups are
# swapped, again and again. Where is the ball? Children know this as the **shell game**.
# As text:
#
#     C AB CE DE ?
#
# The ball begins in place C. AB: what stands in A and B is swapped, which does not touch
# it. CE: now the ball is in E. DE: in D. A person follows with a finger. What is written
# behind the prompt is called the **completion**: here `= D EOS`, the answer and a token
# that ends the text. (Below, "cup C" is short for the cup that stands in place C.)
#
# A guess is right in a fifth of all games. There are $5 \cdot 10^{12}$ games with 12
# swaps, and every one that the model sees is new, so it cannot learn answers by heart.

# %% id="examples" tags=["nbval-check-output"]
small = ShellGame(swaps=3)
for writer in (direct(), every_state()):
    tokens_BS, targets_BS = small.batch(writer, 0, batch_size=2, seed=1)
    for tokens_S in tokens_BS:
        print(small.vocabulary.decode(tokens_S))

# %% [markdown] id="direct-text"
# (The last token, EOS, is not shown: nothing has to be said behind it.) The first two
# games are answered directly; in the other two each state is written down first. Let
# us train a small GPT on direct answers. Only the completion counts in the loss, and
# two of its three tokens are always the same. So a model that knows the form and
# guesses the cup has a loss of $\log(5) / 3 = 0.536$ nats a token. Now and then
# `roll_out` has the model complete fresh games and judges what it wrote: *games lost* is
# their share.


# %% id="direct" tags=["nbval-ignore-output"]
def games_lost(model):
    """The share of fresh games that end wrongly."""
    rollout = roll_out(
        model, plan.game, plan.game.prompts(games, seed=1, split="validation"),
        temperature=0,
    )  # fmt: skip
    return 1 - rollout.mean_reward


at_once = train_thinker(
    "direct",
    lab.settings.seed,
    plan,
    live=True,
    title="Direct answers",
    eval_fn=games_lost,
)
print(f"games won: {at_once.accuracy(games):.1%}; a guess wins 20 %")

# %% [markdown] id="predict-text"
# The loss falls to 0.54 at once and stays there; games are lost as if by guessing. Now the
# same model, from the same random weights, on completions that **write every state
# down**: `C E D = D EOS`. It reads as many tokens in all. Its texts are longer, so it
# sees four games where the other saw seven. (The record, with which you will compare, has
# models of two layers and two million tokens.)

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "steps",
    "How many of the games does it win, after as many tokens?",
    ["about 20 %, as before", "about half", "above 90 %"],
)

# %% id="reveal" tags=["nbval-ignore-output"]
won, sentence = record.gap_answer()
view = record.gap_view(("every", "direct"))
lab.reveal(
    "steps",
    answer="above 90 %" if won > 0.9 else "about half" if won > 0.35
    else "about 20 %, as before",
    sentence=sentence,
    figure=view.figure,
)  # fmt: skip

# %% [markdown] id="reveal-after"
# *Why was I wrong?* If you expected little: it is the same model, with the same weights
# to begin with, and it is shown the same answers. If you expected it to need more
# training: it was shown fewer games. What it was shown in addition is *how*.
#
# ## The idea (15 – 25 min)
#
# A transformer computes each token in one **forward pass**, through $L$ layers, whatever
# the question is. Let $s_0$ be the first cup, $\pi_i$ swap number $i$ as a function that
# takes a cup and returns a cup, and $s_i$ the cup with the ball behind it:
#
# $$s_i = \pi_i(s_{i-1}), \qquad s_n = \pi_n(\pi_{n-1}(\cdots \pi_1(s_0)))$$
#
# To answer at once is to compute all of the right side in $L$ layers. To write a **chain
# of thought** is to compute the left side $n$ times: each pass looks at one state that
# it wrote itself, and at one swap. The probability of a whole completion is
#
# $$p(z, y \mid x) = \prod_{i=1}^{n} p(z_i \mid x, z_{<i}) \;\cdot\; p(y \mid x, z)$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $x$ | prompt: a cup, $n$ swaps, `?` | $T = n + 2$ tokens | `prompts_PT` |
# | $z_i$, $z$ | written state, all of them: the trace | $n$ tokens | |
# | $y$ | `=`, the answer, EOS | 3 tokens | |
# | $B$, $S$ | games of a training step; tokens read of each | | `tokens_BS` |
# | $P$, $R$, $N$ | prompts; completions; tokens of one | | `tokens_RN` |
# | $L$ | layers | | `n_layers` |
#
# Composing permutations of five things is the standard hard case ([Li et al.
# 2024](https://arxiv.org/abs/2402.12875)). With a fixed number of layers and numbers of
# fixed precision it is impossible for large $n$; where precision may grow with $\log n$,
# it is impossible unless two classes of circuits coincide that are believed to differ.
# With $n$ written steps a fixed depth is enough: here one layer, which looks up a state
# and a swap. ([Feng et al. 2023](https://arxiv.org/abs/2305.15408) show the like for
# arithmetic.) That is about what *can* be computed. What training *finds* is measured
# below.

# %% id="idea" tags=["nbval-ignore-output"]
view = idea_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="verify-text"
# ## 6.1 · The verifier · 12 minutes · ●○○
#
# Who says that an answer is right? A function that plays the game itself and compares.
# It reads what a model wrote, and a model may write *anything*: two answers, all five
# cups, nothing at all. So a verifier **parses**: it demands an exact form and refuses the
# rest. It never evaluates what was written. (In lab 07 a model is paid by such a
# function, and will find each of its holes.)
#
# Return whether `completion` answers `prompt`. It has to end with `=`, the right cup and
# `EOS`. What stands before may be anything but another `=`. Both are texts, with spaces
# between their words.


# %% id="verify" tags=["nbval-ignore-output"]
@lab.exercise("6.1")
def verify(prompt, completion):
    """Whether "C E D = D EOS" answers "C AB CE DE ?"."""
    ### BEGIN SOLUTION
    cup, *swaps, _ = prompt.split()
    for a, b in swaps:
        if cup in (a, b):
            cup = b if cup == a else a
    words = completion.split()
    return words[-3:] == ["=", cup, "EOS"] and words.count("=") == 1
    ### END SOLUTION


# %% id="verify-check" tags=["nbval-ignore-output"]
lab.check("6.1")
lab.hints("6.1")

# %% id="verify-see" tags=["nbval-check-output"]
tries = ("C E D = D EOS", "= D EOS", "= A B C D E EOS", "= A = D EOS", "= D")
for text in (*tries, ""):
    print(f"{text!r:20} {verify('C AB CE DE ?', text)}")

# %% [markdown] id="sampler-text"
# **How a model writes.** It reads the prompt, and gives a score to every token that could
# follow. One is chosen: the likeliest (in code, `temperature=0`), or at **temperature**
# $\tau$ a random one, with probabilities $\text{softmax}(\text{scores} / \tau)$. It is put
# behind the text, and so on, until EOS. In attention a new token's *query* is compared
# with the *key* of each token so far, and takes that much of its *value*. No token sees
# later ones, so old keys and values never change. They are kept: the **KV cache**.

# %% id="cache" tags=["nbval-ignore-output"]
view = cache_view()
show_figure(view.figure, view.sentence)

# %% id="sampler" tags=["nbval-check-output"]
prompts_PT = plan.game.prompts(16, seed=2)
again_PN = read_again(at_once.model, prompts_PT, count=3)
written = generate(
    at_once.model,
    prompts_PT,
    longest=3,
    eos=plan.game.eos,
    pad=plan.game.pad,
    temperature=0,
)
print(f"the same tokens: {bool((written.tokens_RN == again_PN).all())}")

# %% [markdown] id="sampler-after"
# `generate` is given; you can build its two parts in the deep section (6.4, 6.5). How much
# the cache saves, recorded with the model of this lab, for texts of 14 + 15 tokens:

# %% id="sampler-record" tags=["nbval-check-output"]
print("\n".join(record.writing_lines()))

# %% [markdown] id="live-text"
# Each cell has the median of three seeds, and in brackets the lowest and highest. The
# cache pays most where many texts are written side by side; for a single short one it
# saves nothing here, as calling PyTorch takes longer than what is computed.
#
# ## Is the trace used? (45 – 72 min)
#
# Now train the model that writes states. Your verifier says how many games it loses.


# %% id="live" tags=["nbval-ignore-output"]
def your_games_lost(model):
    """The same, judged by the verifier in use: yours, once it passes."""
    rollout = roll_out(
        model,
        plan.game,
        plan.game.prompts(games, seed=1, split="validation"),
        as_reward(verify, plan.game),
        temperature=0,
    )
    return 1 - rollout.mean_reward


in_steps = train_thinker(
    "every",
    lab.settings.seed,
    plan,
    live=True,
    title="Every state, then the answer",
    eval_fn=your_games_lost,
)

# %% id="live-see" tags=["nbval-ignore-output"]
print(f"games won: {in_steps.accuracy(games):.1%}")
names = plan.game.vocabulary
some_PT = plan.game.prompts(4, seed=3, split="validation")
for prompt_T, row in zip(some_PT, in_steps.write(some_PT).rows(), strict=True):
    prompt, text = names.decode(prompt_T), names.decode(row)
    print(f"{prompt} {text}   {verify(prompt, text)}")

# %% [markdown] id="corrupt-text"
# It wins, and its traces are right. Does it win *because* of them? A trace could also be
# decoration: the model could know the answer and write states beside it. Looking does
# not tell; **changing** does. Put a wrong cup into the trace, let the model go on from
# there, and see what it answers ([Lanham et al.
# 2023](https://arxiv.org/abs/2307.13702) ask large models in this way).
#
# ## 6.2 · Change one state · 12 minutes · ●●○
#
# State number `number` of a trace, counted from 1, becomes `cup`. Return two texts:
#
# - what the model is given: the prompt, the states before, the new cup. **Nothing behind
#   it**: later states would show it the old way;
# - the answer, one letter, of somebody who believes the new cup and plays on from there.
#
# State 1 is where the ball is behind the first swap.


# %% id="corrupt" tags=["nbval-ignore-output"]
@lab.exercise("6.2")
def corrupt(prompt, trace, number, cup):
    """("C AB CE DE ?", "C E D", 2, "D") -> "C AB CE DE ? C D", "E"."""
    ### BEGIN SOLUTION
    given = [*prompt.split(), *trace.split()[: number - 1], cup]
    swaps = prompt.split()[1:-1]
    for a, b in swaps[number:]:
        if cup in (a, b):
            cup = b if cup == a else a
    return " ".join(given), cup
    ### END SOLUTION


# %% id="corrupt-check" tags=["nbval-ignore-output"]
lab.check("6.2")
lab.hints("6.2")

# %% [markdown] id="predict-follow-text"
# Each game gets one change, at a random place, to a random wrong cup. The states before
# it come from a program and are right. An answer **follows** if it is the one of somebody
# who believes the change, and **stays** if it is where the ball really is. (It can never
# be both: a swap keeps different places different.)

# %% id="predict-follow" tags=["nbval-ignore-output"]
lab.predict(
    "follow",
    "Your model, one state changed: what does its answer do?",
    ["it mostly stays", "it mostly follows", "mostly neither"],
)

# %% id="follow" tags=["nbval-ignore-output"]
follow = shares(edits(in_steps, games, seed=4, corrupt=corrupt))
print(", ".join(f"{name} {share:.1%}" for name, share in follow.items()))

# %% id="follow-reveal" tags=["nbval-ignore-output"]
share, sentence = record.follow_answer()
lab.reveal(
    "follow",
    answer="it mostly follows" if share > 0.5 else "it mostly stays",
    sentence=sentence,
)

# %% [markdown] id="inspector-text"
# *Why was I wrong?* If you expected it to notice: nothing in its examples was ever wrong,
# so it never learned to doubt what is written.
#
# Is that so in every model? Two more, on games of **three** swaps, which two layers could
# follow without any steps. *Right steps* learned from right states. The examples of
# *slips* contain errors: a fifth of the written states are wrong, and behind an error all
# is right again, the answer, too. (At scale `ci`, with which this page was stored, there
# are two swaps, and four instead of twelve in the other games.)

# %% id="predict-easy" tags=["nbval-ignore-output"]
lab.predict(
    "easy",
    "One state changed: which of the two models' answers mostly follow it?",
    ["both", "right steps only", "slips only", "neither"],
)

# %% id="easy" tags=["nbval-ignore-output"]
easy_plan = LIVE_EASY[lab.settings.scale]
easy = {
    name: train_thinker(writer, lab.settings.seed, easy_plan)
    for name, writer in (("right steps", "every"), ("slips", "mended"))
}
for name, thinker in easy.items():
    found = shares(edits(thinker, games, seed=4, corrupt=corrupt))
    parts = ", ".join(f"{what} {share:.0%}" for what, share in found.items())
    print(f"{name:12} games won {thinker.accuracy(games):.0%}, ", end="")
    print(f"states right {right_states(thinker, games):.0%}; {parts}")

# %% id="easy-reveal" tags=["nbval-ignore-output"]
answer, sentence = record.easy_answer()
lab.reveal("easy", answer=answer, sentence=sentence)

# %% [markdown] id="inspector-play"
# *Why was I wrong?* *Right steps* could do without its trace, and uses it: to go on from
# a written state was the easiest thing to learn. To *slips* a written state is a poor
# witness, wrong in a fifth of all cases, so it learned to look at the swaps instead.
#
# **The trace inspector.** Grey is the ball, blue what the model writes by itself, a star
# its answer. Click any place, or use the controls, to write that cup there. The model
# then goes on from there (red). The states before the change are its own.
#
# Try this:
# 1. Change an early state, then a late one. Where does the red line go?
# 2. Change a state to the cup that holds the ball anyway. What has to happen?
# 3. In the second inspector, compare the two models. Which one's trace would you read to
#    learn how it got its answer?
#
# <details><summary>Answers</summary>
#
# 1. It is moved by the same swaps and never meets the grey one again, and the answer goes
#    with it, wherever the change was.
# 2. Nothing: the trace is what it was. (Where the model's own trace was wrong, this
#    mends it.)
# 3. That of *right steps*. The model that learned from slips mostly keeps its answer,
#    whatever stands in the trace: it computes the answer from the prompt. By itself it
#    writes right states, too (see *states right* above), and they tell nothing.
#
# </details>

# %% id="inspector" tags=["nbval-ignore-output"]
trace_explorer({"your model": in_steps}).show()

# %% id="inspector-easy" tags=["nbval-ignore-output"]
trace_explorer(easy).show()

# %% [markdown] id="vote-text"
# ## Several answers (72 – 90 min)
#
# Now a model whose teacher was **hasty**: in half of the examples the answer is a guess
# at once, in a fifth the trace breaks off and a guess follows, and every written state
# slips with a probability of 4 %; a slip is carried on. Sampled at temperature 1, the
# model does as it was shown. **Self-consistency** ([Wang et al.
# 2022](https://arxiv.org/abs/2203.11171)): sample several completions, and take the
# answer that comes most often.
#
# ## 6.3 · Self-consistency · 8 minutes · ●○○
#
# `answers` holds a cup for each completion, or `""` where it has none. Return the most
# frequent cup; of equally frequent ones the one that was said first. If nobody has an
# answer, return `""`.


# %% id="vote" tags=["nbval-ignore-output"]
@lab.exercise("6.3")
def vote(answers):
    """["B", "A", "", "A"] -> "A"."""
    ### BEGIN SOLUTION
    given = [answer for answer in answers if answer]
    return Counter(given).most_common(1)[0][0] if given else ""
    ### END SOLUTION


# %% id="vote-check" tags=["nbval-ignore-output"]
lab.check("6.3")
lab.hints("6.3")

# %% id="vote-train" tags=["nbval-ignore-output"]
hasty_plan = HASTY[lab.settings.scale]
hasty = train_thinker(
    "hasty",
    lab.settings.seed,
    hasty_plan,
    live=True,
    title="A hasty teacher's examples",
)

# %% [markdown] id="predict-vote-text"
# One answer of such a model is right about a third of the time.

# %% id="predict-vote" tags=["nbval-ignore-output"]
lab.predict(
    "vote",
    "64 answers of the same model vote. How many games are won?",
    ["a third, as before", "about half", "about three quarters"],
)

# %% id="vote-see" tags=["nbval-ignore-output"]
right, said = sampled_answers(hasty, 64, 64, temperature=1.0, seed=5)
yours = {
    votes: voted_accuracy(right, said, votes, vote=vote)
    for votes in (1, 4, 16, 64)
}
for votes, share in yours.items():
    print(f"{votes:3} votes: {share:.0%} of the games won")

# %% id="vote-reveal" tags=["nbval-ignore-output"]
share, sentence = record.voting_answer()
lab.reveal(
    "vote",
    answer="about three quarters" if share > 0.625
    else "about half" if share > 0.42 else "a third, as before",
    sentence=sentence,
)  # fmt: skip

# %% [markdown] id="vote-play"
# *Why was I wrong?* If you expected no gain: wrong answers are spread over all cups, while
# those that come from a whole trace mostly agree. A third of right answers is enough when
# the wrong ones disagree with each other.
#
# **Votes.** Recorded models; a dashed line marks a guess, a dotted one the answer made of
# likeliest tokens only.
#
# Try this:
# 1. *Rarely thinks*: lower the temperature. What happens to a single answer, and to the
#    vote? Why?
# 2. *Always thinks, slips*: how much is left to gain, and at which temperature?
# 3. Which of the two is the cheaper way to be right: 64 votes, or a teacher who always
#    thinks?
#
# <details><summary>Answers</summary>
#
# 1. At 0.6 a single answer is right in half of the games and a vote of 64 in 81 to 92 %,
#    both more than at 1: what is unlikely, a slip or an early `=`, becomes rarer. At 0.3
#    votes add less: answers resemble each other, and with them their mistakes. At 1.5
#    they are guesses.
# 2. At 1 a single answer is hardly better than a guess, as each state slips in a fifth
#    of the cases and there are 12. At 0.6 a vote of 32 wins all games. But so do the
#    likeliest tokens, with one answer: the slips are noise, and there is none at 0.
# 3. The teacher. A vote costs 64 completions in every game, for ever. Votes are what is
#    left when the teacher cannot be changed.
#
# </details>

# %% id="votes" tags=["nbval-ignore-output"]
mine = yours if lab.settings.scale == "cpu" else {}
vote_explorer(mine).show()

# %% [markdown] id="claim-text"
# ## Do the claims hold? (90 – 112 min)
#
# A press article on DeepSeek's methods says of chain of thought that the model breaks
# a problem into steps, that this solves tasks which direct answers do not, and that the
# steps show how the answer was derived. The record has every model with several seeds.
#
# **cot: "Thinking step by step solves tasks that direct answers do not."** Twelve swaps,
# models of two layers, two million tokens each. Every way to write got three learning
# rates (*rate*: the best, found with other seeds). *Tokens* are those of a completion:
# who writes less takes more steps. *Dots* are as many tokens as states, and say nothing.
# *Games won* is the median of five seeds, with the lowest and the highest.

# %% id="predict-dots" tags=["nbval-ignore-output"]
lab.predict(
    "dots",
    "As many dots as there would be states. How many games are won?",
    ["about 20 %, a guess", "about half", "as many as with states"],
)

# %% id="dots-reveal" tags=["nbval-ignore-output"]
won, sentence = record.dots_answer()
view = record.gap_view()
lab.reveal(
    "dots",
    answer="about 20 %, a guess" if won < 0.35
    else "about half" if won < 0.75 else "as many as with states",
    sentence=sentence,
    figure=view.figure,
)  # fmt: skip

# %% id="gap-record" tags=["nbval-check-output"]
print("\n".join(record.gap_lines()))

# %% [markdown] id="gap-after"
# With every state written down all games are won, with every seed. With dots, with every
# fourth state and directly it is a guess. Every second state lies between: each written
# state is then made of two swaps, and five seeds end anywhere from 31 to 99 %. Some
# trainings have found the way, others are still looking. So it is not the number of
# tokens that helps but what they say, and how far it is from one to the next.
#
# **How much depth is a step worth?** Fewer swaps, one million tokens, by the number of
# layers; all with one learning rate, 0.002. Three seeds.

# %% id="depth-record" tags=["nbval-check-output"]
print("\n".join(record.depth_lines()))

# %% [markdown] id="depth-after"
# Two swaps are answered at once by one layer. With four, each doubling of the layers helps,
# and four layers nearly get there. With eight, no depth has left the level of a guess
# within the budget, and their loss is that of guessing: the training has found nothing to
# begin with. With steps, one layer does all three.
#
# So depth buys direct answers, and steps buy depth. That four layers *could not* do eight
# swaps is not shown: they were not trained for longer.
#
# **cot-faithful: "The steps show how the answer was derived."** Five kinds of models, one
# changed state a game, 1024 games a model.

# %% id="faithful-record" tags=["nbval-check-output"]
print("\n".join(record.faithful_lines()))

# %% id="faithful-view" tags=["nbval-ignore-output"]
mine = follow if lab.settings.scale == "cpu" else None
view = record.faithful_view(mine)
show_figure(view.figure, view.sentence)

# %% [markdown] id="faithful-after"
# The first three follow: their answers come from what is written. The fourth wins nearly
# as many games, and its answers **stay** where they were. It
# had reason to: in its examples a written state is wrong in a fifth of the cases, and the
# answer right. The fifth learned from the same kind of examples. With 12 swaps it cannot
# do without its steps, wins fewer games, and follows.
#
# Two things decide: whether the model could do without, and whether its examples could be
# relied on. Neither can be seen in a trace.

# %% id="origins" tags=["nbval-ignore-output"]
for name in record.RECORDS:
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdicts-text"
# The verdicts follow from rules in `data/claims/`, written before the recorded runs (that
# of *cot* after pilots). Each names its metric and the effect, with its 95 % interval over
# seeds. The article's rule for *cot-faithful* takes the mean of the first three kinds of
# models; the source's is about the fourth.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Steps solve what direct answers do not: yes, where the task is a long chain.** Same
#   model, same tokens, each at its best learning rate. Two swaps need no steps at all.
#   And it is a statement about what training finds within a budget.
# - **What is written matters, not how much.** As many dots are worth nothing here. (Dots
#   can help where a task can be split into parts that are computed side by side
#   ([Pfau et al. 2024](https://arxiv.org/abs/2404.15758)); a chain cannot.)
# - **Steps show how the answer was derived: if the model uses them**, which depends on
#   what it learned from. Both kinds of models win their games. A
#   large model has learned from texts of both kinds, so it has to be asked.
# - **Votes are another way to spend computation** at the time of the answer. They sharpen
#   what is there, and make nothing that is not.
#
# Rewrite both sentences honestly. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("cot")

# %% [markdown] id="recap"
# ## What you take away (112 – 120 min)
#
# - A forward pass has a fixed depth. A written state is a place to put a result, so the
#   next pass can go on from it.
# - What helps is what the tokens *say*. As many dots do nothing here.
# - A verifier parses, demands an exact form, and reads nothing else.
# - A trace that looks right may be unused. Change it and see.
# - Votes help where right answers agree more than wrong ones do.
#
# **Limits.** One small game, in which each step is easy and all are alike; recorded models
# of 50 to 190 thousand weights; a budget that ends training early. Direct answers stayed at chance
# in this budget, which is no proof that more would not help. No model invented these
# thoughts: a program wrote them, and it knew the way. Whether the thoughts of a large model
# are used has to be asked of that model.
#
# **Diagnose.** What is wrong?
#
# 1. A verifier accepts a completion if the right cup stands anywhere behind the `=`. After
#    some training with it as a reward, every game is won.
# 2. Somebody changes a state in the middle of a trace, leaves the states behind it in
#    place, and finds that the answer never changes. "The trace is not used."
#
# <details><summary>Answers</summary>
#
# 1. The model names all five cups. Demand exactly one.
# 2. The later states still showed the old way, and the model read those.
#
# </details>
#
# **Further reading.** [Nye et al. 2021](https://arxiv.org/abs/2112.00114), scratchpads.
# [Wei et al. 2022](https://arxiv.org/abs/2201.11903), chains of thought by prompting.
# [Feng et al. 2023](https://arxiv.org/abs/2305.15408) and [Li et al.
# 2024](https://arxiv.org/abs/2402.12875), why. [Turpin et al.
# 2023](https://arxiv.org/abs/2305.04388), explanations that leave out the reason.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## 6.4 · One token with the cache · 15 minutes · ●●○
#
# A token that has just been chosen is read: one head of one layer made its query, key and
# value. What is kept has room for $S$ positions, counted from 0, of which `seen` are
# filled; `cache_2RSK[0]` holds keys, `cache_2RSK[1]` values. Store key and value, **in
# place**, and return the mixture of values that the token sees:
#
# $$o = \sum_{s \le t} \text{softmax}_s\!\left(\frac{q_t \cdot k_s}{\sqrt{K}}\right) v_s,
# \qquad t = \texttt{seen}$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $R$, $K$ | rows (texts); width of a head | | |
# | $q_t$, $k_t$, $v_t$ | of the new token | $R \times K$ | `q_RK`, `k_RK`, `v_RK` |
# | | keys and values, $S$ positions each | $2 \times R \times S \times K$ | `cache_2RSK` |
# | $o$ | what the token sees | $R \times K$ | returned |


# %% id="attend" tags=["nbval-ignore-output"]
@lab.exercise("6.4")
def attend_next(q_RK, k_RK, v_RK, cache_2RSK, seen):
    """Keep a new token's key and value, and look at all tokens so far."""
    ### BEGIN SOLUTION
    cache_2RSK[0, :, seen] = k_RK
    cache_2RSK[1, :, seen] = v_RK
    keys_RSK, values_RSK = cache_2RSK[:, :, : seen + 1]
    score_RS = torch.einsum("rk,rsk->rs", q_RK, keys_RSK)
    weight_RS = (score_RS / q_RK.shape[1] ** 0.5).softmax(-1)
    return torch.einsum("rs,rsk->rk", weight_RS, values_RSK)
    ### END SOLUTION


# %% id="attend-check" tags=["nbval-ignore-output"]
lab.check("6.4")
lab.hints("6.4")

# %% id="attend-see" tags=["nbval-check-output"]
# Five tokens at once, with a causal mask, against one after the other.
torch.manual_seed(0)
q_RTK, k_RTK, v_RTK = torch.randn(3, 2, 5, 8)
whole_RTK = torch.nn.functional.scaled_dot_product_attention(
    q_RTK, k_RTK, v_RTK, is_causal=True
)
cache_2RSK = torch.zeros(2, 2, 5, 8)
for t in range(5):
    new = (x_RTK[:, t] for x_RTK in (q_RTK, k_RTK, v_RTK))
    seen_RK = attend_next(*new, cache_2RSK, t)
    print(f"token {t}: {torch.allclose(seen_RK, whole_RTK[:, t], atol=1e-5)}")

# %% [markdown] id="choose-text"
# No mask is needed: what lies in the cache came before.
#
# ## 6.5 · Choosing a token · 12 minutes · ●●○
#
# Lay the probabilities of all tokens side by side from 0 to 1, in the order of the
# tokens. A random number $u$, from 0 to below 1, falls into the share of one of them.
# Return the numbers of these tokens, integers of shape $R$; $V$ is the size of the
# vocabulary, and `temperature` is above 0. A token with probability 0 must never come,
# not even for $u = 0$. (Rounded, the last share may end a little below 1: stretch $u$ by
# that end.)


# %% id="choose" tags=["nbval-ignore-output"]
@lab.exercise("6.5")
def choose(logits_RV, u_R, temperature):
    """token_R: into whose share of 0 to 1 the number u falls."""
    ### BEGIN SOLUTION
    share_RV = (logits_RV / temperature).softmax(-1)
    ends_RV = share_RV.cumsum(-1)
    passed_RV = ends_RV <= u_R[:, None] * ends_RV[:, -1:]
    return passed_RV.sum(-1)
    ### END SOLUTION


# %% id="choose-check" tags=["nbval-ignore-output"]
lab.check("6.5")
lab.hints("6.5")

# %% id="choose-see" tags=["nbval-check-output"]
u_R = (torch.arange(1000) + 0.5) / 1000  # evenly spread instead of random
logits_RV = torch.tensor([2.0, 1.0, 0.0]).expand(1000, 3)
for temperature in (0.25, 1.0, 4.0):
    token_R = choose(logits_RV, u_R, temperature)
    parts = (token_R.bincount(minlength=3) / 10).tolist()
    words = ", ".join(f"{part:.1f} %" for part in parts)
    print(f"temperature {temperature:4}: {words}")

# %% [markdown] id="length-text"
# A low temperature favours what is likely already. Why a number of its own for every row,
# rather than one random generator? With it, a row's tokens depend on nothing but its
# prompt and its seed: the same text comes out whatever stands beside it in the batch, and
# on whatever rank.
#
# ## Longer games · reading, 5 minutes
#
# A chain of thought has no fixed depth. So does a model that learned 12 swaps play 24?
# One layer, every state; the positions are rotary, so there is no table that ends. The
# first row learned from games of 12 swaps, the second from five lengths. Columns are the
# number of swaps asked; medians of three seeds.

# %% id="length-record" tags=["nbval-check-output"]
print("\n".join(record.length_lines()))

# %% [markdown] id="length-after"
# None plays longer games than it learned. A likely reason: it learns how many tokens back
# the next swap stands, and that distance is another one in every length. The model of one
# layer that saw five lengths has learned none of them well. With two layers and twice the
# tokens it plays all of them in two of three trainings (the third has not finished), and
# still nothing beyond. Steps lift the limit of depth; they do not give a rule for all
# lengths.
#
# ## On four ranks · 5 minutes
#
# Eight prompts, four completions of each, with your model at temperature 1. Each rank
# writes one completion of every prompt, with the random numbers that belong to its rows.
# Then tokens are gathered, and compared with what one process writes.

# %% id="ranks-weights" tags=["nbval-ignore-output"]
weights = in_steps.model.state_dict()
scale_name = lab.settings.scale

# %% id="ranks" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name ranks --push weights,scale_name,seed
import torch
import torch.distributed as dist

from labs.lab_06.rank_program import write_part

torch.set_num_threads(1)
dist.init_process_group(backend())
mine, tokens_RN = write_part(dist, weights, scale_name, seed, device())
share("tokens", tokens_RN.cpu())
print(f"{len(mine.lengths_R)} completions, {int(mine.lengths_R.sum())} tokens")

# %% id="ranks-check" tags=["nbval-check-output"]
alone = in_steps.write(
    plan.game.prompts(8, seed=seed, split="validation"),
    group=world,
    temperature=1.0,
    seed=seed,
)
same = [
    float((ranks[rank].tokens == alone.tokens_RN.cpu()).float().mean())
    for rank in range(world)
]
print(f"every rank has what one process writes: {min(same) > 0.99}")

# %% [markdown] id="ranks-after"
# In lab 07 a reward is compared with those of the same prompt. They lie on all ranks then,
# so rewards, single numbers, are what is gathered there; tokens stay where they are.
#
# ## 6.K · The kernel: a sum that never overflows · 15 minutes · ●●○
#
# Whoever samples or trains by rewards needs the log-probability of a token:
#
# $$\log p(y) = z_y - \text{lse}(z), \qquad \text{lse}(z) = \log \sum_v e^{z_v}$$
#
# $z$ are a row of logits, $V$ of them: about 152,000 for Qwen's vocabulary. Written in PyTorch,
# `log_softmax` stores another $V$ numbers to hand out one. The **log-sum-exp** can be had
# in one pass, block by block, and keeps two numbers: the largest logit so far, $m$, and
# the sum of all $e^{z_v - m}$ so far. Where a block raises the maximum from $m$ to $m'$,
# what was summed before has to shrink by $e^{m - m'}$. (FlashAttention does the same.)
#
# Write it. A program has one row; the loop over its blocks stands there.

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_06.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("6.K")
@jit
def online_lse(z_ptr, lse_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    largest = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        ### BEGIN SOLUTION
        z = tl.load(z_ptr + n * V + v, mask=v < V, other=float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=0))
        rescaled = total * tl.exp(largest - new)
        total = rescaled + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    tl.store(lse_ptr + n, largest + tl.log(total))
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("6.K")
lab.hints("6.K")

# %% [markdown] id="kernel-map-text"
# Three rows of 40 logits, a program each. Move the slider: a program reads its row once,
# and stores one number.

# %% id="kernel-map" tags=["nbval-ignore-output"]
z_NV = torch.linspace(-200, 200, 120).view(3, 40)
lse_N = torch.zeros(3)
if kernels.INTERPRETED:
    memory_map(online_lse, 3, z_NV, lse_N, 40, BLOCK=BLOCK).show()

# %% id="kernel-run" tags=["nbval-check-output"]
# Launches the kernel in use on logits whose exp overflows.
found_N = online_lse(z_NV)
print(f"as torch.logsumexp: {torch.allclose(found_N, z_NV.logsumexp(-1))}")
print(f"by exp and log alone: {z_NV.exp().sum(-1).log()[-1]}")

# %% [markdown] id="kernel-real"
# The course's own [selected_logprob](../kernels/selected_logprob.py) does this for the
# token that was chosen, and keeps lse for its backward. [linear_logprob](
# ../kernels/linear_logprob.py) goes further: it multiplies with the output layer block by
# block, so the logits are never stored at all. On a GPU the first is bound by reading the
# logits once.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("selected_logprob", dtype="bfloat16")

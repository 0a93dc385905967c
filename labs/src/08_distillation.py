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
# # 08 · Distillation
#
# **In two hours a student with a quarter of its teacher's weights will learn the teacher's
# game: from what it writes, from what it would have written, and from what it says of the
# student's own attempts. You will see what each costs, and how far rewards get.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 15 | learn from answers alone | what answers leave out |
# | 15 – 40 | look into a teacher; write its loss | what scores say beside the token |
# | 40 – 60 | keep what is right | what a verifier adds |
# | 60 – 80 | let the student write | learn where you go, not where the teacher goes |
# | 80 – 110 | compare seven ways, sizes, data, speed | equal compute, or no comparison |
# | 110 – 120 | verdicts, recap and three questions | |
#
# Then, if you like, the deep parts: forward and reverse, text and dark knowledge, a teacher
# on a rank of its own, the kernel. Nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb). The game and the teacher come from labs
# [06](06_chain_of_thought.ipynb) and [07](07_rl_without_human_feedback.ipynb); they help,
# and are not needed.
#
# (Outputs that stand here before you run anything were made at scale `ci`, with four swaps
# and a tiny budget. Yours have twelve.)

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 3  # ranks of the torchrun cell

# %% id="setup" tags=["nbval-ignore-output"]
import math
from dataclasses import replace

import torch

from labs.lab_07.runs import examined
from labs.lab_08 import record_tables as record
from labs.lab_08.experiments import best_course, tokens_a_second
from labs.lab_08.plan import PLANS
from labs.lab_08.questions import QUESTIONS
from labs.lab_08.teacher import find_teacher
from labsupport import Lab
from labsupport.distill import write_traces

lab = Lab("08", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
size, seed = lab.settings.scale, lab.settings.seed
plan = PLANS[size]
game = plan.game
stored, sentence = find_teacher(size)
teacher = stored.model
given = (teacher, plan, seed)
print(plan)
print(sentence)

# %% [markdown] id="problem"
# ## Answers alone (0 – 15 min)
#
# Five cups stand in places A to E, a ball under one of them. Twelve times two cups are
# swapped. Where is the ball? With three swaps:
#
#     C AB CE DE ?      C E D = D EOS
#
# On the left the **prompt**: the ball begins under C, then the swaps. On the right what
# the **teacher** writes, its **trace**: after each swap where the ball is, then `=`, the
# answer, and a token that ends the text. A **verifier**, a function that plays the game
# itself, says whether the answer is right. The teacher learned this from a program's
# examples and a verifier's rewards (lab 07). A guess is right in a fifth of all games.
#
# The **student** is smaller. It has to learn the same game. The simplest way: a list of
# games with their right answers, `= D EOS`, as many as it can read.
#
# (Every training below has the settings that were best for its way in the course's record,
# out of six.)

# %% id="sizes" tags=["nbval-ignore-output"]
student = best_course("labels", *given).begin()[0]
for name, model in (("teacher", teacher), ("student", student)):
    print(f"{name}: {model.parameter_count():,} weights")
exam = examined(teacher, game, size)
print(
    f"the teacher wins {exam.accuracy:.1%} and writes {exam.length:.1f} tokens"
)

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "labels",
    "The student reads only right answers, some 100,000 of them. It wins ...",
    ["about a fifth", "about half", "nearly all"],
)

# %% id="labels" tags=["nbval-ignore-output"]
by_labels = best_course("labels", *given).labels()
exam = examined(by_labels.model, game, size)
print(f"{by_labels.steps} updates; {exam.accuracy:.1%} of the games won")

# %% id="reveal" tags=["nbval-ignore-output"]
won, sentence = record.ways_answer("labels")
lab.reveal(
    "labels",
    answer="about a fifth" if won < 0.3 else "about half" if won < 0.7
    else "nearly all",
    sentence=sentence,
)  # fmt: skip

# %% [markdown] id="reveal-after"
# *Why was I wrong?* Every answer was right, and still nothing was learned: twelve swaps are
# too many for one look (lab 06). The answers do not say how they were found. The teacher
# does, token by token.
#
# ## What a teacher says (15 – 40 min)
#
# At every place the teacher has a **score** for each token of the vocabulary (a logit).
# Softmax makes probabilities of scores, and a **temperature** $T$ softens them. The student
# can learn the token that was written, or all of the probabilities
# ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)):
#
# $$p = \text{softmax}(t / T), \qquad q = \text{softmax}(s / T), \qquad
# L = T^2 \; \frac{1}{N} \sum_n \sum_v p_{nv} \log \frac{p_{nv}}{q_{nv}}$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $t$, $s$ | scores of teacher and student | $N \times V$ | `teacher_NV`, `student_NV` |
# | $p$, $q$ | their probabilities at temperature $T$ | $N \times V$ | |
# | $N$, $V$ | tokens; entries of the vocabulary | | |
#
# The double sum is the **Kullback-Leibler divergence** $\text{KL}(p \,\|\, q)$, the mean
# over tokens: 0 if both say the same, larger where the student finds unlikely what the
# teacher finds likely.
#
# **Look into the teacher.** On the left its likeliest tokens at a place of a game; on the
# right how hard a student that knows nothing is pulled, by temperature.
#
# Try this:
# 1. At T = 1, how sure is the teacher at the places of its trace?
# 2. At T = 8, is the order of tokens still the same?
# 3. Without $T^2$, how much weaker is the pull at T = 8 than at T = 1?
#
# <details><summary>Answers</summary>
#
# 1. Very sure: it leaves about a thousandth at most to other tokens. On text this is
#    otherwise (deep part).
# 2. Yes. Temperature changes how far apart they are, never their order.
# 3. Some forty times: 0.02 in place of 0.97. With $T^2$ it is about 1.4. (For a teacher who
#    is less sure it would be more nearly alike.)
#
# </details>

# %% id="soft" tags=["nbval-ignore-output"]
from labs.lab_08.soft_explorer import soft_explorer

traces = write_traces(teacher, game, 4, seed=seed + 7)
tokens_BS, targets_BS = traces.supervised()
places = (targets_BS[0] >= 0).nonzero()[:, 0]
read = [
    game.vocabulary.decode(tokens_BS[0, : at + 1].tolist()) for at in places
]
with torch.no_grad():
    scores_NV = teacher(tokens_BS[:1])[0, places]
soft_explorer(scores_NV, game.vocabulary.names, read).show()

# %% [markdown] id="soft-text"
# ## 8.1 · The teacher's scores · 12 minutes · ●●○
#
# Write $L$. `student_NV` and `teacher_NV` are scores, `T` a number above 0. Why $T^2$: a
# score's effect on $q$ shrinks as $1/T$, and so does $p - q$. Without the factor the
# gradient would shrink as $1/T^2$. (Adam, which divides by the gradient's size, hides this
# until the loss is mixed with another.) It has to hold for scores 240 apart, too.


# %% id="soft-loss" tags=["nbval-ignore-output"]
@lab.exercise("8.1")
def soft_loss(student_NV, teacher_NV, T):
    """T^2 KL(p || q), the mean over tokens."""
    ### BEGIN SOLUTION
    log_p_NV = (teacher_NV / T).log_softmax(-1)
    log_q_NV = (student_NV / T).log_softmax(-1)
    kl_N = (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)
    return T**2 * kl_N.mean()
    ### END SOLUTION


# %% id="soft-check" tags=["nbval-ignore-output"]
lab.check("8.1")
lab.hints("8.1")

# %% id="soft-see" tags=["nbval-check-output"]
row_1V = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
for T in (1.0, 2.0, 8.0):
    student_1V = torch.zeros(1, 4, requires_grad=True)
    soft_loss(student_1V, row_1V, T).backward()
    pull = student_1V.grad.norm()
    print(f"T = {T:g}: pull {pull:.2f}, without T^2 {pull / T**2:.3f}")

# %% [markdown] id="reject-text"
# ## 8.2 · Keep what is right · 10 minutes · ●○○
#
# The simplest textbook is what the teacher wrote: the student learns its tokens, and needs
# no scores. DeepSeek's small R1 models were made so, from 800,000 traces
# ([2501.12948](https://arxiv.org/abs/2501.12948), section 2.4). A teacher errs sometimes;
# where a verifier knows what is right, wrong traces are thrown out: **rejection sampling**.
#
# `traces` are pairs of prompt and completion, both text. Return, in their order, those for
# which `is_right(prompt, completion)` is true; the same pair only once; and of one prompt
# at most `most`, so that easy prompts do not fill the book. (In the training below all 2,000
# prompts differ, so there only the verifier has something to do.)


# %% id="reject" tags=["nbval-ignore-output"]
@lab.exercise("8.2")
def keep_right(traces, is_right, most):
    """Right traces, each once, and at most `most` of a prompt."""
    ### BEGIN SOLUTION
    kept, counts = [], {}
    for prompt, completion in traces:
        if (prompt, completion) in kept or counts.get(prompt, 0) == most:
            continue
        if is_right(prompt, completion):
            kept.append((prompt, completion))
            counts[prompt] = counts.get(prompt, 0) + 1
    return kept
    ### END SOLUTION


# %% id="reject-check" tags=["nbval-ignore-output"]
lab.check("8.2")
lab.hints("8.2")

# %% id="reject-see" tags=["nbval-check-output"]
book = [
    ("C AB ?", "C = C EOS"),
    ("C AB ?", "C = C EOS"),
    ("A AB ?", "A = A EOS"),
]
book += [("A AB ?", "B = B EOS"), ("A AB ?", "= B EOS")]
names = game.vocabulary.names


def is_right(prompt, completion):
    """Play the game with one swap, and compare."""
    cup, swap, _ = prompt.split()
    where = swap.replace(cup, "") if cup in swap else cup
    return completion.split()[-3:] == ["=", where, "EOS"]


for most in (1, 2):
    print(most, keep_right(book, is_right, most))

# %% id="predict-right" tags=["nbval-ignore-output"]
lab.predict(
    "right",
    "The student learns 2,000 traces of the teacher, the wrong ones thrown "
    "out, for as many FLOPs as the answers took. It wins ...",
    [
        "about half",
        "nearly as many games as the teacher",
        "more than the teacher",
    ],
)

# %% id="right" tags=["nbval-ignore-output"]
by_traces = best_course("right", *given).right(keep=keep_right)
exam = examined(by_traces.model, game, size)
print(f"{by_traces.steps} updates; {exam.accuracy:.1%} of the games won")

# %% id="right-reveal" tags=["nbval-ignore-output"]
answer, sentence = record.right_answer()
lab.reveal("right", answer=answer, sentence=sentence)

# %% [markdown] id="policy-text"
# *Why was I wrong?* The textbook is better than its author, for two reasons. It was written
# at a temperature of 0.7, where the teacher slips less than at 1, where it plays. And the
# verifier took out the wrong traces that were left.
#
# Now the same right traces, and at each token all of the teacher's scores, by your loss.

# %% id="predict-scores" tags=["nbval-ignore-output"]
lab.predict(
    "scores",
    "The same right traces at the same cost, and all scores instead of the "
    "written tokens. The student wins ...",
    ["more games", "as many, or fewer"],
)

# %% id="scores" tags=["nbval-ignore-output"]
scored = best_course("logits", *given)
same_traces = replace(scored, writing=best_course("right", *given).writing)
by_scores = same_traces.logits(soft=soft_loss)
exam = examined(by_scores.model, game, size)
print(f"{by_scores.steps} updates; {exam.accuracy:.1%} of the games won")

# %% id="scores-reveal" tags=["nbval-ignore-output"]
answer, sentence = record.scores_answer()
lab.reveal("scores", answer=answer, sentence=sentence)

# %% [markdown] id="scores-after"
# *Why was I wrong?* Scores bring the teacher's mistakes back: at each place of a right
# trace the student also learns what the teacher would have written wrongly. And where the
# next token is as sure as here, they have little else to say. (Both have the best of three
# learning rates, chosen on the same seeds; at each of the three tokens win more in the mean.)
#
# From fewer traces, at the same cost (recorded: five seeds with 2,000 traces, three with
# fewer):

# %% id="data-record" tags=["nbval-check-output"]
print("\n".join(record.data_lines()))

# %% [markdown] id="policy-intro"
# For this student 60 traces are too few, whichever of both is learned. From 250 on tokens win
# practically all games, and scores stay where their author is.
#
# ## 8.3 · The student writes · 12 minutes · ●●○
#
# From traces the student learns what to do where the **teacher** gets to. After a slip of
# its own it is somewhere else, and nobody has shown it how to go on. So let it write, and
# ask the teacher at every place of the *student's* text what it would have said
# ([GKD](https://arxiv.org/abs/2306.13649), algorithm 1). It is called **on-policy**.
#
# `write(student, prompts_BT)` returns `tokens_BS`, B prompts with what the student wrote
# behind them, S tokens each, and `mask_BS`: true where the *next* token is one that it wrote.
# `divergence(student_BSV, teacher_BSV, mask_BS)` compares scores where the mask is true; the
# mask lines up with the scores as they are. Return its value, with a gradient to the student
# alone: what was written is taken as given, and the teacher learns nothing.


# %% id="policy" tags=["nbval-ignore-output"]
@lab.exercise("8.3")
def on_policy_loss(student, teacher, prompts_BT, write, divergence):
    """How far the teacher would go another way, on the student's text."""
    ### BEGIN SOLUTION
    with torch.no_grad():
        tokens_BS, mask_BS = write(student, prompts_BT)
        teacher_BSV = teacher(tokens_BS)
    return divergence(student(tokens_BS), teacher_BSV, mask_BS)
    ### END SOLUTION


# %% id="policy-check" tags=["nbval-ignore-output"]
lab.check("8.3")
lab.hints("8.3")

# %% [markdown] id="disagree-text"
# Train so: half of the budget goes to right traces, now written at temperature 1 (as
# recorded); for the rest the student writes, and your function makes the loss of
# $\text{KL}(q \,\|\, p)$, the **reverse** of the one above. (Does yours win far fewer games
# than with traces? How often that happens, the table of seven ways will say.)

# %% id="own" tags=["nbval-ignore-output"]
by_own = best_course("on_policy", *given).on_policy(step=on_policy_loss)
exam = examined(by_own.model, game, size)
print(f"{by_own.steps} updates; {exam.accuracy:.1%} of the games won")

# %% [markdown] id="disagree-after"
# **Where they disagree.** Along a trace of the teacher: how far the student's probabilities
# are from the teacher's at each token, in nats (KL with natural logarithms: 0 is equal,
# above 1 is far). Below, what both say at one place.
#
# Try this:
# 1. The student of answers alone: where is it far from the teacher, and where not?
# 2. The student of traces: where does it still disagree?
#
# <details><summary>Answers</summary>
#
# 1. At nearly every state and at `=`, by 11 nats or more. At the first place it says `=`, and
#    behind most states that the text ends, and is sure of both. At the answer it guesses
#    among five: log 5, or 1.6 nats.
# 2. Hardly anywhere: at most places by thousandths of a nat.
#
# </details>

# %% id="disagree" tags=["nbval-ignore-output"]
from labs.lab_08.disagreement_explorer import disagreement_explorer

disagreement_explorer(
    teacher,
    {"answers alone": by_labels.model, "traces": by_traces.model},
    tokens_BS,
    targets_BS,
    game.vocabulary.names,
).show()

# %% [markdown] id="ways-text"
# ## Seven ways at the same cost (80 – 110 min)
#
# Cost is counted in FLOPs: 6 for each weight and token that is learned, 2 for each that is
# read or written, by whoever does it. So asking the teacher is not free: it has four times
# the student's weights. Its own training is **not** in the budget.
#
# Each way had six settings to choose from, on other seeds. Recorded, five seeds: the median
# of games won, lowest and highest; the mean difference to right traces with its 95 %
# interval; the teacher's share of the FLOPs. Traces were written at a temperature of 0.7
# where tokens are learned, which was the better setting, and at 1 for scores and before own
# writing. Seconds are those of the training, on the recording machine. *Examples* are those
# of lab 07's hasty teacher, who mostly guesses; the last line is about them alone.

# %% id="ways-record" tags=["nbval-check-output"]
print("\n".join(record.ways_lines()))
print(record.teacher_line())
print(record.examples_line())

# %% [markdown] id="ways-after"
# - **Answers teach nothing, traces nearly everything.** All traces make a student a little
#   better than its teacher (0.983): they were written at a temperature of 0.7, the better
#   setting, where it slips less. Without the wrong ones it wins practically every game.
# - **Scores** (at T = 2, the best setting) end where the teacher is.
# - **Own writing** won nearly all games with four seeds, and with one 0.46: here no better
#   than traces, and less dependable. It has fewer updates, as the teacher has to be asked
#   for every token anew.
# - **Examples, then rewards** win more than the examples alone (0.30), and less than right
#   traces with every seed. Rewards after answers teach nothing: no completion writes a state,
#   so none is rewarded for one.
#
# **How small, and from how much?** Now five widths, five amounts of traces, and the same
# FLOPs for each. (Each width has the best of four learning rates, found with 2,000 traces.)
#
# In the picture blue is what you chose: on the left a width, on the right a number of traces,
# each the median of three seeds with bars from the lowest to the highest. Grey are the others.

# %% id="predict-few" tags=["nbval-ignore-output"]
lab.predict(
    "few",
    "The teacher writes only 60 traces, and they are read again and again. "
    "Which student wins most games?",
    ["width 64, as wide as the teacher", "width 16", "width 8"],
)

# %% id="kept" tags=["nbval-ignore-output"]
from labs.lab_08.kept_explorer import kept_explorer

kept_explorer().show()

# %% id="few-reveal" tags=["nbval-ignore-output"]
answer, sentence = record.few_answer()
lab.reveal("few", answer=answer, sentence=sentence)

# %% [markdown] id="kept-text"
# *Why was I wrong?* The third question leads there. Move both sliders, or click on a mark:
# 1. With 2,000 traces: which widths keep all that the teacher can do?
# 2. From 250 down to 60 traces: who falls first, the wide ones or the narrow ones?
# 3. Two reasons could be behind it. Which, and how would you tell them apart?
#
# <details><summary>Answers</summary>
#
# 1. 8, 16 and 32, in the median. Width 8 has 1,104 weights; the game is a table of 50 steps,
#    five cups by ten swaps. Width 4 has 368, and in the median it stays below half of its
#    games, however many traces it reads. Width 64 stops half way. Seeds decide much here:
#    with those on which the rates were chosen, width 4 won 0.20 to 0.95 and width 64 0.83 to
#    0.93; and width 16 once won only 0.40.
# 2. The wide ones. From 60 traces width 8 still wins 0.98, though not with every seed, and
#    all others less than a guess.
# 3. A narrow student has more updates for the same FLOPs: some 14,700 at width 8, 4,000
#    at 16, 1,070 at 32, 270 at 64. And a wide one has more room to learn sixty texts by heart.
#    Give the wide ones as many updates; that is recorded, too:
#
# </details>

# %% id="longer-record" tags=["nbval-check-output"]
print("\n".join(record.longer_lines()))
print(record.size_line())

# %% [markdown] id="longer-after"
# **With 2,000 traces a wide student lacks updates.** With four times the FLOPs width 64 wins
# all games. **With 60 traces they are a part of it:** fourteen times the FLOPs lift width 32
# from 0.16 to 0.57, still short of width 8's 0.98 with as many updates. The rest may be room
# for learning by heart; three seeds, of which width 8 failed with one, do not decide it. And
# answers alone (the last line) teach no width from 8 to 48.
#
# ## On this machine
#
# Bytes of the weights in float32, and how fast both write. Yours are measured now.

# %% id="predict-speed" tags=["nbval-ignore-output"]
lab.predict(
    "speed",
    "The student has a quarter of the teacher's weights. Writing one text at "
    "a time, how many tokens a second does it write, beside the teacher?",
    ["about as many", "about twice as many", "about four times as many"],
)

# %% id="speed" tags=["nbval-ignore-output"]
rates = {}
for name, model in (("teacher", teacher), ("student", by_traces.model)):
    one, many = (
        tokens_a_second(model, game, texts, seed, repeats=9)
        for texts in (1, 256)
    )
    rates[name] = one
    kB = 4 * model.parameter_count() / 1000
    print(f"{name}: {kB:.0f} kB; {one:,.0f} tokens a second, one text at")
    print(f"    a time; {many:,.0f} with 256 texts at once")

# %% id="speed-reveal" tags=["nbval-ignore-output"]
times = rates["student"] / rates["teacher"]
lab.reveal(
    "speed",
    answer="about as many" if times < 1.5 else "about twice as many"
    if times < 3 else "about four times as many",
    sentence=f"Measured in the cell above: {times:.2f} times as many.",
)  # fmt: skip

# %% [markdown] id="device-text"
# Recorded, median of five repeats, lowest and highest:

# %% id="device-record" tags=["nbval-check-output"]
print("\n".join(record.device_lines()))

# %% [markdown] id="device-after"
# A quarter of the bytes. But writing one text at a time the student is hardly quicker: a
# token of such small models costs the launching of some dozens of operations, whatever
# their size. Only with many texts at once does the smaller arithmetic show.

# %% [markdown] id="claim-text"
# ## Does the claim hold? (110 – 120 min)
#
# A press article says that by distillation small models learn the reasoning of large ones,
# and run where there are fewer resources. The rules stand in `data/claims/`, written before
# the records. *kd*: right traces win 0.6 more of the games than answers (article) and 0.256
# more than rewards (source). *kd-device*: at most half of the bytes (article), and twice the
# tokens a second with 256 texts at once (source). Reproduced means: the interval excludes no
# effect and reaches the claimed size.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% id="origins" tags=["nbval-ignore-output"]
for name in record.RECORDS:
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **A small student learns a skill.** With a quarter of the weights, from 2,000 traces, it
#   wins a little more games than its teacher, and practically all where a verifier reads
#   along.
# - **At equal cost traces beat rewards here, if there is a teacher.** DeepSeek reports the
#   same order for a model of 32 billion weights, not at equal cost. The teacher's own
#   training, seven students' budgets, is not in it; without a teacher rewards are what is
#   left (lab 07).
# - **It is one skill.** What is copied are twelve equal steps, which the teacher once had
#   from examples, too. That reasoning at large could be copied so is not shown.
#
# Rewrite the sentences honestly. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("kd", "kd-device")

# %% [markdown] id="recap"
# ## What you take away
#
# - Answers say what, a teacher's traces say how.
# - Scores say more than tokens only where tokens are not sure. They bring mistakes, too.
# - A lower temperature and a verifier make a textbook better than its author.
# - On-policy, the student learns where it goes itself; here it did not need to.
# - Count what the teacher writes and scores; name its own training beside it.
#
# **Limits.** One game of equal steps, on which a teacher is sure; students of one layer; a
# teacher only four times as large; FLOPs without those of attention. Fewer traces have the
# settings that were best for 2,000, divergences those of forward. Own writing was not
# offered traces written at 0.7.
#
# **Diagnose.** What is wrong?
#
# 1. The student's loss is near 0 on the teacher's traces, and it wins half of its games.
# 2. You mix labels with soft targets at T = 8, half and half, and leave $T^2$ out. Nothing
#    changes against labels alone.
#
# <details><summary>Answers</summary>
#
# 1. Either it knows few traces by heart: look at its loss on traces that it has not read, and
#    have more written. Or it goes wrong behind its own slips, which no trace shows: have it
#    write, and ask the teacher there.
# 2. The soft part pulls up to 64 times less than it should, so labels decide.
#
# </details>
#
# **Further reading.** [Hinton et al. 2015](https://arxiv.org/abs/1503.02531).
# [GKD](https://arxiv.org/abs/2306.13649). [MiniLLM](https://arxiv.org/abs/2306.08543).
# [DeepSeek-R1](https://arxiv.org/abs/2501.12948), section 2.4 and table 5.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## Forward, reverse, and between · 10 minutes
#
# A teacher often has two ways to go on, and a small student room for one. $\text{KL}(p \|
# q)$ punishes a student that finds unlikely what the teacher says: it **covers** both ways,
# and what lies between. $\text{KL}(q \| p)$ punishes it for saying what the teacher would
# not: it **seeks** one way and stays there. $\beta$ leads from one to the other (8.4).
#
# Try this:
# 1. Humps 6 apart, $\beta$ from 0 to 1: when does the student take a side?
# 2. Humps 2 apart: does it matter?
#
# <details><summary>Answers</summary>
#
# 1. Between 0.5 and 0.9. Then it says hardly anything between the humps any more, and
#    nothing of the right one.
# 2. No: one hump covers both, whatever is asked.
#
# </details>

# %% id="humps" tags=["nbval-ignore-output"]
from labs.lab_08.humps_explorer import humps_explorer

humps_explorer().show()

# %% [markdown] id="mixture-text"
# ## 8.4 · Between · 12 minutes · ●●○
#
# $$D_\beta = \beta \, \text{KL}(p \,\|\, M) + (1 - \beta) \, \text{KL}(q \,\|\, M), \qquad
# M = \beta p + (1 - \beta) q$$
#
# ([GKD](https://arxiv.org/abs/2306.13649), section 2). It is never larger than $\log 2$
# for $\beta = 1/2$. Here $\beta$ lies between 0 and 1; the course's loss takes at the ends
# what $D_\beta / \beta$ and $D_\beta / (1 - \beta)$ go to, $\text{KL}(p \| q)$ and
# $\text{KL}(q \| p)$. Both arguments are log-probs, $N \times V$. Return a number for each
# row; it has to hold for probabilities of $e^{-200}$, too.


# %% id="mixture" tags=["nbval-ignore-output"]
@lab.exercise("8.4")
def mixture_divergence(log_p_NV, log_q_NV, beta):
    """beta KL(p || M) + (1 - beta) KL(q || M) of each row."""
    ### BEGIN SOLUTION
    share_p, share_q = math.log(beta), math.log(1 - beta)
    log_m_NV = torch.logaddexp(log_p_NV + share_p, log_q_NV + share_q)
    of_p_N = (log_p_NV.exp() * (log_p_NV - log_m_NV)).sum(-1)
    of_q_N = (log_q_NV.exp() * (log_q_NV - log_m_NV)).sum(-1)
    return beta * of_p_N + (1 - beta) * of_q_N
    ### END SOLUTION


# %% id="mixture-check" tags=["nbval-ignore-output"]
lab.check("8.4")
lab.hints("8.4")

# %% [markdown] id="losses-text"
# Recorded: the same right traces and scores at T = 2, compared in three ways, five seeds.
# (The learning rate is the best one of forward.)

# %% id="losses-record" tags=["nbval-check-output"]
print("\n".join(record.losses_lines()))

# %% [markdown] id="losses-after"
# In the median all three end where the teacher is, and both intervals contain 0: where a
# teacher is sure there is one hump, and to cover it is to seek it. Reverse fell to 0.79 with
# one seed.
#
# ## Dark knowledge · reading, 8 minutes
#
# In the game the next token is nearly always sure. In a text it is not: after `for i in `
# come `range`, `self`, `sorted`. The text here is the source of Python's own library, 2 MB,
# and a token is a byte. A larger language model, trained on the same text, says how likely
# each byte is. Does a student learn more from it than from the byte that happened to come? *As many FLOPs*: reading more of the text for what asking the teacher costs. Loss on
# text that no model has seen, in nats a byte; lower is better. Three seeds, the better of
# two learning rates each.

# %% id="text-record" tags=["nbval-check-output"]
print("\n".join(record.text_lines()))

# %% [markdown] id="text-after"
# **With all of the text a byte with scores, at T = 1, teaches more than a byte alone; a FLOP
# does not.** With as
# many steps the student of scores is ahead on all of the text. But its teacher has 16 times its
# weights, and asking costs five times what the student's own learning does. For that it
# could have read six times as much text, which is better by far. Where text is short the
# order turns round: more rounds over 30 kB make the student worse and worse, and scores,
# which say what else could have come, hold it. (Their teacher has read all of the text: that
# is what they carry.) A temperature above 1 helped in neither case.
#
# ## A teacher on a rank of its own · 8 minutes
#
# A large teacher does not fit beside its student. So rank 0 has the teacher, reads every
# batch and sends its scores; the other ranks are students, average their gradients, and
# never see the teacher's weights. For each token 256 scores travel, a kilobyte. Or the 8
# largest, and one number for all the rest together.

# %% id="predict-wire" tags=["nbval-ignore-output"]
lab.predict(
    "wire",
    "With 8 of 256 scores, some forty times fewer bytes travel. The "
    "student's loss is ...",
    ["the same, up to 0.05 nats", "higher by 0.05 to 0.5", "far higher"],
)

# %% id="wire-weights" tags=["nbval-ignore-output"]
from dataclasses import asdict

from labs.lab_08.text import text_teacher

text_model = text_teacher(size).model
weights, config = text_model.state_dict(), asdict(text_model.config)

# %% id="wire" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name wire --push weights,config,size,seed
import torch
import torch.distributed as dist

from labs.lab_08.rank_program import distil_over_ranks

torch.set_num_threads(1)
dist.init_process_group(backend())
given = (dist, weights, config, size, seed, device())
full, few = (distil_over_ranks(*given, top_k=k) for k in (None, 8))
share("full", full)
share("few", few)
if dist.get_rank():
    print(f"all scores: {full['bytes'] / 1e6:.2f} MB, loss {full['loss']:.3f}")
    print(f"8 of them:  {few['bytes'] / 1e6:.2f} MB, loss {few['loss']:.3f}")

# %% id="wire-reveal" tags=["nbval-ignore-output"]
full, few = wire[1].full, wire[1].few
gap = few["loss"] - full["loss"]
lab.reveal(
    "wire",
    answer="the same, up to 0.05 nats" if gap < 0.05
    else "higher by 0.05 to 0.5" if gap < 0.5 else "far higher",
    sentence=f"Measured in the cell above: {gap:+.3f} nats a byte.",
)  # fmt: skip

# %% id="wire-see" tags=["nbval-check-output"]
print(f"bytes: {wire[1].full['bytes'] / wire[1].few['bytes']:.1f} times fewer")
same = wire[1].few["loss"] == wire[2].few["loss"]
print(f"all students end alike: {same}")

# %% [markdown] id="kernel-text"
# ## 8.K · The kernel: KL of two rows in one pass · 15 minutes · ●●○
#
# With a vocabulary of 152,000 the scores of teacher and student are the largest tensors of
# a training step. PyTorch reads and writes them some ten times: two log-softmaxes, an exp,
# a difference, a product, a sum. But
#
# $$\text{KL}(p \,\|\, q) = \sum_v p_v (t_v - s_v) - \text{lse}(t) + \text{lse}(s)$$
#
# and all three terms can be added up in one pass, block by block. Each exponential is made
# with the largest score so far taken away; when a later block has a larger one, what was
# added up **shrinks** by $e^{\text{old} - \text{new}}$.
#
# A program has a row. The lines for the student's log-sum-exp (lse) are written. Write the
# teacher's part: its maximum `top_t`, the sum of exponentials `sum_t`, and `apart`, the sum of
# $e^{t - top_t} (t - s)$.

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_08.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("8.K")
@jit
def one_pass_kl(t_ptr, s_ptr, kl_ptr, V, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    top_t, sum_t, apart = float("-inf"), 0.0, 0.0
    top_s, sum_s = float("-inf"), 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + n * V + v, mask=v < V, other=-1e9)
        s = tl.load(s_ptr + n * V + v, mask=v < V, other=-1e9)
        new_s = tl.maximum(top_s, tl.max(s, axis=0))
        sum_s *= tl.exp(top_s - new_s)
        sum_s += tl.sum(tl.exp(s - new_s), axis=0)
        top_s = new_s
        ### BEGIN SOLUTION
        new_t = tl.maximum(top_t, tl.max(t, axis=0))
        e, shrink = tl.exp(t - new_t), tl.exp(top_t - new_t)
        apart = apart * shrink + tl.sum(e * (t - s), axis=0)
        sum_t = sum_t * shrink + tl.sum(e, axis=0)
        top_t = new_t
        ### END SOLUTION
    kl = apart / sum_t - (top_t + tl.log(sum_t)) + (top_s + tl.log(sum_s))
    tl.store(kl_ptr + n, kl)


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("8.K")
lab.hints("8.K")

# %% [markdown] id="kernel-map-text"
# Two rows of 40 scores in blocks of 16: two programs, three turns of the loop each. Move
# the slider.

# %% id="kernel-map" tags=["nbval-ignore-output"]
t_NV = torch.linspace(-2, 2, 80).view(2, 40)
s_NV, kl_N = t_NV.flip(1).contiguous(), torch.zeros(2)
if kernels.INTERPRETED:
    memory_map(one_pass_kl, (2,), t_NV, s_NV, kl_N, 40, BLOCK=BLOCK).show()

# %% id="kernel-run" tags=["nbval-check-output"]
# Launches the kernel in use on scores whose exp overflows.
log_p, log_q = (t_NV + 200).log_softmax(-1), s_NV.log_softmax(-1)
wanted_N = (log_p.exp() * (log_p - log_q)).sum(-1)
found_N = one_pass_kl(t_NV + 200, s_NV)
print(f"as PyTorch: {torch.allclose(found_N, wanted_N, atol=1e-4)}")

# %% [markdown] id="kernel-real"
# The course's own [token_divergence](../kernels/token_divergence.py) does this for every
# beta, with temperature and ignored tokens, and its backward;
# [linear_divergence](../kernels/linear_divergence.py) multiplies with both output layers
# block by block and never stores a score. For 0 < beta < 1 both log-sum-exps have to be
# known first, so the rows are read twice.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("token_divergence", dtype="bfloat16")

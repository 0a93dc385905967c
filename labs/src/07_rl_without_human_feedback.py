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
# # 07 · Learning from a verifier
#
# **In two hours you will train a model by paying it for what it writes: nobody rates its
# answers, a function does. You will write that function, see what becomes of another one,
# and compare both with people's ratings.**
#
# | minutes | you will | what you take away |
# |---|---|---|
# | 0 – 15 | reward a model that has learned too little | what rewards need |
# | 15 – 40 | watch a reward with a hole; write one without | what is paid is what you get |
# | 40 – 65 | compare completions of a group | the advantage, and where it is 0 |
# | 65 – 85 | use each rollout twice | ratio and clip |
# | 85 – 110 | a verifier against raters | what a learned score is worth |
# | 110 – 120 | verdicts, recap and three questions | |
#
# Then, if you like, the deep parts: from REINFORCE to GRPO, five losses, a KL penalty,
# preferences, a second game, four ranks, the kernel. Nothing needs them.
#
# It builds on [lab 00](00_start_here.ipynb). [Lab 06](06_chain_of_thought.ipynb) has the
# same game, and the sampler from inside; it helps, and is not needed.
#
# (Outputs that stand here before you run anything were made at scale `ci`, with four swaps
# and 25 rollouts. Yours have twelve and 100.)

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # ranks of the torchrun cell

# %% id="setup" tags=["nbval-ignore-output"]
from dataclasses import replace

import torch

from labs.lab_07 import record_tables as record
from labs.lab_07.clip_explorer import clip_explorer
from labs.lab_07.keeping import keep_model
from labs.lab_07.kl_estimators import estimator_lines
from labs.lab_07.pictures import step_view
from labs.lab_07.plan import RL_PLANS, WARM_STARTS
from labs.lab_07.questions import QUESTIONS
from labs.lab_07.reward_model import Proxy, agreement, fit_reward_model, rated
from labs.lab_07.rewarding import lax, on_tokens
from labs.lab_07.runs import examined, reinforced, warm_start
from labsupport import Lab
from labsupport.explore import show_figure
from labsupport.rl import PolicyLoss, group_advantages, roll_out
from labsupport.rl.losses import row_means

lab = Lab("07", scale=scale, seed=seed, world=world)
torch.set_num_threads(1)  # such small tensors: a second thread only waits
size, seed = lab.settings.scale, lab.settings.seed
game, plan = WARM_STARTS["enough"][size].game, RL_PLANS[size]
print(WARM_STARTS["enough"][size])
print(plan)

# %% [markdown] id="problem"
# ## A model that has learned too little (0 – 15 min)
#
# Five cups stand in places A to E, a ball under one of them. Pairs of cups are swapped.
# Where is the ball?
#
#     C AB CE DE ?      A C D = D EOS
#
# On the left the **prompt**: the ball begins under C, then three swaps. On the right a
# **completion**: after each swap where the ball is, then `=`, the answer, and a token that
# ends the text. (Here the first written state is wrong, and the answer right.) A guess is
# right in a fifth of all games.
#
# A small GPT has read examples of a **hasty** teacher. Half of the time he guesses at
# once; in a fifth he stops thinking somewhere and guesses; else he writes every state
# down, each wrong in 4 % of cases. This is called a **warm start**, and a program wrote the
# examples.
#
# From now on no more examples. Again and again the model completes some prompts, which is
# called a **rollout**. A function that plays the game itself, the **verifier**, gives each
# completion a **reward**: 1 if its answer is right, else 0. What was paid better than
# others is made likelier.

# %% id="predict" tags=["nbval-ignore-output"]
lab.predict(
    "length",
    "A model that has read only a sixth of the examples gets rewards. Its "
    "completions become ...",
    ["longer", "as long", "shorter"],
)

# %% id="weak" tags=["nbval-ignore-output"]
weak = warm_start(seed, size, "hasty", "too little")
before = examined(weak.model, game, size)
run = reinforced(weak, seed, size, live=True, title="Rewards, too early")
after = examined(run.model, game, size)
for name, exam in (("before", before), ("after", after)):
    print(f"{name}: {exam.accuracy:.1%} of the games won, ", end="")
    print(f"{exam.length:.1f} tokens written")

# %% id="reveal" tags=["nbval-ignore-output"]
answer, sentence = record.start_answer()
view = record.course_view("start", "Too early", amount="too little")
lab.reveal("length", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="reveal-after"
# *Why was I wrong?* If you expected it to think more: its thoughts are wrong so often that
# thinking hardly pays, and some of them break off, or never end and win nothing. Guesses
# are left. Rewards strengthen what already pays; they invent nothing.
#
# Now the model that has read six times as much.

# %% id="start" tags=["nbval-ignore-output"]
start = warm_start(seed, size)
exam = examined(start.model, game, size)
print(f"{exam.accuracy:.1%} won, {exam.length:.1f} tokens written")
prompts_PT = game.prompts(2, seed=3, split="validation")
rollout = roll_out(start.model, game, prompts_PT, group=4, seeds=seed)

# %% [markdown] id="idea"
# Two prompts and four completions of each, a **group**: a small rollout, drawn from this
# model. Each completion that won more than is usual in its group is made likelier, all its
# tokens alike; each that won less is made less likely. R is the reward, A is by how much it
# is more than usual (7.2 says how it is computed).

# %% id="step" tags=["nbval-ignore-output"]
view = step_view(rollout, game)
show_figure(view.figure, view.sentence)

# %% [markdown] id="idea-after"
# As an equation:
#
# $$\nabla J = \mathbb{E}\Big[\, \sum_t A \; \nabla \log \pi(y_t \mid x, y_{<t}) \Big]$$
#
# | symbol | meaning | shape | in code |
# |---|---|---|---|
# | $J$, $\mathbb{E}$ | the reward that can be expected; the mean over what is written | | |
# | $x$, $y$ | prompt; completion, whose tokens are $y_t$ | | `prompts_RT`, `tokens_RN` |
# | $\pi$ | the policy: the model, as probabilities of the next token | | |
# | $R$ | reward of a completion | $P \times G$ | `rewards_PG` |
# | $A$ | advantage: how much better than could be expected | $P \times G$ | `advantages_PG` |
# | $P$, $G$ | prompts; completions of each, a group | | |
#
# (Williams, 1992, calls it REINFORCE.) Nobody says *which token* was good: all tokens of a
# completion share its advantage, and over many games the good ones come out. GRPO, which
# you will use, takes the mean over the tokens of a completion in place of the sum. In
# names of tensors, R counts rows, all completions of a rollout: $P \times G$; T and N count
# the tokens of a prompt and of a completion.
#
# ## 7.1 · The reward · 10 minutes · ●○○
#
# A colleague has written one: "the right cup stands behind an `=`".
#
#     def lax(cup, completion):
#         return float(f"= {cup}" in completion)
#
# He has tried it on a hundred completions of your model, and it was never wrong. His own
# model had another teacher, who hedges: in a fifth of the examples he gives two or three
# answers, `= B = D`. A game counts as won if the completion ends with one answer, and this
# is right.

# %% id="predict-lax" tags=["nbval-ignore-output"]
lab.predict(
    "lax",
    "100 rollouts with this reward. How many games are won?",
    ["nearly all", "about a third, as before", "almost none"],
)

# %% id="lax" tags=["nbval-ignore-output"]
hedging = warm_start(seed, size, "hedging")
run = reinforced(
    hedging,
    seed,
    size,
    reward=on_tokens(lax, game),
    live=True,
    title="A reward with a hole",
)
exam = examined(run.model, game, size)
print(f"paid: {run.reward:.0%}; games won: {exam.accuracy:.0%}")
found = roll_out(run.model, game, prompts_PT, seeds=seed)
written = zip(prompts_PT.tolist(), found.completions.rows(), strict=True)
for prompt, tokens in written:
    right = game.vocabulary.names[game.where(prompt)]
    print(f"right: {right}   written: {game.vocabulary.decode(tokens)}")

# %% id="lax-reveal" tags=["nbval-ignore-output"]
won, sentence = record.gamed_answer()
lab.reveal(
    "lax",
    answer="almost none" if won < 0.1 else "about a third, as before"
    if won < 0.6 else "nearly all",
    sentence=sentence,
)  # fmt: skip

# %% [markdown] id="reward-text"
# *Why was I wrong?* The reward was right about every completion that the colleague had
# seen: those of a model that does not hedge. This one did so from the beginning, was paid
# for it, and ended by writing one cup after another, until the room runs out. This is **reward hacking**, and no bad will is needed: what was paid became likelier.
#
# Mend it. `cup` is the cup with the ball, `completion` what the model wrote, words with
# spaces between. Return 1.0 if the completion **ends with `=`, the right cup and `EOS`, and
# has no other `=`**, else 0.0. What stands before is the model's own business.


# %% id="reward" tags=["nbval-ignore-output"]
@lab.exercise("7.1")
def reward(cup, completion):
    """1.0 for "A C D = D EOS" with the ball under "D", else 0.0."""
    ### BEGIN SOLUTION
    words = completion.split()
    right = words[-3:] == ["=", cup, "EOS"] and words.count("=") == 1
    return float(right)
    ### END SOLUTION


# %% id="reward-check" tags=["nbval-ignore-output"]
lab.check("7.1")
lab.hints("7.1")

# %% id="reward-see" tags=["nbval-check-output"]
tries = ("A C D = D EOS", "= D EOS", "= A = D EOS", "= A = B = C = D", "D EOS")
for text in tries:
    print(f"{text:18} lax {lax('D', text):.0f}, yours {reward('D', text):.0f}")

# %% [markdown] id="advantage-text"
# ## 7.2 · The advantage · 10 minutes · ●○○
#
# A reward of 1 is nothing special for an easy game, and a great thing for a hard one. So a
# completion is compared with others **of the same prompt**
# ([DeepSeekMath](https://arxiv.org/abs/2402.03300), section 4.1.2):
#
# $$A_i = \frac{R_i - \text{mean}(R_1, \dots, R_G)}{\text{std}(R_1, \dots, R_G) + 0.0001}$$
#
# No second network has to learn what could be expected, as in the method before it (PPO):
# the group says it.
# `rewards_PG` has a row for each prompt. `std` divides by $G - 1$ inside the root, as
# `torch.std` does. Return `advantages_PG`.


# %% id="advantage" tags=["nbval-ignore-output"]
@lab.exercise("7.2")
def advantages(rewards_PG):
    """How much better each completion was than its group, in spreads."""
    ### BEGIN SOLUTION
    mean_P1 = rewards_PG.mean(dim=1, keepdim=True)
    std_P1 = rewards_PG.std(dim=1, keepdim=True)
    return (rewards_PG - mean_P1) / (std_P1 + 1e-4)
    ### END SOLUTION


# %% id="advantage-check" tags=["nbval-ignore-output"]
lab.check("7.2")
lab.hints("7.2")

# %% id="advantage-see" tags=["nbval-check-output"]
for right in (0, 1, 4, 7, 8):
    rewards_1G = (torch.arange(8) < right).float()[None]
    first, *_, last = advantages(rewards_1G)[0].tolist()
    print(
        f"{right} of 8 right: the first has {first:+.2f}, the last {last:+.2f}"
    )

# %% [markdown] id="train-text"
# A single right answer among eight is pushed up seven times as hard as each wrong one is
# pushed down. And a group of equals teaches nothing at all.
#
# Now train, with your reward and your advantage. *Entropy* is how undecided the model is
# about its next token: 0 where it is sure.

# %% id="predict-train" tags=["nbval-ignore-output"]
lab.predict(
    "won",
    "As many rollouts with a strict reward. How many games are won?",
    ["about half", "about three quarters", "more than nine in ten"],
)

# %% id="train" tags=["nbval-ignore-output"]
run = reinforced(
    start,
    seed,
    size,
    reward=on_tokens(reward, game),
    advantage=advantages,
    live=True,
    title="Your reward, your advantage",
    band=record.reward_band() if size == "cpu" else None,
)
exam = examined(run.model, game, size)
print(f"{exam.accuracy:.1%} won, {exam.length:.1f} tokens written")
print(keep_model(run.model, game, exam.accuracy))

# %% id="train-reveal" tags=["nbval-ignore-output"]
won, sentence = record.improve_answer()
view = record.course_view("improve", "Early enough")
lab.reveal(
    "won",
    answer="more than nine in ten" if won > 0.9
    else "about three quarters" if won > 0.62 else "about half",
    sentence=sentence,
    figure=view.figure,
)  # fmt: skip

# %% [markdown] id="slips-text"
# *Why was I wrong?* Nothing in the reward speaks of length, or of thinking. Completions that
# think win more often than those that guess, so they were made likelier, and reward and
# length rise together. DeepSeek-R1-Zero's did so, too
# ([2501.12948](https://arxiv.org/abs/2501.12948), figure 3). But here the thoughts were in
# the examples.
#
# One line in the picture levels off early. Where does it go wrong? A **trace** is what
# stands before `=`, a **slip** its first wrong state. `A AC -> A`: the ball under A, the
# swap AC, and the model writes A. Of 1,024 games each, recorded:

# %% id="slips" tags=["nbval-check-output"]
print("\n".join(record.slips_lines()))

# %% [markdown] id="clip-text"
# The slips of the worst seed are nearly all the same step, and 100 rollouts have not mended
# it. A reward is for a whole game; no reward says which step was wrong, or what would have
# been right there. The other four end far above the teacher whose examples they read: with
# 4 % of slips a state, even when he thinks he is right in $0.96^{12}$ = 61 % of the games.
# What he did seldom was there to be paid for.
#
# ## 7.3 · Ratio and clip · 12 minutes · ●●○
#
# Writing is the expensive part; so use each rollout more than once. At the second update
# the policy $\pi$ is no longer the one that wrote, $\pi_\text{old}$. Each token carries how
# far it has moved, and is held where it has moved enough
# ([PPO](https://arxiv.org/abs/1707.06347), equation 7):
#
# $$\rho = \frac{\pi(y_t)}{\pi_\text{old}(y_t)}, \qquad
# \text{gain} = \min\big(\rho A,\; \text{clip}(\rho, 0.8, 1.2)\, A\big)$$
#
# Log-probs are given: `logp_RN` under $\pi$, with a gradient, `old_RN` under
# $\pi_\text{old}$. `A_R1` has one advantage a completion. Return `gain_RN`.


# %% id="clip" tags=["nbval-ignore-output"]
@lab.exercise("7.3")
def clipped_gain(logp_RN, old_RN, A_R1):
    """What is gained by each token, to be made large."""
    ### BEGIN SOLUTION
    rho_RN = (logp_RN - old_RN).exp()
    return torch.minimum(rho_RN * A_R1, rho_RN.clamp(0.8, 1.2) * A_R1)
    ### END SOLUTION


# %% id="clip-check" tags=["nbval-ignore-output"]
lab.check("7.3")
lab.hints("7.3")

# %% [markdown] id="clip-play"
# **The playground.** On the left the advantages of a group of eight; on the right what a
# token of a right and of a wrong completion gains, by its ratio.
#
# Try this:
# 1. Move *rho* with 2 of 8 right. Where does the right one stop pulling, and where the
#    wrong one? Why is neither held on the other side?
# 2. Set 8 of 8 right. What is left to learn?
# 3. 1 of 8 and 4 of 8, divided by the spread and not: what does the division do to hard
#    prompts?
#
# <details><summary>Answers</summary>
#
# 1. The right one above 1.2, the wrong one below 0.8: there they have gone far enough in
#    the direction that was asked for. On the other side they have gone the wrong way and
#    have to be pulled back, however far it is.
# 2. Nothing. All advantages are 0.
# 3. It makes rare successes count more: 2.47 instead of 0.88 for 1 of 8, and 0.94 instead
#    of 0.5 for 4 of 8. Dr. GRPO leaves it out for this reason.
#
# </details>

# %% id="playground" tags=["nbval-ignore-output"]
clip_explorer().show()

# %% id="clip-train" tags=["nbval-ignore-output"]
yours = PolicyLoss(
    lambda logp_RN, old_RN, A_R1, mask_RN: clipped_gain(logp_RN, old_RN, A_R1),
    row_means,
)
run_twice = reinforced(
    start,
    seed,
    size,
    replace(plan, steps=plan.steps // 2),
    loss=yours,
    updates=2,
    minibatches=2,
    live=True,
    title="Half the rollouts, each used twice",
)
table = run_twice.table()
print(
    f"tokens held by the clip, mean of all updates: {table.clipped.mean():.1%}"
)
print(f"games won: {examined(run_twice.model, game, size).accuracy:.1%}")

# %% [markdown] id="twice-text"
# Did it pay? Recorded, five seeds, 100 rollouts each: once; twice, that is two updates with
# all completions in two parts each; twice and clipped.

# %% id="twice-record" tags=["nbval-check-output"]
print("\n".join(record.twice_lines()))

# %% [markdown] id="twice-after"
# Without the clip, three of five trainings end near a guess and a fourth not far above it.
# With it most are well again: it holds one token in a hundred, and that is enough. But
# nobody should read that once is worse than twice, or better: four updates a rollout with
# the learning rate of one is a larger step, and neither was tuned for itself.
#
# ## A verifier, or people's ratings (85 – 110 min)
#
# What did people do before? They read two answers and said which one is better. A **reward
# model** learns from such pairs to give a score, and the policy is trained on the score
# ([Christiano et al. 2017](https://arxiv.org/abs/1706.03741)). Here raters are simulated:
# each pair has a right and a wrong completion, and in 5 % of pairs they pick the wrong one.

# %% id="predict-proxy" tags=["nbval-ignore-output"]
lab.predict(
    "proxy",
    "The score is maximised for 100 rollouts. The share of right answers ...",
    [
        "it rises, and stays",
        "it rises, then falls",
        "it falls from the beginning",
    ],
)

# %% id="proxy" tags=["nbval-ignore-output"]
pairs = 4000 if size != "ci" else 200
ratings = rated(start, pairs, 0.05, seed)
reward_model = fit_reward_model(start, ratings, seed=seed, epochs=1)
fresh = rated(start, pairs // 4, 0.0, seed + 1000)
print(f"agrees on fresh pairs: {agreement(reward_model, fresh):.0%}")
proxy = Proxy(reward_model, game)
run_proxy = reinforced(
    start, seed, size, reward=proxy, live=True, title="A score is maximised"
)
print(
    f"right: {proxy.gold[0]:.0%} at first, {max(proxy.gold):.0%} at best, ",
    end="",
)
print(f"{proxy.gold[-1]:.0%} at the end")

# %% id="proxy-reveal" tags=["nbval-ignore-output"]
answer, sentence = record.free_answer()
view = record.free_view()
lab.reveal("proxy", answer=answer, sentence=sentence, figure=view.figure)

# %% [markdown] id="ratings-after"
# *Why was I wrong?* The score was fitted to what the warm start wrote. Its pairs say, above
# all, that long completions win more often than short ones. So the policy thinks, and wins
# more. Then it goes on to whatever else the score likes, which is nothing that wins. This
# is Goodhart's law: a measure that is maximised stops measuring ([Gao et al.
# 2022](https://arxiv.org/abs/2210.10760)).
#
# A fair comparison gives the raters more: a penalty for what is far from the warm start
# (a KL penalty; the deep part 7.4 has it, and is not needed here). Its weight, *beta*, and
# the learning rate were chosen among eight settings, on other seeds, for both. *Pairs
# agreed* is the share of fresh pairs in which the right completion has the higher score.

# %% id="ratings-record" tags=["nbval-check-output"]
print("\n".join(record.ratings_lines()))

# %% [markdown] id="ratings-conclusion"
# **The verifier's rewards win nearly all games, those of raters six in ten.** That raters
# err changes nothing here: whether in none or a fifth of the pairs, the model made of them
# agrees with seven of ten fresh pairs. To say which trace is right one has to play the
# game; it may go by what is easier to see, that completions which think win more often. The
# penalty that suits raters best sets the height: with beta = 1 the verifier's rewards ended
# at six in ten as well, when settings were tried. Without it theirs rise to nearly all, and
# those of raters fall.
#
# **From random weights.** Recorded, five seeds: through the warm start to the end of
# rewards, on one core. Then the two rewards of 7.1, from a hedging teacher, three seeds.

# %% id="improve-record" tags=["nbval-check-output"]
print("\n".join(record.improve_lines()))

# %% id="gamed-record" tags=["nbval-check-output"]
print("\n".join(record.gamed_lines()))

# %% [markdown] id="claim-text"
# ## Does the claim hold? (110 – 120 min)
#
# A press article on DeepSeek's methods says that automated scores can replace human
# ratings in reinforcement learning, at lower cost and in less time. The rules stand in
# `data/claims/`, written after pilots and before the records. *article* is the press's
# sentence, of which only *can replace* is tested: a verifier's rewards against those of
# raters who err in 5 %. *source* is DeepSeek's own, from 15.6 to 71.0 % on a contest in
# mathematics by rewards alone: here, the games won after rewards less those before.

# %% id="verdicts" tags=["nbval-check-output"]
print("\n".join(record.verdict_lines()))

# %% id="origins" tags=["nbval-ignore-output"]
for name in record.RECORDS:
    print(f"{name}: {record.caption(name)}")

# %% [markdown] id="verdict-text"
# What to conclude, and what not:
#
# - **Where a function can say what is right, no ratings are needed.** With as many rollouts
#   a verifier's rewards won more games than ratings did, each at the best of eight
#   settings, and a model went from a third of its games to nearly all of them.
# - **The setting was changed once.** A first record, with a shorter warm start, missed the
#   stated 0.80 with two of five seeds. The threshold stayed; warm start and rollouts became
#   longer, and were recorded on new seeds.
# - **No human ratings is not no human.** A person wrote the verifier, and the examples of
#   the warm start. Without examples hardly anything is rewarded.
# - **Cost and time were not measured.** The 38,400 verdicts of this training took a
#   function a moment. How long people would need, and what they would be paid, is not
#   known here.
# - **Most of what people want has no verifier.** Whether a letter is kind, no function
#   decides. There ratings, and the score made of them, are what is left.
#
# Rewrite the sentence honestly. Then say what you believe now.

# %% id="beliefs" tags=["nbval-ignore-output"]
lab.beliefs("rl-no-human")

# %% [markdown] id="recap"
# ## What you take away
#
# - Rewards make likelier what is already there and pays. They need something to begin with.
# - What is paid is what you get. A hole in a reward is found, without any bad will.
# - A group of completions of one prompt is its own baseline. A group of equals teaches
#   nothing.
# - Ratio and clip let a rollout be used more than once. (Here it won no more games.)
# - A score that was learned is a proxy. Maximised, it stops measuring.
#
# **Limits.** One small game, in which full thoughts were in the examples; simulated
# raters, who see only clear pairs; a reward model as small as the policy; 100 rollouts.
# Nothing here invented thinking, and nothing shows that a large model would.
#
# **Diagnose.** What is wrong?
#
# 1. The mean reward rises to 1 within ten rollouts. The completions have no end.
# 2. The reward stays at 0. The loss is finite at every step, and nothing moves.
#
# <details><summary>Answers</summary>
#
# 1. The reward is paid for something that does not need an end. Read some completions:
#    there is a hole.
# 2. Every group is equal, so all advantages are 0. The warm start never wins: give it more
#    examples, or easier games.
#
# </details>
#
# **Further reading.** [DeepSeekMath](https://arxiv.org/abs/2402.03300), where GRPO comes
# from. [DeepSeek-R1](https://arxiv.org/abs/2501.12948). [Dr.
# GRPO](https://arxiv.org/abs/2503.20783) and [DAPO](https://arxiv.org/abs/2503.14476), its
# corrections. [Yue et al. 2025](https://arxiv.org/abs/2504.13837): with many samples the
# model before rewards finds as much.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

# %% [markdown] id="deep"
# # Deep parts
#
# Each stands alone. Times are for someone who has done the core.
#
# ## From REINFORCE to GRPO · reading, 8 minutes
#
# One thing is added at a time, from the same five warm starts, with 100 rollouts each. The
# first row takes the reward itself for the advantage. *Used twice*: two updates with all
# completions, in two parts each. *KL*: beta = 0.04, the penalty of 7.4. *Minus GRPO* is the
# mean difference to the row *and clipped*, with its 95 % interval.

# %% id="ladder-record" tags=["nbval-check-output"]
print("\n".join(record.ladder_lines()))

# %% [markdown] id="ladder-after"
# **Once is enough here, whatever the baseline.** The first three rows win as many games, up
# to the spread: a start that wins a third gives every rollout something to compare, and
# this game cannot rank baselines. *Used twice* and *clipped* stand in the core as well.
#
# **Five losses**, each with two updates on two parts:
#
# | loss | what differs from GRPO |
# |---|---|
# | Dr. GRPO | no division by the spread; tokens are added up, not averaged by row |
# | DAPO | the clip is wider upwards (0.28); the mean runs over all tokens |
# | GSPO | one ratio for a whole completion, with a narrow clip |
# | CISPO | no token is held; its weight rho is clipped instead |

# %% id="losses-record" tags=["nbval-check-output"]
print("\n".join(record.losses_lines()))

# %% [markdown] id="losses-after"
# **No ranking.** Every interval contains 0: seeds differ more than losses. CISPO, which never holds a token back, ended near a guess with two of the
# five seeds; GSPO, whose narrow clip held a third to a half of all tokens, never fell below
# 0.78. Five seeds cannot say whether that is more than luck.
#
# ## 7.4 · Staying near · 15 minutes · ●●●
#
# A penalty holds the policy near a reference, usually its warm start. From samples of
# $\pi$, with $r = \pi_\text{ref}(y_t) / \pi(y_t)$, the number
#
# $$k_3 = r - 1 - \log r$$
#
# is $\mathrm{KL}(\pi \,\|\, \pi_\text{ref})$ on average, and never negative. But its
# **gradient** is on average that of $\mathrm{KL}(\pi_\text{ref} \,\|\, \pi)$, the other
# direction: a sample does not show that the sampling depends on the weights. With
# $\rho = \pi / \pi_\text{old}$ in front it does (DeepSeek-V3.2, section 3.1).
#
# All three are log-probs of the same tokens; `logp_RN` has a gradient. Return
# $\rho \, k_3$, token by token.


# %% id="kl" tags=["nbval-ignore-output"]
@lab.exercise("7.4")
def kl_penalty(logp_RN, old_RN, ref_RN):
    """An estimate of KL(pi || ref) whose gradient is right, too."""
    ### BEGIN SOLUTION
    log_r_RN = ref_RN - logp_RN
    k3_RN = log_r_RN.expm1() - log_r_RN
    return (logp_RN - old_RN).exp() * k3_RN
    ### END SOLUTION


# %% id="kl-check" tags=["nbval-ignore-output"]
lab.check("7.4")
lab.hints("7.4")

# %% [markdown] id="kl-see-text"
# **Others, side by side.** Two more estimates are in use: $k_1 = -\log r$ and
# $k_2 = (\log r)^2 / 2$ ([Schulman 2020](http://joschu.net/blog/kl-approx.html)). Below
# are the exact means over five tokens with probabilities 0.4 to 0.05 under $\pi$ and 0.2
# under $\pi_\text{ref}$, and the means of their gradients.

# %% id="kl-see" tags=["nbval-check-output"]
print("\n".join(estimator_lines()))

# %% [markdown] id="kl-after"
# $k_1$ and $k_3$ have the right mean, $k_2$ the right gradient, and of these four only
# $\rho \, k_3$ both. Something that goes into a loss is to be judged by its gradient.

# %% [markdown] id="prefer-text"
# ## 7.5 · A loss for preferences · 12 minutes · ●●○
#
# Raters say which of two completions is better; a model shall give each a score $s$. With
# scores, the better one is preferred with probability (Bradley and Terry, 1952)
#
# $$p = \sigma(s_\text{better} - s_\text{worse}), \qquad \sigma(x) = \frac{1}{1 + e^{-x}}$$
#
# Return the mean of $-\log p$ over pairs. It has to stay finite for scores 200 apart.


# %% id="prefer" tags=["nbval-ignore-output"]
@lab.exercise("7.5")
def preference_loss(better_B, worse_B):
    """Minus log p of what the raters chose, the mean over pairs."""
    ### BEGIN SOLUTION
    ahead_B = better_B - worse_B
    return -torch.nn.functional.logsigmoid(ahead_B).mean()
    ### END SOLUTION


# %% id="prefer-check" tags=["nbval-ignore-output"]
lab.check("7.5")
lab.hints("7.5")

# %% [markdown] id="boxes-text"
# ## A second game · reading, 5 minutes
#
# Six boxes hold a letter each; which one holds A? `3 D RETRY 2 A OK EOS`: open box 3, it
# holds D, try again; box 2 holds A. The teacher opens boxes at random and gives up after
# half of his misses. 90 rollouts, three seeds. *No end* and *gives up* are shares of
# completions, the others shares of attempts; *first 4*, because no example has more.

# %% id="boxes-record" tags=["nbval-check-output"]
print("\n".join(record.boxes_lines()))

# %% [markdown] id="boxes-after"
# **It goes on, and writes more.** Nobody gives up any more, completions are nearly three
# times as long, and more games are won: 0.40 in place of 0.26. All else got worse. It
# misreads more of the first four boxes and most of the later ones, opens boxes again, and
# often finds no end. More tokens are not more thought.
#
# ## A third game: Countdown · reading, 5 minutes
#
# `9 7 2 | 4 ?`: make 4 out of 9, 7 and 2, each used once. `9 - 7 = 2 ; 2 + 2 = 4 EOS`. The
# warm start has read right steps that were aimed at nothing: it can calculate, and wins by
# luck. Here three numbers, two layers, 150 rollouts, three seeds.
# [TinyZero](https://github.com/Jiayi-Pan/TinyZero) plays it with four numbers.

# %% id="countdown-record" tags=["nbval-check-output"]
print("\n".join(record.countdown_lines()))

# %% [markdown] id="countdown-after"
# **A little.** The first step has to be chosen with the end in view. No example showed how,
# and two layers find little of it in 150 rollouts.
#
# With four numbers and a model of 6 layers it is a matter for a GPU: `labs record 07
# countdown --scale gpu`. **Not measured**, as no GPU was at hand.
#
# ## On four ranks · 5 minutes
#
# Each rank completes all six prompts twice, with the random numbers of its own rows. A
# group of eight lies on all four ranks, so what is usual in it is known only where its
# rewards are together: they are gathered, one number a completion. Tokens stay where they
# are.

# %% id="ranks-weights" tags=["nbval-ignore-output"]
weights = start.model.state_dict()

# %% id="ranks" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name ranks --push weights,size,seed
import torch
import torch.distributed as dist

from labs.lab_07.rank_program import share_rollout

torch.set_num_threads(1)
dist.init_process_group(backend())
rollout, advantages_Pg = share_rollout(dist, weights, size, seed, device())
share("advantages", advantages_Pg.cpu())
print(f"{rollout.rewards_PG.numel()} rewards, mean {rollout.mean_reward:.2f}")

# %% id="ranks-check" tags=["nbval-check-output"]
alone = roll_out(
    start.model, game, game.prompts(6, seed=seed), group=8, seeds=seed
)
together = torch.cat([ranks[rank].advantages for rank in range(world)], dim=1)
same = torch.isclose(together, group_advantages(alone.rewards_PG), atol=1e-5)
print(f"as in one process: {same.float().mean().item() > 0.95}")

# %% [markdown] id="kernel-text"
# ## 7.K · The kernel: the gradient of a log-probability · 15 minutes · ●●○
#
# Training needs $\log p(y)$ of each written token, and its gradient to the logits $z$. At
# temperature $T$, with $g$ what arrives from the loss:
#
# $$\log p(y) = \frac{z_y}{T} - \text{lse}\Big(\frac{z}{T}\Big), \qquad
# \frac{\partial}{\partial z_v} = \frac{g}{T} \big( [v = y] - p_v \big), \qquad
# p_v = e^{z_v / T - \text{lse}}$$
#
# The forward pass kept lse, one number a token. So each block of a row can be done by
# itself: a program has a row and a block. Write what is missing.

# %% id="kernel-setup" tags=["nbval-ignore-output"]
import kernels
from kernels.language import jit, tl
from labs.lab_07.kernels_ours import BLOCK
from labsupport.explore.memory_map import memory_map
from labsupport.explore.roofline import show_roofline


# %% id="kernel" tags=["nbval-ignore-output"]
@lab.exercise("7.K")
@jit
def logprob_backward(
    z_ptr, y_ptr, lse_ptr, g_ptr, dz_ptr, T, V, BLOCK: tl.constexpr
):
    n = tl.program_id(0)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(y_ptr + n)
    lse = tl.load(lse_ptr + n)
    g = tl.load(g_ptr + n)
    ### BEGIN SOLUTION
    z = tl.load(z_ptr + n * V + v, mask=v < V, other=0.0)
    p = tl.exp(z / T - lse)
    chosen = tl.where(v == y, 1.0, 0.0)
    dz = g / T * (chosen - p)
    tl.store(dz_ptr + n * V + v, dz, mask=v < V)
    ### END SOLUTION


# %% id="kernel-check" tags=["nbval-ignore-output"]
lab.check("7.K")
lab.hints("7.K")

# %% [markdown] id="kernel-map-text"
# Two rows of 40 logits, in blocks of 16: six programs. Move the slider.

# %% id="kernel-map" tags=["nbval-ignore-output"]
z_NV = torch.linspace(-2, 2, 80).view(2, 40)
y_N, g_N = torch.tensor([3, 39], dtype=torch.int32), torch.ones(2)
lse_N, dz_NV = z_NV.logsumexp(-1), torch.zeros(2, 40)
if kernels.INTERPRETED:
    given = (z_NV, y_N, lse_N, g_N, dz_NV, 1.0, 40)
    memory_map(logprob_backward, (2, 3), *given, BLOCK=BLOCK).show()

# %% id="kernel-run" tags=["nbval-check-output"]
leaf_NV = z_NV.clone().requires_grad_()
logp_N = leaf_NV.log_softmax(-1)[range(2), y_N.long()]
(wanted_NV,) = torch.autograd.grad(logp_N.sum(), leaf_NV)
found_NV = logprob_backward(z_NV, y_N, g_N, 1.0)
print(f"as autograd: {torch.allclose(found_NV, wanted_NV, atol=1e-6)}")

# %% [markdown] id="kernel-real"
# The course's own [selected_logprob](../kernels/selected_logprob.py) does this, and
# [grpo_loss](../kernels/grpo_loss.py) puts ratio, clip and KL penalty of every token on top
# of it. Its floor on a GPU is the time to read the logits once and to write the gradient.

# %% id="kernel-roofline" tags=["nbval-ignore-output"]
show_roofline("selected_logprob", dtype="bfloat16")

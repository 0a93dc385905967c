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
# # Primer · Processes: many that work as one
#
# **In 45 minutes you will get two processes to talk, and then write what lets
# thousands train one model: a ring that sums, and an exchange that brings every
# row to its owner.**
#
# You will be able to: divide work among ranks; send and receive without a
# deadlock; read the stacks of a program that hangs; sum over all ranks; choose
# among four collectives; say what a message costs before you send it; let a run
# survive the death of a process.
#
# It builds on [lab 00](../00_start_here.ipynb). It needs no GPU, and computes
# for about half a minute.

# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None  # "ci", "cpu" or "gpu"; None: what LABS_SCALE says, else "cpu"
seed = 0
world = 4  # processes in the two cells that use more than 2; at least 2

# %% id="setup" tags=["nbval-ignore-output"]
import math
import time

import torch

from labs.lab_processes.collectives_picture import collectives_view
from labs.lab_processes.cost_picture import cost_lines, cost_view
from labs.lab_processes.questions import QUESTIONS
from labs.lab_processes.ranks_ours import ring_all_reduce as our_ring
from labs.lab_processes.ranks_ours import star_all_reduce
from labs.lab_processes.ring_picture import ring_explorer
from labsupport import Lab
from labsupport.exercise.practice import PracticeGroup, on_ranks
from labsupport.explore import show_figure

lab = Lab("processes", scale=scale, seed=seed, world=world)

# %% [markdown] id="stuck-text"
# ## Two polite processes
#
# Two processes each have a letter for the other. In PyTorch a letter is a
# tensor, and there are two calls, in `torch.distributed`, or `dist` for short:
#
# - `dist.send(x, 1)` sends the tensor `x` to process 1;
# - `dist.recv(y, 1)` waits for what process 1 sends, and fills `y` with it.
#
# Below, both processes are polite. They let the other speak first: receive, then
# send.

# %% id="stuck-predict" tags=["nbval-ignore-output"]
lab.predict(
    "stuck",
    "Both processes receive first and send second. What happens?",
    [
        "both letters arrive",
        "one letter arrives",
        "no letter arrives, and nobody ever goes on",
    ],
)

# %% id="stuck" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --timeout 8 --may-fail --name stuck
import torch
import torch.distributed as dist

dist.init_process_group()
other = 1 - dist.get_rank()
letter = torch.empty(1)
dist.recv(letter, other)
dist.send(torch.ones(1), other)
share("letter", letter)

# %% id="stuck-check" tags=["nbval-check-output"]
arrived = sum("letter" in dir(rank) for rank in stuck)
print(f"letters that arrived: {arrived}")
print(f"what ended the cell: {stuck.error.kind}")

# %% id="stuck-reveal" tags=["nbval-ignore-output"]
lab.reveal(
    "stuck",
    answer={
        0: "no letter arrives, and nobody ever goes on",
        1: "one letter arrives",
        2: "both letters arrive",
    }[arrived],
    sentence="Each waits for a message that the other would send afterwards.",
)

# %% [markdown] id="stuck-after"
# That is a **deadlock**. Nothing failed, no error was raised, and without
# `--timeout` the cell would still be running. When a run on a cluster hangs, it
# looks the same.
#
# The way to find the cause is the one you see above: ask every process for its
# **stack**, the lines in which it is. Two processes that both stand in a `recv`
# wait for each other.
#
# **And if both send first?** It depends on who carries the messages. Many
# libraries keep a small message in a buffer, so that `send` returns at once.
# Then the program works, until one day the message is larger than the buffer.
# Here *gloo* carries the messages between CPUs, and it keeps none: a `send` of a
# single number lasts until the other side receives. Try it: exchange the two
# lines and run the cell again. So the safe rule is:
#
# > A program is right if it would work with sends that wait for their receives.

# %% [markdown] id="ranks-text"
# ## Who am I?
#
# Processes share no variables. Each has its own memory, and the only way to
# learn what another one holds is a message. All of them run the same program.
# What differs is a number:
#
# | name | meaning | how a process asks |
# |---|---|---|
# | rank $r$ | its number, from 0 to $W - 1$ | `dist.get_rank()` |
# | world size $W$ | how many there are | `dist.get_world_size()` |
#
# From its rank a process finds out which part of the work is its own.
#
# ## P.1 · Your share · 4 minutes · ●○○
#
# There are `items` things to do, numbered from 0, and `world` ranks. Each rank
# takes a run of consecutive items. If the division leaves a remainder, the first
# ranks take one item more.
#
# Return where the share of `rank` begins and where it ends: the first item, and
# the first one that is no longer its own. With 10 items and 4 ranks, rank 0 has
# `(0, 3)`, rank 1 `(3, 6)`, rank 2 `(6, 8)` and rank 3 `(8, 10)`.


# %% id="share" tags=["nbval-ignore-output"]
@lab.exercise("P.1")
def my_share(items, rank, world):
    """The first item of `rank`, and the first after its share."""
    ### BEGIN SOLUTION
    each, left_over = divmod(items, world)
    first = rank * each + min(rank, left_over)
    return first, first + each + (rank < left_over)
    ### END SOLUTION


# %% id="share-check" tags=["nbval-ignore-output"]
lab.check("P.1")
lab.hints("P.1")

# %% id="share-run" tags=["nbval-check-output"]
for rank in range(4):
    first, after = my_share(10, rank, 4)
    print(f"rank {rank} of 4: items {list(range(first, after))}")

# %% [markdown] id="swap-text"
# ## P.2 · Swap two letters · 5 minutes · ●○○
#
# Now cure the deadlock. There are two ranks. Each has `x_N`, a tensor of N
# numbers, and has to return what the *other* one has as its `x_N`.
#
# `dist` is the last argument of every function that talks. On the processes of a
# torchrun cell it is `torch.distributed`. In the check it is a stand-in with the
# same calls: **practice ranks**, which are threads of this notebook. They run
# one at a time, and a message moves only when all of them wait. So a deadlock is
# found at once, each time, and the check says who waits for whom.


# %% id="swap" tags=["nbval-ignore-output"]
@lab.exercise("P.2")
def swap(x_N, dist):
    """What the other of two ranks has as its x_N."""
    y_N = torch.empty_like(x_N)  # room for what arrives
    ### BEGIN SOLUTION
    if dist.get_rank() == 0:
        dist.send(x_N, 1)
        dist.recv(y_N, 1)
    else:
        dist.recv(y_N, 0)
        dist.send(x_N, 0)
    ### END SOLUTION
    return y_N


# %% id="swap-check" tags=["nbval-ignore-output"]
lab.check("P.2")
lab.hints("P.2")

# %% [markdown] id="swap-run-text"
# The same function on two real processes:

# %% id="swap-run" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --name pair --push swap
import torch
import torch.distributed as dist

dist.init_process_group()
rank = dist.get_rank()
letter = torch.tensor([10.0 + rank])
answer = swap(letter, dist)
print(f"rank {rank} sent {letter.item():g} and got {answer.item():g}")
share("letter", answer)

# %% id="swap-run-check" tags=["nbval-check-output"]
print(f"what ranks 0 and 1 hold now: {pair.stack('letter')[:, 0].tolist()}")

# %% [markdown] id="shift-text"
# ## P.3 · One step round a ring · 5 minutes · ●●○
#
# Let the ranks sit in a ring. The right neighbour of rank $r$ is rank
# $(r + 1) \bmod W$, the left one $(r - 1) \bmod W$. Everybody sends `x_N` to the
# right and returns what comes from the left.
#
# "Even ranks send first, odd ranks receive first" would work. But then only half
# of the ranks send at a time. Better start both and wait for both:
#
# - `sending = dist.isend(x, to)` starts a send and returns at once. Until
#   `sending.wait()` is over, `x` may not change.
# - `receiving = dist.irecv(y, source)` starts a receive and returns at once.
#   Until `receiving.wait()` is over, `y` holds nothing of use.
#
# The practice ranks are strict about both: `y` is full of NaN until its `wait()`.


# %% id="shift" tags=["nbval-ignore-output"]
@lab.exercise("P.3")
def shift(x_N, dist):
    """Send x_N to the right, return what comes from the left."""
    rank, W = dist.get_rank(), dist.get_world_size()
    y_N = torch.empty_like(x_N)
    ### BEGIN SOLUTION
    sending = dist.isend(x_N, (rank + 1) % W)
    receiving = dist.irecv(y_N, (rank - 1) % W)
    for request in (sending, receiving):
        request.wait()
    ### END SOLUTION
    return y_N


# %% id="shift-check" tags=["nbval-ignore-output"]
lab.check("P.3")
lab.hints("P.3")

# %% id="shift-run" tags=["nbval-check-output"]
# on_ranks calls a function on practice ranks: one letter for each of five.
letters = torch.arange(5.0)[:, None]
print("before:", letters[:, 0].tolist())
print("after: ", torch.cat(on_ranks(shift, letters)).tolist())

# %% [markdown] id="ring-idea"
# ## A sum that everybody gets
#
# In data parallelism every rank has a vector of N gradients, and every rank
# needs the sum over all ranks. That is called an **all-reduce**.
#
# The plain way is through one rank: rank 0 receives every vector, adds them up,
# and sends the sum to all. Rank 0 then moves $2 (W - 1)$ whole vectors, and the
# others wait for it.
#
# The **ring** shares that work. Cut every vector into $W$ chunks of $N / W$
# numbers. In each step every rank sends *one* chunk to the right:
#
# 1. $W - 1$ steps in which what arrives is **added**. A chunk travels round the
#    ring and collects everybody's term. At the end each rank has one complete
#    chunk. This half is called *reduce-scatter*.
# 2. $W - 1$ steps in which what arrives is **kept**. The complete chunks
#    travel round. This half is called *all-gather*.
#
# Each rank sends $2 (W - 1)$ chunks. That is
#
# $$2\,\frac{W - 1}{W}\,N < 2N$$
#
# numbers, however many ranks there are. Less is not possible
# ([Patarasuk and Yuan 2009](https://doi.org/10.1016/j.jpdc.2008.09.002) prove it).
#
# **Play.** Each group of glasses is a rank, each glass a chunk, with its number
# below. A layer is the term of one rank, in that rank's colour, so a full glass is
# a complete sum. What is sent next has a thick edge, and a copy on the arrow.
# Nothing is staged: our functions run on practice ranks, and the picture shows
# what moved.
#
# Try this:
# 1. Follow chunk 0 for three steps. Where is it complete, and when?
# 2. Which chunk does rank 2 send in step 1, in step 2, in step 3?
# 3. With 8 ranks, how many steps do the ring and the way through rank 0 take? How
#    much does the busiest rank send in each?
#
# <details><summary>Answers</summary>
#
# 1. It starts on rank 0 and is complete on rank 3, after step 3.
# 2. Chunks 2, 1 and 0: one less each time.
# 3. Both 14. In the ring every rank sends 1.75 vectors in all; rank 0 sends 7.
#
# </details>

# %% id="ring-picture" tags=["nbval-ignore-output"]
ring_explorer({"ring": our_ring, "through rank 0": star_all_reduce}).show()

# %% [markdown] id="ring-text"
# ## P.4 · A ring all-reduce · 10 minutes · ●●●
#
# Write it. `chunks[c]` is chunk c of `x_N`, and to change it changes `x_N`.
# `shift(chunks[c], dist)` sends a chunk to the right and returns what arrives.
#
# Two questions decide each loop. Which chunk do I send in this step? And which
# chunk is it that arrives? (Your left neighbour asks the first question, too, and
# its rank is yours minus one.) Chunk numbers run round: take them `% W`.


# %% id="ring" tags=["nbval-ignore-output"]
@lab.exercise("P.4")
def ring_all_reduce(x_N, dist):
    """Sum x_N over all ranks, in place; N is a multiple of W."""
    rank, W = dist.get_rank(), dist.get_world_size()
    chunks = x_N.view(W, -1)
    for step in range(W - 1):  # what arrives is added
        ### BEGIN SOLUTION
        arrived = shift(chunks[(rank - step) % W], dist)
        chunks[(rank - step - 1) % W] += arrived
        ### END SOLUTION
    for step in range(W - 1):  # what arrives is kept
        ### BEGIN SOLUTION
        arrived = shift(chunks[(rank + 1 - step) % W], dist)
        chunks[(rank - step) % W] = arrived
        ### END SOLUTION
    return x_N


# %% id="ring-check" tags=["nbval-ignore-output"]
lab.check("P.4")
lab.hints("P.4")

# %% id="ring-run" tags=["nbval-check-output"]
group, W, N = PracticeGroup(4), 4, 20
sums = group.run(ring_all_reduce, torch.ones(W, N))
sent = [m.payload.numel() for m in group.messages if m.source == 0]
print(f"every rank holds the sum: {all((x == W).all() for x in sums)}")
print(f"rank 0 sent {len(sent)} messages: 2 (W - 1) = {2 * (W - 1)}")
print(f"with {sum(sent)} numbers in all: 2 (W - 1) N / W = {6 * N // W}")

# %% [markdown] id="ring-yours-text"
# This is the all-reduce in use. If yours fails its check, call `lab.mine("P.4")`
# in the check's cell and look at yours: a layer that is missing shows which term
# was lost, a crossed one which was counted twice.

# %% id="ring-yours" tags=["nbval-ignore-output"]
ring_explorer({"the ring in use": ring_all_reduce}, step=4).show()

# %% [markdown] id="collectives-text"
# ## Four collectives
#
# A **collective** is a call that *all* ranks make together. You have just
# written one, `dist.all_reduce`, and its two halves exist as calls, too. The
# fourth is different: in an **all-to-all** nothing is added, and every rank has a
# chunk for every other.
#
# | collective | rank $r$ has in the end | sends, per rank | used for |
# |---|---|---|---|
# | `all_reduce` | the sum of every chunk | $2 \frac{W-1}{W} n$ | gradients (labs 00, 04) |
# | `reduce_scatter` | the sum of chunk $r$ | $\frac{W-1}{W} n$ | gradients of a sharded model (05) |
# | `all_gather` | everybody's chunk | $\frac{W-1}{W} n$ | weights of a sharded model (05) |
# | `all_to_all` | everybody's chunk $r$ | $\frac{W-1}{W} n$ | tokens to their experts (02) |
#
# $n$ is the size of $W$ chunks together. Glasses are as above, and the number
# under one is its chunk.

# %% id="collectives" tags=["nbval-ignore-output"]
view = collectives_view()
show_figure(view.figure, view.sentence)

# %% [markdown] id="dispatch-text"
# ## P.5 · Every row to its owner · 8 minutes · ●●●
#
# In a mixture of experts each rank holds some experts, and each token has to
# travel to the rank of its expert. How many go where changes with every batch.
#
# A rank has `x_ND`, N rows of D numbers, and `owner_N`: row n belongs to rank
# `owner_N[n]`. Return `x_MD`, the M rows that belong to *this* rank, those of rank
# 0 first, each rank's in their old order.
#
# `dist.all_to_all_single(output, input, output_sizes, input_sizes)` cuts `input`
# into consecutive pieces of `input_sizes` rows, one for each rank, and puts what
# arrives one below the other into `output`, `output_sizes` rows from each rank.
# Sizes are lists of W integers. Without them all pieces are equal. So:
#
# 1. Sort the rows by owner (`argsort(stable=True)`) and count them
#    (`bincount(minlength=W)`).
# 2. Tell every rank how many rows you have for it. That is an all-to-all, too,
#    of W counts.
# 3. Make room for what will arrive, and exchange the rows.


# %% id="dispatch" tags=["nbval-ignore-output"]
@lab.exercise("P.5")
def dispatch(x_ND, owner_N, dist):
    """Send row n to rank owner_N[n]; return the rows that arrive."""
    W = dist.get_world_size()
    ### BEGIN SOLUTION
    order_N = owner_N.argsort(stable=True)
    to_W = owner_N.bincount(minlength=W)
    from_W = torch.empty_like(to_W)
    dist.all_to_all_single(from_W, to_W)
    x_MD = x_ND.new_empty(int(from_W.sum()), x_ND.shape[1])
    sizes = from_W.tolist(), to_W.tolist()
    dist.all_to_all_single(x_MD, x_ND[order_N], *sizes)
    return x_MD
    ### END SOLUTION


# %% id="dispatch-check" tags=["nbval-ignore-output"]
lab.check("P.5")
lab.hints("P.5")

# %% id="dispatch-run" tags=["nbval-check-output"]
owner_RN = torch.tensor([[1, 1, 0], [1, 0, 1]])
x_RND = torch.tensor([[[0.0], [1.0], [2.0]], [[10.0], [11.0], [12.0]]])
for rank, x_MD in enumerate(on_ranks(dispatch, x_RND, owner_RN)):
    print(f"rank {rank} owns rows {x_MD[:, 0].tolist()}")

# %% [markdown] id="real-text"
# ## All of it on real processes
#
# Practice ranks were for learning. Here are real ones, with your functions (or
# ours) and gloo, and beside them the library's own all-reduce. The vector holds
# whole numbers, so that the order of the additions cannot matter. With
# fractions two right sums may differ in their last bits.

# %% id="real" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name run --traffic --push ring_all_reduce,dispatch
import torch
import torch.distributed as dist

dist.init_process_group()
rank, W = dist.get_rank(), dist.get_world_size()
generator = torch.Generator().manual_seed(rank)

x_N = torch.randint(0, 100, (1000 * W,), generator=generator).float()
by_hand_N, library_N = x_N.clone(), x_N.clone()
ring_all_reduce(by_hand_N, dist)
dist.all_reduce(library_N)
share("equal", torch.equal(by_hand_N, library_N))

owner_N = torch.randint(0, W, (50,), generator=generator)
x_ND = torch.stack([owner_N, torch.full((50,), rank)], dim=1).float()
x_MD = dispatch(x_ND, owner_N, dist)
share("mine", bool((x_MD[:, 0] == rank).all()))
share("rows", len(x_MD))
print(f"rank {rank} of {W} owns {len(x_MD)} of {50 * W} rows")

# %% id="real-check" tags=["nbval-check-output"]
print(f"ring equals dist.all_reduce: {all(rank.equal for rank in run)}")
print(f"every row is with its owner: {all(rank.mine for rank in run)}")
lost = 50 * len(run) - sum(rank.rows for rank in run)
print(f"rows lost: {lost}")

# %% [markdown] id="traffic-text"
# `--traffic` has counted what the ranks sent: *handed in* is the size of the
# tensors in the calls, *ideal sent* what the textbook's algorithm sends for them.
# The ring's messages appear as `send`. The last lines were read from the ranks'
# network sockets: what really went out, headers included.

# %% id="traffic-check" tags=["nbval-check-output"]
for name in ("send", "all_reduce"):
    count = run.traffic[0][name]
    print(f"{name}: {count.calls} calls, {count.ideal_sent} bytes sent")

# %% [markdown] id="cost-text"
# ## What a message costs
#
# Why not send every gradient as soon as it is there? Because a message costs
# something before its first byte arrives. The usual model has two numbers:
#
# $$T(n) = \alpha + \frac{n}{\beta}$$
#
# | symbol | meaning | unit here |
# |---|---|---|
# | $n$ | size of the message | MB, a million bytes |
# | $T$ | time from the send to the end of the receive | ms |
# | $\alpha$ | latency: what even an empty message costs | ms |
# | $\beta$ | bandwidth | MB/ms, the same as GB/s |

# %% id="cost-predict" tags=["nbval-ignore-output"]
lab.predict(
    "cost",
    "Ten messages of 1 kB, one after the other, or one message of 10 kB: how "
    "much longer do the ten take?",
    ["about as long", "about twice as long", "about ten times as long"],
)

# %% [markdown] id="cost-measure-text"
# **Measure.** Rank 0 sends, rank 1 sends back, and half of a round trip is the
# time of one message. Six sizes take turns, so that a disturbance hits all alike.
# Of each we take the lower quartile: what disturbs can only add time.


# %% id="cost-function" tags=["nbval-ignore-output"]
sizes_mb = [0.001, 0.01, 0.1, 0.5, 2.0, 8.0]
repeats = lab.settings.pick(ci=40, cpu=200, gpu=200)


def round_trip(x, dist):
    if dist.get_rank() == 0:
        dist.send(x, 1)
        dist.recv(x, 1)
    else:
        dist.recv(x, 0)
        dist.send(x, 0)


def message_ms(sizes_mb, dist):
    """The time of a message between ranks 0 and 1, for each size."""
    tensors = [torch.zeros(round(mb * 1e6)).byte() for mb in sizes_mb]
    trips = [[] for _ in tensors]
    for _ in range(repeats):
        for x, times in zip(tensors, trips, strict=True):
            round_trip(x, dist)  # not timed: brings x into the caches
            began = time.perf_counter()
            round_trip(x, dist)
            times.append((time.perf_counter() - began) * 1e3)
    return [sorted(times)[repeats // 4] / 2 for times in trips]


# %% id="cost" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --name cost --push message_ms,sizes_mb
import torch.distributed as dist

dist.init_process_group()
measured = message_ms(sizes_mb, dist)
share("ms", measured)
if dist.get_rank() == 0:
    for mb, ms in zip(sizes_mb, measured, strict=True):
        print(f"{mb:7g} MB  {ms:7.3f} ms")

# %% [markdown] id="fit-text"
# ## P.6 · Fit latency and bandwidth · 6 minutes · ●●○
#
# `mb_S` and `ms_S` hold S sizes and times. Find $\alpha$ and $\beta$ by least
# squares, and return both. Two things to see:
#
# - $T$ is linear in the unknowns $\alpha$ and $1 / \beta$.
# - The times span a factor of a hundred. Plain least squares would listen to the
#   largest message alone. So minimise *relative* errors: divide each equation by
#   its $T$,
#
# $$\frac{1}{T_s}\,\alpha + \frac{n_s}{T_s}\,\frac{1}{\beta} \approx 1,
# \qquad s = 1, \dots, S$$
#
# `torch.linalg.lstsq(a_S2, b_S1).solution` solves it; row s of `a_S2` holds the
# two factors.


# %% id="fit" tags=["nbval-ignore-output"]
@lab.exercise("P.6")
def fit_cost(mb_S, ms_S):
    """Latency in ms and bandwidth in MB/ms."""
    ### BEGIN SOLUTION
    ones_S = torch.ones_like(ms_S)
    a_S2 = torch.stack([ones_S, mb_S], dim=1) / ms_S[:, None]
    solution = torch.linalg.lstsq(a_S2, ones_S[:, None]).solution
    latency, inverse = solution[:, 0]
    return latency, 1 / inverse
    ### END SOLUTION


# %% id="fit-check" tags=["nbval-ignore-output"]
lab.check("P.6")
lab.hints("P.6")

# %% id="fit-run" tags=["nbval-check-output"]
mb_S = torch.tensor([0.001, 0.1, 10.0])
latency, bandwidth = fit_cost(mb_S, 0.5 + mb_S / 4)
print(f"made up: latency 0.5 ms, fitted {float(latency):.3f} ms")
print(f"made up: bandwidth 4 GB/s, fitted {float(bandwidth):.3f} GB/s")

# %% [markdown] id="predict-text"
# **Predict a seventh.** Fit your machine's six times, and say what a message of
# 4 MB will take. It has not been measured yet.

# %% id="predict" tags=["nbval-ignore-output"]
ms_S = torch.tensor(cost[0].ms)
fit = [float(x) for x in fit_cost(torch.tensor(sizes_mb), ms_S)]
latency, bandwidth = fit
print(f"latency {latency:.3f} ms, bandwidth {bandwidth:.2f} GB/s")
print(f"latency is half of it at {1e3 * latency * bandwidth:.0f} kB")
print(f"predicted: 4 MB take {latency + 4 / bandwidth:.2f} ms")
if latency < 0:
    print("This machine was too busy: run the six sizes again.")

# %% id="cost-reveal" tags=["nbval-ignore-output"]
ten, one = 10 * cost[0].ms[0], cost[0].ms[1]  # of 1 kB, and of 10 kB
choices = {1: "about as long", 2: "about twice as long"}
choices[10] = "about ten times as long"
nearest = min(choices, key=lambda times: abs(math.log(ten / one / times)))
lab.reveal(
    "cost",
    answer=choices[nearest],
    sentence=f"{ten:.2f} ms against {one:.2f} ms: ten times the latency.",
)

# %% [markdown] id="seventh-text"
# **Now measure it**, in new processes. In the same cell all ranks time your ring
# on a vector of 4 MB. The model has a word on that, too: $2 (W - 1)$ steps, each
# with a message of $n / W$,
#
# $$T_{\text{ring}}(n) = 2 (W - 1) \left(\alpha + \frac{n}{W \beta}\right)$$

# %% id="seventh" tags=["nbval-ignore-output"]
# %%torchrun --nproc {world} --name seventh --push message_ms,ring_all_reduce
import time

import torch
import torch.distributed as dist

dist.init_process_group()
if dist.get_rank() < 2:
    share("ms", message_ms([4.0], dist)[0])
W, times = dist.get_world_size(), []
x_N = torch.ones(1_000_000 // W * W)  # 4 MB, and a multiple of W
for _ in range(8):
    dist.barrier()
    began = time.perf_counter()
    ring_all_reduce(x_N, dist)
    times.append((time.perf_counter() - began) * 1e3)
share("ring_ms", sorted(times[1:])[3])

# %% id="seventh-show" tags=["nbval-ignore-output"]
print("\n".join(cost_lines(sizes_mb, cost[0].ms, fit)))
W = len(seventh)
ring_ms = 2 * (W - 1) * (latency + 4 / W / bandwidth)
print(f"\nring of {W}, 4 MB: predicted {ring_ms:.1f} ms, ", end="")
print(f"measured {seventh[0].ring_ms:.1f} ms")
view = cost_view(sizes_mb, cost[0].ms, fit, (4.0, seventh[0].ms))
show_figure(view.figure, view.sentence)

# %% [markdown] id="cost-after"
# **What to make of it.** Two numbers stand for six sizes that differ by a factor
# of 8000. The last column says how well they do. What they miss is real: a message
# that fits into a cache moves faster than one that does not, and now and then the
# system gives the core to somebody else.
#
# The ring is a harder test. $\alpha$ and $\beta$ come from two processes that had a
# core each. With more processes than cores, each waits for its turn on a core in
# every step, and additions take time, too. So never read speed off a laptop that
# plays cluster. Read bytes and messages, which are exact.
#
# What carries over is the shape. A message of $n = \alpha \beta$ bytes spends
# half of its time on latency (the size is printed above). Below it, send fewer and
# larger messages: PyTorch packs gradients into buckets of 25 MB. And the ring pays
# $2 (W - 1)$ latencies. For small vectors on many ranks libraries use trees, which
# pay about $2 \log_2 W$.

# %% [markdown] id="kill-text"
# ## Kill a rank, and go on
#
# In lab 00 one rank died and all had to stop. On thousands of machines that
# happens every few hours, so a long run has to expect it. Two things together
# make it survive:
#
# - **Restart.** With `--max-restarts 1`, torchrun starts *all* ranks anew when one
#   has failed, at most once. They are new processes. They remember nothing.
# - **Checkpoint.** What they need to go on has to be on disk. Here that is a
#   weight and the number of steps done. `torch.distributed.checkpoint`, or `dcp`,
#   saves it from all ranks together. It writes a file `.metadata` last, so a
#   checkpoint that has one is whole.
#
# Below, rank 1 is killed in step 3. Which line makes the second attempt go on
# with step 4 instead of step 1?

# %% id="kill-folder" tags=["nbval-ignore-output"]
import tempfile

place = tempfile.TemporaryDirectory()  # gone when the notebook's kernel ends
folder = place.name

# %% id="kill" tags=["nbval-ignore-output"]
# %%torchrun --nproc 2 --max-restarts 1 --name again --push folder
import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

dist.init_process_group()
rank = dist.get_rank()
state = {"w": torch.zeros(1), "step": torch.tensor(0)}
saved = sorted(Path(folder).glob("step-*/.metadata"))
if saved:
    dcp.load(state, checkpoint_id=saved[-1].parent)
while state["step"] < 6:
    gradient = torch.tensor([1.0 + rank])
    dist.all_reduce(gradient)
    state["w"] -= gradient
    state["step"] += 1
    dcp.save(state, checkpoint_id=f"{folder}/step-{state['step']}")
    if rank == 1 and state["step"] == 3 and not saved:
        os.kill(os.getpid(), signal.SIGKILL)
share("w", state["w"])
share("steps_found", len(saved))

# %% id="kill-check" tags=["nbval-check-output"]
print(f"steps that the second attempt found done: {again[0].steps_found}")
print(f"w after 6 steps of 1 + 2: {[rank.w.item() for rank in again]}")

# %% [markdown] id="kill-after"
# No step was lost and none was done twice: six steps of $1 + 2$ make 18. A real
# run saves less often, every hour perhaps, and repeats what came after its last
# checkpoint. The optimizer's state belongs into it as well, and the place in the
# data.

# %% [markdown] id="recap"
# ## What you take away
#
# - A rank, a world size, one program. From its rank a process knows its share.
# - A send may last until its receive. Order them, or start both and `wait()`.
# - A program that hangs: ask every process for its stack.
# - A ring sums in $2 (W - 1)$ steps, and no rank sends more than twice its vector.
# - all_reduce = reduce_scatter + all_gather; all_to_all brings rows to their
#   owners, once their counts have travelled.
# - $T = \alpha + n / \beta$: pack small messages together.
# - A run survives a dead rank if it restarts *and* finds a whole checkpoint.
#
# **Limits.** Practice ranks run one at a time, so they say nothing about speed.
# A library's collectives are not all rings: it chooses by size and network. On
# GPUs NCCL carries the messages, and sends and receives that depend on each other
# go into one call, `dist.batch_isend_irecv`. Real code also lets messages travel
# while it computes: lab 04.
#
# **Diagnose.** What is wrong, and where would you look?
#
# 1. Training runs, then hangs at the first evaluation. The stacks: rank 0 stands
#    in `all_reduce`, all others in the next step's `all_gather_into_tensor`.
# 2. A ring works on 2 and 4 ranks; on 3 ranks a few numbers at the end are wrong.
#
# <details><summary>Answers</summary>
#
# 1. Somewhere `if rank == 0:` has a collective inside. All ranks have to make the
#    same collective calls in the same order.
# 2. The length is no multiple of 3, and the cut drops or misplaces the rest. Pad
#    the vector, or let chunks differ, as in P.1.
#
# </details>
#
# **Further reading.**
# [Patarasuk and Yuan 2009](https://doi.org/10.1016/j.jpdc.2008.09.002), the ring
# and the proof that it is optimal.
# [Gibiansky 2017](https://andrew.gibiansky.com/blog/machine-learning/baidu-allreduce/),
# how it came to deep learning.
# [Thakur, Rabenseifner and Gropp 2005](https://doi.org/10.1177/1094342005051521),
# which algorithm for which size.
# [torch.distributed](https://docs.pytorch.org/docs/stable/distributed.html), the
# reference.

# %% id="questions" tags=["nbval-ignore-output"]
lab.quiz(*QUESTIONS)

"""Practice ranks: threads that stand in for the processes of a group.

A check starts no processes. It gives a function that every rank calls, with
`dist` as its last argument, to threads of the notebook's own process. Their
`dist` has a few of torch.distributed's functions, under the same names, so the
same function runs on real ranks with `dist` = torch.distributed.

The threads are as unkind as real processes may be, and in the same way each
time:

- one runs at once, rank 0 first, until it has to wait;
- a message moves only when all ranks wait, so a blocking send lasts until the
  other rank receives (gloo's does, whatever the size);
- a buffer holds NaN from `irecv` until `wait()`, and a tensor may not change
  from `isend` until `wait()`.

So a mistake that lucky timing would hide is seen, and a deadlock is found at
once: nobody runs, and nobody can. group.py keeps what moved, and in which round
it could move if a rank sends and receives one message at a time; pictures of an
algorithm are drawn from that.
"""

from labsupport.exercise.practice.group import Message, PracticeGroup, on_ranks

__all__ = ["Message", "PracticeGroup", "on_ranks"]

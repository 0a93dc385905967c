"""The communication hook that every method of fusing gradients shares.

DDP hands over its gradients in buckets, each as soon as its last gradient is there.
A hook replaces the bucket's numbers by what all workers agree on. With g_i the
gradient of worker i, w_i = b_i / B its share of the batch, e_i its residual and C what
a method sends,

    u_i = W w_i g_i + e_i        g_fused = mean_i C(u_i)        e_i <- u_i - C(u_i)

(error feedback: arXiv 1901.09847, Algorithm 2). So nothing is lost: the mean of all
u_i is g_fused plus the mean of the new residuals.

What a method remembers belongs to a parameter, by its name: DDP rebuilds its buckets
after the first step, and a checkpoint may be resumed with other buckets.

The work is done by one thread, bucket after bucket, while the backward goes on. All
ranks get their buckets in the same order, so their collectives meet; and they have a
process group to themselves, since DDP has messages of its own. (gloo allows no
collectives in the callbacks of others' futures, as torch's own PowerSGD has them.)

A gradient that is not finite makes the fused gradient NaN on all ranks, as DDP's own
mean does, and leaves every residual as it was: a training loop may skip the step.
"""

# No `from __future__ import annotations`: DDP reads the hook's annotations.

import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import WeakTensorKeyDictionary

from labsupport.errors import LabError

State = dict[str, dict[str, Tensor]]


Result = torch.futures.Future[Tensor]
Jobs = queue.SimpleQueue[tuple[Callable[[], Tensor], Result] | None]


def start_thread(owner: object) -> Jobs:
    """A thread that does what is put into its queue, one after the other.

    It ends with its owner, or with the process. It is a daemon: a rank that has failed
    has to be able to end while a collective still waits for others.
    """
    jobs: Jobs = queue.SimpleQueue()

    def work() -> None:
        while (pair := jobs.get()) is not None:
            job, done = pair
            result: Tensor | BaseException
            try:
                result = job()
            except Exception as error:  # DDP raises it where it waits
                result = error
            # Let go of the owner first. The main thread goes on from here, and may
            # end the process: then a thread that frees tensors would abort it.
            del pair, job
            if isinstance(result, Tensor):
                done.set_result(result)
            else:
                done.set_exception(result)  # type: ignore[arg-type]
            del done, result

    thread = threading.Thread(target=work, name="fusion", daemon=True)

    def end() -> None:
        jobs.put(None)
        if threading.current_thread() is not thread:  # an exception may hold the owner
            thread.join(timeout=1)

    thread.start()
    weakref.finalize(owner, end)
    return jobs


class Fusion:
    """What all methods have in common; a method overrides `fuse`.

    Attributes:
        weight: W b_i / B, what this worker's gradient counts; 1 for equal batches.
            May change at every step.
        error_feedback: whether what was not sent is kept and added to the next.
        step: steps done.
        memory: the tensors that a method keeps, by parameter and by name. `residual`
            has the parameter's shape; it exists once something was not sent.

    Args:
        start: steps at first in which everything is sent, in float32.
        dist: `torch.distributed`, or what stands in for it.
        group: the process group; None is all ranks.
    """

    def __init__(
        self,
        *,
        start: int = 0,
        error_feedback: bool = True,
        dist: Any = torch.distributed,
        group: Any = None,
    ) -> None:
        self.start, self.error_feedback = start, error_feedback
        self.dist, self.group = dist, group
        self.weight, self.step = 1.0, 0
        self.memory: State = {}
        self.names = WeakTensorKeyDictionary()  # an id may come again, a tensor not
        self.shapes: dict[str, torch.Size] = {}
        self.jobs: Jobs | None = None

    # --- with DDP -------------------------------------------------------------

    def attach(self, model: DistributedDataParallel) -> None:
        """Become the hook of a model, once; all ranks together.

        Raises:
            LabError: the model is not wrapped in DDP, or has sparse gradients.
        """
        if not isinstance(model, DistributedDataParallel):
            raise LabError(
                f"attach() takes a DistributedDataParallel; got a "
                f"{type(model).__name__}: wrap it first."
            )
        for name, module in model.module.named_modules():
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
                raise LabError(
                    f"{name} has sparse gradients, which cannot be fused: make it "
                    "with sparse=False."
                )
        self.know(model.module)
        ranks = self.dist.get_process_group_ranks(self.group)
        self.group = self.dist.new_group(ranks, use_local_synchronization=True)
        self.jobs = start_thread(self)
        model.register_comm_hook(self, hook)

    def know(self, model: nn.Module) -> None:
        """Learn the names of a model's parameters; tied ones have one name."""
        for name, parameter in model.named_parameters():
            self.names[parameter] = name
            self.shapes[name] = parameter.shape

    def named_gradients(
        self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Gradients by their parameters' names.

        Raises:
            LabError: a parameter that the model did not have, or another shape.
        """
        named = {}
        for parameter, gradient in zip(parameters, gradients, strict=True):
            name = self.names.get(parameter)
            if name is None or self.shapes[name] != gradient.shape:
                raise LabError(
                    f"a parameter of shape {tuple(gradient.shape)} was not in the "
                    "model when the hook was attached: wrap the changed model in a "
                    "new DistributedDataParallel and attach a new hook."
                )
            named[name] = gradient
        return named

    # --- the work ---------------------------------------------------------------

    @torch.no_grad()
    def fuse_named(self, named: dict[str, Tensor]) -> None:
        """Replace each gradient, in place, by what the workers agree on."""
        if self.step < self.start:
            for gradient in named.values():
                gradient.mul_(self.weight)
            self.plain_mean(list(named.values()))
        elif not self.fuse(named):
            for gradient in named.values():
                gradient.fill_(torch.nan)

    @torch.no_grad()
    def fuse_bucket(self, buffer: Tensor, named: dict[str, Tensor]) -> None:
        """Replace a bucket's numbers, in place.

        Args:
            buffer: all of them in a row.
            named: the same numbers, by parameter.
        """
        self.fuse_named(named)

    def plain_mean(self, gradients: Sequence[Tensor]) -> None:
        """What DDP does without a hook."""
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.dist.all_reduce(flat, group=self.group)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_((mean / self.workers).view_as(gradient))

    def fuse(self, named: dict[str, Tensor]) -> bool:
        """Replace gradients, in place; False if they were not finite somewhere.

        Must not change a residual in that case.
        """
        raise NotImplementedError

    def end_step(self) -> None:
        """Called when the last bucket of a step is done."""
        self.step += 1
        self.after_step()

    def after_step(self) -> None:
        """What a method does between two steps."""

    def bytes_to_send(self) -> float:
        """Of this worker in a step, by the method's formula."""
        raise NotImplementedError

    @property
    def workers(self) -> int:
        """W."""
        return self.dist.get_world_size(self.group)

    def with_residual(self, name: str, gradient: Tensor) -> Tensor:
        """u = W w g + e, in float32."""
        kept = self.residual(name)
        if kept is None:
            return self.weight * gradient.float()
        return torch.add(kept, gradient, alpha=self.weight)

    def keep_residual(self, name: str, residual: Tensor) -> None:
        """What was not sent, for the next step."""
        if self.error_feedback:
            self.memory.setdefault(name, {})["residual"] = residual

    def residual(self, name: str) -> Tensor | None:
        """e_i of a parameter; None as long as there is none."""
        return self.memory.get(name, {}).get("residual")

    @property
    def memory_bytes(self) -> int:
        """What this worker keeps from step to step."""
        return sum(t.nbytes for kept in self.memory.values() for t in kept.values())

    # --- checkpoints --------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs, as one flat dict of tensors.

        Residuals differ from worker to worker: every rank saves its own.
        """
        flat = {
            f"{name}/{kind}": tensor
            for name, kept in self.memory.items()
            for kind, tensor in kept.items()
        }
        return flat | {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            LabError: it belongs to a model with other parameters.
        """
        memory: State = {}
        for key, tensor in state.items():
            if key == "step":
                continue
            name, _, kind = key.rpartition("/")
            if self.shapes and name not in self.shapes:
                raise LabError(
                    f"the checkpoint has {name}, which this model has not: load it "
                    "into the model that it was saved from."
                )
            memory.setdefault(name, {})[kind] = tensor.clone()
        self.memory, self.step = memory, int(state["step"])


def hook(
    fusion: Fusion, bucket: torch.distributed.GradBucket
) -> torch.futures.Future[Tensor]:
    """What DDP calls; see the module's docstring."""
    done: Result = torch.futures.Future()
    named = fusion.named_gradients(bucket.parameters(), bucket.gradients())

    def work() -> Tensor:
        fusion.fuse_bucket(bucket.buffer(), named)
        if bucket.is_last():
            fusion.end_step()
        return bucket.buffer()

    assert fusion.jobs is not None
    fusion.jobs.put((work, done))
    return done

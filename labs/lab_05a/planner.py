"""A planner for clusters: does a layout fit, and how long does a step take? A model.

Nothing here is measured. It counts weights, bytes and operations, divides by speeds,
and leaves out what it cannot know: kernels that are slow at odd sizes, memory that
breaks into pieces, machines that fail. One number stands for all of that, `reached`,
the share of a GPU's peak that its matrix products reach.

A layout has four axes:

    d   data: other samples, the same weights. ZeRO's stages say what is cut over d
    t   tensor: each layer is cut, within a node. Activations are cut as well, along
        the sequence where the layer is not (2205.05198, section 4.2.2)
    p   pipeline: layers in stages
    e   expert: the routed experts of a layer, over e of the d t ranks of a stage

    d t p = GPUs,    e divides d t and the number of experts

Bytes of a GPU. The first stage holds the most microbatches, the last one the logits;
the larger sum counts.

    weights, gradients, optimizer   `Precision` times this GPU's weights: cut by t, or
                                    e t for experts; then by d, or d t / e, where ZeRO
                                    says so
    activations                     tokens of a microbatch * bytes a token a layer *
                                    layers * microbatches held (schedules.py) / t

Seconds of a step with M microbatches:

    M (T_F + T_B) + bubble + what of the exchange along d is not hidden

T_F and T_B are computing, and the messages that it waits for: 4 all-reduces a layer
along t, 4 all-to-alls a layer of experts along e. DualPipe hides the latter: a pair of
a forward and a backward takes max(computing, all-to-all). The exchange along d is
hidden as far as a backward (gradients) and a forward (weights) last. A pass around a
ring of n ranks takes bytes / speed, and (n - 1) times the latency.

All formulas work on numbers and arrays alike: one call judges one layout or thousands.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from labs.lab_05a.planner_inputs import (
    MIXED,
    Cluster,
    Model,
    Number,
    Precision,
)
from labs.lab_05a.schedules import closed_bubble
from labsupport.errors import LabError

PIPELINES = ("1F1B", "interleaved", "zero bubble", "DualPipe")
"""Schedules that a plan can have."""

WHY_NOT = {
    1: "the axes do not multiply to the number of GPUs",
    2: "the tensor axis does not divide the heads, or leaves its node",
    3: "more stages than layers",
    4: "the expert axis does not divide the experts, or the ranks of a stage",
    5: "the batch does not come in whole microbatches",
    6: "too few microbatches for the schedule, or a number that it cannot have",
    7: "too little memory",
}
"""Why a layout is not feasible; the first reason that applies."""


@dataclass(frozen=True)
class Layout:
    """One layout, or many with arrays in place of numbers.

    Attributes:
        data, tensor, pipeline, expert: ranks along each axis.
        zero: what data ranks share out: 0 nothing, 1 the optimizer, 2 gradients as
            well, 3 weights, too.
        samples: of one microbatch.
        recompute: a layer keeps its input alone, and computes the rest again.
        schedule: the pipeline's, one of PIPELINES.
        loops: stages of a GPU in an interleaved pipeline.
    """

    data: Number
    tensor: Number = 1
    pipeline: Number = 1
    expert: Number = 1
    zero: Number = 1
    samples: Number = 1
    recompute: Number = False
    schedule: str = "1F1B"
    loops: int = 2

    def at(self, index: int) -> Layout:
        """One of many."""
        chosen = {
            f.name: getattr(self, f.name)[index].item()
            for f in fields(self)
            if f.name not in ("schedule", "loops")
        }
        return replace(self, **chosen)

    def __str__(self) -> str:
        words = [f"data {self.data}"]
        for name in ("tensor", "pipeline", "expert"):
            if getattr(self, name) > 1:
                words.append(f"{name} {getattr(self, name)}")
        words.append(f"ZeRO-{self.zero}" if self.zero else "no ZeRO")
        words.append(f"{self.samples} a microbatch")
        if self.recompute:
            words.append("recompute")
        return ", ".join(words)


@dataclass(frozen=True)
class Plan:
    """What the model says of a layout; numbers, or arrays for many.

    Attributes:
        weights, gradients, optimizer, activations: bytes of the fullest GPU.
        microbatches: M.
        step: seconds.
        bubble: share of the step in which a GPU waits for its pipeline.
        sent: axis -> bytes that a GPU sends in a step.
        waited: axis -> seconds of a step in which computing waits for that.
        utilisation: operations that the model needs, over the peak's.
        why_not: 0 if feasible, else a key of WHY_NOT.
    """

    weights: Number
    gradients: Number
    optimizer: Number
    activations: Number
    microbatches: Number
    step: Number
    bubble: Number
    sent: dict[str, Number]
    waited: dict[str, Number]
    utilisation: Number
    why_not: Number

    @property
    def memory(self) -> Number:
        """Bytes in all."""
        return (
            self.weights + self.gradients + self.optimizer + self.activations
        )


def plan(
    model: Model,
    cluster: Cluster,
    layout: Layout,
    batch: int,
    precision: Precision = MIXED,
) -> Plan:
    """Memory, traffic and time of a layout; see the module.

    Args:
        model: what is trained.
        cluster: on what.
        layout: one, or many as arrays.
        batch: samples of a step, over all GPUs.
        precision: bytes a number.

    Raises:
        LabError: an unknown schedule.
    """
    if layout.schedule not in PIPELINES:
        raise LabError(
            f"Schedule {layout.schedule!r}: use one of {', '.join(PIPELINES)}."
        )
    # Some layouts are illegal and give odd numbers; `why_not` says so.
    with np.errstate(divide="ignore", invalid="ignore"):
        return _Case(model, cluster, layout, batch, precision).plan()


@dataclass(frozen=True)
class Chunk:
    """Seconds of one microbatch on one GPU, as `closed_bubble` wants them."""

    F: Number
    I: Number  # noqa: E741
    W: Number
    pair: Number

    @property
    def B(self) -> Number:
        return self.I + self.W


def ring(ranks: Number) -> Number:
    """The share of its numbers that a rank sends in one pass around a ring."""
    return (ranks - 1) / ranks


class _Case:
    """The formulas, and what they share."""

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        layout: Layout,
        batch: int,
        precision: Precision,
    ) -> None:
        self.model, self.cluster, self.batch = model, cluster, batch
        self.precision, self.schedule = precision, layout.schedule
        self.loops = layout.loops if layout.schedule == "interleaved" else 1
        self.d, self.t, self.p, self.e, self.zero, samples = (
            np.asarray(x, dtype=float)
            for x in (
                layout.data,
                layout.tensor,
                layout.pipeline,
                layout.expert,
                layout.zero,
                layout.samples,
            )
        )
        self.recompute = np.asarray(layout.recompute, dtype=bool)
        self.M = batch / (self.d * samples)
        self.tokens = samples * model.sequence  # of a microbatch
        # Ranks that hold the same experts.
        self.twins = np.maximum(self.d * self.t / self.e, 1.0)

    def plan(self) -> Plan:
        memory = (*self.held(), self.activations())
        chunk, sent, waited = self.chunk()
        bubble = np.where(
            self.p > 1,
            closed_bubble(self.schedule, self.p, chunk, self.loops),
            0.0,
        )
        sent["data"], waited["data"] = self.exchange(chunk)
        step = self.M * chunk.pair + bubble + waited["data"]
        work = self.model.flops() * self.batch * self.model.sequence
        allowed = step * self.cluster.gpus * self.cluster.peak
        full = sum(memory) > self.cluster.memory * self.cluster.usable
        why_not = self.illegal()
        return Plan(
            *memory,
            microbatches=self.M,
            step=step,
            bubble=bubble / step,
            sent=sent,
            waited=waited,
            utilisation=work / allowed,
            why_not=np.where((why_not == 0) & full, 7, why_not),
        )

    def illegal(self) -> Number:
        """The first reason other than memory, or 0."""
        model, d, t, p, e, M = (
            self.model, self.d, self.t, self.p, self.e, self.M,
        )  # fmt: skip
        dual = self.schedule == "DualPipe"
        few = (2 * p if dual else p) > M
        odd = dual & ((p % 2 > 0) | (M % 2 > 0))
        odd = odd | ((self.loops > 1) & (M % p > 0))
        experts = model.experts.count if model.experts else 1
        reasons = {
            1: d * t * p != self.cluster.gpus,
            2: (model.heads % t > 0) | (t > self.cluster.per_node),
            3: np.where(p > 1, self.loops * p, 1) > model.layers,
            4: (experts % e > 0) | ((d * t) % e > 0),
            5: np.floor(M) != M,
            6: (few | odd) & (p > 1),
        }
        shape = np.broadcast(d, t, p, e, M).shape
        found = np.zeros(shape, dtype=int)
        for number, applies in reasons.items():
            found = np.where((found == 0) & applies, number, found)
        return found

    # --- memory -------------------------------------------------------------------

    def held(self) -> tuple[Number, Number, Number]:
        """Bytes of weights, gradients and optimizer on the fullest GPU."""
        model, precision = self.model, self.precision
        layers = np.ceil(model.layers / self.p)
        norms = layers * 2 * model.width
        if model.experts is None:
            same, routed = layers * model.dense, 0.0
        else:
            # The fullest stage has mixtures only, as far as they last.
            mixtures = np.minimum(layers, model.expert_layers)
            same = mixtures * model.beside + (layers - mixtures) * model.dense
            routed = mixtures * model.routed / (self.e * self.t)
        ends = np.where(self.p == 1, 2, 1) * model.vocabulary * model.width
        same = (same - norms) / self.t + norms
        same = same + ends / (self.t if model.cut_vocabulary else 1)
        same = same + model.width  # the norm before the output layer

        def bytes_of(each: float, cut_from: int, copies: int) -> Number:
            cut = self.zero >= cut_from
            own = same / np.where(cut, self.d, 1.0)
            own = own + routed / np.where(cut, self.twins, 1.0)
            return each * copies * own

        # DualPipe has the weights twice; the optimizer is shared by both ends.
        copies = 2 if self.schedule == "DualPipe" else 1
        return (
            bytes_of(precision.weight, 3, copies),
            bytes_of(precision.gradient, 2, copies),
            bytes_of(precision.optimizer, 1, 1),
        )

    def activations(self) -> Number:
        """Bytes on the first or the last stage, whichever has more."""
        model, p, M = self.model, self.p, self.M
        scale = (
            self.precision.message / 2
        )  # `saved_bytes` is of 2-byte numbers
        layer = model.saved_bytes * scale
        kept = np.where(self.recompute, 2 * model.width * scale, layer)
        again = np.where(self.recompute, layer, 0.0)  # of one layer at a time
        v = self.loops
        first = {
            "interleaved": p + (p - 1) / v,
            "DualPipe": p + 1,
        }.get(self.schedule, p)
        last = {
            "1F1B": 1.0,
            "interleaved": ((v - 1) * p + 1) / v,
        }.get(self.schedule, first)
        first, last = (
            np.where(p == 1, 1.0, np.minimum(M, held))
            for held in (first, last)
        )
        layers = np.ceil(model.layers / p)
        # The logits and their gradient, in float32.
        logits = 8 * model.vocabulary / (self.t if model.cut_vocabulary else 1)
        on_first = (first * layers * kept + again) / self.t
        on_last = (last * layers * kept + again) / self.t + logits
        return self.tokens * np.maximum(on_first, on_last)

    # --- time ---------------------------------------------------------------------

    def chunk(self) -> tuple[Chunk, dict[str, Number], dict[str, Number]]:
        """One microbatch on one GPU; and of a step, what is sent and waited for."""
        speed = self.cluster.peak * self.cluster.reached
        share = self.tokens / (self.p * self.t)
        forward = self.model.flops() / 3 * share / speed
        passes = np.where(
            self.recompute, 2.0, 1.0
        )  # through a layer, backward
        tensor_bytes, tensor = self.all_reduces()
        expert_bytes, expert = self.all_to_alls()
        F = forward + tensor
        B = (1 + passes) * forward + passes * tensor
        all_to_all = (1 + passes) * expert
        computing = F + B
        if self.schedule == "DualPipe":
            pair = np.maximum(computing, all_to_all)
        else:
            pair = computing + all_to_all
        # The gradients of weights need no message.
        chunk = Chunk(F + expert, B + passes * expert - forward, forward, pair)
        both_ways = self.M * (1 + passes)
        boundary = self.tokens * self.model.width * self.precision.message
        crossings = 2 * self.M * self.loops
        sent = {
            "tensor": both_ways * tensor_bytes,
            "pipeline": np.where(
                self.p > 1, crossings * boundary / self.t, 0.0
            ),
            "expert": both_ways * expert_bytes,
        }
        waited = {
            "tensor": both_ways * tensor,
            "expert": self.M * (pair - computing),
        }
        return chunk, sent, waited

    def all_reduces(self) -> tuple[Number, Number]:
        """Bytes and seconds along the tensor axis, of a microbatch's forward.

        Two all-reduces a layer, each two passes around a ring.
        """
        layers = self.model.layers / self.p
        one = self.tokens * self.model.width * self.precision.message
        passes = layers * 2 * 2
        sent = passes * ring(self.t) * one
        steps = passes * (self.t - 1)
        return sent, sent / self.cluster.link(
            self.t
        ) + steps * self.cluster.latency

    def all_to_alls(self) -> tuple[Number, Number]:
        """Bytes and seconds along the expert axis, of a microbatch's forward.

        Two a layer: to the experts and back. Between nodes a token travels once to
        each node and is handed on there (2412.19437, section 3.2.2). Both links work
        at once, and the slower one decides.
        """
        experts, cluster = self.model.experts, self.cluster
        if experts is None:
            return 0.0 * self.tokens, 0.0 * self.tokens
        layers = self.model.expert_layers / self.p
        row = self.model.width * self.precision.message
        rows = self.tokens / self.t
        in_nodes = np.maximum(self.e / cluster.per_node, 1.0)
        visited = np.minimum(in_nodes, min(experts.nodes, experts.visited))
        inside = rows * row * experts.visited * ring(self.e)
        between = rows * row * visited * ring(in_nodes)
        seconds = np.maximum(
            inside / cluster.inside, between / cluster.between
        )
        sent = np.where(in_nodes > 1, between, inside)
        return 2 * layers * sent, 2 * layers * seconds

    def exchange(self, chunk: Chunk) -> tuple[Number, Number]:
        """Bytes and unhidden seconds along the data axis, of a step.

        ZeRO-0 all-reduces the gradients. From stage 1 on they are reduce-scattered
        and new weights gathered; from stage 2 on the former once for every
        microbatch; in stage 3 weights are gathered twice for each.
        """
        model, precision = self.model, self.precision
        routed = model.expert_layers * model.routed
        same = (model.total - routed) / (self.p * self.t)
        own = routed / (self.p * self.e * self.t)
        numbers = ring(self.d) * same + ring(self.twins) * own
        # A message for each layer. Along d neighbours are t ranks apart.
        layers = model.layers / self.p
        steps = layers * (self.d - 1 + (self.twins - 1) * (routed > 0))
        waits = steps * self.cluster.latency
        speed = self.cluster.link(np.where(self.d > 1, self.d * self.t, 1))
        passes = np.where(self.zero, 1, 2)
        scatter = numbers * precision.gradient * passes
        gather = numbers * precision.message
        scatters = np.where(self.zero >= 2, self.M, 1.0)
        gathers = np.select(
            [self.zero == 0, self.zero < 3], [0.0, 1.0], 2 * self.M
        )
        late = scatter / speed + passes * waits - chunk.B
        waited = scatters * np.maximum(late, 0.0)
        late = gather / speed + waits - chunk.F
        waited = waited + gathers * np.maximum(late, 0.0)
        return scatters * scatter + gathers * gather, waited

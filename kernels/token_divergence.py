# mypy: allow-untyped-defs
"""How far a student's distribution is from its teacher's, a number for each token.

    q = softmax(s / T)     p = softmax(t / T)     KL(a || b) = sum_v a_v log(a_v / b_v)

    beta = 0        KL(p || q)      forward: q must be everywhere that p is
    beta = 1        KL(q || p)      reverse: q must be nowhere that p is not
    0 < beta < 1    beta KL(p || M) + (1 - beta) KL(q || M),   M = beta p + (1 - beta) q

for each row, a token of a sequence: s the student's logits, t the teacher's, T the
temperature that softens both (Hinton et al., arXiv 1503.02531, section 2). In between
stands the generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649, section 3). Its
formula is 0 at both ends; divided by beta, or by 1 - beta, it nears the KL that stands
there. With g the gradient that arrives,

    beta = 0        ds_v = g (q_v - p_v) / T
    beta = 1        ds_v = g q_v (r_v - sum_u q_u r_u) / T               r = log(q / p)
    0 < beta < 1    ds_v = g (1 - beta) q_v (r_v - sum_u q_u r_u) / T    r = log(q / M)

The teacher is not trained: t has no gradient. Gradients shrink as 1 / T^2; Hinton's
factor of T^2, which undoes that, is the caller's.

A row does not fit into a program's registers. A KL is made *online* all the same, from
one read of both rows. Block after block, with a and b now the logits over T and m_a and
m_b the largest of them so far,

    S_a = sum_v exp(a_v - m_a)     S_b = sum_v exp(b_v - m_b)
    u = sum_v exp(a_v - m_a) ((a_v - m_a) - (b_v - m_b))

and where a block raises m_a to m_a' and m_b to m_b', what was summed is rescaled as in
`selected_logprob.py`:

    u' = (u + S_a ((m_a - m_a') - (m_b - m_b'))) exp(m_a - m_a') + the block's own terms

At the end KL = u / S_a - log S_a + log S_b. Sums relative to m_a and m_b lose nothing
where all logits are large.

M cannot be rescaled: its two parts have two log-sum-exps. So in between both rows are
read twice, 4 e N V bytes: first for the log-sum-exps, then for the terms. The second
read costs less only where both rows are still in the L2 cache. With V = 151 936 in
bfloat16 they are 0.6 MB; an H100's 50 MB hold those of 82 programs, and it runs more.

Shapes: N rows (all leading axes together), V entries of the vocabulary. s_NV and t_NV
in one of float32, float16, bfloat16; mask_N in bool; the divergence, lse_s, lse_t and
inner = sum_u q_u r_u, all _N, in float32. e is the bytes per element of s: 4 or 2.

Cost, forward:   2 e N V + 17 N bytes (read s, t, mask; write the divergence, lse_s,
                 lse_t, inner)              13 N V FLOPs at either end, 33 in between
      backward:  3 e N V + 17 N bytes (read s, t, mask, lse_s, lse_t, inner, g; write
                 ds)                         9 N V FLOPs (beta = 0), 10 (1), 19 between

In plain PyTorch two log_softmax write 2 e N V bytes more, and terms and their gradients
several times as much.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from kernels.chosen_tokens import check_temperature, is_number
from kernels.language import cdiv, jit, tl
from kernels.operation import (
    KERNEL_DTYPES,
    Cost,
    KernelInputError,
    accumulator,
    as_rows,
    check_beside,
    check_kernel_tensor,
    launch_spec,
    refuse_second_derivative,
    route,
)
from kernels.selected_logprob import vocabulary_launch

Kind = Literal["forward", "reverse", "mixture"]

BENCHMARK_SHAPES = ((8192, 151936),)
"""(N, V) that the benchmark times and the compile check covers, V as in Qwen2.5."""


def kind_of(beta: float) -> Kind:
    """Which of the three a beta asks for."""
    return "forward" if beta == 0 else "reverse" if beta == 1 else "mixture"


def token_divergence_reference(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """The same in plain PyTorch, differentiable by student, on any device: the oracle.

    Args:
        student: (..., V), any floating dtype. Half precisions are computed in float32.
        teacher: (..., V).
        mask: (...), bool, True where a token counts. None: everywhere.
        beta: 0 to 1.
        temperature: above 0.

    Returns:
        (...): float64 for a float64 student, else float32.
    """
    log_q = log_softmax(student, mask, temperature)
    log_p = log_softmax(teacher.detach(), mask, temperature)
    kind = kind_of(beta)
    if kind == "forward":
        divergence = kl(log_p, log_q)
    elif kind == "reverse":
        divergence = kl(log_q, log_p)
    else:
        # Where p and q are 0 so is M: kept finite, as -inf - -inf would be NaN.
        least = torch.finfo(log_q.dtype).min
        log_M = torch.logaddexp(
            log_p.clamp(min=least) + math.log(beta),
            log_q.clamp(min=least) + math.log1p(-beta),
        )
        divergence = beta * kl(log_p, log_M) + (1 - beta) * kl(log_q, log_M)
    return divergence if mask is None else divergence.where(mask, 0.0)


def log_softmax(logits: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    x = logits.to(accumulator(logits.dtype))
    if mask is not None:
        # 0 for what does not count, as 0 times NaN would be NaN in its gradient.
        x = x.where(mask[..., None], 0.0)
    return torch.log_softmax(x / temperature, -1)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) of each row. 0 log 0 is 0."""
    a = log_a.exp()
    return (a * (log_a - log_b).where(a > 0, 0.0)).sum(-1)


@jit
def lse_step(x, largest, total, AXIS: tl.constexpr):
    """The largest x so far and the sum of exp(x - largest), after one block more."""
    new = tl.maximum(largest, tl.max(x, axis=AXIS))
    of_block = tl.sum(tl.exp(x - tl.expand_dims(new, AXIS)), axis=AXIS)
    return new, total * tl.exp(largest - new) + of_block


@jit
def kl_step(a, b, largest_a, total_a, largest_b, total_b, moment, AXIS: tl.constexpr):
    """m_a, S_a, m_b, S_b and u after one block more."""
    new_a, new_total_a = lse_step(a, largest_a, total_a, AXIS)
    new_b, new_total_b = lse_step(b, largest_b, total_b, AXIS)
    below_a = a - tl.expand_dims(new_a, AXIS)
    below_b = b - tl.expand_dims(new_b, AXIS)
    e = tl.exp(below_a)
    # What has e = 0 adds 0, whatever b is there; -inf - -inf would be NaN.
    gap = tl.where(e > 0.0, below_a, 0.0) - tl.where(e > 0.0, below_b, 0.0)
    rescale = tl.exp(largest_a - new_a)
    moved = (largest_a - new_a) - (largest_b - new_b)
    # u is infinite where b rules out what a does not; 0 * inf would be NaN.
    kept = tl.where(rescale > 0.0, (moment + total_a * moved) * rescale, 0.0)
    moment = kept + tl.sum(e * gap, axis=AXIS)
    return new_a, new_total_a, new_b, new_total_b, moment


@jit
def log_mixture(log_q, log_p, beta):
    """log M: the larger of its two parts, and what the other adds to it."""
    of_q = log_q + tl.log(1.0 - beta)
    of_p = log_p + tl.log(beta)
    # Finite where p and q are 0, as -inf - -inf would be NaN.
    larger = tl.maximum(tl.maximum(of_q, of_p), -3.4e38)
    return larger + tl.log(1.0 + tl.exp(tl.minimum(of_q, of_p) - larger))


@jit
def kl_terms(log_a, log_b):
    """a log(a / b), 0 where a is 0."""
    a = tl.exp(log_a)
    return a * (tl.where(a > 0.0, log_a, 0.0) - tl.where(a > 0.0, log_b, 0.0))


@jit
def divergence_gradient(log_q, log_p, inner, arriving, beta, KIND: tl.constexpr):
    """The gradient by s / T, for a block of any shape."""
    q = tl.exp(log_q)
    if KIND == "forward":
        dx = arriving * (q - tl.exp(log_p))
    else:
        log_other = log_p
        if KIND == "mixture":
            log_other = log_mixture(log_q, log_p, beta)
            arriving = arriving * (1.0 - beta)
        # Where q = 0 there is none; -inf - -inf would be NaN.
        r = tl.where(q > 0.0, log_q, 0.0) - tl.where(q > 0.0, log_other, 0.0)
        dx = arriving * q * tl.where(q > 0.0, r - inner, 0.0)
    return dx


@jit
def block_of_row(row_ptr, v, inside, scale):
    """Logits over T. -inf outside: no maximum, and exp(-inf) adds 0."""
    return tl.load(row_ptr + v, mask=inside, other=float("-inf")).to(tl.float32) * scale


@jit
def kl_forward_kernel(
    a_ptr, b_ptr, mask_ptr, kl_ptr, lse_a_ptr, lse_b_ptr, inner_ptr, a_stride, b_stride,
    scale, V, BLOCK: tl.constexpr,
):  # fmt: skip
    # KL(a || b): which of them is the student makes no difference. Program n works on
    # row n alone. In 64 bits, since n * stride passes 2**31.
    n = tl.program_id(0).to(tl.int64)
    if tl.load(mask_ptr + n) == 0:  # it does not count: nothing is read
        tl.store(kl_ptr + n, 0.0)
        tl.store(lse_a_ptr + n, 0.0)
        tl.store(lse_b_ptr + n, 0.0)
        tl.store(inner_ptr + n, 0.0)
        return
    # m_a and m_b start below every logit and finite: -inf - -inf would be NaN.
    largest_a = -3.4e38
    largest_b = -3.4e38
    total_a = 0.0
    total_b = 0.0
    moment = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        a = block_of_row(a_ptr + n * a_stride, v, v < V, scale)
        b = block_of_row(b_ptr + n * b_stride, v, v < V, scale)
        largest_a, total_a, largest_b, total_b, moment = kl_step(
            a, b, largest_a, total_a, largest_b, total_b, moment, 0
        )
    log_a = tl.log(total_a)
    log_b = tl.log(total_b)
    kl = moment / total_a - log_a + log_b
    tl.store(kl_ptr + n, kl)
    tl.store(lse_a_ptr + n, largest_a + log_a)
    tl.store(lse_b_ptr + n, largest_b + log_b)
    tl.store(inner_ptr + n, kl)  # a copy: what is returned may be changed in place


@jit
def jsd_forward_kernel(
    student_ptr, teacher_ptr, mask_ptr, divergence_ptr, lse_student_ptr,
    lse_teacher_ptr, inner_ptr, student_stride, teacher_stride, scale, beta, V,
    BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    if tl.load(mask_ptr + n) == 0:
        tl.store(divergence_ptr + n, 0.0)
        tl.store(lse_student_ptr + n, 0.0)
        tl.store(lse_teacher_ptr + n, 0.0)
        tl.store(inner_ptr + n, 0.0)
        return
    student_row_ptr = student_ptr + n * student_stride
    teacher_row_ptr = teacher_ptr + n * teacher_stride
    largest_s = -3.4e38
    largest_t = -3.4e38
    total_s = 0.0
    total_t = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = block_of_row(student_row_ptr, v, v < V, scale)
        largest_s, total_s = lse_step(x, largest_s, total_s, 0)
        y = block_of_row(teacher_row_ptr, v, v < V, scale)
        largest_t, total_t = lse_step(y, largest_t, total_t, 0)
    log_s = tl.log(total_s)
    log_t = tl.log(total_t)
    # Both sums are known: the same again for the terms.
    of_student = 0.0
    of_teacher = 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        log_q = block_of_row(student_row_ptr, v, v < V, scale) - largest_s - log_s
        log_p = block_of_row(teacher_row_ptr, v, v < V, scale) - largest_t - log_t
        log_M = log_mixture(log_q, log_p, beta)
        of_student += tl.sum(kl_terms(log_q, log_M), axis=0)
        of_teacher += tl.sum(kl_terms(log_p, log_M), axis=0)
    tl.store(divergence_ptr + n, beta * of_teacher + (1.0 - beta) * of_student)
    tl.store(lse_student_ptr + n, largest_s + log_s)
    tl.store(lse_teacher_ptr + n, largest_t + log_t)
    tl.store(inner_ptr + n, of_student)


@jit
def divergence_backward_kernel(
    student_ptr, teacher_ptr, mask_ptr, lse_student_ptr, lse_teacher_ptr, inner_ptr,
    arriving_ptr, dstudent_ptr, student_stride, teacher_stride, scale, beta, V,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # The sums are known, so that blocks of a row need nothing of each other.
    n = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    # Of a row that does not count nothing is read: p, q and what arrives are 0.
    counts = tl.load(mask_ptr + n) != 0
    lse_student = tl.load(lse_student_ptr + n)
    lse_teacher = tl.load(lse_teacher_ptr + n)
    inner = tl.load(inner_ptr + n)
    arriving = tl.load(arriving_ptr + n, mask=counts, other=0.0)
    inside = (v < V) & counts
    x = block_of_row(student_ptr + n * student_stride, v, inside, scale)
    y = block_of_row(teacher_ptr + n * teacher_stride, v, inside, scale)
    dx = divergence_gradient(
        x - lse_student, y - lse_teacher, inner, arriving, beta, KIND
    )
    tl.store(dstudent_ptr + n * V + v, dx * scale, mask=v < V)


def counted(mask: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The mask as numbers that a kernel loads: contiguous, int8, 1 where it counts."""
    if mask is None:
        return torch.ones(shape, dtype=torch.int8, device=like.device)
    return mask.contiguous().view(torch.int8)


def launch_divergence(
    student_NV: Tensor, teacher_NV: Tensor, counts: Tensor, beta: float, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The divergence, lse_student, lse_teacher and inner, in the shape of counts."""
    N, V = student_NV.shape
    shape, device = counts.shape, counts.device
    divergence = torch.empty(shape, dtype=torch.float32, device=device)
    lse_student, lse_teacher, inner = (torch.empty_like(divergence) for _ in range(3))
    launch = vocabulary_launch(V)
    if N and kind_of(beta) == "mixture":  # a GPU refuses a grid of no programs
        jsd_forward_kernel[(N,)](
            student_NV,
            teacher_NV,
            counts,
            divergence,
            lse_student,
            lse_teacher,
            inner,
            student_NV.stride(0),
            teacher_NV.stride(0),
            scale,
            beta,
            V,
            **launch,
        )
    elif N:
        order = [(teacher_NV, lse_teacher), (student_NV, lse_student)]
        if kind_of(beta) == "reverse":
            order.reverse()
        (a_NV, lse_a), (b_NV, lse_b) = order
        kl_forward_kernel[(N,)](
            a_NV,
            b_NV,
            counts,
            divergence,
            lse_a,
            lse_b,
            inner,
            a_NV.stride(0),
            b_NV.stride(0),
            scale,
            V,
            **launch,
        )
    return divergence, lse_student, lse_teacher, inner


class _TokenDivergence(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,
        beta: float,
        scale: float,
    ) -> Tensor:
        student_NV, teacher_NV = as_rows(student), as_rows(teacher)
        counts = counted(mask, (*student.shape[:-1],), student)
        divergence, *rows = launch_divergence(
            student_NV, teacher_NV, counts, beta, scale
        )
        ctx.save_for_backward(student_NV, teacher_NV, counts, *rows)
        ctx.beta, ctx.scale, ctx.shape = beta, scale, student.shape
        return divergence

    @staticmethod
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("token_divergence")
        student_NV, teacher_NV, *rows = ctx.saved_tensors
        N, V = student_NV.shape
        dstudent_NV = torch.empty(
            (N, V), dtype=student_NV.dtype, device=arriving.device
        )
        launch = vocabulary_launch(V)
        if N:
            divergence_backward_kernel[(N, cdiv(V, launch["BLOCK"]))](
                student_NV,
                teacher_NV,
                *rows,
                arriving.contiguous(),
                dstudent_NV,
                student_NV.stride(0),
                teacher_NV.stride(0),
                ctx.scale,
                ctx.beta,
                V,
                KIND=kind_of(ctx.beta),
                **launch,
            )
        return dstudent_NV.view(ctx.shape), *[None] * 4


def token_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
    interpret: bool | None = None,
) -> Tensor:
    """Each token's divergence of student and teacher: kernel on a GPU, else reference.

    Args:
        student: logits (..., V) with V >= 1; float32, float16 or bfloat16. Copied if
            rows have no one distance, as in student[:, :-1]: rather mask a last token.
        teacher: logits of student's shape, dtype and device; it gets no gradient.
        mask: (...), bool, on student's device: True where a token counts. None: all do.
        beta: 0 for KL(teacher || student), 1 for KL(student || teacher), in between for
            the generalised Jensen-Shannon divergence with beta the teacher's weight.
        temperature: above 0: both logits are divided by it. The result is not
            multiplied by its square.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        (...), float32; 0 where the mask is False. It is infinite where a KL asks for an
        entry that is ruled out by -inf. The kernels differentiate it once, by student.

    Raises:
        KernelInputError: an argument is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    check_kernel_tensor("token_divergence", student, "student")
    if student.ndim == 0 or student.shape[-1] < 1:
        raise KernelInputError(
            "token_divergence: student must have shape (..., V) with at least one "
            f"entry; got {tuple(student.shape)}."
        )
    check_beside(
        "token_divergence", student, "teacher", teacher, (*student.shape,), "(..., V)",
        student.dtype, "student",
    )  # fmt: skip
    check_mask("token_divergence", mask, student, "student")
    check_beta("token_divergence", beta)
    check_temperature("token_divergence", temperature)
    if route(student, interpret) == "reference":
        return token_divergence_reference(student, teacher, mask, beta, temperature)
    with torch.cuda.device_of(student):  # Triton launches on the current GPU
        return _TokenDivergence.apply(
            student, teacher, mask, float(beta), 1 / temperature
        )


def check_mask(
    operation: str, mask: Tensor | None, beside: Tensor, beside_name: str
) -> None:
    """Refuse a mask that does not say of each row of `beside` whether it counts.

    Raises:
        KernelInputError: it does not.
    """
    if mask is not None:
        check_beside(
            operation, beside, "mask", mask, (*beside.shape[:-1],), "(...)", torch.bool,
            beside_name,
        )  # fmt: skip


def check_beta(operation: str, beta: object) -> None:
    """Refuse a beta that is no number from 0 to 1.

    Raises:
        KernelInputError: it is not.
    """
    if not is_number(beta) or not 0 <= beta <= 1:
        raise KernelInputError(
            f"{operation}: beta must be a number from 0 to 1; got {beta!r}."
        )


def token_divergence_cost(
    N: int, V: int, dtype: torch.dtype, beta: float = 0.0
) -> Cost:
    """The forward: both logits and the mask read once; four numbers a row written.

    In between the ends our kernel reads the logits twice; that is its own affair.
    """
    flops = {"forward": 13, "reverse": 13, "mixture": 33}[kind_of(beta)]
    return Cost(bytes=2 * N * V * dtype.itemsize + 17 * N, flops=flops * N * V)


def token_divergence_backward_cost(
    N: int, V: int, dtype: torch.dtype, beta: float = 0.0
) -> Cost:
    """The backward: both logits, and five numbers a row, read once; ds written."""
    flops = {"forward": 9, "reverse": 10, "mixture": 19}[kind_of(beta)]
    return Cost(bytes=3 * N * V * dtype.itemsize + 17 * N, flops=flops * N * V)


SPECS = [
    spec
    for _, V in BENCHMARK_SHAPES
    for dtype in KERNEL_DTYPES
    for spec in (
        launch_spec(
            kl_forward_kernel, dtype, vocabulary_launch(V), f"V={V}", a_ptr="*",
            b_ptr="*", mask_ptr="*i8", kl_ptr="*fp32", lse_a_ptr="*fp32",
            lse_b_ptr="*fp32", inner_ptr="*fp32", a_stride="i32", b_stride="i32",
            scale="fp32", V="i32",
        ),
        launch_spec(
            jsd_forward_kernel, dtype, vocabulary_launch(V), f"V={V}",
            student_ptr="*", teacher_ptr="*", mask_ptr="*i8", divergence_ptr="*fp32",
            lse_student_ptr="*fp32", lse_teacher_ptr="*fp32", inner_ptr="*fp32",
            student_stride="i32", teacher_stride="i32", scale="fp32", beta="fp32",
            V="i32",
        ),
        *(
            launch_spec(
                divergence_backward_kernel, dtype,
                {"KIND": kind, **vocabulary_launch(V)}, f"V={V} {kind}",
                student_ptr="*", teacher_ptr="*", mask_ptr="*i8",
                lse_student_ptr="*fp32", lse_teacher_ptr="*fp32", inner_ptr="*fp32",
                arriving_ptr="*fp32", dstudent_ptr="*", student_stride="i32",
                teacher_stride="i32", scale="fp32", beta="fp32", V="i32",
            )
            for kind in get_args(Kind)
        ),
    )
]  # fmt: skip
"""Every configuration that `token_divergence` launches at BENCHMARK_SHAPES."""

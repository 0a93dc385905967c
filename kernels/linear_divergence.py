# mypy: allow-untyped-defs
"""Both output layers and the divergence of their distributions, without the logits.

    s_nv = h_n . w_v     t_nv = h'_n . w'_v     divergence_n = D(s_n, t_n)

where D is that of `token_divergence.py`, with its beta and T; h and w are the student's
last hidden states and output matrix, h' and w' the teacher's. Distillation from logits
would hold two of N x V, 2.5 GB each for 8192 tokens of 152 000 entries in bfloat16, and
a gradient of the same size. Here a tile of each is made, used and forgotten, as in
`linear_logprob.py`. With a_nv the gradient of s_nv as it stands in
`token_divergence.py`,

    dh_n = sum_v a_nv w_v          dw_v = sum_n a_nv h_n

and none for the teacher, h' and w'.

Shapes: N rows (all leading axes together), V entries of the vocabulary, D the student's
width, E the teacher's, S spans of SPAN entries. h_ND, w_VD, h'_NE and w'_VE in one of
float32, float16, bfloat16; mask_N in bool; the divergence, lse_s, lse_t and inner, all
_N, in float32. e is the bytes per element of h: 4 or 2.

Cost, forward:   e (N + V) (D + E) + 17 N bytes
                 (read h, w, h', w', mask; write the divergence, lse_s, lse_t, inner)
                                            N V (2 (D + E) + f) FLOPs
      backward:  e (N + V) (2 D + E) + 17 N bytes
                 (read h, w, h', w', mask, lse_s, lse_t, inner, what arrives; write dh,
                 dw)                        N V (6 D + 2 E + f') FLOPs

with f and f' the FLOPs of an entry in `token_divergence.py`. For 0 < beta < 1 the
kernels take 2 N V (D + E) more on the way: both log-sum-exps have to be known before
the first term, so that one sweep makes them, and a second makes every tile of logits
again for the terms.

Each span of the vocabulary has programs of its own. Inside a span a KL is made online;
at the end S partial results a row are put together. With A_s = exp(lse_a,s - lse_a) the
probability that a gives to span s, and B_s likewise,

    KL(a || b) = sum_s A_s (KL_s + log A_s - log B_s)

The second sweep's sums only have to be added up. The backward goes span by span as that
of `linear_logprob.py`: a kernel makes the gradient of N x SPAN logits, two matrix
products make dh and dw of it. In half precision a is rounded once.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor

from kernels.chosen_tokens import check_temperature
from kernels.language import cdiv, jit, tl
from kernels.linear_logprob import SPAN, Grid, gradients_by_span, tile_of_logits
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
    side_by_side,
)
from kernels.token_divergence import (
    Kind,
    check_beta,
    check_mask,
    counted,
    divergence_gradient,
    kind_of,
    kl_step,
    kl_terms,
    log_mixture,
    lse_step,
    token_divergence_backward_cost,
    token_divergence_cost,
    token_divergence_reference,
)

BENCHMARK_SHAPES = ((8192, 151936, 2048, 2048),)
"""(N, V, D, E) that the benchmark times and the compile check covers: two models as
wide as Qwen2.5-3B, with its vocabulary."""


def linear_divergence_reference(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    mask: Tensor | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """The same in plain PyTorch, differentiable by the student, on any device.

    Args:
        student_hidden: (..., D), any floating dtype. Half precisions are computed in
            float32.
        student_weight: (V, D).
        teacher_hidden: (..., E).
        teacher_weight: (V, E).
        mask: (...), bool, True where a token counts. None: everywhere.
        beta: 0 to 1.
        temperature: above 0.

    Returns:
        (...): float64 for a float64 student_hidden, else float32.
    """
    wide = accumulator(student_hidden.dtype)
    student = student_hidden.to(wide) @ student_weight.to(wide).T
    with torch.no_grad():
        teacher = teacher_hidden.to(wide) @ teacher_weight.to(wide).T
    return token_divergence_reference(student, teacher, mask, beta, temperature)


@jit
def tile_of_scaled(
    hidden_ptr, weight_ptr, n, v, in_n, in_v, hidden_stride, weight_stride, scale, D,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Logits over T. -inf beyond the vocabulary: no maximum, and exp(-inf) adds 0."""
    z = tile_of_logits(
        hidden_ptr, weight_ptr, n, v, in_n, in_v, hidden_stride, weight_stride, D,
        BLOCK_N, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    return tl.where(in_v[None, :], z * scale, float("-inf"))


@jit
def linear_kl_forward_kernel(
    a_hidden_ptr, a_weight_ptr, b_hidden_ptr, b_weight_ptr, kl_ptr, lse_a_ptr,
    lse_b_ptr, a_hidden_stride, a_weight_stride, b_hidden_stride, b_weight_stride,
    scale, N, V, D_a, D_b, SPAN: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # KL(a || b) of what lies in a span. One program: a block of rows and a span. 64
    # bits, as n * stride and v * stride pass 2**31.
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < N
    span = tl.program_id(1).to(tl.int64)
    largest_a = tl.full((BLOCK_N,), -3.4e38, dtype=tl.float32)
    largest_b = tl.full((BLOCK_N,), -3.4e38, dtype=tl.float32)
    total_a = tl.zeros((BLOCK_N,), dtype=tl.float32)
    total_b = tl.zeros((BLOCK_N,), dtype=tl.float32)
    moment = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(span * SPAN, tl.minimum((span + 1) * SPAN, V), BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        a = tile_of_scaled(
            a_hidden_ptr, a_weight_ptr, n, v, in_n, v < V, a_hidden_stride,
            a_weight_stride, scale, D_a, BLOCK_N, BLOCK_V, BLOCK_D,
        )  # fmt: skip
        b = tile_of_scaled(
            b_hidden_ptr, b_weight_ptr, n, v, in_n, v < V, b_hidden_stride,
            b_weight_stride, scale, D_b, BLOCK_N, BLOCK_V, BLOCK_D,
        )  # fmt: skip
        largest_a, total_a, largest_b, total_b, moment = kl_step(
            a, b, largest_a, total_a, largest_b, total_b, moment, 1
        )
    log_a = tl.log(total_a)
    log_b = tl.log(total_b)
    at = span * N + n
    tl.store(kl_ptr + at, moment / total_a - log_a + log_b, mask=in_n)
    tl.store(lse_a_ptr + at, largest_a + log_a, mask=in_n)
    tl.store(lse_b_ptr + at, largest_b + log_b, mask=in_n)


@jit
def linear_lse_kernel(
    hidden_ptr, weight_ptr, lse_ptr, hidden_stride, weight_stride, scale, N, V, D,
    SPAN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The first sweep in between: one model's log-sum-exp over a span.
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < N
    span = tl.program_id(1).to(tl.int64)
    largest = tl.full((BLOCK_N,), -3.4e38, dtype=tl.float32)
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(span * SPAN, tl.minimum((span + 1) * SPAN, V), BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        x = tile_of_scaled(
            hidden_ptr, weight_ptr, n, v, in_n, v < V, hidden_stride, weight_stride,
            scale, D, BLOCK_N, BLOCK_V, BLOCK_D,
        )  # fmt: skip
        largest, total = lse_step(x, largest, total, 1)
    tl.store(lse_ptr + span * N + n, largest + tl.log(total), mask=in_n)


@jit
def linear_jsd_forward_kernel(
    student_hidden_ptr, student_weight_ptr, teacher_hidden_ptr, teacher_weight_ptr,
    lse_student_ptr, lse_teacher_ptr, of_student_ptr, of_teacher_ptr,
    student_hidden_stride, student_weight_stride, teacher_hidden_stride,
    teacher_weight_stride, scale, beta, N, V, D, E, SPAN: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # The second sweep: a span's part of KL(q || M) and of KL(p || M).
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < N
    span = tl.program_id(1).to(tl.int64)
    lse_student = tl.load(lse_student_ptr + n, mask=in_n, other=0.0)
    lse_teacher = tl.load(lse_teacher_ptr + n, mask=in_n, other=0.0)
    of_student = tl.zeros((BLOCK_N,), dtype=tl.float32)
    of_teacher = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(span * SPAN, tl.minimum((span + 1) * SPAN, V), BLOCK_V):
        v = start + tl.arange(0, BLOCK_V)
        x = tile_of_scaled(
            student_hidden_ptr, student_weight_ptr, n, v, in_n, v < V,
            student_hidden_stride, student_weight_stride, scale, D,
            BLOCK_N, BLOCK_V, BLOCK_D,
        )  # fmt: skip
        y = tile_of_scaled(
            teacher_hidden_ptr, teacher_weight_ptr, n, v, in_n, v < V,
            teacher_hidden_stride, teacher_weight_stride, scale, E,
            BLOCK_N, BLOCK_V, BLOCK_D,
        )  # fmt: skip
        log_q = x - lse_student[:, None]
        log_p = y - lse_teacher[:, None]
        log_M = log_mixture(log_q, log_p, beta)
        of_student += tl.sum(kl_terms(log_q, log_M), axis=1)
        of_teacher += tl.sum(kl_terms(log_p, log_M), axis=1)
    tl.store(of_student_ptr + span * N + n, of_student, mask=in_n)
    tl.store(of_teacher_ptr + span * N + n, of_teacher, mask=in_n)


@jit
def linear_divergence_backward_kernel(
    student_hidden_ptr, student_weight_ptr, teacher_hidden_ptr, teacher_weight_ptr,
    mask_ptr, lse_student_ptr, lse_teacher_ptr, inner_ptr, arriving_ptr, dlogits_ptr,
    student_hidden_stride, student_weight_stride, teacher_hidden_stride,
    teacher_weight_stride, scale, beta, first, N, V, D, E, KIND: tl.constexpr,
    SPAN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)  # within the span
    v = first + column.to(tl.int64)
    in_n, in_v = n < N, v < V
    x = tile_of_scaled(
        student_hidden_ptr, student_weight_ptr, n, v, in_n, in_v, student_hidden_stride,
        student_weight_stride, scale, D, BLOCK_N, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    y = tile_of_scaled(
        teacher_hidden_ptr, teacher_weight_ptr, n, v, in_n, in_v, teacher_hidden_stride,
        teacher_weight_stride, scale, E, BLOCK_N, BLOCK_V, BLOCK_D,
    )  # fmt: skip
    counts = tl.load(mask_ptr + n, mask=in_n, other=0) != 0
    lse_student = tl.load(lse_student_ptr + n, mask=in_n, other=0.0)
    lse_teacher = tl.load(lse_teacher_ptr + n, mask=in_n, other=0.0)
    inner = tl.load(inner_ptr + n, mask=in_n, other=0.0)
    arriving = tl.load(arriving_ptr + n, mask=in_n, other=0.0)
    dx = divergence_gradient(
        x - lse_student[:, None], y - lse_teacher[:, None], inner[:, None],
        arriving[:, None], beta, KIND,
    )  # fmt: skip
    dx = tl.where(counts[:, None], dx, 0.0)  # a row that does not count has none
    at = dlogits_ptr + n[:, None] * SPAN + column[None, :]
    tl.store(at, dx * scale, mask=in_n[:, None] & in_v[None, :])


def pair_launch(dtype: torch.dtype) -> dict[str, Any]:
    """Blocks of the products: half as high as those of `linear_logprob.py`.

    Two tiles of logits are in registers at once. In float32, which is multiplied
    without tensor cores, they take twice as many warps, so that nothing spills.
    """
    if dtype == torch.float32:
        blocks = {"BLOCK_N": 32, "BLOCK_V": 64, "BLOCK_D": 16}
        return {"SPAN": SPAN, **blocks, "num_warps": 8, "num_stages": 3}
    blocks = {"BLOCK_N": 64, "BLOCK_V": 128, "BLOCK_D": 32}
    return {"SPAN": SPAN, **blocks, "num_warps": 8, "num_stages": 3}


Layer = tuple[Tensor, Tensor]
"""A model's hidden states and its output matrix, rows of both side by side."""


def launch_kl(a: Layer, b: Layer, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """KL(a || b), lse_a and lse_b, one number for each of the N rows."""
    (N, D_a), (V, D_b) = a[0].shape, b[1].shape
    launch, S = pair_launch(a[0].dtype), cdiv(V, SPAN)
    kl_SN = torch.empty((S, N), dtype=torch.float32, device=a[0].device)
    lse_a_SN, lse_b_SN = torch.empty_like(kl_SN), torch.empty_like(kl_SN)
    if N:  # a GPU refuses a grid of no programs
        linear_kl_forward_kernel[(cdiv(N, launch["BLOCK_N"]), S)](
            *a,
            *b,
            kl_SN,
            lse_a_SN,
            lse_b_SN,
            a[0].stride(0),
            a[1].stride(0),
            b[0].stride(0),
            b[1].stride(0),
            scale,
            N,
            V,
            D_a,
            D_b,
            **launch,
        )
    lse_a, lse_b = lse_a_SN.logsumexp(0), lse_b_SN.logsumexp(0)
    log_A_SN, log_B_SN = lse_a_SN - lse_a, lse_b_SN - lse_b
    kl = (log_A_SN.exp() * (kl_SN + log_A_SN - log_B_SN)).sum(0)
    return kl, lse_a, lse_b


def launch_lse(layer: Layer, scale: float) -> Tensor:
    """The log-sum-exp of each of the N rows of logits."""
    hidden, weight = layer
    (N, D), V = hidden.shape, len(weight)
    launch, S = pair_launch(hidden.dtype), cdiv(V, SPAN)
    lse_SN = torch.empty((S, N), dtype=torch.float32, device=hidden.device)
    if N:
        linear_lse_kernel[(cdiv(N, launch["BLOCK_N"]), S)](
            hidden,
            weight,
            lse_SN,
            hidden.stride(0),
            weight.stride(0),
            scale,
            N,
            V,
            D,
            **launch,
        )
    return lse_SN.logsumexp(0)


def launch_jsd(
    student: Layer, teacher: Layer, beta: float, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL(p || M), KL(q || M), lse_student and lse_teacher of each of the N rows."""
    (N, D), (V, E) = student[0].shape, teacher[1].shape
    launch, S = pair_launch(student[0].dtype), cdiv(V, SPAN)
    lse_student, lse_teacher = launch_lse(student, scale), launch_lse(teacher, scale)
    of_student_SN = torch.empty((S, N), dtype=torch.float32, device=student[0].device)
    of_teacher_SN = torch.empty_like(of_student_SN)
    if N:
        linear_jsd_forward_kernel[(cdiv(N, launch["BLOCK_N"]), S)](
            *student,
            *teacher,
            lse_student,
            lse_teacher,
            of_student_SN,
            of_teacher_SN,
            student[0].stride(0),
            student[1].stride(0),
            teacher[0].stride(0),
            teacher[1].stride(0),
            scale,
            beta,
            N,
            V,
            D,
            E,
            **launch,
        )
    return of_teacher_SN.sum(0), of_student_SN.sum(0), lse_student, lse_teacher


def launch_forward(
    student: Layer, teacher: Layer, beta: float, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The divergence, lse_student, lse_teacher and inner of each of the N rows."""
    kind = kind_of(beta)
    if kind == "forward":
        divergence, lse_teacher, lse_student = launch_kl(teacher, student, scale)
        inner = divergence
    elif kind == "reverse":
        divergence, lse_student, lse_teacher = launch_kl(student, teacher, scale)
        inner = divergence
    else:
        of_teacher, inner, lse_student, lse_teacher = launch_jsd(
            student, teacher, beta, scale
        )
        divergence = beta * of_teacher + (1 - beta) * inner
    return divergence, lse_student, lse_teacher, inner


def launch_backward(
    student: Layer,
    teacher: Layer,
    rows: tuple[Tensor, ...],
    beta: float,
    scale: float,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """dhidden_ND and dweight_VD of the student, as far as they are wanted.

    Args:
        rows: counts, lse_student, lse_teacher, inner and what arrives, contiguous, one
            number for each row.
    """
    hidden_ND, weight_VD = student
    (N, D), (V, E) = hidden_ND.shape, teacher[1].shape
    launch = pair_launch(hidden_ND.dtype)

    def gradient_of_logits(grid: Grid, dlogits: Tensor, first: int) -> None:
        linear_divergence_backward_kernel[grid](
            *student,
            *teacher,
            *rows,
            dlogits,
            hidden_ND.stride(0),
            weight_VD.stride(0),
            teacher[0].stride(0),
            teacher[1].stride(0),
            scale,
            beta,
            first,
            N,
            V,
            D,
            E,
            KIND=kind_of(beta),
            **launch,
        )

    return gradients_by_span(hidden_ND, weight_VD, launch, gradient_of_logits, wanted)


class _LinearDivergence(torch.autograd.Function):
    """Ties the kernels together for autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        student_weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        mask: Tensor | None,
        beta: float,
        scale: float,
    ) -> Tensor:
        student = as_rows(student_hidden), side_by_side(student_weight)
        teacher = as_rows(teacher_hidden), side_by_side(teacher_weight)
        leading = (*student_hidden.shape[:-1],)
        counts = counted(mask, leading, student_hidden)
        divergence, *rows = launch_forward(student, teacher, beta, scale)
        ctx.save_for_backward(*student, *teacher, counts, *rows)
        ctx.beta, ctx.scale, ctx.shape = beta, scale, student_hidden.shape
        # A new tensor, too: what is saved is not what is returned.
        return divergence.view(leading).where(counts != 0, 0.0)

    @staticmethod
    def backward(ctx: Any, arriving: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("linear_divergence")
        hidden_ND, weight_VD, *teacher, counts, lse_s, lse_t, inner = ctx.saved_tensors
        rows = (counts, lse_s, lse_t, inner, arriving.contiguous())
        dhidden_ND, dweight_VD = launch_backward(
            (hidden_ND, weight_VD),
            (teacher[0], teacher[1]),
            rows,
            ctx.beta,
            ctx.scale,
            ctx.needs_input_grad[:2],
        )
        dhidden = None if dhidden_ND is None else dhidden_ND.view(ctx.shape)
        return dhidden, dweight_VD, *[None] * 5


def linear_divergence(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    mask: Tensor | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
    interpret: bool | None = None,
) -> Tensor:
    """Each token's divergence, from both models' hidden states and output matrices.

    Args:
        student_hidden: (..., D) with D >= 1; float32, float16 or bfloat16. Rows whose
            numbers do not lie side by side are copied.
        student_weight: (V, D) with V >= 1, student_hidden's dtype and device, rows
            likewise, and so for the teacher's.
        teacher_hidden: (..., E) with E >= 1, for the same tokens; no gradient.
        teacher_weight: (V, E), for the same vocabulary; no gradient.
        mask: (...), bool, on the same device: True where a token counts. None: all do.
            Elsewhere, too, hidden states are finite: dw has 0 times them.
        beta: 0 for KL(teacher || student), 1 for KL(student || teacher), in between for
            the generalised Jensen-Shannon divergence with beta the teacher's weight.
        temperature: above 0: both logits are divided by it. The result is not
            multiplied by its square.
        interpret: True runs the kernels interpreted on a CPU (slow).

    Returns:
        (...), float32; 0 where the mask is False. The kernels differentiate it once, by
        student_hidden and student_weight.

    Raises:
        KernelInputError: an argument is not as above.
        ValueError: interpret=True where kernels are not interpreted.
    """
    _check_layers(student_hidden, student_weight, teacher_hidden, teacher_weight)
    check_mask("linear_divergence", mask, student_hidden, "student_hidden")
    check_beta("linear_divergence", beta)
    check_temperature("linear_divergence", temperature)
    if route(student_hidden, interpret) == "reference":
        return linear_divergence_reference(
            student_hidden,
            student_weight,
            teacher_hidden,
            teacher_weight,
            mask,
            beta,
            temperature,
        )
    with torch.cuda.device_of(student_hidden):  # Triton launches on the current GPU
        return _LinearDivergence.apply(
            student_hidden,
            student_weight,
            teacher_hidden,
            teacher_weight,
            mask,
            float(beta),
            1 / temperature,
        )


def _check_layers(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
) -> None:
    operation = "linear_divergence"
    for name, hidden, width in (
        ("student_hidden", student_hidden, "D"),
        ("teacher_hidden", teacher_hidden, "E"),
    ):
        check_kernel_tensor(operation, hidden, name)
        if hidden.ndim == 0 or hidden.shape[-1] < 1:
            raise KernelInputError(
                f"{operation}: {name} must have shape (..., {width}) with at least one "
                f"number a row; got {tuple(hidden.shape)}."
            )
    check_kernel_tensor(operation, student_weight, "student_weight")
    if student_weight.ndim != 2 or len(student_weight) < 1:
        raise KernelInputError(
            f"{operation}: student_weight must have shape (V, D) with at least one "
            f"entry; got {tuple(student_weight.shape)}."
        )
    *leading, D = student_hidden.shape
    V, E, dtype = len(student_weight), teacher_hidden.shape[-1], student_hidden.dtype
    check_beside(
        operation, student_hidden, "student_weight", student_weight, (V, D), "(V, D)",
        dtype, "student_hidden",
    )  # fmt: skip
    check_beside(
        operation, student_hidden, "teacher_hidden", teacher_hidden, (*leading, E),
        "(..., E)", dtype, "student_hidden",
    )  # fmt: skip
    # Its V is the student's: one vocabulary for both.
    check_beside(
        operation, student_weight, "teacher_weight", teacher_weight, (V, E), "(V, E)",
        dtype, "student_weight",
    )  # fmt: skip


def linear_divergence_cost(
    N: int, V: int, D: int, E: int, dtype: torch.dtype, beta: float = 0.0
) -> Cost:
    """The forward: every input read once, the logits made once, four numbers a row
    written. In between the ends our kernels make the logits twice."""
    rows = token_divergence_cost(N, V, dtype, beta)
    moved = (N + V) * (D + E) * dtype.itemsize + 17 * N
    return Cost(bytes=moved, flops=2 * N * V * (D + E) + rows.flops)


def linear_divergence_backward_cost(
    N: int, V: int, D: int, E: int, dtype: torch.dtype, beta: float = 0.0
) -> Cost:
    """The backward: inputs read once, both gradients written, the logits made again."""
    rows = token_divergence_backward_cost(N, V, dtype, beta)
    moved = (N + V) * (2 * D + E) * dtype.itemsize + 17 * N
    return Cost(bytes=moved, flops=N * V * (6 * D + 2 * E) + rows.flops)


SPECS = [
    spec
    for dtype in KERNEL_DTYPES
    for spec in (
        launch_spec(
            linear_kl_forward_kernel, dtype, pair_launch(dtype), f"span={SPAN}",
            a_hidden_ptr="*", a_weight_ptr="*", b_hidden_ptr="*", b_weight_ptr="*",
            kl_ptr="*fp32", lse_a_ptr="*fp32", lse_b_ptr="*fp32", a_hidden_stride="i32",
            a_weight_stride="i32", b_hidden_stride="i32", b_weight_stride="i32",
            scale="fp32", N="i32", V="i32", D_a="i32", D_b="i32",
        ),
        launch_spec(
            linear_lse_kernel, dtype, pair_launch(dtype), f"span={SPAN}",
            hidden_ptr="*", weight_ptr="*", lse_ptr="*fp32", hidden_stride="i32",
            weight_stride="i32", scale="fp32", N="i32", V="i32", D="i32",
        ),
        launch_spec(
            linear_jsd_forward_kernel, dtype, pair_launch(dtype), f"span={SPAN}",
            student_hidden_ptr="*", student_weight_ptr="*", teacher_hidden_ptr="*",
            teacher_weight_ptr="*", lse_student_ptr="*fp32", lse_teacher_ptr="*fp32",
            of_student_ptr="*fp32", of_teacher_ptr="*fp32", student_hidden_stride="i32",
            student_weight_stride="i32", teacher_hidden_stride="i32",
            teacher_weight_stride="i32", scale="fp32", beta="fp32", N="i32", V="i32",
            D="i32", E="i32",
        ),
        *(
            launch_spec(
                linear_divergence_backward_kernel, dtype,
                {"KIND": kind, **pair_launch(dtype)}, f"span={SPAN} {kind}",
                student_hidden_ptr="*", student_weight_ptr="*", teacher_hidden_ptr="*",
                teacher_weight_ptr="*", mask_ptr="*i8", lse_student_ptr="*fp32",
                lse_teacher_ptr="*fp32", inner_ptr="*fp32", arriving_ptr="*fp32",
                dlogits_ptr="*", student_hidden_stride="i32",
                student_weight_stride="i32", teacher_hidden_stride="i32",
                teacher_weight_stride="i32", scale="fp32", beta="fp32", first="i32",
                N="i32", V="i32", D="i32", E="i32",
            )
            for kind in get_args(Kind)
        ),
    )
]  # fmt: skip
"""Every configuration that `linear_divergence` launches at BENCHMARK_SHAPES."""

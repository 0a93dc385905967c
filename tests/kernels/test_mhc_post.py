"""Post, mix and merge pass every kernel's tests, and those that only they have."""

import pytest
import torch

from kernels import mhc_post as module
from kernels.mhc_post import mhc_post, mhc_post_backward_cost, mhc_post_cost
from kernels.mhc_pre import mhc_pre
from kernels.operation import Cost
from tests.kernels.harness import DEVICE, INTERPRET, BadCall, needs_a_kernel
from tests.kernels.harness_mixed import MixedKernelTests, MixedOperation
from tests.kernels.stream_cases import STREAMS, normal


def inputs(shape, generator):
    """x, f, post and an asymmetric res."""
    M, n, C = shape
    shapes = [shape, (M, C), (n, M), (n, n, M)]
    return [normal(*each, generator=generator) for each in shapes]


X, F, POST, RES = (
    torch.zeros(shape) for shape in [(2, 4, 3), (2, 3), (4, 2), (4, 4, 2)]
)

POST_APPLY = MixedOperation(
    module=module,
    function=mhc_post,
    reference=module.mhc_post_reference,
    inputs=inputs,
    **STREAMS,
    coefficients=[2, 3],
    bad_calls=[
        BadCall(
            lambda: mhc_post(None, F, POST, RES),  # type: ignore[arg-type]
            "mhc_post: x must be a torch.Tensor; got NoneType.",
        ),
        BadCall(
            lambda: mhc_post(X.long(), F, POST, RES),
            "mhc_post: x must be float32, float16 or bfloat16; got int64 "
            "(mhc_post_reference takes float64 too).",
        ),
        BadCall(
            lambda: mhc_post(X[:, :0], F, POST[:0], RES[:0, :0]),
            "mhc_post: x must have 1 to 8 streams, its second axis; got 0 in shape "
            "(2, 0, 3).",
        ),
        BadCall(
            lambda: mhc_post(X, [0.0], POST, RES),  # type: ignore[arg-type]
            "mhc_post: f must be a torch.Tensor; got list.",
        ),
        BadCall(
            lambda: mhc_post(X, X, POST, RES),
            "mhc_post: f must have shape (M, C) = (2, 3) for x of shape (2, 4, 3); "
            "got (2, 4, 3).",
        ),
        BadCall(
            lambda: mhc_post(X.half(), F, POST, RES),
            "mhc_post: f must be float16; got float32.",
        ),
        BadCall(
            lambda: mhc_post(X, F, POST[:3], RES),
            "mhc_post: post must have shape (n, M) = (4, 2) for x of shape (2, 4, 3); "
            "got (3, 2).",
        ),
        BadCall(
            lambda: mhc_post(X, F, POST, RES.permute(2, 0, 1)),
            "mhc_post: res must have shape (n, n, M) = (4, 4, 2) for x of shape "
            "(2, 4, 3); got (2, 4, 4).",
        ),
        BadCall(
            lambda: mhc_post(X, F, POST, RES.half()),
            "mhc_post: res must be float32; got float16.",
        ),
        BadCall(
            lambda: mhc_post(X, F, POST.to("meta"), RES),
            "mhc_post: post must be on x's device, cpu; got meta.",
        ),
    ],
)


class TestPost(MixedKernelTests):
    operation = POST_APPLY


def equations_1_to_4(x, f, post, res):
    """x_{l+1} = H^res x_l + (H^post)^T F, token by token, as matrices of float64.

    Written from Eq. 1-4 of arXiv 2512.24880: x_l is (n, C), H^post (1, n), F (1, C).
    """
    rows = []
    for m in range(x.shape[0]):
        H_res, H_post = res[:, :, m], post[:, m][None, :]
        rows.append(H_res @ x[m] + H_post.T @ f[m][None, :])
    return torch.stack(rows)


def random_inputs(n):
    generator = torch.Generator().manual_seed(2)
    return [v.float().to(DEVICE) for v in inputs((6, n, 37), generator)]


@needs_a_kernel
@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_the_kernel_computes_the_papers_equation(n):
    values = random_inputs(n)
    y = mhc_post(*values, interpret=INTERPRET)
    wanted = equations_1_to_4(*(v.double() for v in values))
    torch.testing.assert_close(y.double(), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        module.mhc_post_reference(*(v.double() for v in values)), wanted
    )


@needs_a_kernel
def test_a_forgotten_transpose_shows():
    """DeepSeek's comb is (H^res)^T. Doubly stochastic too, so only values tell."""
    x, f, post, res = random_inputs(4)
    comb = res.transpose(0, 1)
    y = mhc_post(x, f, post, comb, interpret=INTERPRET)
    wanted = equations_1_to_4(*(v.double() for v in (x, f, post, res)))
    assert (y - wanted).abs().median() > 0.3
    comb_first = torch.einsum("jkm,mjc->mkc", comb, x)  # sums over its first index
    written = post.T[:, :, None] * f[:, None, :]
    torch.testing.assert_close(
        mhc_post(x, f, post, comb.transpose(0, 1), interpret=INTERPRET),
        comb_first + written,
        rtol=1e-5,
        atol=1e-5,
    )


@needs_a_kernel
def test_a_permutation_moves_whole_streams_and_their_gradients():
    """Row i of res names the stream that comes out at i: exact, both ways."""
    x = torch.arange(2 * 3 * 5, dtype=torch.float32, device=DEVICE).view(2, 3, 5)
    x.requires_grad_()
    order = [2, 0, 1]
    res = torch.eye(3, device=DEVICE)[order][:, :, None].expand(3, 3, 2)
    zero_f, zero_post = x.new_zeros(2, 5), x.new_zeros(3, 2)
    y = mhc_post(x, zero_f, zero_post, res, interpret=INTERPRET)
    assert torch.equal(y, x[:, order])
    (dx,) = torch.autograd.grad(y, x, x.detach()[:, order])
    assert torch.equal(dx, x)


@needs_a_kernel
def test_equal_streams_and_row_sums_of_one_give_the_plain_residual():
    """x + f in every stream, whatever H^res is, if post is 1."""
    g = torch.Generator().manual_seed(3)
    h, f = (torch.randn(5, 40, generator=g).to(DEVICE) for _ in range(2))
    res = torch.rand(4, 4, 5, generator=g).to(DEVICE)
    res = res / res.sum(1, keepdim=True)
    x = h[:, None].expand(5, 4, 40)
    ones = torch.ones(4, 5, device=DEVICE)
    y = mhc_post(x, f, ones, res, interpret=INTERPRET)
    torch.testing.assert_close(y, (h + f)[:, None].expand(5, 4, 40))
    torch.testing.assert_close(
        mhc_pre(y, ones / 4, interpret=INTERPRET), h + f, rtol=1e-5, atol=1e-5
    )


@needs_a_kernel
def test_slices_of_one_stack_of_coefficients_are_read_where_they_lie(monkeypatch):
    """As a stack of n + n + n n rows of M is cut: no copy, and the same answer."""
    copies = []
    x, f, post, res = random_inputs(4)
    stack = torch.cat([post, post, res.flatten(0, 1)])
    cut_post, cut_res = stack[4:8], stack[8:].view(4, 4, 6)
    wanted = mhc_post(x, f, post, res, interpret=INTERPRET)
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(
        torch.Tensor, "contiguous", lambda t: copies.append(t.shape) or contiguous(t)
    )
    assert torch.equal(mhc_post(x, f, cut_post, cut_res, interpret=INTERPRET), wanted)
    assert not copies


def test_the_costs_by_hand():
    """x, y (2, 3, 5): 30 elements each; f 10; post 6 and res 18 of 4 bytes."""
    forward = Cost(2 * (30 + 10 + 30) + 4 * 24, flops=2 * 3 * 7 * 5)
    assert mhc_post_cost(2, 3, 5, torch.float16) == forward
    backward = Cost(4 * (30 + 30 + 10 + 30 + 10) + 8 * 24, flops=4 * 2 * 3 * 4 * 5)
    assert mhc_post_backward_cost(2, 3, 5, torch.float32) == backward


@pytest.mark.parametrize("C", [1280, 7168])
def test_four_streams_in_bfloat16_move_18_and_28_bytes_an_element(C):
    assert mhc_post_cost(1, 4, C, torch.bfloat16).bytes == 18 * C + 80
    assert mhc_post_backward_cost(1, 4, C, torch.bfloat16).bytes == 28 * C + 160

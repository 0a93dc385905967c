"""The GPT: right against a plain one, exchangeable in its parts."""

import math
from typing import ClassVar

import pytest
import torch
from torch import nn

from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig, Residual, RotaryEmbedding, norm_from, sample
from tests.labsupport.plain_gpt import PlainGPT

SMALL = GPTConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=4, max_len=16)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens(B=2, T=16, V=50):
    return torch.randint(0, V, (B, T))


def rms_norm(x_BTD, weight_D, eps):
    """As a reader writes it."""
    return x_BTD / (x_BTD.square().mean(-1, keepdim=True) + eps).sqrt() * weight_D


def test_same_logits_and_gradients_as_the_plain_model():
    gpt, plain = GPT(SMALL).double(), PlainGPT(SMALL).double()
    plain.copy_from(gpt)
    x, y = tokens(), tokens()
    torch.testing.assert_close(gpt(x), plain(x), rtol=1e-6, atol=1e-7)
    gpt.loss(x, y).backward()
    logits = plain(x)
    nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
    plain_qkv = [getattr(plain.blocks[0].attention, name).weight.grad for name in "qkv"]
    torch.testing.assert_close(
        gpt.blocks[0].attention.qkv.weight.grad,
        torch.cat(plain_qkv),
        rtol=1e-6,
        atol=1e-9,
    )


def test_no_token_sees_a_later_one():
    gpt = GPT(SMALL)
    x = tokens()
    changed = x.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 50
    before, after = gpt(x), gpt(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_rope_turns_by_position_and_scores_depend_on_distance():
    rope = RotaryEmbedding(d_head=2, max_len=8, base=10_000.0)
    x = torch.tensor([1.0, 0.0]).expand(1, 8, 1, 2)
    turned = rope(x)[0, :, 0]
    # One pair at speed 1: position t is the angle t, in radians.
    expected = torch.stack([torch.arange(8.0).cos(), torch.arange(8.0).sin()], dim=-1)
    torch.testing.assert_close(turned, expected)

    rope = RotaryEmbedding(d_head=8, max_len=16, base=100.0)
    q, k = (rope(torch.randn(8).expand(1, 16, 1, 8))[0, :, 0] for _ in range(2))
    scores = q @ k.T
    torch.testing.assert_close(scores[3, 1], scores[12, 10], rtol=1e-4, atol=1e-4)
    assert not torch.isclose(scores[3, 1], scores[3, 2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_still_turns_positions(dtype):
    # Complex tables would lose their imaginary part here, and with it the order.
    gpt = GPT(SMALL)
    x = tokens()
    with torch.no_grad():
        full, half = gpt(x), gpt.to(dtype)(x).float()
    assert (full - half).abs().max() < 0.1 * full.abs().max()
    assert gpt.blocks[0].attention.rope.turn_TR2[1, 0, 1] > 0.8  # sin(1)


def test_untrained_loss_is_that_of_guessing():
    gpt = GPT(GPTConfig(max_len=64))
    loss = gpt.loss(tokens(4, 64, 256), tokens(4, 64, 256))
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)


def test_stream_does_not_grow_with_depth_at_the_start():
    def spread(n_layers):
        config = GPTConfig(d_model=64, n_layers=n_layers, n_heads=4, max_len=32)
        gpt, seen = GPT(config), []
        gpt.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].std()))
        gpt(tokens(4, 32, 256))
        return seen[0].item()

    assert spread(16) < 1.2 * spread(2)


def test_a_function_replaces_the_norm():
    gpt = GPT(SMALL)
    theirs = GPT(SMALL, norm=norm_from(rms_norm))
    theirs.load_state_dict(gpt.state_dict())
    x = tokens()
    torch.testing.assert_close(theirs(x), gpt(x))
    theirs.loss(x, x).backward()
    assert theirs.norm.weight.grad is not None


class TwoStreams(Residual):
    """A hyper-connection in small: two copies; a branch reads and writes one."""

    made: ClassVar[list[int]] = []

    def __init__(self, config, branch):
        super().__init__(config, branch)
        TwoStreams.made.append(branch)
        self.lane = branch % 2

    def expand(self, x_BTD):
        return torch.stack([x_BTD, x_BTD], dim=2)

    def forward(self, stream_BTND, branch):
        lanes = list(stream_BTND.unbind(2))
        lanes[self.lane] = lanes[self.lane] + branch(lanes[self.lane])
        return torch.stack(lanes, dim=2)

    def collapse(self, stream_BTND):
        return stream_BTND.sum(2)


class Mixture(nn.Module):
    """Two experts, and a value left on the module for the loss."""

    def __init__(self, config, linear):
        super().__init__()
        self.experts = nn.ModuleList(
            linear(config.d_model, config.d_model, bias=False) for _ in range(2)
        )

    def forward(self, x_BTD):
        self.load = x_BTD.mean()
        return sum(expert(x_BTD) for expert in self.experts)


class Marked(nn.Linear):
    """Stands for an FP8 linear."""


def test_residual_ffn_and_linear_can_be_replaced():
    TwoStreams.made.clear()
    gpt = GPT(SMALL, residual=TwoStreams, ffn=Mixture, linear=Marked)
    x = tokens()
    loss = gpt.loss(x, x) + sum(block.ffn.load for block in gpt.blocks)
    loss.backward()
    assert TwoStreams.made == [0, 1, 2, 3]
    # Per block: qkv, out, two experts. Embedding and head stay as they are.
    assert sum(isinstance(m, Marked) for m in gpt.modules()) == 8
    assert not isinstance(gpt.head, Marked)
    assert all(p.grad is not None for p in gpt.parameters())


def test_tied_embeddings_are_one_parameter():
    tied = GPT(GPTConfig(vocab_size=50, d_model=32, n_heads=4, n_layers=2, tied=True))
    assert tied.head.weight is tied.embedding.weight
    assert GPT(SMALL).parameter_count() - tied.parameter_count() == 50 * 32
    x = tokens()
    assert tied.loss(x, x).item() == pytest.approx(math.log(50), abs=0.3)


def test_parameter_count_by_hand():
    d, f = 32, SMALL.ffn_width
    assert f == 96  # 8/3 * 32 = 85.3; the nearest multiple of 32
    block = 4 * d * d + 3 * d * f + 2 * d
    assert GPT(SMALL).parameter_count() == 2 * 50 * d + 2 * block + d


def test_targets_of_minus_100_do_not_count():
    gpt = GPT(SMALL)
    x, y = tokens(1), tokens(1)
    half = y.clone()
    half[:, 8:] = -100
    torch.testing.assert_close(gpt.loss(x, half), gpt.loss(x[:, :8], y[:, :8]))


def test_generate_continues_past_max_len():
    gpt = GPT(SMALL)
    prompt = tokens(2, 5)
    out = gpt.generate(prompt, 30, temperature=0)
    assert out.shape == (2, 35)
    assert torch.equal(out[:, :5], prompt)
    # The last token is the likeliest one after the 16 before it.
    expected = gpt(out[:, 34 - 16 : 34])[:, -1].argmax(-1)
    assert torch.equal(out[:, 34], expected)
    assert gpt.training


def test_generate_repeats_with_the_same_generator():
    gpt = GPT(SMALL)
    draws = [
        gpt.generate(tokens(1, 3) * 0, 20, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_sampling_keeps_to_top_k_and_temperature():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(4000, 4)
    assert set(sample(logits, top_k=2).flatten().tolist()) == {2, 3}
    shares = torch.bincount(sample(logits, temperature=2.0).flatten()) / 4000
    expected = torch.softmax(torch.arange(4.0) / 2, dim=0)
    torch.testing.assert_close(shares, expected, atol=0.04, rtol=0)
    assert sample(logits, temperature=0).unique().tolist() == [3]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"n_layers": 0}, "n_layers=0"),
        ({"d_model": 30, "n_heads": 4}, "multiple of 2 * n_heads = 8"),
    ],
)
def test_impossible_sizes_are_named(sizes, words):
    with pytest.raises(LabError) as error:
        GPTConfig(**sizes)
    assert words in str(error.value)


def test_too_long_a_sequence_is_named():
    with pytest.raises(LabError, match="17 tokens is longer than max_len=16"):
        GPT(SMALL)(tokens(1, 17))

"""ParScale: P streams through one model, and the plain GPT where there is one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig, ParScale, aggregate_streams, stream_weights
from labsupport.nn.parscale import PrefixAttention

SMALL = GPTConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=2, max_len=12)
B, T = 3, 10


def made(cls=ParScale, *arguments, **named):
    torch.manual_seed(0)
    return cls(SMALL, *arguments, **named)


def spread_out(model):
    """The model with prefixes as large as a trained one's: its streams differ."""
    with torch.no_grad():
        for layer in model.prefix_attentions():
            layer.prefix_2PHMK.mul_(30)
    return model


def tokens(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 50, (B, T), generator=generator)


# --- weights and sum -----------------------------------------------------------


def test_weights_by_hand():
    logits = torch.tensor([[[2.0, 0.0, 0.0, 0.0]]]) * torch.tensor(3.0).log() / 2
    # softmax of (ln 3, 0, 0, 0) is (1/2, 1/6, 1/6, 1/6).
    w = stream_weights(logits, 0.2)[0, 0]
    torch.testing.assert_close(w, torch.tensor([0.45, 0.55 / 3, 0.55 / 3, 0.55 / 3]))
    assert stream_weights(logits, 1.0).unique().tolist() == [0.25]


def test_half_precision_scores_get_weights_that_sum_to_one():
    logits = torch.randn(2, 3, 8).half() * 4
    w = stream_weights(logits)
    assert w.dtype == torch.float32
    torch.testing.assert_close(w.sum(-1), torch.ones(2, 3))
    x = torch.randn(8, 2, 3, 4).half()
    assert aggregate_streams(x, logits).dtype == torch.float16


def test_the_sum_is_over_streams_with_the_weights_of_the_token():
    x_PBTD, logits_BTP = torch.randn(4, 2, 3, 5), torch.randn(2, 3, 4)
    w_BTP = stream_weights(logits_BTP, 0.1)
    wanted = torch.stack(
        [
            torch.stack([w_BTP[b, t] @ x_PBTD[:, b, t] for t in range(3)])
            for b in range(2)
        ]
    )
    torch.testing.assert_close(aggregate_streams(x_PBTD, logits_BTP, 0.1), wanted)


# --- the model -----------------------------------------------------------------


def test_one_stream_without_a_prefix_is_the_plain_gpt():
    gpt, one = made(GPT), made(ParScale, 1, prefix=0)
    x, y = tokens(), tokens(2)
    assert torch.equal(gpt(x), one(x))
    gpt.loss(x, y).backward()
    one.loss(x, y).backward()
    theirs = dict(one.named_parameters())
    for name, p in gpt.named_parameters():
        assert torch.equal(p.grad, theirs[name].grad), name
    assert one.extra_parameters() == 0


@pytest.mark.parametrize("P", [2, 3])
def test_streams_without_prefixes_are_one_stream(P):
    """P times the work, and nothing gained: what the streams say is the same."""
    gpt, several = made(GPT), made(ParScale, P, prefix=0)
    torch.testing.assert_close(several(tokens()), gpt(tokens()))


def test_shared_weights_do_not_depend_on_the_number_of_streams():
    one, four = made(ParScale, 1), made(ParScale, 4)
    theirs = dict(four.named_parameters())
    for name, p in one.named_parameters():
        if "prefix" not in name:
            assert torch.equal(p, theirs[name]), name


def test_shapes_and_counts():
    model = made(ParScale, 4, prefix=5)
    assert model(tokens()).shape == (B, T, 50)
    assert model.run_streams(model.embedding(tokens())).shape == (4, B, T, 16)
    prefixes = 2 * (2 * 4 * 2 * 5 * 8)  # layers, then keys and values, P, H, M, K
    aggregator = 4 * 16 * 16 + 16 + 16 * 4 + 4
    assert model.extra_parameters() == prefixes + aggregator
    plain = made(GPT).parameter_count()
    assert model.parameter_count() == plain + prefixes + aggregator


def test_a_stream_is_the_gpt_behind_its_prefix():
    """Written out for one stream and one text: prefix keys first, seen by all."""
    model = spread_out(made(ParScale, 3, prefix=4)).double()
    x = tokens()
    theirs = model.run_streams(model.embedding(x))
    for p in range(3):
        stream = model.embedding(x)
        for block in model.blocks:
            layer = block.attention
            q, k, v = layer.heads(block.attention_norm(stream))
            keys, values = (
                torch.cat([layer.prefix_2PHMK[i, p].expand(B, -1, -1, -1), own], dim=2)
                for i, own in enumerate((k, v))
            )
            scores = q @ keys.transpose(-1, -2) / layer.d_head**0.5
            hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
            scores[..., 4:].masked_fill_(hidden, float("-inf"))
            mixed = scores.softmax(-1) @ values
            stream = stream + layer.out(mixed.transpose(1, 2).flatten(-2))
            stream = stream + block.feed_forward(stream)
        torch.testing.assert_close(model.norm(stream), theirs[p])


def test_streams_differ():
    """A little from the start, and more with larger prefixes."""
    gaps = []
    for model in (made(ParScale, 2), spread_out(made(ParScale, 2))):
        x_PBTD = model.run_streams(model.embedding(tokens()))
        gaps.append((x_PBTD[0] - x_PBTD[1]).abs().max().item())
    assert 1e-4 < gaps[0] < 0.1 * gaps[1]


def test_no_token_sees_a_later_one():
    model = made(ParScale, 4)
    x = tokens()
    changed = x.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 50
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_texts_of_a_batch_do_not_mix():
    model = made(ParScale, 3)
    x = tokens()
    alone = torch.cat([model(row[None]) for row in x])
    torch.testing.assert_close(model(x), alone)


def test_streams_may_be_renamed():
    """With their prefixes and their columns and rows of the aggregator."""
    model, other = (spread_out(made(ParScale, 4)) for _ in range(2))
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for layer in other.prefix_attentions():
            layer.prefix_2PHMK.copy_(layer.prefix_2PHMK[:, order])
        read, score = other.aggregator.read, other.aggregator.score
        by_stream = read.weight.view(16, 4, 16)
        read.weight.copy_(by_stream[:, order].flatten(1))
        score.weight.copy_(score.weight[order])
        score.bias.copy_(score.bias[order])
    torch.testing.assert_close(other(tokens()), model(tokens()))
    # And it does matter which prefix belongs to which columns.
    with torch.no_grad():
        read.weight.copy_(model.aggregator.read.weight)
    assert not torch.allclose(other(tokens()), model(tokens()), atol=1e-5)


def test_gradients_reach_every_part():
    model = made(ParScale, 4)
    model.loss(tokens(), tokens(2)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name
    for layer in model.prefix_attentions():
        of_stream = layer.prefix_2PHMK.grad.abs().amax(dim=(2, 3, 4))
        assert (of_stream > 0).all()


def test_gradients_against_finite_differences():
    x_PBTD = torch.randn(3, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    logits_BTP = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(aggregate_streams, (x_PBTD, logits_BTP))


def test_a_lab_may_put_its_own_aggregation_in():
    def mean(x_PBTD, logits_BTP, eps):
        assert logits_BTP.shape == (B, T, 3) and eps == 0.3
        return x_PBTD.mean(0)

    theirs = made(ParScale, 3, aggregate=mean, eps=0.3)
    even = made(ParScale, 3, eps=1.0)
    torch.testing.assert_close(theirs(tokens()), even(tokens()))


def test_half_precision_and_generation():
    model = made(ParScale, 2)
    x = tokens()
    with torch.no_grad():
        full, half = model(x), made(ParScale, 2).to(torch.bfloat16)(x).float()
    assert (full - half).abs().max() < 0.1 * full.abs().max() + 0.05
    longer = model.generate(x[:, :4], 3, temperature=0)
    assert longer.shape == (B, 7) and torch.equal(longer[:, :4], x[:, :4])
    assert torch.equal(longer[:, 4], model(x[:, :4])[:, -1].argmax(-1))


def test_some_streams_only():
    model = spread_out(made(ParScale, 4))
    embedded = model.embedding(tokens())
    every = model.run_streams(embedded)
    model.compute_only(slice(1, 3))
    torch.testing.assert_close(model.run_streams(embedded), every[1:3])


def test_keys_are_turned_from_where_they_stand():
    """What decoding with a cache needs: a token on its own, at its position."""
    layer = PrefixAttention(SMALL, streams=1, prefix=0)
    x_BTD = torch.randn(2, 5, 16)
    together = layer.heads(x_BTD)
    alone = layer.heads(x_BTD[:, 3:4], start=3)
    for one, all_of_them in zip(alone, together, strict=True):
        torch.testing.assert_close(one, all_of_them[:, :, 3:4])


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"streams": 0}, "streams=0: use at least 1"),
        ({"prefix": -1}, "prefix=-1: use 0"),
        ({"eps": 1.5}, "eps=1.5: use a number from 0 to 1"),
    ],
)
def test_bad_input_gets_a_sentence(named, sentence):
    with pytest.raises(LabError, match=sentence):
        ParScale(SMALL, **named)


def test_too_long_a_text():
    with pytest.raises(LabError, match="longer than max_len=12"):
        made(ParScale, 2)(torch.zeros(1, 13, dtype=torch.long))


def test_it_learns_better_than_guessing():
    model = made(ParScale, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = tokens()
    y = (x + 1) % 50
    for _ in range(30):
        optimizer.zero_grad()
        loss = model.loss(x, y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * F.cross_entropy(torch.zeros(1, 50), y[0, :1]).item()

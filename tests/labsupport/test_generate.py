"""The sampler: what it writes is what the model says, whatever the batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labsupport.errors import LabError
from labsupport.generate import Decoder, generate, row_seeds, uniforms
from labsupport.generate.choose import choose
from labsupport.nn import GPT, GPTConfig, HyperConnection, ParScale

V, EOS, PAD = 12, 10, 11
CONFIG = GPTConfig(vocab_size=V, d_model=32, n_layers=2, n_heads=4, max_len=24)


def new_model(seed=0, spread=6.0, **parts):
    """A model whose next token is neither certain nor arbitrary."""
    torch.manual_seed(seed)
    model = GPT(CONFIG, **parts)
    with torch.no_grad():
        model.head.weight.mul_(spread)
    return model


def prompts(P=3, T=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 9, (P, T), generator=generator)


def write(model, prompts_PT, **options):
    defaults = {"longest": 12, "eos": EOS, "pad": PAD}
    return generate(model, prompts_PT, **{**defaults, **options})


def uncached_logprobs(model, prompts_PT, found, group, temperature=1.0):
    """Of the written tokens, from one forward over everything."""
    read = torch.cat([prompts_PT.repeat_interleave(group, 0), found.tokens_RN], dim=1)
    with torch.no_grad():
        logp = F.log_softmax(model(read[:, :-1]) / temperature, dim=-1)
    T = prompts_PT.shape[1]
    chosen = logp[:, T - 1 :].gather(-1, found.tokens_RN[..., None])[..., 0]
    return chosen.masked_fill(~found.mask_RN, 0.0)


@pytest.mark.parametrize("parts", [{}, {"residual": HyperConnection}])
def test_cached_logits_equal_those_of_a_whole_forward(parts):
    model = new_model(**parts)
    tokens = torch.randint(0, V, (5, 20))
    whole = model(tokens)
    decoder = Decoder(model, 5, 20)
    torch.testing.assert_close(
        decoder.read(tokens[:, :7]), whole[:, 6], rtol=1e-5, atol=1e-5
    )
    for t in range(7, 20):
        logits = decoder.read(tokens[:, t : t + 1])
        torch.testing.assert_close(logits, whole[:, t], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_logprobs_are_those_of_the_whole_forward(temperature):
    model = new_model()
    found = write(model, prompts(), group=16, temperature=temperature)
    assert len(set(found.lengths_R.tolist())) > 4  # rows were left out at many steps
    expected = uncached_logprobs(model, prompts(), found, 16, temperature)
    torch.testing.assert_close(found.logprobs_RN, expected, rtol=1e-5, atol=1e-5)


def test_greedy_takes_the_likeliest_token_of_a_whole_forward():
    model = new_model()
    found = write(model, prompts(P=20), temperature=0)
    read = prompts(P=20)
    for _ in range(12):
        likeliest = model(read)[:, -1].argmax(-1)
        read = torch.cat([read, likeliest[:, None]], dim=1)
    expected = read[:, 5:].masked_fill(~found.mask_RN, PAD)
    assert torch.equal(found.tokens_RN, expected)
    expected = uncached_logprobs(model, prompts(P=20), found, 1)
    torch.testing.assert_close(found.logprobs_RN, expected, rtol=1e-5, atol=1e-5)


def test_rows_end_at_eos_and_are_filled_up_behind():
    found = write(new_model(), prompts(), group=40)
    assert found.ended_R.any()
    assert not found.ended_R.all()
    for row, length, ended in zip(
        found.tokens_RN.tolist(), found.lengths_R, found.ended_R, strict=True
    ):
        assert EOS not in row[: length - 1]
        assert set(row[length:]) <= {PAD}
        assert ended == (row[length - 1] == EOS)
        assert ended or length == 12
    assert [len(row) for row in found.rows()] == found.lengths_R.tolist()
    assert (found.logprobs_RN[~found.mask_RN] == 0).all()
    assert (found.logprobs_RN[found.mask_RN] < 0).all()


@pytest.fixture
def counted():
    """A model to which all tokens are alike, and how many rows each reading had."""
    model, rows = new_model(), []
    forward = model.head.forward
    model.head.forward = lambda x: rows.append(len(x)) or forward(x)
    with torch.no_grad():
        model.norm.weight.zero_()
    return model, rows


def test_no_text_is_read_twice_and_rows_that_ended_no_more(counted):
    model, rows = counted
    found = write(model, prompts(), group=64)
    assert rows[0] == 3  # each prompt once, not once a completion
    for t, read in enumerate(rows[1:], start=1):
        on_R = found.lengths_R > t
        place_R = torch.arange(192) // 64
        texts_RN = torch.cat([place_R[:, None], found.tokens_RN[:, :t]], dim=1)
        different = len(torch.unique(texts_RN[on_R], dim=0))
        # Never more than a third of what goes on is carried along for nothing.
        assert read * 0.75 < different <= read
    assert rows[1] <= 3 * V < 192  # in the beginning many texts are equal
    assert rows[-1] < 0.7 * max(rows)  # in the end many have ended


def test_rows_that_agree_are_read_once(counted):
    model, rows = counted
    # Of equals, the first counts as the likeliest: all rows write 0.
    found = write(model, prompts(), group=64, temperature=0)
    assert (found.tokens_RN == 0).all()
    assert rows == [3] * 12


def test_it_stops_when_all_rows_have_ended(counted):
    model, rows = counted
    # Of equals, the first counts as the likeliest: here it is EOS.
    found = write(model, prompts(), temperature=0, eos=0)
    assert rows == [3]
    assert found.lengths_R.tolist() == [1, 1, 1]


def test_draws_follow_the_models_probabilities():
    logits = torch.randn(1, V, generator=torch.Generator().manual_seed(1)) * 2
    count = 40_000
    u = uniforms(row_seeds(0, 0, count), 1)[:, 0]
    for temperature in (0.5, 1.0, 2.0):
        token, logprob = choose(logits.expand(count, V), u, temperature)
        share = torch.bincount(token, minlength=V) / count
        p = F.softmax(logits[0] / temperature, dim=0)
        error = (p * (1 - p) / count).sqrt()
        assert ((share - p).abs() <= 4.5 * error + 1e-6).all()
        torch.testing.assert_close(logprob, p[token].log(), rtol=1e-4, atol=1e-5)


def test_a_forbidden_token_is_never_chosen():
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf"), 1.0, float("-inf")]])
    edge = torch.tensor([0.0, 0.5, 1 - 2**-23])
    token, logprob = choose(logits.expand(3, 5), edge, 1.0)
    assert token.tolist() == [1, 3, 3]
    torch.testing.assert_close(logprob.exp(), torch.full((3,), 0.5))


def test_uniforms_are_even_and_rows_unrelated():
    u = uniforms(row_seeds(3, 5, 2000), 50)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(u.var() - 1 / 12) < 0.001
    for shift in ((1, 0), (0, 1), (1, 1)):
        other = u.roll(shift, dims=(0, 1))
        assert abs(
            torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1]
        ) < (0.015)
    assert not torch.equal(uniforms(row_seeds(3, 6, 2), 5), u[:2, :5])


def test_first_output_of_splitmix64():
    # The published sequence of seed 0 (java.util.SplittableRandom and Vigna's C code).
    first = 0xE220A8397B1DCDAF
    u = uniforms(np.zeros(1, np.uint64), 1)
    assert u.item() == (first >> 41) / 2**23


def test_a_rows_tokens_do_not_depend_on_its_batch():
    model, P, G = new_model(), 6, 8
    seeds = row_seeds(7, 0, P * G)
    whole = write(model, prompts(P), group=G, seeds=seeds)
    by_row = seeds.reshape(P, G)
    # Two processes that share out prompts, and two that share out completions.
    for rank in range(2):
        mine = slice(3 * rank, 3 * rank + 3)
        part = write(model, prompts(P)[mine], group=G, seeds=by_row[mine])
        rows = whole.tokens_RN.view(P, G, 12)[mine].flatten(0, 1)
        assert torch.equal(part.tokens_RN, rows)

        part = write(model, prompts(P), group=4, seeds=by_row[:, rank::2])
        rows = whole.tokens_RN.view(P, G, 12)[:, rank::2].flatten(0, 1)
        assert torch.equal(part.tokens_RN, rows)
    assert not torch.equal(write(model, prompts(P), group=G).tokens_RN, whole.tokens_RN)


def test_training_mode_and_gradients_are_left_as_they_were():
    model = new_model().train()
    found = write(model, prompts())
    assert model.training
    assert not found.logprobs_RN.requires_grad


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompts_PT": prompts(T=13)}, "25 tokens.* do not fit.*max_len=24"),
        ({"prompts_PT": prompts(T=0)}, "at least one token"),
        ({"prompts_PT": prompts(P=0)}, "at least one token of one prompt"),
        ({"longest": 0}, "longest=0; use at least 1"),
        ({"group": 0}, "group=0; use at least 1"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"seeds": row_seeds(0, 0, 2)}, "2 seeds for 3 prompts with 1 completions"),
    ],
)
def test_bad_input_is_one_sentence(options, words):
    options = {"prompts_PT": prompts(), **options}
    with pytest.raises(LabError, match=words):
        write(new_model(), **options)


def test_other_attention_and_nan_weights_are_named():
    model = ParScale(CONFIG, streams=2)
    with pytest.raises(LabError, match="attention is PrefixAttention"):
        write(model, prompts())
    model = new_model()
    with torch.no_grad():
        model.head.weight[3, 0] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(LabError, match="scores are NaN"):
            write(model, prompts(), temperature=temperature)


def test_the_decoder_refuses_what_it_has_no_room_for():
    decoder, token = Decoder(new_model(), 1, 4), torch.zeros(1, 1, dtype=torch.long)
    decoder.read(token.expand(1, 2))
    with pytest.raises(LabError, match="2 tokens; after the first call, one each"):
        decoder.read(token.expand(1, 2))
    decoder.read(token)
    decoder.read(token)
    with pytest.raises(LabError, match=r"room for 4 tokens a row, and 4 \+ 1 are"):
        decoder.read(token)
    with pytest.raises(LabError, match=r"25 tokens.* max_len=24"):
        Decoder(new_model(), 1, 25)

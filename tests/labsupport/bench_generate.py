"""Tokens a second of `labsupport.generate`, beside those of transformers' `generate`.

    python -m tests.labsupport.bench_generate [PAIRS]

The same weights in both: a GPT of the labs' shape that was trained on the shell game's
hasty corpus, and a `LlamaForCausalLM` into which they were copied. The greedy
completions of both are compared first, and have to be equal. After RL the model is
surer, so more of a prompt's completions are equal, and `labsupport` reads less.

Both then sample from the same prompts at temperature 1, several completions each, in
turns, so that both suffer from the same neighbours on the machine. Tokens are counted
up to EOS. Ours also returns log-probs, theirs does not. In "never ends" no token is
EOS, so that no row can be left out. A ratio of 10 means that `labsupport` writes ten
times as many tokens a second.

Needs transformers, which is no dependency of the course: install it into an environment
of its own.
"""

from __future__ import annotations

# transformers imports triton, and `kernels` wants to come first.
import kernels  # noqa: F401

# isort: split

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, __version__
from transformers.utils import logging

from labsupport.generate import generate
from labsupport.nn import GPT, GPTConfig
from labsupport.rl import train_rl
from labsupport.settings import choose_settings, seed_everything
from labsupport.tasks.shell_game import ShellGame, hasty
from labsupport.train import train

GAME = ShellGame(cups=5, swaps=12)
SHAPES = {
    "1 layer, d=64": (1, 64, 0),
    "1 layer, d=64, after RL": (1, 64, 60),
    "4 layers, d=128": (4, 128, 0),
}
"""Layers, width, rollouts of RL."""
BATCHES = ((1, 1), (1, 16), (24, 16), (64, 64), (512, 1))
"""Prompts, and completions of each."""
NOBODY = -1
"""An EOS that no token is."""

Write = Callable[[Tensor, int, int], int]
"""(prompts_PT, group, eos) -> tokens written"""


def trained(layers: int, width: int, rollouts: int) -> GPT:
    """A model that writes as the hasty corpus does, and may have gone on with RL."""
    seed_everything(0)
    config = GPTConfig(
        vocab_size=len(GAME.vocabulary),
        d_model=width,
        n_layers=layers,
        n_heads=4,
        max_len=GAME.max_len,
    )
    batches = partial(GAME.batch, hasty(), batch_size=64, seed=0)
    settings = choose_settings("ci")
    model, common = GPT(config), {"settings": settings, "live": False}
    steps = 500 if layers == 1 else 150
    train(model, batches, steps=steps, lr=3e-3, **common)
    if rollouts:
        train_rl(model, GAME, steps=rollouts, lr=1e-3, **common)
    return model.eval()


def as_llama(model: GPT) -> LlamaForCausalLM:
    """The same function of tokens, in transformers' words."""
    config = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            max_position_embeddings=config.max_len,
            rms_norm_eps=config.eps,
            rope_theta=config.rope_base,
            bos_token_id=None,
            eos_token_id=GAME.eos,
            pad_token_id=GAME.pad,
        )
    ).eval()
    names = {
        "model.embed_tokens": model.embedding,
        "model.norm": model.norm,
        "lm_head": model.head,
    }
    weights = {f"{name}.weight": part.weight for name, part in names.items()}
    for i, block in enumerate(model.blocks):
        q, k, v = block.attention.qkv.weight.chunk(3)
        parts = {
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.ffn_norm.weight,
            "self_attn.q_proj": halves(q, config.d_head),
            "self_attn.k_proj": halves(k, config.d_head),
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.attention.out.weight,
            "mlp.gate_proj": block.ffn.gate.weight,
            "mlp.up_proj": block.ffn.up.weight,
            "mlp.down_proj": block.ffn.down.weight,
        }
        for name, weight in parts.items():
            weights[f"model.layers.{i}.{name}.weight"] = weight
    theirs.load_state_dict(weights)
    return theirs


def halves(weight: Tensor, d_head: int) -> Tensor:
    """RoPE turns neighbours here, and first half with second half there."""
    return weight.unflatten(0, (-1, d_head // 2, 2)).transpose(1, 2).flatten(0, 2)


def with_ours(model: GPT, prompts_PT: Tensor, group: int, eos: int) -> int:
    found = generate(
        model,
        prompts_PT,
        longest=GAME.longest,
        eos=eos,
        pad=GAME.pad,
        group=group,
        seeds=int(torch.randint(1 << 30, ())),
    )
    return int(found.lengths_R.sum())


def with_theirs(
    model: LlamaForCausalLM, prompts_PT: Tensor, group: int, eos: int
) -> int:
    whole = model.generate(
        prompts_PT,
        attention_mask=torch.ones_like(prompts_PT),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=group,
        max_new_tokens=GAME.longest,
        eos_token_id=None if eos == NOBODY else eos,
        pad_token_id=GAME.pad,
    )
    written = whole[:, prompts_PT.shape[1] :]
    if eos == NOBODY:
        return written.numel()
    before_end = (written == eos).cumsum(dim=1) == 0
    ended = (written == eos).any(dim=1)
    return int(before_end.sum() + ended.sum())


def require_equal(ours: GPT, theirs: LlamaForCausalLM) -> None:
    """Both write the same when they take the likeliest token.

    Raises:
        AssertionError: they do not, so their speeds say nothing.
    """
    prompts_PT = GAME.prompts(256, seed=1)
    found = generate(
        ours,
        prompts_PT,
        longest=GAME.longest,
        eos=GAME.eos,
        pad=GAME.pad,
        temperature=0,
    )
    whole = theirs.generate(
        prompts_PT,
        attention_mask=torch.ones_like(prompts_PT),
        do_sample=False,
        max_new_tokens=GAME.longest,
    )
    written = whole[:, prompts_PT.shape[1] :]
    N = written.shape[1]
    same = (found.tokens_RN[:, :N] == written).all(dim=1).float().mean().item()
    print(f"greedy completions that are equal: {same:.1%} of 256")
    assert same > 0.99


def speed(write: Write, prompts_PT: Tensor, group: int, eos: int) -> tuple[float, int]:
    """Tokens a second, and tokens."""
    start = time.perf_counter()
    tokens = write(prompts_PT, group, eos)
    return tokens / (time.perf_counter() - start), tokens


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    logging.set_verbosity_error()
    print(f"transformers {__version__}, torch {torch.__version__}, 2 threads")
    print(f"{pairs} pairs in turns; tokens a second, medians; ratio, median [range]")
    for shape, sizes in SHAPES.items():
        ours = trained(*sizes)
        torch.set_num_threads(2)
        theirs = as_llama(ours)
        print(f"\n{shape}: {ours.parameter_count()} weights")
        require_equal(ours, theirs)
        writers = partial(with_ours, ours), partial(with_theirs, theirs)
        for eos, ends in ((GAME.eos, "ends"), (NOBODY, "never ends")):
            for P, G in BATCHES:
                prompts_PT = GAME.prompts(P, seed=2)
                for write in writers:
                    write(prompts_PT, G, eos)
                rows = []
                for i in range(pairs):
                    # Every second pair in the other order: neither always comes first.
                    order = writers if i % 2 == 0 else writers[::-1]
                    found = [speed(write, prompts_PT, G, eos) for write in order]
                    rows.append(found if i % 2 == 0 else found[::-1])
                ratios = [a / b for (a, _), (b, _) in rows]
                a, b = (statistics.median(r[j][0] for r in rows) for j in (0, 1))
                length = statistics.mean(r[0][1] for r in rows) / (P * G)
                print(
                    f"{ends:10} {P:3} x {G:2}  {length:4.1f} tokens each"
                    f"  {a:9.0f} against {b:7.0f}"
                    f"   ratio {statistics.median(ratios):5.1f}"
                    f"  [{min(ratios):.1f}, {max(ratios):.1f}]",
                    flush=True,
                )


if __name__ == "__main__":
    main()

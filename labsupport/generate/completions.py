"""`generate`: several completions of each prompt, written side by side.

What makes it quick, beside the cache:
- A prompt is read once, however many completions it gets.
- A row that has ended is left out: its cache is dropped as soon as a quarter of the
  rows have ended, and when all have, so has the loop.

Shape suffixes: P prompts, T tokens of a prompt, G completions of each, R = P G rows
(the G rows of a prompt are neighbours), N tokens of a completion, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labsupport.errors import LabError
from labsupport.generate.choose import choose
from labsupport.generate.decoder import Decoder
from labsupport.generate.draws import Seeds, row_seeds, uniforms
from labsupport.nn import GPT

LEFT_OUT = 0.25
"""The share of rows that have to have ended before the cache is made smaller: a copy of
what is left costs about as much as a few tokens."""


@dataclass(frozen=True, eq=False)
class Completions:
    """What a model wrote behind its prompts.

    Attributes:
        tokens_RN: int64; `pad` behind the end.
        logprobs_RN: of each token when it was chosen, at the temperature used, float32;
            0 behind the end.
        lengths_R: tokens written, EOS included, int64.
        ended_R: whether EOS came before the room ran out.
    """

    tokens_RN: Tensor
    logprobs_RN: Tensor
    lengths_R: Tensor
    ended_R: Tensor

    @property
    def mask_RN(self) -> Tensor:
        """True where a token was written."""
        N = self.tokens_RN.shape[1]
        place_N = torch.arange(N, device=self.lengths_R.device)
        return place_N < self.lengths_R[:, None]

    def rows(self) -> list[list[int]]:
        """The tokens of each row up to its end."""
        pairs = zip(self.tokens_RN.tolist(), self.lengths_R.tolist(), strict=True)
        return [tokens[:length] for tokens, length in pairs]


@torch.no_grad()
def generate(
    model: GPT,
    prompts_PT: Tensor,
    *,
    longest: int,
    eos: int,
    pad: int,
    group: int = 1,
    temperature: float = 1.0,
    seeds: int | Seeds = 0,
) -> Completions:
    """Complete each prompt several times.

    A row's tokens depend on its prompt and its seed, not on the rows around it. (Sums
    in float32 may round differently in another batch. That changes a token where a draw
    falls on the very border between two, which is rare.)

    Args:
        model: read in eval mode.
        prompts_PT: int64, all of one length.
        longest: N, the most tokens that a completion may have.
        eos: the token that ends a completion; it is part of it.
        pad: fills up behind the end.
        group: G, completions of each prompt.
        temperature: divides the logits; 0 takes the likeliest token, and log-probs are
            then those of temperature 1.
        seeds: one number for the whole batch, or seeds_R.

    Raises:
        LabError: no prompt, an empty one, one that leaves no room for N tokens, numbers
            that are not allowed, or a model whose scores are NaN.
    """
    P, T = prompts_PT.shape
    if not P or not T:
        raise LabError(
            f"prompts of shape ({P}, {T}): at least one token of one prompt."
        )
    for name, value in (("longest", longest), ("group", group)):
        if value < 1:
            raise LabError(f"generate: {name}={value}; use at least 1.")
    if not 0 <= temperature < float("inf"):
        raise LabError(f"temperature={temperature}: use 0 (the likeliest) or more.")
    R = P * group
    seeds_R = row_seeds(seeds, 0, R) if isinstance(seeds, int) else seeds.reshape(-1)
    if len(seeds_R) != R:
        raise LabError(
            f"{len(seeds_R)} seeds for {P} prompts with {group} completions each: "
            f"{R} are needed."
        )
    device = next(model.parameters()).device
    decoder = Decoder(model, P, T + longest)
    was_training = model.training
    model.eval()

    u_NR = uniforms(seeds_R, longest).T.to(device) if temperature else None
    tokens_RN = torch.full((R, longest), pad, device=device)
    logprobs_RN = torch.zeros(R, longest, device=device)

    logits = decoder.read(prompts_PT.to(device)).repeat_interleave(group, dim=0)
    decoder.keep(torch.arange(P, device=device).repeat_interleave(group))
    # Which of the R rows are in the decoder's batch, and which of these go on.
    here = torch.arange(R, device=device)
    goes_on = torch.ones(R, dtype=torch.bool, device=device)
    for t in range(longest):
        u = None if u_NR is None else u_NR[t, here]
        token, logprobs_RN[here, t] = choose(logits, u, temperature or 1.0)
        tokens_RN[here, t] = token
        goes_on = goes_on & (token != eos)
        left = int(goes_on.sum())
        if left == 0 or t + 1 == longest:
            break
        if left <= (1 - LEFT_OUT) * len(here):
            rows = goes_on.nonzero()[:, 0]
            decoder.keep(rows)
            here, token, goes_on = here[rows], token[rows], goes_on[rows]
        logits = decoder.read(token[:, None])
    model.train(was_training)
    if logprobs_RN.isnan().any():
        raise LabError(
            "The model's scores are NaN: its weights are damaged, by a training that "
            "diverged, say."
        )
    return cut(tokens_RN, logprobs_RN, eos, pad)


def cut(tokens_RN: Tensor, logprobs_RN: Tensor, eos: int, pad: int) -> Completions:
    """Remove, in place, what rows wrote behind their end before they were left out."""
    is_end_RN = tokens_RN == eos
    ended_R = is_end_RN.any(dim=1)
    first_R = is_end_RN.int().argmax(dim=1)
    lengths_R = torch.where(ended_R, first_R + 1, tokens_RN.shape[1])
    found = Completions(tokens_RN, logprobs_RN, lengths_R, ended_R)
    tokens_RN[~found.mask_RN] = pad
    logprobs_RN[~found.mask_RN] = 0.0
    return found

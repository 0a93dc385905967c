"""`generate`: several completions of each prompt, written side by side.

What makes it quick, beside the cache: no text is read twice. Rows whose texts are equal
so far share a place in the decoder, until they choose different tokens:

    rows      C AB DE ? C   C AB DE ? C   C AB DE ? E       three completions
    places    C AB DE ? C                 C AB DE ? E       two texts to read

So a prompt is read once, however many completions it gets, and the surer a model is,
the less it has to read. A row that has ended needs no place.

Shape suffixes: P prompts, T tokens of a prompt, G completions of each, R = P G rows
(the G rows of a prompt are neighbours), N tokens of a completion, V vocabulary; r rows
that go on, u different texts among them, U places in the decoder.
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

UNUSED = 0.25
"""The share of places that have to be free before the cache is made smaller: a copy of
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

    # Quicker than no_grad. What is returned was made before: learning has to use it.
    with torch.inference_mode():
        logits_UV = decoder.read(prompts_PT.to(device))
        # The rows that go on, and the place at which each one's text was read.
        row_r = torch.arange(R, device=device)
        place_r = row_r // group
        for t in range(longest):
            u_r = None if u_NR is None else u_NR[t, row_r]
            token_r, logprob_r = choose(logits_UV[place_r], u_r, temperature or 1.0)
            tokens_RN[row_r, t], logprobs_RN[row_r, t] = token_r, logprob_r
            on_r = token_r != eos
            row_r, place_r, token_r = row_r[on_r], place_r[on_r], token_r[on_r]
            if len(row_r) == 0 or t + 1 == longest:
                break
            place_r, token_U = follow(decoder, place_r, token_r)
            logits_UV = decoder.read(token_U[:, None])
    model.train(was_training)
    if logprobs_RN.isnan().any():
        raise LabError(
            "The model's scores are NaN: its weights are damaged, by a training that "
            "diverged, say."
        )
    is_end_RN = tokens_RN == eos
    ended_R = is_end_RN.any(dim=1)
    lengths_R = torch.where(ended_R, is_end_RN.int().argmax(dim=1) + 1, longest)
    return Completions(tokens_RN, logprobs_RN, lengths_R, ended_R)


def follow(decoder: Decoder, place_r: Tensor, token_r: Tensor) -> tuple[Tensor, Tensor]:
    """Give every text that goes on a place of its own.

    Args:
        decoder: with U places; their number may change.
        place_r: where each row's text was read.
        token_r: what each row chose to follow.

    Returns:
        place_r from now on, and token_U to be read at each place.
    """
    U, V = decoder.rows, decoder.model.config.vocab_size
    text_u, which_r = torch.unique(place_r * V + token_r, return_inverse=True)
    place_u, token_u = text_u // V, text_u % V
    # Sorted, so that the same place twice is twice in a row.
    parted = bool((place_u[1:] == place_u[:-1]).any())
    if parted or len(text_u) <= (1 - UNUSED) * U:
        decoder.keep(place_u)
        return which_r, token_u
    # Whatever stands at a free place: nobody looks at what follows it.
    token_U = token_u.new_zeros(U)
    token_U[place_u] = token_u
    return place_u[which_r], token_U

"""Tokens chosen from a vocabulary, some of them ignored, for the tests of kernels."""

import torch

from kernels.chosen_tokens import IGNORED


def chosen(shape, V, generator):
    """Entries of 0 to V - 1 in int64; the second token of every three is ignored."""
    targets = torch.randint(V, shape, generator=generator)
    targets.view(-1)[1::3] = IGNORED
    return targets


def made_positive(reference):
    """The reference for the harness, which makes every input positive to see how large
    terms are: of an ignored token it makes the entry 100."""

    def judged(first, *rest):
        place = 0 if rest[0].dtype == torch.int64 else 1
        V = first.shape[-1] if place == 0 else len(rest[0])
        given = list(rest)
        given[place] = given[place].where(given[place] < V, IGNORED)
        return reference(first, *given)

    return judged

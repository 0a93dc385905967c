"""Two distributions for each token, some tokens masked, for the tests of kernels."""

import torch

BETAS = (0.0, 0.1, 0.5, 1.0)
TEMPERATURES = (0.5, 1.0, 2.0)


def counted(shape):
    """A mask in int8, as the harness knows no bool: the second token of every three
    does not count."""
    counts = torch.ones(shape, dtype=torch.int8)
    counts.view(-1)[1::3] = 0
    return counts


def with_mask(function, **settings):
    """The function for the harness: its last input, in int8, becomes the mask."""

    def call(*given, **rest):
        *tensors, counts = given
        return function(*tensors, counts.view(torch.bool), **settings, **rest)

    return call


def closed_form(s, t, beta, temperature):
    """A row's divergence and its derivative, an entry at a time, in Python's floats."""
    q = (s.double() / temperature).softmax(0).tolist()
    p = (t.double() / temperature).softmax(0).tolist()
    log = torch.tensor([q, p], dtype=torch.float64).log()
    log_q, log_p = log.tolist()
    if beta == 0:
        value = sum(b * (y - x) for b, x, y in zip(p, log_q, log_p, strict=True))
        slope = [a - b for a, b in zip(q, p, strict=True)]
    else:
        mixture = [beta * b + (1 - beta) * a for a, b in zip(q, p, strict=True)]
        log_M = torch.tensor(mixture, dtype=torch.float64).log().tolist()
        r = [x - m for x, m in zip(log_q, log_M, strict=True)]
        inner = sum(a * each for a, each in zip(q, r, strict=True))
        of_p = sum(b * (y - m) for b, y, m in zip(p, log_p, log_M, strict=True))
        weight = 1.0 if beta == 1 else 1 - beta
        value = inner if beta == 1 else beta * of_p + (1 - beta) * inner
        slope = [weight * a * (each - inner) for a, each in zip(q, r, strict=True)]
    return value, [each / temperature for each in slope]

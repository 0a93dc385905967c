"""Lab 05b's exercises: what no list of known mistakes says."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labs.lab_05b import exercises_core as core
from labs.lab_05b import exercises_deep as deep
from labs.lab_05b.published import points
from labs.lab_05b.refit import fit_law
from labsupport.exercise import run_checks

# --- other right answers ----------------------------------------------------------


def test_streams_one_by_one():
    def loop(x_PBTD, logits_BTP, eps):
        P = len(x_PBTD)
        w_BTP = torch.softmax(logits_BTP, dim=-1) * (1 - eps) + eps / P
        y_BTD = torch.zeros_like(x_PBTD[0])
        for p in range(P):
            y_BTD = y_BTD + w_BTP[:, :, p : p + 1] * x_PBTD[p]
        return y_BTD

    def moved(x_PBTD, logits_BTP, eps):
        w_BTP = (1 - eps) * logits_BTP.softmax(2) + eps / len(x_PBTD)
        return (w_BTP.permute(2, 0, 1)[..., None] * x_PBTD).sum(0)

    for answer in (loop, moved):
        assert run_checks(core.AGGREGATE, answer).passed


def test_a_detached_weight_is_seen():
    def detached(x_PBTD, logits_BTP, eps):
        return core.aggregate(x_PBTD, logits_BTP.detach(), eps)

    verdict = run_checks(core.AGGREGATE, detached)
    assert verdict.step == "gradients"
    assert "is something detached" in verdict.message


def test_a_huber_loss_by_hand():
    def by_hand(law_4, N_S, P_S, loss_S, delta):
        E, A, alpha, k = law_4
        expected_S = E + (A / N_S / (1 + k * P_S.log())) ** alpha
        r_S = (loss_S / expected_S).log().abs()
        small_S = r_S.clamp(max=delta)
        return (small_S**2 / 2 + delta * (r_S - small_S)).sum()

    assert run_checks(core.MISFIT, by_hand).passed
    fit = fit_law(list(points("Pile")), by_hand)
    assert fit.k == pytest.approx(0.3344, abs=1e-4)


def test_numbers_without_a_gradient():
    def plain_numbers(law_4, N_S, P_S, loss_S, delta):
        return core.misfit(law_4.detach(), N_S, P_S, loss_S, delta)

    verdict = run_checks(core.MISFIT, plain_numbers)
    assert verdict.step == "a gradient"
    assert "with them the gradient" in verdict.message


def test_numpy_interpolates_as_well():
    def by_numpy(N, P, k, loss, N_S, loss_S):
        nan = float("nan")
        ln_n = np.interp(-loss, -np.array(loss_S), np.log(N_S), nan, nan)
        return N + N * k * math.log(P), math.exp(ln_n)

    assert run_checks(core.EQUAL, by_numpy).passed


def test_a_curve_that_goes_on_where_nothing_was_measured():
    def clamped(N, P, k, loss, N_S, loss_S):
        ln_n = np.interp(-loss, -np.array(loss_S), np.log(N_S))
        return N * (k * math.log(P) + 1), math.exp(ln_n)

    verdict = run_checks(core.EQUAL, clamped)
    assert verdict.step == "beyond the curve"
    assert "nothing was measured there" in verdict.message


def test_a_strict_comparison_misses_measured_sizes():
    def strict(N, P, k, loss, N_S, loss_S):
        found = float("nan")
        for i in range(len(N_S) - 1):
            if loss_S[i] > loss > loss_S[i + 1]:
                share = (loss_S[i] - loss) / (loss_S[i] - loss_S[i + 1])
                found = N_S[i] * (N_S[i + 1] / N_S[i]) ** share
        return N * (k * math.log(P) + 1), found

    verdict = run_checks(core.EQUAL, strict)
    assert verdict.step == "at measured sizes"
    assert "compare with >= and <=" in verdict.message


def test_none_is_not_nan():
    def nothing(N, P, k, loss, N_S, loss_S):
        by_law, by_curve = core.equal_plain(N, P, k, loss, N_S, loss_S)
        return by_law, None if math.isnan(by_curve) else by_curve

    verdict = run_checks(core.EQUAL, nothing)
    assert verdict.step == "beyond the curve"
    assert "NaN for a loss of 3.2" in verdict.message


@pytest.mark.parametrize("came", [3.0, (1.0,), (1.0, 2.0, 3.0), "two"])
def test_one_number_is_not_two(came):
    verdict = run_checks(core.EQUAL, lambda *a: came)
    assert "two numbers" in verdict.message


def test_prefixes_with_a_softmax_written_out():
    def by_hand(q, k, v, prefix_k, prefix_v):
        B, T, M = len(q) // len(prefix_k), q.shape[2], prefix_k.shape[2]
        keys = torch.cat([prefix_k.repeat_interleave(B, 0), k], dim=2)
        values = torch.cat([prefix_v.repeat_interleave(B, 0), v], dim=2)
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        for t in range(T):
            scores[:, :, t, M + t + 1 :] = float("-inf")
        return scores.softmax(-1) @ values

    assert run_checks(deep.ATTEND, by_hand).passed


def test_is_causal_hides_the_wrong_keys():
    """What torch does with more keys than queries: the upper left corner."""

    def by_flag(q, k, v, prefix_k, prefix_v):
        B = len(q) // len(prefix_k)
        keys = torch.cat([prefix_k.repeat_interleave(B, 0), k], dim=2)
        values = torch.cat([prefix_v.repeat_interleave(B, 0), v], dim=2)
        return F.scaled_dot_product_attention(q, keys, values, is_causal=True)

    verdict = run_checks(deep.ATTEND, by_flag)
    assert verdict.wrong == "mask at the first key"


def test_break_even_that_is_negative():
    def blind(small, cache, large, other, P):
        return (large - small) / (P * cache - other)

    verdict = run_checks(deep.BREAK_EVEN, blind)
    assert verdict.state == "failed"
    assert verdict.step == "never"

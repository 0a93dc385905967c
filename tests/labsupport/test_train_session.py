"""Training: exact resume, every way to stop, and what is kept."""

import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.settings import choose_settings
from labsupport.train import (
    Recipe,
    checkpoint_file,
    make_optimizer,
    mean_loss,
    train,
    training_steps,
)
from labsupport.train import checkpoint as checkpoint_module
from labsupport.train.run import COLUMNS

CONFIG = GPTConfig(vocab_size=16, d_model=16, n_layers=1, n_heads=2, max_len=8)


class NoisyGPT(GPT):
    """Uses random numbers of all three kinds, as dropout or sampling would."""

    def forward(self, tokens_BT):
        logits_BTV = F.dropout(super().forward(tokens_BT), 0.1, self.training)
        return logits_BTV + 0.01 * np.random.rand() * torch.randn(())


def batch(step):
    """A sequence that can be learnt: each token is the one before plus one."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(0, 16, (4, 1), generator=generator)
    row = (start + torch.arange(9)) % 16
    return row[:, :-1], row[:, 1:]


def new_model(kind=GPT, seed=0):
    torch.manual_seed(seed)
    return kind(CONFIG)


def go(model, steps=20, batch_fn=batch, **options):
    defaults = {"lr": 1e-2, "live": False, "settings": choose_settings("ci")}
    return train(model, batch_fn, steps=steps, **{**defaults, **options})


def validation(model):
    return mean_loss(model, [batch(10_000 + i) for i in range(2)])


def stopping_at(step, event):
    """Batches; the event is set while step number `step` (from 1) runs."""

    def batches(index):
        if index == step - 1:
            event.set()
        return batch(index)

    return batches


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    return tmp_path


def same_weights(a, b):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_it_learns_and_says_so_in_the_table():
    run = go(new_model(), steps=60, eval_fn=validation, eval_every=25)
    table = run.table()
    assert run.stopped == "finished"
    assert run.steps_done == 60
    assert list(table.columns) == list(COLUMNS)
    assert table.step.tolist() == list(range(1, 61))
    assert table.loss.iloc[0] > 2.5
    assert table.loss.iloc[-1] < 0.5
    checked = table.dropna(subset="validation")
    assert checked.step.tolist() == [25, 50, 60]
    assert run.validation == checked.validation.iloc[-1] == validation(run.model)
    assert table.tokens.tolist() == [32 * n for n in range(1, 61)]
    assert table.seconds.is_monotonic_increasing
    assert not table.seconds.isna().any()


def test_learning_rate_rises_and_falls_as_the_recipe_says():
    run = go(new_model(), steps=40, warmup=0.1, lr=8e-3)
    lr = run.table().lr
    assert lr[:4].tolist() == pytest.approx([2e-3, 4e-3, 6e-3, 8e-3])
    assert lr[4] == pytest.approx(8e-3)
    assert (lr[4:].diff().dropna() < 0).all()
    # Half way down the cosine lies half way between lr and lr / 10.
    assert Recipe(40, 8e-3, warmup=0.1).learning_rate(22) == pytest.approx(4.4e-3)
    assert 0.8e-3 < lr.iloc[-1] < 0.9e-3


def test_the_scheduled_rate_is_the_one_that_moves_the_weights():
    model, recipe = new_model(), Recipe(20, 1e-2, warmup=0.5)
    before = model.norm.weight.detach().clone()
    next(training_steps(model, make_optimizer(model, recipe), batch, recipe))
    # Adam's first update is lr in the direction of each gradient's sign.
    moved = (model.norm.weight - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3), rtol=1e-2, atol=0)


def test_gradients_are_clipped_and_norms_reported_unclipped():
    model = new_model()
    run = go(model, steps=1, clip=1e-3, lr=1e-9)
    assert run.table().grad_norm[0] > 0.1
    length = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    assert length == pytest.approx(1e-3, rel=1e-2)


def test_only_matrices_decay():
    groups = make_optimizer(new_model(), Recipe(1, 1e-3)).param_groups
    decay = {p.dim(): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay == {2: 0.1, 1: 0.0}


@pytest.mark.parametrize("kind", [GPT, NoisyGPT])
def test_stopped_and_resumed_is_bit_for_bit_the_straight_run(kind):
    options = {"eval_fn": validation, "eval_every": 4}
    straight = go(new_model(kind), **options)

    event = threading.Event()
    first = go(
        new_model(kind),
        batch_fn=stopping_at(10, event),
        stop=event,
        checkpoint="a",
        **options,
    )
    assert (first.stopped, first.steps_done, first.saved_step) == ("stopped", 10, 10)

    # As in another process: other weights, other random states.
    fresh = new_model(kind, seed=99)
    torch.rand(7)
    np.random.seed(1)
    second = go(fresh, checkpoint="a", resume=True, **options)
    assert second.stopped == "finished"
    assert same_weights(second.model, straight.model)
    ours = second.table().drop(columns="seconds")
    assert ours.equals(straight.table().drop(columns="seconds"))
    assert second.table().seconds.is_monotonic_increasing


def test_validation_does_not_touch_the_random_numbers_of_training():
    def noisy(model):
        model.eval()
        return torch.rand(3).mean().item() + np.random.rand()

    often = go(new_model(NoisyGPT), eval_fn=noisy, eval_every=1)
    never = go(new_model(NoisyGPT))
    assert same_weights(often.model, never.model)
    assert often.model.training
    # And each one draws the same numbers: two validations are comparable.
    assert often.table().validation.nunique() == 1


def test_seed_and_weights_decide_the_run():
    first, again = go(new_model(NoisyGPT)), go(new_model(NoisyGPT))
    assert same_weights(first.model, again.model)
    other = go(new_model(NoisyGPT), settings=choose_settings("ci", seed=1))
    assert not same_weights(first.model, other.model)


def test_ctrl_c_ends_after_the_step_in_progress_and_resumes():
    def interrupted(index):
        if index == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(index)

    before = signal.getsignal(signal.SIGINT)
    run = go(new_model(), batch_fn=interrupted, checkpoint="a")
    assert signal.getsignal(signal.SIGINT) is before
    assert (run.stopped, run.steps_done, run.saved_step) == ("stopped", 7, 7)
    assert "Stopped after step 7 of 20" in run.sentence
    resumed = go(new_model(seed=5), checkpoint="a", resume=True)
    assert same_weights(resumed.model, go(new_model()).model)


def test_a_second_ctrl_c_interrupts_at_once_and_keeps_the_older_checkpoint():
    def impatient(index):
        if index == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return batch(index)

    run = go(new_model(), batch_fn=impatient, checkpoint="a", eval_every=4)
    assert (run.stopped, run.steps_done, run.saved_step) == ("stopped", 6, 4)
    assert "resume=True goes on from step 4" in run.sentence


def test_training_works_off_the_main_thread():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(go(new_model(), steps=2)))
    thread.start()
    thread.join()
    assert runs[0].stopped == "finished"


class Breaks(GPT):
    """Its loss, or only its gradient, is NaN from the eighth step on."""

    calls = 0
    where = "loss"

    def loss(self, tokens_BT, targets_BT):
        value = super().loss(tokens_BT, targets_BT)
        self.calls += self.training
        if self.calls < 8:
            return value
        if self.where == "loss":
            return value * float("nan")
        # sqrt has an infinite slope at 0; times 0 that is NaN, going backward.
        return value + (value * 0).sqrt() * 0


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_with_a_clear_word_and_finite_weights(where, capsys):
    model = new_model(Breaks)
    model.where = where
    run = go(model, checkpoint="a", eval_every=3)
    assert (run.stopped, run.steps_done, run.saved_step) == ("nan", 7, 6)
    assert all(p.isfinite().all() for p in model.parameters())
    lr = Recipe(20, 1e-2).learning_rate(7)
    for words in (
        "Step 8",
        f"the {where} is no longer a finite number",
        f"last finite loss {run.table().loss.iloc[-1]:.3f}",
        f"learning rate {lr:.2g}",
        "Usual causes",
        "checkpoint holds step 6",
    ):
        assert words in run.sentence
    assert run.sentence in capsys.readouterr().out
    again = go(new_model(seed=3), checkpoint="a", resume=True)
    assert same_weights(again.model, go(new_model()).model)


def test_nan_at_the_very_first_step_is_no_crash():
    run = go(new_model(), loss_fn=lambda model, batch: model.loss(*batch) * math.inf)
    assert (run.stopped, run.steps_done) == ("nan", 0)
    assert run.table().empty
    assert run.figure().data


def test_a_full_disk_is_reported_once_and_training_goes_on(monkeypatch, capsys, home):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module.os, "fsync", full)
    run = go(new_model(), checkpoint="a", eval_every=2)
    assert run.stopped == "finished"
    assert run.saved_step is None
    out = capsys.readouterr().out
    assert out.count("No space left on device") == 1
    assert "Training goes on without it" in out
    assert list((home / "checkpoints").iterdir()) == []
    assert same_weights(run.model, go(new_model()).model)


def test_weights_that_are_no_numbers_never_reach_the_checkpoint():
    def poison(model):
        with torch.no_grad():
            model.head.weight.fill_(float("inf"))
        return {}

    run = go(new_model(), steps=3, measure=poison, checkpoint="a", eval_every=1)
    assert run.stopped == "nan"
    assert run.saved_step is None
    assert not checkpoint_file("a").exists()


def test_resume_without_a_checkpoint_starts_anew():
    run = go(new_model(), checkpoint="a", resume=True)
    assert run.stopped == "finished"
    assert same_weights(run.model, go(new_model()).model)


def test_a_finished_run_resumes_to_itself():
    first = go(new_model(), checkpoint="a", eval_fn=validation)
    again = go(new_model(seed=4), checkpoint="a", resume=True, eval_fn=validation)
    assert again.stopped == "finished"
    assert again.table().equals(first.table())
    assert same_weights(first.model, again.model)


def test_resuming_with_other_numbers_is_named():
    go(new_model(), checkpoint="a")
    with pytest.raises(LabError, match=r"steps=20, lr=0\.01"):
        go(new_model(), steps=30, checkpoint="a", resume=True)
    with pytest.raises(LabError, match="resume=True needs the name"):
        go(new_model(), resume=True)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}])
def test_impossible_settings_are_named(bad):
    with pytest.raises(LabError, match=next(iter(bad))):
        go(new_model(), **bad)


def test_measure_adds_columns():
    run = go(new_model(), steps=3, measure=lambda m: {"spread": m.head.weight.std()})
    assert list(run.table().columns) == [*COLUMNS, "spread"]


class Regression(nn.Module):
    """Not a language model: trained through `loss_fn`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 1))


def test_any_model_trains_with_its_own_loss():
    def loss_fn(model, batch):
        x, y = batch
        return (x @ model.weight - y).square().mean()

    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[1.0], [-1.0]])
    run = go(
        Regression(), 300, lambda _: (x, y), loss_fn=loss_fn, weight_decay=0.0, lr=0.05
    )
    torch.testing.assert_close(run.model.weight.data, y, atol=0.05, rtol=0)

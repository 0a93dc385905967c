"""Checkpoints: whole or not at all, exact, and plain words when they do not fit."""

import errno
import os
import pickle
import random
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from labsupport.errors import LabError
from labsupport.train import checkpoint as module
from labsupport.train.checkpoint import (
    checkpoint_file,
    load_checkpoint,
    save_checkpoint,
)
from labsupport.train.recipe import Recipe, make_optimizer

RECIPE = Recipe(steps=10, lr=1e-2)


def trained(width=8, steps=2):
    """A small model and its optimizer after a few steps."""
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
    optimizer = make_optimizer(model, RECIPE)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def save(file, model, optimizer, step=2):
    return save_checkpoint(
        file, model=model, optimizer=optimizer, recipe=RECIPE, step=step
    )


def draw():
    """One number of each generator."""
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_everything_comes_back(tmp_path):
    file = tmp_path / "a.pt"
    model, optimizer = trained()
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("nan")}]
    save_checkpoint(
        file, model=model, optimizer=optimizer, recipe=RECIPE, step=2, metrics=rows
    )
    expected = draw()

    other, its_optimizer = trained(steps=1)
    draw()
    loaded = load_checkpoint(file, model=other, optimizer=its_optimizer)
    assert draw() == expected
    assert loaded.step == 2
    assert loaded.recipe == RECIPE
    assert loaded.metrics[0] == rows[0]
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, its_optimizer.state[b][key])


def test_without_an_optimizer_only_the_weights_are_loaded(tmp_path):
    file = save(tmp_path / "a.pt", *trained())
    model, _ = trained()
    torch.manual_seed(5)
    expected = draw()[0]
    torch.manual_seed(5)
    load_checkpoint(file, model=model)
    assert draw()[0] == expected


def test_names_live_in_my_labs(tmp_path, monkeypatch):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    file = save("lab00", *trained())
    assert file == tmp_path / "checkpoints" / "lab00.pt"
    assert file.is_file()
    for bad in ("", "../up", "a/b", ".hidden"):
        with pytest.raises(LabError, match="plain name"):
            checkpoint_file(bad)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(LabError, match=r"There is no checkpoint .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt", model=nn.Linear(1, 1))


def damaged_files(whole, model):
    middle = len(whole) // 2
    flipped = bytearray(whole)
    # One bit of a weight: the structure of the file stays in order.
    flipped[whole.index(model[0].weight.detach().numpy().tobytes())] ^= 1
    return {
        "empty": b"",
        "cut": whole[:middle],
        "cut by one byte": whole[:-1],
        "flipped": bytes(flipped),
        "text": b"not a checkpoint",
        "pickle": pickle.dumps({"format": 1}),
    }


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "cut by one byte", "flipped", "text", "pickle"]
)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(tmp_path, damage):
    saved, its_optimizer = trained()
    file = save(tmp_path / "a.pt", saved, its_optimizer)
    file.write_bytes(damaged_files(file.read_bytes(), saved)[damage])
    model, optimizer = trained()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(LabError, match=r"a\.pt is damaged or no checkpoint"):
        load_checkpoint(file, model=model, optimizer=optimizer)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)


def test_loading_runs_no_code_from_the_file(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "a.pt"
    torch.save({"format": 1, "model": Trap()}, file)
    with pytest.raises(LabError, match="damaged"):
        load_checkpoint(file, model=nn.Linear(1, 1))
    assert not (tmp_path / "ran").exists()


def test_another_model_is_named_with_both_shapes(tmp_path):
    file = save(tmp_path / "a.pt", *trained(width=8))
    model, optimizer = trained(width=6)
    expected = r"0\.weight is \(8, 4\) in the checkpoint and \(6, 4\) in the model"
    with pytest.raises(LabError, match=expected):
        load_checkpoint(file, model=model, optimizer=optimizer)
    deeper = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Linear(1, 1))
    with pytest.raises(LabError, match=r"3\.weight is missing in the checkpoint"):
        load_checkpoint(file, model=deeper)


def test_another_optimizer_is_named_and_changes_nothing(tmp_path):
    file = save(tmp_path / "a.pt", *trained())
    model, _ = trained()
    before = model[0].weight.clone()
    other = torch.optim.AdamW(model.parameters())
    with pytest.raises(LabError, match="another optimizer"):
        load_checkpoint(file, model=model, optimizer=other)
    assert torch.equal(model[0].weight, before)


def refuse_write(monkeypatch, code):
    def fsync(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module.os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, code):
    model, optimizer = trained()
    file = save(tmp_path / "a.pt", model, optimizer)
    before = file.read_bytes()
    refuse_write(monkeypatch, code)
    with pytest.raises(LabError, match=os.strerror(code)):
        save(file, model, optimizer, step=3)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_process_that_dies_while_writing_leaves_the_old_checkpoint(tmp_path):
    file = save(tmp_path / "a.pt", *trained())
    before = file.read_bytes()

    class Killed(BaseException):
        pass

    def dies(_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.os, "fsync", dies)
        with pytest.raises(Killed):
            save(file, *trained(), step=3)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="Cannot write the checkpoint"):
        save(tmp_path / "file" / "a.pt", *trained())


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full_leaves_the_old_checkpoint(tiny_disk):
    model, optimizer = trained()
    file = save(tiny_disk / "a.pt", model, optimizer)
    before = file.read_bytes()
    wide, its_optimizer = trained(width=4000)
    with pytest.raises(LabError, match="No space left on device"):
        save(file, wide, its_optimizer)
    assert file.read_bytes() == before
    assert list(tiny_disk.iterdir()) == [file]
    load_checkpoint(file, model=model, optimizer=optimizer)


def test_a_disk_that_is_really_read_only_is_one_sentence(tiny_disk):
    model, optimizer = trained()
    file = save(tiny_disk / "a.pt", model, optimizer)
    remount = ["mount", "-o", "remount,ro", str(tiny_disk)]
    if subprocess.run(remount, capture_output=True).returncode:
        pytest.skip("remounting read-only is not permitted")
    with pytest.raises(LabError, match="Read-only file system"):
        save(file, model, optimizer, step=3)
    assert load_checkpoint(file, model=model).step == 2

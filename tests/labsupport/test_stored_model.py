"""A model in one file: it comes back as it was, and bad files get one sentence."""

from __future__ import annotations

import hashlib

import pytest
import torch

from labsupport.errors import LabError
from labsupport.nn import GPT, GPTConfig
from labsupport.train import stored_model
from labsupport.train.stored_model import load_model, model_file, store_model

CONFIG = GPTConfig(vocab_size=7, d_model=16, n_layers=1, n_heads=2, max_len=9)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(CONFIG)


def test_it_comes_back_as_it_was(model, tmp_path):
    file = tmp_path / "models" / "mine.safetensors"
    store_model(file, model, {"game": "shell game"})
    found = load_model(file)
    assert found.about == {"game": "shell game"}
    assert found.model.config == CONFIG
    tokens = torch.tensor([[0, 3, 6]])
    assert torch.equal(found.model(tokens), model(tokens))
    assert not found.model.training
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_an_older_one_survives_a_full_disk(model, tmp_path, monkeypatch):
    file = tmp_path / "mine.safetensors"
    store_model(file, model, {})
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_model, "replace_file", full)
    with pytest.raises(LabError, match="No space left on device"):
        store_model(file, model, {"new": "yes"})
    assert file.read_bytes() == before


def test_a_reader_s_model_lies_in_my_labs(monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    assert model_file("cups") == tmp_path.resolve() / "models" / "cups.safetensors"


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x80\x04K\x01."])
def test_a_damaged_file(content, tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_bytes(content)
    with pytest.raises(LabError, match=r"mine\.safetensors is damaged"):
        load_model(file)


def test_a_file_of_other_tensors(tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "mine.safetensors"
    save_file({"x": torch.ones(2)}, file)
    with pytest.raises(LabError, match="none that this course wrote"):
        load_model(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(LabError, match="There is no model"):
        load_model(tmp_path / "mine.safetensors")


def test_a_shipped_file_is_held_against_its_checksum(model, tmp_path, monkeypatch):
    file = tmp_path / "teacher.safetensors"
    store_model(file, model, {})
    sums = tmp_path / "SHA256SUMS"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    sums.write_text(f"{digest}  {file.name}\n")
    monkeypatch.setattr(stored_model, "SHIPPED", tmp_path)
    monkeypatch.setattr(stored_model, "CHECKSUMS", sums)
    assert load_model(file).about == {}
    store_model(file, model, {"changed": "yes"})
    with pytest.raises(LabError, match="was changed"):
        load_model(file)
    sums.unlink()
    with pytest.raises(LabError, match="lost its SHA256SUMS"):
        load_model(file)

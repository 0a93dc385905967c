"""The corpus: the same bytes for everyone, batches that depend on the step only."""

import hashlib
import platform
import subprocess
import sys

import pytest
import torch

from labsupport.errors import LabError
from labsupport.tasks import corpus as corpus_module
from labsupport.tasks import make_corpus
from labsupport.tasks.corpus import SHIPPED, SMALLEST, Corpus, decode, encode


@pytest.fixture(scope="module")
def shipped():
    return Corpus.load()


@pytest.fixture
def counting(tmp_path):
    """A corpus in which every position can be told from its neighbours."""
    file = tmp_path / "my.txt"
    file.write_text("".join(f"{n:05d}\n" for n in range(2000)))
    return Corpus.load(file)


def test_shipped_corpus_is_python_in_one_piece(shipped):
    assert 1_500_000 < len(shipped.tokens) < 2_500_000
    assert shipped.tokens.dtype == torch.uint8
    text = decode(shipped.tokens)
    assert text.encode() == SHIPPED.read_bytes()
    assert text.startswith("# ======== _collections_abc ========\n")
    assert "# ======== zipfile ========" in decode(shipped.validation)


def test_checksum_file_is_in_the_format_of_sha256sum():
    digest, name = corpus_module.CHECKSUMS.read_text().split()
    assert name == SHIPPED.name
    assert digest == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()


def test_splits_cover_the_text_without_overlap(shipped):
    joined = torch.cat([shipped.train, shipped.validation])
    assert torch.equal(joined, shipped.tokens)
    assert len(shipped.validation) == len(shipped.tokens) // 10


def test_targets_are_the_tokens_that_follow(counting):
    x, y = counting.batch("train", 3, batch_size=4, length=12, seed=0)
    assert x.shape == y.shape == (4, 12)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    for row in range(4):
        window = decode(torch.cat([x[row], y[row, -1:]]))
        assert window in decode(counting.train)


def test_a_batch_depends_on_seed_and_step_alone(counting):
    def batch(step, seed):
        return counting.batch("train", step, batch_size=4, length=9, seed=seed)[0]

    first = batch(5, 0)
    torch.manual_seed(123)
    batch(1, 7)
    assert torch.equal(batch(5, 0), first)
    assert not torch.equal(batch(6, 0), first)
    assert not torch.equal(batch(5, 1), first)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_one_global_batch(counting, world):
    options = {"batch_size": 8, "length": 9, "seed": 3}
    whole = counting.batch("train", 2, **options)
    shares = [
        counting.batch("train", 2, **options, rank=rank, world=world)
        for rank in range(world)
    ]
    for part in range(2):
        assert torch.equal(torch.cat([share[part] for share in shares]), whole[part])


def test_validation_batches_are_fixed_and_spread(counting):
    first = counting.validation_batches(3, batch_size=2, length=10)
    again = counting.validation_batches(3, batch_size=2, length=10)
    assert len(first) == 3
    rows = [decode(row) for x, _ in first for row in x]
    assert rows == [decode(row) for x, _ in again for row in x]
    text = decode(counting.validation)
    places = [text.index(row) for row in rows]
    assert places == sorted(places)
    assert places[0] == 0
    # The last target is the last byte.
    assert places[-1] == len(text) - 11


def test_encode_and_decode_are_inverse():
    text = "def π(x):\n\treturn x  # naïve"
    assert decode(encode(text)) == text
    assert decode(encode("π")[:1]) == "\ufffd"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a" * (SMALLEST - 1), f"at least {SMALLEST} are needed"),
        (b"abc\0" * SMALLEST, "NUL bytes"),
        (b"caf\xe9 " * SMALLEST, "not UTF-8 text (byte 3)"),
    ],
)
def test_a_file_unfit_to_train_on_is_named(tmp_path, content, words):
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    with pytest.raises(LabError) as error:
        Corpus.load(file)
    assert words in str(error.value)
    assert "mine.txt" in str(error.value)


def test_the_smallest_corpus_gives_batches_of_both_splits(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_bytes(b"x" * SMALLEST)
    corpus = Corpus.load(str(file))
    for split in ("train", "validation"):
        assert corpus.batch(split, 0, batch_size=2, length=128, seed=0)[0].shape


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(LabError, match=r"There is no corpus .*none\.txt"):
        Corpus.load(tmp_path / "none.txt")
    with pytest.raises(LabError, match="Cannot read the corpus"):
        Corpus.load(tmp_path)


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_shipped_corpus_says_how_to_restore_it(tmp_path, monkeypatch, damage):
    copy = tmp_path / SHIPPED.name
    data = bytearray(SHIPPED.read_bytes())
    if damage == "changed":
        data[1000] ^= 1
    elif damage == "cut":
        del data[-1]
    if damage != "missing":
        copy.write_bytes(data)
    monkeypatch.setattr(corpus_module, "SHIPPED", copy)
    with pytest.raises(LabError, match="git checkout -- data/corpus"):
        Corpus.load()


def test_lengths_and_worlds_that_do_not_fit_are_named(counting):
    with pytest.raises(LabError, match="use 1 to"):
        counting.batch("validation", 0, batch_size=2, length=5000, seed=0)
    with pytest.raises(LabError, match="multiple of 3"):
        counting.batch("train", 0, batch_size=4, length=8, seed=0, world=3)
    with pytest.raises(LabError, match="Unknown split 'test'"):
        counting.batch("test", 0, batch_size=4, length=8, seed=0)


def test_the_command_gives_the_same_bytes_each_time(tmp_path):
    def make(name):
        command = [sys.executable, "-m", "labsupport.tasks.make_corpus", name]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        return (tmp_path / name).read_bytes()

    made = make("a.txt")
    assert made == make("b.txt")
    assert made.count(b"# ======== ") == len(make_corpus.MODULES)
    if platform.python_version() == make_corpus.SHIPPED_FROM:
        assert made == SHIPPED.read_bytes()


def test_another_python_does_not_overwrite_the_shipped_corpus(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.12.1")
    with pytest.raises(LabError, match="name another file"):
        make_corpus.main([])

"""Text as bytes: the corpus on which the labs train language models.

A token is a byte, so the vocabulary is 256 and there is no tokenizer to learn.

Shape suffixes: B sequences in a batch, T tokens in a sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labsupport import paths
from labsupport.errors import LabError

SHIPPED = paths.DATA / "corpus" / "python_stdlib.txt"
CHECKSUMS = SHIPPED.with_name("SHA256SUMS")
VALIDATION_SHARE = 0.1
SMALLEST = 10_000
"""Bytes that a corpus must have, so that its validation split says anything."""

Split = Literal["train", "validation"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text, cut once: the first 90 % to train on, the last 10 % to validate.

    Attributes:
        name: the file's name.
        tokens: all bytes of the text, a uint8 vector.
    """

    name: str
    tokens: Tensor

    @classmethod
    def load(cls, path: str | Path | None = None) -> Corpus:
        """Read a UTF-8 text file; without a path, the shipped corpus.

        Raises:
            LabError: the file is missing, empty, shorter than `SMALLEST` bytes
                or not text, or the shipped corpus was changed.
        """
        file = SHIPPED if path is None else Path(path)
        data = read_text_bytes(file)
        if file.resolve() == SHIPPED:
            require_checksum(data)
        # frombuffer shares memory and wants it writable: bytearray copies once.
        return cls(file.name, torch.frombuffer(bytearray(data), dtype=torch.uint8))

    @property
    def train(self) -> Tensor:
        """The first 90 % of the tokens."""
        return self.tokens[: -self._validation_size]

    @property
    def validation(self) -> Tensor:
        """The last 10 % of the tokens; no byte of it is in `train`."""
        return self.tokens[-self._validation_size :]

    @property
    def _validation_size(self) -> int:
        return int(len(self.tokens) * VALIDATION_SHARE)

    def batch(
        self,
        split: Split,
        step: int,
        *,
        batch_size: int,
        length: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """The batch of one step: B random windows of T tokens, and what follows.

        A pure function of `seed` and `step`. No generator is carried along, so a
        resumed run sees exactly the batches that it would have seen. With
        several ranks each gets its own rows of the *same* global batch.

        Args:
            split: which part to draw from.
            step: the step's number, 0 or more.
            batch_size: B, sequences in the global batch.
            length: T, tokens in a sequence.
            seed: another seed, another order.
            rank: which share of the rows to return.
            world: into how many equal shares the global batch is cut.

        Returns:
            tokens_BT and targets_BT, int64 on the CPU. Targets are the tokens
            shifted by one. With `world` ranks they have B / world rows.

        Raises:
            LabError: `length` does not fit the split, or `world` does not
                divide `batch_size`.
        """
        text = self._split(split, length)
        if batch_size < 1 or batch_size % world:
            raise LabError(
                f"batch_size={batch_size} cannot be shared by {world} ranks: use a "
                f"multiple of {world}."
            )
        # SeedSequence mixes the numbers well: neighbouring steps are unrelated.
        numbers = np.random.default_rng([seed, step, split == "validation"])
        starts = numbers.integers(0, len(text) - length, size=batch_size)
        share = batch_size // world
        return windows(text, starts[rank * share : (rank + 1) * share], length)

    def validation_batches(
        self, count: int, *, batch_size: int, length: int
    ) -> list[tuple[Tensor, Tensor]]:
        """The same `count` batches every time, spread evenly over validation.

        Returns:
            A list of (tokens_BT, targets_BT), int64 on the CPU.

        Raises:
            LabError: `length` does not fit the split.
        """
        text = self._split("validation", length)
        starts = np.linspace(0, len(text) - length - 1, count * batch_size)
        rows = starts.astype(np.int64).reshape(count, batch_size)
        return [windows(text, row, length) for row in rows]

    def _split(self, split: Split, length: int) -> Tensor:
        """The tokens of a split that holds at least one window of `length`."""
        if split not in ("train", "validation"):
            raise LabError(f"Unknown split {split!r}: use 'train' or 'validation'.")
        text = self.train if split == "train" else self.validation
        if not 1 <= length < len(text):
            raise LabError(
                f"length={length} does not fit the {split} split of {self.name}: "
                f"use 1 to {len(text) - 1}."
            )
        return text


def encode(text: str) -> Tensor:
    """The UTF-8 bytes of `text`, an int64 vector."""
    return torch.tensor(list(text.encode()), dtype=torch.int64)


def decode(tokens: Tensor | Iterable[int]) -> str:
    """Bytes as text; those that are no UTF-8 (a cut character) show as U+FFFD."""
    numbers = tokens.tolist() if isinstance(tokens, Tensor) else tokens
    return bytes(numbers).decode(errors="replace")


def windows(text: Tensor, starts: np.ndarray, length: int) -> tuple[Tensor, Tensor]:
    """Cut tokens_BT at `starts`, and the same windows one token later."""
    index = torch.from_numpy(starts)[:, None] + torch.arange(length + 1)
    rows = text[index].long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def read_text_bytes(file: Path) -> bytes:
    """The bytes of a text file that is fit to train on.

    Raises:
        LabError: unreadable, empty, too short, or not UTF-8 text.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        again = f": {RESTORE}" if file == SHIPPED else "."
        raise LabError(f"There is no corpus {file}{again}") from None
    except OSError as error:
        raise LabError(f"Cannot read the corpus {file}: {error.strerror}.") from None
    if not data:
        raise LabError(f"The corpus {file.name} is empty.")
    if b"\0" in data:
        raise LabError(f"The corpus {file.name} is not text: it holds NUL bytes.")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise LabError(
            f"The corpus {file.name} is not UTF-8 text (byte {error.start}): save it "
            "as UTF-8."
        ) from None
    if len(data) < SMALLEST:
        raise LabError(
            f"The corpus {file.name} is too short with {len(data)} bytes: at least "
            f"{SMALLEST} are needed."
        )
    return data


RESTORE = "restore it with `git checkout -- data/corpus`."


def require_checksum(data: bytes) -> None:
    """Recorded runs are comparable only when everyone has the same bytes.

    Raises:
        LabError: `data` is not what `SHA256SUMS` promises.
    """
    try:
        promised = CHECKSUMS.read_text().split()[0]
    except (OSError, IndexError):
        raise LabError(f"The corpus lost its SHA256SUMS: {RESTORE}") from None
    if hashlib.sha256(data).hexdigest() != promised:
        raise LabError(f"The shipped corpus was changed: {RESTORE}")

"""Names of tokens, so that people can read what a model reads and writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from labsupport.errors import LabError


class Vocabulary:
    """Tokens 0, 1, ... and what each is called.

    Args:
        names: one a token, all different, without spaces.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._tokens = {name: token for token, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> int:
        """The token that has this name.

        Raises:
            LabError: none has.
        """
        if name not in self._tokens:
            raise LabError(
                f"{name!r} is not in the vocabulary: use {' '.join(self.names)}."
            )
        return self._tokens[name]

    def encode(self, text: str) -> list[int]:
        """Tokens from names with spaces between them.

        Raises:
            LabError: a name that no token has.
        """
        return [self[name] for name in text.split()]

    def decode(self, tokens: Tensor | Iterable[int]) -> str:
        """Names with spaces between them; a number that is no token stays one."""
        numbers = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        known = range(len(self.names))
        return " ".join(self.names[t] if t in known else str(t) for t in numbers)

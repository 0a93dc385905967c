"""A claim: one sentence from an article, its source, and the rule that tests it."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labsupport.claims.verdict import Rule
from labsupport.errors import LabError
from labsupport.paths import CLAIMS

ARTICLES = {
    "000": "adaptive gradient fusion",
    "001": "hybrid parallel training",
    "002": "experts, FP8, reasoning",
    "003": "stable residual connections",
    "000-003": "all four",
}
"""What the press articles are about, by their number."""


@dataclass(frozen=True)
class Claim:
    """One row of the course's ledger.

    Attributes:
        id: "mhc-stable"; also the file's name.
        article: the article's number, "003".
        sentence: what the article says.
        source: who first said it, and where.
        lab: the lab that finds out.
        rule: how a record is turned into a verdict; None until the lab is built.
        source_rule: the same for the source's own claim, where it differs.
        note: a verdict that needs no measurement (arithmetic), or why there
            can be none at this scale.
        source_note: the same for the source: what it says itself, where it makes
            no claim that a rule could test. No part of the rules' hash.
    """

    id: str
    article: str
    sentence: str
    source: str
    lab: str
    rule: Rule | None = None
    source_rule: Rule | None = None
    note: str = ""
    source_note: str = ""

    @property
    def rule_hash(self) -> str:
        """A fingerprint of the rules; a measurement stores it."""
        text = f"{self.rule!r} {self.source_rule!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_claim(claim_id: str, folder: Path = CLAIMS) -> Claim:
    """Read one claim.

    Raises:
        LabError: there is no such claim, or its file is malformed.
    """
    file = folder / f"{claim_id}.toml"
    if not file.exists():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.toml")))
        raise LabError(f"Unknown claim {claim_id!r}: use one of {known}.")
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text())
        for name in ("rule", "source_rule"):
            if name in content:
                content[name] = Rule(**content[name])
        claim = Claim(**content)
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise LabError(f"data/claims/{file.name} is malformed: {error}.") from error
    if claim.id != claim_id:
        raise LabError(f"data/claims/{file.name} holds the id {claim.id!r}.")
    return claim


def load_claims(folder: Path = CLAIMS) -> list[Claim]:
    """Every claim of the course, by lab and name."""
    claims = [load_claim(file.stem, folder) for file in folder.glob("*.toml")]
    return sorted(claims, key=lambda claim: (claim.lab, claim.id))

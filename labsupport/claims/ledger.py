"""The ledger: every claim, the article's verdict and the source's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labsupport.claims.claim import Claim, load_claim, load_claims
from labsupport.claims.record import load_record
from labsupport.claims.verdict import Rule, judge
from labsupport.errors import LabError
from labsupport.paths import CLAIMS, MEASUREMENTS

NOT_YET = "not measured yet"


def verdict_of(claim: Claim, rule: Rule | None, folder: Path = MEASUREMENTS) -> str:
    """The verdict one of a claim's rules gives on the committed record.

    In brackets stands the 95 % confidence interval of the effect over seeds. A record
    that was not made under the claim's rules is none: whoever writes a rule must not
    have seen what it judges.
    """
    if rule is None:
        return NOT_YET
    lab, name = rule.experiment.split("/")
    try:
        content = load_record(lab, name, folder=folder)
    except LabError:
        return NOT_YET
    if content["rules"].get(claim.id) != claim.rule_hash:
        return NOT_YET
    found = judge(rule, content["rows"])
    verdict: str = found.verdict
    if verdict == "inconclusive":
        verdict += f", could have seen {found.detectable:.2g}"
    return (
        f"{verdict} ({rule.metric}, {rule.effect} {found.mean:.2g} "
        f"[{found.low:.2g}, {found.high:.2g}], {found.seeds} seeds)"
    )


def verdict_lines(claim_ids: Sequence[str]) -> list[str]:
    """For each claim its name, the article's verdict and the source's."""
    lines = []
    for row in ledger([load_claim(claim_id) for claim_id in claim_ids]):
        lines.append(f"{row['claim']}")
        lines.append(f"    article: {row['article']}")
        lines.append(f"    source:  {row['source']}")
    return lines


def ledger(
    claims: Sequence[Claim] | None = None, folder: Path = MEASUREMENTS
) -> list[dict[str, str]]:
    """One row per claim: id, lab, sentence, verdict on article and source."""
    rows = []
    for claim in load_claims(CLAIMS) if claims is None else claims:
        article = claim.note or verdict_of(claim, claim.rule, folder)
        source = claim.source_note or (
            verdict_of(claim, claim.source_rule, folder)
            if claim.source_rule
            else article
        )
        rows.append(
            {
                "claim": claim.id,
                "lab": claim.lab,
                "sentence": claim.sentence,
                "article": article,
                "source": source,
            }
        )
    return rows

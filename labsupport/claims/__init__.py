"""Claims of the press, recorded measurements, and the verdicts they allow.

A claim is a file in data/claims/. A lab's experiments are recorded by
`labs record NN` into data/measurements/. A verdict is computed from the record
by a rule that was written, and committed, before the measurement.
"""

from labsupport.claims.claim import Claim, load_claim, load_claims
from labsupport.claims.ledger import ledger
from labsupport.claims.record import Experiment, load_record, record
from labsupport.claims.verdict import Rule, judge

__all__ = [
    "Claim",
    "Experiment",
    "Rule",
    "judge",
    "ledger",
    "load_claim",
    "load_claims",
    "load_record",
    "record",
]

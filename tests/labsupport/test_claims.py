"""From rule and record to a verdict, with nothing decided by hand."""

import json
import tomllib

import pytest

from labsupport.claims import Experiment, Rule, judge, ledger, load_claims, record
from labsupport.claims import beliefs as beliefs_module
from labsupport.claims.beliefs import THE_TEN, ask_beliefs
from labsupport.claims.claim import Claim, load_claim
from labsupport.errors import LabError
from labsupport.exercise import progress
from labsupport.paths import CLAIMS, MEASUREMENTS

FASTER = Rule("99/speed", "time", "new", "old", "saving", claimed=0.4, null=0.0)


def rows(new, old=(1.0, 1.0, 1.0)):
    pairs = [("new", new), ("old", old)]
    return [
        {"arm": arm, "seed": seed, "time": value}
        for arm, values in pairs
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ((0.58, 0.60, 0.62), "reproduced at this scale"),
        ((0.30, 0.31, 0.29), "reproduced at this scale"),
        ((0.90, 0.91, 0.89), "direction reproduced, size not"),
        ((1.00, 1.01, 0.99), "not reproduced"),
        ((1.50, 1.51, 1.49), "not reproduced"),
        ((0.2, 1.4, 0.8), "inconclusive"),
    ],
)
def test_verdicts(new, verdict):
    assert judge(FASTER, rows(new)).verdict == verdict


def test_a_smaller_is_better_claim_is_read_the_right_way_round():
    rule = Rule("99/x", "time", "new", "old", "ratio", claimed=0.5, null=1.0)
    found = judge(rule, rows((0.5, 0.49, 0.51)))
    assert found.verdict == "reproduced at this scale"
    assert found.mean == pytest.approx(0.5)
    assert judge(rule, rows((2.0, 2.1, 1.9))).verdict == "not reproduced"


def test_a_verdict_needs_three_common_seeds():
    with pytest.raises(ValueError, match="2 common seeds"):
        judge(FASTER, rows((0.6, 0.6), (1.0, 1.0)))


def test_a_baseline_that_never_failed_can_be_beaten_or_not():
    """Counts of failures are often 0: a difference needs no division."""
    rule = Rule("99/x", "time", "new", "old", "difference", claimed=-0.1, null=0.0)
    found = judge(rule, rows((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert found.verdict == "not reproduced"
    assert found.mean == 0


def test_a_row_without_the_metric_is_left_out():
    more = [*rows((0.6, 0.6, 0.6)), {"arm": "new", "seed": 0, "time": None}]
    assert judge(FASTER, more).mean == pytest.approx(0.4)
    with pytest.raises(ValueError, match="2 common seeds"):
        judge(FASTER, rows((0.6, 0.6, None)))


def test_inconclusive_says_what_could_have_been_seen():
    found = judge(FASTER, rows((0.2, 1.4, 0.8)))
    assert found.detectable == pytest.approx((found.high - found.low) / 2)
    assert found.detectable > 0.4


def test_every_claim_file_is_well_formed():
    claims = load_claims()
    assert len(claims) == 37
    assert {claim.article for claim in claims} == {
        "000",
        "001",
        "002",
        "003",
        "000-003",
    }
    assert all(claim.sentence.endswith(".") and claim.source for claim in claims)


def test_the_ten_beliefs_cover_the_labs_from_01_to_08():
    labs = {load_claim(claim_id).lab[:2] for claim_id in THE_TEN}
    assert len(THE_TEN) == len(set(THE_TEN)) == 10
    assert labs == {"01", "02", "03", "04", "05", "06", "07", "08"}


def test_unknown_and_malformed_claims(tmp_path):
    with pytest.raises(LabError, match="Unknown claim 'moon'"):
        load_claim("moon")
    (tmp_path / "x.toml").write_text("id = 'x'\ncolour = 'red'\n")
    with pytest.raises(LabError, match=r"data/claims/x.toml is malformed"):
        load_claim("x", tmp_path)


def recorded_under(claim, folder, rule_hash=None):
    """A record of FASTER's experiment, made when this claim's rules were in force."""
    file = folder / "m" / "lab_99_speed_cpu.json"
    file.parent.mkdir()
    rules = {claim.id: rule_hash or claim.rule_hash}
    measured = rows((0.58, 0.60, 0.62))
    file.write_text(json.dumps({"rules": rules, "rows": measured}))


@pytest.mark.parametrize("other", [{"id": "later"}, {"rule_hash": "0" * 16}])
def test_a_rule_judges_no_record_that_was_there_before_it(tmp_path, other):
    claim = Claim("c", "000", "A sentence.", "nobody", "99", rule=FASTER)
    named = Claim(other.get("id", "c"), "000", "s", "s", "99", rule=FASTER)
    recorded_under(named, tmp_path, other.get("rule_hash"))
    (row,) = ledger([claim], tmp_path)
    assert row["article"] == row["source"] == "not measured yet"


def test_the_ledger_says_not_measured_until_it_is(tmp_path):
    claim = Claim("c", "000", "A sentence.", "nobody", "99", rule=FASTER)
    assert ledger([claim], tmp_path)[0]["article"] == "not measured yet"
    recorded_under(claim, tmp_path)
    assert ledger([claim], tmp_path)[0]["article"] == (
        "reproduced at this scale (time, saving 0.4 [0.35, 0.45], 3 seeds)"
    )


def test_a_source_without_the_claim_does_not_get_the_articles_verdict(tmp_path):
    words = "makes no such claim"
    claim = Claim("x", "000", "s", "s", "99", rule=FASTER, source_note=words)
    recorded_under(claim, tmp_path)
    (row,) = ledger([claim], tmp_path)
    assert row["article"].startswith("reproduced at this scale")
    assert row["source"] == words
    # Words change no verdict, so a record made before them stays valid.
    assert claim.rule_hash == Claim("x", "000", "s", "s", "99", FASTER).rule_hash


def test_the_paper_does_not_say_that_mhc_is_faster():
    (row,) = ledger([load_claim("mhc-time")])
    assert "6.7 %" in row["source"]
    assert row["source"] != row["article"]


def experiment(run, claims=()):
    return Experiment("99", "speed", "How fast?", run, ("new", "old"), claims=claims)


def test_recording_resumes_where_it_was_cut(tmp_path):
    calls = []

    def run(arm, seed, scale):
        calls.append((arm, seed))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {"time": 1.0}

    with pytest.raises(KeyboardInterrupt):
        record(experiment(run), "ci", folder=tmp_path, report=lambda _: None)
    file = record(experiment(run), "ci", folder=tmp_path, report=lambda _: None)
    saved = json.loads(file.read_text())["rows"]
    assert [(row["arm"], row["seed"]) for row in saved] == [
        (arm, seed) for seed in range(3) for arm in ("new", "old")
    ]
    assert len(calls) == 7, "the row that was cut ran twice, no other did"
    assert {"machine", "torch", "commit", "date"} <= set(saved[0]["origin"])


def test_rules_cannot_change_under_a_record(tmp_path):
    one = experiment(lambda arm, seed, scale: {"time": 1.0}, claims=["cot"])
    file = record(one, "ci", seeds=1, folder=tmp_path, report=lambda _: None)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"rules": {"cot": "0" * 16}}))
    with pytest.raises(LabError, match="changed after"):
        record(one, "ci", folder=tmp_path, report=lambda _: None)


def test_committed_records_were_made_under_the_rules_in_force():
    for file in MEASUREMENTS.glob("*/lab_*.json"):
        for claim_id, rule_hash in json.loads(file.read_text())["rules"].items():
            assert load_claim(claim_id).rule_hash == rule_hash, file.name


def test_rule_hash_changes_with_the_rule():
    one = Claim("c", "0", "s", "s", "1", rule=FASTER)
    other = Claim(
        "c", "0", "s", "s", "1", rule=Rule(**{**vars(FASTER), "claimed": 0.5})
    )
    assert one.rule_hash != other.rule_hash


def test_a_belief_is_kept_per_lab(monkeypatch, tmp_path):
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "x")
    shown = []
    monkeypatch.setattr(beliefs_module, "display", shown.append)
    ask_beliefs(["cot"], "00")
    knob, _, agree, said = shown[0].children[0].children[1].children
    agree.click()
    assert progress.recall("beliefs", "cot")[-1]["percent"] == 50
    assert said.value == "saved"
    knob.value = 70
    knob.value = 80
    ask_beliefs(["cot"], "06")
    later = shown[1].children[0].children[1].children[0]
    assert later.value == 80, "the slider starts at the last belief"
    later.value = 95
    history = progress.recall("beliefs", "cot")
    assert [(entry["lab"], entry["percent"]) for entry in history] == [
        ("00", 80),
        ("06", 95),
    ]


def test_claim_files_hold_nothing_else():
    allowed = {
        "id",
        "article",
        "lab",
        "sentence",
        "source",
        "note",
        "source_note",
        "rule",
        "source_rule",
    }
    for file in CLAIMS.glob("*.toml"):
        assert set(tomllib.loads(file.read_text())) <= allowed, file.name

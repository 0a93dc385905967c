"""The `labs` command says in one line what is wrong, and exits non-zero."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from labsupport import paths
from labsupport.build.names import exercise_ids, find_lab, lab_names
from labsupport.cli import app
from labsupport.course_map import STOPS, built_labs, map_sentence, passed_labs
from labsupport.doctor import examine
from labsupport.errors import LabError


def labs(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", "from labsupport.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["record", "77"], "Lab '77' has no experiments to record."),
        (["run", "--scale", "huge"], "Unknown scale 'huge'"),
        (["run", "77"], "77"),
        (["open", "77"], "77"),
        (["record", "00", "moon"], "has no experiment 'moon'"),
        (["bench", "moon"], "only 'kernels' can be timed"),
    ],
)
def test_bad_input_is_one_line_and_a_bad_exit(arguments, sentence, tmp_path):
    answer = labs(*arguments, LABS_HOME=str(tmp_path))
    assert answer.returncode != 0
    assert sentence in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "Traceback" not in answer.stderr


def test_a_lab_with_a_letter_finds_its_files(tmp_path, monkeypatch):
    """04a and 04b share a number, so 4.7 is no prefix's business."""
    sources = tmp_path / "src"
    sources.mkdir()
    for name, number in (("04a_one", "4.1"), ("04b_two", "4.7")):
        text = f'# # 04 · {name}\n@lab.exercise("{number}")\ndef f(x):\n    pass\n'
        (sources / f"{name}.py").write_text(text)
    monkeypatch.setattr(paths, "LABS", tmp_path)
    assert [exercise_ids(name) for name in lab_names()] == [["4.1"], ["4.7"]]
    assert find_lab("04b") == find_lab("4b") == find_lab("two") == "04b_two"
    with pytest.raises(LabError, match="could be any of: 04a_one, 04b_two"):
        find_lab("04")
    assert built_labs() == {"04"}
    passed = {number: {"passed": True} for number in ("4.1", "4.7", "4.K")}
    (tmp_path / "progress.json").write_text(json.dumps({"exercises": passed}))
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "a person")
    assert passed_labs() == {"04"}
    shown = CliRunner().invoke(app, ["list"]).stdout.splitlines()
    assert [line.partition("passed: ")[2] for line in shown] == ["4.1", "4.7"]


def test_list_names_lab_00(tmp_path):
    answer = labs("list", LABS_HOME=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert "00_start_here" in answer.stdout


def test_what_was_passed_is_shown_beside_its_lab(tmp_path, monkeypatch):
    passed = {number: {"passed": True} for number in ("0.1", "P.1", "T.1", "T.2")}
    (tmp_path / "progress.json").write_text(json.dumps({"exercises": passed}))
    shown = labs("list", LABS_HOME=str(tmp_path)).stdout.splitlines()
    of = {line.split()[0]: line.partition("passed: ")[2] for line in shown}
    assert of["00_start_here"] == "0.1"
    assert of["primers/processes"] == "P.1"
    assert of["primers/triton"] == "T.1, T.2"
    # The map has no primers on it.
    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setenv("JPY_SESSION_NAME", "a person")
    assert passed_labs() == {"00"}


def test_claims_prints_the_ledger():
    answer = labs("claims")
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 2 * 37


def test_doctor_looks_at_what_labs_need(tmp_path):
    answer = labs("doctor", LABS_HOME=str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    for name in ("cores", "memory", "GPU", "Triton", "links", "my_labs"):
        assert name in answer.stdout


def test_doctor_reports_a_folder_it_cannot_write(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABS_HOME", str(tmp_path / "file" / "below"))
    (folder,) = [f for f in examine() if f.name == "my_labs"]
    assert not folder.good


def test_the_map_only_needs_labs_that_come_before():
    names = [stop.name for stop in STOPS]
    for stop in STOPS:
        assert all(names.index(need) < names.index(stop.name) for need in stop.needs)
    assert "You have passed exercises in 00." in map_sentence({"00"})

"""Mistakes in a torchrun cell are named before any process starts; and the
rank to blame is found by kind, whatever the order of events.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from labsupport.distributed import launch, magic
from labsupport.distributed.failures import diagnose
from labsupport.distributed.folders import RunFolder, new_run_folder, write_json
from labsupport.distributed.rank_api import share
from labsupport.distributed.ranks import Ranks, name_ranks
from labsupport.errors import LabError


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setenv("LABS_HOME", str(tmp_path))
    monkeypatch.setattr(launch, "start", started)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nproc 0", "at least 1 process"),
        ("--nproc two", "invalid int value: 'two'"),
        ("--nproc 100000", "too many"),
        ("--workers 2", "unrecognized arguments: --workers 2. Use: %%torchrun"),
        ("--np 2", "unrecognized arguments"),
        ("--name 1st", "Python name"),
        ("--name class", "Python name"),
        ("--timeout -1", "or 0 for no limit"),
        ("--timeout nan", "or 0 for no limit"),
        ("--push batch", "Did you mean batches"),
        ("--push ,nope", "no 'nope'"),
        ("--save step", "name a .py file"),
        ("--save not/there/step.py", "in a folder that exists"),
        ("--name 'dp", "No closing quotation"),
        ("--max-restarts -1", "at least 0 restarts"),
        ("--max-restarts 1 --keep", "exclude each other"),
        ("--nnodes 0", "at least 1 machine"),
        ("--nnodes 2", "needs --rdzv-endpoint HOST:PORT"),
        ("--rdzv-endpoint a:1", "add --nnodes N"),
        ("--nnodes 2 --rdzv-endpoint a", "use HOST:PORT"),
        ("--nnodes 2 --rdzv-endpoint a:1 --keep", "one machine only"),
        ("--nnodes 2 --rdzv-endpoint a:1 --link 1mbit", "one machine only"),
        ("--link fast", "'fast' is no link"),
        ("--link-rank 2=50mbit", "ranks are 0 to 1"),
        ("--link-rank 1", "write RANK=LINK"),
        ("--link-rank 1=1mbit --link-rank 1=2mbit", "twice"),
    ],
)
def test_bad_options(line: str, message: str) -> None:
    names = {"batches": 1}
    with pytest.raises(LabError) as caught:
        magic.torchrun(line, "print(1)", names)
    assert message in str(caught.value)
    assert names == {"batches": 1}


def test_bad_body() -> None:
    with pytest.raises(LabError, match=r"cell line 3: SyntaxError: .*\n    !ls"):
        magic.torchrun("", "x = 1\n!ls", {})
    with pytest.raises(LabError, match="no body"):
        magic.torchrun("", "\n\n", {})


def test_an_old_result_is_gone_when_a_new_run_does_not_start() -> None:
    names = {"dp": Ranks([{"loss": 1.0}], None, "")}
    with pytest.raises(LabError):
        magic.torchrun("--name dp --push nope", "pass", names)
    assert "dp" not in names


def test_share_outside_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABS_RUN", raising=False)
    share("loss", object())  # a plain script: nothing to do, nothing to refuse
    with pytest.raises(LabError, match="the first argument is a name"):
        share("my loss", 1)


def test_stack() -> None:
    ranks = Ranks(
        [
            {"t": torch.zeros(2), "f": 1.5, "a": np.ones(2), "s": "x", "one": 1},
            {"t": torch.ones(2), "f": 2.5, "a": np.ones(2), "s": "y"},
        ],
        None,
        "",
    )
    assert ranks.stack("t").shape == (2, 2)
    assert ranks.stack("f").tolist() == [1.5, 2.5]
    assert ranks.stack("a").shape == (2, 2)
    with pytest.raises(LabError, match="'one' was not shared by rank 1"):
        ranks.stack("one")
    with pytest.raises(LabError, match="'s' cannot be stacked"):
        ranks.stack("s")
    with pytest.raises(IndexError, match="ranks 0 to 1"):
        ranks[2]


def test_name_ranks() -> None:
    assert name_ranks([1]) == "rank 1"
    assert name_ranks([3, 0]) == "ranks 0 and 3"
    assert name_ranks([0, 1, 2]) == "ranks 0 to 2"
    assert name_ranks([0, 1, 3]) == "ranks 0, 1 and 3"


def end(
    folder: RunFolder, rank: int, kind: str, what: str = "", time: float = 0
) -> None:
    write_json(
        folder.end(rank),
        {"kind": kind, "type": what, "message": what, "time": time, "lines": []},
    )


def test_the_root_cause_is_found_by_kind_not_by_time() -> None:
    folder = new_run_folder("dp")
    end(folder, 0, "peer", "Connection closed by peer", time=1)
    end(folder, 1, "error", "KeyError", time=9)
    end(folder, 2, "peer", "Timed out", time=2)
    error = diagnose(folder, {0: 1, 1: 1, 2: 1, 3: None})
    assert error is not None
    assert (error.rank, error.type) == (1, "KeyError")
    assert error.report.endswith("ranks 0, 2 and 3 lost their peer")


def test_of_two_errors_the_first_is_blamed_and_equal_ones_are_one() -> None:
    folder = new_run_folder("dp")
    end(folder, 0, "error", "KeyError", time=2)
    end(folder, 1, "error", "ValueError", time=1)
    error = diagnose(folder, {0: 1, 1: 1})
    assert error is not None
    assert error.rank == 1
    assert "rank 0: KeyError" in error.report
    end(folder, 0, "error", "ValueError", time=2)
    error = diagnose(folder, {0: 1, 1: 1})
    assert error is not None
    assert error.rank == 0
    assert error.report.endswith("rank 1 failed in the same way")


def test_an_exception_beats_the_kill_that_followed_it() -> None:
    """torchrun kills a rank that ignores SIGTERM."""
    folder = new_run_folder("dp")
    end(folder, 1, "error", "KeyError", time=2)
    error = diagnose(folder, {0: None, 1: 1})
    assert error is not None
    assert error.rank == 1


def test_all_well() -> None:
    folder = new_run_folder("dp")
    end(folder, 0, "done")
    end(folder, 1, "left")
    assert diagnose(folder, {0: 0, 1: 0}) is None

"""What the reader sees of the ranks' logs: all of it, or where the rest is."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from labsupport.distributed import panels
from labsupport.distributed.folders import RunFolder, new_run_folder, remove_old
from labsupport.distributed.output import Screen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("LABS_HOME", str(tmp_path / "my läbs"))
    return new_run_folder("dp")


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_whole_lines_as_they_come(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(folder, 2, interactive=False)
    screen.update()
    append(folder.log(0), b"one\ntw")
    append(folder.log(1), b"other\n")
    screen.update()
    assert capsys.readouterr().out == "one\n"
    append(folder.log(0), b"o\n\nlast")
    screen.update()
    assert capsys.readouterr().out == "two\n\n"
    screen.finish()
    assert capsys.readouterr().out == "last\n[rank 1] other\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_much_output_is_cut_and_the_rest_is_named(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    lines = [b"line %05d " % i + b"x" * 90 + b"\n" for i in range(10_000)]
    screen = Screen(folder, 2, interactive=False)
    for step in range(7):
        append(folder.log(rank), b"".join(lines[step * 1500 : (step + 1) * 1500]))
        screen.update()
    screen.finish()
    out = capsys.readouterr().out
    assert len(out.encode()) < 200_000
    assert "line 00000" in out
    assert "line 09999" in out
    assert f"my läbs/runs/dp-1/rank{rank}.log" in out
    written = folder.log(rank).read_text().splitlines()
    shown = [x.removeprefix("[rank 1] ") for x in out.splitlines() if "line " in x]
    assert shown == written[: len(shown) - 39] + written[-39:], "head and tail only"


def test_noise_and_progress_bars(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    append(folder.log(0), b"\xff\x00\x07ok\n 10%\r 50%\r100%\r\nend")
    screen = Screen(folder, 1, interactive=False)
    screen.finish()
    assert capsys.readouterr().out == "\ufffd\ufffd\ufffdok\n100%\nend\n"


def test_a_bar_moves_in_place_for_a_person(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(folder, 1, interactive=True)
    for percent in range(5000):
        append(folder.log(0), b"\r%d of 5000 " % percent + b"=" * 50)
        if percent % 1000 == 0:
            screen.update()
    append(folder.log(0), b"\ndone\n")
    screen.finish()
    out = capsys.readouterr().out
    assert "\r1000 of 5000" in out
    assert out.endswith("\r4999 of 5000 " + "=" * 50 + "\ndone\n")
    assert "log" not in out, "what a bar overwrote is not counted as output"


def test_a_very_long_line(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    append(folder.log(0), b"x" * 1_000_000 + b"END")
    screen = Screen(folder, 1, interactive=False)
    screen.finish()
    out = capsys.readouterr().out
    assert len(out) < 200_000
    assert out.endswith("END\n")
    assert "rank0.log" in out


def test_the_other_ranks_have_a_panel_each_while_the_cell_runs(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests in tests/browser look at it in JupyterLab."""
    monkeypatch.setattr(panels, "AFTER_S", 0)
    monkeypatch.setattr(panels, "EVERY_S", 0)
    InteractiveShell.instance()
    try:
        screen = Screen(folder, 3, interactive=True)
        append(folder.log(1), b"step 1\n50%\r100%\n" + b"x" * 10_000 + b"\nstep <2>\n")
        with capture_output() as captured:
            screen.update()
            shown = screen.panels.shown
            assert shown is not None
            titles = [shown.get_title(panel) for panel in (0, 1)]
            assert titles == ["rank 1: step <2>", "rank 2: nothing printed yet"]
            assert "step &lt;2&gt;" in shown.children[0].value
            append(folder.log(2), b"step 3\n")
            screen.update()
            assert shown.get_title(1) == "rank 2: step 3"
            screen.finish()
    finally:
        InteractiveShell.clear_instance()
    assert screen.panels.shown is None
    assert "<summary>ranks 1 and 2: 5 lines" in captured.outputs[-1].data["text/html"]


def test_the_fold_in_jupyterlab(folder: RunFolder) -> None:
    InteractiveShell.instance()
    try:
        append(folder.log(1), b"a <b> & c\n")
        append(folder.log(2), b"two\nlines\n")
        screen = Screen(folder, 3, interactive=True)
        with capture_output() as captured:
            screen.finish()
    finally:
        InteractiveShell.clear_instance()
    (output,) = captured.outputs
    assert "<summary>ranks 1 and 2: 3 lines</summary>" in output.data["text/html"]
    assert "a &lt;b&gt; &amp; c" in output.data["text/html"]
    assert output.data["text/plain"] == (
        "[rank 1] a <b> & c\n[rank 2] two\n[rank 2] lines"
    )


def test_paths_of_this_machine_are_not_shown(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    append(folder.log(0), f"{folder.cell}:3: UserWarning: careful\n".encode())
    Screen(folder, 1, interactive=False).finish()
    assert capsys.readouterr().out == "cell:3: UserWarning: careful\n"


def test_run_folders_never_clash_and_old_ones_go(folder: RunFolder) -> None:
    runs = folder.path.parent
    (runs / "dp-2").mkdir()  # another kernel was faster
    made = [new_run_folder("dp") for _ in range(25)]
    assert len({run.path for run in made}) == 25
    for run in made:
        run.finished.touch()
    going = made[0]
    going.finished.unlink()
    remove_old(runs, keep=7)
    left = {path.name for path in runs.iterdir()}
    assert {run.path.name for run in made[-5:]} <= left
    assert going.path.name in left, "a run that has not finished is kept"
    assert made[1].path.name not in left

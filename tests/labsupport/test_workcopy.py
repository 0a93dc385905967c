"""Working copies: made once, never overwritten; JupyterLab that shows them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_output

from labsupport import workcopy
from labsupport.build.editions import write
from labsupport.build.names import edition_path
from labsupport.build.render import render
from labsupport.errors import LabError
from labsupport.jupyter import server
from tests.small_lab import NAME, SOURCE, write_course


def put_edition(source: str) -> None:
    """Store the reader's edition as if it had been built and executed."""
    notebook = render(source, "reader")
    cell = next(cell for cell in notebook.cells if cell.id == "squares")
    cell.execution_count = 2
    cell.outputs = [new_output("stream", text="the answer\n")]
    write(notebook, edition_path(NAME, "reader"))


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_course(tmp_path, monkeypatch)
    put_edition(SOURCE)
    return tmp_path


def cells(path: Path) -> dict[str, Any]:
    return {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}


def test_a_copy_has_the_cells_and_no_output(course: Path):
    copy = workcopy.open_copy("0")
    assert copy == course / "my_labs" / f"{NAME}.ipynb"
    found = cells(copy)
    assert found["squares"].source.startswith("print(")
    for cell in found.values():
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert "the answer" not in copy.read_text()
    assert "twice_as_much" not in copy.read_text()


def test_a_copy_is_never_overwritten(course: Path):
    copy = workcopy.open_copy("00")
    copy.write_text("my own work")
    put_edition(SOURCE.replace("range(4)", "range(5)"))
    assert workcopy.open_copy("00") == copy
    second = workcopy.open_copy("00", new=True)
    assert second.name == f"{NAME}-2.ipynb"
    assert "range(5)" in cells(second)["squares"].source
    assert workcopy.open_copy("00", new=True).name == f"{NAME}-3.ipynb"
    assert copy.read_text() == "my own work"
    assert workcopy.open_copy("00").name == f"{NAME}-3.ipynb"


def test_a_deleted_copy_is_made_again_under_its_name(course: Path):
    copy = workcopy.open_copy("00")
    copy.unlink()
    assert workcopy.open_copy("00") == copy and copy.exists()


def test_update_shows_what_changed_cell_by_cell(course: Path):
    with pytest.raises(LabError, match="no copy"):
        workcopy.update("00")
    copy = workcopy.open_copy("00")
    assert "up to date" in workcopy.update("00")
    changed = SOURCE.replace("range(4)", "range(5)").replace(
        '# %% [markdown] id="intro"\n# # A small lab\n#\n# Text before code.',
        '# %% [markdown] id="title"\n# # A small lab',
    )
    put_edition(changed)
    before = copy.read_bytes()
    said = workcopy.update("00")
    assert "cell squares (changed)" in said
    assert '-print("squares", [n * n for n in range(4)])' in said
    assert '+print("squares", [n * n for n in range(5)])' in said
    assert "cell title (new)" in said and "cell intro (removed)" in said
    assert "cell use" not in said
    assert "labs open 00 --new" in said
    assert copy.read_bytes() == before
    workcopy.open_copy("00", new=True)
    assert "up to date" in workcopy.update("00")


def test_what_the_reader_wrote_is_no_change_of_the_course(course: Path):
    copy = workcopy.open_copy("00")
    notebook = nbformat.read(copy, as_version=4)
    notebook.cells[2].source = "print('mine')"
    nbformat.write(notebook, copy)
    assert "up to date" in workcopy.update("00")


@pytest.mark.parametrize("word", ["00", "0", "00_small", "small", "00_small.ipynb"])
def test_a_lab_is_found_by_any_of_its_names(course: Path, word: str):
    assert workcopy.find_lab(word) == NAME


def test_names_with_letters_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    named = ("00_start_here", "04a_gradient_fusion", "04b_landscape", "primers/triton")
    write_course(tmp_path, monkeypatch)
    for name in named:
        path = tmp_path / "labs" / "src" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(SOURCE)
    (tmp_path / "labs" / "src" / f"{NAME}.py").unlink()
    assert list(workcopy.lab_titles()) == sorted(named)
    for word, name in zip(("0", "4a", "landscape", "triton"), named, strict=True):
        assert workcopy.find_lab(word) == name
    assert workcopy.find_lab("04a") == "04a_gradient_fusion"
    with pytest.raises(LabError, match="any of: 04a_gradient_fusion, 04b_landscape"):
        workcopy.find_lab("04")


@pytest.mark.parametrize("word", ["7", "nothing", "", ".", "../00_small"])
def test_an_unknown_lab_is_refused_and_the_labs_are_listed(course: Path, word: str):
    with pytest.raises(LabError, match=rf"no lab .*{NAME}"):
        workcopy.open_copy(word)


def test_titles_come_from_the_first_heading(course: Path):
    assert workcopy.lab_titles() == {NAME: "A small lab"}


def test_a_lab_that_was_not_built_says_how(course: Path):
    edition_path(NAME, "reader").unlink()
    with pytest.raises(LabError, match="labs build"):
        workcopy.open_copy("00")


def test_a_folder_that_cannot_be_written_is_one_sentence(
    course: Path, monkeypatch: pytest.MonkeyPatch
):
    (course / "a_file").write_text("")
    monkeypatch.setenv("LABS_HOME", str(course / "a_file" / "home"))
    with pytest.raises(LabError, match=r"could not be written.*LABS_HOME"):
        workcopy.open_copy("00")


SERVE = """
import sys
from pathlib import Path
from labsupport import paths
from labsupport.errors import LabError
paths.ROOT = Path(sys.argv[1])
paths.LABS = paths.ROOT / "labs"
from labsupport.workcopy import start_jupyter
try:
    sys.exit(start_jupyter("00"))
except LabError as error:
    sys.exit(f"labs: {error}")
"""


def starter(course: Path) -> list[str]:
    return [sys.executable, "-c", SERVE, str(course)]


@pytest.fixture
def opened(course: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`labs open 00` in a process of its own, and the address it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    with subprocess.Popen(
        starter(course),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        found = None
        for line in process.stdout:  # ends when the process does
            found = re.search(r"http://127\.0\.0\.1:\d+/\S+", line)
            if found:
                break
        assert found is not None, "no address was printed"
        yield process, found.group()
        if process.poll() is None:
            process.terminate()


def settings(info: dict[str, Any], plugin: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{info['url']}lab/api/settings/{plugin}",
        headers={"Authorization": f"token {info['token']}"},
    )
    with urllib.request.urlopen(request) as reply:
        properties = json.load(reply)["schema"]["properties"]
    return {name: value.get("default") for name, value in properties.items()}


def test_jupyterlab_opens_once_with_our_settings_and_ctrl_c_ends_it_all(
    course: Path, opened: tuple[subprocess.Popen[str], str]
):
    process, url = opened
    assert f"/lab/tree/my_labs/{NAME}.ipynb?token=" in url
    with urllib.request.urlopen(url) as reply:
        assert reply.status == 200
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url.split("lab/tree")[0] + "api/contents")
    assert refused.value.code == 403  # no token, no entry

    (info,) = server.open_servers()
    assert info["hostname"] == "127.0.0.1"
    notebook = settings(info, "@jupyterlab/notebook-extension:tracker")
    assert notebook["windowingMode"] == "none"
    kernels = settings(info, "@jupyterlab/apputils-extension:kernels-settings")
    assert kernels["commsOverSubshells"] == "perCommTarget"
    news = settings(info, "@jupyterlab/apputils-extension:notification")
    assert (news["fetchNews"], news["checkForUpdates"]) == ("false", False)

    second = subprocess.run(starter(course), capture_output=True, text=True)
    assert second.returncode == 1
    assert "already open" in second.stderr and info["token"] in second.stderr
    assert second.stdout == ""

    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    # What a terminal does on Ctrl-C: the whole foreground group gets it.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    rest = process.stdout.read()
    assert "Shut down" not in rest and "(y/[n])" not in rest
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert list(server.open_servers()) == []


def test_a_server_that_cannot_start_shows_its_last_words(
    course: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        server,
        "server_command",
        lambda *_: [sys.executable, "-c", "import sys; sys.exit('no such extension')"],
    )
    with pytest.raises(LabError, match=r"ended with code 1[\s\S]*no such extension"):
        server.start_server()


@pytest.mark.parametrize(
    ("platform", "environment", "seen"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "1 2 3 4"}, False),
        ("darwin", {}, True),
        ("darwin", {"SSH_CONNECTION": "1 2 3 4"}, False),
    ],
)
def test_a_browser_opens_only_where_someone_sees_it(
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    environment: dict[str, str],
    seen: bool,
):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert server.has_screen() is seen


def test_work_outside_the_course_is_served_from_there(
    course: Path, monkeypatch: pytest.MonkeyPatch
):
    assert server.served_folder() == course
    elsewhere = course.parent / f"{course.name}-work"
    monkeypatch.setenv("LABS_HOME", str(elsewhere))
    assert server.served_folder() == elsewhere

"""The `labs` command. Each command imports what it needs, so that help is quick."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from labsupport.errors import LabError
from labsupport.paths import ROOT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Work on the labs, run them, record their experiments.",
)


@app.command("list")
def list_labs() -> None:
    """Show every lab and how far you are."""
    from labsupport.build.names import exercise_ids
    from labsupport.exercise.progress import read_progress
    from labsupport.workcopy import lab_titles

    tried = read_progress().get("exercises", {})
    for name, title in lab_titles().items():
        # Not by the number's beginning: 04a and 04b share 4.1 to 4.12.
        passed = [n for n in exercise_ids(name) if tried.get(n, {}).get("passed")]
        state = f"  passed: {', '.join(passed)}" if passed else ""
        typer.echo(f"{name:32} {title}{state}")


@app.command("open")
def open_lab(
    lab: Annotated[str, typer.Argument(help="00, or a part of the name")] = "00",
    new: Annotated[bool, typer.Option(help="a fresh copy beside yours")] = False,
) -> None:
    """Open your working copy of a lab in JupyterLab."""
    from labsupport.workcopy import start_jupyter

    raise typer.Exit(start_jupyter(lab, new=new))


@app.command()
def update(lab: Annotated[str, typer.Argument(help="00")] = "00") -> None:
    """Show what changed in the course since you opened a lab."""
    from labsupport.workcopy import update as changes

    typer.echo(changes(lab))


@app.command()
def run(
    labs: Annotated[list[str] | None, typer.Argument(help="all if none")] = None,
    scale: Annotated[str | None, typer.Option(help="ci, cpu or gpu")] = None,
    edition: Annotated[str, typer.Option(help="reader or solved")] = "reader",
    again: Annotated[bool, typer.Option(help="start over")] = False,
) -> None:
    """Execute labs without a browser; goes on where it failed last time."""
    from labsupport.run import run_labs

    raise typer.Exit(run_labs(labs, scale=scale, edition=edition, again=again))


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what the labs will use."""
    from labsupport.doctor import examine, scale_here

    for finding in examine():
        mark = "ok " if finding.good else "!! "
        typer.echo(f"{mark} {finding.name:8} {finding.found:22} {finding.follows}")
    typer.echo(f"\nScale that suits this machine: {scale_here()}")


@app.command()
def record(
    lab: Annotated[str, typer.Argument(help="00")],
    experiment: Annotated[str | None, typer.Argument(help="all if none")] = None,
    scale: Annotated[str | None, typer.Option(help="ci, cpu or gpu")] = None,
    seeds: Annotated[int | None, typer.Option(help="how many")] = None,
) -> None:
    """Record a lab's experiments into data/measurements; resumes by itself."""
    from labsupport.claims.record import experiments_of
    from labsupport.claims.record import record as run_experiment
    from labsupport.settings import choose_scale

    chosen = choose_scale(scale)
    found = experiments_of(lab)
    names = [item.name for item in found]
    if experiment is not None and experiment not in names:
        known = ", ".join(names)
        raise LabError(
            f"Lab {lab} has no experiment {experiment!r}: use one of {known}."
        )
    for item in found:
        if experiment in (None, item.name):
            file = run_experiment(item, chosen, seeds)
            typer.echo(f"Recorded in {file.relative_to(ROOT)}")


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="kernels")] = "kernels",
) -> None:
    """Time the kernels on this machine's GPU, and record it."""
    from kernels.bench import main as time_kernels
    from labsupport.claims.provenance import commit, machine_name
    from labsupport.paths import MEASUREMENTS

    if what != "kernels":
        raise LabError(f"labs bench {what!r}: only 'kernels' can be timed.")
    file = MEASUREMENTS / machine_name() / "kernels.json"
    raise typer.Exit(time_kernels(["--commit", commit(), "--out", str(file)]))


@app.command()
def claims() -> None:
    """Print the ledger: every claim and what the record says of it."""
    from labsupport.claims import ledger

    for row in ledger():
        typer.echo(f"{row['claim']:18} lab {row['lab']:5} {row['article']}")
        typer.echo(f"    {row['sentence']}")


@app.command()
def build(
    labs: Annotated[list[str] | None, typer.Argument(help="all if none")] = None,
    force: Annotated[bool, typer.Option(help="execute even if unchanged")] = False,
) -> None:
    """Make both editions of the notebooks from labs/src."""
    from labsupport.build import build_labs

    build_labs(labs, force=force)


@app.command()
def test(
    everything: Annotated[
        bool, typer.Option("--all", help="the slow tests and other scales too")
    ] = False,
) -> None:
    """Run what CI runs: lint, types, unit, notebook and browser tests."""
    from labsupport.build import NBVAL

    python = [sys.executable, "-m"]
    pytest = [*python, "pytest", *([] if everything else ["-m", "not slow"])]
    # Two lanes beside each other: much of what tests of ranks do is to wait for
    # processes to start. Each lane takes the next step when it is free. Browsers
    # come last, while the cores are quiet.
    others = [f"--ignore=tests/{name}" for name in ("kernels", "labs", "browser")]
    first = {
        "Linting": [*python, "ruff", "check", "."],
        "Checking the format": [*python, "ruff", "format", "--check", "."],
        "Checking types": [*python, "mypy"],
    }
    beside = {
        "Testing the code": [*pytest, "tests", *others],
        "Testing the kernels": [*pytest, "tests/kernels"],
        "Comparing the readers' notebooks with a new run": [
            *(*python, *NBVAL),
            *("labs", "--ignore=labs/solved"),
        ],
        "Testing the labs": [*pytest, "tests/labs"],
        "Comparing the solved notebooks with a new run": [
            *(*python, *NBVAL),
            "labs/solved",
        ],
    }
    half = "test_lab_0[0-4]*"  # about half of the time
    labs = sorted((ROOT / "tests" / "browser").glob(f"{half}.py"))
    browser = {
        "Testing labs 00 to 04 in the browser": [
            *pytest,
            *(str(file.relative_to(ROOT)) for file in labs),
        ],
        "Testing the rest in the browser": [
            *pytest,
            *("tests/browser", f"--ignore-glob=*/{half}"),
        ],
    }
    failed = [title for title, step in first.items() if not _passed(title, step)]
    for steps in (beside, browser):
        with ThreadPoolExecutor(2) as lanes:
            found = lanes.map(_passed, steps, steps.values())
            failed += [title for title, ok in zip(steps, found, strict=True) if not ok]
    if failed:
        raise LabError(f"Failed: {'; '.join(failed)}.")
    typer.echo("Everything passed.")


def _passed(title: str, command: list[str]) -> bool:
    """Run a command; its output comes as a whole, when it has ended."""
    typer.echo(f"{title} ...")
    with tempfile.TemporaryFile("w+") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode
        log.seek(0)
        typer.echo(f"{title}:\n{log.read()}")
    return code == 0


def main() -> None:
    """Entry point: a LabError becomes one line and exit code 1."""
    # Short spinning before a thread sleeps: as fast as the default on free cores,
    # and half the damage where another process wants them (150 steps of lab 00
    # on 2 cores: 4.2 s and 4.3 s alone, 13 s and 29 s beside a busy process).
    # Read once, when torch is loaded; kernels and ranks inherit it.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except LabError as error:
        typer.echo(f"labs: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

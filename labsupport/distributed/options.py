"""The options of the `%%torchrun` line, and which of them go together."""

from __future__ import annotations

import argparse
import keyword
import shlex
from dataclasses import dataclass, field
from typing import Any, NoReturn

from labsupport.distributed.link_speed import LinkSpeed
from labsupport.distributed.links import links_for
from labsupport.errors import LabError


@dataclass(frozen=True)
class Options:
    """What the first line of a cell asks for; the help texts below explain it."""

    nproc: int = 2
    name: str = "ranks"
    timeout: float = 600.0
    push: list[str] = field(default_factory=list)
    save: str | None = None
    may_fail: bool = False
    fresh: bool = False
    keep: bool = False
    max_restarts: int = 0
    nnodes: int = 1
    rdzv_endpoint: str | None = None
    rdzv_id: str | None = None
    traffic: bool = False
    link: str | None = None
    link_rank: list[str] = field(default_factory=list)

    @property
    def links(self) -> list[LinkSpeed] | None:
        """Each rank's link, or None."""
        return links_for(self.nproc, self.link, self.link_rank)


class OptionParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        usage = " ".join(self.format_usage().removeprefix("usage: ").split())
        raise LabError(f"{message}. Use: {usage}")


def option_parser() -> OptionParser:
    parser = OptionParser(
        prog="%%torchrun",
        add_help=False,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=79),
    )

    def add(name: str, metavar: str | None, help: str, **more: Any) -> None:
        if metavar is None:
            parser.add_argument(name, action="store_true", help=help)
        else:
            parser.add_argument(name, metavar=metavar, help=help, **more)

    default = Options()
    add("--nproc", "N", "processes on this machine", type=int, default=default.nproc)
    add("--name", "NAME", "the variable that receives the values", default=default.name)
    add(
        "--timeout",
        "SECONDS",
        "end a cell that takes longer, and show where every rank was; 0: no limit",
        type=float,
        default=default.timeout,
    )
    add(
        "--push",
        "NAME,NAME",
        "variables and functions of the notebook to send to the ranks",
        action="append",
        default=[],
    )
    add("--save", "FILE.py", "also write the cell as a script for plain torchrun")
    add("--may-fail", None, "print a failure's report instead of raising it")
    add("--fresh", None, "start from new processes")
    add("--keep", None, "go on with the ranks of the last --keep cell of this name")
    add(
        "--max-restarts",
        "N",
        "start all ranks anew, up to N times, when one has failed",
        type=int,
        default=default.max_restarts,
    )
    add(
        "--nnodes",
        "N",
        "machines that run this cell together",
        type=int,
        default=default.nnodes,
    )
    add("--rdzv-endpoint", "HOST:PORT", "where the machines meet: the first one's")
    add("--traffic", None, "count what the ranks send each other, and show it")
    add("--link", "RATE,DELAY", "give every rank a link such as 100mbit,5ms or 1gbit")
    add(
        "--link-rank",
        "RANK=RATE,DELAY",
        "give one rank another link; may be repeated",
        action="append",
        default=[],
    )
    add("--rdzv-id", "ID", "what the machines call this run; the cell's name if absent")
    return parser


def parse_options(line: str) -> Options:
    """The options of the magic's first line.

    Raises:
        LabError: an unknown option, a value out of range, or two options that
            exclude each other.
    """
    try:
        given = vars(option_parser().parse_args(shlex.split(line)))
    except ValueError as error:  # an unclosed quotation mark
        raise LabError(f"{error} in `{line}`.") from None
    pushed = [name.strip() for names in given.pop("push") for name in names.split(",")]
    options = Options(push=[name for name in pushed if name], **given)
    check_values(options)
    check_together(options)
    return options


def check_values(options: Options) -> None:
    for name, value, least in (
        ("--nproc", options.nproc, "1 process"),
        ("--nnodes", options.nnodes, "1 machine"),
        ("--max-restarts", options.max_restarts, "0 restarts"),
    ):
        if value < int(least.split()[0]):
            raise LabError(f"{name} {value}: use at least {least}.")
    if not options.timeout >= 0:
        raise LabError(
            f"--timeout {options.timeout:g}: use seconds, or 0 for no limit."
        )
    if not options.name.isidentifier() or keyword.iskeyword(options.name):
        raise LabError(
            f"--name {options.name}: use a Python name; the cell's values arrive in "
            "the variable of that name."
        )
    endpoint = options.rdzv_endpoint
    if endpoint is not None and not endpoint.rpartition(":")[2].isdecimal():
        raise LabError(
            f"--rdzv-endpoint {endpoint}: use HOST:PORT, the first machine's address "
            "and a port that is free there, as in 10.0.0.1:29500."
        )


def check_together(options: Options) -> None:
    several = options.nnodes > 1
    if options.links is not None and several:
        raise LabError("--link shapes links on one machine only: leave out --nnodes.")
    if several and options.rdzv_endpoint is None:
        raise LabError(
            f"--nnodes {options.nnodes} needs --rdzv-endpoint HOST:PORT, the first "
            "machine's address, the same on every machine."
        )
    if options.rdzv_endpoint is not None and not several:
        raise LabError("--rdzv-endpoint is for several machines: add --nnodes N.")
    if options.keep and several:
        raise LabError("--keep works on one machine only: leave out --nnodes.")
    if options.keep and options.max_restarts:
        raise LabError(
            "--keep and --max-restarts exclude each other: a rank that starts anew "
            "has lost what was kept."
        )

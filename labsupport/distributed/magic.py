"""The `%%torchrun` cell magic: options, what is pushed, and the report."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from labsupport.distributed import launch
from labsupport.distributed.folders import RunFolder, new_run_folder
from labsupport.distributed.options import option_parser, parse_options
from labsupport.distributed.ranks import Ranks, RanksFailed
from labsupport.errors import LabError

if TYPE_CHECKING:
    from labsupport.distributed.functions import Pushed


def check_syntax(body: str) -> None:
    """Find a syntax error before any process is started."""
    try:
        compile(body, "cell", "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.lineno or 1) + 1  # line 1 is the magic itself
        code = (error.text or "").strip()
        raise LabError(
            f"cell line {line}: {type(error).__name__}: {error.msg}\n    {code}\n"
            "The body runs as plain Python: no % or ! lines."
        ) from None
    if not body.strip():
        raise LabError("the cell has no body: write what every rank shall run.")


def collect(names: list[str], namespace: dict[str, Any], body: str) -> Pushed | None:
    """What `--push` asks for, with everything it needs; None for nothing.

    Raises:
        LabError: a name the notebook does not have, or what cannot be sent.
    """
    if not names:
        return None
    from labsupport.distributed.functions import Pushed, assigned_names

    pushed = Pushed(namespace, defined_by_cell=assigned_names(body))
    for name in names:
        if name not in namespace:
            known = [key for key in namespace if not key.startswith("_")]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise LabError(f"--push {name}: the notebook has no {name!r}.{hint}")
        pushed.add(name, namespace[name])
    return pushed


def write_run(folder: RunFolder, line: str, body: str, pushed: Pushed | None) -> None:
    """Write what the ranks read. The cell's first line stays a line, so that
    line numbers are those the reader sees.
    """
    first = " ".join(f"# %%torchrun {line}".split())
    folder.cell.write_text(f"{first}\n{body}", encoding="utf-8")
    if pushed is None:
        return
    if pushed.imports or pushed.definitions:
        folder.pushed_source.write_text(pushed.source(), encoding="utf-8")
    if pushed.values:
        from labsupport.distributed import values

        values.save(folder.pushed_values, pushed.values, called="a pushed value")


def torchrun(line: str, body: str, namespace: dict[str, Any]) -> None:
    """Run a cell; its outcome is `namespace[--name]`.

    Raises:
        LabError: a mistake in the first line, or in what is pushed.
        RanksFailed: the cell failed, and `--may-fail` was not given.
        RunInterrupted: the reader stopped it.
    """
    options = parse_options(line)
    # What an earlier run left must not be taken for this one's.
    if isinstance(namespace.get(options.name), Ranks):
        del namespace[options.name]
    check_syntax(body)
    launch.check_size(options.nproc)
    pushed = collect(options.push, namespace, body)
    if options.save:
        from labsupport.distributed.functions import Pushed
        from labsupport.distributed.script import check_target, save_script

        target = check_target(options.save)
        save_script(target, body, pushed or Pushed({}, set()), options)
    folder = new_run_folder(options.name)
    write_run(folder, line, body, pushed)
    ranks = launch.run(folder, options)
    namespace[options.name] = ranks
    if ranks.error is None:
        return
    report = ranks.error.report + hint(ranks, namespace, options.keep)
    if not options.may_fail:
        raise RanksFailed(ranks.error, report)
    print(report)


def hint(ranks: Ranks, namespace: dict[str, Any], keeps: bool) -> str:
    """What to do about the most frequent mistakes. A rank is a new process: a name
    of the notebook is unknown there.
    """
    error = ranks.error
    twice = error is not None and "default process group twice" in error.message
    if twice and keeps:
        return "\nRanks that --keep holds still have their process group: leave it out."
    if error is None or error.type != "NameError":
        return ""
    _, _, rest = error.message.partition("name '")
    name = rest.partition("'")[0]
    if name not in namespace:
        return ""
    return f"\n{name} exists in the notebook only: add --push {name} to the first line."


def load(ipython: Any) -> None:
    """Register `%%torchrun` with an IPython shell."""

    def magic(line: str, cell: str) -> None:
        torchrun(line, cell, ipython.user_ns)

    magic.__doc__ = (
        f"Run the cell on several processes.\n\n{option_parser().format_help()}"
    )
    ipython.register_magic_function(magic, "cell", "torchrun")

"""Ranks that `--keep` holds between cells, with their variables."""

from __future__ import annotations

from dataclasses import dataclass

from labsupport.distributed import pool, processes
from labsupport.distributed.folders import RunFolder
from labsupport.distributed.link_speed import LinkSpeed
from labsupport.distributed.options import Options
from labsupport.distributed.pool import Pool


@dataclass(frozen=True)
class Kept:
    """Ranks that wait for their next cell.

    Attributes:
        home: the folder with which the agent started them.
        folder: the folder of their latest cell; they look into it for the next.
    """

    pool: Pool
    nproc: int
    links: list[LinkSpeed] | None
    home: RunFolder
    folder: RunFolder


_kept: dict[str, Kept] = {}


def hold(options: Options, agent: Pool, home: RunFolder, folder: RunFolder) -> None:
    """Remember ranks that have run a --keep cell and wait for the next."""
    _kept[options.name] = Kept(agent, options.nproc, options.links, home, folder)


def take(options: Options) -> Kept | None:
    """The ranks that the cell goes on with; None when it starts new ones.

    Kept ranks that the cell cannot use are ended, and if the reader asked for
    them, one line says why.
    """
    kept = _kept.pop(options.name, None)
    if kept is None:
        return None
    reason = why_not(kept, options)
    if reason is None:
        if kept.folder != kept.home:
            kept.folder.finished.touch()
        return kept
    end(kept)
    if options.keep and not options.fresh:
        print(f"{reason}: new processes, without the earlier cells' variables")
    return None


def why_not(kept: Kept, options: Options) -> str | None:
    """Why a cell cannot go on with these ranks."""
    if not options.keep or options.fresh:
        return "not asked for"
    alive = {process.pid for process in kept.pool.cell_processes()}
    ranks = processes.rank_pids(kept.folder, kept.nproc).values()
    if kept.pool.has_answered(0) or not alive.issuperset(ranks):
        return f"a process of {options.name} has ended since"
    if kept.nproc != options.nproc:
        return f"{options.name} had {kept.nproc} processes, not {options.nproc}"
    if kept.links != options.links:
        return f"{options.name} had other links"
    if kept.pool.environment != pool.environment():
        return "the notebook has changed os.environ"
    return None


def end(kept: Kept) -> None:
    kept.pool.end()
    kept.home.finished.touch()
    kept.folder.finished.touch()


def end_kept() -> None:
    """End all ranks that wait for a cell."""
    while _kept:
        end(_kept.popitem()[1])

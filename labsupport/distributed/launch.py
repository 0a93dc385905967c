"""Run a cell on an agent, watch it, end what is left of it."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labsupport.distributed import failures, kept, pool, processes
from labsupport.distributed.folders import RunFolder, read_json, write_json
from labsupport.distributed.metrics import MetricsChannel
from labsupport.distributed.options import Options
from labsupport.distributed.output import Screen
from labsupport.distributed.pool import Pool
from labsupport.distributed.ranks import RankError, Ranks, RunInterrupted
from labsupport.errors import LabError
from labsupport.settings import is_interactive

if TYPE_CHECKING:
    from labsupport.distributed.traffic_report import Traffic

LOOK_EVERY_S = 0.05
RANKS_PER_CORE = 16
_said: set[str] = set()


def say_once(key: str, sentence: str) -> None:
    """Print a remark about this machine once per kernel, not once per cell."""
    if key not in _said:
        _said.add(key)
        print(sentence, flush=True)


def cores() -> int:
    """The CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_size(nproc: int) -> None:
    """Refuse what would only make the machine unusable; warn of what is slow."""
    if os.name == "nt":
        raise LabError("%%torchrun needs Linux or macOS; on Windows, use WSL.")
    most = RANKS_PER_CORE * cores()
    if nproc > most:
        raise LabError(
            f"--nproc {nproc} is too many for {cores()} CPU cores: use at most {most}."
        )
    if nproc > cores():
        say_once(
            "slow", f"{nproc} processes share {cores()} CPU cores: correct, but slow"
        )


def write_settings(folder: RunFolder, options: Options) -> None:
    """What a rank has to know: where to import from, where to stand, and
    whether to stay when the cell is done.
    """
    content = {
        "sys_path": [os.path.abspath(entry) for entry in sys.path],  # noqa: PTH100
        "cwd": os.getcwd(),  # noqa: PTH109
        "keep": options.keep,
        "traffic": options.traffic,
    }
    write_json(folder.settings, content)


def torchrun_arguments(options: Options) -> dict[str, str]:
    """What the cell asks of torchrun beyond the agent's defaults."""
    arguments = {}
    if options.max_restarts:
        arguments["--max-restarts"] = str(options.max_restarts)
    if options.nnodes > 1:
        arguments["--nnodes"] = str(options.nnodes)
        arguments["--rdzv-endpoint"] = str(options.rdzv_endpoint)
        arguments["--rdzv-id"] = options.rdzv_id or options.name
    return arguments


def oom_kills() -> int:
    """How many processes the system has ended for want of memory since it started."""
    try:
        counters = dict(map(str.split, Path("/proc/vmstat").read_text().splitlines()))
    except OSError:  # not Linux
        return 0
    return int(counters.get("oom_kill", 0))


class Watch:
    """One run, seen from the kernel.

    Attributes:
        home: the folder with which the agent started these ranks; the run's own
            unless the ranks were kept from an earlier cell.
        answered: the agent has said that the ranks have ended.
    """

    def __init__(
        self, pool: Pool, folder: RunFolder, home: RunFolder, options: Options
    ) -> None:
        self.pool, self.folder, self.home = pool, folder, home
        self.options = options
        self.screen = Screen(folder, options.nproc, is_interactive())
        self.metrics = MetricsChannel(folder, options.nproc, is_interactive())
        self.answered = False
        self.oom_kills = oom_kills()
        self.machine_said = False
        self.restarts_said = 0

    def until_end(self) -> RankError | None:
        """Show output until the ranks have ended or the time is up."""
        seconds = self.options.timeout
        deadline = time.monotonic() + seconds if seconds else float("inf")
        while True:
            self.answered = self.pool.has_answered(LOOK_EVERY_S)
            self.show()
            if self.answered:
                return self.outcome()
            if self.options.keep and self.all_done():
                return None
            if time.monotonic() > deadline:
                return self.timed_out()

    def show(self) -> None:
        self.machine_said = self.machine_said or self.say_machine()
        self.screen.update()
        self.metrics.update()
        self.say_restarts()

    def all_done(self) -> bool:
        """Whether every rank has run the cell and waits for the next one."""
        ends = [read_json(self.folder.end(r)) for r in range(self.options.nproc)]
        return all(end is not None and end["kind"] == "done" for end in ends)

    def outcome(self) -> RankError | None:
        """The root cause once the agent has answered, or ended."""
        end = read_json(self.home.agent_end)
        if end is None or end["error"]:
            return failures.launch_failed(self.home, self.pool.agent.poll())
        if oom_kills() > self.oom_kills:
            self.folder.out_of_memory.touch()
        codes = {int(rank): code for rank, code in end["exitcodes"].items()}
        return failures.diagnose(self.folder, codes)

    def never_began(self) -> bool:
        """The agent had been idle and ended as the cell came: no rank has run
        any of it, so it may be run.
        """
        if not self.answered or self.home != self.folder:
            return False
        began = processes.rank_pids(self.folder, self.options.nproc)
        return not began and not self.home.agent_end.exists()

    def timed_out(self) -> RankError:
        ranks = processes.rank_pids(self.folder, self.options.nproc)
        asked = processes.ask_for_stacks(self.folder, ranks, self.pool.cell_processes())
        return failures.timed_out(
            self.folder, self.options.nproc, self.options.timeout, asked
        )

    def say_machine(self) -> bool:
        """Say which backend there is, if it is not the one a reader expects."""
        machine = read_json(self.home.machine)
        if machine is None:
            return False
        gpus = machine["gpus"]
        if machine["network"]:
            print(machine["network"], flush=True)
        elif self.options.links:
            print(f"links emulated in the ranks' calls: {why_not_shaped()}", flush=True)
            if machine["backend"] != "gloo":
                print(f"but not those of {machine['backend']}", flush=True)
        if machine["backend"] == "gloo":
            if gpus == 0:
                say_once("gloo", "no GPU: gloo on CPU")
            else:
                say_once(
                    "few", f"{self.options.nproc} processes, {gpus} GPU: gloo on CPU"
                )
        return True

    def say_restarts(self) -> None:
        """One line for every attempt that torchrun has given up."""
        attempts = read_json(self.home.attempts) or []
        for attempt in range(self.restarts_said, len(attempts)):
            codes = {int(rank): code for rank, code in attempts[attempt].items()}
            error = failures.diagnose(self.folder, codes, attempt)
            why = error.report.partition("\n")[0] if error else "it asked for it"
            count = f"{attempt + 1} of {self.options.max_restarts}"
            self.screen.show(f"[restart {count}: {why}]\n")
        self.restarts_said = len(attempts)

    def interrupt_ranks(self) -> None:
        ranks = processes.rank_pids(self.folder, self.options.nproc)
        processes.interrupt(ranks, self.pool.cell_processes())


def run(folder: RunFolder, options: Options) -> Ranks:
    """Run the cell in `folder` and wait for it.

    Raises:
        RunInterrupted: the reader stopped the cell; all processes have ended.
    """
    write_settings(folder, options)
    watch: Watch | None = None
    interrupted, stays = False, False
    error, traffic = None, None
    try:
        watch = start(folder, options)
        error = watch.until_end()
        if watch.never_began():
            end_run(watch, gently=False)
            watch = start(folder, dataclasses.replace(options, fresh=True))
            error = watch.until_end()
        stays = options.keep and error is None and not watch.answered
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if watch is not None and not stays:
            end_run(watch, gently=interrupted)
    if watch is not None:
        watch.show()
        watch.screen.finish()
        watch.metrics.finish()
        if options.traffic:
            traffic = read_traffic(folder, options.nproc)
            print(traffic, flush=True)
    if watch is not None and stays:
        kept.hold(options, watch.pool, watch.home, folder)
    else:
        folder.finished.touch()
    if interrupted:
        count = options.nproc
        word = "process" if count == 1 else "processes"
        raise RunInterrupted(f"stopped; all {count} {word} have ended")
    shared = [read_values(folder, rank) for rank in range(options.nproc)]
    rows = [] if watch is None else watch.metrics.rows
    first = failures.place(folder, options.nproc)[0]
    return Ranks(shared, error, folder.shown, rows, traffic, first)


def start(folder: RunFolder, options: Options) -> Watch:
    """Hand the cell to the ranks that were kept, or to an agent."""
    earlier = kept.take(options)
    if earlier is not None:
        write_json(earlier.folder.next, {"folder": str(folder.path)})
        return Watch(earlier.pool, folder, earlier.home, options)
    links = [str(link) for link in options.links or []]
    shaped = bool(links) and why_not_shaped() is None
    agent = pool.borrow(folder.agent_log, options.fresh, links if shaped else ())
    try:
        agent.request(
            folder=str(folder.path),
            nproc=options.nproc,
            links=links,
            arguments=torchrun_arguments(options),
        )
        return Watch(agent, folder, folder, options)
    except BaseException:
        agent.end()
        raise


def end_run(watch: Watch, gently: bool) -> None:
    """No process of the cell is left when this returns, not even if the reader
    interrupts a second time.
    """
    try:
        if gently:
            watch.interrupt_ranks()
        watch.pool.end_cell(watch.answered)
    except KeyboardInterrupt:
        watch.pool.end()
    watch.home.finished.touch()
    pool.give_back(watch.pool)


@functools.cache
def why_not_shaped() -> str | None:
    """Why links are emulated here and not really shaped; None if they are."""
    from labsupport.distributed.network import what_prevents_shaping

    return what_prevents_shaping()


def read_traffic(folder: RunFolder, nproc: int) -> Traffic:
    from labsupport.distributed import traffic_report

    paths = [folder.traffic(rank) for rank in range(nproc)]
    return traffic_report.read_traffic(paths, failures.place(folder, nproc)[0])


def read_values(folder: RunFolder, rank: int) -> dict[str, Any]:
    """What one rank shared, by name, in the order of sharing."""
    place = folder.values(rank)
    if not place.is_dir():
        return {}
    from labsupport.distributed import values

    files = sorted(
        place.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns
    )
    return {path.stem: values.load(path) for path in files}

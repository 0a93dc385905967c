"""Time the compiled kernels on a GPU, beside what else there is.

    python -m kernels.bench --commit "$(git rev-parse HEAD)" --out FILE

Each kernel is first held against its reference; nothing is timed unless every
result is right. Then p20, p50 and p80 over rotating inputs that together
exceed the cache, and the share of a roofline that is measured in the same run.
FILE is JSON and says where it comes from; `kernels.bench_record.stale` tells
when a kernel is no longer the one that was timed.

Needs torch, triton and a CUDA GPU, and no Jupyter. Not run yet on a GPU: what
is tested (on a CPU, with made-up times) is everything but the timing itself.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import kernels
from kernels.bench_check import (
    DTYPES,
    BenchError,
    check_all,
    cotangents,
    dtype_name,
    fault,
    leaves,
    numbers,
    outputs,
)
from kernels.bench_record import fingerprints, origin

if TYPE_CHECKING:  # at run time they bring in Triton; refusals come first
    from kernels.bench_cases import Bench
    from kernels.bench_timing import Call, Roofline, Timer

Function = Callable[..., Any]


@dataclass(frozen=True)
class Setting:
    """Under what conditions to measure.

    Attributes:
        timer: `CudaTimer()`, or made-up times in a test.
        roofline: as measured in this run.
        cache: bytes of the largest cache, which the inputs together exceed.
        device: "cuda".
        with_compile: whether to time `torch.compile` too.
    """

    timer: Timer
    roofline: Roofline
    cache: int
    device: str = "cuda"
    with_compile: bool = True


def refuse_without_gpu() -> None:
    """Raise BenchError unless this process runs compiled kernels."""
    if not kernels.HAS_TRITON:
        raise BenchError("Triton is not installed here, so there is nothing to time.")
    if kernels.INTERPRETED or not torch.cuda.is_available():
        raise BenchError(
            "kernels are interpreted in this process, and the interpreter's time says "
            "nothing about a kernel: run this where there is a CUDA GPU, without "
            "TRITON_INTERPRET."
        )


def measure(
    benches: Sequence[Bench],
    setting: Setting,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Check every kernel, then time all. Returns the record without its origin.

    Raises:
        BenchError: a kernel is wrong; then nothing has been timed.
    """
    units = setting.roofline.flops_per_s
    runs = [each for each in benches if each.arithmetic in (None, *units)]
    check_all(runs, setting.device)
    rows, left_out = [], [_without_units(each) for each in benches if each not in runs]
    for bench in runs:
        for shape in bench.shapes:
            for dtype in bench.dtypes:
                for row in _rows(bench, shape, dtype, setting):
                    if "reason" in row:
                        left_out.append(row)
                    else:
                        rows.append(row)
                        report(_line(row))
    return {
        "roofline": asdict(setting.roofline),
        "cache_bytes": setting.cache,
        "fingerprints": fingerprints(benches),
        "rows": rows,
        "left_out": left_out,
    }


def _without_units(bench: Bench) -> dict[str, Any]:
    """What is left out on a GPU that cannot multiply in the dtype."""
    reason = f"this GPU multiplies no {bench.arithmetic}"
    return {"operation": bench.name, "implementation": "kernel", "reason": reason}


def _rows(
    bench: Bench, shape: tuple[int, ...], dtype: torch.dtype, setting: Setting
) -> Iterator[dict[str, Any]]:
    """Every implementation in both directions, on the same inputs.

    An implementation that stands beside the kernel and is missing, breaks or is
    wrong gives a row with a reason instead of times.
    """
    from kernels.bench_timing import copies_needed, percentiles, rates

    device, name = setting.device, dtype_name(dtype)
    costs = {"forward": bench.cost(*shape, dtype)}
    if bench.backward_cost:
        costs["backward"] = bench.backward_cost(*shape, dtype)
    generator = torch.Generator(device).manual_seed(0)
    sets = []
    for _ in range(copies_needed(costs["forward"].bytes, setting.cache)):
        arguments = bench.inputs(*shape, dtype, generator)
        sets.append((arguments, cotangents(bench, arguments, generator)))
    for implementation, load in _contestants(bench, setting.with_compile).items():
        row: dict[str, Any] = {
            "operation": bench.name,
            "implementation": implementation,
            "shape": list(shape),
            "axes": bench.axes,
            "dtype": name,
        }
        try:
            function = load()
            wrong = fault(bench, function, shape, dtype, device)
            if wrong:
                yield {**row, "reason": f"wrong: {wrong}"}
                continue
            for direction, cost in costs.items():
                times = percentiles(setting.timer(_calls(function, sets, direction)))
                yield {
                    **row,
                    "direction": direction,
                    "ms": asdict(times),
                    **asdict(cost),
                    **rates(cost, times, setting.roofline, bench.arithmetic or name),
                    "input_sets": len(sets),
                }
        except Exception as error:  # a peer fails in its own ways
            if implementation == "kernel":
                raise
            words = str(error).strip().splitlines() or ["no message"]
            yield {**row, "reason": f"{type(error).__name__}: {words[0]}"}


def _contestants(bench: Bench, with_compile: bool) -> dict[str, Callable[[], Function]]:
    """Name -> what returns the implementation, or raises if it is not there."""

    def compiled() -> Function:
        # Forget other shapes: after a few, compile would fall back to eager.
        torch.compiler.reset()
        function: Function = torch.compile(bench.reference, dynamic=False)
        return function

    found: dict[str, Callable[[], Function]] = {
        "kernel": lambda: bench.kernel,
        "reference": lambda: bench.reference,
    }
    eager = bench.eager
    if eager:
        found["eager"] = lambda: eager
    if bench.peer:
        found[bench.peer_name] = bench.peer
    return {**found, "compile": compiled} if with_compile else found


def _calls(function: Function, sets: Sequence[Any], direction: str) -> list[Call]:
    """One call for each set of inputs: (arguments, cotangents)."""
    if direction == "forward":
        return [partial(_forward, function, arguments) for arguments, _ in sets]
    return [
        partial(
            torch.autograd.grad,
            numbers(outputs(function(*arguments))),
            leaves(arguments),
            dys,
            retain_graph=True,
        )
        for arguments, dys in sets
    ]


def _forward(function: Function, arguments: Sequence[Tensor]) -> Any:
    with torch.no_grad():
        return function(*arguments)


def _line(row: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, row["shape"]))
    return (
        f"{row['operation']:11} {row['direction']:8} {shape:12} {row['dtype']:8} "
        f"{row['implementation']:12} {row['ms']['p50']:8.4f} ms "
        f"{row['gbytes_per_s']:7.0f} GB/s {row['share']:6.1%} of the roofline"
    )


def _setting_of_this_gpu() -> Setting:
    import torch._functorch.config as functorch

    from kernels.bench_timing import CudaTimer, measure_roofline

    # Every graph is gone through backward many times.
    functorch.donated_buffer = False
    timer = CudaTimer()
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    is_new = torch.version.hip is None and torch.cuda.get_device_capability(0) >= (8, 9)
    dtypes = (*DTYPES, torch.float8_e4m3fn) if is_new else DTYPES
    roofline = measure_roofline(timer, torch.device("cuda"), dtypes)
    return Setting(timer, roofline, cache)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description="Time the compiled kernels."
    )
    parser.add_argument("--commit", required=True, help='"$(git rev-parse HEAD)"')
    parser.add_argument("--out", required=True, type=Path, help="the JSON to write")
    options = parser.parse_args(arguments)
    try:
        refuse_without_gpu()
        where_from = origin(options.commit)
        from kernels.bench_cases import all_benches

        record = measure(all_benches(), _setting_of_this_gpu())
    except BenchError as error:
        print(f"kernels.bench: {error}", file=sys.stderr)
        return 1
    command = shlex.join(["python", "-m", "kernels.bench", *arguments])
    content = {"command": command, "origin": where_from, **record}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

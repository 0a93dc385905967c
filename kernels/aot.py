"""Compile every kernel for every GPU generation, without a GPU.

    python -m kernels.aot                  a table
    python -m kernels.aot --json FILE      the same as JSON, which the tests read
    python -m kernels.aot --markdown       the table of kernels/README.md
    python -m kernels.aot --store          write compiled.json
    python -m kernels.aot --fresh          compile everything again
    python -m kernels.aot my_kernels       your own module with SPECS

It compiles what launches at the benchmark's shapes compile: pointers, sizes
and strides divisible by 16, which lets Triton load 16 bytes at a time. (A type
such as "i32:1" in a signature says that an argument is not.) It exits with 1
if something is wrong: see `kernels.aot_table.faults`.

Interpreted kernels cannot be compiled in the same process, so the command
starts itself again where there is no GPU. Results are kept under a hash of the
kernel without its comments, its configuration, the target and Triton's version:
those of this package's kernels in compiled.json, which is committed, as all of
them take minutes; others in $LABS_CACHE or ~/.cache/efficient-training-lab.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kernels
from kernels.aot_table import Report, faults, markdown_table, text_table
from kernels.binary import usage_of
from kernels.fingerprint import configuration, digest

if TYPE_CHECKING:  # at run time it would import Triton before main has decided
    from kernels.operation import KernelSpec

TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),  # A100
    "sm_86": ("cuda", 86, 32),  # RTX 30
    "sm_89": ("cuda", 89, 32),  # RTX 40, L4
    "sm_90": ("cuda", 90, 32),  # H100, H200
    "sm_100": ("cuda", 100, 32),  # B200
    "sm_120": ("cuda", 120, 32),  # RTX 50
    "gfx942": ("hip", "gfx942", 64),  # MI300
}
"""Name -> Triton's backend, architecture and threads in a warp."""

_NVIDIA = [name for name in TARGETS if name.startswith("sm_")]
ONLY_ON = {
    "fp8e4nv": _NVIDIA[_NVIDIA.index("sm_89") :],
    "fp8e5": _NVIDIA,
    "fp8e4b8": ["gfx942"],
    "fp8e5b16": ["gfx942"],
}
"""The targets that have a dtype; a dtype that is not here is everywhere."""

STORE = Path(__file__).with_name("compiled.json")
"""What this package's kernels compiled to, by key."""

FORMAT = 1
"""Raise it when what is stored in the cache changes its meaning."""


def has_dtypes(spec: KernelSpec, target: str) -> bool:
    """Whether a target has every dtype in a spec's arguments and constants."""
    types = [each.split(":")[0].lstrip("*") for each in spec.signature.values()]
    types += [str(value) for value in spec.constexprs.values()]
    return all(target in ONLY_ON.get(each, TARGETS) for each in types)


def compile_spec(spec: KernelSpec, target: str) -> Report:
    """Compile one configuration for one target and read what it takes.

    A dtype that the target lacks and an error of the compiler are both
    reported, not raised.
    """
    row = Report(spec.kernel.fn.__module__, spec.label, target)
    if not has_dtypes(spec, target):
        return row
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, divisible = _arguments(spec)
    source = ASTSource(
        spec.kernel, signature, constexprs=dict(spec.constexprs), attrs=divisible
    )
    options = {"num_warps": spec.num_warps, "num_stages": spec.num_stages}
    try:
        compiled = triton_compile(
            source, target=GPUTarget(*TARGETS[target]), options=options
        )
        return Report(row.module, row.label, target, usage=usage_of(compiled))
    except Exception as error:  # each stage of the compiler has its own errors
        return Report(row.module, row.label, target, error=_one_line(error))


def _arguments(spec: KernelSpec) -> tuple[dict[str, str], dict[Any, Any]]:
    """The signature in Triton's form, and which arguments 16 divides."""
    signature, divisible = {}, {}
    for place, parameter in enumerate(spec.kernel.params):
        if parameter.name in spec.constexprs:
            signature[parameter.name] = "constexpr"
            continue
        kind, _, known = spec.signature[parameter.name].partition(":")
        signature[parameter.name] = kind
        fixed = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        if kind[0] in "*iu" and known in ("", "16") and not fixed:
            divisible[(place,)] = [["tt.divisibility", 16]]
    return signature, divisible


def _one_line(error: Exception) -> str:
    """The last line that says something, which is where Triton puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^\n")]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def cache_folder() -> Path:
    home = os.environ.get("LABS_CACHE") or "~/.cache/efficient-training-lab"
    return Path(home).expanduser() / "aot"


def keys_of(spec: KernelSpec) -> dict[str, str]:
    """A key for each target, which changes with all that changes what is compiled."""
    import triton

    known = configuration(spec)
    return {
        target: digest([FORMAT, triton.__version__, target, known])
        for target in TARGETS
    }


@cache
def stored() -> dict[str, Any]:
    """The committed reports, by key."""
    reports: dict[str, Any] = json.loads(STORE.read_text())
    return reports


def cached(
    spec: KernelSpec, target: str, key: str, fresh: bool = False
) -> tuple[Report, bool]:
    """The report of one configuration, and whether it was compiled just now.

    Args:
        key: the target's of `keys_of`.
        fresh: compile it in any case.
    """
    file = cache_folder() / f"{key}.json"
    try:
        if fresh:
            raise KeyError(key)
        row = stored().get(key) or json.loads(file.read_text())
        found = Report.from_json(row)
        # Two labels can stand for one configuration.
        module = spec.kernel.fn.__module__
        return Report(module, spec.label, target, found.usage, found.error), False
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or from a run that was cut off
    report = compile_spec(spec, target)
    if report.error is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(report.as_json()))
        new.replace(file)
    return report, True


def operation_modules() -> list[str]:
    """The modules of this package that define SPECS."""
    found = []
    for module in pkgutil.iter_modules(kernels.__path__):
        source = Path(kernels.__path__[0]) / f"{module.name}.py"
        lines = source.read_text().splitlines() if source.exists() else []
        if any(line.startswith(("SPECS =", "SPECS:")) for line in lines):
            found.append(f"kernels.{module.name}")
    return found


def all_specs(modules: Sequence[str]) -> Iterator[KernelSpec]:
    for name in modules:
        yield from importlib.import_module(name).SPECS


def compile_all(
    modules: Sequence[str], fresh: bool = False
) -> tuple[list[Report], int]:
    """Every spec of the modules for every target; how many were compiled now.

    Args:
        fresh: compile all of them, whatever is known.
    """
    reports, compiled = [], 0
    with tempfile.TemporaryDirectory(prefix="labs-aot-") as folder:
        # Triton's own cache would keep what is never run.
        os.environ["TRITON_CACHE_DIR"] = folder
        for spec in all_specs(modules):
            for target, key in keys_of(spec).items():
                report, compiled_now = cached(spec, target, key, fresh)
                reports.append(report)
                compiled += compiled_now
    return reports, compiled


def store(modules: Sequence[str], reports: Sequence[Report]) -> None:
    """Write compiled.json: what `compile_all` found, a line each."""
    keys = [key for spec in all_specs(modules) for key in keys_of(spec).values()]
    lines = sorted(
        f"{json.dumps(key)}: {json.dumps(report.as_json())}"
        for key, report in zip(keys, reports, strict=True)
    )
    STORE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    stored.cache_clear()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.aot",
        description="Compile every kernel for every GPU generation, without a GPU.",
    )
    parser.add_argument("modules", nargs="*", help="default: all of kernels/")
    parser.add_argument("--json", type=Path, help="write the report to this file")
    parser.add_argument(
        "--markdown", action="store_true", help="print a table for docs"
    )
    parser.add_argument(
        "--store", action="store_true", help=f"write kernels/{STORE.name}"
    )
    parser.add_argument("--fresh", action="store_true", help="compile everything again")
    options = parser.parse_args(arguments)
    if options.store and options.modules:
        parser.error("--store is for all of kernels/: leave the modules out")
    if not kernels.HAS_TRITON:
        parser.exit(1, "kernels.aot: Triton is not installed (Linux only).\n")
    if kernels.INTERPRETED:
        _start_again(sys.argv[1:] if arguments is None else arguments)
    import triton

    modules = options.modules or operation_modules()
    reports, compiled = compile_all(modules, options.fresh)
    wrong = faults(reports)
    if options.store:
        store(modules, reports)
    table = markdown_table if options.markdown else text_table
    print(table(reports, list(TARGETS), triton.__version__))
    if options.json:
        content = {
            "triton": triton.__version__,
            "targets": list(TARGETS),
            "compiled_now": compiled,
            "faults": wrong,
            "rows": [report.as_json() for report in reports],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    for sentence in wrong:
        print(f"kernels.aot: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def _start_again(arguments: Sequence[str]) -> None:
    """Replace this process by one in which Triton compiles."""
    environment = {**os.environ, "LABS_AOT": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "kernels.aot", *arguments]
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    sys.exit(main())

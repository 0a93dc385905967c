"""Every kernel compiles for every GPU generation, and a bad one is caught."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import kernels
from kernels import aot
from kernels.aot_table import MOST_SHARED

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not kernels.HAS_TRITON, reason="needs Triton")

BAD_KERNELS = """
from kernels.language import jit, tl
from kernels.operation import KernelSpec


@jit
def spilling_kernel(x_ptr, N, BLOCK: tl.constexpr):
    # One warp holds 16384 numbers: 512 registers a thread, and there are 255.
    n = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + n, mask=n < N, other=0.0)
    tl.store(x_ptr + n, x / tl.sum(x, axis=0), mask=n < N)


@jit
def matmul_kernel(a_ptr, b_ptr, c_ptr, K, SIDE: tl.constexpr, BLOCK_K: tl.constexpr):
    m, k = tl.arange(0, SIDE), tl.arange(0, BLOCK_K)
    c = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, K, BLOCK_K):
        a = tl.load(a_ptr + m[:, None] * K + (start + k)[None, :])
        b = tl.load(b_ptr + (start + k)[:, None] * SIDE + m[None, :])
        c = tl.dot(a, b, c)
    tl.store(c_ptr + m[:, None] * SIDE + m[None, :], c)


@jit
def wrong_kernel(x_ptr, N):
    tl.store(x_ptr, tl.load(x_ptr) @ N)


@jit
def copy_kernel(x_ptr, y_ptr, N, BLOCK: tl.constexpr):
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + n, tl.load(x_ptr + n, mask=n < N).to(tl.float32), mask=n < N)


def spec(kernel, signature, constexprs, num_warps, num_stages, label):
    return KernelSpec(
        kernel.fn.__name__, kernel, signature, constexprs, num_warps, num_stages, label
    )


x = {"x_ptr": "*fp32", "N": "i32"}
ab = {"a_ptr": "*bf16", "b_ptr": "*bf16", "c_ptr": "*fp32", "K": "i32"}
fp8 = {"x_ptr": "*fp8e4nv", "y_ptr": "*fp32", "N": "i32"}
tile = {"SIDE": 128, "BLOCK_K": 64}
SPECS = [
    spec(spilling_kernel, x, {"BLOCK": 16384}, 1, 1, "spilling"),
    spec(matmul_kernel, ab, tile, 8, 6, "greedy"),
    spec(matmul_kernel, ab, {"SIDE": 64, "BLOCK_K": 32}, 4, 3, "modest"),
    spec(wrong_kernel, x, {}, 4, 1, "wrong"),
    spec(copy_kernel, fp8, {"BLOCK": 1024}, 4, 1, "fp8"),
]
"""


COMPILE_FIRSTS = """
import json
from kernels import aot
specs = [next(aot.all_specs([module])) for module in aot.operation_modules()]
print(json.dumps([aot.compile_spec(spec, "sm_90").as_json() for spec in specs]))
"""


def compile_report(
    tmp_path: Path, *modules: str, **environment: str
) -> tuple[int, dict, str]:
    """Exit code, the JSON and stderr of the command, run as a reader would."""
    file = tmp_path / "report.json"
    answer = subprocess.run(
        [sys.executable, "-m", "kernels.aot", "--json", str(file), *modules],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert file.exists(), answer.stderr
    return answer.returncode, json.loads(file.read_text()), answer.stderr


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return compile_report(tmp_path_factory.mktemp("aot"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "bad_kernels.py").write_text(BAD_KERNELS)
    cache = {"LABS_CACHE": str(folder / "cache")}
    code, content, errors = compile_report(folder, "bad_kernels", **cache)
    assert code == 1
    assert len(errors.splitlines()) >= len(content["faults"])
    rows = {(row["label"], row["target"]): row for row in content["rows"]}
    return content, rows, folder, cache


def test_every_kernel_compiles_everywhere_and_stays_within_its_means(report):
    code, content, errors = report
    assert content["faults"] == [], errors
    assert code == 0
    operations = {row["module"] for row in content["rows"]}
    assert {"kernels.softmax", "kernels.rms_norm", "kernels.sinkhorn"} <= operations
    specs = {spec.label: spec for spec in aot.all_specs(aot.operation_modules())}
    for row in content["rows"]:
        assert row["error"] is None, row
        usage = row["usage"]
        has_dtypes = aot.has_dtypes(specs[row["label"]], row["target"])
        assert (usage is not None) == has_dtypes, row
        if usage is None:
            continue
        assert usage["registers"] > 0
        if row["target"] == "sm_90":
            assert usage["stack"] == 0, row
        if row["target"].startswith("sm_"):
            assert usage["shared"] <= MOST_SHARED, row


def test_the_stored_report_is_of_these_kernels():
    """Compiling them takes minutes, so it is done when one has changed."""
    specs = aot.all_specs(aot.operation_modules())
    keys = {key for spec in specs for key in aot.keys_of(spec).values()}
    assert keys == aot.stored().keys(), (
        "run `python -m kernels.aot --store` and commit kernels/compiled.json"
    )


def test_what_is_stored_comes_out_again():
    """The first configuration of every operation, compiled here and now."""
    modules = aot.operation_modules()
    firsts = [next(aot.all_specs([module])) for module in modules]
    # In a process of its own: here kernels are interpreted.
    answer = subprocess.run(
        [sys.executable, "-c", COMPILE_FIRSTS],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LABS_AOT": "1",
            "TRITON_INTERPRET": "0",
        },
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    compiled = json.loads(answer.stdout)
    for spec, row in zip(firsts, compiled, strict=True):
        assert row == aot.stored()[aot.keys_of(spec)["sm_90"]], spec.label


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_that_is_stored_comes_out_again(tmp_path):
    _, stored, _ = compile_report(tmp_path)
    _, fresh, _ = compile_report(tmp_path, "--fresh")
    assert fresh["compiled_now"] == len(fresh["rows"])
    assert fresh["rows"] == stored["rows"]


def test_every_configuration_is_compiled_for_every_target(report):
    _, content, _ = report
    labels = {row["label"] for row in content["rows"]}
    assert len(content["rows"]) == len(labels) * len(aot.TARGETS)
    specs = list(aot.all_specs(aot.operation_modules()))
    assert labels == {spec.label for spec in specs}
    assert len(specs) == len(labels), "two configurations with one label"


def test_the_readme_holds_the_report_of_these_kernels(report):
    """Names and targets; the numbers are those of the Triton that it names."""
    _, content, _ = report
    text = (ROOT / "kernels" / "README.md").read_text()
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    head = next(place for place, line in enumerate(table) if "sm_90" in line)
    assert table[head][1:] == list(aot.TARGETS)
    labels = {row["label"] for row in content["rows"]}
    lines = table[head + 2 :]
    assert {line[0] for line in lines} == labels, (
        "run `python -m kernels.aot --markdown` and put the table into "
        "kernels/README.md"
    )
    assert all(len(line) == len(aot.TARGETS) + 1 for line in lines)


def test_a_spilling_kernel_is_caught(bad):
    content, rows, *_ = bad
    assert rows["spilling", "sm_90"]["usage"]["stack"] > 0
    assert any("spilling on sm_90 spills" in fault for fault in content["faults"])


def test_too_much_shared_memory_is_caught(bad):
    content, rows, *_ = bad
    assert rows["greedy", "sm_90"]["usage"]["shared"] > MOST_SHARED
    assert any(
        "greedy on sm_90 takes" in fault and "at most 99 KB" in fault
        for fault in content["faults"]
    )
    assert not any("modest" in fault for fault in content["faults"])


def test_a_kernel_that_does_not_compile_is_caught_on_each_target(bad):
    content, rows, *_ = bad
    for target in aot.TARGETS:
        assert rows["wrong", target]["usage"] is None
        assert any(
            f"wrong on {target} does not compile" in fault
            for fault in content["faults"]
        )


def test_instructions_are_recognised(bad):
    _, rows, *_ = bad
    matrix = {
        target: rows["modest", target]["usage"]["tensor_core"] for target in aot.TARGETS
    }
    assert matrix == {
        "sm_80": "mma",
        "sm_86": "mma",
        "sm_89": "mma",
        "sm_90": "wgmma",
        "sm_100": "tcgen05",
        "sm_120": "mma",
        "gfx942": "mfma",
    }
    assert rows["modest", "sm_80"]["usage"]["async_copy"] == "cp.async"
    assert rows["spilling", "sm_90"]["usage"]["tensor_core"] is None
    assert rows["spilling", "sm_90"]["usage"]["async_copy"] is None
    assert rows["modest", "gfx942"]["usage"]["scalar_registers"] > 0


def test_a_dtype_is_compiled_only_where_it_exists(bad):
    _, rows, *_ = bad
    there = {target for target in aot.TARGETS if rows["fp8", target]["usage"]}
    assert there == {"sm_89", "sm_90", "sm_100", "sm_120"}
    assert all(rows["fp8", target]["error"] is None for target in aot.TARGETS)


@pytest.mark.slow
def test_comments_are_not_compiled_again_but_code_is(bad):
    """What compiled comes from the cache; what failed is tried each time."""
    content, _, folder, cache = bad
    failed = len([row for row in content["rows"] if row["error"]])
    file = folder / "bad_kernels.py"
    remarked = BAD_KERNELS.replace("# One warp", "# A warp").replace(
        "    m, k = tl.arange", '    """A tile."""\n    m, k = tl.arange'
    )
    file.write_text(remarked)
    _, again, _ = compile_report(folder, "bad_kernels", **cache)
    assert again["rows"] == content["rows"]
    assert again["compiled_now"] == failed

    file.write_text(remarked.replace("x / tl.sum", "x * tl.sum"))
    _, changed, _ = compile_report(folder, "bad_kernels", **cache)
    assert changed["compiled_now"] == failed + len(aot.TARGETS)

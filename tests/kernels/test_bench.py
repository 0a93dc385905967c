"""The benchmark's arithmetic, its refusals and its record, with made-up times."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import types

import pytest
import torch

from kernels import bench, bench_cases, bench_check, bench_record
from kernels.bench import Setting, measure
from kernels.bench_check import BenchError
from kernels.bench_timing import (
    Roofline,
    Times,
    copies_needed,
    matrix_product,
    measure_roofline,
    percentiles,
    rates,
)
from kernels.fingerprint import kernel_fingerprint, specs_fingerprint
from kernels.operation import Cost
from tests.kernels.no_liger import without_liger

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOFLINE = Roofline(
    1e12,
    {"float32": 1e13, "float16": 1e14, "bfloat16": 1e14, "float8_e4m3fn": 2e14},
)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def fake_timer(calls):
    """Runs every call once, so that a call that breaks is seen; 1 to 9 ms."""
    for call in calls:
        call()
    return [float(ms) for ms in range(1, 10)]


def setting(**changes):
    plain = Setting(fake_timer, ROOFLINE, cache=1000, device="cpu", with_compile=False)
    return dataclasses.replace(plain, **changes)


@pytest.fixture(autouse=True)
def no_liger():
    with without_liger():
        yield


@pytest.fixture
def benches():
    """Every operation on small shapes: softmax and RMSNorm first."""
    small = {
        1: ((96,), (48,)),
        2: ((4, 8), (3, 16)),
        3: ((4, 2, 8), (3, 4, 16)),
        4: ((40, 3, 8, 16), (24, 4, 16, 8)),
        5: ((20, 2, 3, 8, 8), (8, 3, 4, 16, 8)),
    }
    return [
        dataclasses.replace(each, shapes=small[len(each.odd)])
        for each in bench_cases.all_benches()
    ]


@pytest.fixture
def row_benches(benches):
    """Those whose shape is (R, N)."""
    return [each for each in benches if len(each.odd) == 2]


# Statistics


def test_percentiles_lie_between_the_two_nearest_samples():
    assert percentiles([5, 1, 3, 2, 4]) == Times(
        pytest.approx(1.8), 3, pytest.approx(4.2)
    )
    assert percentiles([7.0] * 5) == Times(7, 7, 7)
    with pytest.raises(ValueError, match="at least 5"):
        percentiles([1, 2, 3, 4])


def test_the_roofline_is_the_longer_of_moving_and_computing():
    moves = Cost(bytes=10**9, flops=10**6)
    computes = Cost(bytes=1000, flops=10**11)
    assert ROOFLINE.least_ms(moves, "float32") == pytest.approx(1.0)
    assert ROOFLINE.least_ms(computes, "float32") == pytest.approx(10.0)
    assert ROOFLINE.least_ms(computes, "bfloat16") == pytest.approx(1.0)


def test_rates_are_those_of_the_median():
    found = rates(Cost(10**9, 2 * 10**9), Times(1, 2, 3), ROOFLINE, "float32")
    assert found["gbytes_per_s"] == pytest.approx(500)
    assert found["tflops_per_s"] == pytest.approx(1)
    assert found["share"] == pytest.approx(0.5)


def test_inputs_push_each_other_out_of_the_cache():
    for each in (1, 999, 1000, 5000, 10**9):
        sets = copies_needed(each, cache=1000)
        assert sets >= 2
        assert (sets - 1) * each >= 2 * 1000
    assert copies_needed(10**9, cache=1000) == 2


def test_the_roofline_is_measured_in_every_dtype():
    found = measure_roofline(
        fake_timer, torch.device("cpu"), bench_check.DTYPES, copy_bytes=1000, side=10
    )
    assert found.bytes_per_s == pytest.approx(2 * 1000 / 5e-3)
    assert found.flops_per_s == {
        name: pytest.approx(2 * 10**3 / 5e-3)
        for name in ("float32", "float16", "bfloat16")
    }


def test_the_roofline_of_float8_is_a_product_of_codes():
    dtype = torch.float8_e4m3fn
    found = measure_roofline(
        fake_timer, torch.device("cpu"), [dtype], copy_bytes=1000, side=16
    )
    assert found.flops_per_s == {"float8_e4m3fn": pytest.approx(2 * 16**3 / 5e-3)}
    x = torch.eye(16).to(dtype)
    assert torch.equal(matrix_product(x)().float(), torch.eye(16))


# Refusals


@no_gpu
def test_the_interpreter_is_not_timed(tmp_path):
    file = tmp_path / "record.json"
    answer = subprocess.run(
        [sys.executable, "-m", "kernels.bench", "--commit", COMMIT, "--out", str(file)],
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    (sentence,) = answer.stderr.splitlines()
    assert "interpreted" in sentence
    assert not file.exists()


def test_jupyter_is_not_imported():
    code = (
        "import sys, kernels.bench, kernels.bench_cases, kernels.bench_timing;"
        "print([n for n in ('IPython', 'ipykernel', 'plotly', 'labsupport')"
        " if n in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert answer.stdout.strip() == "[]", answer.stderr


@pytest.mark.parametrize("commit", ["main", COMMIT[:9], COMMIT + "+changes"])
def test_a_commit_is_named_in_full(commit):
    with pytest.raises(BenchError, match="40 hex digits"):
        bench_record.origin(commit)


def wrong_for_odd_rows(right):
    return lambda x: right(x) + (0.01 if x.shape[-1] % 2 else 0.0)


def wrong_in_bfloat16(right):
    return lambda x: right(x) * (1.1 if x.dtype == torch.bfloat16 else 1.0)


def wrong_gradient(right):
    # The value is right; its gradient is doubled.
    return lambda x: 2 * right(x) - right(x).detach()


def not_a_number(right):
    return lambda x: right(x) / (x.amax() > 9).to(x.dtype) * 0


@pytest.mark.parametrize(
    "breaks, says",
    [
        (wrong_for_odd_rows, r"y of shape \(37, 1021\)"),
        (wrong_in_bfloat16, "bfloat16"),
        (wrong_gradient, "gradient of input 0"),
        (not_a_number, "off by"),
    ],
)
def test_nothing_is_timed_when_a_kernel_is_wrong(benches, breaks, says):
    good = benches[0]
    broken = dataclasses.replace(good, kernel=breaks(good.reference))

    def no_timer(calls):
        raise AssertionError("timed a wrong kernel")

    with pytest.raises(BenchError, match=says):
        measure([benches[1], broken], setting(timer=no_timer))


@pytest.mark.parametrize(
    "name, moved, says",
    [
        ("fp8_tiles", 1, "output 0 of shape .* is wrong in 1 of"),
        ("fp8_swiglu", 2, "has 1 of 37777 codes off, by up to 2 steps"),
        ("fp8_swiglu", 1, None),
    ],
)
def test_codes_are_checked_by_their_steps(benches, name, moved, says):
    """SwiGLU's may be a step off here and there, those of a quantiser may not."""
    right = next(each for each in benches if each.name == name)

    def kernel(*inputs):
        q, scale = right.reference(*inputs)
        code = q.view(torch.uint8).clone()
        code[0, 0] += moved if code[0, 0] & 0x7F < 100 else -moved
        return code.view(q.dtype), scale

    wrong = bench_check.fault(right, kernel, right.odd, torch.bfloat16, "cpu")
    assert wrong is None if says is None else re.search(says, wrong)


# The record


def test_every_implementation_has_its_rows(row_benches):
    record = measure(row_benches, setting(), report=lambda line: None)
    for row in record["rows"]:
        assert row["ms"] == {"p20": pytest.approx(2.6), "p50": 5.0, "p80": 7.4}
        assert 0 < row["share"] < 1
        assert row["input_sets"] >= 2
    rows = {
        (r["operation"], r["implementation"], r["direction"], *r["shape"], r["dtype"])
        for r in record["rows"]
    }
    for operation in ("softmax", "rms_norm"):
        for implementation in ("kernel", "eager", "reference"):
            for direction in ("forward", "backward"):
                for dtype in ("float32", "float16", "bfloat16"):
                    key = (operation, implementation, direction, 3, 16, dtype)
                    assert key in rows
    assert len(rows) == len(record["rows"]), "one row came twice"
    softmax = next(
        r
        for r in record["rows"]
        if (r["operation"], r["direction"], r["shape"], r["dtype"])
        == ("softmax", "backward", [4, 8], "float16")
    )
    assert softmax["bytes"] == 3 * 4 * 8 * 2
    assert json.loads(json.dumps(record)) == record


def test_streams_have_rows_too(benches):
    """Shapes of three axes, two outputs, float32 beside bfloat16, no eager."""
    streams = [each for each in benches if each.name.startswith("mhc_")]
    record = measure(streams, setting(), report=lambda line: None)
    wanted = {
        (name, implementation, direction, shape, "bfloat16")
        for name in ("mhc_project", "mhc_pre", "mhc_post")
        for implementation in ("kernel", "reference")
        for direction in ("forward", "backward")
        for shape in ((4, 2, 8), (3, 4, 16))
    }
    found = {
        (
            r["operation"],
            r["implementation"],
            r["direction"],
            (*r["shape"],),
            r["dtype"],
        )
        for r in record["rows"]
        if r["implementation"] != "liger-kernel"
    }
    assert found == wanted
    assert {r["axes"] for r in record["rows"]} == {"tokens × streams × elements"}


@pytest.mark.parametrize("which", [0, 1])
def test_each_of_two_outputs_is_checked(benches, which):
    project = next(each for each in benches if each.name == "mhc_project")

    def wrong(x, phi):
        answer = list(project.reference(x, phi))
        answer[which] = answer[which] * 1.1
        return tuple(answer)

    broken = dataclasses.replace(project, kernel=wrong)
    with pytest.raises(BenchError, match=f"mhc_project is wrong.*output {which} of"):
        measure([broken], setting())


@pytest.mark.parametrize("name", ["moe_up", "grouped_gemm"])
def test_experts_have_rows_beside_pytorchs_grouped_product(benches, name):
    """Indices among the inputs, which have no gradient."""
    bench = next(each for each in benches if each.name == name)
    record = measure([bench], setting(), report=lambda line: None)
    assert record["left_out"] == []
    found = {
        (r["implementation"], r["direction"], (*r["shape"],)) for r in record["rows"]
    }
    assert found == {
        (implementation, direction, shape)
        for implementation in ("kernel", "eager", "reference")
        for direction in ("forward", "backward")
        for shape in bench.shapes
    }


def test_an_operation_that_rounds_on_the_way_may_be_off_by_more(benches):
    """What is off by 1.5 of bfloat16's tolerances, 2^-6, passes with two only."""
    bench = next(each for each in benches if each.name == "moe_up")

    def off(*inputs):
        # In float32, so that nothing else is off.
        exact = [x.float() if x.is_floating_point() else x for x in inputs]
        return (1 + 1.5 * 2**-6) * bench.reference(*exact)

    def fault(tolerances):
        judged = dataclasses.replace(bench, tolerances=tolerances)
        return bench_check.fault(judged, off, bench.shapes[0], torch.bfloat16, "cpu")

    assert fault(bench.tolerances) is None
    assert "0.016 is allowed" in fault(1.0)


def test_what_has_no_gradient_is_timed_forward_only(benches):
    permute = next(each for each in benches if each.name == "moe_permute")
    record = measure([permute], setting(), report=lambda line: None)
    assert {(row["implementation"], row["direction"]) for row in record["rows"]} == {
        ("kernel", "forward"),
        ("reference", "forward"),
    }
    assert record["rows"][0]["bytes"] == 12 * 4 * 8 + 4 * 9


def test_an_index_is_right_or_wrong(benches):
    """However near in number, and although weights and gradients are right."""
    router = next(each for each in benches if each.name == "moe_router")

    def neighbour(logits, bias):
        index, weight = router.reference(logits, bias)
        return index + (index == 0), weight

    broken = dataclasses.replace(router, kernel=neighbour)
    with pytest.raises(BenchError, match=r"output 0 of .* is wrong in \d+ of"):
        measure([broken], setting())


@pytest.mark.parametrize(
    "name, outputs",
    [
        ("gradient_stats", 3),
        ("gradient_select", 3),
        ("gradient_quantise", 3),
        ("gradient_project", 2),
        ("gradient_residual", 2),
    ],
)
def test_what_changes_its_input_is_timed_again_and_again(benches, name, outputs):
    """And each output is checked, the one that was an input too."""
    bench = next(each for each in benches if each.name == name)
    record = measure([bench], setting(), report=lambda line: None)
    assert record["left_out"] == []
    assert {(r["implementation"], r["direction"]) for r in record["rows"]} == {
        ("kernel", "forward"),
        ("reference", "forward"),
    }
    for which in range(outputs):

        def wrong(*inputs, which=which):
            answer = list(bench.kernel(*inputs))
            answer[which] = answer[which] + 1
            return tuple(answer)

        broken = dataclasses.replace(bench, kernel=wrong)
        with pytest.raises(BenchError, match=f"{name} is wrong.*output {which} of"):
            measure([broken], setting())


def test_what_was_sent_is_found_again(benches):
    """Selecting takes it out of u: the benchmark puts it back, bit for bit."""
    bench = next(each for each in benches if each.name == "gradient_select")
    u, size = bench.inputs(37, 100, torch.float32, torch.Generator().manual_seed(0))
    assert (u >= 1).sum() == 37
    before = u.clone()
    index, value, count = bench.kernel(u, size)
    assert count == 37 and torch.equal(u, before)
    assert torch.equal(value.sort().values, size.bfloat16().sort().values)
    assert torch.equal(u[index].bfloat16(), value)


@pytest.mark.parametrize("name", ["fp8_gemm", "fp8_gemm_tiles"])
def test_an_fp8_product_is_judged_by_the_fp8_units(benches, name):
    bench = next(each for each in benches if each.name == name)
    record = measure([bench], setting(), report=lambda line: None)
    rows = {
        (r["implementation"], *r["shape"]): r
        for r in record["rows"]
        if r["direction"] == "forward"
    }
    assert len(rows) == len(record["rows"]) == 6
    names = ("kernel", "reference", "bfloat16 product")
    assert {each for each, *_ in rows} == set(names)
    # 4 x 2 x 8: 2 FLOPs for each product, and 2 for each of the 8 sums.
    row = rows["kernel", 4, 2, 8]
    assert row["flops"] == 2 * 4 * 2 * 8 + 2 * 4 * 2
    units = dataclasses.replace(ROOFLINE, flops_per_s={"float8_e4m3fn": 1.0})
    slow = measure([bench], setting(roofline=units), report=lambda line: None)
    assert slow["rows"][0]["share"] == pytest.approx(row["flops"] / 5e-3)


def test_pytorchs_own_fp8_product_gets_what_it_asks_for(monkeypatch):
    """It runs on Hopper only: a stand-in looks at its arguments, and computes."""
    from kernels import bench_fp8_gemm
    from kernels.fp8_gemm import BLOCKS, TILES, fp8_gemm_reference

    def scaled_mm(a, b, a_scale, a_recipe, b_scale, b_recipe, output_dtype):
        assert a.stride(1) == 1 and b.stride(0) == 1
        assert a_recipe.name == "BlockWise1x128" and a_scale.stride(0) == 1
        assert b_scale.stride(0) == 1
        if b_recipe.name == "BlockWise128x128":
            assert b_scale.shape == (4, 2)
            b_scale = b_scale.T[:, :3]
        return fp8_gemm_reference(a, a_scale, b.T, b_scale, output_dtype)

    monkeypatch.setattr(bench_fp8_gemm.F, "scaled_mm", scaled_mm)
    for tile in (BLOCKS, TILES):
        given = bench_fp8_gemm.operands(
            tile, 5, 200, 300, torch.bfloat16, torch.Generator().manual_seed(0)
        )
        c = bench_fp8_gemm.torch_scaled_mm(*given)
        assert torch.equal(c, bench_fp8_gemm.ours(*given))


def test_what_the_gpu_cannot_multiply_is_left_out_with_the_reason(benches):
    few = dataclasses.replace(ROOFLINE, flops_per_s={"float32": 1e13})
    some = [each for each in benches if each.name in ("sinkhorn", "fp8_gemm")]
    record = measure(some, setting(roofline=few), report=lambda line: None)
    assert {row["operation"] for row in record["rows"]} == {"sinkhorn"}
    (left_out,) = (r for r in record["left_out"] if r["operation"] == "fp8_gemm")
    assert left_out["reason"] == "this GPU multiplies no float8_e4m3fn"


def test_scores_to_be_routed_are_further_apart_than_float32_can_err():
    router = next(e for e in bench_cases.all_benches() if e.name == "moe_router")
    generator = torch.Generator().manual_seed(0)
    for _, G, N in router.shapes:
        logits, bias = router.inputs(50, G, N, torch.float32, generator)
        score = torch.sigmoid(logits.double()).add(bias).flatten(1).sort(1).values
        assert score.diff(dim=1).min() > 5e-6


def test_an_operation_without_an_operator_of_pytorch_or_halves_has_fewer_rows(benches):
    sinkhorn = next(each for each in benches if each.name == "sinkhorn")
    record = measure([sinkhorn], setting(), report=lambda line: None)
    assert {row["implementation"] for row in record["rows"]} == {"kernel", "reference"}
    assert {row["dtype"] for row in record["rows"]} == {"float32"}
    forward = record["rows"][0]
    assert forward["shape"] == [4, 8] and forward["axes"] == sinkhorn.axes
    assert forward["bytes"] == 128 * 8


def test_ligers_sinkhorn_is_called_with_the_transpose(monkeypatch):
    """Held against a stand-in with its axes: tokens first, rows divided first."""

    def normalised(mixed_MK, tmax):
        M, K = mixed_MK.shape
        n = next(n for n in range(K) if n * n + 2 * n == K)
        P_Mnn = mixed_MK[:, 2 * n :].view(M, n, n).exp()
        for _ in range(tmax):
            P_Mnn = P_Mnn / P_Mnn.sum(2, keepdim=True)
            P_Mnn = P_Mnn / P_Mnn.sum(1, keepdim=True)
        return P_Mnn

    def forward(mix, b, alpha_pre, alpha_post, alpha_res, *, tmax, **rest):
        assert mix.is_contiguous() and not b.any() and alpha_res == 1
        assert rest["sinkhorn_eps"] == 0
        return None, None, normalised(mix, tmax)

    def backward(mix, b, alpha_res, grad_hres, *, tmax, sinkhorn_eps):
        assert grad_hres.is_contiguous() and sinkhorn_eps == 0
        with torch.enable_grad():
            mix = mix.detach().requires_grad_()
            (grad,) = torch.autograd.grad(normalised(mix, tmax), mix, grad_hres)
        n = grad_hres.shape[1]
        return grad[:, 2 * n :].view(grad_hres.shape)

    liger = types.ModuleType("liger_kernel.ops.mhc")
    liger.mhc_split_sinkhorn_fwd, liger.mhc_sinkhorn_bwd = forward, backward
    for name in ("liger_kernel", "liger_kernel.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops.mhc", liger)
    bench = next(each for each in bench_cases.all_benches() if each.name == "sinkhorn")
    peer = bench.peer()
    assert bench_check.fault(bench, peer, (3, 7), torch.float32, "cpu") is None


def test_a_missing_peer_is_named_with_the_reason(benches):
    record = measure(benches[:1], setting(), report=lambda line: None)
    assert record["left_out"]
    for row in record["left_out"]:
        assert row["implementation"] == "liger-kernel"
        assert "ModuleNotFoundError" in row["reason"]


def test_a_wrong_peer_gets_no_time(benches):
    good = benches[0]
    peer = dataclasses.replace(good, peer=lambda: wrong_gradient(good.reference))
    record = measure([peer], setting(), report=lambda line: None)
    assert {r["implementation"] for r in record["left_out"]} == {"liger-kernel"}
    assert all("gradient of input 0" in r["reason"] for r in record["left_out"])
    assert "liger-kernel" not in {r["implementation"] for r in record["rows"]}


def test_the_command_writes_where_it_comes_from(benches, tmp_path, monkeypatch):
    file = tmp_path / "new" / "kernels.json"
    monkeypatch.setattr(bench, "refuse_without_gpu", lambda: None)
    monkeypatch.setattr(bench, "_setting_of_this_gpu", setting)
    monkeypatch.setattr(bench_cases, "all_benches", lambda: benches)
    assert bench.main(["--commit", COMMIT, "--out", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["command"].startswith("python -m kernels.bench --commit 0123")
    assert set(content["origin"]) >= {
        "machine", "gpu", "driver", "torch", "triton", "commit", "date"
    }  # fmt: skip
    assert content["origin"]["commit"] == COMMIT
    assert set(content["fingerprints"]) == {each.name for each in benches}
    assert content["rows"] and content["roofline"]["bytes_per_s"] == 1e12
    assert bench_record.stale(content) == set()


# Staleness

MODULE = """
from kernels.language import jit, tl

SCALE = 2.0


@jit
def inner(x):
    return x * SCALE


@jit
def outer_kernel(x_ptr, N, BLOCK: tl.constexpr):
    # a remark
    n = tl.arange(0, BLOCK)
    tl.store(x_ptr + n, inner(tl.load(x_ptr + n)), mask=n < N)
"""


def fingerprint_of(source, tmp_path, name):
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("sample_kernels", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return kernel_fingerprint(module.outer_kernel)


@pytest.mark.parametrize(
    "old, new, same",
    [
        ("# a remark", "# another remark\n    # over two lines", True),
        ("    # a remark", '    """A docstring."""', True),
        ("SCALE = 2.0", "\n\n\nUNUSED = 1\nSCALE = 2.0", True),
        ("n < N", "(n < N)", True),
        ("n < N", "n <= N", False),
        ("x * SCALE", "x + SCALE", False),
        ("SCALE = 2.0", "SCALE = 3.0", False),
        ("@jit\ndef outer", "@jit(noinline=True)\ndef outer", False),
    ],
)
def test_only_what_changes_the_machine_code_makes_a_figure_stale(
    old, new, same, tmp_path
):
    assert old in MODULE
    before = fingerprint_of(MODULE, tmp_path, "before")
    after = fingerprint_of(MODULE.replace(old, new), tmp_path, "after")
    assert (before == after) is same


def test_a_fingerprint_does_not_depend_on_how_kernels_run():
    """Interpreted here, compiled on the GPU that recorded, absent on a Mac."""
    code = (
        "from kernels.fingerprint import specs_fingerprint;"
        "from kernels import softmax, rms_norm, sinkhorn;"
        "print(*(specs_fingerprint(m.SPECS) for m in (softmax, rms_norm, sinkhorn)))"
    )
    hide = (
        "import importlib.util as u; f = u.find_spec;"
        "u.find_spec = lambda n, *r: None if n == 'triton' else f(n, *r);"
    )
    found = []
    for extra, start in (({"LABS_AOT": "1"}, ""), ({}, ""), ({}, hide)):
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        answer = subprocess.run(
            [sys.executable, "-c", start + code],
            env={**environment, **extra},
            capture_output=True,
            text=True,
        )
        found.append(answer.stdout)
        assert answer.returncode == 0, answer.stderr
    assert found[0].strip() and len(set(found)) == 1


def test_another_configuration_makes_a_figure_stale(benches):
    one = benches[0]
    record = {"fingerprints": bench_record.fingerprints(benches)}
    specs = [dataclasses.replace(one.specs[0], num_warps=32), *one.specs[1:]]
    changed = [dataclasses.replace(one, specs=specs), *benches[1:]]
    assert bench_record.stale(record, benches) == set()
    assert bench_record.stale(record, changed) == {"softmax"}
    assert bench_record.stale(record, benches[1:]) == {"softmax"}
    relabelled = [dataclasses.replace(s, label="x") for s in one.specs]
    assert specs_fingerprint(relabelled) == specs_fingerprint(one.specs)


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_are_measured_on_a_gpu():
    from kernels.bench_timing import CudaTimer

    timer = CudaTimer(samples=20)
    roofline = measure_roofline(timer, torch.device("cuda"), bench_check.DTYPES)
    small = [
        dataclasses.replace(each, shapes=each.shapes[:1])
        for each in bench_cases.all_benches()
    ]
    record = measure(small, Setting(timer, roofline, cache=1 << 26))
    assert {"kernel", "eager", "compile"} <= {
        row["implementation"] for row in record["rows"]
    }
    assert all(row["ms"]["p20"] > 0 for row in record["rows"])

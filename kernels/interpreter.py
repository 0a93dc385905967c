"""Makes Triton's interpreter compute bfloat16 and float8 as a GPU does.

Triton's interpreter keeps blocks as NumPy arrays. NumPy has no bfloat16 and no
float8, so it keeps those as raw unsigned integers and then adds, compares and
multiplies the integers: 1.0 * 1.0 in bfloat16 gives 2.6e8. Here such blocks
become arrays of `ml_dtypes`, whose arithmetic is right, and are raw bits only
at a load and a store. `kernels.language` calls `install`; nobody else has to.

What is right:
- a conversion rounds to nearest, ties to even, as torch's does;
- bfloat16 overflows to infinity. float8 *saturates*, infinity included
  (float8_e4m3fn at ±448, float8_e5m2 at ±57344), and NaN stays NaN: this is
  `cvt.rn.satfinite` of the PTX ISA. Torch on a CPU gives infinity for e5m2;
- every bfloat16 operation rounds its result to bfloat16. `tl.sum` is gentler:
  it adds in float32 and rounds once, where a GPU rounds at every node of its
  tree. A kernel that wants one answer everywhere converts to float32 first;
- float8 can be loaded, stored, selected, converted and multiplied by `tl.dot`.
  Its arithmetic and comparisons compile for no GPU, so they are refused here.

More lenient than a GPU: float64 to float8, one float8 to the other, and a float8
constant that has to be rounded run here and do not compile (Triton 3.7, sm_90).

`PATCHES` lists each replaced function with what is wrong without it; a test
leaves each out in turn and says when a Triton release no longer needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

import kernels

if kernels.HAS_TRITON:
    import ml_dtypes
    import triton
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import TensorHandle

    ARRAY_TYPES = {
        tl.bfloat16: np.dtype(ml_dtypes.bfloat16),
        tl.float8e4nv: np.dtype(ml_dtypes.float8_e4m3fn),
        tl.float8e5: np.dtype(ml_dtypes.float8_e5m2),
    }
    """What holds a block of each Triton type that NumPy itself lacks."""

    BITS_TYPES = {
        tl.bfloat16: tl.uint16,
        tl.float8e4nv: tl.uint8,
        tl.float8e5: tl.uint8,
    }
    """What memory holds: the unsigned integer of the same width."""

    REFUSED = (tl.float8e4b8, tl.float8e4b15, tl.float8e5b16)
    """float8 formats of other machines, which no kernel here uses."""

TESTED_RELEASES = ("3.6", "3.7", "3.9")


@dataclass(frozen=True)
class Patch:
    """One function of `triton.runtime.interpreter` and what replaces it."""

    target: str
    """Triton's name for it: `function` or `Class.method`."""
    wrong: str
    """What a kernel meets without the patch."""
    releases: tuple[str, ...]
    """The Triton releases that need it."""
    ours: Callable[..., Any]
    """Takes Triton's own function first, then that function's arguments."""


PATCHES: list[Patch] = []


def _patch(
    target: str, wrong: str, releases: tuple[str, ...] = TESTED_RELEASES
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(ours: Callable[..., Any]) -> Callable[..., Any]:
        PATCHES.append(Patch(target, wrong, releases, ours))
        return ours

    return register


# ------------------------------------------------------------------- storage


@_patch("_get_np_dtype", "operations work on the raw bits: 1.0 * 1.0 = 2.6e8")
def array_type(original: Any, dtype: Any) -> Any:
    scalar = dtype.element_ty if isinstance(dtype, tl.block_type) else dtype
    if isinstance(scalar, tl.pointer_type):
        return original(dtype)
    if scalar in REFUSED:
        raise TypeError(
            f"{scalar} is not supported in this course's interpreter: "
            "use tl.float8e4nv (float8_e4m3fn) or tl.float8e5 (float8_e5m2)."
        )
    return ARRAY_TYPES[scalar] if scalar in ARRAY_TYPES else original(dtype)


def _bits(block: Any) -> Any:
    """The same block as unsigned integers; other blocks as they are."""
    if block is None or block.data.dtype not in ARRAY_TYPES.values():
        return block
    unsigned = np.dtype(f"uint{8 * block.data.itemsize}")
    return TensorHandle(block.data.view(unsigned), BITS_TYPES[block.dtype.scalar])


@_patch(
    "InterpreterBuilder.create_masked_load",
    "tl.load raises std::bad_cast: this release cannot fill an ml_dtypes array",
    releases=("3.9",),
)
def masked_load(
    original: Any, self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any, **named: Any
) -> Any:
    dtype = ptrs.get_element_ty()
    if dtype not in ARRAY_TYPES:
        return original(self, ptrs, mask, other, *rest, **named)
    raw = TensorHandle(ptrs.data, tl.pointer_type(BITS_TYPES[dtype]))
    loaded = original(self, raw, mask, _bits(other), *rest, **named)
    return TensorHandle(loaded.data.view(ARRAY_TYPES[dtype]), dtype)


@_patch(
    "InterpreterBuilder.create_masked_store",
    "tl.store raises std::bad_cast: this release cannot read an ml_dtypes array",
    releases=("3.9",),
)
def masked_store(original: Any, self: Any, ptrs: Any, value: Any, *rest: Any) -> Any:
    return original(self, ptrs, _bits(value), *rest)


# --------------------------------------------------------------- conversions


def rounded(x: np.ndarray, dtype: Any, toward_zero: bool = False) -> np.ndarray:
    """`x` converted to the Triton type `dtype`, as the module docstring says."""
    target = interpreter._get_np_dtype(dtype)
    if toward_zero and dtype.scalar.is_fp8():
        raise TypeError("fp_downcast_rounding='rtz' does not reach float8.")
    y = x
    with np.errstate(over="ignore", invalid="ignore"):
        if target in ARRAY_TYPES.values():
            # From float64 and large integers by way of float32, as torch does
            # it. A GPU rounds those once, which can differ in the last bit.
            y = y.astype(np.float32)
        if dtype.scalar.is_fp8():
            largest = float(ml_dtypes.finfo(target).max)
            y = np.clip(y, -largest, largest)  # NaN passes through
        y = y.astype(target)
    if toward_zero:
        # Where rounding to nearest went away from zero, take one step back.
        away = np.abs(y.astype(np.float64)) > np.abs(x.astype(np.float64))
        y = np.where(away, np.nextafter(y, np.zeros_like(y)), y)
    return y


@_patch(
    "InterpreterBuilder.cast_impl",
    "float32 to bfloat16 cuts the low bits off, so half of all values are wrong; "
    "(x < y).to(tl.float32) is garbage for bfloat16 x; float8 constants overflow",
)
def cast(original: Any, self: Any, src: Any, dst_type: Any) -> Any:
    # The result of x < y is Boolean data, and src.dtype still the type of x.
    if dst_type.scalar in ARRAY_TYPES or src.dtype.scalar in ARRAY_TYPES:
        return TensorHandle(rounded(src.data, dst_type), dst_type.scalar)
    return original(self, src, dst_type)


@_patch(
    "InterpreterBuilder.create_fp_to_fp",
    "to float8 the rounding loses its carry (127.3 becomes 64), ties go up, "
    "overflow wraps (500 becomes 256) and NaN becomes a number",
)
def fp_to_fp(original: Any, self: Any, src: Any, dst_type: Any, rounding: Any) -> Any:
    toward_zero = rounding == interpreter._ir.ROUNDING_MODE.RTZ
    return TensorHandle(rounded(src.data, dst_type, toward_zero), dst_type.scalar)


@_patch(
    "InterpreterBuilder.get_bf16",
    "a bfloat16 constant (x * 2.0, tl.full) raises AttributeError",
    releases=("3.6", "3.7"),
)
def constant(original: Any, self: Any, value: float) -> Any:
    return TensorHandle(rounded(np.array([value]), tl.bfloat16), tl.bfloat16)


# ---------------------------------------------------------------- arithmetic


def _refuse_float8(dtype: Any) -> None:
    if dtype.scalar.is_fp8():
        raise TypeError(
            f"{dtype.scalar} has no arithmetic and no comparisons on a GPU: "
            "convert with .to(tl.float32) first."
        )


@_patch(
    "InterpreterBuilder.binary_op",
    "float8 arithmetic runs here, but the same kernel compiles for no GPU",
)
def binary(original: Any, self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
    _refuse_float8(lhs.dtype)
    return original(self, lhs, rhs, op)


@_patch(
    "InterpreterBuilder.unary_op",
    "float8 negation runs here, but the same kernel compiles for no GPU",
    releases=("3.9",),
)
def unary(original: Any, self: Any, arg: Any, op: Any) -> Any:
    _refuse_float8(arg.dtype)
    return original(self, arg, op)


@_patch(
    "InterpreterBuilder.create_maxnumf",
    "tl.maximum(nan, x) is NaN; a GPU gives x unless asked to propagate NaN",
    releases=("3.6", "3.7"),
)
def maximum(original: Any, self: Any, lhs: Any, rhs: Any) -> Any:
    return self.binary_op(lhs, rhs, np.fmax)


@_patch(
    "InterpreterBuilder.create_minnumf",
    "tl.minimum(nan, x) is NaN; a GPU gives x unless asked to propagate NaN",
    releases=("3.6", "3.7"),
)
def minimum(original: Any, self: Any, lhs: Any, rhs: Any) -> Any:
    return self.binary_op(lhs, rhs, np.fmin)


@_patch(
    "InterpreterBuilder.create_clampf",
    "tl.clamp(nan, low, high) is NaN; a GPU gives low unless asked to propagate NaN",
    releases=("3.6", "3.7"),
)
def clamp(original: Any, self: Any, x: Any, low: Any, high: Any, nan: Any) -> Any:
    if nan != interpreter._ir.PROPAGATE_NAN.NONE:
        return original(self, x, low, high, nan)
    return self.binary_op(self.binary_op(x, low, np.fmax), high, np.fmin)


@_patch(
    "InterpreterBuilder.create_fma",
    "tl.fma rounds the product before it adds; the point of an fma is not to",
    releases=("3.6", "3.7"),
)
def fma(original: Any, self: Any, x: Any, y: Any, z: Any) -> Any:
    if not z.dtype.scalar.is_floating():
        return original(self, x, y, z)
    # The product of two float32 numbers is exact in float64.
    with np.errstate(all="ignore"):
        product = x.data.astype(np.float64) * y.data.astype(np.float64)
        total = product + z.data.astype(np.float64)
    return TensorHandle(rounded(total, z.dtype), z.dtype.scalar)


@_patch(
    "ReduceOps.sum",
    "tl.sum of bfloat16 rounds after every addition in turn: 512 ones give 256",
)
def reduce_sum(original: Any, self: Any, block: Any) -> Any:
    _refuse_float8(block.dtype)
    if block.dtype != tl.bfloat16:
        return original(self, block)
    wide = block.handle.data.astype(np.float32)
    total = np.sum(wide, axis=self.axis, keepdims=self.keep_dims)
    return self.to_tensor(total, block.dtype)


@_patch("ScanOps.cumsum", "float8 tl.cumsum runs here, but compiles for no GPU")
@_patch("ScanOps.cumprod", "float8 tl.cumprod runs here, but compiles for no GPU")
def scan(original: Any, self: Any, block: Any) -> Any:
    _refuse_float8(block.dtype)
    return original(self, block)


@_patch(
    "InterpreterBuilder.create_dot",
    "in tl.dot a NaN of float8_e4m3fn becomes 480",
)
def dot(original: Any, self: Any, a: Any, b: Any, acc: Any, *precision: Any) -> Any:
    def widened(operand: Any) -> Any:
        if operand.dtype.scalar not in ARRAY_TYPES:
            return operand
        # Products of two such numbers are exact in float32.
        return TensorHandle(operand.data.astype(np.float32), tl.float32)

    return original(self, widened(a), widened(b), acc, *precision)


@_patch(
    "_mxfp_value_handle_to_float32",
    "tl.dot_scaled passes operands through float16, where bfloat16 overflows",
    releases=("3.9",),
)
def scaled_operand(original: Any, operand: Any) -> Any:
    if operand.data.dtype in ARRAY_TYPES.values():
        return operand.data.astype(np.float32)
    return original(operand)


# ------------------------------------------------------------------- atomics


@_patch(
    "InterpreterBuilder.create_atomic_rmw",
    "tl.atomic_add of bfloat16 raises 'Unsupported data type'",
)
def atomic_add(
    original: Any, self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any
) -> Any:
    if val.dtype.scalar != tl.bfloat16:
        return original(self, op, ptr, val, mask, *rest)
    # Triton itself refuses every operation but addition. Element after element,
    # because one block may hold the same address twice.
    memory, bits, one = interpreter._interpreter, np.dtype(np.uint16), np.array([True])
    before = np.zeros_like(val.data)
    for at in zip(*np.nonzero(mask.data), strict=True):
        address = ptr.data[at].reshape(1)
        old = memory.load(address, one, np.zeros(1, bits), bits).view(before.dtype)
        memory.store(address, (old + val.data[at]).view(bits), one)
        before[at] = old[0]
    return TensorHandle(before, val.dtype.scalar)


@_patch(
    "InterpreterBuilder.create_atomic_cas",
    "tl.atomic_cas of bfloat16 raises std::bad_cast",
    releases=("3.9",),
)
def atomic_cas(
    original: Any, self: Any, ptr: Any, cmp: Any, val: Any, *rest: Any
) -> Any:
    before = original(self, ptr, _bits(cmp), _bits(val), *rest)
    return TensorHandle(before.data.view(cmp.data.dtype), cmp.dtype.scalar)


# --------------------------------------------------------------------- loops


@_patch(
    "_patch_lang_tensor",
    "`for i in range(n)` over an argument n raises TypeError from NumPy 2.4 on",
    releases=("3.6",),
)
def loop_bound(original: Any, tensor: Any, scope: Any) -> None:
    original(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


# -------------------------------------------------------------- installation


_originals: dict[str, Any] = {}
_MISSING = object()


def release() -> str:
    """Triton's version without its last number, such as "3.7"."""
    return ".".join(triton.__version__.split(".")[:2])


def _owner(target: str) -> tuple[Any, str]:
    *names, last = target.split(".")
    return (getattr(interpreter, names[0]) if names else interpreter), last


def install(leave_out: Collection[str] = ()) -> None:
    """Mend the interpreter of this process; a second call changes nothing.

    Does nothing where kernels are compiled. Raises RuntimeError for a Triton
    that this module was not tested with. `leave_out` names targets of `PATCHES`
    not to install, so that a test can show what they are for.
    """
    if not kernels.INTERPRETED or _originals:
        return
    if release() not in TESTED_RELEASES:
        raise RuntimeError(
            f"Triton {triton.__version__} computes bfloat16 and float8 wrongly in "
            "its interpreter, and kernels.interpreter is tested with Triton "
            f"{', '.join(TESTED_RELEASES)} only: install one of these."
        )
    for patch in PATCHES:
        if release() in patch.releases and patch.target not in leave_out:
            _replace(patch)


def _replace(patch: Patch) -> None:
    owner, name = _owner(patch.target)
    original = getattr(owner, name, _MISSING)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return patch.ours(original, *args, **kwargs)

    _originals[patch.target] = original
    setattr(owner, name, replacement)


def uninstall() -> None:
    """Give Triton its own functions back."""
    while _originals:
        target, original = _originals.popitem()
        owner, name = _owner(target)
        if original is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, original)

"""Tell whether a kernel is still the one that was compiled or measured.

A fingerprint covers what changes the machine code: the syntax tree of a
kernel, of the kernels it calls and of the constants it reads, and every
configuration it is launched in. Comments, docstrings, blank lines and where
the kernel stands in its file are not in it, so a better comment makes no
figure stale. It is the same whether Triton compiles, interprets or is missing,
and on every Python from 3.11.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time it would bring in Triton, for a type
    from kernels.operation import KernelSpec


def kernel_fingerprint(kernel: Any) -> str:
    """The fingerprint of one kernel, whatever `@jit` made of it (hex)."""
    seen: dict[str, Any] = {}
    _collect(kernel.fn, seen)
    return digest(seen)


def specs_fingerprint(specs: Iterable[KernelSpec]) -> str:
    """The fingerprint of an operation: its kernels in all configurations."""
    return digest(sorted(json.dumps(configuration(spec)) for spec in specs))


def configuration(spec: KernelSpec) -> list[Any]:
    """All that decides what a spec compiles to, apart from the target."""
    return [
        kernel_fingerprint(spec.kernel),
        sorted(spec.signature.items()),
        sorted((name, _constant(value)) for name, value in spec.constexprs.items()),
        spec.num_warps,
        spec.num_stages,
    ]


def digest(content: Any) -> str:
    """SHA-256 of a JSON value, as 16 hex digits."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _collect(fn: Callable[..., Any], seen: dict[str, Any]) -> None:
    """Put the tree of fn, and of what it uses from its module, into seen."""
    name = f"{fn.__module__}.{fn.__qualname__}"
    if name in seen:
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(fn)))
    seen[name] = _skeleton(tree)
    for node in ast.walk(tree):
        used = _looked_up(node, fn.__globals__)
        if callable(getattr(used, "fn", None)):
            # Triton's own functions are covered by its version.
            if not used.fn.__module__.startswith("triton."):
                _collect(used.fn, seen)
        elif isinstance(getattr(used, "value", used), int | float | str):
            seen[f"{fn.__module__}.{ast.unparse(node)}"] = _constant(used)


def _looked_up(node: ast.AST, names: dict[str, Any]) -> Any:
    """What a name, or a name in an imported module, stands for; else None."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = names.get(node.value.id)
        if isinstance(module, ModuleType):
            return getattr(module, node.attr, None)
    return None


def _constant(value: Any) -> str:
    """A constant as text, a `tl.constexpr` like the value that it holds."""
    return repr(getattr(value, "value", value))


def _skeleton(node: Any) -> Any:
    """A syntax tree as lists, without docstrings and positions.

    Not `ast.dump`, whose text differs between Python versions.
    """
    if isinstance(node, list):
        return [_skeleton(each) for each in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    # An empty field may be missing on another Python.
    kept = {name: value for name, value in fields.items() if value not in (None, [])}
    return [type(node).__name__, {name: _skeleton(kept[name]) for name in kept}]

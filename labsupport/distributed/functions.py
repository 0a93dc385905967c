"""Notebook objects as source code that recreates them on a rank.

A function that the reader wrote in a cell exists nowhere a rank could import
it from, and a pickle would need the same. Its source does: it is read with
`inspect`, and so, again and again, is what it uses:

    modules                       import numpy as np
    importable objects            from torch import Tensor
    notebook functions, classes   their own source, with their decorators
    plain values                  values.py
    anything else                 a LabError that says which, and who uses it

An exercise (an object with `__labs_active__`) is sent as the function that is
in use, the reader's or ours, under the notebook's name. Its source is sent
without the `@lab.exercise(...)` line: checks run in the notebook, not on ranks.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch

from labsupport.distributed import values
from labsupport.errors import LabError

# Decorators that mean something in the notebook only.
COURSE_DECORATORS = ("exercise",)


class Pushed:
    """What to send: import lines, definitions in order, plain values.

    Args:
        namespace: the notebook's variables.
        defined_by_cell: names that the cell itself assigns, so a function
            may use them without their being sent.
    """

    def __init__(self, namespace: dict[str, Any], defined_by_cell: set[str]) -> None:
        self.namespace = namespace
        self.defined_by_cell = defined_by_cell
        self.imports: list[str] = []
        self.definitions: list[str] = []
        self.values: dict[str, Any] = {}
        self._seen: set[str] = set()

    def source(self) -> str:
        """A script that defines everything except the values."""
        future = "from __future__ import annotations"
        imports = sorted(set(self.imports), key=lambda line: (line != future, line))
        parts = ["\n".join(imports), *self.definitions]
        return "\n\n\n".join(part for part in parts if part) + "\n"

    def add(self, name: str, value: Any, used_by: str = "") -> None:
        """Send `value` under `name`, with everything that it needs.

        Raises:
            LabError: it, or something it uses, cannot be sent.
        """
        if name in self._seen:
            return
        self._seen.add(name)
        if not isinstance(value, ModuleType):
            value = getattr(value, "__labs_active__", value)
        line = import_line(name, value)
        function = None if line else notebook_function(value)
        if line:
            self.imports.append(line)
        elif function is not None:
            self.add_function(name, function)
        elif isinstance(value, type) and value.__module__ == "__main__":
            self.add_class(name, value)
        else:
            self.add_value(name, value, used_by)

    def add_function(self, name: str, function: FunctionType) -> None:
        inner = sorted(set(function.__code__.co_freevars) - {"__class__"})
        if inner:
            raise LabError(
                f"{name} was defined inside another function and uses its "
                f"{', '.join(inner)}: push a function that is defined in a cell and "
                "takes what it needs as arguments."
            )
        if function.__code__.co_flags & 0x1000000:  # CO_FUTURE_ANNOTATIONS
            self.imports.append("from __future__ import annotations")
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError):
            raise LabError(
                f"the source of {name} was not found: define it in a notebook cell."
            ) from None
        self.add_definition(name, source, function.__globals__)

    def add_class(self, name: str, cls: type) -> None:
        source = class_source(cls, self.namespace)
        if source is None:
            raise LabError(
                f"the source of class {name} was not found: define it in a cell."
            )
        self.add_definition(name, source, self.namespace)

    def add_definition(self, name: str, source: str, used: dict[str, Any]) -> None:
        """Add a definition after what it uses: a decorator, a base class or a
        default value must exist before it.
        """
        source, defined = one_definition(name, source)
        for needed in global_names(source):
            if needed == defined or needed in self.defined_by_cell:
                continue
            if needed in used and not hasattr(builtins, needed):
                self.add(needed, used[needed], used_by=name)
        if defined != name:
            source += f"\n\n{name} = {defined}"
        self.definitions.append(source)

    def add_value(self, name: str, value: Any, used_by: str) -> None:
        who = f"{name}, which {used_by} uses," if used_by else name
        if isinstance(value, torch.nn.Module):
            raise LabError(
                f"{who} is a module ({type(value).__name__}), which cannot be sent: "
                f"push its state_dict() instead, and build the module in the cell."
            )
        try:
            values.encode(value, name, {})
        except LabError as error:
            if not used_by:
                raise
            raise LabError(
                f"{used_by} uses {name} from the notebook. {error} "
                f"Or give it to {used_by} as an argument."
            ) from None
        self.values[name] = value


def import_line(name: str, value: Any) -> str | None:
    """The line that imports `value` as `name`, if one can."""
    if isinstance(value, ModuleType):
        path = value.__name__
        if sys.modules.get(path) is not value or path == "__main__":
            return None
        return f"import {path}" if path == name else f"import {path} as {name}"
    if isinstance(value, torch.dtype):
        return f"from torch import {str(value).removeprefix('torch.')} as {name}"
    module = getattr(value, "__module__", None)
    original = getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(original, str):
        return None
    if module == "__main__" or not original.isidentifier():
        return None
    if getattr(sys.modules.get(module), original, None) is not value:
        return None
    renamed = "" if original == name else f" as {name}"
    return f"from {module} import {original}{renamed}"


def notebook_function(value: Any) -> FunctionType | None:
    """The function inside `value`: itself, or what decorators such as
    `torch.no_grad()`, `functools.cache` or `triton.jit` have wrapped.
    """
    if not isinstance(value, type):
        value = inspect.unwrap(value) if callable(value) else value
        value = value if isinstance(value, FunctionType) else getattr(value, "fn", None)
    return value if isinstance(value, FunctionType) else None


def one_definition(name: str, source: str) -> tuple[str, str]:
    """The source without the course's decorators, and the name it defines."""
    try:
        (statement,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        statement = ast.Pass()
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Lambda):
        (target,) = statement.targets
        if isinstance(target, ast.Name):
            return source.rstrip(), target.id
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        raise LabError(
            f"{name} is not written as `def {name}(...)` in a cell of its own."
        )
    lines = source.splitlines()
    for decorator in reversed(statement.decorator_list):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = called.attr if isinstance(called, ast.Attribute) else None
        last = called.id if isinstance(called, ast.Name) else last
        if last in COURSE_DECORATORS:
            del lines[decorator.lineno - 1 : decorator.end_lineno]
    return "\n".join(lines), statement.name


def global_names(source: str) -> list[str]:
    """The names that a definition takes from outside, in order of appearance."""

    def tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
        yield table
        for child in table.get_children():
            yield from tables(child)

    top = symtable.symtable(source, "pushed", "exec")
    return list(
        dict.fromkeys(
            symbol.get_name()
            for table in tables(top)
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (table is top or symbol.is_global())
        )
    )


def assigned_names(body: str) -> set[str]:
    """The names that a cell's body itself assigns, imports or defines."""
    top = symtable.symtable(body, "cell", "exec")
    return {
        symbol.get_name()
        for symbol in top.get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    }


def class_source(cls: type, namespace: dict[str, Any]) -> str | None:
    """The source of a class defined in a notebook.

    `inspect` looks for it in the file of `__main__`, which is ipykernel's. So:
    in the cell that holds one of its methods, or else in the latest cell that
    defines a class of this name.
    """
    files = [
        member.__code__.co_filename
        for member in vars(cls).values()
        if isinstance(member, FunctionType)
    ]
    cells = ["".join(linecache.getlines(file)) for file in files]
    cells += reversed([cell for cell in namespace.get("In", []) if cell])
    for cell in cells:
        try:
            statements = ast.parse(cell).body
        except SyntaxError:
            continue
        for statement in statements:
            if isinstance(statement, ast.ClassDef) and statement.name == cls.__name__:
                first = min(
                    [statement.lineno, *(d.lineno for d in statement.decorator_list)]
                )
                return "\n".join(cell.splitlines()[first - 1 : statement.end_lineno])
    return None

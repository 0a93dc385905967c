"""What a rank gets under a pushed name does what it does in the notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from labsupport.distributed.magic import collect
from labsupport.errors import LabError

Run = Callable[[str], dict[str, Any]]


class Exercise:
    """As labsupport.exercise wraps a reader's function."""

    def __init__(self, function: Any) -> None:
        self.__labs_active__ = function


class Lab:
    def exercise(self, number: str) -> Callable[[Any], Exercise]:
        return Exercise


@pytest.fixture
def notebook() -> Iterator[InteractiveShell]:
    main = sys.modules["__main__"]
    shell = InteractiveShell()
    yield shell
    sys.modules["__main__"] = main


def define(notebook: InteractiveShell, source: str) -> None:
    result = notebook.run_cell(source, store_history=True)
    result.raise_error()


def on_a_rank(notebook: InteractiveShell, *names: str, body: str = "pass") -> Any:
    """The names that pushing gives, in a namespace that knows nothing else."""
    pushed = collect(list(names), notebook.user_ns, body)
    assert pushed is not None
    namespace: dict[str, Any] = {"__name__": "__main__", **pushed.values}
    exec(pushed.source(), namespace)
    return namespace


def test_a_function_brings_what_it_uses(notebook: InteractiveShell) -> None:
    define(
        notebook,
        """
import math
import torch.nn.functional as F
from functools import cache, partial as part
from torch import Tensor
import torch
half = torch.float16
scale = 3
table = {"b": torch.ones(2)}

class Base:
    def value(self):
        return scale

class Thing(Base):
    pass
""",
    )
    define(
        notebook,
        """
@cache
def helper(n):
    return n if n < 1 else even(n - 1)

def even(n):
    return helper(n - 1) + Thing().value()

default = 10
@torch.no_grad()
def step(x: Tensor, more=default) -> Tensor:
    import os
    unused = [F for F in range(2)]
    return (F_relu(x) + even(4) + math.floor(more) + table["b"]).to(half)

F_relu = lambda x: F.relu(x)
""",
    )
    rank = on_a_rank(notebook, "step")
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    here = notebook.user_ns["step"](x)
    there = rank["step"](x)
    assert there.equal(here)
    assert not there.requires_grad
    assert "unused" not in rank


def test_an_exercise_arrives_as_the_function_in_use(notebook: InteractiveShell) -> None:
    notebook.user_ns["lab"] = Lab()
    define(
        notebook,
        '''
@lab.exercise(
    "0.1"
)
def mine(x):
    """The reader's."""
    return x + 1
''',
    )
    notebook.user_ns["ours"] = Exercise(torch.nn.functional.relu)
    define(notebook, "def train(x):\n    return ours(mine(x))")
    rank = on_a_rank(notebook, "train", "mine", "ours")
    assert rank["mine"](1) == 2
    assert rank["ours"] is torch.nn.functional.relu
    assert rank["train"](torch.tensor(-3.0)) == 0
    assert "lab" not in rank


def test_the_latest_definition_is_sent(notebook: InteractiveShell) -> None:
    for n in (1, 2):
        define(notebook, f"def f():\n    return {n}")
        define(
            notebook,
            f"from dataclasses import dataclass\n@dataclass\nclass C:\n  n: int = {n}",
        )
    rank = on_a_rank(notebook, "f", "C")
    assert rank["f"]() == 2
    assert rank["C"]().n == 2


def test_the_cells_own_names_are_left_to_the_cell(notebook: InteractiveShell) -> None:
    define(notebook, "import torch\nmodel = torch.nn.Linear(1, 1)")
    define(notebook, "def f():\n    return model, not_there")
    with pytest.raises(LabError, match=r"model, which f uses, .* state_dict\(\)"):
        on_a_rank(notebook, "f")
    rank = on_a_rank(notebook, "f", body="model = 1\nnot_there = 2")
    rank.update(model=1, not_there=2)
    assert rank["f"]() == (1, 2)


@pytest.mark.parametrize(
    ("cell", "name", "message"),
    [
        ("import torch\nm = torch.nn.Linear(1, 1)", "m", r"push its state_dict\(\)"),
        ("x = open", "y", "has no 'y'"),
        ("alpha = 1", "alhpa", "Did you mean alpha"),
        (
            "def outer():\n  k = 1\n  def f():\n    return k\n  return f\ng = outer()",
            "g",
            "inside another function and uses its k",
        ),
        ("s = {1}", "s", "s is a set"),
        ("s = {1}\ndef f(): return s", "f", "f uses s from the notebook. s is a set"),
        ("exec('def f(): pass')", "f", "source of f was not found"),
        ("a, f = 1, lambda x: x", "f", "written as `def f"),
    ],
)
def test_what_cannot_be_sent(
    notebook: InteractiveShell, cell: str, name: str, message: str
) -> None:
    define(notebook, cell)
    with pytest.raises(LabError, match=message):
        on_a_rank(notebook, name)

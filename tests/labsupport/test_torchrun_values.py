"""Values cross between notebook and ranks whole, and nothing else does."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch

from labsupport.distributed import values
from labsupport.errors import LabError

PLAIN = [
    None,
    True,
    0,
    2**80,
    -1.5,
    float("inf"),
    "ü\n\x00",
    [1, [2.5, None]],
    (1, ("a", [])),
    {},
    {"a": 1, 2: (3,), (4, 5): None},
]


def there_and_back(value: Any, folder: Path) -> Any:
    values.save(folder / "x ü.safetensors", value, called="x")
    return values.load(folder / "x ü.safetensors")


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data(value: Any, tmp_path: Path) -> None:
    back = there_and_back(value, tmp_path)
    assert back == value
    assert type(back) is type(value)


def test_nan(tmp_path: Path) -> None:
    assert math.isnan(there_and_back(float("nan"), tmp_path))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.uint16,
        torch.bool,
        torch.complex64,
        torch.complex128,
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensor_bits(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    x = torch.randn(shape, dtype=torch.float64).mul(3).to(dtype)
    back = there_and_back(x, tmp_path)
    assert back.dtype == dtype
    assert back.shape == x.shape
    assert back.reshape(-1).view(torch.uint8).equal(x.reshape(-1).view(torch.uint8))


def test_views_parameters_and_state_dicts(tmp_path: Path) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    layer = torch.nn.Linear(3, 2)
    back = there_and_back(
        {"t": x.T, "same": [x, x], "state": layer.state_dict(), "w": layer.weight},
        tmp_path,
    )
    assert back["t"].equal(x.T)
    assert back["same"][1].equal(x)
    assert back["state"]["weight"].equal(layer.weight)
    assert not back["w"].requires_grad
    assert there_and_back(OrderedDict(a=1), tmp_path) == {"a": 1}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2],
        np.array(3.5),
        np.array(["a", "äö"]),
        np.array(["2024-01-02", "NaT"], dtype="datetime64[D]"),
        np.array([1.0, 2.0], dtype=">f4"),
        np.array([1.0, 3.14], dtype=ml_dtypes.bfloat16),
        np.array([1.0, 3.14], dtype=ml_dtypes.float8_e4m3fn),
    ],
    ids=lambda array: str(array.dtype),
)
def test_numpy(array: np.ndarray, tmp_path: Path) -> None:
    back = there_and_back(array, tmp_path)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    back[...] = back  # it can be written to


def test_numpy_scalar(tmp_path: Path) -> None:
    back = there_and_back(np.float32(1.5), tmp_path)
    assert back == 1.5
    assert isinstance(back, np.float32)


def test_table(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "f": [1.5, float("nan")],
            "i": np.array([1, 2], dtype=np.int8),
            "s": ["a", None],
            "mixed": [1, "x"],
            "n": pd.array([1, None], dtype="Int64"),
            "t": pd.to_datetime(["2024-01-01", "2024-01-02"]),
            3: [True, False],
        }
    )
    pd.testing.assert_frame_equal(there_and_back(table, tmp_path), table)
    named = table[["f"]].set_axis(pd.Index(["a", "b"], name="rank"))
    pd.testing.assert_frame_equal(there_and_back(named, tmp_path), named)
    empty = pd.DataFrame()
    assert there_and_back(empty, tmp_path).shape == (0, 0)


def test_the_message_names_the_part_that_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"x\['a'\]\[1\] is a set, which cannot"):
        there_and_back({"a": [1, {2}]}, tmp_path)
    with pytest.raises(LabError, match="numpy ndarray of object"):
        there_and_back(np.array([object()]), tmp_path)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(LabError, match="contains itself"):
        there_and_back(endless, tmp_path)
    with pytest.raises(LabError, match="dense"):
        there_and_back(torch.eye(2).to_sparse(), tmp_path)
    assert not list(tmp_path.iterdir()), "a refused value leaves no file"


def test_reading_never_runs_code(tmp_path: Path) -> None:
    """A class that would run code when unpickled is refused when written."""

    class Trap:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    with pytest.raises(LabError, match="is a Trap"):
        there_and_back(Trap(), tmp_path)

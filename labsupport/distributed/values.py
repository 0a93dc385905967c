"""Plain data and tensors as one safetensors file, without pickle.

A pickle runs code when it is read. Here the structure is JSON, in the file's
header, and every tensor, array or table column is named bytes beside it, so
that reading a rank's values can never run anything.

    value   None, bool, int, float, str, list, tuple, dict, torch tensor,
            numpy array or scalar, pandas DataFrame; nested as you like
    tree    JSON: plain values as themselves, the others as
            {"is": kind, ...}, tensors as the name under which they are stored

Tensors come back on the CPU, detached, with dtype and shape kept (bfloat16 and
float8 too).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from labsupport.errors import LabError

ALLOWED = (
    "None, bool, int, float, str, list, tuple, dict, torch tensors, numpy arrays "
    "and pandas DataFrames"
)
# What safetensors itself has no name for travels as raw bytes.
AS_BYTES = (torch.complex32, torch.complex128)


def save(path: Path, value: Any, called: str) -> None:
    """Write `value` to `path`, all of it or nothing.

    Args:
        called: how the reader names the value, for error messages.

    Raises:
        LabError: some part of it is not plain data.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        tree = encode(value, called, tensors)
    except RecursionError:
        raise LabError(
            f"{called} contains itself or is nested too deeply to be sent."
        ) from None
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, unfinished, metadata={"tree": json.dumps(tree)})
    except SafetensorError as error:
        raise LabError(f"{called} cannot be stored: {error}.") from None
    unfinished.replace(path)


def load(path: Path) -> Any:
    """Read what `save` wrote."""
    with safe_open(path, framework="pt") as file:
        tree = json.loads(file.metadata()["tree"])
        # clone: the file's memory map must not outlive this call.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return decode(tree, tensors)


def encode(value: Any, called: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The JSON tree of `value`; its tensors are added to `tensors`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [encode(v, f"{called}[{i}]", tensors) for i, v in enumerate(value)]
    if type(value) in (tuple, torch.Size):
        items = [encode(v, f"{called}[{i}]", tensors) for i, v in enumerate(value)]
        return {"is": "tuple", "items": items}
    if isinstance(value, dict):  # a state_dict is an OrderedDict
        pairs = [
            [
                encode(k, f"a key of {called}", tensors),
                encode(v, f"{called}[{k!r}]", tensors),
            ]
            for k, v in value.items()
        ]
        return {"is": "dict", "pairs": pairs}
    if isinstance(value, torch.Tensor):
        return encode_tensor(value, called, tensors)
    if type(value).__module__.partition(".")[0] in ("numpy", "ml_dtypes"):
        return encode_numpy(value, called, tensors)
    pandas = sys.modules.get("pandas")
    if pandas is not None and type(value) is pandas.DataFrame:
        return encode_table(value, called, tensors)
    raise LabError(
        f"{called} is a {type(value).__name__}, which cannot be sent: use {ALLOWED}."
    )


def store(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor
    return name


def encode_tensor(
    value: torch.Tensor, called: str, tensors: dict[str, torch.Tensor]
) -> Any:
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise LabError(
            f"{called} is a {type(value).__name__}: send a plain tensor instead, "
            "for example its full_tensor() or to_local()."
        )
    if value.layout != torch.strided or value.is_meta:
        raise LabError(
            f"{called} is a tensor without plain storage ({value.layout}, "
            f"{value.device}): send a dense one."
        )
    # A copy of its own: safetensors refuses tensors that share storage, and
    # what is sent must not change when the original does.
    plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    plain = plain.resolve_conj().resolve_neg()
    tree: dict[str, Any] = {
        "is": "tensor",
        "dtype": str(plain.dtype).removeprefix("torch."),
    }
    if plain.dtype in AS_BYTES:
        tree |= {"shape": list(plain.shape)}
        plain = plain.reshape(-1).view(torch.uint8)
    return tree | {"data": store(plain, tensors)}


def encode_numpy(value: Any, called: str, tensors: dict[str, torch.Tensor]) -> Any:
    import numpy as np

    array = np.array(value, order="C")  # a copy, writable and contiguous
    if not isinstance(value, np.ndarray | np.generic) or (
        array.dtype.kind not in "biufcMmSU" and array.dtype.isbuiltin != 2
    ):
        kind = getattr(value, "dtype", type(value).__name__)
        raise LabError(
            f"{called} is a numpy {type(value).__name__} of {kind}, which cannot be "
            "sent: use numbers, booleans, strings or dates."
        )
    # isbuiltin 2: a dtype that ml_dtypes registered, known by its name only.
    dtype = array.dtype.name if array.dtype.isbuiltin == 2 else array.dtype.str
    data = np.frombuffer(bytearray(array.tobytes()), dtype=np.uint8)
    return {
        "is": "array" if isinstance(value, np.ndarray) else "numpy scalar",
        "dtype": dtype,
        "shape": list(array.shape),
        "data": store(torch.from_numpy(data), tensors),
    }


def encode_table(value: Any, called: str, tensors: dict[str, torch.Tensor]) -> Any:
    import numpy as np
    import pandas as pd

    def column(series: Any, label: str) -> Any:
        if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufcMm":
            return {"data": encode(series.to_numpy(), label, tensors)}
        plain = [
            None if v is pd.NA or v is pd.NaT else v for v in series.astype(object)
        ]
        dtype = "object" if series.dtype == object else str(series.dtype)
        return {"items": encode(plain, label, tensors), "dtype": dtype}

    if value.index.nlevels > 1 or value.columns.nlevels > 1:
        raise LabError(f"{called} has a MultiIndex: send {called}.reset_index().")
    # Not Index.to_series(), which guesses a dtype anew.
    labels = pd.Series(value.columns, dtype=value.columns.dtype)
    index = pd.Series(value.index, dtype=value.index.dtype)
    return {
        "is": "table",
        "labels": column(labels, f"the labels of {called}"),
        "columns": [
            column(value.iloc[:, i], f"{called}[{label!r}]")
            for i, label in enumerate(value.columns)
        ],
        "index": column(index, f"{called}.index"),
        "index name": encode(value.index.name, f"{called}.index.name", tensors),
        "range": isinstance(value.index, pd.RangeIndex)
        and value.index.equals(pd.RangeIndex(len(value))),
    }


def decode(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value whose tree `encode` made."""
    if isinstance(tree, list):
        return [decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree["is"]
    if kind == "tuple":
        return tuple(decode(item, tensors) for item in tree["items"])
    if kind == "dict":
        return {decode(k, tensors): decode(v, tensors) for k, v in tree["pairs"]}
    if kind == "tensor":
        tensor = tensors[tree["data"]]
        if "shape" not in tree:
            return tensor
        return tensor.view(getattr(torch, tree["dtype"])).reshape(tree["shape"])
    if kind in ("array", "numpy scalar"):
        return decode_numpy(tree, tensors)
    return decode_table(tree, tensors)


def decode_numpy(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    import numpy as np

    try:
        dtype = np.dtype(tree["dtype"])
    except TypeError:
        import ml_dtypes

        dtype = np.dtype(getattr(ml_dtypes, tree["dtype"]))
    data = bytearray(tensors[tree["data"]].numpy().tobytes())
    array = np.frombuffer(data, dtype=dtype).reshape(tree["shape"])
    return array if tree["is"] == "array" else array[()]


def decode_table(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    import pandas as pd

    def column(part: Any) -> Any:
        if "data" in part:
            return pd.Series(decode(part["data"], tensors))
        return pd.Series(decode(part["items"], tensors), dtype=part["dtype"])

    parts = [column(part) for part in tree["columns"]]
    table = pd.concat(parts, axis=1) if parts else pd.DataFrame()
    labels = column(tree["labels"])
    table.columns = pd.Index(labels, dtype=labels.dtype)
    if tree["range"]:
        table.index = pd.RangeIndex(len(table))
    else:
        index = column(tree["index"])
        table.index = pd.Index(index, dtype=index.dtype)
    table.index.name = decode(tree["index name"], tensors)
    return table

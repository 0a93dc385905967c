"""A module with one piece of its source replaced: a mistake, put there on purpose."""

import importlib.util
from pathlib import Path
from types import ModuleType


def changed_module(right: ModuleType, old: str, new: str, folder: Path) -> ModuleType:
    """What `right` would be if `new` stood in place of `old`, which is there once."""
    text = Path(right.__file__).read_text()
    assert text.count(old) == 1, "the piece to change must stand there once"
    file = folder / "changed_kernels.py"
    file.write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location("changed_kernels", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

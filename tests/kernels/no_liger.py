"""liger-kernel counts as missing, whether it is installed or not.

Where times are made up its kernels would be interpreted, for nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def without_liger() -> Iterator[None]:
    """Inside this context an import of it fails as it does where it is not there."""
    loaded = [name for name in sys.modules if name.split(".")[0] == "liger_kernel"]
    with pytest.MonkeyPatch.context() as patch:
        for name in loaded:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, "liger_kernel", None)
        yield

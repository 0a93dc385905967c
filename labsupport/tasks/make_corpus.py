"""Make the shipped corpus from the running Python's own standard library.

    python -m labsupport.tasks.make_corpus [FILE]

Each module's source follows one header line. The same Python gives the same
bytes; the file in `data/corpus` comes from CPython 3.11.7. The modules listed
are those under the PSF licence alone: some others carry notices of their own.
"""

from __future__ import annotations

import hashlib
import platform
import sys
import sysconfig
from pathlib import Path

from labsupport.errors import LabError
from labsupport.tasks.corpus import CHECKSUMS, SHIPPED

SHIPPED_FROM = "3.11.7"

# In alphabetical order, so that the last tenth, which is the validation split,
# consists of modules that training never sees.
MODULES = """
    _collections_abc abc ast asyncio.base_events asyncio.events
    asyncio.futures asyncio.locks asyncio.queues asyncio.runners
    asyncio.streams asyncio.tasks asyncio.transports base64 bisect
    collections configparser contextlib copy csv dataclasses datetime dis
    enum filecmp fnmatch fractions functools glob hashlib heapq json
    json.decoder json.encoder linecache mimetypes operator os pathlib pprint
    queue random selectors shlex shutil socket statistics string subprocess
    tempfile threading timeit tokenize traceback types typing unittest.case
    unittest.mock urllib.parse uuid warnings weakref zipfile
""".split()


def source_file(module: str, library: Path) -> Path:
    """Where the source of `module` lies under the folder `library`."""
    plain = library.joinpath(*module.split(".")).with_suffix(".py")
    return plain if plain.is_file() else plain.with_suffix("") / "__init__.py"


def corpus_text(library: Path) -> str:
    """All modules, one after the other, each under one header line."""
    parts = []
    for module in MODULES:
        text = source_file(module, library).read_text(encoding="utf-8")
        parts.append(f"# ======== {module} ========\n{text.rstrip()}\n\n\n")
    return "".join(parts)


def main(arguments: list[str]) -> None:
    """Write the corpus; for the shipped file write its checksum as well.

    Raises:
        LabError: asked for the shipped file under another Python.
    """
    target = Path(arguments[0]) if arguments else SHIPPED
    shipping = target.resolve() == SHIPPED
    if shipping and platform.python_version() != SHIPPED_FROM:
        raise LabError(
            f"The shipped corpus is made with CPython {SHIPPED_FROM} and this is "
            f"{platform.python_version()}: name another file to write."
        )
    library = Path(sysconfig.get_path("stdlib"))
    data = corpus_text(library).encode()
    target.write_bytes(data)
    if shipping:
        digest = hashlib.sha256(data).hexdigest()
        CHECKSUMS.write_text(f"{digest}  {SHIPPED.name}\n")
    print(f"{target.name}: {len(data):,} bytes from {len(MODULES)} modules")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"make_corpus: {error}")

"""The page about the torchrun cell says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import labsupport.distributed as distributed
from labsupport.distributed.options import option_parser
from labsupport.distributed.rank_api import EVERYWHERE

FOLDER = Path(distributed.__file__).parent
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_option_is_explained() -> None:
    explained = re.findall(r"^\| `(--[a-z-]+)", section("Options"), re.MULTILINE)
    options = [action.option_strings[0] for action in option_parser()._actions]
    assert sorted(explained) == sorted(options)


def test_every_name_that_a_body_may_call_is_explained() -> None:
    called = section("What a body may call")
    explained = re.findall(r"^\| `([a-z_]+)\(", called, re.MULTILINE)
    assert sorted(explained) == sorted(EVERYWHERE)
    assert set(EVERYWHERE) <= set(distributed.__all__), "a saved script imports them"


def test_every_file_has_its_place() -> None:
    named = set(re.findall(r"`([a-z_]+\.py)`", section("How it works")))
    assert named == {path.name for path in FOLDER.glob("*.py")} - {"__init__.py"}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (FOLDER / target).exists(), target
    for anchor in re.findall(r"\]\(#([^)]+)\)", PAGE):
        titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
        slugs = [
            re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles
        ]
        assert anchor in slugs

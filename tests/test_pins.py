"""The pins stand in three files; they have to agree.

conda itself is not run here: what is compared is what its pip section says.
"""

import re
import tomllib

from labsupport.paths import ROOT


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pins}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names_in(requirements: list[str]) -> dict[str, str | None]:
    found = {}
    for text in requirements:
        match = re.match(r"([\w.-]+)(?:==([\w.]+))?", text)
        assert match, text
        found[match[1].lower().replace("_", "-")] = match[2]
    return found


def test_every_requirement_has_exactly_one_pin():
    content = project()
    wanted = names_in(content["dependencies"] + content["optional-dependencies"]["dev"])
    assert not set(wanted) - set(constraints())


def test_versions_in_pyproject_equal_the_constraints():
    pins = constraints()
    for name, version in names_in(project()["dependencies"]).items():
        assert version in (None, pins[name]), name


def test_torch_and_triton_belong_together():
    """torch 2.13.0's CUDA build requires exactly triton 3.7.1."""
    pins = constraints()
    assert (pins["torch"], pins["triton"]) == ("2.13.0", "3.7.1")


def test_environment_yml_uses_the_same_pins():
    text = (ROOT / "environment.yml").read_text()
    entries = re.findall(r"^ +- (.+)$", text, flags=re.M)
    assert "-c constraints.txt" in entries
    assert "-e .[dev]" in entries
    assert f"torch=={constraints()['torch']}" in entries
    python = re.search(r"python=(3\.\d+)", text)
    assert python, "environment.yml names no Python"
    assert python[1] == "3.11"


def test_only_one_address_is_named():
    """A reader behind a firewall has to open one host besides PyPI's own."""
    for name in ("README.md", "Makefile", "environment.yml"):
        found = re.findall(r"https?://[^\s)>\"']+", (ROOT / name).read_text())
        outside = [url for url in found if "localhost" not in url]
        assert all(
            u.startswith("https://download.pytorch.org/whl/cpu") for u in outside
        )

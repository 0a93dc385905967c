"""Rendering: ids, editions, rules. Nothing is executed here."""

from __future__ import annotations

import nbformat
import pytest

from labsupport.build.render import render, solution_lines, source_hash
from labsupport.build.solutions import split
from labsupport.errors import LabError
from tests.small_lab import HEADER, SOURCE

PARAMETERS = """
# %% id="parameters" tags=["parameters", "nbval-ignore-output"]
scale = None
seed = 0
world = 2
"""


def lab(*cells: str) -> str:
    return HEADER + PARAMETERS + "\n".join(cells)


def code(body: str, cell_id: str = "one", tag: str = "nbval-ignore-output") -> str:
    return f'\n# %% id="{cell_id}" tags=["{tag}"]\n{body}\n'


def refused(source: str) -> str:
    with pytest.raises(LabError) as caught:
        render(source, "reader")
    return str(caught.value)


def test_the_small_lab_renders_to_a_valid_notebook_with_its_ids():
    notebook = render(SOURCE, "reader")
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == [
        *("intro", "parameters", "squares", "exercise", "use", "figure", "where")
    ]
    assert notebook.cells[0].source == "# A small lab\n\nText before code."
    assert notebook.cells[2].metadata == {"tags": ["nbval-check-output"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "labs"}
    assert notebook.metadata["labs"]["edition"] == "reader"


def test_rendering_twice_gives_the_same_bytes():
    first, second = render(SOURCE, "solved"), render(SOURCE, "solved")
    assert nbformat.writes(first) == nbformat.writes(second)


def test_the_editions_differ_in_the_exercise_and_nowhere_else():
    reader, solved = render(SOURCE, "reader"), render(SOURCE, "solved")
    different = [
        a.id for a, b in zip(reader.cells, solved.cells, strict=True) if a != b
    ]
    assert different == ["exercise"]
    assert reader.cells[3].source.splitlines()[2:] == [
        "    # YOUR CODE HERE",
        "    raise NotImplementedError",
    ]
    assert solved.cells[3].source.splitlines()[2:] == [
        "    twice_as_much = x + x",
        "    return twice_as_much",
    ]
    assert solution_lines(SOURCE) == ["twice_as_much = x + x", "return twice_as_much"]


def test_the_hash_follows_the_source_and_not_the_outputs():
    notebook = render(SOURCE, "reader")
    before = notebook.metadata["labs"]["source_hash"]
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="x\n")]
    notebook.cells[2].execution_count = 7
    assert source_hash(notebook) == before
    changed = render(SOURCE.replace("range(4)", "range(5)"), "reader")
    assert changed.metadata["labs"]["source_hash"] != before


def test_a_torchrun_cell_becomes_the_magic():
    body = "# %%torchrun --nproc 2 --name dp\nimport torch\n\n# plain comment\nx = 1"
    cell = render(lab(code(body)), "reader").cells[-1]
    assert cell.source.splitlines()[:2] == [
        "%%torchrun --nproc 2 --name dp",
        "import torch",
    ]
    assert cell.source.splitlines()[-2:] == ["# plain comment", "x = 1"]


def test_an_id_is_required_unique_and_valid_and_the_message_says_where():
    source = lab(
        '\n# %% tags=["nbval-ignore-output"]\nx = 1\n',
        code("y = 1", "two"),
        code("z = 1", "two"),
        code("w = 1", "no spaces"),
    )
    message = refused(source)
    line = source.splitlines().index('# %% tags=["nbval-ignore-output"]') + 1
    assert f"line {line}: the header has no id" in message
    assert "cell two" in message and "used twice" in message
    assert "cell no spaces" in message


def test_a_slip_in_a_header_is_refused():
    assert "unknown key in the header: tag" in refused(
        lab('\n# %% id="one" tag="nbval-check-output"\nx = 1\n')
    )


def test_all_problems_are_shown_at_once():
    message = refused(lab(code("x = 1" * 40), code("from tqdm import tqdm", "two")))
    assert "cell one: line 1 has 200 columns" in message
    assert "cell two: tqdm is not allowed" in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("\n".join(["x = 1"] * 26), "26 lines of code"),
        ("x = '" + "a" * 75 + "'", "81 columns"),
        ("interact(f, x=1)", "interact is not allowed"),
        ("out = widgets.Output()", "an Output widget"),
        ("clear_output()", "clear_output"),
        ("# !ls", "a shell command"),
        ("# %matplotlib inline", "a magic other than"),
        ("x = 1\n# %%torchrun --nproc 2", "has to be the first line"),
    ],
)
def test_each_rule_names_the_cell(body: str, words: str):
    message = refused(lab(code(body)))
    assert "cell one" in message and words in message


@pytest.mark.parametrize(
    "body",
    [
        "\n".join(["x = 1"] * 25),
        "x = '" + "a" * 73 + "'",
        "if is_interactive():\n    x = 1",
        "x = (\n    7\n    % 4\n)",
        "if not (\n    1\n    != 2\n):\n    x = 1",
    ],
)
def test_what_the_rules_allow(body: str):
    render(lab(code(body)), "reader")


def test_long_text_in_a_markdown_cell_is_no_violation():
    render(lab('\n# %% [markdown] id="text"\n# ' + "word " * 60), "reader")


def test_a_code_cell_needs_one_nbval_tag():
    assert "exactly one of the tags" in refused(lab('\n# %% id="one"\nx = 1\n'))
    both = '["nbval-check-output", "nbval-ignore-output"]'
    assert "exactly one" in refused(lab(f'\n# %% id="one" tags={both}\nx = 1\n'))


def test_one_complete_parameters_cell_is_needed():
    assert "0 cells tagged 'parameters'" in refused(HEADER + code("x = 1"))
    assert "2 cells tagged" in refused(lab(PARAMETERS.replace("parameters", "p", 1)))
    assert "lack world" in refused(lab().replace("world = 2", ""))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["### BEGIN SOLUTION", "x = 1"], "without ### END SOLUTION"),
        (["x = 1", "### END SOLUTION"], "without ### BEGIN SOLUTION"),
        (["### BEGIN SOLUTION", "### BEGIN SOLUTION"], "a second"),
        (["### BEGIN SOLUTION", "### END SOLUTION"], "nothing between"),
        (["### BEGIN SOLUTIONS", "x = 1"], "write exactly"),
        (["# begin solution", "x = 1"], "write exactly"),
    ],
)
def test_a_marker_that_would_leak_or_lose_code_is_refused(lines: list[str], words: str):
    with pytest.raises(LabError, match=words):
        split("\n".join(lines))
    assert "cell one" in refused(lab(code("\n".join(lines))))


def test_two_regions_keep_the_code_between_them_and_their_indentation():
    source = "\n".join(
        [
            *("def f(x):", "    ### BEGIN SOLUTION", "    if x:", "        x += 1"),
            *("    ### END SOLUTION", "    y = 2 * x", "    for i in y:"),
            *("        ### BEGIN SOLUTION", "        x -= i"),
            *("        ### END SOLUTION", "    return x"),
        ]
    )
    parts = split(source)
    assert parts.reader.splitlines() == [
        *("def f(x):", "    # YOUR CODE HERE", "    raise NotImplementedError"),
        *("    y = 2 * x", "    for i in y:", "        # YOUR CODE HERE"),
        *("        raise NotImplementedError", "    return x"),
    ]
    assert "SOLUTION" not in parts.solved
    compile(parts.reader, "reader", "exec")
    compile(parts.solved, "solved", "exec")
    assert parts.solution_lines == ("if x:", "x += 1", "x -= i")

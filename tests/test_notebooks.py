"""What every committed notebook is: executed, parametrised, comparable, of no particular machine."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest
from support import ROOT

from icreward_lib.run.notebooks import Notebook

FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_names_are_numbered_once() -> None:
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", each.stem) for each in PATHS)
    assert len({each.stem[:2] for each in PATHS}) == len(PATHS)


def test_parameters_are_plain_and_explained(path: Path, notebook: nbformat.NotebookNode) -> None:
    defaults = Notebook.read(path).defaults
    assert defaults["profile"] == "laptop"
    assert defaults["changes"] == {}
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [code_cells(notebook)[0]]
    for line in tagged[0].source.strip().splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool|list|dict) = .+  # .+", line), line
    for line in ast.parse(tagged[0].source).body:
        assert isinstance(line, ast.AnnAssign) and line.value is not None
        assert type(ast.literal_eval(line.value)).__name__ == ast.unparse(line.annotation)


def test_the_kernel_is_any_python(notebook: nbformat.NotebookNode) -> None:
    kernel = notebook.metadata.kernelspec
    assert (kernel.name, kernel.language) == ("python3", "python")
    assert notebook.metadata.language_info.name == "python"


def test_it_was_executed_from_top_to_bottom_without_an_error(notebook: nbformat.NotebookNode) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_something_is_compared(notebook: nbformat.NotebookNode) -> None:
    """Without a compared text, nbval would only prove that the notebook runs."""
    checked = [cell for cell in code_cells(notebook) if "nbval-check-output" in cell.metadata.get("tags", [])]
    texts = [output for cell in checked for output in cell.outputs if "text" in output or "data" in output]
    assert any("text" in output or "text/plain" in output.data for output in texts)


def test_every_figure_is_seen(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        if "run.figure(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_nothing_in_it_belongs_to_one_machine(path: Path, notebook: nbformat.NotebookNode) -> None:
    text = path.read_text(encoding="utf-8")
    assert "papermill" not in notebook.metadata
    assert not re.search(r"(?<![\w.])/(?:home|Users|root|tmp|var|opt|mnt)/\w", text)
    assert str(FOLDER.parent) not in text
    assert path.stat().st_size < 5_000_000


def test_it_tells_a_story_and_holds_no_machinery(notebook: nbformat.NotebookNode) -> None:
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    cells = code_cells(notebook)
    assert "assert " in cells[-1].source
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None and node.end_lineno - node.lineno < 15


def test_its_code_is_short() -> None:
    """Cells show one step each: bookkeeping belongs to the library."""
    cells = [cell for path in PATHS for cell in code_cells(nbformat.read(path, as_version=4))]
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in cells]
    assert max(lines) <= 20 and statistics.median(lines) <= 7


def test_its_videos_show_in_a_notebook_that_is_not_trusted(notebook: nbformat.NotebookNode) -> None:
    """JupyterLab keeps `src` on <video>, and drops it from <source>."""
    html = [output.get("data", {}).get("text/html", "") for cell in code_cells(notebook) for output in cell.outputs]
    assert not any("<source" in each for each in html)

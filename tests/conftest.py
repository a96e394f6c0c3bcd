"""What several test files share: an output folder of their own, and tiny notebooks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from support.chromium import NONE_FOUND


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Browser tests are not skipped in silence."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NONE_FOUND in str(report.longrepr)]
    if skipped:
        terminalreporter.write_line(f"WARNING: {len(skipped)} browser tests skipped, {NONE_FOUND}", yellow=True)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results, figures and caches go to a temporary folder, under the profile that the test names."""
    folder = tmp_path / "output"
    monkeypatch.setenv("ICREWARD_OUTPUT", str(folder))
    monkeypatch.delenv("ICREWARD_PROFILE", raising=False)
    return folder


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes `notebooks/<name>.ipynb` with a parameters cell and some code cells."""

    def write(name: str, *cells: str, parameters: str = 'profile: str = "laptop"', kernel: bool = True) -> Path:
        notebook = nbformat.v4.new_notebook()
        if kernel:
            notebook.metadata["kernelspec"] = {
                "name": "python3",
                "display_name": "Python 3",
                "language": "python",
            }
        notebook.cells = [
            nbformat.v4.new_markdown_cell(f"# {name}"),
            nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *(nbformat.v4.new_code_cell(cell) for cell in cells),
        ]
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, path)
        return path

    return write

"""One notebook: its parameters, its execution in a fresh process, its executed copy."""

from __future__ import annotations

import ast
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from icreward_lib.run.files import atomic, content_hash, output_root, reporting_full_disk

_START_SECONDS = 600  # for a kernel to answer, on a machine that does much else


class NotebookError(ValueError):
    """A notebook cannot be run, or failed; the message says which, where and what to do."""


@dataclass(frozen=True)
class Notebook:
    """A numbered notebook, the count of its code cells and the defaults of its `parameters` cell."""

    path: Path
    code_cells: int
    defaults: dict[str, Any]

    @property
    def name(self) -> str:
        """File name without suffix, such as `03_icreward`."""
        return self.path.stem

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Read and check a notebook: it needs a Python kernel and one cell tagged `parameters`."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            metadata, cells = content["metadata"], content["cells"]
        except (ValueError, KeyError, TypeError) as error:
            raise NotebookError(f"{path.name} is not a notebook: restore it, such as with git checkout") from error
        if metadata.get("kernelspec", {}).get("language", "") != "python":
            raise NotebookError(
                f"{path.name} names no Python kernel: open it in JupyterLab, choose 'Python 3' and save it"
            )
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
        if len(tagged) != 1:
            raise NotebookError(f"{path.name} has {len(tagged)} cells tagged 'parameters', it needs one")
        return cls(path, len(code), _assignments(path.name, "".join(tagged[0]["source"])))

    def parse(self, raw: Mapping[str, str]) -> dict[str, Any]:
        """Those of the `-p name=value` settings that this notebook has, in the types of its defaults."""
        return {name: self._value(name, text) for name, text in raw.items() if name in self.defaults}

    def _value(self, name: str, text: str) -> object:
        default = self.defaults[name]
        if isinstance(default, str):
            return text
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(default, float) and type(value) in (int, str):
            try:
                return float(value)  # YAML takes 1e-4 for text
            except ValueError:
                pass
        if type(value) is not type(default):
            kind = type(default).__name__
            raise NotebookError(f"-p {name}={text}: {self.name} takes a {kind} here, such as {default!r}")
        return value


def _assignments(notebook: str, source: str) -> dict[str, Any]:
    """Names and defaults in a parameters cell of `name: type = literal` lines."""
    try:
        defaults = {}
        for line in ast.parse(source).body:
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
                raise ValueError("not of the form")
            defaults[line.target.id] = ast.literal_eval(line.value)
    except (SyntaxError, ValueError) as error:
        raise NotebookError(
            f"{notebook}: the parameters cell may hold only lines of the form 'name: type = literal'"
        ) from error
    return defaults


def execute(
    book: Notebook, parameters: Mapping[str, Any], cache: Path, *, live: LiveLine, resume: str
) -> dict[str, Any]:
    """Run one notebook in a fresh process; returns seconds, peak memory, outputs with hashes, and stages.

    The executed copy lies in `cache/notebooks`. Raises `NotebookError` for a cell that fails.
    """
    import papermill  # these two take a second, which an up-to-date run saves
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    copy = cache / "notebooks" / book.path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    log = cache / "runs" / f"{book.name}.json"
    log.unlink(missing_ok=True)
    config = Config()
    config.KernelManager.transport_encryption = "auto"  # or every kernel warns about plain TCP
    other = {name: value for name, value in parameters.items() if book.defaults.get(name, value) != value}
    begin = time.perf_counter()
    try:
        with live.running(book.code_cells + bool(other)), reporting_full_disk(copy):
            papermill.execute_notebook(
                book.path, copy, parameters=other, kernel_name="python3", progress_bar=False,
                cwd=book.path.parent, config=config, on_cell_execute=live.next_cell, start_timeout=_START_SECONDS,
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        why = f"{error.ename}: {next(iter(error.evalue.strip().splitlines()), 'no message')}"
        raise NotebookError(_failure(book, f"in cell [{error.exec_count}]", why, copy, resume)) from error
    except DeadKernelError as error:
        why = "its process died (killed, or out of memory)"
        raise NotebookError(_failure(book, f"in cell {live.cell}", why, copy, resume)) from error
    except RuntimeError as error:  # of jupyter_client
        raise NotebookError(
            _failure(book, "before its first cell", f"no Python started: {error}", copy, resume)
        ) from error
    seconds = time.perf_counter() - begin
    account = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else {"outputs": [], "stages": []}
    return {
        **account,
        "seconds": round(seconds, 2),
        "outputs": {name: content_hash(output_root() / name) for name in account["outputs"]},
    }


def _failure(book: Notebook, where: str, why: str, copy: Path, resume: str) -> str:
    shown = Path(os.path.relpath(copy))
    return f"{book.name} failed {where}: {why}\n  executed so far: {shown}\n  to resume: {resume}"


def save_executed(copy: Path, target: Path) -> None:
    """Put an executed copy in the place of its notebook, without what belongs to one run on one machine.

    That is papermill's times and paths, and stderr: progress bars, and warnings that name files.
    """
    content = json.loads(copy.read_text(encoding="utf-8"))
    content["metadata"].pop("papermill", None)
    for cell in content["cells"]:
        for added in ("papermill", "execution"):
            cell["metadata"].pop(added, None)
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]
    with atomic(target) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass
class LiveLine:
    """One line on the terminal that says which cell runs and for how long; in a log, a line now and then."""

    title: str
    cell: int = 0
    cells: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def next_cell(self, **_: object) -> None:
        """Count one more code cell."""
        self.cell += 1

    @contextmanager
    def running(self, cells: int) -> Iterator[None]:
        """Show the line while the block runs."""
        self.cells = cells
        thread = threading.Thread(target=self._show, args=(time.perf_counter(),), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _show(self, begin: float) -> None:
        terminal = sys.stdout.isatty()
        while True:
            stopped = self._stop.wait(0.5 if terminal else 15)
            minutes, seconds = divmod(int(time.perf_counter() - begin), 60)
            line = f"{self.title}  cell {self.cell}/{self.cells}  {minutes:02}:{seconds:02}"
            print(f"\r{line}" if terminal else line, end="\n" if stopped or not terminal else "", flush=True)
            if stopped:
                return

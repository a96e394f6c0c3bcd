"""One notebook: its parameters, its execution in a fresh process, its executed copy."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from icreward_lib.run.files import content_hash, output_root, reporting_full_disk, write_text

_WIDGET = "application/vnd.jupyter.widget-view+json"
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
        """Read and check a notebook: it needs a Python kernel and a cell tagged `parameters`."""
        from papermill import inspect_notebook  # here and below: it takes a second

        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            language = content["metadata"].get("kernelspec", {}).get("language")
            code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
        except (ValueError, KeyError, TypeError) as error:
            raise NotebookError(f"{path.name} is not a notebook: restore it, such as with git checkout") from error
        if language != "python":
            how = "open it in JupyterLab, choose 'Python 3' and save it"
            raise NotebookError(f"{path.name} names no Python kernel: {how}")
        try:
            defaults = {name: ast.literal_eval(each["default"]) for name, each in inspect_notebook(path).items()}
        except (SyntaxError, ValueError) as error:
            what = "the parameters cell may hold only lines of the form 'name: type = literal'"
            raise NotebookError(f"{path.name}: {what}") from error
        if not defaults:
            raise NotebookError(f"{path.name} has no parameters: tag the cell that sets them 'parameters'")
        return cls(path, len(code), defaults)

    def parse(self, raw: Mapping[str, str]) -> dict[str, Any]:
        """Those of the `-p name=value` settings that this notebook has, in the types of its defaults."""
        values: dict[str, Any] = {name: text for name, text in raw.items() if name in self.defaults}
        for name, text in values.items():
            default, value, kind = self.defaults[name], None, type(self.defaults[name])
            with suppress(yaml.YAMLError, ValidationError):
                value = yaml.safe_load(text) if kind in (dict, list) else TypeAdapter(kind).validate_strings(text)
            if type(value) is not kind:
                raise NotebookError(f"-p {name}={text}: {self.name} takes a {kind.__name__} here, such as {default!r}")
            values[name] = value
        return values


def execute(book: Notebook, parameters: Mapping[str, Any], cache: Path, live: LiveLine, resume: str) -> dict[str, Any]:
    """Run one notebook in a fresh process; returns seconds, peak memory, outputs with hashes, and stages.

    The executed copy lies in `cache/notebooks`. Raises `NotebookError` for a cell that fails.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    copy, log = cache / "notebooks" / book.path.name, cache / "runs" / f"{book.name}.json"
    copy.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    config = Config()
    config.KernelManager.transport_encryption = "auto"  # or every kernel warns about plain TCP
    # A kernel whose runner is interrupted would tell of its broken connections, on the same terminal.
    config.NotebookClient.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]
    other = {name: value for name, value in parameters.items() if book.defaults.get(name, value) != value}
    begin = time.perf_counter()
    try:
        with live.running(book.code_cells + bool(other), log.with_suffix(".progress")), reporting_full_disk(copy):
            papermill.execute_notebook(
                book.path, copy, parameters=other, kernel_name="python3", progress_bar=False,
                cwd=book.path.parent, config=config, on_cell_execute=live.next_cell, start_timeout=_START_SECONDS,
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        where = f"in cell [{error.exec_count}]"
        why = f"{error.ename}: {next(iter(error.evalue.strip().splitlines()), 'no message')}"
        raise _failure(book, where, why, copy, resume) from error
    except DeadKernelError as error:
        why = "its process died (killed, or out of memory)"
        raise _failure(book, f"in cell {live.cell}", why, copy, resume) from error
    except RuntimeError as error:  # of jupyter_client
        raise _failure(book, "before its first cell", f"no Python started: {error}", copy, resume) from error
    account = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else {"outputs": [], "stages": []}
    outputs = {name: content_hash(output_root() / name) for name in account["outputs"]}
    return {**account, "seconds": round(time.perf_counter() - begin, 2), "outputs": outputs}


def _failure(book: Notebook, where: str, why: str, copy: Path, resume: str) -> NotebookError:
    shown = Path(os.path.relpath(copy))
    return NotebookError(f"{book.name} failed {where}: {why}\n  executed so far: {shown}\n  to resume: {resume}")


def save_executed(copy: Path, target: Path) -> None:
    """Put an executed copy in its notebook's place, without papermill's times and paths, stderr and progress bars."""
    content = json.loads(copy.read_text(encoding="utf-8"))
    content["metadata"].pop("papermill", None)
    for cell in content["cells"]:
        for added in ("papermill", "execution"):
            cell["metadata"].pop(added, None)
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if not _is_of_one_run(output)]
    if not any(_WIDGET in output.get("data", {}) for cell in content["cells"] for output in cell.get("outputs", [])):
        content["metadata"].pop("widgets", None)
    write_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _is_of_one_run(output: Mapping[str, Any]) -> bool:
    shown = output.get("data", {})
    is_bar = _WIDGET in shown and re.search(r"\d+%\|", "".join(shown.get("text/plain", ""))) is not None
    return output.get("name") == "stderr" or is_bar


@dataclass
class LiveLine:
    """One line on the terminal: which cell and item are at work, for how long; in a log, a line now and then."""

    title: str
    cell: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def next_cell(self, **_: object) -> None:
        """Count one more code cell."""
        self.cell += 1

    @contextmanager
    def running(self, cells: int, progress: Path) -> Iterator[None]:
        """Show the line while the block runs; `progress` is the file in which the notebook tells of its stages."""
        progress.unlink(missing_ok=True)
        thread = threading.Thread(target=self._show, args=(cells, progress, time.perf_counter()), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _show(self, cells: int, progress: Path, begin: float) -> None:
        terminal, stopped = sys.stdout.isatty(), False
        while not stopped:
            stopped = self._stop.wait(0.5 if terminal else 15)
            minutes, seconds = divmod(int(time.perf_counter() - begin), 60)
            line = f"{self.title}  cell {self.cell}/{cells}  {minutes:02}:{seconds:02}"
            with suppress(FileNotFoundError):
                line += f"  {progress.read_text(encoding='utf-8')}"
            # "\x1b[K" clears what a longer line has left.
            print(f"\r{line}\x1b[K" if terminal else line, end="\n" if stopped or not terminal else "", flush=True)

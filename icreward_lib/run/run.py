"""Where a run reads and writes: root, seeds, device, stages that resume, results with their provenance."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icreward_lib.run import files
from icreward_lib.run.code import Code, code_hash, notebook_code_hash
from icreward_lib.run.models import CHECKOUT, locate
from icreward_lib.run.processes import barrier, device, rank
from icreward_lib.run.profile import Profile, load_profile
from icreward_lib.run.stages import ACCOUNT, Stage

if TYPE_CHECKING:  # neither is needed to run the command line, which has to start quickly
    import pandas as pd
    from matplotlib.figure import Figure

    Payload = Mapping[str, Any] | list[dict[str, Any]] | pd.DataFrame | str

SOURCES = ("icreward_lib", "checkpoints", "pyproject.toml", "constraints.txt")  # what results follow from


def peak_rss_gb() -> float:
    """The most memory that this process has held so far, in 10^9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there and KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


@dataclass
class Run:
    """One execution of one notebook under one profile; made by `start`."""

    notebook: str
    profile: Profile
    changes: dict[str, object]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _outputs: list[str] = field(default_factory=list)
    _stages: list[dict[str, object]] = field(default_factory=list)
    _models: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Results of a changed profile lie apart, so that trying something never overwrites what is published.
        self.name = self.profile.name + ("-changed" if self.changes else "")
        self.root = files.output_root()
        self.cache = self.root / ".cache" / self.profile.name
        self.results = self.root / "results" / self.name
        self.figures = self.root / "figures" / self.name
        self._log = self.cache / "runs" / f"{self.notebook}.json"
        self.progress = self._log.with_suffix(".progress")

    def __repr__(self) -> str:
        versions = f"Python {platform.python_version()}, torch {metadata.version('torch')}"
        return f"{self.notebook} under the profile {self.name} (seed {self.profile.seed}; {versions})"

    @property
    def device(self) -> str:
        """As of `processes.device`."""
        return device()

    @property
    def bootstrap(self) -> dict[str, Any]:
        """The arguments draws and level of `stats`' functions, as the profile sets them."""
        return {"draws": self.profile.stats.bootstrap_draws, "level": self.profile.stats.level}

    def seed(self, *names: str | int) -> int:
        """A seed in [0, 2^31) for one random draw, from the profile's seed and the draw's own name."""
        text = json.dumps([self.profile.seed, *names])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1

    def model(self, role: str) -> Path:
        """The folder of a model by its field of `profile.models`, its files verified. Raises as `models.locate`."""
        return self.weights(role, getattr(self.profile.models, role))

    def weights(self, role: str, name: str) -> Path:
        """Likewise, by hub id or name; `role` is what the provenance calls it."""
        try:
            folder = locate(name)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"models.{role} of the profile {self.profile.name}: {error}") from error
        self.used(role, name, files.verify_checksums(folder))
        return folder

    def used(self, role: str, name: str, sums: Mapping[str, str]) -> None:
        """Note weights in the provenance: what they are for, their name, and the SHA-256 of each file."""
        self._models[role] = {"id": name, "files": dict(sums)}

    @contextmanager
    def stage(self, stage: str, *, code: Code, **inputs: object) -> Iterator[Stage]:
        """Open a stage, one at a time; leaving the block without an error marks it as finished.

        Its folder follows from `inputs` (settings, seeds, other stages, paths by their content) and from `code`, the
        library's functions that make it, with all that they reach. Inside, make what is `missing`.
        """
        inputs = {name: value.key if isinstance(value, Stage) else value for name, value in inputs.items()}
        key = files.digest({"stage": stage, "code": code_hash(code), "inputs": inputs})
        folder = self.cache / stage / key
        folder.mkdir(parents=True, exist_ok=True)
        if rank() == 0:  # one looks first, and deletes what is damaged
            files.remove_leftovers(folder)
            Stage(stage, key, folder)
        barrier()
        opened = Stage(stage, key, folder, partial(self._tell, stage))
        reused, resumed, begin = opened.done, opened.started, time.perf_counter()
        barrier()  # all have seen what was there before anyone adds to it
        yield opened
        barrier()
        if not reused and rank() == 0:
            account = {"stage": stage, "key": key, "notebook": self.notebook, "peak_rss_gb": peak_rss_gb()}
            # Of a resumed stage, the seconds are those after the resumption.
            account |= {"seconds": round(time.perf_counter() - begin, 2), "resumed": resumed, "inputs": inputs}
            opened.save_json(ACCOUNT, account)
            opened.done = True
            self.progress.unlink(missing_ok=True)
        barrier()
        self._stages.append({**opened.load_json(ACCOUNT), "reused": reused})
        self._write_log()

    def _tell(self, stage: str, done: int, wanted: int) -> None:
        if rank() == 0:
            files.write_text(self.progress, f"{stage}: item {done} of {wanted}")

    def record(self, name: str, payload: Payload) -> None:
        """Write `results/<profile>/<name>`: JSON, each entry of a list with its provenance, a table as CSV, or text."""
        path, provenance = self.results / name, self.provenance()
        if isinstance(payload, str):
            files.write_text(path, payload)
        elif isinstance(payload, Mapping):
            files.write_json(path, {**payload, "provenance": provenance})
        elif isinstance(payload, list):
            files.write_json(path, [{**entry, "provenance": provenance} for entry in payload])
        else:
            beside = path.with_suffix(".provenance.json")
            files.write_text(path, payload.to_csv(index=False, lineterminator="\n"))
            files.write_json(beside, provenance)
            self._wrote(beside)
        self._wrote(path)

    def figure(self, name: str, figure: Figure, data: pd.DataFrame) -> None:
        """Write `figures/<profile>/<name>` as PNG and PDF, and as CSV the numbers that it shows."""
        path = self.figures / name
        # Without the dates that matplotlib puts in, equal figures are equal files.
        for suffix, dates in {".png": {}, ".pdf": {"CreationDate": None}}.items():
            with files.atomic(path.with_name(name + suffix)) as temporary:
                figure.savefig(temporary, dpi=150, bbox_inches="tight", metadata=dates)
        files.write_text(path.with_name(name + ".csv"), data.to_csv(index=False, lineterminator="\n"))
        self._wrote(*(path.with_name(name + suffix) for suffix in (".png", ".pdf", ".csv")))

    @cached_property
    def _code(self) -> dict[str, object]:  # once, as what changes later is not what was imported
        notebook = CHECKOUT / "notebooks" / f"{self.notebook}.ipynb"
        source = notebook_code_hash(notebook) if notebook.is_file() else None
        return {"versions": installed_versions(), "git": _git(), "source": source}

    def provenance(self) -> dict[str, Any]:
        """What the results of this run follow from, and when it ran."""
        return {
            "notebook": self.notebook,
            "profile": self.profile.name,
            "changes": self.changes,
            "parameters": self.profile.model_dump(),
            "seed": self.profile.seed,
            "models": self._models,
            **self._code,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "start": self.started.isoformat(timespec="seconds"),
            "end": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _wrote(self, *paths: Path) -> None:
        names = [path.relative_to(self.root).as_posix() for path in paths]
        self._outputs = list(dict.fromkeys([*self._outputs, *names]))
        self._write_log()

    def _write_log(self) -> None:
        """What `icreward reproduce` reads: the files that the notebook wrote, and where its time went."""
        if rank() == 0:
            files.write_json(
                self._log, {"outputs": self._outputs, "stages": self._stages, "peak_rss_gb": peak_rss_gb()}
            )


def start(notebook: str, profile: str = "laptop", **changes: object) -> Run:
    """Begin a run of `notebooks/<notebook>.ipynb` under a profile (a name, or the path of a YAML file).

    `changes` are settings of the profile by their dotted names: `**{"icreward.epochs": 3}`. The environment variable
    `ICREWARD_PROFILE` goes before `profile`. Raises `ProfileError`.
    """
    name = os.environ.get("ICREWARD_PROFILE") or profile
    wanted = load_profile(name, changes)
    run = Run(notebook, wanted, changes if wanted != load_profile(name) else {})
    if rank() == 0:
        for folder in (run.results, run.figures, run.progress.parent, files.hash_notes()):
            files.remove_leftovers(folder)
    run._write_log()
    return run


def installed_versions() -> dict[str, str]:
    """Versions of this project's direct dependencies, those of its extras too, that are installed."""
    try:
        needed = metadata.requires("icreward") or []
    except metadata.PackageNotFoundError as error:
        raise FileNotFoundError("icreward is not installed: run 'pip install -c constraints.txt -e .'") from error
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in needed} - {"icreward"}
    versions = {}
    for name in sorted(names):
        with suppress(metadata.PackageNotFoundError):  # of an extra that is not installed
            versions[name] = metadata.version(name)
    return versions


def _git() -> dict[str, object]:
    """The commit that ran, and whether any source differed from it; nulls outside a git checkout."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *arguments]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()

    with suppress(FileNotFoundError, subprocess.CalledProcessError):
        if ask("rev-parse", "--show-toplevel") == str(CHECKOUT):
            return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--", *SOURCES))}
    return {"commit": None, "dirty": None}

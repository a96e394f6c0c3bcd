"""`icreward reproduce`: the numbered notebooks in order, each in a fresh process, if not up to date."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from icreward_lib.run.code import notebook_code_hash
from icreward_lib.run.files import content_hash, digest, make_folder, only_one, output_root, read_state, write_json
from icreward_lib.run.matmul import measure_gflops
from icreward_lib.run.models import CHECKOUT, ROOT, find
from icreward_lib.run.notebooks import LiveLine, Notebook, NotebookError, execute, save_executed
from icreward_lib.run.profile import Profile, load_profile, suggestion
from icreward_lib.run.run import Run, installed_versions

NOTEBOOKS = CHECKOUT / "notebooks"
# For kernels, which inherit this. glibc gives the memory of every large tensor back, and gets it again page by page:
# keeping it saves a training step of the laptop's generator 4 to 10 % of its time. Other allocators do not read these.
KERNELS = {
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    # Progress bars would stay in the notebooks, as widgets.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


def reproduce(
    profile_name: str,
    *,
    first: str | None = None,
    only: str | None = None,
    force: bool = False,
    parameters: Mapping[str, str] | None = None,
    save_notebooks: bool = False,
    notebooks: Path = NOTEBOOKS,
    program: str = "icreward",
) -> None:
    """Run the notebooks from number 01 (or `first`) on, or `only` one, under a profile.

    One that would give what it gave (`_keys`), and whose outputs are still there, is skipped unless `force`. With
    `save_notebooks` executed copies replace the notebooks. Raises `NotebookError` or `ProfileError`.
    """
    profile = load_profile(profile_name)
    if profile_name.endswith((".yaml", ".yml")):
        profile_name = str(Path(profile_name).resolve())
    raw = dict(parameters or {})
    every = [Notebook.read(path) for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))]
    if not every:
        raise NotebookError(f"there are no numbered notebooks in {notebooks}: run from a clone of the repository")
    selected = _select(every, first, only)
    _check_parameters(selected, raw)
    if save_notebooks and (raw or any(book.defaults.get("profile") != profile_name for book in selected)):
        raise NotebookError("--save-notebooks goes with the notebooks' own parameters and profile only")

    cache = output_root() / ".cache" / profile.name
    # A profile chosen here goes before one set outside, and the kernel is this Python.
    chosen = {"ICREWARD_PROFILE": profile_name, "JUPYTER_PREFER_ENV_PATH": "1"}
    os.environ |= {**KERNELS, **os.environ, **chosen}
    with only_run(cache):
        state = read_state(cache / "reproduce.json")
        keys = _keys(every, profile, raw)
        ran = False
        for position, book in enumerate(selected, start=1):
            if not force and _up_to_date(state.get(book.name), keys[book.name]):
                print(f"{book.name}: up to date")
                continue
            resume = [program, "reproduce", "--profile", profile_name]
            resume += ["--models", os.environ[ROOT]] if os.environ.get(ROOT) else []
            resume += ["--only" if only else "--from", book.name[:2]]
            resume += [word for name, text in raw.items() for word in ("-p", f"{name}={text}")]
            live = LiveLine(f"[{position}/{len(selected)}] {book.name}")
            state.pop(book.name, None)
            account = execute(book, {"profile": profile_name, **book.parse(raw)}, cache, live, shlex.join(resume))
            state[book.name] = {"key": keys[book.name], **account}
            write_json(cache / "reproduce.json", state)
            if save_notebooks:
                save_executed(cache / "notebooks" / book.path.name, book.path)
            ran = True
        if ran and not raw:
            _write_timing(profile, state, keys)
    print("\nnotebook                  seconds")
    for book in selected:
        print(f"{book.name:<25}{state[book.name]['seconds']:>8.1f}")


def _select(every: Sequence[Notebook], first: str | None, only: str | None) -> list[Notebook]:
    wanted = only or first or "01"
    number = wanted[:2] if wanted[:2].isdecimal() and len(wanted) > 1 else wanted.zfill(2)
    if (only or first) and number not in {book.name[:2] for book in every}:
        known = ", ".join(book.name for book in every)
        raise NotebookError(f"there is no notebook {wanted}; there are {known}")
    return [book for book in every if (book.name[:2] == number if only else book.name[:2] >= number)]


def _check_parameters(selected: Sequence[Notebook], raw: Mapping[str, str]) -> None:
    """Refuse what papermill would pass on without a word: names that no notebook has."""
    known = sorted({name for book in selected for name in book.defaults} - {"profile"})
    for name in raw:
        if name == "profile":
            raise NotebookError("-p profile=...: choose the profile with --profile")
        if name not in known:
            hint = suggestion(name, known)
            if "." in name and "changes" in known:
                hint = f"for a setting of the profile write -p 'changes={{{name}: {raw[name]}}}'"
            raise NotebookError(f"-p {name}: no selected notebook has this parameter ({hint})")


def _keys(every: Sequence[Notebook], profile: Profile, raw: Mapping[str, str]) -> dict[str, str]:
    """One hash per notebook of all that its outputs follow from, its predecessors (from 01 on) included."""
    folders = [find(name) for name in profile.models.model_dump().values()]
    keys, previous = {}, digest([profile, installed_versions(), folders])
    for book in every:
        keys[book.name] = digest([previous, book.name, notebook_code_hash(book.path), book.parse(raw)])
        if book.name[:2] != "00":  # it makes checkpoints, whose content counts already
            previous = keys[book.name]
    return keys


def _up_to_date(entry: Mapping[str, Any] | None, key: str) -> bool:
    if entry is None or entry["key"] != key:
        return False
    outputs, root = entry["outputs"].items(), output_root()
    return all((root / name).is_file() and content_hash(root / name) == sha for name, sha in outputs)


def only_run(cache: Path) -> AbstractContextManager[None]:
    """Refuse a second run of the same profile, whose cache this is."""
    make_folder(cache)
    return only_one(cache / "lock", NotebookError(f"another run of the profile {cache.name} is at work: wait for it"))


def _write_timing(profile: Profile, state: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """Write `timing.json` once every notebook from 01 on stands: what all of it takes from nothing.

    A stage that was found finished counts with the seconds that it took when this notebook made it.
    """
    books = [name for name in keys if name[:2] != "00"]
    if any(name not in state or state[name]["key"] != keys[name] for name in books):
        return
    notebooks, stages, peaks = dict[str, float](), Counter[str](), [0.0]
    for name in books:
        # A notebook may open a stage several times; only the first tells whether it was found finished.
        made = {stage["key"]: stage for stage in reversed(state[name]["stages"]) if stage["notebook"] == name}.values()
        earlier = sum(stage["seconds"] for stage in made if stage["reused"])
        notebooks[name] = round(state[name]["seconds"] + earlier, 2)
        peaks += [each.get("peak_rss_gb", 0.0) for each in (state[name], *made)]
        for stage in made:
            stages[f"{name}/{stage['stage']}"] += stage["seconds"]
    gflops = {"fp32": measure_gflops("float32"), "bf16": measure_gflops("bfloat16")}
    timing = {
        "total_seconds": round(sum(notebooks.values()), 2),
        "peak_rss_gb": max(peaks),
        "matmul_gflops": {name: speed for name, (speed, _) in gflops.items()},
        "matmul_missing": {name: why for name, (_, why) in gflops.items() if why},
        "notebooks": notebooks,
        "stages": {name: round(seconds, 2) for name, seconds in stages.items()},
    }
    Run("reproduce", profile, {}).record("timing.json", timing)

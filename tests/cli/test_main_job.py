"""The main job as a user starts it: all notebooks under `smoke`, once in peace and once under repeated kill -9."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import ROOT
from support.smalldisk import SmallDisk, small_disk

from icreward_lib.run import files

KILLS = 20
COMMAND = [sys.executable, "-m", "icreward_lib", "reproduce", "--profile", "smoke"]


def begin(output: Path, *options: str, inside: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the command with its results, figures and caches in a folder of its own."""
    environment = os.environ | {"ICREWARD_OUTPUT": str(output)}
    environment.pop("ICREWARD_PROFILE", None)
    command = [*inside, *COMMAND, *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command and to the kernels it started, as when a machine loses power."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.communicate()
    psutil.wait_procs(family, timeout=30)


def progress(output: Path) -> int:
    """How much a run has made so far: items of stages, results and figures."""
    journals = (output / ".cache").glob("*/*/*/.journal-0")
    items = sum(journal.read_bytes().count(b"\n") for journal in journals)
    return items + sum(len(names) for top in ("results", "figures") for _, _, names in os.walk(output / top))


def finished(output: Path) -> int:
    """How many notebooks stand."""
    state = output / ".cache" / "smoke" / "reproduce.json"
    return len(json.loads(state.read_text(encoding="utf-8"))) if state.is_file() else 0


def tables(output: Path) -> dict[str, Any]:
    """Content of every result and figure, without what tells of one run alone: provenance and times."""
    found: dict[str, Any] = {}
    for path in sorted([*(output / "results").rglob("*"), *(output / "figures").rglob("*")]):
        if path.is_dir() or path.name == "timing.json" or path.name.endswith(".provenance.json"):
            continue
        name = path.relative_to(output).as_posix()
        if path.suffix == ".json":
            found[name] = without_provenance(json.loads(path.read_text(encoding="utf-8")))
        else:
            found[name] = path.read_bytes()
    return found


def without_provenance(value: Any) -> Any:
    if isinstance(value, list):
        return [without_provenance(item) for item in value]
    if isinstance(value, dict):
        return {key: without_provenance(item) for key, item in value.items() if key != "provenance"}
    return value


@dataclass(frozen=True)
class Peace:
    """A run that nothing happened to: its output folder, and after which seconds there was how much of it."""

    output: Path
    seconds: list[float]
    made: list[int]

    def at(self, share: float) -> tuple[int, float]:
        """Where to kill: what there was at a share in [0, 1] of the run, and for how many seconds to wait from there.

        The wait is a third of that in peace, so that a run of three times the speed is still at work after it.
        """
        moment = share * self.seconds[-1]
        made = self.made[bisect_right(self.seconds, moment) - 1]
        return made, (moment - self.seconds[self.made.index(made)]) / 3


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> Peace:
    """The whole run."""
    peace = Peace(tmp_path_factory.mktemp("peace"), [0.0], [0])
    clock = time.perf_counter()
    process = begin(peace.output)
    while process.poll() is None:
        time.sleep(0.2)
        peace.made.append(progress(peace.output))
        peace.seconds.append(time.perf_counter() - clock)
    assert process.returncode == 0, process.communicate()[0]
    return peace


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    """Where the run happens to which all else happens, one after the other; each finds what was made before."""
    with small_disk(tmp_path_factory.mktemp("disk"), "256m") as disk:
        yield disk


@pytest.mark.e2e
def test_it_writes_what_was_promised(peace: Peace) -> None:
    found = set(tables(peace.output))
    results = {
        "dataset.json",
        "reward_models.json",
        "table1.csv",
        "study.json",
        "dpo.json",
        "claims.json",
        "power.json",
    }
    assert {f"results/smoke/{name}" for name in results} <= found
    for number in range(1, 7):
        for suffix in ("png", "pdf", "csv"):
            assert any(n.startswith(f"figures/smoke/fig{number}_") and n.endswith(suffix) for n in found)
    timing = json.loads((peace.output / "results/smoke/timing.json").read_text(encoding="utf-8"))
    assert timing["total_seconds"] > 0 and timing["peak_rss_gb"] > 0 and timing["matmul_gflops"]["fp32"] > 0
    # Only the unchanged laptop profile publishes its claims.
    assert not (peace.output / "results/claims.md").exists()


@pytest.mark.e2e
def test_a_second_call_finds_all_up_to_date(peace: Peace) -> None:
    clock = time.perf_counter()
    process = begin(peace.output)
    printed, _ = process.communicate()
    notebooks = len(list((ROOT / "notebooks").glob("*.ipynb"))) - 1  # all but 00, which trains the small models
    assert process.returncode == 0 and printed.count("up to date") == notebooks, printed
    assert time.perf_counter() - clock < 15


def refused(disk: SmallDisk) -> str:
    """What the command says that cannot do its work: one sentence, and how to go on; no half-written file is left."""
    process = begin(disk.folder, inside=disk.inside)
    printed, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in printed, printed
    assert list(disk.seen.rglob(f"{files._TEMPORARY}*")) == []
    said: str = printed[printed.index("icreward: ") :]
    return said


@pytest.mark.e2e
@pytest.mark.fault
@pytest.mark.parametrize("room", [4096, 200_000])  # where the command itself writes, and a notebook
def test_a_full_disk_is_one_sentence(disk: SmallDisk, room: int) -> None:
    with disk.full(room):
        said = refused(disk)
    assert "no room left to write" in said and said.count("\n") == (1 if room == 4096 else 3), said


@pytest.mark.e2e
@pytest.mark.fault
@pytest.mark.parametrize("folder", [".cache/smoke", "results"])
def test_a_read_only_folder_is_one_sentence(disk: SmallDisk, folder: str) -> None:
    with disk.read_only(folder):
        said = refused(disk)
    assert f"nothing can be written to {disk.folder / folder}" in said, said
    assert said.count("\n") == (1 if folder == ".cache/smoke" else 3), said


@pytest.mark.e2e
@pytest.mark.fault
def test_killed_at_any_moment_and_resumed_it_gives_the_same_tables(peace: Peace, disk: SmallDisk) -> None:
    # Another process, another order of events, the same seed: this is the test of determinism, too.
    rng, stood = random.Random(0), []
    for number in range(KILLS):
        made, since = peace.at((number + rng.random()) / (KILLS + 1))
        process = begin(disk.folder, inside=disk.inside)
        while progress(disk.seen) < made:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        time.sleep(since)
        if number == KILLS // 2:
            assert "another run of the profile smoke is at work: wait for it" in refused(disk)
        assert process.poll() is None, process.communicate()[0]
        kill_all(process)
        stood.append(finished(disk.seen))
    assert stood == sorted(stood) and len(set(stood)) >= 5, "kills fell into few notebooks"
    process = begin(disk.folder, inside=disk.inside)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    expected, found = tables(peace.output), tables(disk.seen)
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    assert list(disk.seen.rglob(f"{files._TEMPORARY}*")) == []


@pytest.mark.e2e
def test_a_changed_setting_is_not_answered_from_the_cache(peace: Peace) -> None:
    process = begin(peace.output, "--only", "02", "-p", 'changes={"mlp.hidden": 5}')
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    models = (peace.output / ".cache" / "smoke" / "reward_mlp").glob("*/model_0/config.json")
    assert 5 in [json.loads(path.read_text(encoding="utf-8"))["hidden"] for path in models]

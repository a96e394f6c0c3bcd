"""The main job as a user starts it: all notebooks under `smoke`, once in peace and once under repeated kill -9."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from icreward_lib import files

ROOT = Path(__file__).parents[1]
KILLS = 4
COMMAND = [sys.executable, "-m", "icreward_lib", "reproduce", "--profile", "smoke"]


def begin(output: Path, *options: str) -> subprocess.Popen[str]:
    """Start the command with its results, figures and caches in a folder of its own."""
    environment = os.environ | {"ICREWARD_OUTPUT": str(output)}
    environment.pop("ICREWARD_PROFILE", None)
    return subprocess.Popen(
        [*COMMAND, *options], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the command and to the kernels it started, as when a machine loses power."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    process.communicate()
    psutil.wait_procs(family, timeout=30)


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


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run in peace: its output folder, and how many seconds it took."""
    output = tmp_path_factory.mktemp("uninterrupted")
    clock = time.perf_counter()
    process = begin(output)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    return output, time.perf_counter() - clock


@pytest.mark.e2e
def test_it_writes_what_was_promised(uninterrupted: tuple[Path, float]) -> None:
    found = set(tables(uninterrupted[0]))
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
    timing = json.loads((uninterrupted[0] / "results/smoke/timing.json").read_text(encoding="utf-8"))
    assert timing["total_seconds"] > 0 and timing["peak_rss_gb"] > 0 and timing["matmul_gflops"]["fp32"] > 0
    # Only the unchanged laptop profile publishes its claims.
    assert not (uninterrupted[0] / "results/claims.md").exists()


@pytest.mark.e2e
def test_a_second_call_finds_all_up_to_date(uninterrupted: tuple[Path, float]) -> None:
    clock = time.perf_counter()
    process = begin(uninterrupted[0])
    printed, _ = process.communicate()
    notebooks = len(list((ROOT / "notebooks").glob("*.ipynb"))) - 1  # all but 00, which trains the small models
    assert process.returncode == 0 and printed.count("up to date") == notebooks, printed
    assert time.perf_counter() - clock < 15


@pytest.mark.e2e
@pytest.mark.fault
def test_killed_at_any_moment_and_resumed_it_gives_the_same_tables(
    uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    # Another process, another order of events, the same seed: this is the test of determinism, too.
    peaceful, seconds = uninterrupted
    rng = random.Random(0)
    for _ in range(KILLS):
        process = begin(tmp_path)
        try:
            process.wait(rng.uniform(0.1, 1.0) * seconds / KILLS + 2)
        except subprocess.TimeoutExpired:
            kill_all(process)
    process = begin(tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    expected, found = tables(peaceful), tables(tmp_path)
    assert set(found) == set(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
    left = list(tmp_path.rglob(f"{files._TEMPORARY}*"))
    assert left == []


@pytest.mark.e2e
def test_a_changed_setting_is_not_answered_from_the_cache(uninterrupted: tuple[Path, float]) -> None:
    process = begin(uninterrupted[0], "--only", "02", "-p", 'changes={"mlp.hidden": 5}')
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    models = (uninterrupted[0] / ".cache" / "smoke" / "reward_mlp").glob("*/model_0/config.json")
    assert 5 in [json.loads(path.read_text(encoding="utf-8"))["hidden"] for path in models]

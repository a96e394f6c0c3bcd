"""Runs, stages and files: resumption, damage, kills, full disks, determinism and provenance."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icreward_lib.run import Run, models, start
from icreward_lib.run import run as run_module
from icreward_lib.run.code import notebook_code_hash
from icreward_lib.run.files import (
    CHECKOUT,
    DamagedFileError,
    DiskFullError,
    atomic,
    content_hash,
    digest,
    remove_leftovers,
    verify_checksums,
    write_checksums,
    write_json,
)
from icreward_lib.run.matmul import measure_gflops
from icreward_lib.run.profile import ProfileError

CODE = start


@pytest.fixture
def run(output: Path) -> Run:
    return start("03_icreward", "smoke")


def all_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Files


@pytest.mark.fault
def test_atomic_leaves_the_old_file_and_no_other_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert all_files(tmp_path) == ["a.txt"]


@pytest.mark.fault
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(DiskFullError, match="no room left to write .*a.txt: free some") as caught,
        atomic(tmp_path / "a.txt") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(code, "no space")
    assert "\n" not in str(caught.value)
    assert all_files(tmp_path) == []


@pytest.mark.fault
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_as_the_system_reports_it(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), atomic(tmp_path / "a.txt") as temporary:
        temporary.symlink_to("/dev/full")
        with temporary.open("w") as file:
            file.write("x" * 100)
    assert all_files(tmp_path) == []


def test_atomic_replaces_folders(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic(tmp_path / "model") as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text(text)
    assert (tmp_path / "model" / "weights").read_text() == "two"
    assert all_files(tmp_path) == ["model/weights"]


@pytest.mark.fault
def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    gone, stays = tmp_path / f".tmp-{dead.stdout.strip()}-a.npz", tmp_path / f".tmp-{os.getpid()}-b.npz"
    gone.touch()
    stays.touch()
    remove_leftovers(tmp_path)
    assert not gone.exists() and stays.exists()


def test_json_takes_numpy_and_refuses_what_json_has_no_word_for(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"mean": np.float32(0.5), "curve": np.arange(3)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"mean": 0.5, "curve": [0, 1, 2]}
    with pytest.raises(ValueError, match="b.json.*write null"):
        write_json(tmp_path / "b.json", {"mean": float("nan")})
    assert all_files(tmp_path) == ["a.json"]


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False), st.text()), max_size=5))
@pytest.mark.property
def test_digest_ignores_order_and_sees_every_value(settings: dict[str, object]) -> None:
    assert digest(settings) == digest(dict(reversed(settings.items())))
    for name in settings:
        assert digest(settings) != digest({**settings, name: ["other"]})


@pytest.mark.fault
def test_checksums_find_damaged_and_missing_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("card")
    write_checksums(tmp_path)
    assert list(verify_checksums(tmp_path)) == ["model.safetensors"]
    (tmp_path / "README.md").write_text("a better card")
    verify_checksums(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weight")
    with pytest.raises(DamagedFileError, match="model.safetensors is damaged: restore it"):
        verify_checksums(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="model.safetensors is missing"):
        verify_checksums(tmp_path)


# Stages


def make_items(run: Run, count: int = 4, *, fail_at: int | None = None, **inputs: object) -> list[int]:
    """Fill a stage and tell which items had to be made."""
    made = []
    with run.stage("numbers", code=CODE, **{"settings": 1, **inputs}) as stage:
        for i in range(count):
            if stage.has(f"{i}.npz"):
                continue
            if i == fail_at:
                raise RuntimeError
            stage.save_npz(f"{i}.npz", value=np.full(3, i))
            made.append(i)
        assert [int(stage.load_npz(f"{i}.npz")["value"][0]) for i in range(count)] == list(range(count))
    assert stage.done
    return made


def test_a_finished_stage_is_found_again_and_another_input_is_another_stage(run: Run) -> None:
    assert make_items(run) == [0, 1, 2, 3]
    assert make_items(run) == []
    assert make_items(start("04_other", "smoke")) == []
    assert make_items(run, settings=2) == [0, 1, 2, 3]


def test_a_stage_that_failed_goes_on_where_it_was(run: Run) -> None:
    with pytest.raises(RuntimeError):
        make_items(run, fail_at=2)
    assert make_items(run) == [2, 3]


def test_the_key_follows_from_code_models_and_other_stages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**inputs: object) -> str:
        with run.stage("x", code=CODE, **inputs) as stage:
            return stage.key

    weights = run.root / "weights"
    weights.mkdir(parents=True)
    (weights / "a").write_text("1")
    with run.stage("parent", code=CODE, n=1) as one, run.stage("parent", code=CODE, n=2) as two:
        pass
    keys = [key(), key(model=weights), key(parent=one), key(parent=two), key(settings=run.profile.mlp)]
    assert len(set(keys)) == len(keys)
    assert key(model=weights) == keys[1]
    (weights / "a").write_text("2")
    assert key(model=weights) not in keys
    monkeypatch.setattr(run_module, "code_hash", lambda functions: "other")
    assert key() not in keys


@pytest.mark.fault
@pytest.mark.parametrize("cut", [0, 10, 100])
def test_a_damaged_item_is_made_again_and_said(run: Run, capsys: pytest.CaptureFixture[str], cut: int) -> None:
    make_items(run)
    (item,) = run.cache.glob("numbers/*/2.npz")
    item.write_bytes(item.read_bytes()[:cut])
    assert make_items(run) == [2]
    assert "2.npz is damaged and will be made again" in capsys.readouterr().err
    item.unlink()
    assert make_items(run) == [2]


@pytest.mark.fault
def test_reading_a_damaged_or_missing_item_is_one_sentence(run: Run) -> None:
    with run.stage("numbers", code=CODE) as stage:
        stage.save_npz("a.npz", value=np.arange(1000))
        stage.save_json("b.json", [1])
        for item in ("a.npz", "b.json"):
            path = stage.path(item)
            path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(DamagedFileError, match="a.npz is damaged: delete it"):
            stage.load_npz("a.npz")
        with pytest.raises(DamagedFileError, match="b.json is damaged: delete it"):
            stage.load_json("b.json")
        with pytest.raises(FileNotFoundError, match="numbers has no c.npz"):
            stage.load_npz("c.npz")


def test_an_item_may_be_replaced(run: Run) -> None:
    with run.stage("training", code=CODE) as stage:
        for epoch in range(3):
            stage.save_json("state.json", epoch)
        assert stage.load_json("state.json") == 2
        with stage.write("model") as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text("w")
    with run.stage("training", code=CODE) as again:
        assert again.done and again.load_json("state.json") == 2


def test_a_kill_between_checksum_and_move_keeps_the_old_item(run: Run) -> None:
    with run.stage("training", code=CODE) as stage:
        stage.save_json("state.json", 1)
        with stage._journal.open("a") as journal:
            journal.write(f"{'0' * 64} state.json\n")  # the checksum of an item that never arrived
    with run.stage("training", code=CODE) as again:
        assert again.done and again.load_json("state.json") == 1


def test_a_torn_line_in_the_journal_costs_nothing_else(run: Run) -> None:
    with run.stage("training", code=CODE) as stage:
        with stage._journal.open("a") as journal:
            journal.write("0123abc 1.np")
        stage.save_json("a.json", 1)
    with run.stage("training", code=CODE) as again:
        assert again.done and again.has("a.json")


KILLED = textwrap.dedent(
    """
    import time, numpy as np
    from icreward_lib.run import start
    with start("01_a", "smoke").stage("numbers", code=start, settings=1) as stage:
        for i in range(4):
            with stage.write(f"{i}.npz") as temporary:
                np.savez(temporary, value=np.full(3, i))
                if i == 2:
                    print("now", flush=True)
                    time.sleep(60)
    """
)


@pytest.mark.fault
def test_kill_while_an_item_is_written_loses_that_item_only(output: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [path.name for path in output.rglob(".tmp-*")] == [f".tmp-{process.pid}-2.npz"]
    assert make_items(start("01_a", "smoke")) == [2, 3]
    assert list(output.rglob(".tmp-*")) == []


def test_equal_arrays_are_equal_bytes(run: Run) -> None:
    hashes = []
    for i in range(2):
        with run.stage("numbers", code=CODE, i=i) as stage:
            stage.save_npz("a.npz", value=np.arange(5), other=np.zeros((2, 2), np.float32))
            hashes.append(content_hash(stage.path("a.npz")))
        time.sleep(0.01)
    assert hashes[0] == hashes[1]


# Runs


def test_seeds_are_named_stable_and_follow_the_profile(output: Path) -> None:
    run, other = start("a", "smoke"), start("a", "smoke", seed=1)
    assert run.seed("videos", 3) == start("b", "smoke").seed("videos", 3)
    names = [("videos", 3), ("videos", 4), ("study", 3), ("videos",)]
    seeds = [each.seed(*name) for each in (run, other) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_environment_goes_before_the_named_profile(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start("a", "laptop").profile.name == "laptop"
    monkeypatch.setenv("ICREWARD_PROFILE", "smoke")
    assert start("a", "laptop").profile.name == "smoke"


def test_changed_settings_never_write_to_the_published_folders(output: Path) -> None:
    start("a", "smoke", **{"mlp.epochs": 5}).record("table.json", {"x": 1})
    assert (output / "results" / "smoke-changed" / "table.json").is_file()
    start("a", "smoke", **{"mlp.epochs": 2}).record("table.json", {"x": 1})  # what the profile has anyway
    assert (output / "results" / "smoke" / "table.json").is_file()
    with pytest.raises(ProfileError, match="mlp.epoch"):
        start("a", "smoke", **{"mlp.epoch": 5})


def test_json_results_carry_their_provenance(run: Run) -> None:
    run.record("dataset.json", {"samples": 12})
    written = json.loads((run.results / "dataset.json").read_text())
    assert written["samples"] == 12
    provenance = written["provenance"]
    assert provenance["profile"] == "smoke" and provenance["notebook"] == "03_icreward"
    assert provenance["parameters"] == run.profile.model_dump()
    assert provenance["versions"]["torch"] and provenance["versions"]["diffusers"]
    assert provenance["start"] <= provenance["end"]
    assert set(provenance["git"]) == {"commit", "dirty"}
    assert provenance["source"] == notebook_code_hash(CHECKOUT / "notebooks/03_icreward.ipynb")
    run.record("claims.json", [{"id": "a"}, {"id": "b"}])
    claims = json.loads((run.results / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == ["a", "b"]
    assert all(claim["provenance"]["profile"] == "smoke" for claim in claims)


def test_tables_have_no_time_in_them(run: Run) -> None:
    table = pd.DataFrame({"model": ["mlp"], "clipsim": [0.123456789012]})
    run.record("table1.csv", table)
    assert (run.results / "table1.csv").read_text() == "model,clipsim\nmlp,0.123456789012\n"
    assert json.loads((run.results / "table1.provenance.json").read_text())["profile"] == "smoke"
    run.record("note.md", "text\n")
    assert (run.results / "note.md").read_text() == "text\n"


def test_equal_figures_are_equal_files(run: Run) -> None:
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    hashes = []
    for _ in range(2):
        figure, axes = plt.subplots()
        axes.plot([0, 1], [1, 0], label="mse")
        axes.legend()
        run.figure("fig2_mse", figure, pd.DataFrame({"step": [0, 1], "mse": [1.0, 0.0]}))
        plt.close(figure)
        hashes.append([content_hash(run.figures / f"fig2_mse.{suffix}") for suffix in ("png", "pdf", "csv")])
        time.sleep(1.1)  # dates in a file count seconds
    assert hashes[0] == hashes[1]
    assert all_files(run.figures) == ["fig2_mse.csv", "fig2_mse.pdf", "fig2_mse.png"]


def test_the_log_tells_reproduce_what_was_written_and_how_long_it_took(run: Run) -> None:
    make_items(run)
    make_items(run)
    run.record("dataset.json", {})
    log = json.loads((run.cache / "runs" / "03_icreward.json").read_text())
    assert log["outputs"] == ["results/smoke/dataset.json"]
    assert [stage["reused"] for stage in log["stages"]] == [False, True]
    assert log["stages"][0]["notebook"] == "03_icreward" and log["stages"][0]["seconds"] >= 0
    assert log["peak_rss_gb"] > 0.01


def test_models_are_folders_with_their_hashes_or_a_sentence(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "CHECKOUT", tmp_path)
    name = "checkpoints/laptop/some-clip"
    run = start("a", "smoke", **{"models.clip": name})
    with pytest.raises(FileNotFoundError, match=rf"models\.clip .* no folder {name}; restore") as caught:
        run.model("clip")
    assert "\n" not in str(caught.value)
    weights = tmp_path / name / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w")
    assert run.model("clip") == weights.parent
    assert run.provenance()["models"] == {"clip": {"id": name, "files": {weights.name: content_hash(weights)}}}


def test_importing_the_command_line_is_quick_and_loads_no_framework() -> None:
    heavy = "{'torch', 'matplotlib', 'pandas'}"
    code = f"import sys, icreward_lib.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_matmul_speed_or_the_reason_for_its_absence() -> None:
    speed, why = measure_gflops("float32")
    assert speed is not None and speed > 0.1 and why is None
    speed, why = measure_gflops("no_such_type")
    assert speed is None and why is not None and re.search("no_such_type", why)


@pytest.mark.fault
def test_matmul_survives_instructions_that_the_machine_only_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -ILL $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert measure_gflops("bfloat16") == (None, "a bfloat16 product ends the process with SIGILL")

"""The `paper` profile as a user starts it, on stand-ins of all public models, with tiny counts."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from standins import write_standins
from standins_metrics import moving_clip

from icreward_lib.profile import load_profile
from icreward_lib.suite import curate_images, read_suite
from icreward_lib.video import Video, write_video

ROOT = Path(__file__).parents[1]
TINY = {
    "data.samples": 12,
    "data.train": 4,
    "data.val": 4,
    "data.test": 4,
    "data.videos_per_sample": 3,
    "data.low_score_additions": 2,
    "data.low_score_below": 0.9,  # nothing that random networks say is low
    "generation.num_frames": 17,
    "generation.height": 64,
    "generation.width": 114,
    "generation.steps": 2,
    "mlp.epochs": 2,
    "mlp.seeds": 2,
    "icreward.epochs": 1,
    "icreward.batch_size": 8,
    "icreward.seeds": 1,
    "dpo.subset": 2,
    "dpo.steps": 2,
    "dpo.batch_size": 2,
    "dpo.held_out_pairs": 4,
    "dpo.eval_every": 1,
    "dpo.eval_timesteps": 1,
    "dpo.seeds": 1,
    "dpo.new_samples": 2,
    "stats.bootstrap_draws": 100,
}


def command(output: Path, models: Path, *words: str) -> str:
    """Run the command line with its own output folder; what it printed."""
    environment = os.environ | {"ICREWARD_OUTPUT": str(output), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("ICREWARD_PROFILE", None)
    done = subprocess.run(
        [sys.executable, "-m", *words, "--profile", "paper", "--models", str(models)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def items(output: Path) -> dict[str, Path]:
    """The arrays and tables in all stages, by stage and name."""
    stages = output / ".cache/paper"
    return {
        f"{path.relative_to(stages).parts[0]}/{path.name}": path
        for path in sorted(stages.glob("*/*/*"))
        if path.suffix in (".npz", ".json") and not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_standins(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def two(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages as two processes make them together."""
    output = tmp_path_factory.mktemp("two")
    launch = ["accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command(output, models, *launch, "-m", "icreward_lib", "prepare", "--changes", yaml.safe_dump(TINY))
    return output


@pytest.mark.e2e
def test_two_processes_make_what_one_makes(two: Path, models: Path, tmp_path: Path) -> None:
    command(tmp_path, models, "icreward_lib", "prepare", "--changes", yaml.safe_dump(TINY))
    together, alone = items(two), items(tmp_path)
    assert together.keys() == alone.keys() and len(alone) > 40
    trained = ("reward_", "dpo/", "new_samples/")  # sums in another order
    for name, path in alone.items():
        if path.suffix == ".npz":
            mine, theirs = np.load(path), np.load(together[name])
            for key in mine.files:
                close = {"atol": 1e-4} if name.startswith(trained) else {"atol": 1e-6}
                np.testing.assert_allclose(theirs[key], mine[key], rtol=0, err_msg=f"{name} {key}", **close)


@pytest.mark.e2e
def test_all_notebooks_run_on_the_stand_ins(two: Path, models: Path, tmp_path: Path) -> None:
    """After `prepare`, which they find finished, with finished videos of another generator beside Open-Sora's."""
    profile = load_profile("paper", TINY)
    videos = tmp_path / "gen-2"
    videos.mkdir()
    for image in read_suite(models / profile.data.suite / "vbench2_i2v_full_info.json"):
        for k in range(3):
            write_video(videos / f"{image.prompt}-{k}.mp4", Video(moving_clip(k, height=72, width=64), 24.0))
    parameters = ["-p", f"changes={yaml.safe_dump(TINY)}", "-p", f"generators={{Gen-2: {videos}}}"]
    printed = command(two, models, "icreward_lib", "reproduce", *parameters)
    assert "06_open_sora_dpo" in printed
    results, figures = two / "results/paper-changed", two / "figures/paper-changed"
    for number in range(1, 7):
        assert {path.suffix for path in figures.glob(f"fig{number}_*")} == {".png", ".pdf", ".csv"}
    logs = [json.loads(path.read_text()) for path in (two / ".cache/paper/runs").glob("0*.json")]
    made = [stage["stage"] for log in logs for stage in log["stages"] if not stage["reused"]]
    assert made == ["generator"], "notebooks should find finished what prepare makes"
    with (results / "generators.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["generator"] for row in rows] == ["Open-Sora", "Gen-2"]
    assert all(float(row["fvd_low"]) <= float(row["fvd"]) for row in rows)
    provenance = json.loads((results / "dataset.json").read_text())["provenance"]
    assert provenance["models"]["vlm"]["id"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert "model-00001-of-00002.safetensors" in provenance["models"]["vlm"]["files"]
    assert not (two / "results/claims.md").exists()


def test_the_subset_is_the_posters_and_every_kind_has_its_share(models: Path) -> None:
    data = load_profile("paper").data
    assert (data.samples, data.videos_per_sample, data.candidates, data.low_score_additions) == (300, 5, 2, 30)
    images = read_suite(models / data.suite / "vbench2_i2v_full_info.json")
    assert curate_images(images, 22, seed=0) == curate_images(images, 22, seed=0) != curate_images(images, 22, seed=1)

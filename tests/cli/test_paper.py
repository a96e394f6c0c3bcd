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
from support import ROOT
from support.standins import write_standins
from support.standins_metrics import moving_clip

from icreward_lib.poster.suite import curate_images, read_suite
from icreward_lib.run.profile import load_profile
from icreward_lib.video import Video, write_video

TINY = {
    "data.samples": 9,
    "data.train": 3,
    "data.val": 2,
    "data.test": 4,
    "data.videos_per_sample": 3,
    "data.low_score_additions": 2,
    "data.low_score_below": 0.9,  # nothing that random networks say is low
    "generation.num_frames": 17,
    "generation.height": 64,
    "generation.width": 114,  # no whole number of latent pixels
    "generation.steps": 2,
    "mlp.epochs": 2,
    "mlp.seeds": 2,
    "icreward.epochs": 1,
    "icreward.batch_size": 8,
    "icreward.seeds": 2,
    "dpo.subset": 2,
    "dpo.steps": 2,
    "dpo.batch_size": 2,
    "dpo.held_out_pairs": 4,
    "dpo.eval_every": 1,
    "dpo.eval_timesteps": 1,
    "dpo.seeds": 1,
    "dpo.new_samples": 2,
    "probes.scenes": 6,
    "probes.frozen_scenes": 2,
    "pool.images": 2,
    "pool.videos": 4,
    "robust.scenes": 4,
    "robust.departures": 1,
    "robust.epochs": 1,
    "rules.steps": 1,
    "rules.eval_timesteps": 1,
    "rules.held_out_pairs": 2,
    "rules.seeds": 1,
    "rules.new_samples": 2,
    "stats.bootstrap_draws": 100,
}


def command(output: Path, models: Path, *words: str) -> str:
    """Run the command line with its own output folder; what it printed."""
    environment = os.environ | {"ICREWARD_OUTPUT": str(output), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
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
    """The arrays in all stages, by the stage's folder and their name."""
    stages = output / ".cache/paper"
    return {path.relative_to(stages).as_posix(): path for path in sorted(stages.glob("*/*/*.npz"))}


def curve(output: Path, notebook: str) -> list[float]:
    """The accuracies of the one DPO run that a notebook made."""
    stages = output.glob(".cache/paper/dpo/*/.done.json")
    (done,) = (path for path in stages if json.loads(path.read_text())["notebook"] == notebook)
    return [row["accuracy"] for row in json.loads((done.parent / "history.json").read_text())["curve"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_standins(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def alone(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All notebooks, with finished videos of another generator beside Open-Sora's."""
    output = tmp_path_factory.mktemp("alone")
    videos = output / "gen-2"
    videos.mkdir()
    for image in read_suite(models / load_profile("paper").data.suite / "vbench2_i2v_full_info.json"):
        for k in range(TINY["data.videos_per_sample"]):
            write_video(videos / f"{image.prompt}-{k}.mp4", Video(moving_clip(k, height=72, width=64), 24.0))
    parameters = ["-p", f"changes={yaml.safe_dump(TINY)}", "-p", f"generators={{Gen-2: {videos}}}"]
    command(output, models, "icreward_lib", "reproduce", *parameters)
    return output


@pytest.mark.e2e
def test_all_notebooks_run_on_the_stand_ins(alone: Path) -> None:
    results, figures = alone / "results/paper-changed", alone / "figures/paper-changed"
    for number in range(1, 11):
        assert {path.suffix for path in figures.glob(f"fig{number}_*")} == {".png", ".pdf", ".csv"}
    with (results / "generators.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["generator"] for row in rows] == ["Open-Sora", "Gen-2"]
    assert all(float(row["fvd"]) > 0 and row["clips"] == "12" and row["images"] == "4" for row in rows)
    dataset, rewards = (json.loads((results / f"{name}.json").read_text()) for name in ("dataset", "reward_models"))
    assert sum(sum(counts.values()) for counts in dataset["kinds"].values()) == TINY["data.samples"]
    used = rewards["provenance"]["models"]
    assert used["vlm"]["id"] == "Qwen/Qwen2-VL-2B-Instruct"
    assert "model-00001-of-00002.safetensors" in used["vlm"]["files"]
    assert "VBench++ image suite" in (results / "dataset_card.md").read_text()
    assert not (alone / "results/claims.md").exists(), "claims are published of the laptop profile"


@pytest.mark.e2e
def test_two_processes_prepare_what_the_notebooks_make(alone: Path, models: Path, tmp_path: Path) -> None:
    # accelerate starts several processes with this flag only, on CPUs as well.
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command(tmp_path, models, *launch, "-m", "icreward_lib", "prepare", "--changes", yaml.safe_dump(TINY))
    assert len(list(tmp_path.glob(".cache/paper/videos/*/.journal-*"))) == 2, "both processes make videos"
    expected, found = items(alone), items(tmp_path)
    left = {"generator", "reward_scores", "probes", "frozen", "pool", "departed_clips", "recipes", "gated",
            "recipe_scores", "new_clips", "consistency"}  # fmt: skip
    assert {name.split("/")[0] for name in expected.keys() - found.keys()} == left, "what notebooks alone make"
    # Pairs carry their scores: where a reward's training summed in another order, DPO's stages have another name.
    tuned = {name for name in found if name.startswith("new_clips/")}
    assert tuned, "clips of the fine-tuned generator"
    assert not found.keys() - tuned - expected.keys() and len(found) > 30
    for name, path in found.items():
        if name in tuned:
            continue
        made, wanted = np.load(path), np.load(expected[name])
        close = 1e-5 if name.startswith("reward_") else 1e-6  # a training's sums come in another order
        for key in wanted.files:
            np.testing.assert_allclose(made[key], wanted[key], rtol=close, atol=close, err_msg=f"{name} {key}")
    assert curve(alone, "06_open_sora_dpo") == curve(tmp_path, "prepare")


def test_the_subset_is_the_posters_and_every_kind_has_its_share(models: Path) -> None:
    data = load_profile("paper").data
    assert (data.samples, data.videos_per_sample, data.low_score_additions) == (300, 5, 30)
    images = read_suite(models / data.suite / "vbench2_i2v_full_info.json")
    assert curate_images(images, 22, seed=0) == curate_images(images, 22, seed=0) != curate_images(images, 22, seed=1)

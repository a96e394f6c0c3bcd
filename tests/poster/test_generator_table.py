"""One row per generator: finished videos that are read once, means as VBench++ takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.standins import write_standins
from support.standins_metrics import moving_clip

from icreward_lib.generators.others import FinishedVideos
from icreward_lib.metrics.fvd import frechet_distance
from icreward_lib.poster import samples
from icreward_lib.poster.generator_table import (
    MeasuredGenerator,
    _pipeline,
    generator_table,
    measure_generator,
)
from icreward_lib.poster.samples import Sample
from icreward_lib.run import Run, start
from icreward_lib.run.models import ROOT
from icreward_lib.video import Video, write_video

COUNTS = {
    "data.samples": 12,
    "data.train": 3,
    "data.val": 3,
    "data.test": 6,
    "data.videos_per_sample": 2,
    "dpo.subset": 2,
    "dpo.new_samples": 2,
    "pool.images": 2,
    "rules.new_samples": 2,
    "generation.num_frames": 17,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_standins(tmp_path_factory.mktemp("models"), real_videos=18)


@pytest.fixture
def run(models: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv(ROOT, str(models))
    return start("04_naive_sampling", "paper", **COUNTS)


def write_finished(folder: Path, chosen: list[Sample]) -> Path:
    """Two finished videos of every sample, as VBench names them."""
    folder.mkdir()
    for i, sample in enumerate(chosen):
        for k in range(2):
            clip = Video(moving_clip(2 * i + k, height=72, width=64), 8.0)
            write_video(folder / f"{sample.prompt}-{k}.mp4", clip, lossless=True)
    return folder


@pytest.mark.e2e
def test_finished_videos_are_measured_once_and_after_a_kill_from_where_it_was(run, tmp_path, monkeypatch) -> None:
    test = [sample for sample in samples.draw_samples(run) if sample.split == "test"]
    assert {sample.dimension for sample in test} == {"subject", "background"}
    folder = write_finished(tmp_path / "gen-2", test)
    made: list[str] = []

    def generate(self, image, prompt, *, num_videos, seed):
        if len(made) == 4:
            made.append("killed")
            raise KeyboardInterrupt
        made.append(prompt)
        return original(self, image, prompt, num_videos=num_videos, seed=seed)

    original = FinishedVideos.generate
    monkeypatch.setattr(FinishedVideos, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        measure_generator(run, str(folder), test)
    measured = measure_generator(run, str(folder), test)
    assert [prompt for prompt in made if prompt != "killed"] == [sample.prompt for sample in test]
    again = measure_generator(run, str(folder), test)
    assert len(made) == 7 and again.table.equals(measured.table)
    assert measured.features.shape == (12, 400) and measured.table["video"].tolist() == [0, 1] * 6

    real = np.random.default_rng(0).normal(size=(8, 400)).astype(np.float32)
    table = generator_table({"finished": measured, "twin": again}, real, seed=0, draws=20)
    row, clips = table.loc["finished"], measured.table
    for dimension in ("subject", "background"):
        part = clips[clips["dimension"] == dimension]
        assert len(part) and row[f"i2v_{dimension}"] == pytest.approx(part[dimension].mean())
        assert row[f"i2v_{dimension}_low"] <= row[f"i2v_{dimension}"] <= row[f"i2v_{dimension}_high"]
    assert row["fvd"] == pytest.approx(frechet_distance(real, measured.features))
    assert (row["clips"], row["images"], row["real_clips"]) == (12, 6, 8) and row["dynamic_degree"] > 0
    assert table.loc["twin"].equals(row)
    fewer = MeasuredGenerator(measured.table[2:], measured.features[2:])
    with pytest.raises(ValueError, match="twin and finished were measured on other images"):
        generator_table({"finished": measured, "twin": fewer}, real, seed=0)


@pytest.mark.fault
def test_missing_videos_and_unknown_generators_are_one_sentence(run, tmp_path) -> None:
    test = [sample for sample in samples.draw_samples(run) if sample.split == "test"]
    folder = write_finished(tmp_path / "pika", test[1:])
    with pytest.raises(FileNotFoundError, match="has fewer than 2 videos for 1 of 6 prompts"):
        measure_generator(run, str(folder), test)
    with pytest.raises(FileNotFoundError, match="hf download some/pipeline --local-dir"):
        _pipeline("some/pipeline", fps=8.0, device="cpu")

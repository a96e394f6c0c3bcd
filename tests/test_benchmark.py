"""One row per generator on the images of the suite: stages that resume, means as VBench++ takes them."""

from pathlib import Path

import numpy as np
import pytest
from standins_metrics import moving_clip, write_i3d, write_suite
from test_vbench import Pooled

from icreward_lib.benchmark import CODE, Measured, Tools, generator_table, measure_generator
from icreward_lib.files import source_hash
from icreward_lib.metrics.fvd import frechet_distance
from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.metrics.video_features import I3DFeatures
from icreward_lib.other_generators import FinishedVideos
from icreward_lib.run import start
from icreward_lib.suite import SuiteImage, image_files, read_suite
from icreward_lib.video import Video, write_video


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SuiteImage]]:
    """Three subject and three background images of the suite, two finished videos of each, and I3D."""
    folder = tmp_path_factory.mktemp("world")
    write_suite(folder)
    write_i3d(folder)
    images = read_suite(folder / "vbench2_i2v_full_info.json")
    images = images[:3] + images[-3:]
    for i, image in enumerate(images):
        for k in range(2):
            clip = Video(moving_clip(2 * i + k, height=72, width=64), 8.0)
            write_video(folder / f"{image.prompt}-{k}.mp4", clip, lossless=True)
    return folder, images


@pytest.mark.e2e
def test_a_generator_is_measured_once_and_resumes(world, output, monkeypatch) -> None:
    folder, images = world
    files = image_files(images, folder / "crop" / "1-1")
    made: list[str] = []
    run = start("04_naive_sampling", "laptop")

    class Dying(FinishedVideos):
        def generate(self, image, prompt, *, num_videos, seed):
            if len(made) == 4:
                made.append("killed")
                raise KeyboardInterrupt
            made.append(prompt)
            return super().generate(image, prompt, num_videos=num_videos, seed=seed)

    def load() -> Tools:
        videos = Dying.from_folder(folder)
        return Tools(videos, ConsistencyScorer(Pooled()), I3DFeatures(folder))

    def measure() -> Measured:
        with run.stage("generator", code=CODE, name="finished") as stage:
            return measure_generator(stage, load, images, files, num_videos=2, seed=0)

    with pytest.raises(KeyboardInterrupt):
        measure()
    measured = measure()
    assert [prompt for prompt in made if prompt != "killed"] == [image.prompt for image in images]
    again = measure()
    assert len(made) == 7 and again.table.equals(measured.table)
    assert measured.features.shape == (12, 400) and measured.table["video"].tolist() == [0, 1] * 6

    real = np.random.default_rng(0).normal(size=(8, 400)).astype(np.float32)
    table = generator_table({"finished": measured, "twin": again}, real, seed=0, draws=20)
    row = table.loc["finished"]
    clips = measured.table
    for dimension in ("subject", "background"):
        part = clips[clips["dimension"] == dimension]
        assert len(part) == 6 and row[f"i2v_{dimension}"] == pytest.approx(part[dimension].mean())
        assert row[f"i2v_{dimension}_low"] <= row[f"i2v_{dimension}"] <= row[f"i2v_{dimension}_high"]
    assert row["fvd"] == pytest.approx(frechet_distance(real, measured.features))
    assert (row["clips"], row["images"], row["real_clips"]) == (12, 6, 8) and row["dynamic_degree"] > 0
    assert table.loc["twin"].equals(row)
    fewer = Measured(measured.table[2:], measured.features[2:])
    with pytest.raises(ValueError, match="twin and finished were measured on other images"):
        generator_table({"finished": measured, "twin": fewer}, real, seed=0)


def test_the_code_that_makes_a_stage_exists() -> None:
    assert source_hash(*CODE)

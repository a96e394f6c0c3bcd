"""The videos that the generator makes of samples, and what is measured of them, an item of a stage each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from icreward_lib.poster.networks import open_sora, open_sora_files
from icreward_lib.poster.samples import Sample
from icreward_lib.run import Run
from icreward_lib.run.processes import own_share, side_by_side
from icreward_lib.run.stages import Stage
from icreward_lib.video import Video, read_video, write_video

S = TypeVar("S", bound=Sample)


@dataclass(frozen=True)
class Videos:
    """Generated videos on disk: one folder a sample, with a lossless file a video, their latents and their image."""

    stage: Stage

    def of(self, sample: int) -> list[Video]:
        """The K videos of a sample."""
        return [read_video(path) for path in sorted(self.stage.path(item_of(sample)).glob("*.mp4"))]

    def first(self, sample: int) -> Video:
        """The first of them."""
        return read_video(self.stage.path(item_of(sample)) / "000.mp4")

    def latents(self, sample: int) -> np.ndarray:
        """What they were decoded from: float32 (K, c, t', h', w'), frame 0 the image's own latent."""
        return np.load(self.stage.path(item_of(sample)) / "latents.npy")

    def seen(self, sample: int) -> np.ndarray:
        """Their image as the generator sees it (`OpenSoraGenerator.as_seen`), uint8 RGB (H, W, 3)."""
        return np.load(self.stage.path(item_of(sample)) / "seen.npy")


def compared_with(run: Run, sample: Sample, videos: Videos) -> np.ndarray:
    """What labels compare a sample's videos with, uint8 RGB (H, W, 3): the image, or what the generator sees of it.

    A small autoencoder's blur would otherwise lower every label. Neither depends on which videos there are.
    """
    shape = run.profile.generation
    if run.profile.labels.reference == "image":
        return sample.image(shape.height, shape.width)
    return videos.seen(sample.id)


def generate(run: Run, samples: Sequence[Sample]) -> Videos:
    """Generate the videos of every sample from its image and prompt."""
    settings, k = run.profile.generation, run.profile.data.videos_per_sample
    inputs = {"generation": settings, "seed": run.profile.seed, "samples": [sample.account() for sample in samples]}
    with run.stage("videos", code=generate, model=open_sora_files(run), k=k, **inputs) as stage:
        if not stage.done:
            generator = open_sora(run)

            def sampled(sample: Sample) -> tuple[list[Video], dict[str, np.ndarray]]:
                image, seed = sample.image(settings.height, settings.width), run.seed("videos", sample.id)
                clips, latents = generator.sample(image, sample.prompt, num_videos=k, seed=seed)
                return clips, {"latents": latents.numpy(), "seen": generator.as_seen(image)}

            save_videos(stage, samples, sampled)
    return Videos(stage)


def item_of(sample: int) -> str:
    """Name of a sample's item in a stage."""
    return f"{sample:04d}"


def save_videos(
    stage: Stage, samples: Sequence[S], make: Callable[[S], tuple[Sequence[Video], Mapping[str, np.ndarray]]]
) -> None:
    """Save the videos, and arrays, of every sample of this process's share that a stage lacks, several side by side."""
    missing = [sample for sample in own_share(samples) if not stage.has(item_of(sample.id))]
    for sample, (clips, arrays) in side_by_side(make, missing):
        with stage.write(item_of(sample.id)) as folder:
            folder.mkdir()
            for k, clip in enumerate(clips):
                write_video(folder / f"{k:03d}.mp4", clip, lossless=True)
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)


def save_each(stage: Stage, samples: Sequence[S], measure: Callable[[S], Mapping[str, np.ndarray]]) -> None:
    """Save arrays of every sample, likewise."""
    missing = [sample for sample in own_share(samples) if not stage.has(f"{item_of(sample.id)}.npz")]
    for sample, values in side_by_side(measure, missing):
        stage.save_npz(f"{item_of(sample.id)}.npz", **values)


def load_each(stage: Stage, samples: Sequence[Sample]) -> list[dict[str, np.ndarray]]:
    """The arrays of every sample."""
    return [stage.load_npz(f"{item_of(sample.id)}.npz") for sample in samples]

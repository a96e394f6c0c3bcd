"""The videos that the generator makes of every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from icreward_lib.poster.networks import open_sora, open_sora_files
from icreward_lib.poster.samples import Sample
from icreward_lib.run import Run
from icreward_lib.run.processes import own_share, side_by_side
from icreward_lib.run.stages import Stage
from icreward_lib.video import Video, read_image, read_video, write_video


@dataclass(frozen=True)
class Videos:
    """Generated videos on disk: one folder a sample, with a lossless file a video, their latents and their image."""

    stage: Stage

    def of(self, sample: int) -> list[Video]:
        """The K videos of a sample."""
        folder = self.stage.path(item_of(sample))
        return [read_video(path) for path in sorted(folder.glob("*.mp4"))]

    def first(self, sample: int) -> Video:
        """The first of them."""
        return read_video(self.stage.path(item_of(sample)) / "0.mp4")

    def seen(self, sample: int) -> np.ndarray:
        """Their image as the generator sees it (`OpenSoraGenerator.as_seen`), uint8 RGB (H, W, 3)."""
        return read_image(self.stage.path(item_of(sample)) / "seen.png")

    def latents(self, sample: int) -> np.ndarray:
        """What they were decoded from: float32 (K, c, t', h', w'), frame 0 the image's own latent."""
        return np.load(self.stage.path(item_of(sample)) / "latents.npy")


def compared_with(run: Run, sample: Sample, videos: Videos) -> np.ndarray:
    """What labels compare a sample's videos with, uint8 RGB (H, W, 3): the image, or what the generator sees of it.

    A small autoencoder's blur would otherwise lower every label. Neither depends on which videos there are.
    """
    shape = run.profile.generation
    if run.profile.labels.reference == "image":
        return sample.image(shape.height, shape.width)
    return videos.seen(sample.id)


def item_of(sample: int) -> str:
    """Name of a sample's item in a stage."""
    return f"{sample:04d}"


def generate(run: Run, samples: Sequence[Sample]) -> Videos:
    """Generate the videos of every sample from its image and prompt."""
    settings = run.profile.generation
    inputs = {"samples": [sample.account() for sample in samples], "k": run.profile.data.videos_per_sample}
    with run.stage(
        "videos",
        code=generate,
        model=open_sora_files(run),
        generation=settings.model_dump(),
        seed=run.profile.seed,
        **inputs,
    ) as stage:
        if not stage.done:
            generator = open_sora(run)

            def sampled(sample: Sample) -> tuple[list[Video], torch.Tensor, np.ndarray]:
                image, k = sample.image(settings.height, settings.width), run.profile.data.videos_per_sample
                made = generator.sample(image, sample.prompt, num_videos=k, seed=run.seed("videos", sample.id))
                return *made, generator.as_seen(image)

            missing = [sample for sample in own_share(samples) if not stage.has(item_of(sample.id))]
            for sample, (clips, latents, seen) in side_by_side(sampled, missing):
                with stage.write(item_of(sample.id)) as folder:
                    folder.mkdir()
                    for k, clip in enumerate(clips):
                        write_video(folder / f"{k}.mp4", clip, lossless=True)
                    np.save(folder / "latents.npy", latents.numpy())
                    Image.fromarray(seen).save(folder / "seen.png")
    return Videos(stage)

"""Samples, a reference image and its prompt each, and the videos that the generator makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from icreward_lib.generators import OpenSoraGenerator
from icreward_lib.parallel import side_by_side
from icreward_lib.run import Run
from icreward_lib.stages import Stage
from icreward_lib.video import Video, read_video, write_video
from icreward_lib.world.scenes import Scene, render, sample_scenes

CODE = ("generators", "opensora", "world.scenes", "world.content", "video", "generation", "parallel")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One reference image, its prompt and its split."""

    id: int
    split: str
    scene: Scene

    @property
    def prompt(self) -> str:
        """The caption that the generator is given."""
        return self.scene.caption

    def image(self, size: int) -> np.ndarray:
        """The reference image, uint8 RGB (size, size, 3): the first frame of the scene's true clip."""
        return self.truth(1, size, fps=1).frames[0]

    def truth(self, num_frames: int, size: int, fps: float) -> Video:
        """The clip that the prompt asks for, rendered."""
        return Video(render([self.scene], num_frames=num_frames, size=size).frames[0], fps)


def draw_samples(run: Run) -> list[Sample]:
    """The samples of a profile: the test split has its share of unseen content, the others have none."""
    data = run.profile.data
    unseen = round(data.test * data.unseen_share)
    seen = sample_scenes(data.samples - unseen, seed=run.seed("scenes", "seen"))
    scenes = seen + sample_scenes(unseen, seed=run.seed("scenes", "unseen"), split="unseen")
    splits = [split for split in SPLITS for _ in range(getattr(data, split))]
    return [Sample(i, split, scene) for i, (split, scene) in enumerate(zip(splits, scenes, strict=True))]


@dataclass(frozen=True)
class Videos:
    """Generated videos on disk: one folder a sample, with a lossless file a video and the latents of all."""

    stage: Stage

    def of(self, sample: int) -> list[Video]:
        """The K videos of a sample."""
        folder = self.stage.path(item_of(sample))
        return [read_video(path) for path in sorted(folder.glob("*.mp4"))]

    def first(self, sample: int) -> Video:
        """The first of them."""
        return read_video(self.stage.path(item_of(sample)) / "0.mp4")

    def latents(self, sample: int) -> np.ndarray:
        """What they were decoded from: float32 (K, c, t', h', w'), frame 0 the image's own latent."""
        return np.load(self.stage.path(item_of(sample)) / "latents.npy")


def as_seen(videos: Sequence[Video]) -> np.ndarray:
    """The image of some videos as the generator sees it, uint8 RGB (H, W, 3): what labels compare with.

    The autoencoder's blur would otherwise lower every label. It is the mean of the videos' first frames: all are
    decoded from the image's own latent and differ only by what the decoder's norms mix in.
    """
    return np.stack([video.frames[0] for video in videos]).mean(0).round().astype(np.uint8)


def item_of(sample: int) -> str:
    """Name of a sample's item in a stage."""
    return f"{sample:04d}"


def generate(run: Run, samples: Sequence[Sample]) -> Videos:
    """Generate the videos of every sample from its image and prompt."""
    settings = run.profile.generation
    model = run.model("generator")
    inputs = {"samples": [asdict(s.scene) for s in samples], "k": run.profile.data.videos_per_sample}
    with run.stage(
        "videos",
        code=CODE,
        model=model,
        generation=settings.model_dump(),
        seed=run.profile.seed,
        **inputs,
    ) as stage:
        if not stage.done:
            generator = OpenSoraGenerator.from_pretrained(model, settings)

            def sampled(sample: Sample) -> tuple[list[Video], torch.Tensor]:
                image, k = sample.image(settings.height), run.profile.data.videos_per_sample
                return generator.sample(image, sample.prompt, num_videos=k, seed=run.seed("videos", sample.id))

            missing = [sample for sample in samples if not stage.has(item_of(sample.id))]
            for sample, (clips, latents) in side_by_side(sampled, missing):
                with stage.write(item_of(sample.id)) as folder:
                    folder.mkdir()
                    for k, clip in enumerate(clips):
                        write_video(folder / f"{k}.mp4", clip, lossless=True)
                    np.save(folder / "latents.npy", latents.numpy())
    return Videos(stage)

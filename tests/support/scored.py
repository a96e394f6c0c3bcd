"""Small clips of photographs on disk, for the tests of scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from icreward_lib.rewards.base import ClipScores
from icreward_lib.score.judges import OpenedReward
from icreward_lib.video import Video, write_video

PHOTOGRAPHS = {"cat": skimage.data.chelsea, "coffee": skimage.data.coffee, "astronaut": skimage.data.astronaut}


def picture(name: str = "cat", *, height: int = 48, width: int = 64) -> np.ndarray:
    """A corner of a photograph."""
    return np.ascontiguousarray(PHOTOGRAPHS[name]()[::3, ::3][:height, :width])


def moving(
    name: str = "cat", *, speed: int = 1, frames: int = 8, height: int = 48, width: int = 64, fps: float = 8
) -> Video:
    """A window that moves over a photograph by `speed` pixels a frame; it begins with `picture`."""
    photograph = PHOTOGRAPHS[name]()[::3, ::3]
    return Video(np.stack([photograph[:height, speed * time : speed * time + width] for time in range(frames)]), fps)


def write_scene(folder: Path) -> tuple[Path, list[Path]]:
    """A reference and three videos: of it, moving faster, and of something else."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = folder / "reference.png"
    Image.fromarray(picture()).save(reference)
    videos = {"slow": moving(), "fast": moving(speed=6), "other": moving("coffee")}
    paths = [folder / f"{name}.mp4" for name in videos]
    for path, video in zip(paths, videos.values(), strict=True):
        write_video(path, video)
    return reference, paths


class Counting(OpenedReward):
    """An opened reward that counts what it is asked, and stops like Ctrl-C after `patience` clips."""

    def __init__(self, judge: OpenedReward, patience: int | None = None) -> None:
        """The same reward as `judge`."""
        super().__init__(**{field.name: getattr(judge, field.name) for field in fields(judge)})
        self.patience, self.clips = patience, 0

    def score_clips(self, image: np.ndarray, videos: Sequence[Video]) -> list[ClipScores]:
        """What the real one says."""
        self.clips += len(videos)
        if self.patience is not None and self.clips > self.patience:
            raise KeyboardInterrupt
        return super().score_clips(image, videos)

"""Metrics as rewards: VBench++ and CLIPSim, of single images and clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from icreward_lib.metrics.clip import ClipSim
from icreward_lib.metrics.features import distinct_frames
from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.rewards.base import DIMENSIONS, Image, Scores
from icreward_lib.video import Video


@dataclass(frozen=True)
class VBenchReward:
    """VBench++'s raw image-to-video subject and background, and their mean (`Reward`); see `Scores` for frames."""

    scorer: ConsistencyScorer
    name: str = "VBench++"

    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores of K videos of one length and size, at least two frames each; their frame rates are not compared."""
        raw = self.scorer.score(image, [replace(video, fps=videos[0].fps) for video in videos])
        found = {name: np.clip(values, 0, 1) for name, values in raw.items()}
        dimensions = {name: found[name] for name in DIMENSIONS}
        frames = np.mean([found[f"{name}_frames"] for name in DIMENSIONS], axis=0)
        return Scores(np.mean(list(dimensions.values()), axis=0), dimensions, frames)


@dataclass(frozen=True)
class CLIPSimReward:
    """Mean cosine of the CLIP features of image and frames, the first included, those below 0 as 0 (`Reward`)."""

    clip: ClipSim
    name: str = "CLIPSim"

    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores, without dimensions, of K videos of one length and size."""
        distinct, place = distinct_frames(videos)
        cosines = self.clip.image_features(distinct)[place] @ self.clip.image_features(image[None])[0]
        frames = np.clip(cosines, 0, 1).astype(np.float32)
        return Scores(frames.mean(1), {}, frames)

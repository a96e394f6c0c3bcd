"""Rewards for people's own pictures and videos, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from icreward_lib.rewards.base import ClipScores
from icreward_lib.score.intake import Limits, read_clip, read_picture
from icreward_lib.score.judges import LITE, OpenedReward, open_reward
from icreward_lib.video import Video

_RATE = 8.0  # frames a second of a clip that comes as an array, which only few rewards ask for


class ICReward:
    """Says how well videos keep a reference picture.

        reward = ICReward.from_pretrained()
        scores = reward.score("reference.png", ["a.mp4", "b.mp4"])
        best = max(scores, key=lambda clip: clip.overall)

    What it loads is `opened`, which has a `name` and an `identity`.
    """

    def __init__(self, opened: OpenedReward) -> None:
        """See `from_pretrained`."""
        self.opened = opened

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str] = LITE, *, maps: bool = False) -> ICReward:
        """Load a reward.

        Args:
            source: a folder that any reward's `save_pretrained` wrote, or a profile that has been run here, such as
                "laptop". By default the ICReward lite that comes with the checkout, which is meant for real clips.
            maps: have scores carry consistency maps, where the reward has them.

        Raises:
            FileNotFoundError: if there is no such reward, or what it builds on is missing.
            ValueError: if it is damaged.
        """
        return cls(open_reward(f"icreward={source}", maps=maps))

    def score(
        self,
        image: str | PathLike[str] | np.ndarray,
        videos: Sequence[str | PathLike[str] | Video | np.ndarray],
        limits: Limits = Limits(),  # noqa: B008
    ) -> list[ClipScores]:
        """Score videos against a reference picture.

        Args:
            image: a file, or an array uint8 (H, W, 3), RGB.
            videos: files, of which the frames that `limits` says are read; `Video`s, or arrays uint8 (T, H, W, 3),
                RGB, which are scored as they are. Lengths and sizes may differ.
            limits: on what is read of files.

        Returns:
            Of each video, in their order: `overall`, `dimensions` ("subject", "background") and `frames` (T,), all in
            [0, 1], higher is better, and `warnings`.

        Raises:
            IntakeError: a ValueError, for a file that cannot be read.
            ValueError: for an array of another type or shape, or a clip that the reward cannot score.
        """
        if isinstance(videos, str | PathLike):
            raise ValueError("videos must be a list, such as [path], even of a single one")
        shared: tuple[str, ...] = ()
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"the picture must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
        else:
            picture = read_picture(Path(image), limits)
            image, shared = picture.image, tuple(f"reference: {text}" for text in picture.warnings)
        clips = [_clip(video, limits) for video in videos]
        found = self.opened.score_clips(image, [video for video, _ in clips])
        return [
            replace(scores, warnings=(*shared, *own, *scores.warnings))
            for scores, (_, own) in zip(found, clips, strict=True)
        ]


def _clip(video: str | PathLike[str] | Video | np.ndarray, limits: Limits) -> tuple[Video, tuple[str, ...]]:
    """A video in memory, and the warnings about its file."""
    if isinstance(video, Video | np.ndarray):
        return video if isinstance(video, Video) else Video(video, _RATE), ()
    clip = read_clip(Path(video), limits)
    return clip.video, clip.warnings

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
    """Says how well videos keep a reference picture: `ICReward.from_pretrained().score("a.png", ["a.mp4", "b.mp4"])`.

    What it loads is `opened`, which has a `name` and an `identity`.
    """

    def __init__(self, opened: OpenedReward) -> None:
        """See `from_pretrained`."""
        self.opened = opened

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str] = LITE, *, maps: bool = False) -> ICReward:
        """Load the reward of a folder that `save_pretrained` wrote, or of a profile that has been run here ("laptop").

        The default is the checkout's ICReward lite, for real clips. With `maps` scores carry consistency maps, where
        the reward has them. Raises FileNotFoundError if something is missing, ValueError if it is damaged.
        """
        return cls(open_reward(f"icreward={source}", maps=maps))

    def score(
        self,
        image: str | PathLike[str] | np.ndarray,
        videos: Sequence[str | PathLike[str] | Video | np.ndarray],
        limits: Limits = Limits(),  # noqa: B008
    ) -> list[ClipScores]:
        """Score videos (files, `Video`s, or RGB uint8 (T, H, W, 3)) against a picture (a file, or RGB uint8 (H, W, 3)).

        Gives of each video `overall`, `dimensions` ("subject", "background") and `frames` (T,), in [0, 1], higher is
        better, and `warnings`. `limits` bound what is read of files. Raises ValueError for files that cannot be read
        (IntakeError), arrays of another type or shape, and clips that cannot be scored.
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
        found = zip(self.opened.score_clips(image, [video for video, _ in clips]), clips, strict=True)
        return [replace(scores, warnings=(*shared, *own, *scores.warnings)) for scores, (_, own) in found]


def _clip(video: str | PathLike[str] | Video | np.ndarray, limits: Limits) -> tuple[Video, tuple[str, ...]]:
    """A video in memory, and the warnings about its file."""
    if isinstance(video, Video | np.ndarray):
        return video if isinstance(video, Video) else Video(video, _RATE), ()
    clip = read_clip(Path(video), limits)
    return clip.video, clip.warnings

"""Rewards for people's own pictures and videos, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from icreward_lib.score.intake import Limits, read_clip, read_picture
from icreward_lib.score.judges import LITE, Judge, Verdict, open_judge
from icreward_lib.video import Video

Picture = str | PathLike[str] | npt.NDArray[np.uint8]
Clip = str | PathLike[str] | Video | npt.NDArray[np.uint8]
_RATE = 8.0  # frames a second of a clip that comes as an array, which only few rewards ask for


class ICReward:
    """Says how well videos keep a reference picture.

        reward = ICReward.from_pretrained()
        verdicts = reward.score("reference.png", ["a.mp4", "b.mp4"])
        best = max(verdicts, key=lambda verdict: verdict.overall)

    What it loads is `judge`, which has a `name` and an `identity`.
    """

    def __init__(self, judge: Judge) -> None:
        """See `from_pretrained`."""
        self.judge = judge

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str] = LITE, *, maps: bool = False) -> ICReward:
        """Load a reward.

        Args:
            source: a folder that any reward's `save_pretrained` wrote, or a profile that has been run here, such as
                "laptop". By default the ICReward lite that comes with the checkout, which is meant for real clips.
            maps: have verdicts carry consistency maps, where the reward has them.

        Raises:
            FileNotFoundError: if there is no such reward, or what it builds on is missing.
            ValueError: if it is damaged.
        """
        return cls(open_judge(f"icreward={source}", maps=maps))

    def score(self, image: Picture, videos: Sequence[Clip], limits: Limits = Limits()) -> list[Verdict]:  # noqa: B008
        """Judge videos against a reference picture.

        Args:
            image: a file, or an array uint8 (H, W, 3), RGB.
            videos: files, of which the frames that `limits` says are read; `Video`s, or arrays uint8 (T, H, W, 3),
                RGB, which are judged as they are. Lengths and sizes may differ.
            limits: on what is read of files.

        Returns:
            A verdict on each video, in their order: `overall`, `dimensions` ("subject", "background") and `frames`
            (T,), all in [0, 1], higher is better, and `warnings`.

        Raises:
            IntakeError: a ValueError, for a file that cannot be read.
            ValueError: for an array of another type or shape, or a clip that the reward cannot judge.
        """
        if isinstance(videos, str | PathLike):
            raise ValueError("videos must be a list, such as [path], even of a single one")
        warnings: tuple[str, ...] = ()
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"the picture must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
            pixels = image
        else:
            picture = read_picture(Path(image), limits)
            pixels, warnings = picture.image, tuple(f"reference: {text}" for text in picture.warnings)
        clips, own = [], []
        for video in videos:
            if isinstance(video, Video | np.ndarray):
                clips.append(video if isinstance(video, Video) else Video(video, _RATE))
                own.append(warnings)
            else:
                clip = read_clip(Path(video), limits)
                clips.append(clip.video)
                own.append((*warnings, *clip.warnings))
        return [verdict.warned(*texts) for verdict, texts in zip(self.judge.judge(pixels, clips), own, strict=True)]

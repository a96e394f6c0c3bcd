"""Fidelity of a generated clip to the scene it was asked for, which can be rendered: no reward and no label sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icreward_lib.video import Video
from icreward_lib.world.scenes import Scene, render

FIDELITIES = ("subject_fidelity", "background_fidelity", "motion_faithfulness")
_SCALE = 0.15  # mean absolute colour error, of 1, at which fidelity has fallen to 1/e


def fidelity(scene: Scene, videos: Sequence[Video]) -> dict[str, np.ndarray]:
    """How well each of K clips, of one size and length, keeps what the scene shows and moves as said: (K,) in [0, 1].

    `subject_fidelity`, `background_fidelity`: exp(-e / 0.15) of the mean absolute colour error e (of 1) where the true
    clip has the sticker, or has not (the latter for both without one). `motion_faithfulness`: the share of the squared
    error of a frozen first frame that the clip avoids, at least 0.
    """
    first = videos[0]
    truth = render([scene], num_frames=first.num_frames, size=first.height)
    target, mask = truth.frames[0] / 255.0, truth.masks[0]
    frozen = np.square(target - target[:1]).mean()
    result: dict[str, list[float]] = {name: [] for name in FIDELITIES}
    for video in videos:
        difference = video.frames / 255.0 - target
        error = np.abs(difference).mean(-1)
        background = float(np.exp(-np.average(error, weights=1 - mask) / _SCALE))
        subject = float(np.exp(-np.average(error, weights=mask) / _SCALE)) if mask.any() else background
        # A scene in which nothing moves is followed by what stays still: there every clip that keeps it is faithful.
        avoided = 1 - np.square(difference).mean() / frozen if frozen > 1e-4 else background
        for name, value in zip(FIDELITIES, (subject, background, max(0.0, float(avoided))), strict=True):
            result[name].append(value)
    return {name: np.array(values) for name, values in result.items()}

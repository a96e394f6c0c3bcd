"""Best of K: the video that a reward likes best, or a random one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]


def pick(scores: ArrayLike) -> int:
    """Index of the best of K videos by scores (K,), the lowest of equals; ValueError for none or not finite."""
    return int(picks(np.asarray(scores, dtype=float)[None])[0])


def picks(scores: ArrayLike) -> IntArray:
    """`pick` for every row of scores (S, K) -> (S,)."""
    values = np.asarray(scores, dtype=float)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"Scores must be samples x videos with at least one video, not of shape {values.shape}.")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"The score of sample {row}, video {column} is {values[row, column]}: score it again.")
    best: IntArray = np.argmax(values, axis=1)
    return best


def random_picks(samples: int, videos: int, *, seed: int) -> IntArray:
    """One seeded draw per sample -> (samples,) in 0..videos-1, for figures that show a single random pick."""
    return np.random.default_rng(seed).integers(videos, size=samples)

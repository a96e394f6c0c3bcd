"""Naive sampling: generate K videos of an image, keep the one a reward likes best (Table 1, Fig 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from icreward_lib.rewards.best_of_k import IntArray, picks
from icreward_lib.stats import Interval, bootstrap, bootstrap_mean, paired_difference

FloatArray = NDArray[np.float64]
Values = Mapping[str, ArrayLike]  # by name, "samples videos" each
# (images (n,), videos (n,)) -> FVD of the videos `videos[i]` of the images `images[i]` against real clips.
# Images are resampled, so they may repeat.
FvdOf = Callable[[IntArray, IntArray], float]

RANDOM = "random"
FVD_DRAWS = 200


def sampling_table(
    scores: Values, metrics: Values, *, seed: int, fvd: FvdOf | None = None, draws: int = 2000, level: float = 0.95
) -> pd.DataFrame:
    """Mean metrics of each reward's best-of-K picks, and of a random pick: n (S), `<metric>`, its `_low` and `_high`.

    Intervals are over images, the same resamples in every row: of differences between rows see `sampling_difference`.
    A random pick is the expectation over all K videos; its FVD, which is biased by the number of clips, is the mean
    over K draws of S clips that use each video once.
    """
    chosen, values = _checked(scores, metrics)
    rows: dict[str, dict[str, float]] = {}
    for name, columns in chosen.items():
        measured = _measured(values, columns).items()
        cells = {m: bootstrap_mean(v, seed=seed, draws=draws, level=level) for m, v in measured}
        if fvd is not None:
            cells["fvd"] = _fvd_interval(_fvd(fvd, columns), columns, seed, level)
        rows[name] = {"n": columns.shape[1]}
        for metric, cell in cells.items():
            rows[name] |= {metric: cell.mean, f"{metric}_low": cell.low, f"{metric}_high": cell.high}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("pick").astype({"n": int})


def sampling_difference(
    scores: Values,
    metrics: Values,
    first: str,
    second: str,
    *,
    seed: int,
    fvd: FvdOf | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired difference `first` minus `second` (names of rewards, or "random") of every metric, else as above.

    Columns mean, low, high, n (images, the same for both), and same_pick, the share of images where both picked one
    video (for "random" its expectation).
    """
    chosen, values = _checked(scores, metrics)
    if unknown := {first, second} - set(chosen):
        raise ValueError(f"There is no pick called {', '.join(sorted(unknown))}; there are {', '.join(chosen)}.")
    a, b = chosen[first], chosen[second]
    of_a, of_b = _measured(values, a), _measured(values, b)
    cells = {m: paired_difference(of_a[m], of_b[m], seed=seed, draws=draws, level=level) for m in values}
    if fvd is not None:
        fvd_a, fvd_b = _fvd(fvd, a), _fvd(fvd, b)
        cells["fvd"] = _fvd_interval(lambda images: fvd_a(images) - fvd_b(images), a, seed, level)
    table = pd.DataFrame.from_dict({metric: asdict(cell) for metric, cell in cells.items()}, orient="index")
    return table.rename_axis("metric").assign(same_pick=float((a[:, None] == b[None]).mean()))


def _checked(scores: Values, metrics: Values) -> tuple[dict[str, IntArray], dict[str, FloatArray]]:
    """Arrays of picks (R, S) by row of the table: R = 1 for a reward, K rotations for the random pick."""
    if not scores:
        raise ValueError("No reward to pick by: give at least one array of scores.")
    if RANDOM in scores:
        raise ValueError(f"'{RANDOM}' is the name of the random pick: call this reward something else.")
    chosen = {name: picks(array)[None] for name, array in scores.items()}
    values = {name: np.asarray(array, dtype=float) for name, array in metrics.items()}
    shapes = {name: np.shape(array) for name, array in [*scores.items(), *values.items()]}
    samples, videos = next(iter(shapes.values()))
    if wrong := {name: shape for name, shape in shapes.items() if shape != (samples, videos)}:
        raise ValueError(f"All scores and metrics must be {samples} samples x {videos} videos, but {wrong} are not.")
    rotations = (np.arange(videos)[:, None] + np.arange(samples)[None]) % videos
    return {RANDOM: rotations, **chosen}, values


def _measured(values: Mapping[str, FloatArray], columns: IntArray) -> dict[str, FloatArray]:
    """Each metric of the picked videos (S,), averaged over the rotations."""
    return {name: array[np.arange(columns.shape[1]), columns].mean(axis=0) for name, array in values.items()}


def _fvd(fvd: FvdOf, columns: IntArray) -> Callable[[IntArray], float]:
    """FVD of a row of the table as a statistic of image indices, averaged over the rotations."""
    return lambda images: float(np.mean([fvd(images, videos[images]) for videos in columns]))


def _fvd_interval(statistic: Callable[[IntArray], float], columns: IntArray, seed: int, level: float) -> Interval:
    return bootstrap(statistic, np.arange(columns.shape[1]), seed=seed, draws=FVD_DRAWS, level=level, biased=True)

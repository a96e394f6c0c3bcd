"""Distances between sets of videos by their features (`video_features`): FVD, FVD-infinity and KVD.

FVD is Unterthiner et al., arXiv 1812.01717, with whatever features are given: I3D's for values like published ones.
At a few hundred clips FVD is mostly bias: read it beside `real_vs_real` at the same n, compare only values of one
feature extractor, n, length and size, and do not expect it to notice frozen clips.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from icreward_lib.stats import Interval, cluster_draws

Distance = Callable[[np.ndarray, np.ndarray], float]  # of features (n, d) and (m, d); 0 = alike


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of features (n, d) and (m, d), in float64; 0 = alike.

    Covariances divide by n - 1 (numpy's; other FVD code divides by n). The root's trace is the nuclear norm
    of A B^T with A, B the centred features / sqrt(n - 1): exact and real for every n, also n <= d where
    covariances are singular.
    """
    a, b = _pair(a, b)
    root_a, root_b = _root(a), _root(b)
    nuclear = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.square(root_a).sum() + np.square(root_b).sum() - 2 * nuclear
    return max(0.0, float(distance))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KVD: squared MMD of features (n, d), (m, d) under the kernel (x y / d + 1)^3, in float64 (arXiv 1812.01717, 3.2).

    The unbiased estimate (Binkowski et al., arXiv 1801.01401): sets of one distribution have 0 on average at every n,
    single values may lie below.
    """
    a, b = _pair(a, b)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    def within(x: np.ndarray) -> float:
        values = kernel(x, x)
        return float((values.sum() - np.trace(values)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def fvd_infinity(real: np.ndarray, fake: np.ndarray, *, images: ArrayLike, seed: int, sizes: int = 15) -> float:
    """FVD extrapolated to infinitely many clips (Chong and Forsyth, arXiv 1911.07023): the intercept over 1/n.

    FVD of `sizes` random subsets of the images, from half of them to all, against as large a share of the real clips,
    is fitted by a line in 1/n. The estimate has no bias to speak of, so it may lie below 0; it spreads more than FVD.

    Args:
        real: (m, d), of which each is drawn on its own.
        fake: (n, d).
        images: (n,) the image of each fake clip; its clips are drawn together.
        seed: of the subsets.
        sizes: how many.

    Raises:
        ValueError: for fewer than 4 images or real clips, of which half is no sample.
    """
    (real, fake), labels = _pair(real, fake), np.asarray(images)
    names = np.unique(labels)
    if labels.shape != fake.shape[:1]:
        raise ValueError(f"`images` must have the {len(fake)} rows of the fake features.")
    if min(len(names), len(real)) < 4:
        raise ValueError(f"FVD-infinity needs 4 images and 4 real clips, not {len(names)} and {len(real)}.")
    rng = np.random.default_rng(seed)
    counts = np.linspace(len(names) / 2, len(names), sizes).round().astype(int)
    values = []
    for count in counts:
        rows = np.isin(labels, rng.permutation(names)[:count])
        reals = rng.permutation(len(real))[: round(len(real) * count / len(names))]
        values.append(frechet_distance(real[reals], fake[rows]))
    return float(np.polyfit(1 / counts, values, 1)[1])


def real_vs_real(
    real: np.ndarray, n: int, *, seed: int, draws: int = 50, level: float = 0.95, distance: Distance = frechet_distance
) -> Interval:
    """Distance between two disjoint random sets of n real clips each: how far apart different scenes are at this n.

    A scale, not a floor: clips that are compared with the real clips of their own images may come nearer, a perfect
    generator's to 0. `real` (N, d) with N >= 2n, one clip per image. The limits are quantiles over `draws` splits.
    """
    real = _features(real)
    if len(real) < 2 * n:
        raise ValueError(f"Two disjoint sets of {n} need {2 * n} real clips, not {len(real)}.")
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(real)), (draws, 1)), axis=1)
    distances = [distance(real[order[:n]], real[order[n : 2 * n]]) for order in orders]
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(distances)), float(low), float(high), n)


def bootstrap_fvd(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    images: ArrayLike,
    real_images: ArrayLike | None = None,
    minus: np.ndarray | None = None,
    seed: int,
    draws: int = 500,
    level: float = 0.95,
    distance: Distance = frechet_distance,
) -> Interval:
    """Distance of `fake` (n, d) to `real` (m, d) with an interval over images; n counts images.

    `images` (n,) names the image of each fake clip: its clips are drawn together. `real_images` (m,) does
    so for real clips, which then follow the image they share; others, and all without it, stay as they are.
    With `minus` (n, d), other videos of the same rows, the interval is that of FVD(fake) - FVD(minus) on
    the same draws.

    Drawing with replacement adds bias, so limits are moved by the draws' mean error: they show the spread
    at this n, not the distance to the limit of infinitely many clips.
    """
    real, fake = _features(real), _features(fake)
    other = None if minus is None else _features(minus)
    labels = np.asarray(images)
    if labels.shape != fake.shape[:1] or (other is not None and other.shape != fake.shape):
        raise ValueError(f"`images` and `minus` must have the {len(fake)} rows of the fake features.")

    def measured(real_rows: np.ndarray, rows: np.ndarray) -> float:
        base = 0.0 if other is None else distance(real[real_rows], other[rows])
        return distance(real[real_rows], fake[rows]) - base

    names = np.unique(labels)
    codes, counts = cluster_draws(labels, seed=seed, draws=draws)
    real_labels = None if real_images is None else np.asarray(real_images)
    every, every_real = np.arange(len(fake)), np.arange(len(real))
    drawn = []
    for count in counts:
        repeats = np.ones(len(real), dtype=int)
        if real_labels is not None:
            shared = np.isin(real_labels, names)
            repeats[shared] = count[np.searchsorted(names, real_labels[shared])]
        drawn.append(measured(np.repeat(every_real, repeats), np.repeat(every, count[codes])))
    mean = measured(every_real, every)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) + mean - np.mean(drawn)
    return Interval(mean, float(low), float(high), len(names))


def distance_columns(
    real: np.ndarray, fake: np.ndarray, *, images: ArrayLike, seed: int, draws: int = 200, level: float = 0.95
) -> dict[str, float]:
    """All that has to stand beside one value of FVD: a row's columns.

    Args:
        real: features (m, d) of real clips, one of a scene.
        fake: features (n, d) of a generator's clips.
        images: (n,) the image of each of these.
        seed: of resamples and splits.
        draws: resamples of the images behind an interval.
        level: coverage of intervals.

    Returns:
        `clips` (n), `images` and `real_clips` (m); for fvd and kvd `d`, `d_low`, `d_high` (`bootstrap_fvd`), and
        `d_real_vs_real`, with `_low` and `_high` (`real_vs_real`), of `real_vs_real_clips` a side: n or, where
        fewer are real, m / 2: then it is too high beside FVD; `fvd_infinity`.
    """
    side = min(len(fake), len(real) // 2)
    row: dict[str, float] = {"clips": len(fake), "images": len(np.unique(images)), "real_clips": len(real)}
    for name, distance in (("fvd", frechet_distance), ("kvd", kernel_distance)):
        found = bootstrap_fvd(real, fake, images=images, seed=seed, draws=draws, level=level, distance=distance)
        apart = real_vs_real(real, side, seed=seed, level=level, distance=distance)
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        scale = f"{name}_real_vs_real"
        row |= {scale: apart.mean, f"{scale}_low": apart.low, f"{scale}_high": apart.high}
    return row | {"real_vs_real_clips": side, "fvd_infinity": fvd_infinity(real, fake, images=images, seed=seed)}


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _features(a), _features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"Both sets need one feature size, not {a.shape[1]} and {b.shape[1]}.")
    return a, b


def _features(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"FVD needs finite features of at least 2 clips, (n, d), not an array of shape {array.shape}.")
    return array


def _root(features: np.ndarray) -> np.ndarray:
    """A factor R (min(n, d), d) of the covariance, R^T R = S."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred

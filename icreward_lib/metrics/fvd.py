"""Distances between sets of videos by their features (`video_features`): FVD, FVD-infinity and KVD.

FVD is Unterthiner et al., arXiv 1812.01717. At a few hundred clips it is mostly bias: compare only values of one
feature extractor, n, length and size. It hardly notices frozen clips. `real_vs_real` gives a scale.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics.pairwise import polynomial_kernel

from icreward_lib.stats import Interval, bootstrap, percentile_interval

Distance = Callable[[np.ndarray, np.ndarray], float]  # of features (n, d) and (m, d); 0 = alike


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of features (n, d) and (m, d), in float64; 0 = alike.

    The root's trace is the nuclear norm of A B^T with A, B the centred features / sqrt(n - 1): exact also for n <= d.
    """
    a, b = _pair(a, b)
    root_a, root_b = _root(a), _root(b)
    nuclear = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.square(root_a).sum() + np.square(root_b).sum() - 2 * nuclear
    return max(0.0, float(distance))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """KVD: squared MMD of features (n, d), (m, d) under the kernel (x y / d + 1)^3, in float64 (arXiv 1812.01717, 3.2).

    The unbiased estimate (Binkowski et al., arXiv 1801.01401): 0 on average for sets of one distribution at every n.
    """
    a, b = _pair(a, b)
    within = 0.0
    for x in (a, b):
        kernel = polynomial_kernel(x)
        within += (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))
    return float(within - 2 * polynomial_kernel(a, b).mean())


def fvd_infinity(real: np.ndarray, fake: np.ndarray, *, images: ArrayLike, seed: int) -> float:
    """FVD extrapolated to infinitely many clips (Chong and Forsyth, arXiv 1911.07023): the intercept over 1/n.

    FVD of 15 random subsets of the images (n,) of the fake clips (n, d), from half of them to all, against as large a
    share of the real clips (m, d), is fitted by a line in 1/n. The estimate may lie below 0; it spreads more than FVD.
    """
    (real, fake), labels = _pair(real, fake), np.asarray(images)
    names = np.unique(labels)
    if labels.shape != fake.shape[:1]:
        raise ValueError(f"`images` must have the {len(fake)} rows of the fake features.")
    if min(len(names), len(real)) < 4:
        raise ValueError(f"FVD-infinity needs 4 images and 4 real clips, not {len(names)} and {len(real)}.")
    rng = np.random.default_rng(seed)
    counts = np.linspace(len(names) / 2, len(names), 15).round().astype(int)
    values = []
    for count in counts:
        rows = np.isin(labels, rng.permutation(names)[:count])
        reals = rng.permutation(len(real))[: round(len(real) * count / len(names))]
        values.append(frechet_distance(real[reals], fake[rows]))
    return float(np.polyfit(1 / counts, values, 1)[1])


def real_vs_real(
    real: np.ndarray, n: int, *, seed: int, draws: int = 50, level: float = 0.95, distance: Distance = frechet_distance
) -> Interval:
    """Distance between two disjoint random sets of n real clips each: a scale for other values at this n, not a floor.

    `real` (N, d) with N >= 2n, one clip per image; the limits are quantiles over `draws` splits. A generator whose
    clips are compared with the true clips of the *same* images can come closer, a perfect one to 0.
    """
    real = _features(real)
    if len(real) < 2 * n:
        raise ValueError(f"Two disjoint sets of {n} need {2 * n} real clips, not {len(real)}.")
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(real)), (draws, 1)), axis=1)
    distances = [distance(real[order[:n]], real[order[n : 2 * n]]) for order in orders]
    return percentile_interval(distances, estimate=float(np.mean(distances)), level=level, n=n)


def bootstrap_fvd(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    images: ArrayLike,
    minus: np.ndarray | None = None,
    seed: int,
    draws: int = 500,
    level: float = 0.95,
    distance: Distance = frechet_distance,
) -> Interval:
    """Distance of `fake` (n, d) to `real` (m, d) with an interval over images; n counts images.

    `images` (n,) names each fake clip's image, whose clips are drawn together; real clips stay as they are. With
    `minus` (n, d), other videos of the same rows: of FVD(fake) - FVD(minus) on the same draws. The interval shows the
    spread at this n, not the distance to the limit of infinitely many clips.
    """
    real, fake = _features(real), _features(fake)
    other = None if minus is None else _features(minus)
    if np.shape(images) != fake.shape[:1] or (other is not None and other.shape != fake.shape):
        raise ValueError(f"`images` and `minus` must have the {len(fake)} rows of the fake features.")

    def measured(rows: np.ndarray) -> float:
        return distance(real, fake[rows]) - (0.0 if other is None else distance(real, other[rows]))

    return bootstrap(measured, images, seed=seed, draws=draws, level=level, biased=True)


def distance_columns(
    real: np.ndarray, fake: np.ndarray, *, images: ArrayLike, seed: int, draws: int = 200, level: float = 0.95
) -> dict[str, float]:
    """All that has to stand beside one value of FVD: counts, and fvd, kvd and their scale with limits, fvd_infinity.

    The scale has `real_vs_real_clips` a side: n or, where fewer are real, m / 2, at which FVD is larger.
    """
    half = min(len(fake), len(real) // 2)
    row: dict[str, float] = {"clips": len(fake), "images": len(np.unique(images)), "real_clips": len(real)}
    for name, distance in (("fvd", frechet_distance), ("kvd", kernel_distance)):
        found = bootstrap_fvd(real, fake, images=images, seed=seed, draws=draws, level=level, distance=distance)
        scale = real_vs_real(real, half, seed=seed, level=level, distance=distance)
        for column, value in ((name, found), (f"{name}_real_vs_real", scale)):
            row |= {column: value.mean, f"{column}_low": value.low, f"{column}_high": value.high}
    return row | {"real_vs_real_clips": half, "fvd_infinity": fvd_infinity(real, fake, images=images, seed=seed)}


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

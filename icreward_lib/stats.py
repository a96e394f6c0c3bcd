"""Intervals and tests: cluster bootstrap, Wilson, exact binomial, rank correlation, clustered win rates.

Rows of one cluster (the videos of an image, the votes of a rater) are not independent: clusters are resampled whole.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits; `n` counts independent units, or what the maker says."""

    mean: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int]:
        """Return plain numbers for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """As "0.541 [0.507, 0.575]", each number formatted by `spec`."""
        mean, low, high = (format(value, spec or ".3f") for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


def bootstrap_mean(
    values: ArrayLike, *, clusters: ArrayLike | None = None, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of the mean of values (n,); rows of one cluster (n,) are drawn together."""
    values = _finite(values, "values")
    codes, counts = cluster_draws(_labels(values, clusters), seed=seed, draws=draws)
    drawn = (counts @ np.bincount(codes, values)) / (counts @ np.bincount(codes))
    return percentile_interval(drawn, estimate=float(values.mean()), level=level, n=counts.shape[1])


def bootstrap_share(shares: ArrayLike, *, seed: int, draws: int = 2000, level: float = 0.95) -> Interval:
    """`bootstrap_mean` of shares (n,) in [0, 1]; Wilson's interval of n trials where all are 0, or all 1."""
    values = _finite(shares, "shares")
    if values[0] in (0, 1) and (values == values[0]).all():
        return wilson(int(values.sum()), len(values), level=level)
    return bootstrap_mean(values, seed=seed, draws=draws, level=level)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, clusters: ArrayLike | None = None, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Bootstrap the mean of a - b, both (n,) and in the same order."""
    a, b = _finite(a, "a"), _finite(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"Paired values must have one length, not {len(a)} and {len(b)}.")
    return bootstrap_mean(a - b, clusters=clusters, seed=seed, draws=draws, level=level)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: ArrayLike,
    *,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
    biased: bool = False,
) -> Interval:
    """Percentile bootstrap of any statistic of row indices; `clusters` (n,) labels the rows. nan draws are left out."""
    codes, counts = cluster_draws(np.asarray(clusters), seed=seed, draws=draws)
    rows = np.arange(len(codes))
    estimate = float(statistic(rows))
    if not math.isfinite(estimate):
        raise ValueError(f"The statistic is {estimate} on the full data, so it has no interval.")
    drawn = [statistic(np.repeat(rows, count[codes])) for count in counts]
    return percentile_interval(drawn, estimate=estimate, level=level, n=counts.shape[1], biased=biased)


def percentile_interval(drawn: ArrayLike, *, estimate: float, level: float, n: int, biased: bool = False) -> Interval:
    """The interval of an estimate from its bootstrap draws (d,), without those that are nan.

    With `biased`, for statistics that drawing with replacement shifts (a Frechet distance grows by it), the limits
    are moved by the draws' mean error: they show the spread at this n.
    """
    drawn = np.asarray(drawn, dtype=np.float64)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    shift = estimate - np.nanmean(drawn) if biased else 0.0
    return Interval(float(estimate), float(low + shift), float(high + shift), n)


def cluster_draws(clusters: np.ndarray, *, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw clusters with replacement: codes (n,) of the rows, counts (draws, clusters) of each draw."""
    names, codes = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"A bootstrap needs at least 2 clusters, not {len(names)}.")
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return codes, counts


def wilson(k: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of k successes in n independent trials; it is too wide for shares of a success."""
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} successes in {n} trials: there must be a trial, and no more successes than trials.")
    z2 = stats.norm.ppf(0.5 + level / 2) ** 2
    centre, margin = (k + z2 / 2) / (n + z2), math.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
    return Interval(k / n, max(0.0, float(centre - margin)), min(1.0, float(centre + margin)), n)


def binomial_test(k: int, n: int, *, p: float = 0.5) -> float:
    """Exact two-sided p-value of k successes in n independent trials under success probability p."""
    return float(stats.binomtest(k, n, p).pvalue)


def spearman(
    x: ArrayLike, y: ArrayLike, *, clusters: ArrayLike | None = None, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Spearman's rank correlation over all rows, in [-1, 1], with a (cluster) bootstrap interval."""
    x, y = _finite(x, "x"), _finite(y, "y")
    return bootstrap(lambda i: _rank_correlation(x[i], y[i]), _labels(x, clusters), seed=seed, draws=draws, level=level)


def spearman_within(
    x: ArrayLike, y: ArrayLike, groups: ArrayLike, *, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Mean over groups of Spearman's correlation inside the group, bootstrapped over groups.

    Groups in which x or y is constant have no correlation and are left out; n counts the rest.
    """
    x, y, groups = _finite(x, "x"), _finite(y, "y"), np.asarray(groups)
    inside = np.array([_rank_correlation(x[groups == g], y[groups == g]) for g in np.unique(groups)])
    inside = inside[~np.isnan(inside)]
    if len(inside) < 2:
        raise ValueError(f"{len(inside)} group(s) have a correlation; an interval over groups needs 2.")
    return bootstrap_mean(inside, seed=seed, draws=draws, level=level)


def two_way_clustered(wins: ArrayLike, raters: ArrayLike, clips: ArrayLike, *, level: float = 0.95) -> Interval:
    """Win rate of votes (n,) with 1 = win, 0 = loss, 0.5 = tie that share raters and clips; n counts votes.

    Variance V = V_rater + V_clip - V_vote (Cameron, Gelbach & Miller 2011), each with the factor G / (G - 1); Student t
    with min(raters, clips) - 1 degrees of freedom. Unanimous votes get Wilson's interval for as many trials.
    """
    wins = _finite(wins, "wins")
    if not np.isin(wins, (0.0, 0.5, 1.0)).all():
        raise ValueError("Votes must be 1 (win), 0 (loss) or 0.5 (tie).")
    mean, total = float(wins.mean()), len(wins)
    variances, sizes = [], []
    for name, labels in (("raters", raters), ("clips", clips), ("votes", np.arange(total))):
        _, codes = np.unique(_labels(wins, labels), return_inverse=True)
        size = int(codes.max()) + 1
        if size < 2:
            raise ValueError(f"Two-way clustering needs at least 2 {name}, not {size}.")
        sizes.append(size)
        variances.append(np.square(np.bincount(codes, wins - mean)).sum() / total**2 * size / (size - 1))
    by_rater, by_clip, by_vote = variances
    if by_vote == 0:
        few = min(sizes)
        return replace(wilson(round(mean * few), few, level=level), mean=mean, n=total)
    variance = by_rater + by_clip - by_vote
    if variance <= 0:  # possible in balanced tables; the largest part is the safe choice
        variance = max(variances)
    margin = float(stats.t.ppf(0.5 + level / 2, min(sizes) - 1)) * math.sqrt(variance)
    return Interval(mean, max(0.0, mean - margin), min(1.0, mean + margin), total)


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of mid-ranks; nan for constant input."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} must be a non-empty list of numbers, not an array of shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}[{int(np.argmin(np.isfinite(array)))}] is not a finite number.")
    return array


def _labels(values: np.ndarray, clusters: ArrayLike | None) -> np.ndarray:
    labels = np.arange(len(values)) if clusters is None else np.asarray(clusters)
    if labels.shape != values.shape:
        raise ValueError(f"{len(values)} values need as many cluster labels, not {labels.shape}.")
    return labels

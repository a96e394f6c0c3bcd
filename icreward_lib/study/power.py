"""How many raters and pairs a study needs: votes of a crossed-effects logit model, and how often a test sees them.

A rater r prefers the first arm's clip of pair p with probability sigmoid(mean + a_r + b_p), a and b normal. Every rater
sees every pair; there are no ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from icreward_lib.stats import wilson

VOTES = 10**6  # that are simulated at one time


@dataclass(frozen=True)
class Effects:
    """Standard deviations in logits; assumptions until a pilot has measured them."""

    pair: float = 1.2
    rater: float = 0.5


@cache
def mean_logit(rate: float, effects: Effects) -> float:
    """The model's mean under which the win rate over all raters and pairs is `rate`, in (0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    logits = points * np.hypot(effects.pair, effects.rater)

    def excess(mean: float) -> float:
        return float(special.expit(mean + logits) @ weights / weights.sum() - rate)

    return float(optimize.brentq(excess, -30, 30))


def draw_wins(
    studies: int, raters: int, pairs: int, rate: float, effects: Effects, rng: np.random.Generator
) -> np.ndarray:
    """Whether the first arm won, 0 or 1, (studies, raters, pairs)."""
    logits = mean_logit(rate, effects) + effects.rater * rng.standard_normal((studies, raters, 1))
    logits = logits + effects.pair * rng.standard_normal((studies, 1, pairs))
    return (rng.random((studies, raters, pairs)) < special.expit(logits)).astype(float)


def intervals(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`stats.two_way_clustered` of many studies (studies, raters, pairs) at once: limits (studies,), not cut to [0, 1].

    Limits of unanimous studies are their win rate itself.
    """
    raters, pairs = wins.shape[1:]
    votes, mean = raters * pairs, wins.mean(axis=(1, 2))
    error = wins - mean[:, None, None]
    by_rater = np.square(error.sum(axis=2)).sum(axis=1) * raters / (raters - 1)
    by_pair = np.square(error.sum(axis=1)).sum(axis=1) * pairs / (pairs - 1)
    by_vote = np.square(error).sum(axis=(1, 2)) * votes / (votes - 1)
    variance = by_rater + by_pair - by_vote
    variance = np.where(variance > 0, variance, np.maximum(np.maximum(by_rater, by_pair), by_vote))
    margin = stats.t.ppf(0.975, min(raters, pairs) - 1) * np.sqrt(variance) / votes
    return mean - margin, mean + margin


def power(raters: int, pairs: int, rate: float, *, effects: Effects, studies: int, seed: int) -> dict[str, float]:
    """In how many simulated studies the 95 % two-way clustered interval of the win rate excludes one half.

    Gives raters, pairs, rate; "power" (at a rate of one half: of false alarms) with its 95 % Wilson interval "low",
    "high" over studies; "coverage", the share of intervals that hold the true rate.
    """
    rng = np.random.default_rng(seed)
    seen = covered = 0
    for part in np.array_split(np.arange(studies), math.ceil(studies * raters * pairs / VOTES)):
        low, high = intervals(draw_wins(len(part), raters, pairs, rate, effects, rng))
        seen += int(((low > 0.5) | (high < 0.5)).sum())
        covered += int(((low <= rate) & (rate <= high)).sum())
    share = wilson(seen, studies)
    return {
        "raters": raters, "pairs": pairs, "rate": rate, "power": share.mean, "low": share.low, "high": share.high,
        "coverage": covered / studies,
    }  # fmt: skip


def smallest(table: pd.DataFrame, *, rate: float, wanted: float = 0.8) -> pd.DataFrame:
    """For each number of raters the fewest pairs in a table of `power` that see `rate` so well, if any do."""
    enough = table[(table["rate"] == rate) & (table["power"] >= wanted)]
    fewest = enough.sort_values("pairs").groupby("raters", as_index=False).first()
    return fewest[["raters", "pairs", "power", "low", "high"]]

"""Tables that follow from scores, "samples videos" each: one sample's, rankings at a weight, disagreements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from icreward_lib.sampling import picks
from icreward_lib.stats import bootstrap_mean
from icreward_lib.weighing import weighted


def score_table(scores: Mapping[str, np.ndarray], position: int) -> pd.DataFrame:
    """What everything says of one sample's videos: a row a video, a column a metric; scores are (S, K) each."""
    return pd.DataFrame({name: values[position] for name, values in scores.items()}).rename_axis("video")


def ranking(parts: Mapping[str, np.ndarray], weight: float) -> pd.DataFrame:
    """Videos by their score at a weight, best first; of equal ones the first.

    Args:
        parts: subject and background of K videos, (K,) each.
        weight: of the subject against the background, in [0, 1].

    Returns:
        Columns video and score, by rank from 1.
    """
    scores = weighted(parts, weight)
    order = np.argsort(-scores, kind="stable")
    return pd.DataFrame({"video": order, "score": scores[order]}, index=pd.RangeIndex(1, len(order) + 1, name="rank"))


def moved_picks(parts: Mapping[str, np.ndarray], weights: Iterable[float], usual: float) -> pd.Series:
    """The share of samples whose best video is another one than at the usual weight, by weight; parts are (S, K)."""
    before = picks(weighted(parts, usual))
    moved = {weight: float((picks(weighted(parts, weight)) != before).mean()) for weight in weights}
    return pd.Series(moved, name="picks moved").rename_axis("weight")


def disagreements(first: np.ndarray, second: np.ndarray, order: str = "cost") -> pd.DataFrame:
    """The samples on which two metrics disagree, worst first.

    Args:
        first: scores of one metric, (S, K); second: of the other.
        order: `correlation` or `cost`; the other one decides between equals.

    Returns:
        By position of the sample: `correlation`, Spearman's inside the sample (nan where a metric says the same of all
        videos; those come last); `pick_first` and `pick_second`; `cost`, what both metrics lose by the other's pick
        together, in units of their standard deviation inside a sample.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    ranks = [pd.DataFrame(values).rank(axis=1) for values in (a, b)]
    table = pd.DataFrame(
        {
            "correlation": ranks[0].corrwith(ranks[1], axis=1),
            "pick_first": picks(a),
            "pick_second": picks(b),
            "cost": _lost(a, picks(b)) + _lost(b, picks(a)),
        }
    ).rename_axis("position")
    by = [order, *({"correlation", "cost"} - {order})]
    return table.sort_values(by, ascending=[name == "correlation" for name in by], kind="stable")


def _lost(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """What the videos `chosen` (S,) score below the best, in standard deviations inside a sample, of values (S, K)."""
    lost: np.ndarray = values.max(1) - values[np.arange(len(values)), chosen]
    return lost / (np.sqrt(values.var(1).mean()) or 1.0)  # where nothing differs, nothing is lost


def agreement(scores: Mapping[str, np.ndarray], *, seed: int, draws: int, level: float) -> pd.DataFrame:
    """How far each pair of metrics puts the videos of a sample in one order.

    Args:
        scores: (S, K) each.
        seed: of the bootstrap over samples; draws: of it; level: of its intervals.

    Returns:
        Columns first, second; mean, low, high, n: Spearman's correlation inside samples, over those n that have one,
        and None without two of them; `same_pick`, the share of samples on which both pick one video.
    """
    rows = []
    for first, second in combinations(scores, 2):
        table = disagreements(scores[first], scores[second])
        found = table["correlation"].dropna()
        cell: dict[str, Any] = {"mean": None, "low": None, "high": None, "n": len(found)}
        if len(found) > 1:
            cell = bootstrap_mean(found, seed=seed, draws=draws, level=level).as_dict()
        same = float((table["pick_first"] == table["pick_second"]).mean())
        rows.append({"first": first, "second": second, **cell, "same_pick": same})
    return pd.DataFrame(rows)

"""What scores of probes tell: which departures a metric notices, whether in the order of severity, and frozen copies.

Tables are those of `probing.probe`: a row per clip with columns sample, unseen, kind, severity, and one per metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from icreward_lib.beyond.probes import TRUE
from icreward_lib.metrics.fvd import bootstrap_fvd
from icreward_lib.poster.measure import wins
from icreward_lib.stats import Interval, bootstrap_share, cluster_draws, wilson
from icreward_lib.world.departures import PROBES

Metric = str | Sequence[str]  # a column; of several, such as a reward's trainings, their mean result


def scores_by_severity(table: pd.DataFrame, metric: str, kind: str) -> pd.DataFrame:
    """Scores of the scenes that a kind fits: a row each, a column per severity from 0, the true clip, upwards.

    Raises:
        ValueError: if no scene of the table has such clips.
    """
    departed = table[table["kind"] == kind]
    if departed.empty:
        raise ValueError(f"The table has no clips of the kind {kind!r}.")
    true = table[(table["kind"] == TRUE) & table["sample"].isin(departed["sample"])]
    return pd.concat([true, departed]).pivot(index="sample", columns="severity", values=metric)


def auroc(
    table: pd.DataFrame, metric: Metric, kinds: Sequence[str], *, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Area under the ROC curve of telling true clips from departed ones of all severities, by one metric.

    The chance that a true clip scores above a departed one, of whichever scene; equal ones count half. 1: always told,
    1/2: not at all, 0: the departed clip always looks better. Of several kinds, the mean. The bootstrap draws scenes,
    whole; n counts those that any of the kinds fits. Where all comparisons agree, as in `stats.bootstrap_share`, the
    interval is Wilson's.
    """
    mean, drawn, n = _auroc_draws(table, metric, kinds, seed=seed, draws=draws)
    if mean in (0, 1):
        return wilson(round(mean) * n, n, level=level)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)


def auroc_difference(
    table: pd.DataFrame,
    first: Metric,
    second: Metric,
    kinds: Sequence[str],
    *,
    seed: int,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """`auroc` of one metric less that of another, on the same draws of scenes."""
    mean, drawn, n = _auroc_draws(table, first, kinds, seed=seed, draws=draws)
    other, other_drawn, _ = _auroc_draws(table, second, kinds, seed=seed, draws=draws)
    low, high = np.nanquantile(drawn - other_drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean - other, float(low), float(high), n)


def _auroc_draws(
    table: pd.DataFrame, metric: Metric, kinds: Sequence[str], *, seed: int, draws: int
) -> tuple[float, np.ndarray, int]:
    """The mean AUROC over kinds, its bootstrap draws (draws,), and the number of scenes that any of the kinds fits."""
    if not isinstance(metric, str):
        means, drawn, counts = zip(
            *(_auroc_draws(table, m, kinds, seed=seed, draws=draws) for m in metric), strict=True
        )
        return float(np.mean(means)), np.mean(drawn, 0), counts[0]
    scenes = pd.Index(table["sample"].unique())
    fitting: set[int] = set()
    by_kind, kind_draws = [], []
    _, counts = cluster_draws(np.arange(len(scenes)), seed=seed, draws=draws)
    for kind in kinds:
        scores = scores_by_severity(table, metric, kind)
        fitting |= set(scores.index)
        values = scores.to_numpy()
        above = wins(values[:, :1, None], values[:, 1:].T[None]).mean(1)  # "true departed", over severities
        weights = counts[:, scenes.get_indexer(scores.index)]
        total = weights.sum(1).astype(float)
        total[total == 0] = np.nan  # a draw without a scene that the kind fits says nothing
        kind_draws.append(((weights @ above) * weights).sum(1) / total**2)
        by_kind.append(above.mean())
    mean, averaged = float(np.mean(by_kind)), np.mean(kind_draws, 0)
    # Scenes drawn twice meet their own departures more often than others' and raise the draws: moved back.
    moved = np.clip(averaged + mean - np.nanmean(averaged), 0, 1)
    return mean, moved, len(fitting)


def monotonicity(
    table: pd.DataFrame, metric: str, kind: str, *, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Share of pairs of severities of one scene, the true clip's 0 among them, of which the lesser scores above.

    Equal scores count half, so 1/2 is no order at all. Interval by bootstrap over scenes.
    """
    scores = scores_by_severity(table, metric, kind).to_numpy()
    less, more = np.triu_indices(scores.shape[1], 1)
    return bootstrap_share(wins(scores[:, less], scores[:, more]).mean(1), seed=seed, draws=draws, level=level)


def frozen_preference(
    table: pd.DataFrame, metric: Metric, *, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Share of the scenes in which something moves whose frozen first frame scores above the true clip."""
    several = [scores_by_severity(table, each, "freeze") for each in ([metric] if isinstance(metric, str) else metric)]
    above = np.mean([wins(scores[1.0], scores[0.0]) == 1 for scores in several], axis=0)
    return bootstrap_share(above, seed=seed, draws=draws, level=level)


def summary(
    table: pd.DataFrame, metrics: Sequence[str], *, seed: int, draws: int = 2000, level: float = 0.95
) -> dict[str, Any]:
    """All of the above as plain numbers for JSON.

    Returns:
        `auroc` and `monotonicity`, by metric and kind, `mean_auroc` over all kinds and `frozen_preference`, by metric,
        each with mean, low, high and n. A kind that fits fewer than two of the scenes is left out.
    """
    shared: dict[str, Any] = {"seed": seed, "draws": draws, "level": level}
    fits = table.groupby("kind")["sample"].nunique()
    kinds = [kind for kind in PROBES if fits.get(kind, 0) >= 2]
    result: dict[str, Any] = {
        "auroc": {m: {k: auroc(table, m, [k], **shared).as_dict() for k in kinds} for m in metrics},
        "mean_auroc": {m: auroc(table, m, kinds, **shared).as_dict() for m in metrics},
        "monotonicity": {m: {k: monotonicity(table, m, k, **shared).as_dict() for k in kinds} for m in metrics},
    }
    if "freeze" in kinds:
        result["frozen_preference"] = {m: frozen_preference(table, m, **shared).as_dict() for m in metrics}
    return result


def fvd_rise(
    table: pd.DataFrame, features: np.ndarray, real: np.ndarray, *, seed: int, draws: int = 200, level: float = 0.95
) -> pd.DataFrame:
    """How much farther, by FVD, a group of clips is from real clips of other scenes once all of it departs.

    Args:
        table: of the clips; a group is those of one kind and severity.
        features: (N, D) of the same rows.
        real: features (M, D) of other scenes' true clips.
        seed: of the bootstrap over scenes.
        draws: of it.
        level: of its intervals.

    Returns:
        One row per kind and severity that fits two scenes or more: the rise over FVD of the same scenes' true clips as
        mean, low and high, and n, the scenes.
    """
    true = table[table["kind"] == TRUE]
    row_of = pd.Series(true.index, index=true["sample"])
    rows = []
    for (kind, severity), part in table[table["kind"] != TRUE].groupby(["kind", "severity"], sort=False):
        if len(part) < 2:
            continue
        own, departed = features[row_of.loc[part["sample"]]], features[part.index]
        rise = bootstrap_fvd(real, departed, images=part["sample"], minus=own, seed=seed, draws=draws, level=level)
        rows.append({"kind": kind, "severity": severity, **rise.as_dict()})
    return pd.DataFrame(rows)

"""What scores of probes tell: which departures a metric notices, whether in the order of severity, and frozen copies.

Tables are those of `probes.probe`: a row per clip with columns sample, unseen, kind, severity, and one per metric.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Required, TypedDict, Unpack

import numpy as np
import pandas as pd

from icreward_lib.beyond.probes import TRUE
from icreward_lib.metrics.fvd import bootstrap_fvd
from icreward_lib.poster.measure import wins
from icreward_lib.stats import Interval, bootstrap_share, cluster_draws, percentile_interval, wilson
from icreward_lib.world.departures import PROBES

Metric = str | Sequence[str]  # a column; of several, such as a reward's trainings, their mean result


class Bootstrap(TypedDict, total=False):
    """How an interval is drawn, as of `stats.bootstrap_mean`."""

    seed: Required[int]
    draws: int
    level: float


def scores_by_severity(table: pd.DataFrame, metric: str, kind: str) -> pd.DataFrame:
    """Scores of the scenes that a kind fits: a row each, a column per severity, 0 the true clip; ValueError if none."""
    departed = table[table["kind"] == kind]
    if departed.empty:
        raise ValueError(f"The table has no clips of the kind {kind!r}.")
    true = table[(table["kind"] == TRUE) & table["sample"].isin(departed["sample"])]
    return pd.concat([true, departed]).pivot(index="sample", columns="severity", values=metric)


def auroc(
    table: pd.DataFrame, metric: Metric, kinds: Sequence[str], *, seed: int, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Area under the ROC curve of telling true clips from departed ones of all severities, by one metric.

    The chance that a true clip scores above a departed one, of whichever scene; equal ones count half. Of several
    kinds, the mean. The bootstrap draws scenes, whole; n counts those that any of the kinds fits. Where all comparisons
    agree, the interval is Wilson's, as in `stats.bootstrap_share`.
    """
    mean, drawn, n = _auroc_draws(table, metric, kinds, seed, draws)
    if mean in (0, 1):
        return wilson(round(mean) * n, n, level=level)
    return percentile_interval(drawn, estimate=mean, level=level, n=n)


def auroc_difference(
    table: pd.DataFrame, first: Metric, second: Metric, kinds: Sequence[str], **bootstrap: Unpack[Bootstrap]
) -> Interval:
    """`auroc` of one metric less that of another, on the same draws of scenes."""
    seed, draws, level = bootstrap["seed"], bootstrap.get("draws", 2000), bootstrap.get("level", 0.95)
    mean, drawn, n = _auroc_draws(table, first, kinds, seed, draws)
    other, other_drawn, _ = _auroc_draws(table, second, kinds, seed, draws)
    return percentile_interval(drawn - other_drawn, estimate=mean - other, level=level, n=n)


def _auroc_draws(
    table: pd.DataFrame, metric: Metric, kinds: Sequence[str], seed: int, draws: int
) -> tuple[float, np.ndarray, int]:
    """The mean AUROC over kinds, its bootstrap draws (draws,), and the number of scenes that any of the kinds fits."""
    if not isinstance(metric, str):
        means, drawn, counts = zip(*(_auroc_draws(table, each, kinds, seed, draws) for each in metric), strict=True)
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
    return mean, np.clip(averaged + mean - np.nanmean(averaged), 0, 1), len(fitting)


def monotonicity(table: pd.DataFrame, metric: str, kind: str, **bootstrap: Unpack[Bootstrap]) -> Interval:
    """Share of pairs of severities of one scene, the true clip's 0 among them, of which the lesser scores above.

    Equal scores count half, so 1/2 is no order at all. Interval by bootstrap over scenes.
    """
    scores = scores_by_severity(table, metric, kind).to_numpy()
    less, more = np.triu_indices(scores.shape[1], 1)
    return bootstrap_share(wins(scores[:, less], scores[:, more]).mean(1), **bootstrap)


def frozen_preference(table: pd.DataFrame, metric: Metric, **bootstrap: Unpack[Bootstrap]) -> Interval:
    """Share of the scenes in which something moves whose frozen first frame scores above the true clip."""
    several = [scores_by_severity(table, each, "freeze") for each in ([metric] if isinstance(metric, str) else metric)]
    above = np.mean([wins(scores[1.0], scores[0.0]) == 1 for scores in several], axis=0)
    return bootstrap_share(above, **bootstrap)


def summary(table: pd.DataFrame, metrics: Sequence[str], **bootstrap: Unpack[Bootstrap]) -> dict[str, Any]:
    """All of the above, each an `Interval`: `auroc` and `monotonicity`, by metric and kind that fits two scenes.

    `mean_auroc`, over these kinds, and `frozen_preference` are by metric.
    """
    fits = table.groupby("kind")["sample"].nunique()
    kinds = [kind for kind in PROBES if fits.get(kind, 0) >= 2]
    result: dict[str, Any] = {
        "auroc": {m: {k: auroc(table, m, [k], **bootstrap) for k in kinds} for m in metrics},
        "mean_auroc": {m: auroc(table, m, kinds, **bootstrap) for m in metrics},
        "monotonicity": {m: {k: monotonicity(table, m, k, **bootstrap) for k in kinds} for m in metrics},
    }
    if "freeze" in kinds:
        result["frozen_preference"] = {m: frozen_preference(table, m, **bootstrap) for m in metrics}
    return result


def fvd_rise(
    table: pd.DataFrame, features: np.ndarray, real: np.ndarray, *, seed: int, draws: int = 200, level: float = 0.95
) -> pd.DataFrame:
    """How much farther, by FVD, clips of a kind and severity are from real clips than the same scenes' true clips.

    `features` (N, D) are of the table's rows, `real` (M, D) of other scenes' true clips. A row per kind and severity
    that fits two scenes or more: kind, severity, mean, low, high of the rise, and n, the scenes.
    """
    true = table[table["kind"] == TRUE]
    row_of = pd.Series(true.index, index=true["sample"])
    rows = []
    for (kind, severity), part in table[table["kind"] != TRUE].groupby(["kind", "severity"], sort=False):
        if len(part) < 2:
            continue
        own, departed = features[row_of.loc[part["sample"]]], features[part.index]
        rise = bootstrap_fvd(real, departed, images=part["sample"], minus=own, seed=seed, draws=draws, level=level)
        rows.append({"kind": kind, "severity": severity, **asdict(rise)})
    return pd.DataFrame(rows)

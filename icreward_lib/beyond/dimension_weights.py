"""A reward's dimensions weighed against each other: the subject against the background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from icreward_lib.beyond.detection import auroc
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.rewards.base import overall_score
from icreward_lib.rewards.ensemble import cautious
from icreward_lib.stats import Interval, bootstrap_mean
from icreward_lib.world.departures import PROBES


def weight_sweep(
    dimensions: Mapping[str, np.ndarray],
    judges: Mapping[str, np.ndarray],
    weights: Sequence[float],
    *,
    seed: int,
    draws: int,
    level: float,
) -> pd.DataFrame:
    """What the best clips keep as a reward's weight moves from the background to the subject.

    Args:
        dimensions: subject, background and maybe motion, which stays a gate: scores (S, N) of N clips of S images.
        judges: (S, N) each.
        weights: of the subject against the background, in [0, 1].
        seed, draws, level: of the bootstrap over images.

    Returns:
        Columns weight, n (images) and, for each judge, `<name>`, `<name>_low`, `<name>_high`: its gain over a random
        clip.
    """
    rows = []
    for weight in weights:
        best = weighted(dimensions, weight).argmax(1)
        row: dict[str, float] = {"weight": weight, "n": len(best)}
        for name, said in judges.items():
            picked = said[np.arange(len(said)), best] - said.mean(1)
            row |= _cells(name, bootstrap_mean(picked, seed=seed, draws=draws, level=level))
        rows.append(row)
    return pd.DataFrame(rows)


def detection_sweep(
    table: pd.DataFrame,
    dimensions: Mapping[str, np.ndarray],
    weights: Sequence[float],
    *,
    seed: int,
    draws: int,
    level: float,
) -> pd.DataFrame:
    """Which departures a reward notices as its weight moves from the background to the subject.

    Args:
        table: of probed clips, as of `detection`.
        dimensions: of those clips, (N,) each, and all else as of `weight_sweep`.

    Returns:
        Columns weight, n (scenes at most) and, for `subject` and `background`, `<name>`, `<name>_low`, `<name>_high`:
        the mean AUROC over the kinds of departure that break it and nothing else.
    """
    rows = []
    for weight in weights:
        scored = table.assign(score=weighted(dimensions, weight))
        row: dict[str, float] = {"weight": weight, "n": table["sample"].nunique()}
        for name in DIMENSIONS:
            kinds = [k for k, probe in PROBES.items() if probe.breaks == (name,) and (table["kind"] == k).any()]
            row |= _cells(name, auroc(scored, "score", kinds, seed=seed, draws=draws, level=level))
        rows.append(row)
    return pd.DataFrame(rows)


def weighted(dimensions: Mapping[str, np.ndarray], weight: float) -> np.ndarray:
    """The overall score of dimensions' scores at a weight of the subject against the background (`overall_score`)."""
    parts = torch.from_numpy(np.stack(list(dimensions.values()), axis=-1).astype(np.float64))
    score: np.ndarray = overall_score(parts, torch.tensor([weight, 1 - weight], dtype=torch.float64)).numpy()
    return score


def dimension_scores(scores: np.ndarray, caution: float | None = None) -> dict[str, np.ndarray]:
    """A reward's dimensions, (N,) each, by all its trainings: their mean, or with `caution` the `cautious` score.

    `scores` are those of `measure.reward_scores`, (seeds, N, 1 + D), the overall score first.
    """
    parts = scores.mean(0) if caution is None else cautious(scores, caution)
    return dict(zip(("subject", "background", "motion"), parts[:, 1:].T, strict=False))


def _cells(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}

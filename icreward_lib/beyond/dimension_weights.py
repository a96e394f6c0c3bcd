"""A reward's dimensions weighed against each other: the subject against the background."""

from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import numpy as np
import pandas as pd
import torch

from icreward_lib.beyond.detection import Bootstrap, auroc
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.rewards.base import overall_score
from icreward_lib.rewards.ensemble import cautious
from icreward_lib.stats import Interval, bootstrap_mean
from icreward_lib.world.departures import PROBES

Arrays = Mapping[str, np.ndarray]  # by dimension, or by judge


def weight_sweep(
    dimensions: Arrays, judges: Arrays, weights: Sequence[float], **bootstrap: Unpack[Bootstrap]
) -> pd.DataFrame:
    """What the best clips keep as a reward's weight moves from the background to the subject.

    `dimensions` are subject, background and maybe motion, which stays a gate; they and the judges are scores (S, N) of
    N clips of S images. Columns weight (of the subject, in [0, 1]), n (images) and, for each judge, `<name>`,
    `<name>_low`, `<name>_high`: its gain over a random clip.
    """

    def gains(weight: float) -> dict[str, Interval]:
        best = weighted(dimensions, weight).argmax(1)[:, None]
        picked = {name: np.take_along_axis(said, best, 1)[:, 0] - said.mean(1) for name, said in judges.items()}
        return {name: bootstrap_mean(gain, **bootstrap) for name, gain in picked.items()}

    return _sweep(weights, gains, len(dimensions["subject"]))


def detection_sweep(
    table: pd.DataFrame, dimensions: Arrays, weights: Sequence[float], **bootstrap: Unpack[Bootstrap]
) -> pd.DataFrame:
    """Which departures of probed clips, a table of `detection`, a reward notices as its weight moves likewise.

    `dimensions` are (N,) each, of those clips. Columns weight, n (scenes at most) and, for `subject` and `background`,
    `<name>`, `<name>_low`, `<name>_high`: the mean AUROC over the kinds of departure that break it and nothing else.
    """
    present = [kind for kind in PROBES if (table["kind"] == kind).any()]
    breaking = {name: [kind for kind in present if PROBES[kind].breaks == (name,)] for name in DIMENSIONS}

    def noticed(weight: float) -> dict[str, Interval]:
        scored = table.assign(score=weighted(dimensions, weight))
        return {name: auroc(scored, "score", kinds, **bootstrap) for name, kinds in breaking.items()}

    return _sweep(weights, noticed, table["sample"].nunique())


def _sweep(weights: Sequence[float], found: Callable[[float], dict[str, Interval]], n: int) -> pd.DataFrame:
    rows = []
    for weight in weights:
        row: dict[str, float] = {"weight": weight, "n": n}
        for name, interval in found(weight).items():
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def weighted(dimensions: Arrays, weight: float) -> np.ndarray:
    """The overall score of dimensions' scores at a weight of the subject against the background (`overall_score`)."""
    parts = torch.from_numpy(np.stack(list(dimensions.values()), axis=-1).astype(np.float64))
    return np.asarray(overall_score(parts, torch.tensor([weight, 1 - weight], dtype=torch.float64)))


def dimension_scores(scores: np.ndarray, caution: float | None = None) -> dict[str, np.ndarray]:
    """Mean or `cautious` scores (N,) of dimensions, from (seeds, N, 1 + D) of `measure.reward_scores`."""
    parts = scores.mean(0) if caution is None else cautious(scores, caution)
    return dict(zip(("subject", "background", "motion"), parts[:, 1:].T, strict=False))

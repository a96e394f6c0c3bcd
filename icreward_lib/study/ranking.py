"""More than two arms on one scale: Bradley-Terry strengths of a table of votes."""

from __future__ import annotations

import choix
import numpy as np
import pandas as pd

from icreward_lib.stats import cluster_draws
from icreward_lib.study.votes import refuse_one, trials

PRIOR = 0.5  # votes that every arm is taken to have won against every other: an arm that always wins stays finite


def bradley_terry(votes: pd.DataFrame, *, seed: int, draws: int = 500, level: float = 0.95) -> pd.DataFrame:
    """How strong every arm is, the strongest first: arm a beats arm b with probability 1 / (1 + exp(b - a)).

    A tie is half a win for each. The interval draws raters and samples, both with replacement (a vote counts as
    often as its rater times its sample), never single votes; it errs on the wide side.

    Returns:
        Per arm "strength" (log odds, mean 0), "low", "high", "wins" (with half the ties) and "n" votes.
    """
    found = trials(votes)
    refuse_one(found, "rater", "sample")
    arms, codes = np.unique(found[["arm_left", "arm_right"]].to_numpy(dtype=str), return_inverse=True)
    left, right = codes.reshape(-1, 2).T
    won = np.select([found["choice"] == "left", found["choice"] == "tie"], [1.0, 0.5], 0.0)  # by the left

    def wins(weights: np.ndarray) -> np.ndarray:
        """How often each arm (row) beat each other."""
        table = np.zeros((len(arms), len(arms)))
        np.add.at(table, (left, right), weights * won)
        np.add.at(table, (right, left), weights * (1 - won))
        return table

    rater, raters = cluster_draws(found["rater"].to_numpy(), seed=seed, draws=draws)
    sample, samples = cluster_draws(found["sample"].to_numpy(), seed=seed + 1, draws=draws)
    table = wins(np.ones(len(found)))
    drawn = [_strengths(wins(r[rater] * s[sample])) for r, s in zip(raters, samples, strict=True)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    result = pd.DataFrame(
        {
            "strength": _strengths(table),
            "low": low,
            "high": high,
            "wins": table.sum(axis=1),
            "n": (table + table.T).sum(axis=1).astype(int),
        },
        index=pd.Index(arms, name="arm"),
    )
    return result.sort_values("strength", ascending=False, kind="stable")


def _strengths(wins: np.ndarray) -> np.ndarray:
    prior = PRIOR * (1 - np.eye(len(wins)))
    strengths: np.ndarray = choix.ilsr_pairwise_dense(wins + prior)
    return strengths - strengths.mean()

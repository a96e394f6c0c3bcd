"""Whom to prefer: pairs of a sample's videos by other rules than the poster's (`pairs.build_pairs`).

One pair a sample; their tables have columns sample, winner, loser and margin, the winner's score less the loser's.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from icreward_lib.dpo.pairs import Pairs

FloatArray = NDArray[np.float64]


def best_over_worst(scores: ArrayLike) -> Pairs:
    """The best video of each sample over its worst, by one reward's scores (S, K)."""
    values = _checked(scores)
    return _pairs(values, values.argmax(1), values.argmin(1))


def at_random(scores: ArrayLike, *, seed: int) -> Pairs:
    """Two videos of each sample, of which a coin prefers one: what training does when the pairs say nothing.

    The margins, by scores (S, K), are as often negative.
    """
    values = _checked(scores)
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(values.shape[1])[:2] for _ in values])
    return _pairs(values, chosen[:, 0], chosen[:, 1])


def motion_matched(scores: ArrayLike, motion: ArrayLike) -> Pairs:
    """The pair of widest margin, by scores (S, K), among those of a sample that move alike.

    Alike: their dynamic degrees (S, K) differ by less than those of half of all pairs do, so that the winner is no
    winner for standing still. Samples without such a pair have none.
    """
    values, moves = _checked(scores), np.asarray(motion, np.float64)
    if moves.shape != values.shape:
        raise ValueError(f"scores and motion must have one shape, not {values.shape} and {moves.shape}")
    first, second = np.array(list(combinations(range(values.shape[1]), 2))).T
    gaps = np.abs(moves[:, first] - moves[:, second])
    margins = np.where(gaps < np.median(gaps), values[:, first] - values[:, second], 0.0)
    widest = np.abs(margins).argmax(1)
    ahead = np.take_along_axis(margins, widest[:, None], 1)[:, 0] > 0
    winner, loser = np.where(ahead, first[widest], second[widest]), np.where(ahead, second[widest], first[widest])
    return _pairs(values, winner, loser, kept=(margins != 0).any(1))


def _checked(scores: ArrayLike) -> FloatArray:
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"pairs need samples x videos with at least two videos, not an array of shape {values.shape}")
    return values


def _pairs(
    values: FloatArray, winner: NDArray[np.int64], loser: NDArray[np.int64], kept: NDArray[np.bool_] | None = None
) -> Pairs:
    rows = np.arange(len(values))
    table = pd.DataFrame(
        {"sample": rows, "winner": winner, "loser": loser, "margin": values[rows, winner] - values[rows, loser]}
    )
    table = table[(table["margin"] != 0) & (True if kept is None else kept)].reset_index(drop=True)
    return Pairs(table, len(values), 0, len(values) - len(table), 0)

"""Preference pairs from two rewards' picks, and the latents they stand for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from icreward_lib.rewards.best_of_k import picks
from icreward_lib.run.profile import GenerationSettings
from icreward_lib.training import digest

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Pairs and what became of every comparison: comparisons = identical + even + repeated + len(table).

    A pair's row has "sample", "winner", "loser" (video 0..K-1) and "margin". Those of two rewards have "winner_score",
    "loser_score" under the winner's; "winner_baseline", "loser_baseline", "baseline_margin" <= 0 under the loser's;
    with motion "motion_gap", the winner's less the loser's; and "subsets", how many of them gave the pair.
    """

    table: pd.DataFrame
    comparisons: int  # samples x subsets
    identical: int  # both rewards picked the same video
    even: int  # two videos, but equal under the winner's reward: nothing is preferred
    repeated: int  # a pair this sample already has, from another subset


def build_pairs(
    winner_scores: ArrayLike, loser_scores: ArrayLike, *, motion: ArrayLike | None = None, subset: int | None = None
) -> Pairs:
    """Pair the pick of one reward (winner, ICReward) with the pick of another (loser, the MLP), by arrays (S, K).

    Picks are the best of all K videos, often identical, or of every subset of `subset` videos: more pairs, none of
    which contradict each other. ValueError on arrays that do not fit.
    """
    wins, loses = _checked(winner_scores), _checked(loser_scores, like=winner_scores)
    videos = wins.shape[1]
    size = videos if subset is None else subset
    if not 2 <= size <= videos:
        raise ValueError(f"A pair is picked from 2 to {videos} videos, not from {size}.")
    picked = Counter[tuple[int, int, int]]()
    for members in (np.array(chosen) for chosen in combinations(range(videos), size)):
        winners, losers = members[picks(wins[:, members])], members[picks(loses[:, members])]
        picked.update(zip(range(len(wins)), winners.tolist(), losers.tolist(), strict=True))
    identical = sum(count for (_, winner, loser), count in picked.items() if winner == loser)
    preferred = {
        (row, winner, loser): count
        for (row, winner, loser), count in sorted(picked.items())
        if wins[row, winner] != wins[row, loser]
    }

    rows, better, worse = np.array(list(preferred), dtype=int).reshape(-1, 3).T
    table = pd.DataFrame({"sample": rows, "winner": better, "loser": worse})
    for margin, kind, values in (("margin", "score", wins), ("baseline_margin", "baseline", loses)):
        table[f"winner_{kind}"], table[f"loser_{kind}"] = values[rows, better], values[rows, worse]
        table[margin] = table[f"winner_{kind}"] - table[f"loser_{kind}"]
    if motion is not None:
        moves = _checked(motion, like=winner_scores)
        table["motion_gap"] = moves[rows, better] - moves[rows, worse]
    table["subsets"] = list(preferred.values())
    comparisons, kept = picked.total(), sum(preferred.values())
    return Pairs(table, comparisons, identical, comparisons - identical - kept, kept - len(table))


def best_over_worst(scores: ArrayLike) -> Pairs:
    """The best video of each sample over its worst, by one reward's scores (S, K)."""
    values = _checked(scores)
    return _pairs(values, values.argmax(1), values.argmin(1))


def at_random(scores: ArrayLike, *, seed: int) -> Pairs:
    """Two videos of each sample, of which a coin prefers one; margins, by scores (S, K), are as often negative."""
    values = _checked(scores)
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(values.shape[1])[:2] for _ in values])
    return _pairs(values, chosen[:, 0], chosen[:, 1])


def motion_matched(scores: ArrayLike, motion: ArrayLike) -> Pairs:
    """The pair of widest margin, by scores (S, K), among those of a sample that move alike; ValueError if none has one.

    Alike: their dynamic degrees (S, K) differ by no more than those of half of all pairs do.
    """
    values, moves = _checked(scores), _checked(motion, like=scores)
    first, second = np.array(list(combinations(range(values.shape[1]), 2))).T
    gaps = np.abs(moves[:, first] - moves[:, second])
    margins = np.where(gaps <= np.median(gaps), values[:, first] - values[:, second], 0.0)
    rows, widest = np.arange(len(values)), np.abs(margins).argmax(1)
    found = margins[rows, widest]
    if not found.any():
        raise ValueError("No pair of clips that move alike has a winner: the reward gives both sides the same score.")
    winner, loser = np.where(found > 0, (first[widest], second[widest]), (second[widest], first[widest]))
    return _pairs(values, winner, loser, kept=found != 0)


def _checked(values: ArrayLike, *, like: ArrayLike | None = None) -> FloatArray:
    """Scores or motion (S, K) of at least two videos, of the shape of `like`."""
    array, wanted = np.asarray(values, np.float64), np.shape(values if like is None else like)
    if len(wanted) != 2 or wanted[1] < 2:
        raise ValueError(f"pairs need samples x videos with at least two videos, not an array of shape {wanted}")
    if array.shape != wanted:
        raise ValueError(f"scores and motion must have one shape, not {wanted} and {array.shape}")
    return array


def _pairs(
    values: FloatArray, winner: NDArray[np.int64], loser: NDArray[np.int64], kept: NDArray[np.bool_] | bool = True
) -> Pairs:
    rows = np.arange(len(values))
    margins = values[rows, winner] - values[rows, loser]
    table = pd.DataFrame({"sample": rows, "winner": winner, "loser": loser, "margin": margins})
    table = table[(margins != 0) & kept].reset_index(drop=True)
    return Pairs(table, len(values), 0, len(values) - len(table), 0)


@dataclass(frozen=True)
class PairData:
    """Latents of N pairs, and what the denoiser is told about them; frame 0 of both sides is the image's latent."""

    sample: Tensor  # (N,) rows of the texts, and the clusters of intervals
    winner: Tensor  # (N, c, t, h, w) in the scale the denoiser works in
    loser: Tensor
    text: Tensor  # (S, tokens, channels), once for all pairs of a sample, as they are megabytes each
    text_mask: Tensor  # (S, tokens), 1 = token
    num_frames: int
    height: int  # pixels
    width: int
    fps: float

    def __post_init__(self) -> None:
        if not len(self):
            raise ValueError("There are no pairs: the two rewards agree on every sample.")

    def __len__(self) -> int:
        return len(self.winner)

    def digest(self) -> str:
        """A short hash of all tensors."""
        return digest(self.sample, self.winner, self.loser, self.text, self.text_mask)

    @classmethod
    def gather(
        cls, pairs: pd.DataFrame, latents: Tensor, text: Tensor, text_mask: Tensor, shape: GenerationSettings
    ) -> PairData:
        """Look up the pairs of a `Pairs.table`, whose "sample" counts the rows of latents (S, K, c, t, h, w) and text.

        Frame 0 becomes that of the sample's first video: re-encoded clips do not share the image exactly.
        """
        rows = torch.as_tensor(pairs["sample"].to_numpy().copy())
        sides = []
        for side in ("winner", "loser"):
            chosen = latents[rows, torch.as_tensor(pairs[side].to_numpy().copy())]
            chosen[:, :, 0] = latents[rows, 0, :, 0]
            sides.append(chosen)
        size = (shape.num_frames, shape.height, shape.width, shape.fps)
        return cls(rows, sides[0], sides[1], text, text_mask, *size)

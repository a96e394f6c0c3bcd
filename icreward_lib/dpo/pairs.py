"""Preference pairs from two rewards' picks, and the latents they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from icreward_lib.rewards.best_of_k import picks
from icreward_lib.training import digest


@dataclass(frozen=True)
class Pairs:
    """Pairs and what became of every comparison: comparisons = identical + even + repeated + len(table).

    table: one row per pair. "sample"; "winner", "loser" (video 0..K-1); "winner_score", "loser_score" and
    their "margin" > 0 under the winner's reward; "winner_baseline", "loser_baseline" and "baseline_margin" <=
    0 under the loser's reward; with motion given, "motion_gap" = the winner's minus the loser's; "subsets",
    how many subsets gave it.
    """

    table: pd.DataFrame
    comparisons: int  # samples x subsets
    identical: int  # both rewards picked the same video
    even: int  # two videos, but equal under the winner's reward: nothing is preferred
    repeated: int  # a pair this sample already has, from another subset


def build_pairs(
    winner_scores: ArrayLike,
    loser_scores: ArrayLike,
    *,
    samples: Sequence[int] | None = None,
    motion: ArrayLike | None = None,
    subset: int | None = None,
) -> Pairs:
    """Pair the pick of one reward (winner, ICReward) with the pick of another (loser, the MLP).

    winner_scores, loser_scores, motion: (S, K); samples: ids of the S rows, 0..S-1 if not given. The picks
    are the best of all K videos, which are often identical, or of every subset of `subset` videos: more
    pairs, and no two contradict each other, as the winner is always ahead under one reward and the loser
    under the other. Raises ValueError on arrays that do not fit.
    """
    wins, loses = np.asarray(winner_scores, dtype=float), np.asarray(loser_scores, dtype=float)
    moves = None if motion is None else np.asarray(motion, dtype=float)
    if wins.ndim != 2 or loses.shape != wins.shape or (moves is not None and moves.shape != wins.shape):
        raise ValueError("The scores of both rewards, and the motion, must have one shape: samples x videos.")
    count, videos = wins.shape
    size = videos if subset is None else subset
    if not 2 <= size <= videos:
        raise ValueError(f"A pair is picked from 2 to {videos} videos, not from {size}.")
    ids = range(count) if samples is None else samples
    if len(ids) != count or len(set(ids)) != count:
        raise ValueError(f"Give {count} different sample ids, one per row of scores.")

    identical = even = 0
    found: dict[tuple[int, int, int], int] = {}
    for members in (np.array(m) for m in combinations(range(videos), size)):
        winners, losers = members[picks(wins[:, members])], members[picks(loses[:, members])]
        for row, (winner, loser) in enumerate(zip(winners, losers, strict=True)):
            if winner == loser:
                identical += 1
            elif wins[row, winner] == wins[row, loser]:
                even += 1
            else:
                key = (row, int(winner), int(loser))
                found[key] = found.get(key, 0) + 1

    keys = np.array(sorted(found), dtype=int).reshape(-1, 3)
    rows, better, worse = keys[:, 0], keys[:, 1], keys[:, 2]
    table = pd.DataFrame({"sample": np.asarray(list(ids))[rows], "winner": better, "loser": worse})
    table["winner_score"], table["loser_score"] = wins[rows, better], wins[rows, worse]
    table["margin"] = table["winner_score"] - table["loser_score"]
    table["winner_baseline"], table["loser_baseline"] = loses[rows, better], loses[rows, worse]
    table["baseline_margin"] = table["winner_baseline"] - table["loser_baseline"]
    if moves is not None:
        table["motion_gap"] = moves[rows, better] - moves[rows, worse]
    table["subsets"] = [found[key] for key in sorted(found)]
    kept = sum(found.values())
    return Pairs(table, identical + even + kept, identical, even, kept - len(found))


@dataclass(frozen=True)
class PairData:
    """Latents of N pairs, and what the denoiser is told about them; frame 0 of both sides is the image's
    latent.

    sample: (N,) rows of the texts, and the clusters of intervals; winner, loser: (N, c, t, h, w) in the scale the
    denoiser works in; text: (S, tokens, channels), text_mask: (S, tokens), 1 = token, once for all pairs of a sample,
    as they are megabytes each; num_frames, height, width (pixels) and fps of the clips.
    """

    sample: Tensor
    winner: Tensor
    loser: Tensor
    text: Tensor
    text_mask: Tensor
    num_frames: int
    height: int
    width: int
    fps: float

    def __post_init__(self) -> None:
        if self.winner.ndim != 5 or self.winner.shape != self.loser.shape:
            shapes = f"{tuple(self.winner.shape)} and {tuple(self.loser.shape)}"
            raise ValueError(f"Winners and losers must have one shape, n c t h w, not {shapes}.")
        n = len(self.winner)
        if n == 0:
            raise ValueError("There are no pairs: the two rewards agree on every sample.")
        if self.winner.shape[2] < 2:
            raise ValueError("Latents need at least two frames: the first is the image and not learned.")
        if len(self.sample) != n or len(self.text) != len(self.text_mask) or int(self.sample.max()) >= len(self.text):
            raise ValueError(f"Each of the {n} pairs needs a sample, and every sample a text and its mask.")
        if not torch.equal(self.winner[:, :, 0], self.loser[:, :, 0]):
            raise ValueError("Winner and loser of a pair must share the image's latent in frame 0.")

    def __len__(self) -> int:
        return len(self.winner)

    def digest(self) -> str:
        """A short hash of all tensors."""
        return digest(self.sample, self.winner, self.loser, self.text, self.text_mask)

    @classmethod
    def gather(
        cls,
        pairs: pd.DataFrame,
        latents: Tensor,
        image: Tensor,
        text: Tensor,
        text_mask: Tensor,
        *,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
    ) -> PairData:
        """Look up the pairs of a `Pairs.table`, whose "sample" must count the rows of the tensors.

        latents: (S, K, c, t, h, w); image: (S, c, h, w), written over frame 0, which re-encoded clips do not
        share exactly; text: (S, tokens, channels); text_mask: (S, tokens).
        """
        rows = torch.as_tensor(pairs["sample"].to_numpy().copy())
        sides = []
        for side in ("winner", "loser"):
            chosen = latents[rows, torch.as_tensor(pairs[side].to_numpy().copy())].clone()
            chosen[:, :, 0] = image[rows]
            sides.append(chosen)
        return cls(rows, sides[0], sides[1], text, text_mask, num_frames, height, width, fps)


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

    Alike: their dynamic degrees (S, K) differ by no more than those of half of all pairs do, so that the winner is no
    winner for standing still. Samples without such a pair have none. Raises ValueError if no sample has one.
    """
    values, moves = _checked(scores), np.asarray(motion, np.float64)
    if moves.shape != values.shape:
        raise ValueError(f"scores and motion must have one shape, not {values.shape} and {moves.shape}")
    first, second = np.array(list(combinations(range(values.shape[1]), 2))).T
    gaps = np.abs(moves[:, first] - moves[:, second])
    margins = np.where(gaps <= np.median(gaps), values[:, first] - values[:, second], 0.0)
    widest = np.abs(margins).argmax(1)
    ahead = np.take_along_axis(margins, widest[:, None], 1)[:, 0] > 0
    winner, loser = np.where(ahead, first[widest], second[widest]), np.where(ahead, second[widest], first[widest])
    kept = (margins != 0).any(1)
    if not kept.any():
        raise ValueError("No pair of clips that move alike has a winner: the reward gives both sides the same score.")
    return _pairs(values, winner, loser, kept)


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

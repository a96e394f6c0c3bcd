"""Votes as labels: one table of preferences, filled by this study or by public sets, and how rewards agree with it.

A preference table has one row per pair of videos and dimension:

==============  ===================================================================================
column          meaning
==============  ===================================================================================
reference       the image that both videos start from: its id, or its file
video1, video2  ids or files of the videos
dimension       what was asked, for example "consistency"
votes1, votes2  how many, or with what weight, preferred each video; numbers from 0
ties            the same for neither
==============  ===================================================================================
"""

from __future__ import annotations

import re
from pathlib import Path

import choix
import numpy as np
import pandas as pd

from icreward_lib.stats import Interval, bootstrap, cluster_draws
from icreward_lib.study.votes import VotesError, questions, refuse_one, trials, validate

COLUMNS = ("reference", "video1", "video2", "dimension", "votes1", "votes2", "ties")
WEIGHTS = ("votes1", "votes2", "ties")
FOLDS = 5


def from_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """The preference table of a votes table; its references are the samples, its dimensions the questions."""
    votes = validate(votes)
    found = pd.concat([trials(votes[votes["question"] == asked]) for asked in questions(votes)])
    swapped = found["left"] > found["right"]
    first = np.where(swapped, "right", "left")
    rows = pd.DataFrame(
        {
            "reference": found["sample"],
            "video1": found["left"].where(~swapped, found["right"]),
            "video2": found["right"].where(~swapped, found["left"]),
            "dimension": found["question"],
            "votes1": (found["choice"] == first).astype(float),
            "votes2": ((found["choice"] != first) & (found["choice"] != "tie")).astype(float),
            "ties": (found["choice"] == "tie").astype(float),
        }
    )
    return rows.groupby(list(COLUMNS[:4]), sort=False, as_index=False).sum()[list(COLUMNS)]


def read_preferences(path: str | Path) -> pd.DataFrame:
    """The preference table of a public set: CSV or JSON lines with an image, two videos and votes for each.

    The image's column is `reference`, `image` or `prompt_asset`; those of the videos `video1` and `video2`. Votes are
    in `votes1`, `votes2` and perhaps `ties` and `dimension`; or in `weighted_results1_<dimension>` and
    `weighted_results2_<dimension>`, which give a row for every dimension. Other columns are left out. Raises
    `VotesError` saying in one sentence what is wrong.
    """
    path = Path(path)
    try:
        jsonl = path.suffix in (".jsonl", ".ndjson")
        if jsonl:
            table = pd.read_json(path, lines=True, dtype=False, precise_float=True)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise VotesError(f"{path} is no table of preferences: {str(error).strip()}.") from error
    table = table.rename(columns={"image": "reference", "prompt_asset": "reference"})
    dimensions = [name[1] for column in table if (name := re.fullmatch(r"weighted_results1_(\w+)", str(column)))]
    parts = [
        table.assign(
            dimension=dimension.lower(),
            votes1=table[f"weighted_results1_{dimension}"],
            votes2=table.get(f"weighted_results2_{dimension}"),
        )
        for dimension in dimensions
    ]
    table = pd.concat(parts, ignore_index=True) if parts else table
    defaults = {name: value for name, value in (("dimension", "overall"), ("ties", 0.0)) if name not in table}
    return check(table.assign(**defaults))


def check(preferences: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a preference table, or raise `VotesError` about the first bad row.

    Rows without a vote are left out.
    """
    if missing := [column for column in COLUMNS if column not in preferences]:
        raise VotesError(f"The preference table lacks the column(s) {', '.join(missing)}.")
    table = preferences[list(COLUMNS)].reset_index(drop=True).astype(dict.fromkeys(COLUMNS[:4], "str"))
    weights = table[list(WEIGHTS)].apply(pd.to_numeric, errors="coerce")
    named = table[list(COLUMNS[:4])]
    for bad, reason in (
        (named.isna().any(axis=1) | (named == "").any(axis=1), "an id is missing"),
        (table["video1"] == table["video2"], "both videos are the same"),
        (~np.isfinite(weights).all(axis=1) | (weights < 0).any(axis=1), "votes must be numbers from 0"),
    ):
        if bad.any():
            raise VotesError(f"Row {int(np.argmax(bad)) + 1} of the preference table: {reason}.")
    table[list(WEIGHTS)] = weights.astype(float)
    table = table[weights.sum(axis=1) > 0].reset_index(drop=True)
    if table.empty:
        raise VotesError("The preference table holds no votes.")
    return table


def accuracy(preferences: pd.DataFrame, scores: pd.DataFrame, *, seed: int, level: float = 0.95) -> pd.DataFrame:
    """How often each reward says of two videos what people said, a vote at a time, without and with ties.

    Without ties: the share of the decided votes for the video of the higher score; equal scores are half right. With
    ties: a reward calls a tie where its scores differ by no more than a threshold, and is right if the vote was that.
    The threshold that suits a fifth of the references is chosen on the other four (VideoAlign's, but not on the data
    that it is judged by).

    Args:
        preferences: a preference table.
        scores: one column per reward, higher is better, indexed by video.
        seed: of the folds and of the bootstrap over references.
        level: of the interval.

    Returns:
        Columns reward, ties ("without" or "with"), accuracy in [0, 1], low, high, "best" (what the most frequent
        answer to every pair would reach: no reward can do better) and "votes".
    """
    table = check(preferences)
    voted = pd.unique(table[["video1", "video2"]].to_numpy().ravel())
    if missing := [video for video in voted if video not in scores.index]:
        raise VotesError(f"{len(missing)} voted video(s) have no score, the first is '{missing[0]}'.")
    refuse_one(table, "reference")
    references = pd.factorize(table["reference"])[0]
    votes = table[list(WEIGHTS)].to_numpy()
    if not votes[:, :2].any():
        raise VotesError("All votes are ties: there is no preference to agree with.")
    fold = np.random.default_rng(seed).permutation(references.max() + 1)[references] % FOLDS
    rows = []
    for reward in scores.columns:
        first, second = (scores[reward].loc[table[side]].to_numpy(dtype=float) for side in ("video1", "video2"))
        gap = first - second
        right = {"without": _right(gap, votes), "with": np.zeros(len(table))}
        for number in np.unique(fold):
            own = fold == number
            tie = np.abs(gap[own]) <= _tie_threshold(gap[~own], votes[~own])
            right["with"][own] = np.where(tie, votes[own, 2], _right(gap[own], votes[own]))
        for ties, counted in (("without", votes[:, :2]), ("with", votes)):
            total, agreeing = counted.sum(axis=1), right[ties]
            cell = _over_references(agreeing, total, references, seed=seed, level=level)
            best = _share(counted.max(axis=1), total)
            rows.append((reward, ties, cell.mean, cell.low, cell.high, best, total.sum()))
    return pd.DataFrame(rows, columns=["reward", "ties", "accuracy", "low", "high", "best", "votes"])


def _right(gap: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Decided votes that go the way of the score's gap, half of them where there is none."""
    return np.select([gap > 0, gap < 0], [votes[:, 0], votes[:, 1]], votes[:, :2].sum(axis=1) / 2)


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    total = float(whole.sum())
    return float(part.sum()) / total if total else float("nan")


def _over_references(
    part: np.ndarray, whole: np.ndarray, references: np.ndarray, *, seed: int, level: float
) -> Interval:
    return bootstrap(lambda rows: _share(part[rows], whole[rows]), references, seed=seed, level=level)


def _tie_threshold(gap: np.ndarray, votes: np.ndarray) -> float:
    """The largest gap to call a tie that agrees with most votes; below 0: never."""
    order = np.argsort(np.abs(gap), kind="stable")
    size, gain = np.abs(gap)[order], (votes[:, 2] - _right(gap, votes))[order].cumsum()
    last = np.append(size[1:] > size[:-1], True)  # equal gaps are called alike
    best = int(np.argmax(np.where(last, gain, -np.inf)))
    return float(size[best]) if gain[best] > 0 else -1.0


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

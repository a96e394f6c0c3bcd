"""Votes as labels: one table of preferences, filled by this study or by public sets, and how rewards agree with it.

It has a row per pair of videos and dimension asked: reference (the image), video1 and video2 (ids or files), dimension,
votes1 and votes2 (how many, or with what weight, preferred each; numbers from 0) and ties (the same for neither).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.stats import bootstrap
from icreward_lib.study.votes import VotesError, questions, require_several, trials, validate

IDS = ["reference", "video1", "video2", "dimension"]
VOTES = ["votes1", "votes2", "ties"]
COLUMNS = [*IDS, *VOTES]
FOLDS = 5


def from_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """The preference table of a votes table; its references are the samples, its dimensions the questions."""
    votes = validate(votes)
    found = pd.concat([trials(votes[votes["question"] == asked]) for asked in questions(votes)])
    rows = found.rename(columns={"sample": "reference", "question": "dimension"})
    rows["video1"], rows["video2"] = np.sort(found[["left", "right"]].to_numpy(dtype=str), axis=1).T
    chosen = np.where(found["choice"] == "tie", "", np.where(found["choice"] == "left", found["left"], found["right"]))
    for column, video in (("votes1", rows["video1"]), ("votes2", rows["video2"]), ("ties", "")):
        rows[column] = (chosen == video).astype(float)
    return rows.groupby(IDS, sort=False, as_index=False)[VOTES].sum()


def read_preferences(path: str | Path) -> pd.DataFrame:
    """The preference table of a public set: CSV or JSON lines with an image, two videos and votes for each.

    The image's column is `reference`, `image` or `prompt_asset`; those of the videos `video1` and `video2`. Votes are
    in `votes1`, `votes2` and perhaps `ties` and `dimension`, or in `weighted_results1_<dimension>` and
    `weighted_results2_<dimension>`, a row for each. Raises `VotesError`.
    """
    path = Path(path)
    try:
        if path.suffix in (".jsonl", ".ndjson"):
            table = pd.read_json(path, lines=True, dtype=False, precise_float=True)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise VotesError(f"{path} is no table of preferences: {str(error).strip()}.") from error
    table = table.rename(columns={"image": "reference", "prompt_asset": "reference"})
    prefix = "weighted_results1_"
    parts = [
        table.assign(dimension=name.lower(), votes1=table[prefix + name], votes2=table.get(f"weighted_results2_{name}"))
        for name in (str(column).removeprefix(prefix) for column in table if str(column).startswith(prefix))
    ]
    table = pd.concat(parts, ignore_index=True) if parts else table
    return check(pd.DataFrame({"dimension": "overall", "ties": 0.0}, table.index).assign(**table))


def check(preferences: pd.DataFrame) -> pd.DataFrame:
    """The columns and the rows with a vote of a preference table; raises `VotesError` about the first bad row."""
    if missing := [column for column in COLUMNS if column not in preferences]:
        raise VotesError(f"The preference table lacks the column(s) {', '.join(missing)}.")
    table = preferences[COLUMNS].reset_index(drop=True).astype(dict.fromkeys(IDS, "str"))
    votes = table[VOTES].apply(pd.to_numeric, errors="coerce").astype(float)
    for bad, reason in (
        ((table[IDS].isna() | (table[IDS] == "")).any(axis=1), "an id is missing"),
        (table["video1"] == table["video2"], "both videos are the same"),
        (~(np.isfinite(votes) & (votes >= 0)).all(axis=1), "votes must be numbers from 0"),
    ):
        if bad.any():
            raise VotesError(f"Row {int(np.argmax(bad)) + 1} of the preference table: {reason}.")
    table = table.assign(**votes)[votes.sum(axis=1) > 0].reset_index(drop=True)
    if table.empty:
        raise VotesError("The preference table holds no votes.")
    return table


def accuracy(preferences: pd.DataFrame, scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """How often each reward (a column of `scores`, by video) says of two videos what people said, vote by vote.

    Columns reward, ties, accuracy in [0, 1], its 95 % limits low, high, "best" (of always the most frequent answer) and
    "votes". "without" ties equal scores are half right; "with" them a tie is a gap up to a threshold (VideoAlign's, but
    chosen on the other four fifths of the references).
    """
    table = check(preferences)
    voted = pd.unique(table[["video1", "video2"]].to_numpy().ravel())
    if missing := [video for video in voted if video not in scores.index]:
        raise VotesError(f"{len(missing)} voted video(s) have no score, the first is '{missing[0]}'.")
    require_several(table, "reference")
    references = pd.factorize(table["reference"])[0]
    votes = table[VOTES].to_numpy()
    if not votes[:, :2].any():
        raise VotesError("All votes are ties: there is no preference to agree with.")
    fold = np.random.default_rng(seed).permutation(references.max() + 1)[references] % FOLDS
    rows = []
    for reward in scores.columns:
        first, second = (scores[reward].loc[table[side]].to_numpy(dtype=float) for side in ("video1", "video2"))
        gap = first - second
        right = {"without": _right(gap, votes), "with": np.zeros(len(table))}
        for own in (fold == number for number in np.unique(fold)):
            tie = np.abs(gap[own]) <= _tie_threshold(gap[~own], votes[~own])
            right["with"][own] = np.where(tie, votes[own, 2], _right(gap[own], votes[own]))
        for ties, counted in (("without", votes[:, :2]), ("with", votes)):
            total = counted.sum(axis=1)
            cell = bootstrap(partial(_share, right[ties], total), references, seed=seed)
            best = _share(counted.max(axis=1), total)
            rows.append((reward, ties, cell.mean, cell.low, cell.high, best, total.sum()))
    return pd.DataFrame(rows, columns=["reward", "ties", "accuracy", "low", "high", "best", "votes"])


def _right(gap: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Decided votes that go the way of the score's gap, half of them where there is none."""
    return np.select([gap > 0, gap < 0], [votes[:, 0], votes[:, 1]], votes[:, :2].sum(axis=1) / 2)


def _share(part: np.ndarray, whole: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
    total = float(whole[rows].sum())
    return float(part[rows].sum()) / total if total else float("nan")


def _tie_threshold(gap: np.ndarray, votes: np.ndarray) -> float:
    """The largest gap to call a tie that agrees with most votes; below 0: never."""
    order = np.abs(gap).argsort(kind="stable")
    size, gain = np.abs(gap)[order], (votes[:, 2] - _right(gap, votes))[order].cumsum()
    last = np.append(size[1:] > size[:-1], True)  # equal gaps are called alike
    best = int(np.argmax(np.where(last, gain, -np.inf)))
    return float(size[best]) if gain[best] > 0 else -1.0

"""The table of pairwise votes: what it holds, what is wrong with it, and whose votes count.

It has the `COLUMNS` below and one row per answered screen. An attention item shows the same video twice (equal arms;
the answer is "tie") or a video beside its "corrupted" copy. Attention items and repeats are no votes.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from icreward_lib.run.profile import Group
from icreward_lib.stats import Interval, bootstrap_mean

CORRUPTED = "corrupted"
COLUMNS = {
    "rater": "number of the rater; names are not known",
    "trial": "position of the screen in the rater's session, from 0; practice comes first and is not exported",
    "pair": "name of the pair; of a ranking, the sample and the two arms",
    "sample": "name of the reference image",
    "arm_left": f"where the left clip came from; '{CORRUPTED}' is a ruined copy",
    "arm_right": "where the right clip came from",
    "choice": "left, right or tie; of a ranking, the side that was ranked higher",
    "question": "name of the question, see below",
    "is_attention": "whether the answer was known: a clip beside its ruined copy, or twice the same clip (tie)",
    "is_repeat": "whether an earlier trial was shown again, the other way round",
    "shown_at": "when the screen was shown, UTC",
    "answered_at": "when the answer was stored, UTC",
    "feedback": "what the rater wrote, if anything",
    "tags": "what the rater said had decided, separated by spaces",
    "left": "id of the left clip",
    "right": "id of the right clip",
    "source": "people, or simulated; the same in every row",
}
FLAGS = ("is_attention", "is_repeat")
TIMES = ("shown_at", "answered_at")
TEXTS = (*TIMES, "feedback", "tags")  # may be empty
OPTIONAL = ("left", "right", "source")  # if absent: <sample>/<arm> and "people"
REQUIRED = tuple(column for column in COLUMNS if column not in OPTIONAL)
IDS = tuple(column for column in REQUIRED if column not in FLAGS + TEXTS)
ALLOWED = {"choice": ("left", "right", "tie"), "source": ("people", "simulated")}
SETTINGS = ".settings.json"  # of a study, beside its votes


class VotesError(ValueError):
    """Votes that cannot be analysed; the message is one sentence, with the column and the row if one is wrong."""


def validate(votes: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a fresh index, text ids, boolean flags and all of `COLUMNS`, or raise `VotesError`."""
    votes = votes.reset_index(drop=True)
    if missing := [column for column in REQUIRED if column not in votes]:
        raise VotesError(f"The votes table lacks the column(s) {', '.join(missing)}; it needs {', '.join(REQUIRED)}.")
    if votes.empty:
        raise VotesError("The votes table has no rows: nobody has voted.")
    votes = votes.assign(**{column: votes[column].astype("str") for column in (*IDS, *TEXTS)})
    for column in IDS:
        _refuse(votes, votes[column].isna() | (votes[column].str.strip() == ""), f"'{column}' is empty")
    votes = votes.fillna(dict.fromkeys(TEXTS, ""))
    for column in FLAGS:
        flags = votes[column].astype(str).str.lower().map({"true": True, "1": True, "false": False, "0": False})
        _refuse(votes, flags.isna(), f"'{column}' must be true or false")
        votes[column] = flags.astype(bool)
    ids = {side: votes["sample"] + "/" + votes[f"arm_{side}"] for side in ("left", "right")}
    votes = votes.assign(**{column: values for column, values in ids.items() if column not in votes})
    if "source" not in votes:
        votes["source"] = "people"
    for column, allowed in ALLOWED.items():
        _refuse(votes, ~votes[column].isin(allowed), f"'{column}' must be one of {', '.join(allowed)}")
    _refuse(votes, votes["source"] != votes["source"][0], "simulated votes and people's must not be in one table")
    for column in TIMES:
        _refuse(votes, _times(votes[column]).isna() & (votes[column] != ""), f"'{column}' is no ISO 8601 time")
    _check_screens(votes)
    return votes


def _check_screens(votes: pd.DataFrame) -> None:
    """Refuse screens that do not fit what they are said to be, or each other."""
    attention, again = votes["is_attention"], votes["is_repeat"]
    corrupted = (votes[["arm_left", "arm_right"]] == CORRUPTED).sum(axis=1)
    same = votes["arm_left"] == votes["arm_right"]
    judged, first = pd.MultiIndex.from_frame(votes[["rater", "pair", "question"]]), ~attention & ~again
    twice = pd.Series(False, votes.index)
    twice[first] = judged[first].duplicated()
    unknown = attention & (corrupted != 1) & ~(same & (corrupted == 0))
    for bad, reason in (
        (attention & again, "a screen is an attention item or a repeat, not both"),
        (unknown, f"an attention item needs one '{CORRUPTED}' arm, or the same arm twice"),
        (~attention & same, "both sides come from the same arm"),
        (~attention & (corrupted > 0), f"only an attention item may show a '{CORRUPTED}' arm"),
        # A ranking of several videos is one trial with a row for any two of them.
        (votes.duplicated(["rater", "trial", "pair"]), "this rater has another row with this trial and pair"),
        (twice, "this rater already has a trial of this pair and question (mark it as a repeat)"),
        (again & ~judged.isin(judged[first]), "this repeat has no trial by the same rater"),
    ):
        _refuse(votes, bad, reason)


def _refuse(votes: pd.DataFrame, bad: pd.Series, reason: str) -> None:
    """Raise `VotesError` about the first bad row, if there is one."""
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        who = f"rater {votes['rater'][row]}, sample {votes['sample'][row]}"
        raise VotesError(f"Row {row + 1} of the votes table ({who}): {reason}.")


def _times(column: pd.Series) -> pd.Series:
    """Times of an ISO 8601 column; none where it is empty, or no time."""
    return pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")


def read_votes(path: str | Path, *, samples: Collection[str] | None = None) -> pd.DataFrame:
    """Read and `validate` a CSV of votes (ids are text); raises `VotesError`, with `samples` also about any other."""
    try:
        votes = validate(pd.read_csv(path, dtype=str, keep_default_na=False))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise VotesError(f"{path} is not a CSV table of votes: {str(error).strip()}.") from error
    if samples is not None:
        _refuse(votes, ~votes["sample"].isin(samples), f"this sample is not one of the {len(samples)} of the study")
    return votes


def questions(votes: pd.DataFrame) -> list[str]:
    """The questions that were asked, as they first come."""
    return list(dict.fromkeys(votes["question"]))


def trials(votes: pd.DataFrame, arms: tuple[str, str] | None = None) -> pd.DataFrame:
    """The votes of one question, without attention items and repeats, and the arm each `preferred` (or "tie").

    Raises `VotesError` if there are none, of several questions, or of others than the two `arms`.
    """
    votes = validate(votes)
    found = votes[~votes["is_attention"] & ~votes["is_repeat"]]
    if found.empty:
        raise VotesError("The votes table holds attention items only: there is no vote.")
    if len(asked := questions(found)) > 1:
        raise VotesError(f"The votes table has several questions ({', '.join(asked)}): give one at a time.")
    if arms is not None:
        shown = np.sort(found[["arm_left", "arm_right"]].to_numpy(dtype=str), axis=1)
        other = votes.index.isin(found.index[(shown != np.sort(arms)).any(axis=1)])
        _refuse(votes, pd.Series(other), f"this trial does not compare {' with '.join(arms)}")
    return found.assign(preferred=_preferred)


def _preferred(votes: pd.DataFrame) -> pd.Series:
    """The arm each row chose, or "tie"."""
    sides = [votes["choice"] == "left", votes["choice"] == "right"]
    return pd.Series(np.select(sides, [votes["arm_left"], votes["arm_right"]], "tie"), votes.index, dtype=object)


def require_several(votes: pd.DataFrame, *columns: str) -> None:
    """Raise `VotesError` if a column to cluster an interval by has the same value everywhere."""
    for column in columns:
        if votes[column].nunique() < 2:
            only = votes[column].iloc[0]
            raise VotesError(f"All votes are of one {column} ({only}): an interval needs two or more.")


class Exclusion(Group):
    """Whose votes count, settled before the first vote. What a rater was not measured by leaves nobody out."""

    min_attention_passed: Annotated[float, Field(ge=0, le=1, description="least share of attention items passed")] = 0.5
    min_repeats_alike: Annotated[float, Field(ge=0, le=1, description="least share of repeats answered alike")] = 0.0
    min_median_seconds: Annotated[float, Field(ge=0, description="least median time to answer a screen")] = 1.0
    min_trials: Annotated[int, Field(ge=0, description="fewest trials answered")] = 1

    @classmethod
    def beside(cls, votes: str | Path) -> Exclusion:
        """The rule of the study that a table was exported from; the default if its settings are not beside it."""
        settings = Path(votes).with_suffix(SETTINGS)
        return cls(**json.loads(settings.read_text(encoding="utf-8"))["exclusion"]) if settings.is_file() else cls()


def side_bias(votes: pd.DataFrame, *, seed: int) -> Interval | None:
    """Share of decisive trials that chose the left video, in [0, 1], interval over raters; no bias is 0.5.

    It takes pairs to be shown equally often each way. None without decisive votes of two raters.
    """
    decisive = trials(votes).query("choice != 'tie'").set_index("rater")
    return _share_over_raters(decisive["choice"] == "left", seed=seed)


def repeat_consistency(votes: pd.DataFrame, *, seed: int) -> Interval | None:
    """Share of repeats answered like their trial (same arm, or tie), interval over raters; None without two raters."""
    return _share_over_raters(_repeats_alike(votes), seed=seed)


def _share_over_raters(rows: pd.Series, *, seed: int) -> Interval | None:
    """The share of true rows, whose index names their rater."""
    raters = rows.index.get_level_values("rater")
    if raters.nunique() < 2:
        return None
    return bootstrap_mean(rows.to_numpy(dtype=float), clusters=raters.to_numpy(), seed=seed)


def _repeats_alike(votes: pd.DataFrame) -> pd.Series:
    """Whether each repeat was answered like its trial, by rater, pair and question."""
    votes = validate(votes).assign(preferred=_preferred).set_index(["rater", "pair", "question"])
    first = votes.query("not is_attention and not is_repeat")["preferred"]
    again = votes.query("is_repeat")["preferred"]
    return first.reindex(again.index) == again


def attention_pass_rate(votes: pd.DataFrame) -> pd.DataFrame:
    """Per rater: attention items "passed", "n" shown, and "rate" in [0, 1]; no rows without such items."""
    items = validate(votes).query("is_attention")
    known = [items["arm_left"] == items["arm_right"], items["arm_left"] == CORRUPTED]
    passed = (items["choice"] == np.select(known, ["tie", "right"], "left")).groupby(items["rater"])
    return pd.DataFrame({"passed": passed.sum(), "n": passed.size(), "rate": passed.mean()})


def per_rater(votes: pd.DataFrame) -> pd.DataFrame:
    """What `Exclusion` looks at, per rater and over all questions; NaN where there is nothing to look at."""
    votes = validate(votes)
    own = votes[~votes["is_attention"] & ~votes["is_repeat"]]
    seconds = (_times(own["answered_at"]) - _times(own["shown_at"])).dt.total_seconds()
    return pd.DataFrame(
        {
            "attention_passed": attention_pass_rate(votes)["rate"],
            "repeats_alike": _repeats_alike(votes).groupby("rater").mean(),
            "median_seconds": seconds.groupby(own["rater"]).median(),
            "trials": own.groupby("rater").size(),
        },
        index=pd.Index(votes["rater"].unique(), name="rater"),
    ).fillna({"trials": 0})


def exclude(votes: pd.DataFrame, rule: Exclusion) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The votes of the raters whom `rule` keeps, and who is left out and why; raises `VotesError` if nobody is left."""
    votes, measured = validate(votes), per_rater(votes)
    limits = {name.removeprefix("min_"): least for name, least in rule.model_dump().items()}
    reasons = {
        rater: ", ".join(f"{name} {row[name]:.3g} < {least:g}" for name, least in limits.items() if row[name] < least)
        for rater, row in measured.iterrows()
    }
    left_out = pd.DataFrame([(rater, why) for rater, why in reasons.items() if why], columns=["rater", "why"])
    if len(left_out) == len(measured):
        everybody = f"all {len(measured)} raters, the first for {left_out['why'][0]}"
        raise VotesError(f"The exclusion rule leaves out {everybody}.")
    return votes[~votes["rater"].isin(left_out["rater"])].reset_index(drop=True), left_out

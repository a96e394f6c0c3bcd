"""The table of pairwise votes: what it holds, what is wrong with it, and reading it.

A votes table is the export of the study, one row per answered screen:

======================  =========================================================================
column                  meaning
======================  =========================================================================
rater, trial            who judged, and which of the rater's screens this was
pair, sample            which pair was shown, and of which reference image
arm_left, arm_right     where each video came from, for example "mlp" and "icreward"
choice                  "left", "right" or "tie"
question                what was asked, for example "consistency"
is_attention            the answer is known: it is no vote, but tells whether the rater looks
is_repeat               an earlier trial again: it is no vote, but tells how sure the rater is
shown_at, answered_at   ISO 8601 times, or empty
feedback, tags          what the rater wrote, and which attributes were named, separated by spaces
left, right             ids of the two videos; if absent, "<sample>/<arm>"
source                  "people" (if absent) or "simulated", the same in every row
======================  =========================================================================

An attention item shows the same video twice (equal arms; the answer is "tie") or a video beside its corrupted
copy, whose arm is "corrupted" (the answer is the other side). More columns are kept untouched.
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

IDS = ("rater", "trial", "pair", "sample", "arm_left", "arm_right", "choice", "question")
FLAGS = ("is_attention", "is_repeat")
TIMES = ("shown_at", "answered_at")
TEXTS = (*TIMES, "feedback", "tags")  # may be empty
EXPORT = (*IDS, *FLAGS, *TEXTS)
COLUMNS = (*EXPORT, "left", "right", "source")
CHOICES = ("left", "right", "tie")
SOURCES = ("people", "simulated")
CORRUPTED = "corrupted"
_YES_NO = {"true": True, "1": True, "false": False, "0": False}


class VotesError(ValueError):
    """Votes that cannot be analysed; the message is one sentence, with the column and the row if one is wrong."""


def validate(
    votes: pd.DataFrame, *, raters: Collection[str] | None = None, samples: Collection[str] | None = None
) -> pd.DataFrame:
    """Return the table with a fresh index, text ids, boolean flags and all of `COLUMNS`.

    Raises `VotesError` saying in one sentence what is wrong; with `raters` or `samples`, also for any others.
    """
    votes = votes.reset_index(drop=True)
    if missing := [column for column in EXPORT if column not in votes]:
        raise VotesError(f"The votes table lacks the column(s) {', '.join(missing)}; it needs {', '.join(EXPORT)}.")
    if votes.empty:
        raise VotesError("The votes table has no rows: nobody has voted.")
    votes = votes.assign(**{column: votes[column].astype("str") for column in (*IDS, *TEXTS)})
    for column in IDS:
        refuse(votes, votes[column].isna() | (votes[column].str.strip() == ""), f"'{column}' is empty")
    votes = votes.fillna(dict.fromkeys(TEXTS, ""))
    for column in FLAGS:
        flags = votes[column].astype(str).str.lower().map(_YES_NO)
        refuse(votes, flags.isna(), f"'{column}' must be true or false")
        votes[column] = flags.astype(bool)
    for side in ("left", "right"):
        if side not in votes:
            votes[side] = votes["sample"] + "/" + votes[f"arm_{side}"]
    if "source" not in votes:
        votes["source"] = SOURCES[0]
    for column, known in (("rater", raters), ("sample", samples)):
        if known is not None:
            refuse(votes, ~votes[column].isin(known), f"this {column} is not one of the {len(known)} of the study")
    for column, allowed in (("choice", CHOICES), ("source", SOURCES)):
        refuse(votes, ~votes[column].isin(allowed), f"'{column}' must be one of {', '.join(allowed)}")
    refuse(votes, votes["source"] != votes["source"][0], "simulated votes and people's must not be in one table")
    for column in TIMES:
        refuse(votes, times(votes[column]).isna() & (votes[column] != ""), f"'{column}' is no ISO 8601 time")
    _check_screens(votes)
    return votes


def _check_screens(votes: pd.DataFrame) -> None:
    """Refuse screens that do not fit what they are said to be, or each other."""
    attention, again = votes["is_attention"], votes["is_repeat"]
    refuse(votes, attention & again, "a screen is an attention item or a repeat, not both")
    corrupted = sum((votes[side] == CORRUPTED).astype(int) for side in ("arm_left", "arm_right"))
    same = votes["arm_left"] == votes["arm_right"]
    odd = attention & ~((corrupted == 1) | (same & (corrupted == 0)))
    refuse(votes, odd, f"an attention item needs one '{CORRUPTED}' arm, or the same arm twice")
    refuse(votes, ~attention & same, "both sides come from the same arm")
    refuse(votes, ~attention & (corrupted > 0), f"only an attention item may show a '{CORRUPTED}' arm")
    # A ranking of several videos is one trial with a row for any two of them.
    refuse(votes, votes.duplicated(["rater", "trial", "pair"]), "this rater has another row with this trial and pair")
    judged = pd.MultiIndex.from_frame(votes[["rater", "pair", "question"]])
    first = ~attention & ~again
    twice = first & votes[first].duplicated(["rater", "pair", "question"]).reindex(votes.index, fill_value=False)
    refuse(votes, twice, "this rater already has a trial of this pair and question (mark it as a repeat)")
    refuse(votes, again & ~judged.isin(judged[first]), "this repeat has no trial by the same rater")


def refuse(votes: pd.DataFrame, bad: pd.Series, reason: str) -> None:
    """Raise `VotesError` about the first bad row of a table with a fresh index, if there is one."""
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        who = f"rater {votes['rater'][row]}, sample {votes['sample'][row]}"
        raise VotesError(f"Row {row + 1} of the votes table ({who}): {reason}.")


def times(column: pd.Series) -> pd.Series:
    """Times of an ISO 8601 column; none where it is empty, or no time."""
    return pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce")


def questions(votes: pd.DataFrame) -> list[str]:
    """The questions that were asked, as they first come."""
    return list(dict.fromkeys(votes["question"]))


def trials(votes: pd.DataFrame, arms: tuple[str, str] | None = None) -> pd.DataFrame:
    """The votes of one question, without attention items and repeats, and the arm each `preferred` (or "tie").

    Raises `VotesError` if there are none, of several questions, or of others than the two `arms`.
    """
    votes = validate(votes)
    found = votes[~votes["is_attention"] & ~votes["is_repeat"]].copy()
    if found.empty:
        raise VotesError("The votes table holds attention items only: there is no vote.")
    if len(asked := questions(found)) > 1:
        raise VotesError(f"The votes table has several questions ({', '.join(asked)}): give one at a time.")
    if arms is not None:
        shown = np.sort(found[["arm_left", "arm_right"]].to_numpy(dtype=str), axis=1)
        other = votes.index.isin(found.index[(shown != np.sort(arms)).any(axis=1)])
        refuse(votes, pd.Series(other), f"this trial does not compare {' with '.join(arms)}")
    found["preferred"] = preferred(found)
    return found


def refuse_one(votes: pd.DataFrame, *columns: str) -> None:
    """Raise `VotesError` if a column to cluster an interval by has the same value everywhere."""
    for column in columns:
        if votes[column].nunique() < 2:
            only = votes[column].iloc[0]
            raise VotesError(f"All votes are of one {column} ({only}): an interval needs two or more.")


def preferred(votes: pd.DataFrame) -> pd.Series:
    """The arm each row chose, or "tie"."""
    sides = [votes["choice"] == "left", votes["choice"] == "right"]
    arms = np.select(sides, [votes["arm_left"], votes["arm_right"]], "tie")
    return pd.Series(arms, votes.index, dtype=object)


def read_votes(
    path: str | Path, *, raters: Collection[str] | None = None, samples: Collection[str] | None = None
) -> pd.DataFrame:
    """Read and `validate` a CSV of votes, all columns as text, so that "007" is not 7."""
    try:
        votes = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise VotesError(f"{path} is not a CSV table of votes: {str(error).strip()}.") from error
    return validate(votes, raters=raters, samples=samples)


SETTINGS = ".settings.json"  # of a study, beside its votes


class Exclusion(Group):
    """Whose votes count, settled before the first vote. What a rater was not measured by leaves nobody out."""

    min_attention_passed: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="least share of attention items passed"
    )
    min_repeats_alike: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="least share of repeats answered like their trial"
    )
    min_median_seconds: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="least median time to answer a screen"
    )
    min_trials: Annotated[int, Field(ge=0)] = Field(default=1, description="fewest trials answered")

    @classmethod
    def beside(cls, votes: str | Path) -> Exclusion:
        """The rule of the study that a table was exported from; the default if its settings are not beside it."""
        settings = Path(votes).with_suffix(SETTINGS)
        return cls(**json.loads(settings.read_text(encoding="utf-8"))["exclusion"]) if settings.is_file() else cls()


def side_bias(votes: pd.DataFrame, *, seed: int) -> Interval | None:
    """Share of decisive trials that chose the left video, in [0, 1], interval over raters; no bias is 0.5.

    It measures the raters only if every pair was shown about equally often each way. None without decisive votes of
    two raters.
    """
    decisive = trials(votes).query("choice != 'tie'")
    if decisive["rater"].nunique() < 2:
        return None
    left = (decisive["choice"] == "left").to_numpy(dtype=float)
    return bootstrap_mean(left, clusters=decisive["rater"].to_numpy(), seed=seed)


def attention_pass_rate(votes: pd.DataFrame) -> pd.DataFrame:
    """Per rater: attention items "passed", "n" shown, and "rate" in [0, 1]; no rows without such items."""
    items = validate(votes).query("is_attention")
    known = [items["arm_left"] == items["arm_right"], items["arm_left"] == CORRUPTED]
    passed = (items["choice"] == np.select(known, ["tie", "right"], "left")).groupby(items["rater"])
    return pd.DataFrame({"passed": passed.sum(), "n": passed.size(), "rate": passed.mean()})


def repeat_consistency(votes: pd.DataFrame, *, seed: int) -> Interval | None:
    """Share of repeats answered like their trial (same arm, or tie), interval over raters.

    None without repeats of two raters.
    """
    alike = _repeats(votes)
    raters = alike.index.get_level_values("rater")
    if raters.nunique() < 2:
        return None
    return bootstrap_mean(alike.to_numpy(dtype=float), clusters=raters.to_numpy(), seed=seed)


def _repeats(votes: pd.DataFrame) -> pd.Series:
    """Whether each repeat was answered like its trial, by rater, pair and question."""
    votes = validate(votes).assign(preferred=preferred)
    keys = ["rater", "pair", "question"]
    first = votes.query("not is_attention and not is_repeat").set_index(keys)["preferred"]
    again = votes.query("is_repeat").set_index(keys)["preferred"]
    return pd.Series(first.reindex(again.index).to_numpy() == again.to_numpy(), again.index)


def per_rater(votes: pd.DataFrame) -> pd.DataFrame:
    """What `Exclusion` looks at, per rater and over all questions; NaN where there is nothing to look at."""
    votes = validate(votes)
    own = votes[~votes["is_attention"] & ~votes["is_repeat"]]
    taken = (times(own["answered_at"]) - times(own["shown_at"])).dt.total_seconds()
    return pd.DataFrame(
        {
            "attention_passed": attention_pass_rate(votes)["rate"],
            "repeats_alike": _repeats(votes).groupby("rater").mean(),
            "median_seconds": taken.groupby(own["rater"]).median(),
            "trials": own.groupby("rater").size(),
        },
        index=pd.Index(votes["rater"].unique(), name="rater"),
    ).fillna({"trials": 0})


def exclude(votes: pd.DataFrame, rule: Exclusion) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The votes of the raters whom `rule` keeps, and who is left out, whole: columns rater and why.

    Raises `VotesError` if nobody is left.
    """
    votes, measured = validate(votes), per_rater(votes)
    left_out = []
    limits = {name.removeprefix("min_"): least for name, least in rule.model_dump().items()}
    for rater, values in measured.iterrows():
        why = [f"{name} {values[name]:.3g} < {least:g}" for name, least in limits.items() if values[name] < least]
        if why:
            left_out.append({"rater": rater, "why": ", ".join(why)})
    table = pd.DataFrame(left_out, columns=["rater", "why"])
    if len(table) == len(measured):
        raise VotesError(f"The exclusion rule leaves out all {len(table)} raters, the first for {table['why'][0]}.")
    return votes[~votes["rater"].isin(table["rater"])].reset_index(drop=True), table

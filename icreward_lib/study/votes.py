"""The table of pairwise votes: what it holds, what is wrong with it, reading and writing.

A votes table has one row per answered screen:

=====================  ==========================================================================
column                 meaning
=====================  ==========================================================================
rater, sample          who judged, and which reference image
left, right            ids of the two videos, as they were placed on the screen
choice                 "left", "right" or "tie"
arm_left, arm_right    which picker each video came from, for example "mlp" and "icreward"
kind                   "trial", "attention" (known answer) or "repeat" (an earlier trial again)
feedback               optional: what the rater wrote
source                 optional: "people" (if absent) or "simulated", the same in every row
=====================  ==========================================================================

An attention item shows the same video twice (the answer is "tie") or a video beside its corrupted copy, whose
arm is "corrupted" (the answer is the other side). More columns are kept untouched.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.files import atomic

COLUMNS = ("rater", "sample", "left", "right", "choice", "arm_left", "arm_right", "kind")
CHOICES = ("left", "right", "tie")
KINDS = ("trial", "attention", "repeat")
SOURCES = ("people", "simulated")
CORRUPTED = "corrupted"


class VotesError(ValueError):
    """A votes table that cannot be analysed; the message names the column and the row."""


def validate(votes: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a fresh index, or raise `VotesError` saying in one sentence what is wrong."""
    votes = votes.reset_index(drop=True)
    if missing := [column for column in COLUMNS if column not in votes]:
        raise VotesError(f"The votes table lacks the column(s) {', '.join(missing)}; it needs {', '.join(COLUMNS)}.")
    if votes.empty:
        raise VotesError("The votes table has no rows.")
    for column in COLUMNS:
        blank = votes[column].astype(str).str.strip() == ""
        refuse(votes, votes[column].isna() | blank, f"'{column}' is empty")
    if "source" in votes:
        refuse(votes, ~votes["source"].isin(SOURCES), f"'source' must be one of {', '.join(SOURCES)}")
        mixed = votes["source"] != votes["source"][0]
        refuse(votes, mixed, "simulated votes and people's must not be in one table")
    for column, allowed in (("choice", CHOICES), ("kind", KINDS)):
        refuse(votes, ~votes[column].isin(allowed), f"'{column}' must be one of {', '.join(allowed)}")
    attention, trial = votes["kind"] == "attention", votes["kind"] == "trial"
    one_corrupted = (votes["arm_left"] == CORRUPTED) ^ (votes["arm_right"] == CORRUPTED)
    unknown = attention & ~one_corrupted & (votes["left"] != votes["right"])
    refuse(votes, unknown, f"an attention item needs one '{CORRUPTED}' arm, or the same video twice")
    one_arm = ~attention & (votes["arm_left"] == votes["arm_right"])
    refuse(votes, one_arm, "both sides come from the same arm")
    judged = pd.MultiIndex.from_frame(votes[["rater", "sample"]])
    twice = trial & votes.duplicated(["rater", "sample", "kind"])
    refuse(votes, twice, "this rater already has a trial for this sample (mark it as a repeat)")
    orphan = (votes["kind"] == "repeat") & ~judged.isin(judged[trial])
    refuse(votes, orphan, "this repeat has no trial by the same rater")
    return votes


def refuse(votes: pd.DataFrame, bad: pd.Series, reason: str) -> None:
    """Raise `VotesError` about the first bad row of a validated table, if there is one."""
    if bad.any():
        row = int(np.argmax(bad.to_numpy()))
        who = f"rater {votes['rater'][row]}, sample {votes['sample'][row]}"
        raise VotesError(f"Row {row + 1} of the votes table ({who}): {reason}.")


def read_votes(path: str | Path) -> pd.DataFrame:
    """Read and validate a CSV of votes; ids stay text, so that "007" is not 7."""
    text = dict.fromkeys((*COLUMNS, "feedback", "source"), str)
    try:
        votes = pd.read_csv(path, dtype=text, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise VotesError(f"{path} is not a CSV table of votes: {str(error).strip()}.") from error
    return validate(votes)


def write_votes(path: str | Path, votes: pd.DataFrame) -> None:
    """Write a validated table as CSV, whole or not at all."""
    table = validate(votes)
    with atomic(Path(path)) as temporary:
        table.to_csv(temporary, index=False)

"""How carefully people voted: attention items, repeats, side bias, answer times; and whom a rule leaves out."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from icreward_lib.stats import Interval, bootstrap_mean
from icreward_lib.study.votes import CORRUPTED, VotesError, preferred, times, trials, validate


@dataclass(frozen=True)
class Exclusion:
    """Whose votes count, settled before the first vote. What a rater was not measured by leaves nobody out."""

    min_attention_passed: float = 0.5  # share of attention items
    min_repeats_alike: float = 0.0  # share of repeats answered like their trial
    min_median_seconds: float = 1.0  # to answer a trial
    min_trials: int = 1  # answered

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.min_attention_passed, self.min_repeats_alike)):
            raise ValueError(f"Least shares must be in [0, 1]: {self}.")
        if min(self.min_median_seconds, self.min_trials) < 0:
            raise ValueError(f"Least times and counts must not be negative: {self}.")


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


def consistency(votes: pd.DataFrame, *, seed: int) -> Interval | None:
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
    for rater, values in measured.iterrows():
        limits = {field.name.removeprefix("min_"): getattr(rule, field.name) for field in fields(rule)}
        why = [f"{name} {values[name]:.3g} < {least:g}" for name, least in limits.items() if values[name] < least]
        if why:
            left_out.append({"rater": rater, "why": ", ".join(why)})
    table = pd.DataFrame(left_out, columns=["rater", "why"])
    if len(table) == len(measured):
        raise VotesError(f"The exclusion rule leaves out all {len(table)} raters, the first for {table['why'][0]}.")
    return votes[~votes["rater"].isin(table["rater"])].reset_index(drop=True), table

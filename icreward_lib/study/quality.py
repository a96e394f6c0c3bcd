"""How carefully people voted: attention items, repeats, side bias, answer times; and whom a rule leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from icreward_lib.profile import Group
from icreward_lib.stats import Interval, bootstrap_mean
from icreward_lib.study.votes import CORRUPTED, VotesError, preferred, times, trials, validate

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
    limits = {name.removeprefix("min_"): least for name, least in rule.model_dump().items()}
    for rater, values in measured.iterrows():
        why = [f"{name} {values[name]:.3g} < {least:g}" for name, least in limits.items() if values[name] < least]
        if why:
            left_out.append({"rater": rater, "why": ", ".join(why)})
    table = pd.DataFrame(left_out, columns=["rater", "why"])
    if len(table) == len(measured):
        raise VotesError(f"The exclusion rule leaves out all {len(table)} raters, the first for {table['why'][0]}.")
    return votes[~votes["rater"].isin(table["rater"])].reset_index(drop=True), table

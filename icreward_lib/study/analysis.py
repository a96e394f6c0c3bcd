"""What a table of pairwise votes says: counts, win rate, agreement, biases, written feedback.

Every function takes a table of `study.votes`; all but `attention_pass_rate` and `consistency` look at the
trials alone. `arms` names the two pickers, the one whose wins are counted first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import krippendorff
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from icreward_lib.stats import Interval, binomial_test, bootstrap_mean, two_way_clustered, wilson
from icreward_lib.study.votes import CORRUPTED, SOURCES, VotesError, refuse, validate

# A comment carries a theme if a word in it starts with one of the theme's stems; it may carry several.
THEMES: Mapping[str, str] = {
    "subject": "subject object shape outline identity person face disappear dissolv melt",
    "background": "background scene surround backdrop photo setting landscape",
    "motion": "motion mov camera static frozen jitter speed direction",
    "colour": "colour color tint fade bright dark",
    "sharpness": "blur sharp smear detail noise noisy artefact artifact flicker",
    "no difference": "neither same similar identical equal",
}


def _trials(votes: pd.DataFrame, arms: tuple[str, str] | None = None) -> pd.DataFrame:
    votes = validate(votes)
    trials = votes[votes["kind"] == "trial"].copy()
    if trials.empty:
        raise VotesError("The votes table has no row of kind 'trial'.")
    if arms is not None:
        shown = np.sort(trials[["arm_left", "arm_right"]].to_numpy(dtype=str), axis=1)
        other = votes.index.isin(trials.index[(shown != np.sort(arms)).any(axis=1)])
        refuse(votes, pd.Series(other), f"this trial does not compare {' with '.join(arms)}")
    trials["preferred"] = preferred(trials)
    return trials


def preferred(votes: pd.DataFrame) -> pd.Series:
    """The arm each row chose, or "tie"."""
    sides = [votes["choice"] == "left", votes["choice"] == "right"]
    arms = np.select(sides, [votes["arm_left"], votes["arm_right"]], "tie")
    return pd.Series(arms, votes.index, dtype=object)


def counts(votes: pd.DataFrame, arms: tuple[str, str]) -> pd.DataFrame:
    """Votes per sample (Fig 4): how many preferred each arm or neither.

    Columns: both arms, "tie", "n"; "share" of the first arm among decisive votes in [0, 1] with its 95 %
    Wilson interval "low", "high"; "p" of the exact two-sided binomial test against one half. Without decisive
    votes the share is NaN, the interval [0, 1] and p 1.
    """
    trials = _trials(votes, arms)
    table = pd.crosstab(trials["sample"], trials["preferred"]).reindex(columns=[*arms, "tie"], fill_value=0)
    table = table.rename_axis(columns=None).assign(n=lambda t: t.sum(axis=1))
    decided = [(int(k), int(k + lost)) for k, lost in zip(table[arms[0]], table[arms[1]], strict=True)]
    shares = [wilson(k, n) if n else Interval(np.nan, 0.0, 1.0, 0) for k, n in decided]
    table["share"], table["low"], table["high"] = zip(*((s.mean, s.low, s.high) for s in shares), strict=True)
    table["p"] = [binomial_test(k, n) if n else 1.0 for k, n in decided]
    return table


def win_rate(votes: pd.DataFrame, arms: tuple[str, str]) -> Interval:
    """Share of trials won by the first arm, ties one half; interval clustered by rater and by sample."""
    trials = _trials(votes, arms)
    return two_way_clustered(_wins(trials, arms[0]), trials["rater"].to_numpy(), trials["sample"].to_numpy())


def _wins(trials: pd.DataFrame, arm: str) -> np.ndarray:
    return np.select([trials["preferred"] == arm, trials["preferred"] == "tie"], [1.0, 0.5], 0.0)


def agreement(votes: pd.DataFrame) -> dict[str, float | None]:
    """How far raters agree: Krippendorff's nominal "alpha" (<= 1), and "agreement", the share of rater pairs.

    Alpha is None where it is undefined: everybody gave one and the same answer, or no sample has two raters
    (then "agreement" is None too). It is no gate: honest raters of close pairs reach low values.
    """
    table = _trials(votes).pivot(index="rater", columns="sample", values="preferred")
    names = pd.unique(table.to_numpy().ravel())
    codes = {name: code for code, name in enumerate(n for n in names if isinstance(n, str))}
    values = np.array([[codes.get(v, np.nan) for v in row] for row in table.to_numpy()], dtype=float)
    # (samples, answers)
    per_answer = np.stack([(values == code).sum(axis=0) for code in codes.values()], axis=1)
    judged = per_answer.sum(axis=1)
    pairs = (judged * (judged - 1)).sum()
    if pairs == 0:
        return {"alpha": None, "agreement": None}
    paired = judged > 1
    varied = (per_answer[paired].sum(axis=0) > 0).sum() > 1
    alpha = float(krippendorff.alpha(values[:, paired], level_of_measurement="nominal")) if varied else None
    return {"alpha": alpha, "agreement": float((per_answer * (per_answer - 1)).sum() / pairs)}


def side_bias(votes: pd.DataFrame, *, seed: int) -> Interval | None:
    """Share of decisive trials that chose the left video, in [0, 1], interval over raters; no bias is 0.5.

    It measures the raters only if every pair was shown about equally often each way. None if all trials are
    ties.
    """
    decisive = _trials(votes).query("choice != 'tie'")
    if decisive.empty:
        return None
    left = (decisive["choice"] == "left").to_numpy(dtype=float)
    return bootstrap_mean(left, clusters=decisive["rater"].to_numpy(), seed=seed)


def attention_pass_rate(votes: pd.DataFrame) -> pd.DataFrame:
    """Per rater: attention items "passed", "n" shown, and "rate" in [0, 1]; no rows without such items."""
    items = validate(votes).query("kind == 'attention'")
    known = [items["left"] == items["right"], items["arm_left"] == CORRUPTED]
    passed = (items["choice"] == np.select(known, ["tie", "right"], "left")).groupby(items["rater"])
    return pd.DataFrame({"passed": passed.sum(), "n": passed.size(), "rate": passed.mean()})


def consistency(votes: pd.DataFrame, *, seed: int) -> Interval | None:
    """Share of repeats answered like their trial (same arm, or tie), interval over raters; None if none."""
    votes = validate(votes).assign(preferred=preferred)
    first = votes.query("kind == 'trial'").set_index(["rater", "sample"])["preferred"]
    again = votes.query("kind == 'repeat'").set_index(["rater", "sample"])["preferred"]
    if again.empty:
        return None
    same = (first.loc[again.index].to_numpy() == again.to_numpy()).astype(float)
    return bootstrap_mean(same, clusters=again.index.get_level_values("rater").to_numpy(), seed=seed)


def reward_agreement(votes: pd.DataFrame, scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """How often each reward ranks the two videos as the raters did, over decisive trials.

    Equal scores are half right. scores: index = video id, one column per reward, higher is better. Returns
    one row per reward: "accuracy" in [0, 1], "low", "high" (95 %, bootstrap over samples) and "n" votes.
    Raises `VotesError` if a voted video has no score, or if all trials are ties.
    """
    decisive = _trials(votes).query("choice != 'tie'")
    if decisive.empty:
        raise VotesError("All trials of the votes table are ties: there is no preference to agree with.")
    voted = pd.unique(decisive[["left", "right"]].to_numpy().ravel())
    if missing := [video for video in voted if video not in scores.index]:
        raise VotesError(f"{len(missing)} voted video(s) have no score, the first is '{missing[0]}'.")
    towards = np.where(decisive["choice"] == "left", 1.0, -1.0)
    rows = {}
    for reward in scores.columns:
        left, right = (scores[reward].loc[decisive[side]].to_numpy() for side in ("left", "right"))
        correct = (1.0 + np.sign(left - right) * towards) / 2.0
        cell = bootstrap_mean(correct, clusters=decisive["sample"].to_numpy(), seed=seed)
        rows[reward] = {"accuracy": cell.mean, "low": cell.low, "high": cell.high, "n": len(decisive)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("reward")


def themes(votes: pd.DataFrame, arms: tuple[str, str]) -> pd.DataFrame:
    """Per theme of `THEMES`: "comments", their "share" of all, and how many came with each choice."""
    written = _written(votes, arms)
    rows = {}
    for theme, stems in THEMES.items():
        about = written[written["feedback"].str.contains(rf"\b(?:{stems.replace(' ', '|')})", case=False)]
        choices = {choice: int((about["preferred"] == choice).sum()) for choice in (*arms, "tie")}
        rows[theme] = {"comments": len(about), "share": len(about) / max(1, len(written)), **choices}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("theme")


def frequent_terms(votes: pd.DataFrame, *, top: int = 20) -> pd.Series:
    """The `top` words and word pairs by the number of comments they occur in, without English stop words."""
    comments = _written(votes)["feedback"].tolist()
    vectorizer = CountVectorizer(
        stop_words="english", ngram_range=(1, 2), binary=True, token_pattern=r"(?u)\b[^\W\d_]{3,}\b"
    )
    try:
        occurrences = vectorizer.fit_transform(comments)
    except ValueError:  # scikit-learn's "empty vocabulary"
        return pd.Series(dtype=int, name="comments")
    in_comments = np.asarray(occurrences.sum(axis=0)).ravel()
    terms = pd.Series(in_comments, vectorizer.get_feature_names_out(), name="comments")
    return terms.rename_axis("term").sort_index().sort_values(ascending=False, kind="stable").head(top)


def _written(votes: pd.DataFrame, arms: tuple[str, str] | None = None) -> pd.DataFrame:
    trials = _trials(votes, arms)
    comments = trials["feedback"] if "feedback" in trials else pd.Series("", trials.index)
    trials["feedback"] = comments.fillna("").astype(str).str.strip()
    return trials[trials["feedback"] != ""]


def summarise(votes: pd.DataFrame, arms: tuple[str, str], *, seed: int) -> dict[str, Any]:
    """Everything above that needs no scores, ready for JSON; what does not exist is None."""
    trials = _trials(votes, arms)
    attention = attention_pass_rate(votes)
    per_sample = counts(votes, arms).reset_index()
    left, repeated = side_bias(votes, seed=seed), consistency(votes, seed=seed)
    return {
        "source": trials["source"].iloc[0] if "source" in trials else SOURCES[0],
        "arms": list(arms),
        "raters": int(trials["rater"].nunique()),
        "votes": len(trials),
        "samples": per_sample.astype(object).where(per_sample.notna(), None).to_dict(orient="records"),
        "win_rate": win_rate(votes, arms).as_dict(),
        "side_bias": left and left.as_dict(),
        "consistency": repeated and repeated.as_dict(),
        "attention": {"passed": int(attention["passed"].sum()), "n": int(attention["n"].sum())},
        **agreement(votes),
        "themes": themes(votes, arms).reset_index().to_dict(orient="records"),
    }

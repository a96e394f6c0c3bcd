"""What a table of `study.votes` says: counts, win rate, how far raters agree, and a summary of everything.

Functions look at the trials of one question. `arms` names the two pickers, the one whose wins are counted first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import choix
import krippendorff
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from icreward_lib.stats import Interval, binomial_test, cluster_draws, percentile_interval, two_way_clustered, wilson
from icreward_lib.study.votes import (
    Exclusion,
    VotesError,
    attention_pass_rate,
    exclude,
    questions,
    repeat_consistency,
    require_several,
    side_bias,
    trials,
    validate,
)


def counts(votes: pd.DataFrame, arms: tuple[str, str]) -> pd.DataFrame:
    """Votes per sample (Fig 4): how many preferred each arm, neither ("tie"), and "n".

    "share" of the first arm among decisive votes, in [0, 1] or NaN, its 95 % Wilson interval "low", "high"; "p" of the
    exact two-sided binomial test against one half.
    """
    table = _choices(trials(votes, arms), "sample", arms).assign(n=lambda t: t.sum(axis=1))
    decided = [(int(k), int(k + lost)) for k, lost in zip(table[arms[0]], table[arms[1]], strict=True)]
    shares = [wilson(k, n) if n else Interval(np.nan, 0.0, 1.0, 0) for k, n in decided]
    table["share"], table["low"], table["high"] = zip(*((s.mean, s.low, s.high) for s in shares), strict=True)
    table["p"] = [binomial_test(k, n) if n else 1.0 for k, n in decided]
    return table


def _choices(found: pd.DataFrame, by: str, arms: tuple[str, str]) -> pd.DataFrame:
    """For each value of a column, how many trials preferred each arm or neither."""
    table = pd.crosstab(found[by], found["preferred"]).reindex(columns=[*arms, "tie"], fill_value=0)
    return table.rename_axis(columns=None)


def win_rate(votes: pd.DataFrame, arms: tuple[str, str]) -> Interval:
    """Share of trials won by the first arm, ties one half; interval clustered by rater and by sample."""
    found = trials(votes, arms)
    require_several(found, "rater", "sample")
    wins = np.select([found["preferred"] == arms[0], found["preferred"] == "tie"], [1.0, 0.5], 0.0)
    return two_way_clustered(wins, found["rater"].to_numpy(), found["sample"].to_numpy())


def win_rates(votes: pd.DataFrame, arms: tuple[str, str]) -> pd.DataFrame:
    """The `win_rate` of every question, in the order in which they were asked: columns mean, low, high, n."""
    votes = validate(votes)
    rates = {asked: win_rate(votes[votes["question"] == asked], arms).as_dict() for asked in questions(votes)}
    return pd.DataFrame.from_dict(rates, orient="index").rename_axis("question")


def rater_agreement(votes: pd.DataFrame, *, seed: int, draws: int = 1000) -> tuple[Interval | None, float | None]:
    """How far raters agree on a pair: Krippendorff's nominal alpha (<= 1), and the share of pairs of votes alike.

    None where undefined. Alpha's 95 % interval draws raters and samples; a rater drawn twice agrees with itself, so the
    interval is moved back by the draws' mean error.
    """
    found = trials(votes)
    chosen = pd.get_dummies(found["preferred"]).to_numpy(dtype=np.int64)  # (votes, answers)
    pairs, first, pair = np.unique(found["pair"], return_index=True, return_inverse=True)

    def answers(weights: np.ndarray) -> np.ndarray:
        """How often every pair got every answer, (pairs, answers)."""
        table = np.zeros((len(pairs), chosen.shape[1]), dtype=np.int64)
        np.add.at(table, pair, chosen * weights[:, None])
        return table

    table = answers(np.ones(len(found), dtype=np.int64))
    judged = table.sum(axis=1)
    both = (judged * (judged - 1)).sum()
    alike = float((table * (table - 1)).sum() / both) if both else None
    alpha = _alpha(table)
    if np.isnan(alpha) or found["sample"].nunique() < 2:
        return None, alike
    drawn = [
        _alpha(np.repeat(answers(of_raters), of_samples[first], axis=0))
        for of_raters, of_samples in _two_way_draws(found, seed=seed, draws=draws)
    ]
    return percentile_interval(drawn, estimate=alpha, level=0.95, n=len(pairs), biased=True), alike


def _two_way_draws(found: pd.DataFrame, *, seed: int, draws: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each vote's rater, and its sample, were drawn with replacement: two arrays (votes,) a draw."""
    rater, raters = cluster_draws(found["rater"].to_numpy(), seed=seed, draws=draws)
    sample, samples = cluster_draws(found["sample"].to_numpy(), seed=seed + 1, draws=draws)
    for of_raters, of_samples in zip(raters, samples, strict=True):
        yield of_raters[rater], of_samples[sample]


def _alpha(table: np.ndarray) -> float:
    """Krippendorff's nominal alpha of answer counts (pairs, answers); NaN where all gave one and the same."""
    paired = table[table.sum(axis=1) > 1]
    if (paired.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return float(krippendorff.alpha(value_counts=paired, level_of_measurement="nominal"))


PRIOR = 0.5  # votes that every arm is taken to have won against every other: an arm that always wins stays finite


def bradley_terry(votes: pd.DataFrame, *, seed: int, draws: int = 500) -> pd.DataFrame:
    """How strong every arm is, the strongest first: arm a beats arm b with probability 1 / (1 + exp(b - a)).

    Per arm "strength" (log odds, mean 0), its 95 % limits "low", "high", "wins" (with half the ties) and "n" votes. The
    interval draws raters and samples, never single votes; it errs on the wide side.
    """
    found = trials(votes)
    require_several(found, "rater", "sample")
    arms, codes = np.unique(found[["arm_left", "arm_right"]].to_numpy(dtype=str), return_inverse=True)
    left, right = codes.reshape(-1, 2).T
    won = np.select([found["choice"] == "left", found["choice"] == "tie"], [1.0, 0.5], 0.0)  # by the left

    def wins(weights: np.ndarray) -> np.ndarray:
        """How often each arm (row) beat each other."""
        table = np.zeros((len(arms), len(arms)))
        np.add.at(table, (left, right), weights * won)
        np.add.at(table, (right, left), weights * (1 - won))
        return table

    def strengths(table: np.ndarray) -> np.ndarray:
        logits: np.ndarray = choix.ilsr_pairwise_dense(table + PRIOR * (1 - np.eye(len(arms))))
        return logits - logits.mean()

    table = wins(np.ones(len(found)))
    n = (table + table.T).sum(axis=1).astype(int)
    drawn = np.array([strengths(wins(r * s)) for r, s in _two_way_draws(found, seed=seed, draws=draws)])
    fitted = [
        percentile_interval(drawn[:, arm], estimate=strength, level=0.95, n=int(n[arm])).as_dict()
        for arm, strength in enumerate(strengths(table))
    ]
    result = pd.DataFrame(fitted, index=pd.Index(arms, name="arm")).rename(columns={"mean": "strength"})
    result.insert(3, "wins", table.sum(axis=1))
    return result.sort_values("strength", ascending=False, kind="stable")


def counted(
    votes: pd.DataFrame, arms: tuple[str, str], rule: Exclusion | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials and repeats of the two arms and of the raters whom the `rule` keeps, and who is left out and why."""
    kept, left_out = exclude(votes, rule or Exclusion())
    own = kept[kept["arm_left"].isin(arms) & kept["arm_right"].isin(arms) & ~kept["is_attention"]]
    if own.empty:
        raise VotesError(f"The votes table holds no trial that compares {' with '.join(arms)}.")
    return own.reset_index(drop=True), left_out


def summarise(
    votes: pd.DataFrame, arms: tuple[str, str], *, seed: int, rule: Exclusion | None = None
) -> dict[str, Any]:
    """Everything that needs no scores, of what is `counted` of the first question, as JSON; None where undefined.

    "questions" has the win rates of all questions, "strengths" all arms if more than two; "attention" everybody's.
    """
    votes = validate(votes)
    kept, left_out = counted(votes, arms, rule)
    first = kept[kept["question"] == questions(kept)[0]]
    found, attention = trials(first, arms), attention_pass_rate(votes)
    every = votes[~votes["rater"].isin(left_out["rater"]) & (votes["question"] == questions(kept)[0])]
    every = every[~every["is_attention"]]
    several = every[["arm_left", "arm_right"]].stack().nunique() > 2
    per_sample = counts(first, arms).reset_index()
    left, repeated = side_bias(first, seed=seed), repeat_consistency(first, seed=seed)
    alpha, alike = rater_agreement(first, seed=seed)
    return {
        "source": found["source"].iloc[0],
        "question": found["question"].iloc[0],
        "arms": list(arms),
        "raters": int(found["rater"].nunique()),
        "left_out": left_out.to_dict(orient="records"),
        "votes": len(found),
        "samples": per_sample.astype(object).where(per_sample.notna(), None).to_dict(orient="records"),
        "win_rate": win_rate(first, arms).as_dict(),
        "questions": win_rates(kept, arms).reset_index().to_dict(orient="records"),
        "strengths": bradley_terry(every, seed=seed).reset_index().to_dict(orient="records") if several else None,
        "side_bias": left and left.as_dict(),
        "consistency": repeated and repeated.as_dict(),
        "attention": {"passed": int(attention["passed"].sum()), "n": int(attention["n"].sum())},
        "alpha": alpha and alpha.as_dict(),
        "agreement": alike,
        "themes": themes(first, arms).reset_index().to_dict(orient="records"),
        "tags": tag_counts(first, arms).reset_index().to_dict(orient="records"),
    }


# A comment carries a theme if a word in it starts with one of the theme's stems; it may carry several.
THEMES: Mapping[str, str] = {
    "subject": "subject object shape outline identity person face disappear dissolv melt",
    "background": "background scene surround backdrop photo setting landscape",
    "motion": "motion mov camera static frozen jitter speed direction",
    "colour": "colour color tint fade bright dark",
    "sharpness": "blur sharp smear detail noise noisy artefact artifact flicker",
    "no difference": "neither same similar identical equal",
}


def tag_counts(votes: pd.DataFrame, arms: tuple[str, str]) -> pd.DataFrame:
    """Per tag, the most frequent first: in how many "trials" it was given, and with which choices."""
    found = trials(votes, arms)
    given = found.assign(tag=found["tags"].str.split()).explode("tag").dropna(subset="tag")
    table = _choices(given, "tag", arms)
    table.insert(0, "trials", table.sum(axis=1))
    return table.sort_values("trials", ascending=False, kind="stable")


def themes(votes: pd.DataFrame, arms: tuple[str, str]) -> pd.DataFrame:
    """Per theme of `THEMES`: "comments", their "share" of all, and how many came with each choice."""
    written = _commented(trials(votes, arms))
    stems = {theme: re.compile(rf"\b(?:{words.replace(' ', '|')})", re.IGNORECASE) for theme, words in THEMES.items()}
    carried = [[theme for theme, stem in stems.items() if stem.search(text)] for text in written["feedback"]]
    about = written.assign(theme=pd.Series(carried, written.index, dtype=object)).explode("theme")
    table = _choices(about.dropna(subset="theme"), "theme", arms).reindex(list(THEMES), fill_value=0)
    table.insert(0, "comments", table.sum(axis=1))
    table.insert(1, "share", table["comments"] / max(1, len(written)))
    return table.rename_axis("theme")


def frequent_terms(votes: pd.DataFrame, *, top: int = 20) -> pd.Series:
    """The `top` words and word pairs by the number of comments they occur in, without English stop words."""
    comments = _commented(trials(votes))["feedback"].tolist()
    words = r"(?u)\b[^\W\d_]{3,}\b"
    vectorizer = CountVectorizer(stop_words="english", ngram_range=(1, 2), binary=True, token_pattern=words)
    try:
        occurrences = vectorizer.fit_transform(comments)
    except ValueError:  # scikit-learn's "empty vocabulary"
        return pd.Series(dtype=int, name="comments")
    in_comments = np.asarray(occurrences.sum(axis=0)).ravel()
    terms = pd.Series(in_comments, vectorizer.get_feature_names_out(), name="comments").rename_axis("term")
    return terms.sort_index().sort_values(ascending=False, kind="stable").head(top)


def quotes(votes: pd.DataFrame, *, seed: int, count: int = 6) -> pd.DataFrame:
    """At most half of the comments (the whole of them is not published), with their sample and what was preferred."""
    written = _commented(trials(votes))
    drawn = written.sample(min(count, len(written) // 2), random_state=seed)
    return drawn[["sample", "preferred", "feedback"]].reset_index(drop=True)


def _commented(found: pd.DataFrame) -> pd.DataFrame:
    found = found.assign(feedback=found["feedback"].str.strip())
    return found[found["feedback"] != ""]

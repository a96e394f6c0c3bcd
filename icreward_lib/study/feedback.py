"""What people wrote: tags, themes, frequent terms and a few quotes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from icreward_lib.study.votes import trials

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
    table = pd.crosstab(given["tag"], given["preferred"]).reindex(columns=[*arms, "tie"], fill_value=0)
    table = table.rename_axis(columns=None)
    table.insert(0, "trials", table.sum(axis=1))
    return table.sort_values("trials", ascending=False, kind="stable")


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


def quotes(votes: pd.DataFrame, *, seed: int, count: int = 6) -> pd.DataFrame:
    """Comments drawn by `seed`, with their sample and what was preferred, without the rater.

    At most half of them: to be quoted is an example, to be published whole is not what a rater wrote for.
    """
    written = _written(votes)
    drawn = written.sample(min(count, len(written) // 2), random_state=seed)
    return drawn[["sample", "preferred", "feedback"]].reset_index(drop=True)


def _written(votes: pd.DataFrame, arms: tuple[str, str] | None = None) -> pd.DataFrame:
    found = trials(votes, arms)
    found["feedback"] = found["feedback"].str.strip()
    return found[found["feedback"] != ""]

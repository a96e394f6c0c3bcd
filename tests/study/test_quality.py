"""How carefully people voted, whom the rule leaves out, several arms, and what they wrote."""

import choix
import numpy as np
import pytest
from support.few_votes import ARMS, SMALL, votes, with_more

from icreward_lib.study.analysis import bradley_terry, counts, frequent_terms, quotes, tag_counts, themes
from icreward_lib.study.votes import (
    Exclusion,
    VotesError,
    attention_pass_rate,
    exclude,
    per_rater,
    repeat_consistency,
    side_bias,
)


def test_side_bias_by_hand():
    assert side_bias(SMALL, seed=0).mean == pytest.approx(3 / 5)
    assert side_bias(SMALL.assign(choice="tie"), seed=0) is None


def test_attention_by_hand():
    table = with_more(
        "r1 a icreward corrupted left attention", "r1 b corrupted mlp left attention",
        "r1 c mlp mlp tie attention", "r2 a mlp mlp left attention",
    )  # fmt: skip
    passed = attention_pass_rate(table)
    assert passed.loc["r1"].tolist() == pytest.approx([2, 3, 2 / 3])
    assert passed.loc["r2", "rate"] == 0
    assert counts(table, ARMS).equals(counts(SMALL, ARMS))  # checks are no votes


def test_consistency_by_hand():
    table = with_more("r1 a mlp icreward right repeat", "r2 b icreward mlp right repeat")  # same arm; the other arm
    assert repeat_consistency(table, seed=0).mean == 0.5
    assert repeat_consistency(SMALL, seed=0) is None
    assert per_rater(table)["repeats_alike"].fillna(-1).to_dict() == {"r1": 1, "r2": 0, "r3": -1}


def test_the_exclusion_rule_says_who_is_left_out_and_why():
    table = with_more("r1 a mlp mlp left attention", "r2 a mlp mlp tie attention").assign(
        shown_at="2026-01-01T10:00:00Z", answered_at="2026-01-01T10:00:08+00:00"
    )
    table.loc[table["rater"] == "r3", "answered_at"] = "2026-01-01T10:00:01Z"
    kept, left_out = exclude(table, Exclusion(min_attention_passed=0.5, min_median_seconds=2.0))
    assert set(kept["rater"]) == {"r2"}
    assert left_out["rater"].tolist() == ["r1", "r3"]
    assert left_out["why"].tolist() == ["attention_passed 0 < 0.5", "median_seconds 1 < 2"]
    assert exclude(SMALL, Exclusion(min_trials=2))[
        1
    ].empty  # what was not measured, or just suffices, leaves nobody out
    with pytest.raises(VotesError, match="leaves out all 3 raters, the first for trials 2 < 3"):
        exclude(SMALL, Exclusion(min_trials=3))
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Exclusion(min_attention_passed=1.5)


def test_bradley_terry_by_hand():
    """Of two arms the strengths differ by the logit of the share, with half a vote more on each side."""
    table = bradley_terry(SMALL, seed=0, draws=50)
    assert table.index.tolist() == ["icreward", "mlp"]
    assert table["wins"].tolist() == [3.5, 2.5] and table["n"].tolist() == [6, 6]
    assert table["strength"].to_numpy() == pytest.approx(np.array([0.5, -0.5]) * np.log(4 / 3))
    assert ((table["low"] <= table["strength"]) & (table["strength"] <= table["high"])).all()


def test_bradley_terry_finds_the_strengths_of_several_arms():
    """Simulated by the model itself; choix's own estimate from single comparisons is the reference."""
    strengths = {"oracle": 1.0, "icreward": 0.3, "mlp": -0.3, "random": -1.0}
    rng, rows, single = np.random.default_rng(0), [], []
    names = list(strengths)
    for rater, sample in np.ndindex(12, 30):
        left, right = (names[i] for i in rng.permutation(4)[:2])
        won = rng.random() < 1 / (1 + np.exp(strengths[right] - strengths[left]))
        rows.append(f"r{rater} s{sample} {left} {right} {'left' if won else 'right'}")
        single.append((left, right) if won else (right, left))
    table = votes(*rows)
    found = bradley_terry(table.assign(pair=table.index), seed=0, draws=100)
    assert found.index.tolist() == names
    assert all(found.loc[n, "low"] < value < found.loc[n, "high"] for n, value in strengths.items())
    reference = choix.opt_pairwise(4, [(names.index(better), names.index(worse)) for better, worse in single])
    assert found.loc[names, "strength"].to_numpy() == pytest.approx(reference - reference.mean(), abs=0.03)


def test_an_arm_that_always_wins_stays_finite():
    table = votes(*(f"r{r} s{s} icreward mlp left" for r, s in np.ndindex(3, 3)))
    assert np.isfinite(bradley_terry(table, seed=0, draws=20)[["strength", "low", "high"]]).all(axis=None)
    with pytest.raises(VotesError, match="one rater"):
        bradley_terry(table.iloc[:3], seed=0)


def test_themes_by_hand():
    texts = [
        "The object melts.",
        "Subject and BACKGROUND differ",
        "",
        "both look the same",
        "nice",
        "no motion at all",
    ]
    table = themes(SMALL.assign(feedback=texts), ARMS)
    assert table["comments"].to_dict() == {
        "subject": 2, "background": 1, "motion": 1, "colour": 0, "sharpness": 0, "no difference": 1,
    }  # fmt: skip
    assert table.loc["subject", "share"] == pytest.approx(2 / 5)
    assert table.loc["subject", ["icreward", "mlp", "tie"]].tolist() == [2, 0, 0]
    assert table.loc["no difference", "tie"] == 1
    assert (themes(SMALL, ARMS)["comments"] == 0).all()


def test_tags_by_hand():
    table = tag_counts(SMALL.assign(tags=["subject motion", "subject", "", " motion  subject", "", ""]), ARMS)
    assert table["trials"].to_dict() == {"subject": 3, "motion": 2}
    assert table.loc["subject", ["icreward", "mlp", "tie"]].tolist() == [2, 0, 1]
    assert tag_counts(SMALL, ARMS).empty


def test_quotes_are_few_fixed_and_nameless():
    written = SMALL.assign(feedback=["one", "two", "", "four", "five", " "])
    found = quotes(written, seed=1)
    assert len(found) == 2 and list(found.columns) == ["sample", "preferred", "feedback"]  # half of four
    assert found.equals(quotes(written, seed=1)) and not found.equals(quotes(written, seed=2))
    assert len(quotes(written, seed=1, count=1)) == 1 and quotes(SMALL, seed=1).empty


def test_frequent_terms_count_comments():
    texts = ["drift drift drift", "the drift", "", "background", "background drift", ""]
    terms = frequent_terms(SMALL.assign(feedback=texts), top=2)
    assert terms.to_dict() == {"drift": 3, "background": 2}
    assert frequent_terms(SMALL).empty and frequent_terms(SMALL.assign(feedback="the")).empty

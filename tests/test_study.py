"""The analysis of votes, by hand and against simulated raters with known habits."""

import json
from dataclasses import replace

import choix
import numpy as np
import pandas as pd
import pytest

from icreward_lib.study.analysis import agreement, counts, summarise, win_rate, win_rates
from icreward_lib.study.feedback import frequent_terms, quotes, tag_counts, themes
from icreward_lib.study.quality import (
    Exclusion,
    attention_pass_rate,
    consistency,
    exclude,
    per_rater,
    side_bias,
)
from icreward_lib.study.ranking import bradley_terry
from icreward_lib.study.simulate import FIDELITIES, RaterModel, simulate_votes
from icreward_lib.study.votes import COLUMNS, EXPORT, VotesError, read_votes, trials, validate, write_votes

ARMS = ("icreward", "mlp")
QUIET = RaterModel(noise=0.0, noise_spread=0.0, side_bias=0.0, side_bias_spread=0.0, lapse=0.0, feedback=0.0)


def votes(*rows: str) -> pd.DataFrame:
    """Rows as "rater sample arm_left arm_right choice [trial|attention|repeat] [question]"; a pair is its sample."""
    table = []
    for number, row in enumerate(rows):
        rater, sample, left, right, choice, *more = row.split()
        kind, question = (*more, *("trial", "consistency")[len(more) :])
        flags = (kind == "attention", kind == "repeat")
        table.append((rater, number, sample, sample, left, right, choice, question, *flags, "", "", "", ""))
    return pd.DataFrame(table, columns=EXPORT)


SMALL = votes(
    "r1 a icreward mlp left",
    "r2 a mlp icreward right",
    "r3 a icreward mlp right",
    "r1 b mlp icreward tie",
    "r2 b icreward mlp left",
    "r3 b mlp icreward left",
)


def with_more(*rows: str) -> pd.DataFrame:
    """`SMALL` and some attention items or repeats."""
    return pd.concat([SMALL, votes(*rows).assign(trial=range(10, 10 + len(rows)))])


def truth(gap: float = 0.0, samples: int = 30, *, seed: int = 0) -> pd.DataFrame:
    """Both arms around 0.6; the first is better by `gap` in everything."""
    rng = np.random.default_rng(seed)
    rows = []
    for sample in range(samples):
        base = rng.uniform(0.5, 0.7, size=3)
        for arm, shift in (("icreward", gap / 2), ("mlp", -gap / 2)):
            rows.append({"sample": f"s{sample}", "arm": arm, **dict(zip(FIDELITIES, base + shift, strict=True))})
    return pd.DataFrame(rows)


def with_arms_swapped(table: pd.DataFrame) -> pd.DataFrame:
    swap = dict(zip(ARMS, ARMS[::-1], strict=True))
    return table.assign(arm_left=table["arm_left"].replace(swap), arm_right=table["arm_right"].replace(swap))


# The table


def test_round_trip_through_csv(tmp_path):
    table = SMALL.assign(rater=["007", "2", "3"] * 2, feedback=['é, "quoted"', "", "a\nb", "", "None", ""], more="kept")
    write_votes(tmp_path / "votes.csv", table)
    assert read_votes(tmp_path / "votes.csv").equals(validate(table))
    assert [p.name for p in tmp_path.iterdir()] == ["votes.csv"]


def test_an_export_gets_the_ids_of_its_videos_and_its_source():
    table = validate(SMALL.assign(is_repeat=["0"] * 6, is_attention=["false", "False", "0"] * 2))
    assert list(table.columns) == list(COLUMNS) and table["is_repeat"].dtype == bool
    assert table["left"].tolist()[:2] == ["a/icreward", "a/mlp"] and (table["source"] == "people").all()
    assert validate(table.drop(columns=["left", "right", "source"])).equals(table)


def test_raters_whom_nobody_invited_are_refused(tmp_path):
    write_votes(tmp_path / "votes.csv", SMALL)
    assert len(read_votes(tmp_path / "votes.csv", raters=["r1", "r2", "r3"])) == 6
    with pytest.raises(VotesError, match="Row 4 .*this sample is not one of the 1 of the study"):
        validate(SMALL, samples=["a"])
    with pytest.raises(
        VotesError, match=r"Row 2 .*\(rater r2, sample a\): this rater is not one of the 2 of the study\."
    ):
        read_votes(tmp_path / "votes.csv", raters=["r1", "r3"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (SMALL.drop(columns="choice"), "lacks the column.*choice"),
        (SMALL.iloc[:0], "no rows: nobody has voted"),
        (SMALL.assign(choice="A"), "Row 1 .*rater r1, sample a.*'choice' must be one of left, right, tie"),
        (SMALL.assign(is_repeat="maybe"), "Row 1 .*'is_repeat' must be true or false"),
        (SMALL.assign(rater=["r1", " ", "r3", "r1", "r2", "r3"]), "Row 2 .*'rater' is empty"),
        (SMALL.assign(rater=["r1", None, "r3", "r1", "r2", "r3"]), "Row 2 .*'rater' is empty"),
        (SMALL.assign(answered_at="noon"), "Row 1 .*'answered_at' is no ISO 8601 time"),
        (SMALL.assign(arm_left="mlp", arm_right="mlp"), "same arm"),
        (SMALL.assign(arm_left="corrupted", arm_right="mlp"), "only an attention item"),
        (SMALL.assign(is_attention=True, is_repeat=True), "not both"),
        (SMALL.assign(rater="r1", trial=3), "Row 2 .*another row with this trial"),
        (pd.concat([SMALL, SMALL.iloc[[4]].assign(trial=9)]), "Row 7 .*rater r2, sample b.*already has a trial"),
        (votes("r1 a icreward mlp left repeat"), "no trial by the same rater"),
        (votes("r1 a icreward mlp left attention"), "attention item needs"),
        (SMALL.assign(source=["people"] * 5 + ["simulated"]), "Row 6 .*must not be in one table"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(table, message):
    with pytest.raises(VotesError, match=message) as error:
        validate(table)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("analyse", "table", "message"),
    [
        (win_rate, SMALL[SMALL["rater"] == "r1"], r"All votes are of one rater \(r1\)"),
        (win_rate, SMALL[SMALL["sample"] == "a"], r"All votes are of one sample \(a\)"),
        (counts, votes("r1 a mlp mlp tie attention"), "attention items only"),
        (counts, votes("r1 a icreward mlp tie", "r1 a icreward mlp tie trial motion"), "consistency, motion"),
        (summarise, SMALL.assign(is_attention=[False] * 5 + [True], arm_right="corrupted"), "only an attention"),
    ],
)
def test_votes_that_do_not_suffice_are_refused_in_one_sentence(analyse, table, message):
    with pytest.raises(VotesError, match=message) as error:
        analyse(table, ARMS, **({"seed": 0} if analyse is summarise else {}))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_other_arms_and_no_csv_are_refused(tmp_path):
    with pytest.raises(VotesError, match="Row 1 .*does not compare icreward with oracle"):
        counts(SMALL, ("icreward", "oracle"))
    (tmp_path / "votes.csv").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(VotesError, match="votes.csv is not a CSV table"):
        read_votes(tmp_path / "votes.csv")


# By hand


def test_counts_by_hand():
    table = counts(SMALL, ARMS)
    assert table.loc["a", ["icreward", "mlp", "tie", "n"]].tolist() == [2, 1, 0, 3]
    assert table.loc["b", ["icreward", "mlp", "tie", "n"]].tolist() == [1, 1, 1, 3]
    assert table.loc["a", "share"] == pytest.approx(2 / 3)
    # Wilson: (2/3 + z²/6 ± z sqrt((2/9)/3 + z²/36)) / (1 + z²/3), z = 1.96
    assert table.loc["a", ["low", "high"]].tolist() == pytest.approx([0.2077, 0.9385], abs=1e-4)
    assert table.loc["a", "p"] == pytest.approx(1.0)
    all_ties = counts(SMALL.assign(choice="tie"), ARMS)
    assert all_ties["share"].isna().all() and (all_ties["p"] == 1).all() and (all_ties["high"] == 1).all()


def test_exact_test_by_hand():
    table = counts(votes(*(f"r{i} a icreward mlp left" for i in range(6))), ARMS)
    assert table.loc["a", "p"] == pytest.approx(2 / 2**6)


def test_win_rate_by_hand():
    interval = win_rate(SMALL, ARMS)
    assert interval.mean == pytest.approx(3.5 / 6)
    assert 0 <= interval.low < interval.mean < interval.high <= 1


def test_every_question_has_its_win_rate():
    table = win_rates(pd.concat([SMALL, SMALL.assign(question="motion", trial=range(6, 12), choice="tie")]), ARMS)
    assert table["mean"].to_dict() == pytest.approx({"consistency": 3.5 / 6, "motion": 0.5})
    assert table.loc["consistency"].to_dict() == win_rate(SMALL, ARMS).as_dict()


def test_agreement_by_hand():
    # Sample a: 1 of 3 rater pairs agrees; sample b: none of 3.
    found = agreement(SMALL, seed=0)
    assert found.alike == pytest.approx(1 / 6)
    # Krippendorff's alpha = 1 - (n - 1) * disagreeing / expected, over coincidences of 6 answers (3, 2, 1).
    observed, expected = 2 * (2 / 2) + 2 * (3 / 2), 6 * 6 - (3**2 + 2**2 + 1)
    assert found.alpha.mean == pytest.approx(1 - 5 * observed / expected)
    assert found.alpha.low <= found.alpha.mean <= found.alpha.high
    unanimous = votes(
        "r1 a icreward mlp left",
        "r2 a mlp icreward right",
        "r1 b icreward mlp right",
        "r2 b mlp icreward left",
    )
    sure = agreement(unanimous, seed=0)
    assert (sure.alpha.mean, sure.alpha.low, sure.alpha.high, sure.alike) == pytest.approx((1, 1, 1, 1))
    assert agreement(unanimous.iloc[:2], seed=0) == (None, 1.0)
    assert agreement(unanimous.iloc[[0, 3]], seed=0) == (None, None)


@pytest.mark.property
def test_the_interval_of_alpha_covers_what_many_raters_and_samples_would_show():
    """Raters who share a taste for a sample to a known degree, whose alpha is known from a large study."""

    def study(raters: int, samples: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        won = rng.random((raters, samples)) < rng.choice([0.2, 0.8], samples)
        rows = [f"r{r} s{s} icreward mlp {'left' if won[r, s] else 'right'}" for r, s in np.ndindex(raters, samples)]
        return votes(*rows)

    truth = agreement(study(60, 300, 0), seed=0, draws=2).alpha.mean
    assert truth == pytest.approx(0.36, abs=0.05)  # 1 - 0.32 / 0.5
    found = [agreement(study(8, 25, 1 + n), seed=n, draws=150).alpha for n in range(60)]
    assert sum(each.low <= truth <= each.high for each in found) >= 52


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
    assert consistency(table, seed=0).mean == 0.5
    assert consistency(SMALL, seed=0) is None
    assert per_rater(table)["repeats"].fillna(-1).to_dict() == {"r1": 1, "r2": 0, "r3": -1}


def test_the_exclusion_rule_says_who_is_left_out_and_why():
    table = with_more("r1 a mlp mlp left attention", "r2 a mlp mlp tie attention").assign(
        shown_at="2026-01-01T10:00:00Z", answered_at="2026-01-01T10:00:08+00:00"
    )
    table.loc[table["rater"] == "r3", "answered_at"] = "2026-01-01T10:00:01Z"
    kept, left_out = exclude(table, Exclusion(attention=0.5, seconds=2.0))
    assert set(kept["rater"]) == {"r2"}
    assert left_out["rater"].tolist() == ["r1", "r3"]
    assert left_out["why"].tolist() == ["attention 0 < 0.5", "seconds 1 < 2"]
    assert exclude(SMALL, Exclusion())[1].empty  # what was not measured leaves nobody out
    with pytest.raises(VotesError, match="leaves out all 3 raters, the first for trials 2 < 3"):
        exclude(SMALL, Exclusion(trials=3))
    with pytest.raises(ValueError, match="shares"):
        Exclusion(attention=1.5)


def test_a_summary_of_several_arms_and_questions_is_about_the_two_and_the_first():
    others = votes("r1 c random mlp right", "r2 c random icreward right", "r3 c random mlp right")
    motion = SMALL.assign(question="motion", trial=range(20, 26), choice="tie")
    summary = summarise(pd.concat([SMALL, others.assign(trial=range(10, 13)), motion]), ARMS, seed=0)
    alone = summarise(SMALL, ARMS, seed=0)
    assert [entry["question"] for entry in summary["questions"]] == ["consistency", "motion"]
    assert [entry["arm"] for entry in summary["strengths"]][-1] == "random" and alone["strengths"] is None
    changed = {name for name in alone if summary[name] != alone[name]}
    assert changed == {"questions", "strengths"}
    with pytest.raises(VotesError, match="no trial that compares icreward with oracle"):
        summarise(SMALL, ("icreward", "oracle"), seed=0)


def test_a_summary_leaves_out_whom_the_rule_leaves_out():
    table = with_more("r1 a mlp mlp left attention", "r2 a mlp mlp tie attention")
    summary = summarise(table, ARMS, seed=0)
    assert summary["raters"] == 2 and summary["votes"] == 4
    assert summary["left_out"] == [{"rater": "r1", "why": "attention 0 < 0.5"}]
    assert summary["attention"] == {"passed": 1, "n": 2}  # of everybody


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
    table = tag_counts(SMALL.assign(tags=["subject;motion", "subject", "", " motion ; subject", "", ""]), ARMS)
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


@pytest.mark.property
def test_swapping_the_arms_flips_the_counts():
    table = simulate_votes(truth(0.05), ARMS, seed=3)
    here, there = counts(table, ARMS), counts(with_arms_swapped(table), ARMS)
    assert here["icreward"].sum() != here["mlp"].sum()
    assert here["icreward"].equals(there["mlp"].rename("icreward")) and here["tie"].equals(there["tie"])
    a, b = win_rate(table, ARMS), win_rate(with_arms_swapped(table), ARMS)
    assert (a.mean, a.low, a.high) == pytest.approx((1 - b.mean, 1 - b.high, 1 - b.low))


# Simulated raters


def test_simulated_votes_are_marked_seeded_and_balanced():
    table = simulate_votes(truth(0.05), ARMS, seed=1)
    assert (table["source"] == "simulated").all()
    assert table.equals(simulate_votes(truth(0.05), ARMS, seed=1))
    assert not table.equals(simulate_votes(truth(0.05), ARMS, seed=2))
    own = trials(table)
    assert len(own) == 20 * 30 and not own.duplicated(["rater", "sample"]).any()
    left = (own["arm_left"] == "icreward").groupby(own["sample"]).sum()
    assert (left == 10).all()  # half of the raters see each pair each way round
    assert (table.groupby("rater").size() == 30 + 4 + 3).all()


def test_no_true_difference_gives_even_votes():
    summary = summarise(simulate_votes(truth(0.0, 60), ARMS, seed=5), ARMS, seed=0)
    assert abs(summary["win_rate"]["mean"] - 0.5) < 0.03
    assert summary["win_rate"]["low"] < 0.5 < summary["win_rate"]["high"]


def test_the_truer_arm_wins():
    assert win_rate(simulate_votes(truth(0.1), ARMS, seed=0, model=QUIET), ARMS).mean == 1.0
    assert win_rate(simulate_votes(truth(-0.1), ARMS, seed=0, model=QUIET), ARMS).mean == 0.0
    rates = [win_rate(simulate_votes(truth(gap), ARMS, seed=0), ARMS).mean for gap in (0.0, 0.03, 0.1)]
    assert rates == sorted(rates) and 0.5 < rates[1] < rates[2] <= 1.0


def test_the_raters_weights_decide():
    only_motion = truth(0.0).assign(**{FIDELITIES[2]: lambda t: np.where(t["arm"] == "mlp", 0.9, 0.1)})
    cares = replace(QUIET, weights=(0.05, 0.05, 0.9), concentration=1000.0)
    careless = replace(QUIET, weights=(0.5, 0.49, 0.01), concentration=1000.0, tie_width=0.1)
    assert win_rate(simulate_votes(only_motion, ARMS, seed=0, model=cares), ARMS).mean == 0.0
    assert (simulate_votes(only_motion, ARMS, seed=0, model=careless).pipe(trials)["choice"] == "tie").all()


def test_side_bias_is_recovered():
    leaning = replace(RaterModel(), side_bias=0.05, side_bias_spread=0.0)
    biased = side_bias(simulate_votes(truth(), ARMS, seed=2, model=leaning), seed=0)
    fair = side_bias(simulate_votes(truth(), ARMS, seed=2, model=replace(leaning, side_bias=0.0)), seed=0)
    assert biased.low > 0.55 and fair.low < 0.5 < fair.high
    assert win_rate(simulate_votes(truth(), ARMS, seed=2, model=leaning), ARMS).mean == pytest.approx(0.5, abs=0.05)


def test_lapses_and_attention():
    asleep = attention_pass_rate(simulate_votes(truth(), ARMS, seed=0, model=replace(QUIET, lapse=1.0)))
    awake = attention_pass_rate(simulate_votes(truth(), ARMS, seed=0, model=QUIET))
    usual = attention_pass_rate(simulate_votes(truth(), ARMS, seed=0))
    assert (awake["rate"] == 1).all() and asleep["rate"].mean() < 0.4 and usual["rate"].mean() > 0.8
    assert (awake["n"] == 4).all()
    assert consistency(simulate_votes(truth(0.1), ARMS, seed=0, model=QUIET), seed=0).mean == 1.0


def test_written_feedback_names_what_differed():
    worse_background = truth(0.0).assign(**{FIDELITIES[1]: lambda t: np.where(t["arm"] == "mlp", 0.5, 0.9)})
    table = simulate_votes(worse_background, ARMS, seed=0, model=replace(QUIET, feedback=1.0))
    written = trials(table)
    assert (written["feedback"] != "").all() and written["feedback"].nunique() > 5
    assert set(written["tags"]) <= {"background", ""} and (written["tags"] != "").mean() > 0.9
    found = themes(table, ARMS)
    assert found.loc["background", "share"] > 0.95 and found.loc["background", "icreward"] == len(written)
    assert found.drop(index=["background", "sharpness"])["share"].max() < 0.05
    assert not written["feedback"].str.contains("icreward|mlp|{", regex=True).any()  # raters know sides, not arms
    poor = truth(0.1).assign(**{FIDELITIES[2]: 0.1})
    assert simulate_votes(poor, ARMS, seed=0)["feedback"].str.contains("Neither video has").any()


def test_summary_is_json_and_says_simulated():
    summary = summarise(simulate_votes(truth(0.05), ARMS, seed=1), ARMS, seed=0)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["source"] == "simulated" and summary["raters"] == 20 and summary["votes"] == 600
    assert summary["attention"]["n"] == 80 and len(summary["samples"]) == 30
    bare = summarise(SMALL.assign(choice="tie"), ARMS, seed=0)
    assert bare["source"] == "people" and bare["side_bias"] is None and bare["samples"][0]["share"] is None
    json.dumps(bare, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=FIDELITIES[0]), "lacks the column.*subject_fidelity"),
        (lambda t: t.assign(**{FIDELITIES[0]: 1.2}), r"in \[0, 1\]"),
        (lambda t: t.assign(**{FIDELITIES[0]: np.nan}), r"in \[0, 1\]"),
        (lambda t: t.iloc[:-1], "no row for sample s29, arm 'mlp'"),
        (lambda t: pd.concat([t, t.iloc[[0]]]), "two rows"),
        (lambda t: t.assign(arm="other"), "no rows for the arms"),
    ],
)
def test_bad_truth_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_votes(change(truth()), ARMS, seed=0)


@pytest.mark.parametrize("change", [{"raters": 0}, {"weights": (1.0, 1.0, 1.0)}, {"lapse": 2.0}, {"noise": -1.0}])
def test_impossible_raters_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        RaterModel(**change)

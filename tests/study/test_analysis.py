"""The analysis of votes, by hand and against simulated raters with known habits."""

import numpy as np
import pandas as pd
import pytest
from support.few_votes import ARMS, SMALL, votes, with_more

from icreward_lib.study.analysis import counts, rater_agreement, summarise, win_rate, win_rates
from icreward_lib.study.votes import COLUMNS, VotesError, read_votes, validate

# The table


def test_round_trip_through_csv(tmp_path):
    table = SMALL.assign(rater=["007", "2", "3"] * 2, feedback=['é, "quoted"', "", "a\nb", "", "None", ""], more="kept")
    table.to_csv(tmp_path / "votes.csv", index=False)
    assert read_votes(tmp_path / "votes.csv").equals(validate(table))


def test_an_export_gets_the_ids_of_its_videos_and_its_source():
    table = validate(SMALL.assign(is_repeat=["0"] * 6, is_attention=["false", "False", "0"] * 2))
    assert list(table.columns) == list(COLUMNS) and table["is_repeat"].dtype == bool
    assert table["left"].tolist()[:2] == ["a/icreward", "a/mlp"] and (table["source"] == "people").all()
    assert validate(table.drop(columns=["left", "right", "source"])).equals(table)


def test_a_ranking_is_one_trial_with_a_row_for_any_two_of_its_videos():
    rows = votes("r1 a icreward mlp left", "r1 a icreward random left", "r1 a random mlp right")
    assert len(validate(rows.assign(trial=0, pair=["a:1", "a:2", "a:3"]))) == 3


def test_votes_on_samples_of_another_study_are_refused(tmp_path):
    SMALL.to_csv(tmp_path / "votes.csv", index=False)
    assert len(read_votes(tmp_path / "votes.csv", samples=["a", "b"])) == 6
    with pytest.raises(
        VotesError, match=r"Row 4 .*\(rater r1, sample b\): this sample is not one of the 1 of the study"
    ):
        read_votes(tmp_path / "votes.csv", samples=["a"])


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
        (SMALL.assign(rater="r1", trial=3), "Row 2 .*another row with this trial and pair"),
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
    alpha, alike = rater_agreement(SMALL, seed=0)
    assert alike == pytest.approx(1 / 6)
    # Krippendorff's alpha = 1 - (n - 1) * disagreeing / expected, over coincidences of 6 answers (3, 2, 1).
    observed, expected = 2 * (2 / 2) + 2 * (3 / 2), 6 * 6 - (3**2 + 2**2 + 1)
    assert alpha.mean == pytest.approx(1 - 5 * observed / expected)
    assert alpha.low <= alpha.mean <= alpha.high
    unanimous = votes(
        "r1 a icreward mlp left",
        "r2 a mlp icreward right",
        "r1 b icreward mlp right",
        "r2 b mlp icreward left",
    )
    sure, alike = rater_agreement(unanimous, seed=0)
    assert (sure.mean, sure.low, sure.high, alike) == pytest.approx((1, 1, 1, 1))
    assert rater_agreement(unanimous.iloc[:2], seed=0) == (None, 1.0)
    assert rater_agreement(unanimous.iloc[[0, 3]], seed=0) == (None, None)


@pytest.mark.property
@pytest.mark.slow
def test_the_interval_of_alpha_covers_what_many_raters_and_samples_would_show():
    """Raters who share a taste for a sample to a known degree, whose alpha is known from a large study."""

    def study(raters: int, samples: int, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        won = rng.random((raters, samples)) < rng.choice([0.2, 0.8], samples)
        rows = [f"r{r} s{s} icreward mlp {'left' if won[r, s] else 'right'}" for r, s in np.ndindex(raters, samples)]
        return votes(*rows)

    truth = rater_agreement(study(60, 300, 0), seed=0, draws=2)[0].mean
    assert truth == pytest.approx(0.36, abs=0.05)  # 1 - 0.32 / 0.5
    found = [rater_agreement(study(8, 25, 1 + n), seed=n, draws=150)[0] for n in range(60)]
    assert sum(each.low <= truth <= each.high for each in found) >= 52


def test_a_summary_of_several_arms_and_questions_is_about_the_two_and_the_first():
    others = votes("r1 c random mlp right", "r2 c random icreward right", "r3 c random mlp right")
    motion = SMALL.assign(question="motion", trial=range(20, 26), choice="tie")
    summary = summarise(pd.concat([SMALL, others.assign(trial=range(10, 13)), motion]), ARMS, seed=0)
    alone = summarise(SMALL, ARMS, seed=0)
    assert [entry["question"] for entry in summary["questions"]] == ["consistency", "motion"]
    assert [entry["arm"] for entry in summary["strengths"]][-1] == "random" and alone["strengths"] is None
    changed = {name for name in alone if summary[name] != alone[name]}
    assert changed == {"questions", "strengths"}
    # Raters begin with different questions: the strengths are of the one that the summary is about.
    elsewhere = votes("r4 d random mlp right trial motion", "r5 e random mlp right trial motion")
    mixed = summarise(pd.concat([elsewhere, SMALL, others.assign(trial=range(10, 13))]), ARMS, seed=0)
    assert mixed["question"] == "consistency" and mixed["strengths"] == summary["strengths"]
    with pytest.raises(VotesError, match="no trial that compares icreward with oracle"):
        summarise(SMALL, ("icreward", "oracle"), seed=0)


def test_a_summary_leaves_out_whom_the_rule_leaves_out():
    table = with_more("r1 a mlp mlp left attention", "r2 a mlp mlp tie attention")
    summary = summarise(table, ARMS, seed=0)
    assert summary["raters"] == 2 and summary["votes"] == 4
    assert summary["left_out"] == [{"rater": "r1", "why": "attention_passed 0 < 0.5"}]
    assert summary["attention"] == {"passed": 1, "n": 2}  # of everybody

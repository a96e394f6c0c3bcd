"""Preference tables: from votes, from public sets, and how far rewards agree with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.few_votes import SMALL, votes

from icreward_lib.study.preferences import COLUMNS, _tie_threshold, accuracy, check, from_votes, read_preferences
from icreward_lib.study.votes import VotesError


def test_votes_fill_the_table() -> None:
    table = from_votes(pd.concat([SMALL, votes("r1 a mlp icreward left trial motion").assign(trial=9)]))
    assert list(table.columns) == list(COLUMNS)
    assert table.to_numpy().tolist() == [
        ["a", "a/icreward", "a/mlp", "consistency", 2, 1, 0],
        ["b", "b/icreward", "b/mlp", "consistency", 1, 1, 1],
        ["a", "a/icreward", "a/mlp", "motion", 0, 1, 0],
    ]


def test_public_sets_fill_the_table(tmp_path: Path) -> None:
    wide = pd.DataFrame(
        {
            "prompt": "a dog",
            "prompt_asset": ["1.jpg", "2.jpg"],
            "video1": ["1a.mp4", "2a.mp4"],
            "video2": ["1b.mp4", "2b.mp4"],
            "weighted_results1_Preference": [0.7, 0.2],
            "weighted_results2_Preference": [0.3, 0.8],
            "weighted_results1_Coherence": [1.0, 0.5],
            "weighted_results2_Coherence": [0.0, 0.5],
        }
    )
    wide.to_csv(tmp_path / "wide.csv", index=False)
    wide.to_json(tmp_path / "wide.jsonl", orient="records", lines=True)
    table = read_preferences(tmp_path / "wide.csv")
    assert table.equals(read_preferences(tmp_path / "wide.jsonl"))
    assert table.iloc[1].tolist() == ["2.jpg", "2a.mp4", "2b.mp4", "preference", 0.2, 0.8, 0]
    assert table["dimension"].tolist() == ["preference"] * 2 + ["coherence"] * 2
    (tmp_path / "long.csv").write_text("image,video1,video2,votes1,votes2,ties\n1.jpg,a.mp4,b.mp4,7,2,1\n")
    assert read_preferences(tmp_path / "long.csv").to_numpy().tolist() == [
        ["1.jpg", "a.mp4", "b.mp4", "overall", 7, 2, 1]
    ]


GOOD = pd.DataFrame(
    [["a", "1", "2", "overall", 3.0, 1.0, 0.0], ["b", "3", "4", "overall", 0.0, 2.0, 2.0]], columns=COLUMNS
)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.drop(columns="votes2"), "lacks the column.*votes2"),
        (GOOD.assign(video2=["2", "3"]), "Row 2 .*both videos are the same"),
        (GOOD.assign(votes1=[1, -1]), "Row 2 .*numbers from 0"),
        (GOOD.assign(votes1=["many", 1]), "Row 1 .*numbers from 0"),
        (GOOD.assign(reference=["", "b"]), "Row 1 .*an id is missing"),
        (GOOD.assign(votes1=0, votes2=0, ties=0), "holds no votes"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(VotesError, match=message) as error:
        check(table)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{image: 1")
    (tmp_path / "empty.csv").write_text("")
    for name in ("broken.jsonl", "empty.csv"):
        with pytest.raises(VotesError, match=f"{name} is no table of preferences"):
            read_preferences(tmp_path / name)


def test_accuracy_without_ties_by_hand() -> None:
    scores = pd.DataFrame({"good": [0.9, 0.1, 0.2, 0.8], "flat": 0.5}, index=["1", "2", "3", "4"])
    table = accuracy(GOOD, scores.assign(bad=1 - scores["good"]), seed=0).set_index(["reward", "ties"])
    found = table.xs("without", level="ties")
    assert found["accuracy"].to_dict() == pytest.approx({"good": 5 / 6, "flat": 0.5, "bad": 1 / 6})
    assert (found["votes"] == 6).all() and found["best"].to_numpy() == pytest.approx(5 / 6)
    assert (found["low"] <= found["accuracy"]).all() and (found["accuracy"] <= found["high"]).all()
    assert (table.xs("with", level="ties")["votes"] == 8).all()
    assert table.xs("with", level="ties")["best"].to_numpy() == pytest.approx(5 / 8)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (GOOD.assign(votes1=0, votes2=0, ties=1), "All votes are ties"),
        (GOOD.assign(video2=["2", "5"]), r"1 voted video\(s\) have no score, the first is '5'"),
        (GOOD.iloc[:1], r"one reference \(a\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(VotesError, match=message):
        accuracy(table, pd.DataFrame({"reward": 0.5}, index=["1", "2", "3", "4"]), seed=0)


def test_the_tie_threshold_by_hand() -> None:
    gap = np.array([0.1, -0.2, 0.3, -0.4])
    votes = np.array([[1, 0, 5], [2, 1, 4], [4, 0, 0], [0, 4, 1]])
    assert _tie_threshold(gap, votes) == pytest.approx(0.2)
    assert _tie_threshold(gap, votes * [1, 1, 0]) < 0  # without ties: never
    assert _tie_threshold(np.full(4, 0.1), votes * [0, 0, 1]) == pytest.approx(0.1)


def test_a_reward_that_knows_close_pairs_is_better_with_ties() -> None:
    """People call gaps below 0.2 a tie; the threshold is found on other references and makes few errors."""
    rng = np.random.default_rng(0)
    gap = rng.uniform(-1, 1, 200)
    rows = [
        (f"r{n}", f"{n}a", f"{n}b", "overall", float(g > 0.2), float(g < -0.2), float(abs(g) <= 0.2))
        for n, g in enumerate(gap)
    ]
    scores = pd.DataFrame({"knows": gap, "guesses": rng.uniform(-1, 1, 200)}, index=[f"{n}a" for n in range(200)])
    scores = pd.concat([scores, pd.DataFrame(0.0, [f"{n}b" for n in range(200)], scores.columns)])
    found = accuracy(pd.DataFrame(rows, columns=COLUMNS), scores, seed=0).set_index(["reward", "ties"])["accuracy"]
    assert found["knows", "without"] == 1 and found["knows", "with"] > 0.97
    assert 0.35 < found["guesses", "without"] < 0.65 and found["guesses", "with"] < 0.5

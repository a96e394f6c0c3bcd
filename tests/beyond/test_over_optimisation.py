"""The best of n, against drawing all choices of n, and where a judge's liking turns."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from icreward_lib.beyond.over_optimisation import best_of_n, best_of_n_curves, sizes, training_curves, turning_points

SETTINGS = {"seed": 0, "draws": 200, "level": 0.95}


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_best_of_n_is_the_mean_over_all_choices(n: int) -> None:
    rng = np.random.default_rng(1)
    scores, judged = rng.random((2, 6)), rng.random((2, 6))
    every = [np.array(chosen) for chosen in combinations(range(6), n)]
    expected = [np.mean([said[c[own[c].argmax()]] for c in every]) for own, said in zip(scores, judged, strict=True)]
    assert best_of_n(scores, judged, n) == pytest.approx(expected)


def test_equal_scores_share_their_picks() -> None:
    # The best of two is one of the two that lead, or the other one of them: their mean, whatever their order.
    assert best_of_n([[1.0, 1.0, 0.0]], [[0.0, 6.0, 9.0]], 3) == pytest.approx([3.0])
    assert best_of_n([[1.0, 1.0, 1.0]], [[0.0, 6.0, 9.0]], 2) == pytest.approx([5.0])


def test_the_best_of_many_needs_as_many() -> None:
    with pytest.raises(ValueError, match="1 <= n <= 3"):
        best_of_n(np.zeros((1, 3)), np.zeros((1, 3)), 4)
    with pytest.raises(ValueError, match="one shape"):
        best_of_n(np.zeros((1, 3)), np.zeros((2, 3)), 2)


def test_curves_start_at_nothing_and_a_score_likes_its_own_picks_ever_more() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random((5, 16))
    table = best_of_n_curves({"mlp": scores}, {"truth": scores, "against": -scores}, **SETTINGS)
    assert sorted(table["n"].unique()) == sizes(16) == [1, 2, 4, 8, 16]
    by_judge = table.groupby("judge")["mean"]
    own, truth, against = (by_judge.get_group(judge).to_numpy() for judge in ("itself", "truth", "against"))
    assert (np.diff(truth) > 0).all() and truth[0] == pytest.approx(0) and own[-1] > 1
    assert against == pytest.approx(-truth)
    assert truth[-1] == pytest.approx((scores.max(1) - scores.mean(1)).mean())


def test_where_a_judge_turns() -> None:
    scores = np.tile(np.arange(8.0), (4, 1))
    liked = np.tile([0.0, 1, 2, 3, 4, 5, 6, 0], (4, 1))  # the very best is a fraud
    turn = turning_points({"mlp": scores}, {"truth": liked, "fine": scores}, **SETTINGS).set_index("judge")
    found = {n: best_of_n(scores, liked, n).mean() for n in sizes(8)}
    assert turn.loc["truth", "best_n"] == max(found, key=lambda n: found[n]) < 8
    assert turn.loc["truth", "mean"] == pytest.approx(0 - max(found.values())) and turn.loc["truth", "high"] < 0
    assert turn.loc["fine", "best_n"] == 8 and turn.loc["fine", "mean"] == 0


def test_training_is_held_against_its_start_image_by_image() -> None:
    judged = pd.DataFrame({"sample": [0, 1, 0, 1], "step": [0, 0, 5, 5], "truth": [0.2, 0.8, 0.3, 1.0]})
    table = training_curves(judged, ["truth"], **SETTINGS)
    assert table["mean"].tolist() == pytest.approx([0.0, 0.15]) and table["samples"].tolist() == [2, 2]

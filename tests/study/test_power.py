"""How many raters and pairs: the model has the rate that it is asked for, and the test the level that it claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.few_votes import ARMS, votes

from icreward_lib.stats import two_way_clustered, wilson
from icreward_lib.study.analysis import win_rate
from icreward_lib.study.power import Effects, draw_wins, intervals, mean_logit, power, smallest

EFFECTS = Effects()


@pytest.mark.parametrize("rate", [0.5, 0.6, 0.75])
def test_the_model_has_the_win_rate_that_it_is_asked_for(rate: float) -> None:
    wins = draw_wins(1, 1500, 1500, rate, EFFECTS, np.random.default_rng(0))
    assert wins.mean() == pytest.approx(rate, abs=0.02)  # s.d. of the mean over 1500 pairs: 0.006
    assert mean_logit(rate, Effects(0, 0)) == pytest.approx(np.log(rate / (1 - rate)))


def test_effects_make_votes_alike() -> None:
    wins = draw_wins(1, 400, 400, 0.5, EFFECTS, np.random.default_rng(1))[0]
    independent = 0.25 / 400
    assert wins.mean(axis=0).var() > 20 * independent  # of a pair
    assert 3 * independent < wins.mean(axis=1).var() < 20 * independent  # of a rater


@pytest.mark.slow
@pytest.mark.property
@pytest.mark.slow
def test_the_clustered_interval_of_a_study_covers_the_truth_and_the_naive_one_does_not() -> None:
    """200 studies of 15 raters and 40 pairs with a true win rate of 0.6, analysed as votes tables."""
    rng, rate, studies = np.random.default_rng(2), 0.6, 200
    raters, pairs = 15, 40
    table = votes(*(f"r{r} s{p} icreward mlp left" for r, p in np.ndindex(raters, pairs)))
    covered = {"clustered": 0, "naive": 0}
    for _ in range(studies):
        wins = draw_wins(1, raters, pairs, rate, EFFECTS, rng).ravel()
        found = win_rate(table.assign(choice=np.where(wins == 1, "left", "right")), ARMS)
        naive = wilson(int(wins.sum()), len(wins))
        covered["clustered"] += found.low <= rate <= found.high
        covered["naive"] += naive.low <= rate <= naive.high
    assert 0.91 <= covered["clustered"] / studies <= 0.99
    assert covered["naive"] / studies < 0.75


@pytest.mark.parametrize("shape", [(30, 5, 7), (30, 12, 4)])
def test_many_studies_at_once_have_the_interval_of_one(shape: tuple[int, int, int]) -> None:
    wins = draw_wins(*shape, 0.6, EFFECTS, np.random.default_rng(0))
    wins[0] = np.indices(shape[1:]).sum(axis=0) % 2  # raters and pairs alike: the variance is below 0
    rater, pair = (grid.ravel() for grid in np.indices(shape[1:]))
    for study, low, high in zip(wins, *intervals(wins), strict=True):
        one = two_way_clustered(study.ravel(), rater, pair)
        assert (max(0, low), min(1, high)) == pytest.approx((one.low, one.high))


@pytest.mark.slow
def test_power_grows_with_raters_pairs_and_rate_and_keeps_its_level() -> None:
    def found(raters: int, pairs: int, rate: float) -> dict[str, float]:
        return power(raters, pairs, rate, effects=EFFECTS, studies=400, seed=3)

    small = found(10, 25, 0.6)
    assert small["low"] < small["power"] < small["high"] and small == found(10, 25, 0.6)
    assert small["power"] < found(20, 100, 0.6)["power"] < found(20, 100, 0.75)["power"] == 1
    assert found(20, 50, 0.5)["power"] < 0.1
    # An independent simulation of the same model: 0.62 to 0.71 with s.d. 1.0 to 1.5 over pairs.
    assert 0.5 < found(20, 50, 0.6)["power"] < 0.8


def test_the_smallest_study_that_suffices() -> None:
    rows = [(10, 50, 0.6, 0.5), (10, 100, 0.6, 0.7), (20, 100, 0.6, 0.85), (20, 50, 0.6, 0.81), (20, 25, 0.65, 0.9)]
    table = pd.DataFrame(rows, columns=["raters", "pairs", "rate", "power"]).assign(low=0.4, high=0.9)
    assert smallest(table, rate=0.6).to_numpy().tolist() == [[20, 50, 0.81, 0.4, 0.9]]
    assert smallest(table, rate=0.55).empty

"""Intervals: known values, coverage, and seeds that really fix and change the draws."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from icreward_lib.metrics.fvd import frechet_distance
from icreward_lib.stats import (
    Interval,
    binomial_test,
    bootstrap,
    bootstrap_mean,
    bootstrap_share,
    paired_difference,
    spearman,
    spearman_within,
    two_way_clustered,
    wilson,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def makers(rng: np.random.Generator):
    """Every function that draws, as seed -> Interval."""
    x, y = rng.normal(size=40), rng.normal(size=40)
    groups = np.repeat(np.arange(8), 5)
    return {
        "mean": lambda seed: bootstrap_mean(x, clusters=groups, seed=seed),
        "paired": lambda seed: paired_difference(x, y, seed=seed),
        "statistic": lambda seed: bootstrap(lambda i: float(np.median(x[i])), np.arange(40), seed=seed, draws=200),
        "spearman": lambda seed: spearman(x, y, clusters=groups, seed=seed, draws=200),
        "within": lambda seed: spearman_within(x, y, groups, seed=seed),
    }


@pytest.mark.property
@pytest.mark.parametrize("name", ["mean", "paired", "statistic", "spearman", "within"])
def test_seed_fixes_and_changes_the_draws(rng: np.random.Generator, name: str) -> None:
    make = makers(rng)[name]
    first = make(1)
    np.random.seed(5)  # a global seed must play no part
    assert make(1) == first
    other = make(2)
    assert (other.low, other.high) != (first.low, first.high)
    assert other.mean == first.mean


def test_an_interval_as_text() -> None:
    assert str(Interval(0.5412, -0.5, 1.0, 3)) == "0.541 [-0.500, 1.000]"
    assert f"{Interval(0.5412, -0.5, 1.0, 3):.1f}" == "0.5 [-0.5, 1.0]"


def test_units_that_all_agree_still_leave_doubt_about_others() -> None:
    assert bootstrap_share(np.zeros(32), seed=0) == wilson(0, 32)
    assert bootstrap_share(np.ones(5), seed=0, level=0.8) == wilson(5, 5, level=0.8)
    for mixed in (np.repeat([0.0, 1.0], [31, 1]), np.full(4, 0.5)):
        assert bootstrap_share(mixed, seed=0) == bootstrap_mean(mixed, seed=0)


def test_bootstrap_mean_agrees_with_theory(rng: np.random.Generator) -> None:
    values = rng.normal(3, 2, size=400)
    interval = bootstrap_mean(values, seed=0, draws=8000)
    margin = 1.96 * values.std(ddof=1) / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.02)
    assert interval.n == 400 and interval.as_dict()["n"] == 400


def test_clusters_widen_the_interval_by_their_design_effect(rng: np.random.Generator) -> None:
    clusters = np.repeat(np.arange(60), 5)
    values = np.repeat(rng.normal(size=60), 5)  # five equal rows: the truth is 60 values, not 300
    naive, honest = bootstrap_mean(values, seed=0), bootstrap_mean(values, clusters=clusters, seed=0)
    assert honest.n == 60
    assert (honest.high - honest.low) / (naive.high - naive.low) == pytest.approx(5**0.5, rel=0.1)


def test_cluster_bootstrap_ignores_row_order_and_names(rng: np.random.Generator) -> None:
    values, clusters = rng.normal(size=30), np.repeat(np.arange(6), 5)
    order = rng.permutation(30)
    names = np.array(["a", "b", "c", "d", "e", "f"])
    assert bootstrap_mean(values[order], clusters=names[clusters][order], seed=3).low == pytest.approx(
        bootstrap_mean(values, clusters=clusters, seed=3).low
    )


def test_generic_bootstrap_equals_bootstrap_mean(rng: np.random.Generator) -> None:
    values, clusters = rng.normal(size=30), rng.integers(0, 7, 30)
    generic = bootstrap(lambda i: float(values[i].mean()), clusters, seed=4, draws=300)
    special = bootstrap_mean(values, clusters=clusters, seed=4, draws=300)
    assert (generic.low, generic.high, generic.n) == pytest.approx((special.low, special.high, special.n))


def test_paired_difference_uses_the_pairing(rng: np.random.Generator) -> None:
    base = rng.normal(0, 10, size=50)
    interval = paired_difference(base + 1, base, seed=0)
    assert interval.mean == pytest.approx(1) and interval.high - interval.low < 1e-9
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1.0, 2.0], [1.0], seed=0)


def test_wilson_and_exact_test_against_known_values() -> None:
    interval = wilson(14, 20)
    assert (interval.low, interval.high) == pytest.approx((0.4810, 0.8545), abs=1e-4)
    assert wilson(0, 10).low == 0 and wilson(10, 10).high == pytest.approx(1)
    assert binomial_test(14, 20) == pytest.approx(0.1153, abs=1e-4)
    assert binomial_test(10, 20) == 1
    with pytest.raises(ValueError):
        wilson(5, 4)
    with pytest.raises(ValueError):
        wilson(0, 0)


def test_spearman_equals_scipy_with_ties(rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 6, 80), rng.integers(0, 6, 80) + np.arange(80) / 20
    interval = spearman(x, y, seed=0, draws=200)
    assert interval.mean == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert interval.low < interval.mean < interval.high
    with pytest.raises(ValueError, match="nan"):
        spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], seed=0)


def test_spearman_within_sees_what_overall_hides() -> None:
    groups = np.repeat(np.arange(10), 5)
    x = np.tile(np.arange(5.0), 10) + 100 * groups
    y = -np.tile(np.arange(5.0), 10) + 100 * groups
    assert spearman(x, y, clusters=groups, seed=0, draws=200).mean > 0.9
    within = spearman_within(x, y, groups, seed=0)
    assert (within.mean, within.low, within.high, within.n) == pytest.approx((-1, -1, -1, 10))
    y[groups == 0] = 7.0  # a constant group has no correlation
    assert spearman_within(x, y, groups, seed=0).n == 9


def test_two_way_equals_the_formula_on_a_small_table() -> None:
    wins = np.array([1, 0, 1, 1, 0.5, 0])
    raters, clips = np.array(list("aabbcc")), np.array([0, 1, 0, 1, 0, 1])
    error = wins - wins.mean()

    def part(labels: np.ndarray) -> float:
        sums = [error[labels == label].sum() ** 2 for label in np.unique(labels)]
        return sum(sums) / 36 * len(sums) / (len(sums) - 1)

    variance = part(raters) + part(clips) - part(np.arange(6))
    interval = two_way_clustered(wins, raters, clips, level=0.5)
    margin = scipy_stats.t.ppf(0.75, 1) * variance**0.5
    assert variance > 0
    assert (interval.mean, interval.low, interval.high) == pytest.approx(
        (wins.mean(), wins.mean() - margin, wins.mean() + margin)
    )
    assert interval.n == 6


@pytest.mark.property
def test_two_way_keeps_its_level_where_naive_votes_do_not(rng: np.random.Generator) -> None:
    raters, clips = (grid.ravel() for grid in np.indices((20, 50)))
    wrong = {"two-way": 0, "naive": 0}
    for _ in range(200):
        logit = rng.normal(0, 0.5, 20)[raters] + rng.normal(0, 1.2, 50)[clips]
        wins = (rng.random(1000) < 1 / (1 + np.exp(-logit))).astype(float)
        interval = two_way_clustered(wins, raters, clips)
        wrong["two-way"] += not interval.low <= 0.5 <= interval.high
        wrong["naive"] += binomial_test(int(wins.sum()), 1000) < 0.05
    assert wrong["two-way"] <= 22  # about 5 % of 200
    assert wrong["naive"] >= 60


def test_two_way_edge_cases() -> None:
    raters, clips = (grid.ravel() for grid in np.indices((20, 3)))
    unanimous = two_way_clustered(np.ones(60), raters, clips)
    assert unanimous.high == 1 and unanimous.low == pytest.approx(wilson(3, 3).low) and unanimous.n == 60
    balanced = two_way_clustered(np.array([1.0, 0, 0, 1]), [0, 0, 1, 1], [0, 1, 0, 1])
    assert balanced.low < 0.5 < balanced.high
    with pytest.raises(ValueError, match="clips"):
        two_way_clustered(np.ones(20), np.arange(20), np.zeros(20))
    with pytest.raises(ValueError, match="tie"):
        two_way_clustered([0.3, 1.0], [0, 1], [0, 1])


@pytest.mark.fault
def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values\[1\]"):
        bootstrap_mean([1.0, float("nan"), 2.0], seed=0)
    with pytest.raises(ValueError, match="2 clusters"):
        bootstrap_mean([1.0, 2.0], clusters=["a", "a"], seed=0)
    with pytest.raises(ValueError, match="labels"):
        bootstrap_mean([1.0, 2.0], clusters=["a"], seed=0)
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_mean([], seed=0)
    with pytest.raises(ValueError, match="2\\."):
        spearman_within([1.0, 2.0], [1.0, 2.0], ["a", "b"], seed=0)


def test_interval_is_plain_numbers() -> None:
    import json

    interval = bootstrap_mean(np.arange(5, dtype=np.float32), seed=0)
    assert json.loads(json.dumps(interval.as_dict())) == interval.as_dict()
    assert isinstance(interval, Interval)


def test_a_biased_statistic_has_its_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(120, 32)), rng.normal(size=(40, 32))

    def distance(rows: np.ndarray) -> float:  # drawing clips twice can only narrow what they span
        return frechet_distance(real, fake[rows])

    plain = bootstrap(distance, np.arange(40), seed=1, draws=100)
    moved = bootstrap(distance, np.arange(40), seed=1, draws=100, biased=True)
    assert plain.low > plain.mean == moved.mean
    assert moved.low < moved.mean < moved.high
    assert moved.high - moved.low == pytest.approx(plain.high - plain.low)

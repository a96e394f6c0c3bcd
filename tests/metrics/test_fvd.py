"""FVD: the textbook formula, small samples, the scale of real clips, intervals over images; FVD-infinity and KVD."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from icreward_lib.metrics.fvd import (
    bootstrap_fvd,
    distance_columns,
    frechet_distance,
    fvd_infinity,
    kernel_distance,
    real_vs_real,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parity
@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (10, 14, 12), (7, 300, 12), (2, 2, 5)])
def test_equals_the_textbook_formula(rng: np.random.Generator, n: int, m: int, d: int) -> None:
    a, b = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(0.5, 2, size=(m, d))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    eigenvalues = np.linalg.eigvals(cov_a @ cov_b).real.clip(0)  # tr of the root, also where it is singular
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * np.sqrt(eigenvalues).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    if min(n, m) > d:
        root = np.trace(sqrtm(cov_a @ cov_b)).real
        assert frechet_distance(a, b) == pytest.approx(expected + 2 * np.sqrt(eigenvalues).sum() - 2 * root, rel=1e-6)


@pytest.mark.property
def test_metric_properties(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(30, 50)), rng.normal(size=(25, 50))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    turn = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a + 0.3) == pytest.approx(50 * 0.09)
    far = frechet_distance((a + 1000).astype(np.float32), (a + 1000.3).astype(np.float32))
    assert far == pytest.approx(50 * 0.09, rel=1e-2)


def test_the_scale_falls_with_n_and_is_seeded(rng: np.random.Generator) -> None:
    real = rng.normal(size=(240, 20))
    small, large = real_vs_real(real, 30, seed=1), real_vs_real(real, 120, seed=1)
    assert small.mean > 2 * large.mean > 0
    assert small.low < small.mean < small.high and small.n == 30
    assert real_vs_real(real, 30, seed=1) == small
    assert real_vs_real(real, 30, seed=2) != small
    with pytest.raises(ValueError, match="disjoint"):
        real_vs_real(real, 121, seed=0)


def test_bootstrap_over_images(rng: np.random.Generator) -> None:
    images = np.repeat(np.arange(20), 3)
    real, fake = rng.normal(size=(60, 8)), np.repeat(rng.normal(0.5, 1, size=(20, 8)), 3, axis=0)
    interval = bootstrap_fvd(real, fake, images=images, seed=1, draws=100)
    assert interval.mean == pytest.approx(frechet_distance(real, fake)) and interval.n == 20
    assert interval.low < interval.mean < interval.high
    assert bootstrap_fvd(real, fake, images=images, seed=1, draws=100) == interval
    assert bootstrap_fvd(real, fake, images=images, seed=2, draws=100) != interval
    naive = bootstrap_fvd(real, fake, images=np.arange(60), seed=1, draws=100)
    assert naive.high - naive.low < 0.85 * (interval.high - interval.low)  # ignoring images flatters


def test_interval_holds_the_estimate_where_bias_dominates(rng: np.random.Generator) -> None:
    real, fake = rng.normal(size=(100, 60)), rng.normal(size=(30, 60))  # one distribution, far too few clips
    interval = bootstrap_fvd(real, fake, images=np.arange(30), seed=0, draws=100)
    assert interval.low < interval.mean < interval.high  # plain percentiles lie wholly above it


def test_difference_of_two_arms(rng: np.random.Generator) -> None:
    real, a = rng.normal(size=(80, 6)), rng.normal(0.2, 1, size=(40, 6))
    b = a + 0.5
    images = np.arange(40)
    difference = bootstrap_fvd(real, b, minus=a, images=images, seed=0, draws=100)
    assert difference.mean == pytest.approx(frechet_distance(real, b) - frechet_distance(real, a))
    assert difference.low > 0
    same = bootstrap_fvd(real, a, minus=a, images=images, seed=0, draws=20)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="rows"):
        bootstrap_fvd(real, a, minus=a[:5], images=images, seed=0)


@pytest.mark.fault
def test_bad_features_are_refused() -> None:
    with pytest.raises(ValueError, match="feature size"):
        frechet_distance(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(np.zeros((1, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.full((3, 4), np.nan), np.zeros((3, 4)))


@pytest.mark.parity
def test_kvd_is_the_polynomial_mmd(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(9, 5)), rng.normal(0.3, 1, size=(7, 5))
    ab, aa, bb = (((x @ y.T) / 5 + 1) ** 3 for x, y in ((a, b), (a, a), (b, b)))
    pairs_a = [aa[i, j] for i in range(9) for j in range(9) if i != j]
    pairs_b = [bb[i, j] for i in range(7) for j in range(7) if i != j]
    expected = np.mean(pairs_a) + np.mean(pairs_b) - 2 * ab.mean()
    assert kernel_distance(a, b) == pytest.approx(expected)
    assert kernel_distance(b, a) == pytest.approx(expected)


@pytest.mark.property
def test_kvd_has_no_bias_where_fvd_has(rng: np.random.Generator) -> None:
    same = [(rng.normal(size=(20, 30)), rng.normal(size=(20, 30))) for _ in range(100)]
    kvd, fvd = [kernel_distance(*pair) for pair in same], [frechet_distance(*pair) for pair in same]
    assert abs(np.mean(kvd)) < 3 * np.std(kvd) / 10 and min(kvd) < 0
    assert min(fvd) > 10
    assert kernel_distance(rng.normal(size=(20, 30)), rng.normal(0.5, 1, size=(20, 30))) > max(kvd)


@pytest.mark.property
def test_fvd_infinity_removes_most_of_the_bias(rng: np.random.Generator) -> None:
    shift, images = 0.2, np.arange(400)
    real, fake = rng.normal(size=(400, 40)), rng.normal(shift, 1, size=(400, 40))
    truth = 40 * shift**2
    found = fvd_infinity(real, fake, images=images, seed=0)
    assert abs(found - truth) < 0.3 * abs(frechet_distance(real, fake) - truth)
    assert fvd_infinity(real, fake, images=images, seed=0) == found != fvd_infinity(real, fake, images=images, seed=1)
    twins = fvd_infinity(real, np.repeat(fake, 2, axis=0), images=np.repeat(images, 2), seed=0)
    assert abs(twins - truth) < 0.3 * abs(frechet_distance(real, fake) - truth)  # n counts images, not clips


def test_fvd_infinity_draws_whole_images_from_half_to_all(rng: np.random.Generator, monkeypatch) -> None:
    seen = []

    def spy(real: np.ndarray, fake: np.ndarray) -> float:
        seen.append((len(real), len(fake), np.unique(fake[:, 0], return_counts=True)[1].tolist()))
        return frechet_distance(real, fake)

    monkeypatch.setattr("icreward_lib.metrics.fvd.frechet_distance", spy)
    fake, images = np.repeat(rng.normal(size=(20, 3)), 2, axis=0), np.repeat(np.arange(20), 2)
    fvd_infinity(rng.normal(size=(30, 3)), fake, images=images, seed=0)
    assert seen[0][:2] == (15, 20) and seen[-1][:2] == (30, 40) and len(seen) == 15
    assert all(set(copies) == {2} for _, _, copies in seen)


def test_a_row_says_all_that_belongs_to_a_value(rng: np.random.Generator) -> None:
    real, fake, images = rng.normal(size=(70, 6)), rng.normal(0.4, 1, size=(60, 6)), np.repeat(np.arange(30), 2)
    row = distance_columns(real, fake, images=images, seed=0, draws=50)
    assert (row["clips"], row["images"], row["real_clips"], row["real_vs_real_clips"]) == (60, 30, 70, 35)
    assert row["fvd"] == pytest.approx(frechet_distance(real, fake))
    assert row["kvd"] == pytest.approx(kernel_distance(real, fake))
    for name in ("fvd", "kvd"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        assert (
            row[f"{name}_real_vs_real_low"] < row[f"{name}_real_vs_real"] < row[f"{name}_real_vs_real_high"] < row[name]
        )
    assert row["fvd_infinity"] == fvd_infinity(real, fake, images=images, seed=0)


@pytest.mark.fault
def test_too_few_images_for_an_extrapolation() -> None:
    ten = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(ValueError, match="4 images"):
        fvd_infinity(ten, ten, images=np.repeat(np.arange(2), 5), seed=0)
    with pytest.raises(ValueError, match="rows"):
        fvd_infinity(ten, ten, images=np.arange(3), seed=0)
    with pytest.raises(ValueError, match="feature size"):
        kernel_distance(ten, ten[:, :2])

"""FVD: the textbook formula, small samples, the floor, intervals over images, VideoMAE features."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from icreward_lib.metrics.fvd import (
    VideoMAEFeatures,
    bootstrap_fvd,
    frechet_distance,
    real_vs_real,
    videomae_pixels,
)
from icreward_lib.video import Video


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


def test_floor_falls_with_n_and_is_seeded(rng: np.random.Generator) -> None:
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


def test_bootstrap_draws_real_clips_with_their_image(rng: np.random.Generator) -> None:
    fake = rng.normal(size=(15, 4))
    images = np.array([f"image{i}" for i in range(15)])
    paired = bootstrap_fvd(fake, fake, images=images, real_images=images, seed=0, draws=50)
    assert (paired.mean, paired.low, paired.high) == pytest.approx((0, 0, 0), abs=1e-9)
    held = bootstrap_fvd(fake, fake, images=images, seed=0, draws=50)
    foreign = bootstrap_fvd(fake, fake, images=images, real_images=np.char.add("z", images), seed=0, draws=50)
    assert held.high > 1e-3 and foreign == held


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


@pytest.fixture(scope="module")
def videomae() -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VideoMAEForVideoClassification(config).eval()


def random_clips(k: int = 3, frames: int = 6) -> list[Video]:
    rng = np.random.default_rng(0)
    return [Video(rng.integers(0, 256, (frames, 24, 40, 3), dtype=np.uint8), 8.0) for _ in range(k)]


def test_videomae_features(videomae, tmp_path) -> None:
    videomae.save_pretrained(tmp_path)
    clips = random_clips()
    extractor = VideoMAEFeatures(tmp_path)
    features = extractor.features(clips)
    assert features.shape == (3, 16) and features.dtype == np.float32
    with torch.no_grad():
        pixels = videomae_pixels(clips, num_frames=4, size=32)
        expected = videomae.videomae(pixels).last_hidden_state.mean(1)
    np.testing.assert_allclose(features, expected, atol=1e-5)  # the classifier's trunk, not fresh weights
    np.testing.assert_allclose(
        VideoMAEFeatures(tmp_path, batch_size=1).features(clips[::-1])[::-1], features, atol=1e-5
    )
    first_changed = [Video(np.concatenate([255 - v.frames[:2], v.frames[2:]]), 8.0) for v in clips]
    np.testing.assert_array_equal(extractor.features(first_changed), features)  # the last 4 of 6 frames count
    assert "last-4-frames squash-32" in extractor.name


def test_videomae_pixels_are_normalised() -> None:
    white = Video(np.full((5, 20, 30, 3), 255, np.uint8), 8.0)
    pixels = videomae_pixels([white], num_frames=4, size=32)
    assert pixels.shape == (1, 4, 3, 32, 32)
    np.testing.assert_allclose(pixels[0, 0, :, 0, 0], [2.2489, 2.4286, 2.6400], atol=1e-3)
    with pytest.raises(ValueError, match="4 frames"):
        videomae_pixels(random_clips(frames=3), num_frames=4, size=32)


@pytest.mark.fault
def test_videomae_without_its_weights_is_refused(videomae, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        VideoMAEFeatures(tmp_path / "none")
    with pytest.raises(ValueError, match="VideoMAE"):
        VideoMAEFeatures(tmp_path)
    videomae.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="VideoMAE"):
        VideoMAEFeatures(tmp_path)
    short = VideoMAEModel(VideoMAEConfig(**{**videomae.config.to_dict(), "num_hidden_layers": 2}))
    videomae.save_pretrained(tmp_path)
    short.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not fit"):  # one layer would be random
        VideoMAEFeatures(tmp_path)
    videomae.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ValueError, match="VideoMAE"):
        VideoMAEFeatures(tmp_path)

"""The contract, the baseline and the files of rewards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.rewards import mlp
from icreward_lib.rewards.base import Scores, interpolate_frames, read_config, to_scores
from icreward_lib.rewards.metrics import CLIPSimReward, VBenchReward
from icreward_lib.rewards.mlp import MLPReward, MLPRewardConfig
from icreward_lib.video import Video


class ColourFeatures:
    """Stands where CLIP stands: unit-norm mean colours of each quarter of a frame."""

    def __init__(self, folder: str, *, device: str = "cpu") -> None:
        self.folder, self.device = folder, device

    def image_features(self, frames: np.ndarray) -> np.ndarray:
        n, h, w, _ = frames.shape
        cells = frames.reshape(n, 2, h // 2, 2, w // 2, 3).mean((2, 4)).reshape(n, 12) + 1
        return (cells / np.linalg.norm(cells, axis=1, keepdims=True)).astype(np.float32)


def clips(count: int, seed: int = 0, frames: int = 5) -> list[Video]:
    rng = np.random.default_rng(seed)
    return [Video(rng.integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8), 8.0) for _ in range(count)]


@pytest.fixture
def baseline(tmp_path: Path) -> MLPReward:
    (tmp_path / "clip").mkdir()
    base = str(tmp_path / "clip")
    return MLPReward(MLPRewardConfig(features=12), ColourFeatures(base), base=base, seed=3)


def test_frames_between_the_judged_moments_are_interpolated() -> None:
    expected = [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]]
    assert interpolate_frames(torch.eye(2)[None], [1.0, 3.0], 5)[0].tolist() == expected


def test_a_clips_score_is_the_mean_over_frames_and_the_weighted_dimensions() -> None:
    parts = torch.tensor([[[0.2, 0.6], [0.4, 1.0]]])
    scores = to_scores(parts, torch.tensor([0.75, 0.25]), [0, 2], 3)
    assert scores.dimensions["subject"] == pytest.approx([0.3])
    assert scores.dimensions["background"] == pytest.approx([0.8])
    assert scores.overall == pytest.approx([0.75 * 0.3 + 0.25 * 0.8])
    assert scores.frames[0] == pytest.approx([0.3, 0.425, 0.55])
    late = to_scores(parts, torch.tensor([0.75, 0.25]), [2, 3], 4)  # the first moment stands for three frames
    assert late.dimensions["subject"] == pytest.approx([(3 * 0.2 + 0.4) / 4])


def test_what_moves_while_it_departs_gains_nothing_from_keeping_still() -> None:
    parts = torch.tensor([[[1.0, 1.0, 0.0], [0.1, 0.1, 1.0]]])
    scores = to_scores(parts, torch.tensor([0.5, 0.5]), [0, 1], 2)
    assert scores.frames[0] == pytest.approx([0, 0.1]) and scores.overall == pytest.approx([0.05])


@pytest.mark.property
@given(data=st.data(), dimensions=st.sampled_from([2, 3]), num_frames=st.integers(1, 40))
def test_the_overall_score_is_the_mean_of_frames(data: st.DataObject, dimensions: int, num_frames: int) -> None:
    """With a gate (three dimensions) or without, and however unevenly the judged moments lie."""
    moments = st.floats(0, num_frames - 1, width=32)
    times = sorted(data.draw(st.lists(moments, min_size=1, max_size=num_frames, unique=True)))
    seed, share = data.draw(st.integers(0, 2**31)), data.draw(st.floats(0, 1))
    parts = torch.rand(3, len(times), dimensions, generator=torch.Generator().manual_seed(seed))
    scores = to_scores(parts, torch.tensor([share, 1 - share]), times, num_frames)
    np.testing.assert_allclose(scores.overall, scores.frames.mean(1), atol=1e-6)
    if dimensions == 2:
        kept = share * scores.dimensions["subject"] + (1 - share) * scores.dimensions["background"]
        np.testing.assert_allclose(scores.overall, kept, atol=1e-5)


def test_clipsim_is_the_mean_of_frames_too_and_vbench_by_its_formula_is_not() -> None:
    videos = clips(3)
    image = videos[0].frames[0]
    scores = CLIPSimReward(ColourFeatures("")).score(image, videos)
    assert scores.overall == pytest.approx(scores.frames.mean(1), abs=1e-6) and scores.overall[0] > 0.9
    assert scores.clip(1).overall == scores.overall[1] and scores.clip(1).dimensions == {}
    found = VBenchReward(ConsistencyScorer(EfficientNetLite0Features(32))).score(image, videos)
    assert list(found.dimensions) == ["subject", "background"] and found.frames.shape == (3, 5)
    assert found.overall == pytest.approx(np.mean(list(found.dimensions.values()), axis=0), abs=1e-6)


@pytest.mark.parametrize("bad", [np.array([1.2, 0.0]), np.array([np.nan, 0.0]), np.array([0.5])])
def test_scores_out_of_range_or_shape_are_refused(bad: np.ndarray) -> None:
    good, frames = np.array([0.5, 0.5], np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match="scores"):
        Scores(good, {"subject": bad.astype(np.float32)}, frames)


def test_the_baseline_scores_clips_alone_together_and_in_any_order_alike(baseline: MLPReward) -> None:
    videos = clips(4)
    image = videos[1].frames[0]
    together = baseline.score(image, videos)
    assert together.frames.shape == (4, 5)
    assert set(together.dimensions) == {"subject", "background"}
    np.testing.assert_allclose(together.overall, together.frames.mean(1), atol=1e-6)
    alone = [baseline.score(image, [video]) for video in videos]
    np.testing.assert_allclose(together.frames, np.concatenate([s.frames for s in alone]), atol=1e-6)
    backwards = baseline.score(image, videos[::-1])
    np.testing.assert_allclose(together.overall, backwards.overall[::-1], atol=1e-6)


def test_the_baseline_sees_the_reference(baseline: MLPReward) -> None:
    videos = clips(2)
    one, other = (baseline.score(v.frames[0], videos).overall for v in videos)
    assert np.abs(one - other).min() > 1e-5


def test_the_baseline_survives_the_disk(baseline: MLPReward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "ClipSim", ColourFeatures)
    for _ in range(2):  # the second replaces the first
        baseline.save_pretrained(tmp_path / "reward")
    assert {p.name for p in (tmp_path / "reward").iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((tmp_path / "reward" / "config.json").read_text())["base"] == "../clip"
    again = MLPReward.from_pretrained(tmp_path / "reward")
    assert again.config == baseline.config
    videos = clips(2)
    scores = [reward.score(videos[0].frames[0], videos).overall for reward in (baseline, again)]
    np.testing.assert_array_equal(*scores)


def test_equal_seeds_give_equal_baselines_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = (
        MLPReward(MLPRewardConfig(features=4), ColourFeatures(""), base="", seed=seed).mlp[0].weight
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def saved(folder: Path, **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_missing_base_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="builds on the model"):
        read_config(saved(tmp_path / "reward", base="../clip"), "reward")
    with pytest.raises(FileNotFoundError, match="holds no MLP reward"):
        MLPReward.from_pretrained(tmp_path)
    assert read_config(saved(tmp_path / "reward", base="owner/name"), "reward") == {"base": "owner/name"}


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="summing to 1"):
        MLPRewardConfig(features=4, weights=(0.5, 0.6))

"""Rewards with more dimensions, other weights, and several members."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_vlm import build_vlm

from icreward_lib.rewards.base import overall_score
from icreward_lib.rewards.ensemble import Ensemble, cautious
from icreward_lib.rewards.head import movement, with_motion
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.prompt import ICRewardConfig
from icreward_lib.video import Video

CONFIG = ICRewardConfig(
    num_frames=4, head_size=16, head_attention=2, lora_rank=2, lora_alpha=4,
    weights=(0.75, 0.25), moving=0.4,
)  # fmt: skip


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[ICRewardModel]:
    base = build_vlm(tmp_path_factory.mktemp("vlm"))
    return [ICRewardModel.create(base, CONFIG, seed=seed) for seed in range(2)]


def clips(count: int) -> list[Video]:
    rng = np.random.default_rng(0)
    return [Video(rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8.0) for _ in range(count)]


def test_dimensions_are_scored_apart_and_weighed_as_asked(members: list[ICRewardModel]) -> None:
    videos = clips(3)
    image = videos[0].frames[0]
    scores = members[0].score(image, videos)
    assert list(scores.dimensions) == ["subject", "background", "motion"]
    parts = np.stack(list(scores.dimensions.values()), axis=1)
    gate = parts[:, 2]
    assert ((gate > 0) & (gate <= 1)).all()
    assert scores.overall == pytest.approx(scores.frames.mean(1), abs=1e-6)
    assert (scores.overall <= parts[:, :2] @ np.array(CONFIG.weights) + 1e-6).all()
    other = members[0].score(image, videos, weights=(0.0, 1.0))
    assert (other.overall <= other.dimensions["background"] + 1e-6).all()
    assert other.dimensions["subject"] == pytest.approx(scores.dimensions["subject"])
    assert not np.allclose(other.overall, scores.overall)
    assert members[0].consistency_maps(image, videos).shape == (3, 9, 32, 32)


@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.25), (0.5, 0.25), (1.5, -0.5)])
def test_weights_that_are_no_shares_are_refused(members: list[ICRewardModel], weights: tuple[float, ...]) -> None:
    videos = clips(1)
    with pytest.raises(ValueError, match="shares of"):
        members[0].score(videos[0].frames[0], videos, weights=weights)
    with pytest.raises(ValueError, match="shares of"):
        replace(CONFIG, weights=weights)


def test_motion_is_a_gate() -> None:
    parts = torch.tensor([[1.0, 0.5, 1.0], [1.0, 0.5, 0.5], [1.0, 1.0, 0.0]])
    weights = torch.tensor([0.5, 0.5])
    assert overall_score(parts, weights).tolist() == pytest.approx([0.75, 0.375, 0])
    assert overall_score(parts[:, :2], weights).tolist() == pytest.approx([0.75, 0.75, 1])


def test_what_does_not_move_scores_nothing_from_there_on(members: list[ICRewardModel]) -> None:
    (moving,) = clips(1)
    frozen = Video(moving.frames[:1].repeat(9, 0), 8.0)
    stops = Video(np.concatenate([moving.frames[:5], moving.frames[4:5].repeat(4, 0)]), 8.0)
    reward = ICRewardModel.create(members[0].base, replace(CONFIG, num_frames=8), seed=0)
    scores = reward.score(moving.frames[0], [moving, stops, frozen])
    motion = scores.dimensions["motion"]
    assert motion[0] > motion[1] > motion[2] == 0 and scores.overall[2] == 0
    assert scores.frames[1, -1] < scores.frames[1, 0] and (scores.frames[2] == 0).all()
    assert reward.score(moving.frames[0], [frozen]).dimensions["subject"][0] > 0


def test_movement_is_relative_and_a_single_group_has_none() -> None:
    tokens = torch.ones(1, 3, 4, 2)
    tokens[:, 2] = 3.0
    step = 2 * 2**0.5 / (5 / 3 * 2**0.5)
    torch.testing.assert_close(movement(tokens), torch.tensor([[0.0, 0.0, step]]))
    torch.testing.assert_close(movement(10 * tokens), movement(tokens))
    torch.testing.assert_close(with_motion(tokens[..., 0], tokens, 2 * step)[..., -1], torch.tensor([[0.0, 0.0, 0.5]]))
    assert (movement(tokens[:, :1]) == 0).all()
    with pytest.raises(ValueError, match="moving must be positive"):
        replace(CONFIG, moving=0.0)


def test_the_ensemble_trusts_what_its_members_agree_on(members: list[ICRewardModel]) -> None:
    videos = clips(3)
    image = videos[0].frames[0]
    each = np.stack([member.score(image, videos).overall for member in members])
    plain = Ensemble(members, caution=0.0).score(image, videos)
    bound = Ensemble(members, caution=1.0).score(image, videos)
    assert plain.overall == pytest.approx(each.mean(0), abs=1e-6)
    assert bound.overall == pytest.approx(each.mean(0) - each.std(0), abs=1e-6)
    assert (bound.overall < plain.overall).all()
    for scores in (plain, bound, Ensemble(members, caution=100.0).score(image, videos)):
        assert scores.overall == pytest.approx(scores.frames.mean(1), abs=1e-6)
    assert bound.frames.shape == (3, 9) and list(bound.dimensions) == ["subject", "background", "motion"]
    # Of equal means, the one that members agree on.
    assert cautious(np.array([[0.5, 0.9], [0.5, 0.1]]), 1.0).tolist() == pytest.approx([0.5, 0.1])
    assert cautious(np.array([[0.0], [0.2]]), 5.0).tolist() == [0.0]


def test_an_ensemble_survives_the_disk_and_a_move_with_its_base(members: list[ICRewardModel], tmp_path: Path) -> None:
    there = tmp_path / "project"
    shutil.copytree(members[0].base, there / "vlm")
    moved = [ICRewardModel.create(str(there / "vlm"), CONFIG, seed=5) for _ in members]
    for new, old in zip(moved, members, strict=True):
        new.load_state_dict(old.state_dict())
    Ensemble(moved, caution=0.5).save_pretrained(there / "rewards" / "robust")
    there.rename(tmp_path / "elsewhere")
    again = Ensemble.from_pretrained(tmp_path / "elsewhere" / "rewards" / "robust")
    videos = clips(2)
    expected = Ensemble(members, caution=0.5).score(videos[0].frames[0], videos)
    np.testing.assert_array_equal(again.score(videos[0].frames[0], videos).overall, expected.overall)
    assert again.caution == 0.5 and len(again.members) == 2


def test_one_member_is_no_ensemble_and_an_empty_folder_none_at_all(
    members: list[ICRewardModel], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="two members"):
        Ensemble(members[:1], caution=1.0)
    with pytest.raises(ValueError, match="caution"):
        Ensemble(members, caution=-1.0)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Ensemble.from_pretrained(tmp_path)

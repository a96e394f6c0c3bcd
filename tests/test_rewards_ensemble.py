"""Rewards with more dimensions, other weights, and several members."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_vlm import build_vlm

from icreward_lib.rewards.base import MOVES, overall_score
from icreward_lib.rewards.config import ICRewardConfig
from icreward_lib.rewards.ensemble import Ensemble, cautious
from icreward_lib.rewards.icreward import ICReward
from icreward_lib.video import Video

CONFIG = ICRewardConfig(
    num_frames=4, head_size=16, head_attention=2, lora_rank=2, lora_alpha=4,
    dimensions=("subject", "background", "motion"), weights=(0.75, 0.25),
)  # fmt: skip


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[ICReward]:
    base = build_vlm(tmp_path_factory.mktemp("vlm"))
    return [ICReward.create(base, CONFIG, seed=seed) for seed in range(2)]


def clips(count: int) -> list[Video]:
    rng = np.random.default_rng(0)
    return [Video(rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8.0) for _ in range(count)]


def test_dimensions_are_scored_apart_and_weighed_as_asked(members: list[ICReward]) -> None:
    videos = clips(3)
    image = videos[0].frames[0]
    scores = members[0].score(image, videos)
    assert list(scores.dimensions) == ["subject", "background", "motion"]
    parts = np.stack(list(scores.dimensions.values()), axis=1)
    gate = np.minimum(1, parts[:, 2] / MOVES)
    assert scores.overall == pytest.approx(parts[:, :2] @ np.array(CONFIG.weights) * gate, abs=1e-6)
    other = members[0].score(image, videos, weights=(0.0, 1.0))
    assert other.overall == pytest.approx(other.dimensions["background"] * gate, abs=1e-6)
    assert other.dimensions["subject"] == pytest.approx(scores.dimensions["subject"])
    assert not np.allclose(other.overall, scores.overall)
    assert members[0].consistency_maps(image, videos).shape == (3, 9, 32, 32)


@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.25), (0.5, 0.25), (1.5, -0.5)])
def test_weights_that_are_no_shares_are_refused(members: list[ICReward], weights: tuple[float, ...]) -> None:
    videos = clips(1)
    with pytest.raises(ValueError, match="shares of"):
        members[0].score(videos[0].frames[0], videos, weights=weights)
    with pytest.raises(ValueError, match="shares of"):
        replace(CONFIG, weights=weights)


def test_motion_is_a_gate_that_what_moves_passes_unchanged() -> None:
    parts = torch.tensor([[1.0, 0.5, MOVES], [1.0, 0.5, 1.0], [1.0, 0.5, MOVES / 2], [1.0, 1.0, 0.0]])
    weights = torch.tensor([0.5, 0.5])
    assert overall_score(parts, weights).tolist() == pytest.approx([0.75, 0.75, 0.375, 0])
    assert overall_score(parts[:, :2], weights).tolist() == pytest.approx([0.75, 0.75, 0.75, 1])


def test_motion_is_the_last_of_several_dimensions() -> None:
    for dimensions in (("motion", "subject", "background"), ("motion",)):
        with pytest.raises(ValueError, match="motion must be the last"):
            replace(CONFIG, dimensions=dimensions, weights=(0.5, 0.5))


def test_motion_has_a_head_of_its_own(members: list[ICReward]) -> None:
    reward = members[0]
    videos = clips(2)
    before = reward.score(videos[0].frames[0], videos).dimensions
    own = reward.head.heads[1].bias.bias
    own.data += 1.0
    after = reward.score(videos[0].frames[0], videos).dimensions
    own.data -= 1.0
    assert (after["motion"] > before["motion"]).all()
    assert all(np.array_equal(after[d], before[d]) for d in ("subject", "background"))


def test_the_ensemble_trusts_what_its_members_agree_on(members: list[ICReward]) -> None:
    videos = clips(3)
    image = videos[0].frames[0]
    each = np.stack([member.score(image, videos).overall for member in members])
    plain = Ensemble(members, caution=0.0).score(image, videos)
    bound = Ensemble(members, caution=1.0).score(image, videos)
    assert plain.overall == pytest.approx(each.mean(0), abs=1e-6)
    assert bound.overall == pytest.approx(each.mean(0) - each.std(0), abs=1e-6)
    assert (bound.overall < plain.overall).all()
    assert bound.frames.shape == (3, 9) and list(bound.dimensions) == list(CONFIG.dimensions)
    # Of equal means, the one that members agree on.
    assert cautious(np.array([[0.5, 0.9], [0.5, 0.1]]), 1.0).tolist() == pytest.approx([0.5, 0.1])
    assert cautious(np.array([[0.0], [0.2]]), 5.0).tolist() == [0.0]


def test_an_ensemble_survives_the_disk_and_a_move_with_its_base(members: list[ICReward], tmp_path: Path) -> None:
    there = tmp_path / "project"
    shutil.copytree(members[0].base, there / "vlm")
    moved = [ICReward.create(str(there / "vlm"), CONFIG, seed=5) for _ in members]
    for new, old in zip(moved, members, strict=True):
        new.load_state_dict(old.state_dict())
    Ensemble(moved, caution=0.5).save_pretrained(there / "rewards" / "robust")
    there.rename(tmp_path / "elsewhere")
    again = Ensemble.from_pretrained(tmp_path / "elsewhere" / "rewards" / "robust")
    videos = clips(2)
    expected = Ensemble(members, caution=0.5).score(videos[0].frames[0], videos)
    np.testing.assert_array_equal(again.score(videos[0].frames[0], videos).overall, expected.overall)
    assert again.caution == 0.5 and len(again.members) == 2


def test_one_member_is_no_ensemble_and_an_empty_folder_none_at_all(members: list[ICReward], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two members"):
        Ensemble(members[:1], caution=1.0)
    with pytest.raises(ValueError, match="caution"):
        Ensemble(members, caution=-1.0)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Ensemble.from_pretrained(tmp_path)

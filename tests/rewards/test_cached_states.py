"""A new head on a body that has read all clips once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_vlm import build_vlm

from icreward_lib.rewards.cached_states import HeadOnCachedStates, read, with_new_head
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.head import ConsistencyHead
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.prompt import ICRewardConfig
from icreward_lib.rewards.training import TrainConfig, predict, train_reward
from icreward_lib.video import Video

CONFIG = ICRewardConfig(num_frames=4, head_size=16, head_attention=2, lora_rank=2, lora_alpha=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_vlm(tmp_path_factory.mktemp("vlm"))


def clips(reward: ICRewardModel) -> ClipDataset:
    """Six clips of two images, every other one frozen; that is what the subject is labelled by."""
    rng = np.random.default_rng(0)
    videos = [Video(rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8.0) for _ in range(6)]
    videos = [Video(np.repeat(v.frames[:1], 9, 0), 8.0) if k % 2 else v for k, v in enumerate(videos)]
    labels = torch.ones(6, 2)
    labels[1::2, 0] = 0
    return ClipDataset(
        reward.encode_videos(videos),
        reward.encode_images([videos[0].frames[0], videos[2].frames[0]]),
        torch.tensor([0, 0, 0, 1, 1, 1]),
        labels.mean(1),
        labels,
    )


@pytest.mark.parametrize("moving", [None, 0.4])
def test_the_head_on_what_was_read_scores_as_the_whole_reward(base: str, moving: float | None) -> None:
    reward = ICRewardModel.create(base, replace(CONFIG, moving=moving), seed=0)
    data = clips(reward)
    states = read(reward, data, batch_size=4)
    own = predict(HeadOnCachedStates(reward, data), states)
    whole = predict(reward, data)
    assert own.overall == pytest.approx(whole.overall, abs=1e-6)
    assert own.dimensions == pytest.approx(whole.dimensions, abs=1e-6)
    assert own.dimensions.shape == (6, 2 if moving is None else 3)
    assert moving is None or ((whole.overall > 0) == [True, False] * 3).all()


def test_a_new_head_learns_on_a_body_that_stays(base: str, tmp_path: Path) -> None:
    reward = ICRewardModel.create(base, CONFIG, seed=0)
    body = {name: value.clone() for name, value in reward.backbone.state_dict().items()}
    data = clips(reward)
    states = read(reward, data)
    with_new_head(reward, seed=1)
    head = HeadOnCachedStates(reward, data)
    config = TrainConfig(epochs=40, batch_size=6, lr=0.01)
    history = train_reward(head, states, states, config, seed=0, checkpoint_dir=tmp_path / "training")
    assert history.epochs[-1].subject_mse < 0.05 < history.epochs[0].subject_mse
    assert all(torch.equal(value, body[name]) for name, value in reward.backbone.state_dict().items())
    reward.save_pretrained(tmp_path / "reward")
    again = ICRewardModel.from_pretrained(tmp_path / "reward")
    assert again.config.temporal
    np.testing.assert_allclose(predict(again, data).dimensions, predict(head, states).dimensions, atol=1e-6)


def test_equal_seeds_give_equal_heads(base: str) -> None:
    heads = []
    for seed in (1, 1, 2):
        reward = with_new_head(ICRewardModel.create(base, CONFIG, seed=0), seed=seed)
        heads.append(torch.cat([value.flatten() for value in reward.head.parameters()]))
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_nothing_changes_over_time_in_a_frozen_clip() -> None:
    head = ConsistencyHead(8, 4, 2, temporal=True)
    moving = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert head._change(moving[:, :1].expand(-1, 3, -1, -1)).abs().max() == 0
    change = head._change(moving)
    assert change.shape == moving.shape and torch.equal(change[:, 0], change[:, 1]) and (change[:, 2] > 0).any()

"""ICReward on a small random Qwen2-VL: what a score may and may not depend on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_vlm import build_vlm

from icreward_lib.rewards import icreward as module
from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel, sample_frames
from icreward_lib.rewards.prompt import SHORT_TEMPLATE
from icreward_lib.video import Video

CONFIG = ICRewardConfig(num_frames=4, head_size=32, head_attention=2, lora_rank=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def reward(base: str) -> ICRewardModel:
    """With every trained tensor moved from where it starts, zeros included."""
    reward = ICRewardModel.create(base, CONFIG, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reward.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return reward


def clips(count: int, frames: int = 9, size: int = 32, seed: int = 0) -> list[Video]:
    rng = np.random.default_rng(seed)
    return [Video(rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8), 8.0) for _ in range(count)]


def test_sampled_frames_are_even_in_number_and_span_the_clip() -> None:
    assert sample_frames(17, 8).tolist() == [0, 2, 5, 7, 9, 11, 14, 16]
    assert sample_frames(5, 8).tolist() == [0, 1, 3, 4]
    assert sample_frames(1, 8).tolist() == [0, 0]


def test_scores_and_maps_have_their_shapes_and_range(reward: ICRewardModel) -> None:
    videos = clips(3)
    image = videos[0].frames[0]
    scores = reward.score(image, videos)
    assert scores.frames.shape == (3, 9)
    assert set(scores.dimensions) == {"subject", "background"}
    maps = reward.consistency_maps(image, videos)
    assert maps.shape == (3, 9, 32, 32)
    assert maps.min() >= 0 and maps.max() <= 1 and np.ptp(maps) > 0


def test_a_score_does_not_depend_on_batch_mates_or_order(
    reward: ICRewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = clips(5)
    image = videos[2].frames[0]
    together = reward.score(image, videos)
    alone = np.concatenate([reward.score(image, [video]).frames for video in videos])
    np.testing.assert_allclose(together.frames, alone, atol=1e-6)
    backwards = reward.score(image, videos[::-1])
    np.testing.assert_allclose(together.frames, backwards.frames[::-1], atol=1e-6)
    whole = reward.encode_videos(videos)
    monkeypatch.setattr(module, "CLIPS_AT_A_TIME", 2)
    torch.testing.assert_close(whole, reward.encode_videos(videos), atol=1e-6, rtol=1e-5)


def test_cached_tokens_give_the_score_of_the_frames(reward: ICRewardModel) -> None:
    videos = clips(2)
    images = [video.frames[0] for video in videos]
    tokens, references = reward.encode_videos(videos), reward.encode_images(images)
    assert tokens.shape == (2, 2, 2, 2, 48) and references.shape == (2, 2, 2, 48)
    for image, reference in zip(images, references, strict=True):
        cached = reward.score_tokens(tokens, reference, num_frames=9)
        np.testing.assert_allclose(cached.frames, reward.score(image, videos).frames, atol=1e-6)


def test_tokens_stand_in_raster_order(reward: ICRewardModel) -> None:
    picture = np.full((32, 32, 3), 127, np.uint8)
    changed = picture.copy()
    changed[20, 3] = 255  # lower left
    before, after = reward.encode_images([picture, changed])
    moved = (after - before).abs().sum(-1)
    assert np.unravel_index(int(moved.argmax()), moved.shape) == (1, 0)
    still = Video(np.stack([picture] * 9), 8.0)
    late = Video(np.concatenate([still.frames[:8], changed[None]]), 8.0)
    groups = (reward.encode_videos([late]) - reward.encode_videos([still])).abs().sum((0, 2, 3, 4))
    assert groups[0] == 0 and groups[1] > 0


def test_the_reference_moves_the_score_but_not_the_quality(reward: ICRewardModel) -> None:
    videos = clips(2)
    tokens = reward.encode_videos(videos)
    references = reward.encode_images([video.frames[4] for video in videos])
    with torch.no_grad():
        scores = [reward(tokens, references[i : i + 1].expand(2, -1, -1, -1)) for i in range(2)]
        qualities = [reward.quality_logits(tokens, references[i : i + 1].expand(2, -1, -1, -1)) for i in range(2)]
    assert (scores[0] - scores[1]).abs().min() > 1e-5
    assert qualities[0].shape == (2, 2)
    torch.testing.assert_close(qualities[0], qualities[1], atol=1e-6, rtol=0)
    assert (qualities[0][0] - qualities[0][1]).abs().min() > 1e-5  # but the video does


def test_the_language_models_joint_reading_matters(reward: ICRewardModel) -> None:
    videos = clips(1)
    tokens, reference = reward.encode_videos(videos), reward.encode_images([videos[0].frames[0]])
    with torch.no_grad():
        before = reward(tokens, reference)
        reward.reward_embeddings[2] += 1.0  # seen by the IC token alone
        after = reward(tokens, reference)
        reward.reward_embeddings[2] -= 1.0
    assert (before - after).abs().min() > 1e-5


def test_every_token_has_one_position_on_all_rotary_axes(
    reward: ICRewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    inner = reward.backbone.language_model.forward

    def spy(**kwargs):  # type: ignore[no-untyped-def]
        seen.update(kwargs)
        return inner(**kwargs)

    monkeypatch.setattr(reward.backbone.language_model, "forward", spy)
    reward.score(clips(1)[0].frames[0], clips(1))
    length = len(torch.cat(reward.prompt)) + 2 * 4 + 4
    assert seen["position_ids"].tolist() == [[list(range(length))]] * 3
    assert seen["inputs_embeds"].shape == (1, length, 48)


def test_only_the_head_lora_and_the_reward_tokens_train(reward: ICRewardModel) -> None:
    videos = clips(1)
    tokens, reference = reward.encode_videos(videos), reward.encode_images([videos[0].frames[0]])
    reward(tokens, reference).sum().backward()
    moved = {name for name, p in reward.named_parameters() if p.grad is not None}
    reward.zero_grad()
    assert moved == {name for name, p in reward.named_parameters() if p.requires_grad}
    assert all(name.startswith("head.") or "lora_" in name or name == "reward_embeddings" for name in moved)
    assert sum("lora_A" in name for name in moved) == 2 * 7


def test_a_reward_survives_the_disk_and_a_move_with_its_base(reward: ICRewardModel, tmp_path: Path) -> None:
    there = tmp_path / "project"
    shutil.copytree(reward.base, there / "checkpoints" / "qwen2vl")
    moved = ICRewardModel.create(str(there / "checkpoints" / "qwen2vl"), CONFIG, seed=5)
    moved.load_state_dict(reward.state_dict())
    for _ in range(2):  # the second replaces the first
        moved.save_pretrained(there / "rewards" / "icreward")
    settings = json.loads((there / "rewards" / "icreward" / "config.json").read_text())
    assert settings["base"] == "../../checkpoints/qwen2vl"
    assert not any(str(tmp_path) in p.read_text() for p in there.rglob("*.json"))
    assert not list(there.rglob("*.bin")) and not list(there.rglob("*.pt"))
    there.rename(tmp_path / "elsewhere")
    again = ICRewardModel.from_pretrained(tmp_path / "elsewhere" / "rewards" / "icreward")
    assert again.config == CONFIG
    videos = clips(2)
    image = videos[0].frames[0]
    np.testing.assert_array_equal(again.score(image, videos).frames, reward.score(image, videos).frames)
    tokens, reference = again.encode_videos(videos), again.encode_images([image])
    pairs = (tokens, reference.expand(2, -1, -1, -1))
    assert torch.equal(again.quality_logits(*pairs), reward.quality_logits(*pairs))
    trained = [{n for n, p in r.named_parameters() if p.requires_grad} for r in (again, reward)]
    assert trained[0] == trained[1]


def test_equal_seeds_give_equal_rewards_and_leave_the_global_generator_alone(base: str) -> None:
    state = torch.get_rng_state()
    one, same, other = (
        torch.cat([p.flatten() for p in ICRewardModel.create(base, CONFIG, seed=seed).parameters()])
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "template",
    [
        SHORT_TEMPLATE.replace("{video}", ""),
        SHORT_TEMPLATE.replace("{video}", "{x}").replace("{reference}", "{video}").replace("{x}", "{reference}"),
        SHORT_TEMPLATE + "user",
        SHORT_TEMPLATE.replace("<|VQ_reward|>", "<|IC_reward|>"),
    ],
)
def test_a_template_that_breaks_the_order_is_refused(base: str, template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        ICRewardModel.create(base, replace(CONFIG, template=template), seed=0)


def test_the_short_template_is_short(reward: ICRewardModel) -> None:
    assert len(torch.cat(reward.prompt)) <= 16
    assert not (torch.cat(reward.prompt) == reward.processor.tokenizer.unk_token_id).any()


def test_clips_of_different_sizes_are_refused(reward: ICRewardModel) -> None:
    with pytest.raises(ValueError, match="one length and size"):
        reward.score(clips(1)[0].frames[0], clips(1) + clips(1, frames=5))


def test_an_odd_number_of_frames_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        ICRewardConfig(num_frames=5)
    with pytest.raises(FileNotFoundError, match="holds no ICReward"):
        ICRewardModel.from_pretrained(tmp_path)

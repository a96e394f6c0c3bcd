"""ICReward as on a GPU: a body in bfloat16 under adapters and a head in float32, and no tensor left on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_vlm import build_vlm
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers.models.qwen2_vl import modeling_qwen2_vl

from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel
from icreward_lib.video import Video

BF16 = torch.bfloat16
CONFIG = ICRewardConfig(num_frames=4, head_size=16, head_attention=2, lora_rank=2, lora_alpha=4, temporal=True)


@pytest.fixture
def reward(tmp_path: Path) -> Iterator[ICRewardModel]:
    """Computed without the special instructions that some virtual machines announce and do not have."""
    made = ICRewardModel.create(build_vlm(tmp_path / "vlm"), CONFIG, seed=0, dtype=BF16)
    made.checkpoint_gradients()
    with torch.backends.mkldnn.flags(enabled=False):
        yield made


def tokens(reward: ICRewardModel) -> tuple[Tensor, Tensor]:
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    return reward.encode_videos([Video(clip, 8.0) for clip in frames]), reward.encode_images(list(frames[:, 0]))


def test_a_bfloat16_body_gives_float32_scores_and_gradients(reward: ICRewardModel, tmp_path: Path) -> None:
    torch.nn.init.normal_(reward.head.context.weight, generator=torch.Generator().manual_seed(0))
    kinds = {(weight.requires_grad, weight.dtype) for weight in reward.backbone.parameters()}
    assert kinds == {(False, BF16), (True, torch.float32)}
    assert {weight.dtype for weight in reward.head.parameters()} == {torch.float32}
    video, reference = tokens(reward)
    scores = reward(video, reference)
    scores.sum().backward()
    assert video.dtype == scores.dtype == torch.float32
    trained = {name: weight for name, weight in reward.named_parameters() if weight.requires_grad}
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in trained.values())
    assert any(
        weight.grad.abs().sum() > 0 for name, weight in trained.items() if "lora_B" in name and weight.grad is not None
    )
    reward.backbone.float()
    torch.testing.assert_close(scores, reward(*tokens(reward)), atol=0.05, rtol=0)


def test_no_tensor_of_a_score_stays_on_the_cpu(reward: ICRewardModel) -> None:
    """On a GPU that is none: operations with tensors of the CPU fail as on one."""
    video, reference = tokens(reward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        scores = reward.to("cuda")(video, reference)
        qualities = reward.quality_logits(video.to("cuda"), reference.to("cuda"))
    assert (scores.device.type, scores.dtype, scores.shape) == ("cuda", torch.float32, (2, 2, 2))
    assert (qualities.device.type, qualities.dtype, qualities.shape) == ("cuda", torch.float32, (2, 2))


def test_no_tensor_of_what_is_seen_stays_on_the_cpu(reward: ICRewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same; what transformers derives from the numbers in a grid, which is none here, is given."""
    frames = np.zeros((2, 4, 32, 32, 3), np.uint8)
    made = reward.processor.video_processor(
        [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in frames], return_tensors="pt"
    )
    pixels, grid = made["pixel_values_videos"], made["video_grid_thw"]
    lengths = np.arange(0, len(pixels) + 1, len(pixels) // 4)
    monkeypatch.setattr(FakeTensor, "tolist", lambda values: [2, 4, 4])
    monkeypatch.setattr(modeling_qwen2_vl, "get_vision_attention_seqlens", lambda *_, **__: (lengths, None))
    with FakeTensorMode(allow_non_fake_inputs=True):
        places = torch.zeros(len(pixels), 2, dtype=torch.long, device="cuda")
        monkeypatch.setattr(modeling_qwen2_vl, "get_vision_position_ids", lambda *_, **__: places)
        seen = reward.to("cuda")._see(pixels, grid)
    assert (seen.device.type, seen.dtype, seen.shape) == ("cpu", torch.float32, (2, 2, 2, 2, 48))

"""ICReward on stand-ins of the hub's models: real files, limits and types, and what a GPU changes."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.plain_videoreward import VideoReward
from support.standins_vlm import MODEL_CONFIG, QWEN, VIDEOREWARD, build_standins
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize
from transformers import Qwen2Tokenizer

from icreward_lib.rewards.backbone import default_dtype
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.prompt import REWARD_TOKENS, SHORT_TEMPLATE, VIDEOREWARD_CONFIG
from icreward_lib.rewards.training import ClipDataset, TrainConfig, train_reward
from icreward_lib.video import Video

CONFIG = replace(VIDEOREWARD_CONFIG, head_size=32, head_attention=2)
BF16 = torch.bfloat16


@pytest.fixture
def portable() -> Iterator[None]:
    """bfloat16 without the special instructions that some virtual machines announce and do not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other settings that this one carries along
        with torch.backends.mkldnn.flags(enabled=False):
            yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_standins(tmp_path_factory.mktemp("models"))


def create(models: Path, *, warm: bool = True, dtype: torch.dtype | None = None) -> ICRewardModel:
    start = models / VIDEOREWARD if warm else None
    return ICRewardModel.create(str(models / QWEN), CONFIG, seed=0, videoreward=start, dtype=dtype)


def create_short(models: Path, *, warm: bool = True) -> ICRewardModel:
    """In bfloat16 and with little to read, as its instructions are slow here."""
    start, config = models / VIDEOREWARD if warm else None, replace(CONFIG, template=SHORT_TEMPLATE)
    return ICRewardModel.create(str(models / QWEN), config, seed=0, videoreward=start, dtype=BF16)


@pytest.fixture(scope="module")
def reward(models: Path) -> ICRewardModel:
    return create(models)


def tokens(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vision tokens of clips and of their references."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 2, 4, 64, generator=generator), torch.randn(count, 2, 4, 64, generator=generator)


def test_standins_are_quick_and_small(tmp_path: Path) -> None:
    start = time.process_time()
    build_standins(tmp_path)
    assert time.process_time() - start < 10
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    weights = {}
    for shard in (tmp_path / QWEN).glob("*.safetensors"):
        weights |= load_file(shard)
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    assert {name.split(".")[0] for name in weights} == {"visual", "model"}


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.usefixtures("portable")
def test_the_body_is_bfloat16_and_what_trains_is_float32(models: Path, warm: bool) -> None:
    reward = create_short(models, warm=warm)
    types = {name: p.dtype for name, p in reward.named_parameters()}
    lora = {name for name in types if "lora_" in name}
    body = {name for name in types if name.startswith("backbone.")} - lora
    assert len(lora) == 2 * 7 * 2
    assert {types[name] for name in body} == {torch.bfloat16}
    assert {types[name] for name in types.keys() - body} == {torch.float32}
    assert reward(*tokens(1)).dtype == torch.float32


def test_on_the_cpu_the_body_is_float32_unless_told(models: Path) -> None:
    assert {p.dtype for p in create(models).parameters()} == {torch.float32}
    assert default_dtype("cuda") == default_dtype("cuda:1") == "auto"
    for warm in (True, False):  # what "auto" comes to, without a computation
        reward = ICRewardModel.create(
            str(models / QWEN), CONFIG, seed=0, videoreward=models / VIDEOREWARD if warm else None, device="meta"
        )
        assert {p.dtype for name, p in reward.backbone.named_parameters() if "lora_" not in name} == {BF16}


def test_the_processor_is_the_hubs(models: Path, reward: ICRewardModel) -> None:
    processor = reward.processor
    assert isinstance(processor.tokenizer, Qwen2Tokenizer)
    for part in (processor.image_processor, processor.video_processor):
        assert dict(part.size) == {"shortest_edge": 3136, "longest_edge": 12845056}
    words = json.loads((models / QWEN / "tokenizer.json").read_text())["added_tokens"]
    assert reward.reward_ids == [words[-1]["id"] + i for i in (1, 2, 3)]
    assert processor.tokenizer.convert_ids_to_tokens(reward.reward_ids) == list(REWARD_TOKENS)
    video = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert video == reward.backbone.config.video_token_id


def test_a_template_costs_as_many_tokens_in_parts_as_whole(reward: ICRewardModel) -> None:
    text = CONFIG.template.replace("{video}", "").replace("{reference}", "")
    assert reward.processor.tokenizer(text).input_ids == torch.cat(reward.prompt).tolist()


def test_our_settings_are_those_of_the_public_checkpoint() -> None:
    data, lora = MODEL_CONFIG["data_config"], MODEL_CONFIG["peft_lora_config"]
    assert (CONFIG.fps, CONFIG.frame_pixels[1]) == (data["fps"], data["max_frame_pixels"])
    assert (CONFIG.lora_rank, CONFIG.lora_alpha) == (lora["lora_r"], lora["lora_alpha"])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("size", "total", "fps", "frames", "count"),
    [
        ((480, 832), 81, 16, 10, 1260),
        ((480, 720), 49, 8, 12, 1482),
        ((576, 1024), 25, 7, 8, 1008),
        ((512, 512), 16, 8, 4, 512),
        ((720, 1280), 20, 24, 4, 2 * 252),
    ],
)
def test_frames_and_pixels_are_videorewards(
    reward: ICRewardModel, size: tuple[int, int], total: int, fps: int, frames: int, count: int
) -> None:
    """Frames read of a clip and video tokens, as upstream's own reader gives them."""
    clip = Video(np.zeros((total, *size, 3), np.uint8), fps)
    seen = reward.encode_videos([clip])
    assert 2 * seen.shape[1] == frames
    assert seen.shape[1:4].numel() == count
    assert seen.dtype == torch.float32
    assert reward.encode_images([clip.frames[0]]).shape[1:] == seen.shape[2:]


def test_frames_follow_seconds_within_bounds() -> None:
    def read(total: int, fps: float, at_most: int = 768) -> int:
        video = Video(np.zeros((total, 2, 2, 3), np.uint8), fps)
        return replace(VIDEOREWARD_CONFIG, num_frames=at_most).frames_of(video)

    assert read(5, 30) == 4  # at least four
    assert read(3, 30) == 2  # if there are four
    assert read(1, 30) == 2
    assert read(2400, 8, at_most=16) == 16
    assert read(100, 10) == 20


@pytest.mark.parity
def test_pixels_are_resized_as_videoreward_does(reward: ICRewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole grey levels, bicubic with antialiasing, once, to multiples of 28."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 720, 1280, 3), dtype=np.uint8)
    seen = []
    monkeypatch.setattr(reward, "_see", lambda pixels, grid: seen.append((pixels, grid)) or torch.zeros(1))
    reward.encode_videos([Video(frames, 2.0)])
    ((pixels, grid),) = seen
    assert grid.tolist() == [[2, 336 // 14, 588 // 14]]
    small = resize(torch.from_numpy(frames).permute(0, 3, 1, 2), [336, 588], InterpolationMode.BICUBIC, antialias=True)
    processor = reward.processor.video_processor
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    corner = ((small / 255 - mean) / deviation)[:2, :, :14, :14].transpose(0, 1)
    torch.testing.assert_close(pixels[0], corner.flatten(), atol=1e-6, rtol=0)


def test_clips_of_different_rates_are_not_encoded_together(reward: ICRewardModel) -> None:
    frames = np.zeros((24, 28, 28, 3), np.uint8)
    with pytest.raises(ValueError, match="one length"):
        reward.encode_videos([Video(frames, 2.0), Video(frames, 6.0)])


def wake(reward: ICRewardModel) -> None:
    """Move what starts at zero, and so keeps gradients from the language model and some of the head."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reward.head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def gradients(reward: ICRewardModel) -> dict[str, Tensor]:
    reward.zero_grad()
    reward(*tokens(2)).square().sum().backward()
    return {name: p.grad.clone() for name, p in reward.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("portable")
def test_checkpointing_recomputes_and_gives_the_same_gradients(models: Path) -> None:
    """In bfloat16; the layers run the same operations twice, so to the last bit."""
    reward = create_short(models)
    wake(reward)
    calls: list[int] = []
    reward.backbone.language_model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    plain = gradients(reward)
    assert len(calls) == 1
    reward.checkpoint_gradients()
    recomputed = gradients(reward)
    assert len(calls) == 3
    assert plain.keys() == recomputed.keys() == {n for n, p in reward.named_parameters() if p.requires_grad}
    assert min(float(value.abs().max()) for name, value in plain.items() if "lora_" in name) > 0
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, atol=0, rtol=0, msg=name)


@pytest.mark.usefixtures("portable")
def test_a_step_of_training_in_bfloat16_moves_what_trains(models: Path, tmp_path: Path) -> None:
    """By steps far below the spacing of bfloat16, and nothing else."""
    reward = create_short(models)
    wake(reward)
    reward.checkpoint_gradients()
    before = {name: p.detach().clone() for name, p in reward.named_parameters()}
    video, references = tokens(4)
    labels = torch.tensor([0.1, 0.9, 0.4, 0.6])
    data = ClipDataset(video, references, torch.arange(4), labels, labels[:, None].expand(4, 2))
    config = TrainConfig(epochs=1, batch_size=4, lr=2e-6, decay=0.0)
    history = train_reward(reward, data, data, config, seed=0, checkpoint_dir=tmp_path)
    assert np.isfinite(history.epochs[0].loss)
    moved = {name for name, p in reward.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in reward.named_parameters() if p.requires_grad}
    lora = "backbone.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"
    kept = dict(reward.named_parameters())[lora].to(BF16) == before[lora].to(BF16)
    assert kept.float().mean() > 0.9  # in bfloat16 nearly all of the step had been lost


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.usefixtures("portable")
def test_a_reward_survives_the_disk_in_bfloat16(models: Path, tmp_path: Path, warm: bool) -> None:
    shutil.copytree(models, tmp_path / "models")
    reward = create_short(tmp_path / "models", warm=warm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reward.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    for _ in range(2):
        reward.save_pretrained(tmp_path / "reward")
    settings = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert settings["base"] == f"../models/{QWEN}"
    assert settings["videoreward"] == (f"../models/{VIDEOREWARD}" if warm else None)
    assert sum(path.stat().st_size for path in (tmp_path / "reward").rglob("*")) < 1.5e6  # nothing copied
    again = ICRewardModel.from_pretrained(tmp_path / "reward", dtype=BF16)
    assert again.config == reward.config
    values = dict(again.named_parameters())
    for name, parameter in reward.named_parameters():
        assert torch.equal(parameter, values[name]) and parameter.requires_grad == values[name].requires_grad, name
    again.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "reward" / file).read_bytes()
    with torch.no_grad():
        assert torch.equal(reward(*tokens(1)), again(*tokens(1)))


def test_the_reference_moves_the_score_but_not_the_quality(reward: ICRewardModel) -> None:
    video, references = tokens(1)
    other = references.flip(1)
    with torch.no_grad():
        assert torch.equal(reward.quality_logits(video, references), reward.quality_logits(video, other))
        assert (reward(video, references) - reward(video, other)).abs().max() > 1e-4


def test_a_whole_score_of_a_users_clip(reward: ICRewardModel) -> None:
    rng = np.random.default_rng(0)
    videos = [Video(rng.integers(0, 256, (12, 56, 84, 3), dtype=np.uint8), 6.0) for _ in range(2)]
    scores = reward.score(videos[0].frames[0], videos)
    assert scores.frames.shape == (2, 12)
    assert reward.consistency_maps(videos[0].frames[0], videos[:1]).shape == (1, 12, 56, 84)


@pytest.mark.usefixtures("portable")
def test_no_tensor_stays_behind_on_another_device(models: Path) -> None:
    """On the device without memory, where an operation with a tensor of the CPU fails as on a GPU."""
    reward = create_short(models).to("meta")
    video, references = tokens(2)
    assert reward(video, references).device.type == "meta"
    assert reward(video.to("meta"), references.to("meta")).shape == (2, 3, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_scores_of_the_cpu(models: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [Video(rng.integers(0, 256, (12, 56, 84, 3), dtype=np.uint8), 6.0) for _ in range(2)]
    start, config = models / VIDEOREWARD, replace(CONFIG)
    scores = [
        ICRewardModel.create(str(models / QWEN), config, seed=0, videoreward=start, device=device).score(
            videos[0].frames[0], videos
        )
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(scores[0].overall, scores[1].overall, atol=0.02)  # bfloat16


@pytest.mark.fault
def test_a_base_that_is_not_whole_is_refused(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "qwen"
    shutil.copytree(models / QWEN, broken)
    index = json.loads((broken / "model.safetensors.index.json").read_text())
    file = broken / index["weight_map"].pop("visual.merger.ln_q.weight")
    weights = load_file(file)
    weights.pop("visual.merger.ln_q.weight")
    save_file(weights, file, metadata={"format": "pt"})
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as .*visual\.merger\.ln_q\.weight"):
        ICRewardModel.create(str(broken), CONFIG, seed=0)
    with pytest.raises(OSError):
        ICRewardModel.create(str(tmp_path / "none"), CONFIG, seed=0)


@pytest.mark.parity
def test_the_plain_videoreward_agrees_in_the_public_layout(models: Path) -> None:
    """On ICReward's text, whose first reward tokens have VideoReward's ids; text alignment at the third."""
    model = VideoReward(models / VIDEOREWARD, str(models / QWEN))
    reward = create(models)
    clip = Video(np.random.default_rng(0).integers(0, 256, (4, 336, 336, 3), dtype=np.uint8), 2.0)
    inputs = reward.processor.video_processor(
        [torch.from_numpy(clip.frames).permute(0, 3, 1, 2)],
        do_sample_frames=False,
        cap_pixels_per_frame=False,
        return_tensors="pt",
    )
    video = reward.encode_videos([clip])
    pad = torch.full((video.shape[1:4].numel(),), reward.backbone.config.video_token_id)
    prompt = reward.prompt
    ids = torch.cat([prompt.before, pad, prompt.rubric, prompt.after])[None]
    logits = model(ids, inputs["pixel_values_videos"], inputs["video_grid_thw"])
    with torch.no_grad():
        own = reward.quality_logits(video, video[:, 0])
    torch.testing.assert_close(logits[:, :2], own, atol=1e-5, rtol=0)

"""VideoReward's public checkpoint format: upstream's logits, a start for ICReward, and files that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import support
import torch
from safetensors.torch import load_file
from support.plain_videoreward import VideoReward
from support.standins_vlm import MODEL_CONFIG, peft_names, random_lora
from torch import Tensor
from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel
from icreward_lib.rewards.videoreward import read_checkpoint

REFERENCE = support.REFERENCE / "videoreward"
RANK, ALPHA = 8, 12
CONFIG = ICRewardConfig(num_frames=4, head_size=32, head_attention=2, lora_rank=RANK, lora_alpha=ALPHA)


def write_checkpoint(folder: Path, weights: dict[str, Tensor]) -> Path:
    """`weights` in the public layout, part of them moved into a LoRA that is not merged; the file of weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lora = random_lora(weights, RANK)
    for name in [name for name in lora if name.endswith("lora_A")]:
        module = name.removesuffix(".lora_A")
        low, high = lora[name], lora[f"{module}.lora_B"]
        weights = weights | {f"{module}.weight": weights[f"{module}.weight"] - ALPHA / RANK * high @ low}
    weights = weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}
    path = folder / "checkpoint-11" / "model.pth"
    path.parent.mkdir(parents=True)
    torch.save(peft_names(weights, lora), path)
    write_settings(folder, output_dim=len(weights["rm_head.weight"]))
    return path


def write_settings(folder: Path, **pooling: object) -> None:
    settings = json.loads(json.dumps(MODEL_CONFIG))
    settings["model_config"] |= pooling
    settings["peft_lora_config"] |= {"lora_r": RANK, "lora_alpha": ALPHA}
    (folder / "model_config.json").write_text(json.dumps(settings))


def reference_weights(outputs: int) -> dict[str, Tensor]:
    """Upstream's random model with one reward head or with three; they differ in nothing else."""
    weights = load_file(REFERENCE / "state_od1.safetensors")
    if outputs == 3:
        weights["rm_head.weight"] = load_file(REFERENCE / "outputs_od3.safetensors")["rm_head.weight"]
    return weights


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the reference model was made from: config and processor, and weights that are never to be read."""
    folder = tmp_path_factory.mktemp("base")
    config = json.loads((REFERENCE / "config.json").read_text())["config"]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "tokenizer")
    Qwen2VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor()).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=[1, 3])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videoreward")
    write_checkpoint(folder, reference_weights(request.param))
    earlier = folder / "checkpoint-5" / "model.pth"
    earlier.parent.mkdir()
    earlier.write_bytes(b"")
    return folder


def expected(folder: Path) -> Tensor:
    outputs = json.loads((folder / "model_config.json").read_text())["model_config"]["output_dim"]
    return load_file(REFERENCE / f"outputs_od{outputs}.safetensors")["logits_1d"]


def clips() -> list[tuple[list[int], Tensor, Tensor]]:
    """Ids, patches and grid of each clip of the reference."""
    inputs = load_file(REFERENCE / "inputs.safetensors")
    patches = inputs["pixel_values_videos"].split(inputs["video_grid_thw"].prod(1).tolist())
    return list(zip(inputs["input_ids"].tolist(), patches, inputs["video_grid_thw"], strict=True))


def template_of(ids: list[int], tokenizer) -> str:  # type: ignore[no-untyped-def]
    """ICReward's template with the text of `ids` up to the token of motion quality, and a reference after it."""
    video, motion = tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|MQ_reward|>"])
    start, count = ids.index(video), ids.count(video)
    before, rubric = (tokenizer.decode(part) for part in (ids[:start], ids[start + count : ids.index(motion) + 1]))
    return f"{before}{{video}}{rubric}<|vision_start|>{{reference}}<|vision_end|><|IC_reward|>"


@pytest.mark.parity
def test_the_logits_are_upstreams(checkpoint: Path, base: str) -> None:
    """VideoReward's own code on the same random weights, run under the transformers version it pins."""
    inputs = load_file(REFERENCE / "inputs.safetensors")
    model = VideoReward(checkpoint, base)
    logits = model(inputs["input_ids"], inputs["pixel_values_videos"], inputs["video_grid_thw"])
    torch.testing.assert_close(logits, expected(checkpoint), atol=1e-5, rtol=0)


@pytest.mark.parity
def test_icreward_starts_with_upstreams_visual_and_motion_quality(checkpoint: Path, base: str) -> None:
    """Whatever the reference image is, and also after a way over the disk."""
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "tokenizer")
    qualities, swapped = [], []
    for ids, pixels, grid in clips():
        config = replace(CONFIG, template=template_of(ids, tokenizer))
        reward = ICRewardModel.create(base, config, seed=0, videoreward=checkpoint)
        end = ids.index(reward.reward_ids[1]) + 1
        video = [reward.processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")] * (ids[:end].count(305))
        assert reward.prompt.before.tolist() + video + reward.prompt.rubric[:-1].tolist() == ids[:end]
        tokens = reward._see(pixels, grid[None])
        with torch.no_grad():
            qualities.append(reward.quality_logits(tokens, tokens[:, 0]))
            swapped.append(reward.quality_logits(tokens, tokens[:, -1].flip(1)))
            scores = [reward(tokens, reference) for reference in (tokens[:, 0], tokens[:, -1].flip(1))]
        assert (scores[0] - scores[1]).abs().min() > 1e-4
    torch.testing.assert_close(torch.cat(qualities), expected(checkpoint)[:, :2], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(qualities), torch.cat(swapped), atol=1e-6, rtol=0)


def test_icreward_takes_over_all_but_the_head(checkpoint: Path, base: str) -> None:
    reward = ICRewardModel.create(base, CONFIG, seed=0, videoreward=checkpoint)
    weights = torch.load(checkpoint / "checkpoint-11" / "model.pth", weights_only=True)
    embeddings = weights["base_model.model.model.embed_tokens.weight"]
    assert torch.equal(reward.reward_embeddings, embeddings[306:309])  # image consistency starts as text alignment
    layer = reward.backbone.language_model.layers[1].mlp.up_proj
    name = "base_model.model.model.layers.1.mlp.up_proj"
    assert torch.equal(layer.base_layer.weight, weights[f"{name}.base_layer.weight"])
    assert torch.equal(layer.lora_A["default"].weight, weights[f"{name}.lora_A.default.weight"])
    assert torch.equal(reward.rm_head.weight, weights["base_model.model.rm_head.weight"])
    trained = {name for name, p in reward.named_parameters() if p.requires_grad}
    assert sum("lora_" in name for name in trained) == 2 * 7 * 2
    assert all(name.startswith("head.") or "lora_" in name or name == "reward_embeddings" for name in trained)
    other = ICRewardModel.create(base, CONFIG, seed=1, videoreward=checkpoint)
    pairs = zip(reward.named_parameters(), other.named_parameters(), strict=True)
    assert {name.split(".")[0] for (name, p), (_, q) in pairs if not torch.equal(p, q)} == {"head"}


def test_a_started_reward_survives_the_disk_and_a_move_with_its_checkpoint(
    checkpoint: Path, base: str, tmp_path: Path
) -> None:
    there = tmp_path / "project"
    for source, name in ((base, "base"), (checkpoint, "videoreward")):
        shutil.copytree(source, there / name)
    reward = ICRewardModel.create(str(there / "base"), CONFIG, seed=0, videoreward=there / "videoreward")
    with torch.no_grad():
        for parameter in reward.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    reward.save_pretrained(there / "reward")
    assert json.loads((there / "reward" / "config.json").read_text())["videoreward"] == "../videoreward"
    there.rename(tmp_path / "elsewhere")
    again = ICRewardModel.from_pretrained(tmp_path / "elsewhere" / "reward")
    tokens = torch.randn(1, 2, 2, 2, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(reward(tokens, tokens[:, 0]), again(tokens, tokens[:, 0]))
        assert torch.equal(reward.quality_logits(tokens, tokens[:, 0]), again.quality_logits(tokens, tokens[:, 0]))
    shutil.rmtree(tmp_path / "elsewhere" / "videoreward")
    with pytest.raises(FileNotFoundError, match="videoreward"):
        ICRewardModel.from_pretrained(tmp_path / "elsewhere" / "reward")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A checkpoint to break."""
    write_checkpoint(tmp_path / "videoreward", reference_weights(1))
    return tmp_path / "videoreward"


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "checkpoint-11" / "model.pth"
    weights = torch.load(path, weights_only=True)
    change(weights)
    torch.save(weights, path)


@pytest.mark.fault
@pytest.mark.parametrize("size", [0, 1000, -1])
def test_a_truncated_file_is_refused(fresh: Path, base: str, size: int) -> None:
    path = fresh / "checkpoint-11" / "model.pth"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.pth is damaged"):
        VideoReward(fresh, base)


class Trap:
    """Unpickled without care, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.fault
def test_a_file_that_holds_code_or_no_tensors_is_refused(fresh: Path, tmp_path: Path) -> None:
    path = fresh / "checkpoint-11" / "model.pth"
    torch.save({"a": Trap(tmp_path / "sprung")}, path)
    with pytest.raises(ValueError, match="damaged or no file of tensors"):
        read_checkpoint(fresh)
    assert not (tmp_path / "sprung").exists()
    torch.save({"a": [torch.zeros(1)]}, path)
    with pytest.raises(ValueError, match="something else than named tensors"):
        read_checkpoint(fresh)


LAYER = "base_model.model.model.layers.0."


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("base_model.model.visual.merger.ln_q.weight"), "lacks 1 weights, such as visual.merger"),
        (lambda w: w.pop(LAYER + "mlp.up_proj.base_layer.weight"), "lacks 1 weights, such as language_model.layers.0"),
        (lambda w: w.pop(LAYER + "mlp.up_proj.lora_B.default.weight"), "lacks 1 weights, such as layers.0.mlp.up_proj"),
        (lambda w: w.pop("base_model.model.rm_head.weight"), "lacks its rm_head"),
        (lambda w: w.pop("base_model.model.model.embed_tokens.weight"), "lacks its embeddings"),
        (lambda w: w.update({"more": torch.zeros(1)}), "has 1 weights that the model .* does not, such as more"),
        (lambda w: w.update({LAYER + "more.lora_A.default.weight": torch.zeros(1)}), "has 1 weights .* layers.0.more"),
        (lambda w: w.update({"base_model.model.rm_head.weight": torch.zeros(2, 64)}), r"rm_head has shape \(2, 64\)"),
        (lambda w: w.update({"base_model.model.rm_head.weight": torch.zeros(1, 32)}), "rm_head is 32 wide"),
        (
            lambda w: w.update({LAYER + "mlp.up_proj.lora_A.default.weight": torch.zeros(4, 64)}),
            r"does not fit the model with LoRA of rank 8: .* \(4, 64\), not \(8, 64\)",
        ),
    ],
)
def test_missing_and_unexpected_weights_are_named(
    fresh: Path, base: str, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit(fresh, change)
    with pytest.raises(ValueError, match=message) as raised:
        VideoReward(fresh, base)
    assert "\n" not in str(raised.value)


@pytest.mark.fault
def test_a_checkpoint_of_another_base_is_refused(fresh: Path, base: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(base, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(ValueError, match=r"model\.pth does not fit the model .*other: its language_model.*, not") as e:
        ICRewardModel.create(str(other), CONFIG, seed=0, videoreward=fresh)
    assert "\n" not in str(e.value)


@pytest.mark.fault
def test_a_folder_without_its_files_or_of_another_kind_is_refused(fresh: Path, base: str) -> None:
    with pytest.raises(ValueError, match="rank 8 and alpha 12, the settings say 4 and 12"):
        ICRewardModel.create(base, replace(CONFIG, lora_rank=4), seed=0, videoreward=fresh)
    write_settings(fresh, reward_token="last")
    with pytest.raises(ValueError, match=r"model_config\.json is not .*model_config\.reward_token: .*'special'"):
        read_checkpoint(fresh)
    (fresh / "model_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_config\.json is not"):
        read_checkpoint(fresh)
    write_settings(fresh)
    shutil.rmtree(fresh / "checkpoint-11")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint-N/model\.pth"):
        read_checkpoint(fresh)
    (fresh / "model_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model_config\.json is missing"):
        read_checkpoint(fresh)

"""ICReward: VideoReward with a reference image where the text prompt stood, and an image-consistency head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from icreward_lib.files import atomic, write_json
from icreward_lib.rewards.base import (
    Array,
    Image,
    Scores,
    check_weights,
    frame_matrix,
    model_reference,
    resolve_model,
    to_scores,
)
from icreward_lib.rewards.head import Consistency, ConsistencyHead, Tokens
from icreward_lib.rewards.prompt import REWARD_TOKENS, SHORT_TEMPLATE, read_template
from icreward_lib.video import Video

#: Every linear map of Qwen2-VL's language model, as in VideoReward.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ICRewardConfig:
    """The text, frames read of each clip (even), sizes of head and LoRA, shares of subject and background."""

    template: str = SHORT_TEMPLATE
    num_frames: int = 8
    head_size: int = 128
    head_attention: int = 4
    lora_rank: int = 16
    lora_alpha: int = 32
    weights: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        check_weights(self.weights)
        if self.num_frames < 2 or self.num_frames % 2:
            raise ValueError(f"num_frames must be even and at least 2, got {self.num_frames}")


class Reading(NamedTuple):
    """States of the language model at video tokens (B,G,h,w,D), reference tokens (B,h',w',D), reward tokens.

    `visual`, `motion` and `consistency`, (B,D) each, stand at the tokens of the reward of that name.
    """

    video: Tensor
    reference: Tensor
    visual: Tensor
    motion: Tensor
    consistency: Tensor


def sample_frames(total: int, num_frames: int) -> npt.NDArray[np.int64]:
    """Indices of an even number of frames, at most `num_frames`, from the first to the last of `total`."""
    count = max(2, min(num_frames, total - total % 2))
    return np.linspace(0, total - 1, count).round().astype(np.int64)


class ICReward(nn.Module):
    """Scores videos by how well they keep a reference image (`Reward`).

    The vision tower is frozen, so its tokens can be computed once (`encode_videos`, `encode_images`) and
    scored many times (`forward`, `score_tokens`). Every token has one position on all three axes of the
    rotary embedding, as VideoReward was trained. No dropout, no padding: a batch holds clips of one shape.
    """

    name = "ICReward"

    def __init__(
        self,
        vlm: Qwen2VLForConditionalGeneration,
        processor: Qwen2VLProcessor,
        config: ICRewardConfig,
        *,
        base: str,
    ) -> None:
        """Wrap `vlm`, which came from the hub id or folder `base`, without LoRA: `create` adds it."""
        super().__init__()
        self.config, self.processor, self.base = config, processor, base
        processor.tokenizer.add_special_tokens({"extra_special_tokens": list(REWARD_TOKENS)})
        self.prompt = read_template(config.template, processor.tokenizer)
        self.reward_ids = processor.tokenizer.convert_tokens_to_ids(list(REWARD_TOKENS))

        self.backbone = vlm.model.requires_grad_(False).eval()
        table = self.backbone.language_model.embed_tokens.weight.detach()
        size = table.shape[1]
        # The base's embedding table stays as it is; a token it has no row for starts as the average word.
        rows = [table[i] if i < len(table) else table.mean(0) for i in self.reward_ids]
        self.reward_embeddings = nn.Parameter(torch.stack(rows).float())
        self.rm_head = nn.Linear(size, 1, bias=False).requires_grad_(False)
        self.head = ConsistencyHead(size, config.head_size, config.head_attention)
        self.register_buffer("weights", torch.tensor(config.weights), persistent=False)
        self.weights: Tensor

    @classmethod
    def create(cls, base: str, config: ICRewardConfig, *, seed: int) -> ICReward:
        """A new reward on the Qwen2-VL `base` (hub id or folder), with head and LoRA drawn from `seed`."""
        vlm = Qwen2VLForConditionalGeneration.from_pretrained(base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reward = cls(vlm, Qwen2VLProcessor.from_pretrained(base), config, base=base)
            reward.backbone.language_model.add_adapter(
                LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules=list(LORA_TARGETS))
            )
        return reward

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.reward_embeddings.device

    # Vision

    @torch.no_grad()
    def _see(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Vision tokens (N,G,h,w,D) of N equally large inputs, each with grid (t, h, w) in patches."""
        # pooler_output is after the merger; last_hidden_state is before it and of another size.
        tokens = self.backbone.visual(pixels.to(self.device), grid_thw=grid.to(self.device)).pooler_output
        merge = self.backbone.config.vision_config.spatial_merge_size
        groups, height, width = grid[0].tolist()
        seen: Tensor = tokens.view(len(grid), groups, height // merge, width // merge, -1)
        return seen

    def encode_videos(self, videos: Sequence[Video], *, batch_size: int = 16) -> Tensor:
        """Vision tokens (K,G,h,w,D) of K videos of one length and size, for G pairs of the sampled frames."""
        if len({video.frames.shape for video in videos}) != 1:
            raise ValueError("videos encoded together must have one length and size")
        wanted = sample_frames(videos[0].num_frames, self.config.num_frames)
        clips = [torch.from_numpy(video.frames[wanted]).permute(0, 3, 1, 2) for video in videos]
        parts = []
        for start in range(0, len(clips), batch_size):
            inputs = self.processor.video_processor(
                clips[start : start + batch_size],
                do_sample_frames=False,
                cap_pixels_per_frame=False,
                return_tensors="pt",
            )
            parts.append(self._see(inputs["pixel_values_videos"], inputs["video_grid_thw"]))
        return torch.cat(parts)

    def encode_images(self, images: Sequence[Image], *, batch_size: int = 64) -> Tensor:
        """Vision tokens (N,h,w,D) of N equally large images."""
        if len({image.shape for image in images}) != 1:
            raise ValueError("images encoded together must have one size")
        pictures = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        parts = []
        for start in range(0, len(pictures), batch_size):
            inputs = self.processor.image_processor(pictures[start : start + batch_size], return_tensors="pt")
            parts.append(self._see(inputs["pixel_values"], inputs["image_grid_thw"])[:, 0])
        return torch.cat(parts)

    # Language and head

    def _words(self) -> tuple[Tensor, ...]:
        """Embeddings of the prompt's three parts."""
        ids = self.prompt.ids.to(self.device)
        own = ids[:, None] == torch.tensor(self.reward_ids, device=self.device)
        words = self.backbone.language_model.embed_tokens(ids.masked_fill(own.any(1), 0))
        reward = self.reward_embeddings[own.int().argmax(1)].to(words)
        both = torch.where(own.any(1)[:, None], reward, words)
        return torch.split(both, list(self.prompt.lengths))

    def read(self, video: Tensor, reference: Tensor) -> Reading:
        """Have the language model read `video` (B,G,h,w,D), the rubric and `reference` (B,h',w',D) tokens."""
        count, clip, picture = len(video), video.shape[1:4], reference.shape[1:3]
        before, rubric, after = (part.expand(count, -1, -1) for part in self._words())
        parts = [before, video.flatten(1, 3).to(before), rubric, reference.flatten(1, 2).to(before), after]
        inputs = torch.cat(parts, dim=1)
        positions = torch.arange(inputs.shape[1], device=self.device).expand(3, count, -1)
        states = self.backbone.language_model(
            inputs_embeds=inputs, position_ids=positions, use_cache=False
        ).last_hidden_state.float()
        _, seen, asked, kept, last = states.split([part.shape[1] for part in parts], dim=1)
        visual, motion = (asked[:, self.prompt.rubric == token].squeeze(1) for token in self.reward_ids[:2])
        return Reading(seen.unflatten(1, clip), kept.unflatten(1, picture), visual, motion, last[:, -1])

    def compare(self, video: Tensor, reference: Tensor) -> Consistency:
        """Consistency per group (B,G,2) and per token (B,G,h*w,2), in [0,1], of what `read` takes."""
        reading = self.read(video, reference)
        result: Consistency = self.head(
            Tokens(video.float().flatten(2, 3), reading.video.flatten(2, 3)),
            Tokens(reference.float().flatten(1, 2), reading.reference.flatten(1, 2)),
            reading.consistency,
        )
        return result

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores (B,G,2) in [0,1] per frame group and dimension."""
        return self.compare(video, reference).groups

    def quality_logits(self, video: Tensor, reference: Tensor) -> Tensor:
        """VideoReward's raw visual and motion quality (B,2), which no reference can move."""
        reading = self.read(video, reference)
        logits: Tensor = self.rm_head(torch.stack([reading.visual, reading.motion], dim=1)).squeeze(-1)
        return logits

    # What users call

    def _times(self, num_frames: int) -> list[float]:
        """The middle of each frame group, in frames."""
        times: list[float] = sample_frames(num_frames, self.config.num_frames).reshape(-1, 2).mean(1).tolist()
        return times

    @torch.no_grad()
    def score_tokens(self, video: Tensor, reference: Tensor, *, num_frames: int) -> Scores:
        """Scores of K clips of `num_frames` frames from tokens (K,G,h,w,D) and the reference's (h',w',D)."""
        parts = self(video.to(self.device), reference.to(self.device).expand(len(video), -1, -1, -1))
        return to_scores(parts, self.weights, self._times(num_frames), num_frames)

    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores of K videos of one length and size against `image` (H,W,3)."""
        tokens = self.encode_videos(videos)
        return self.score_tokens(tokens, self.encode_images([image])[0], num_frames=videos[0].num_frames)

    @torch.no_grad()
    def consistency_maps(self, image: Image, videos: Sequence[Video]) -> Array:
        """Where each video keeps `image`: (K,T,H,W) in [0,1], 1 = kept, upsampled from the token grid."""
        video, reference = self.encode_videos(videos), self.encode_images([image])
        tokens = self.compare(video, reference.expand(len(videos), -1, -1, -1)).tokens @ self.weights
        num_frames, height, width, _ = videos[0].frames.shape
        frames = torch.einsum("tg,kgn->ktn", frame_matrix(self._times(num_frames), num_frames).to(tokens), tokens)
        maps = F.interpolate(frames.unflatten(2, video.shape[2:4]), (height, width), mode="bilinear")
        result: Array = maps.clamp(0, 1).cpu().numpy()
        return result

    # Files

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, processor, `adapter/` (LoRA) and `model.safetensors` (all else that is ours).

        The base is named, by its path relative to `folder` or its hub id, and not copied.
        """
        folder = Path(folder)
        with atomic(folder) as new:
            settings = asdict(self.config) | {"base": model_reference(self.base, folder)}
            write_json(new / "config.json", settings)
            self.processor.save_pretrained(new)
            language_model = self.backbone.language_model
            language_model.peft_config["default"].base_model_name_or_path = None  # config.json names it
            language_model.save_pretrained(new / "adapter")
            save_model(self._own(), str(new / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ICReward:
        """Load what `save_pretrained` wrote. FileNotFoundError if `folder` or its base is missing."""
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} holds no ICReward: config.json is missing")
        settings = json.loads((folder / "config.json").read_text())
        base = resolve_model(settings.pop("base"), folder)
        settings["weights"] = tuple(settings["weights"])
        vlm = Qwen2VLForConditionalGeneration.from_pretrained(base)
        reward = cls(vlm, Qwen2VLProcessor.from_pretrained(folder), ICRewardConfig(**settings), base=base)
        load_model(reward._own(), str(folder / "model.safetensors"))
        reward.backbone.language_model.load_adapter(str(folder / "adapter"), is_trainable=True)
        return reward

    def _own(self) -> nn.Module:
        """The parameters that are neither the base's nor LoRA's, sharing storage with this model."""
        own = nn.Module()
        own.head, own.rm_head = self.head, self.rm_head
        own.reward_embeddings = self.reward_embeddings
        return own

"""ICReward: VideoReward with a reference image where the text prompt stood, and an image-consistency head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from peft import load_peft_weights
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import Qwen2VLModel, Qwen2VLProcessor

from icreward_lib.rewards.backbone import (
    add_vlm_lora,
    default_dtype,
    load_backbone,
    load_lora,
    read_line,
    sample_frames,
)
from icreward_lib.rewards.base import (
    Array,
    Image,
    Scores,
    check_weights,
    interpolate_frames,
    model_reference,
    read_config,
    resolve_model,
    to_scores,
)
from icreward_lib.rewards.head import Consistency, ConsistencyHead, Tokens, with_motion
from icreward_lib.rewards.prompt import REWARD_TOKENS, ICRewardConfig, read_template
from icreward_lib.rewards.videoreward import Checkpoint, make_head, read_checkpoint, read_out
from icreward_lib.run.files import atomic, write_json
from icreward_lib.video import Video


class Reading(NamedTuple):
    """States of the language model at video tokens (B,G,h,w,D), reference tokens (B,h',w',D), reward tokens.

    `visual`, `motion` and `consistency`, (B,D) each, stand at the tokens of the reward of that name.
    """

    video: Tensor
    reference: Tensor
    visual: Tensor
    motion: Tensor
    consistency: Tensor


def group_times(num_frames: int, groups: int) -> list[float]:
    """The middles, in frames, of the groups of frames that ICReward reads of a clip."""
    times: list[float] = sample_frames(num_frames, 2 * groups).reshape(-1, 2).mean(1).tolist()
    return times


def upsample_maps(tokens: Tensor, shape: tuple[int, int, int]) -> Array:
    """Maps (K,T,H,W) in [0,1] of clips of `shape` T,H,W, from the consistency (K,G,h,w) of their tokens."""
    maps = interpolate_frames(tokens, group_times(shape[0], tokens.shape[1]), shape[0])
    result: Array = F.interpolate(maps, shape[1:], mode="bilinear").clamp(0, 1).cpu().numpy()
    return result


class ICRewardModel(nn.Module):
    """Scores videos by how well they keep a reference image (`Reward`).

    The vision tower is frozen, so its tokens can be computed once (`encode_videos`, `encode_images`) and
    scored many times (`forward`, `score_tokens`). Every token has one position on all three axes of the
    rotary embedding, as VideoReward was trained. No dropout, no padding: a batch holds clips of one shape.
    """

    name = "ICReward"

    def __init__(
        self,
        backbone: Qwen2VLModel,
        processor: Qwen2VLProcessor,
        config: ICRewardConfig,
        *,
        base: str,
        start: Checkpoint | None,
    ) -> None:
        """Wrap `backbone`, from the hub id or folder `base` or from the VideoReward `start`, without LoRA."""
        super().__init__()
        self.config, self.processor, self.base = config, processor, base
        self.videoreward = None if start is None else str(start.folder)
        processor.tokenizer.add_special_tokens({"extra_special_tokens": list(REWARD_TOKENS)})
        self.prompt = read_template(config.template, processor.tokenizer)
        self.reward_ids = processor.tokenizer.convert_tokens_to_ids(list(REWARD_TOKENS))

        self.backbone = backbone.requires_grad_(False).eval()
        table = self.backbone.language_model.embed_tokens.weight.detach()
        size = table.shape[1]
        # The base's embedding table stays as it is; a token it has no row for starts as the average word.
        rows = torch.stack([table[i] if i < len(table) else table.mean(0) for i in self.reward_ids])
        # The token of image consistency starts as that of text alignment, in whose place it stands.
        self.reward_embeddings = nn.Parameter(rows.float() if start is None else start.reward_embeddings)
        self.rm_head = nn.Linear(size, 1, bias=False).requires_grad_(False)
        self.head = ConsistencyHead(size, config.head_size, config.head_attention, temporal=config.temporal)
        if start is not None:
            self.rm_head = make_head(start.rm_head)
        self.register_buffer("weights", torch.tensor(config.weights), persistent=False)
        self.weights: Tensor

    @classmethod
    def create(
        cls,
        base: str,
        config: ICRewardConfig,
        *,
        seed: int,
        videoreward: str | Path | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> ICRewardModel:
        """A new reward on the Qwen2-VL `base` (hub id or folder), with head and LoRA drawn from `seed`.

        The body computes in `dtype`, by default `default_dtype`; all that trains is float32.

        `videoreward`, a folder that `read_checkpoint` takes, starts it from VideoReward instead: vision tower,
        language model, LoRA, reward tokens and rm_head are the checkpoint's, only the head is drawn, and until
        it is trained `quality_logits` are VideoReward's. ValueError if the LoRA of `config` has another size.
        """
        start = None if videoreward is None else read_checkpoint(videoreward)
        if start is not None and (start.rank, start.alpha) != (config.lora_rank, config.lora_alpha):
            raise ValueError(
                f"the LoRA of {start.path} has rank {start.rank} and alpha {start.alpha}, "
                f"the settings say {config.lora_rank} and {config.lora_alpha}"
            )
        kind = dtype or default_dtype(device)
        backbone = load_backbone(base, kind) if start is None else start.backbone(base, kind)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reward = cls(backbone, Qwen2VLProcessor.from_pretrained(base), config, base=base, start=start)
            if start is None:
                add_vlm_lora(backbone.language_model, config.lora_rank, config.lora_alpha)
            else:
                start.add_lora(backbone)
        return reward.to(device)

    def checkpoint_gradients(self) -> None:
        """Recompute the language model's layers in the backward pass instead of keeping what they computed.

        Much less memory for about a third more time, and the same gradients.
        """
        self.backbone.language_model.activation_checkpointing_enable()
        self.backbone.language_model.train()  # the layers only listen then; none of them has dropout

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
        seen: Tensor = tokens.view(len(grid), groups, height // merge, width // merge, -1).float().cpu()
        return seen

    def encode_videos(self, videos: Sequence[Video], *, batch_size: int = 16) -> Tensor:
        """Vision tokens (K,G,h,w,D) of K videos of one length and size, for G pairs of the sampled frames.

        float32 on the CPU, wherever the model computes.
        """
        if len({(video.frames.shape, self.config.frames_of(video)) for video in videos}) != 1:
            raise ValueError("videos encoded together must have one length and size")
        wanted = sample_frames(videos[0].num_frames, self.config.frames_of(videos[0]))
        clips = [torch.from_numpy(video.frames[wanted]).permute(0, 3, 1, 2) for video in videos]
        parts = []
        for start in range(0, len(clips), batch_size):
            inputs = self.processor.video_processor(
                clips[start : start + batch_size],
                do_sample_frames=False,
                cap_pixels_per_frame=False,
                return_tensors="pt",
                **self.config.picture_size,
            )
            parts.append(self._see(inputs["pixel_values_videos"], inputs["video_grid_thw"]))
        return torch.cat(parts)

    def encode_images(self, images: Sequence[Image], *, batch_size: int = 64) -> Tensor:
        """Vision tokens (N,h,w,D) of N equally large images, float32 on the CPU."""
        if len({image.shape for image in images}) != 1:
            raise ValueError("images encoded together must have one size")
        pictures = [torch.tensor(image).permute(2, 0, 1) for image in images]  # a copy: pictures may be read-only
        parts = []
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            inputs = self.processor.image_processor(batch, return_tensors="pt", **self.config.picture_size)
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
        states = read_line(self.backbone.language_model, torch.cat(parts, dim=1))
        _, seen, asked, kept, last = states.split([part.shape[1] for part in parts], dim=1)
        visual, motion = (asked[:, self.prompt.rubric == token].squeeze(1) for token in self.reward_ids[:2])
        return Reading(seen.unflatten(1, clip), kept.unflatten(1, picture), visual, motion, last[:, -1])

    def compare(self, video: Tensor, reference: Tensor) -> Consistency:
        """Consistency per group (B,G,2) and per token (B,G,h*w,2), in [0,1], of what `read` takes."""
        video, reference = video.to(self.device), reference.to(self.device)
        reading = self.read(video, reference)
        result: Consistency = self.head(
            Tokens(video.float().flatten(2, 3), reading.video.flatten(2, 3)),
            Tokens(reference.float().flatten(1, 2), reading.reference.flatten(1, 2)),
            reading.consistency,
        )
        return result

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores (B,G,D) in [0,1] per frame group and dimension; D is 3 with motion."""
        groups = self.compare(video, reference).groups
        return with_motion(groups, video.flatten(2, 3).to(groups), self.config.moving)

    def quality_logits(self, video: Tensor, reference: Tensor) -> Tensor:
        """VideoReward's raw visual and motion quality (B,2), which no reference can move."""
        reading = self.read(video, reference)
        return read_out(torch.stack([reading.visual, reading.motion], dim=1), self.rm_head)

    # What users call

    @torch.no_grad()
    def score_tokens(
        self, video: Tensor, reference: Tensor, *, num_frames: int, weights: Sequence[float] | None = None
    ) -> Scores:
        """Scores of K clips of `num_frames` frames from tokens (K,G,h,w,D) and the reference's (h',w',D).

        `weights` replaces the dimensions' shares of the overall score that the reward was trained with.
        """
        shares = self.weights
        if weights is not None:
            check_weights(weights)
            shares = torch.tensor(weights).to(self.weights)
        parts = self(video, reference.expand(len(video), -1, -1, -1))
        return to_scores(parts, shares, group_times(num_frames, video.shape[1]), num_frames)

    def score(self, image: Image, videos: Sequence[Video], *, weights: Sequence[float] | None = None) -> Scores:
        """Scores of K videos of one length and size against `image` (H,W,3); `weights` as of `score_tokens`."""
        tokens, reference = self.encode_videos(videos), self.encode_images([image])[0]
        return self.score_tokens(tokens, reference, num_frames=videos[0].num_frames, weights=weights)

    @torch.no_grad()
    def consistency_maps(self, image: Image, videos: Sequence[Video]) -> Array:
        """Where each video keeps `image`: (K,T,H,W) in [0,1], 1 = kept, upsampled from the token grid."""
        video, reference = self.encode_videos(videos), self.encode_images([image])
        tokens = self.compare(video, reference.expand(len(videos), -1, -1, -1)).tokens @ self.weights
        return upsample_maps(tokens.unflatten(2, video.shape[2:4]), videos[0].frames.shape[:3])

    # Files

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, processor, `adapter/` (LoRA) and `model.safetensors` (all else that is ours).

        The base is named, by its path relative to `folder` or its hub id, and not copied; so is VideoReward.
        """
        folder = Path(folder)
        with atomic(folder) as new:
            start = self.videoreward and model_reference(self.videoreward, folder)
            settings = asdict(self.config) | {"base": model_reference(self.base, folder), "videoreward": start}
            write_json(new / "config.json", settings)
            self.processor.save_pretrained(new)
            language_model = self.backbone.language_model
            language_model.peft_config["default"].base_model_name_or_path = None  # config.json names it
            language_model.save_pretrained(new / "adapter")
            save_model(self._own(), str(new / "model.safetensors"))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> ICRewardModel:
        """Load what `save_pretrained` wrote. FileNotFoundError if `folder` or what it builds on is missing."""
        folder = Path(folder)
        settings = read_config(folder, "ICReward")
        base = resolve_model(settings.pop("base"), folder)
        videoreward = settings.pop("videoreward")
        start = None if videoreward is None else read_checkpoint(resolve_model(videoreward, folder))
        config = ICRewardConfig(**settings)
        kind = dtype or default_dtype(device)
        backbone = load_backbone(base, kind) if start is None else start.backbone(base, kind)
        processor = Qwen2VLProcessor.from_pretrained(folder)
        reward = cls(backbone, processor, config, base=base, start=start)
        load_model(reward._own(), str(folder / "model.safetensors"))
        adapter = load_peft_weights(str(folder / "adapter"), device="cpu")
        lora = {name.removeprefix("base_model.model."): value for name, value in adapter.items()}
        load_lora(backbone.language_model, config.lora_rank, config.lora_alpha, lora, source=folder)
        return reward.to(device)

    def _own(self) -> nn.Module:
        """The parameters that are neither the base's nor LoRA's, sharing storage with this model."""
        own = nn.Module()
        own.head, own.rm_head = self.head, self.rm_head
        own.reward_embeddings = self.reward_embeddings
        return own

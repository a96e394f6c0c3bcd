"""ICReward: VideoReward with a reference image where the text prompt stood, and an image-consistency head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import load_peft_weights
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import Qwen2VLModel, Qwen2VLProcessor

from icreward_lib.rewards.backbone import add_vlm_lora, load_lora, read_line, sample_frames
from icreward_lib.rewards.base import Array, Image, Scores, interpolate_frames, read_config, to_scores, write_config
from icreward_lib.rewards.head import Consistency, ConsistencyHead, Tokens, with_motion
from icreward_lib.rewards.prompt import REWARD_TOKENS, ICRewardConfig, read_template
from icreward_lib.rewards.videoreward import Checkpoint, load_body, make_head, read_out
from icreward_lib.run.files import atomic
from icreward_lib.video import Video

CLIPS_AT_A_TIME, PICTURES_AT_A_TIME = 16, 64  # that the vision tower sees


class Reading(NamedTuple):
    """States of the language model at tokens of video (B,G,h,w,D), reference (B,h',w',D), `REWARD_TOKENS` (B,3,D)."""

    video: Tensor
    reference: Tensor
    rewards: Tensor


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
    """Scores videos by how well they keep a reference image (`Reward`); a batch holds clips of one shape.

    The vision tower is frozen: its tokens (`encode_videos`, `encode_images`) serve many times (`score_tokens`).
    """

    name = "ICReward"

    def __init__(
        self, body: tuple[Qwen2VLModel, Checkpoint | None], base: str, config: ICRewardConfig, words: str | Path
    ) -> None:
        """Wrap what `load_body` gave of `base`; `words` is the hub id or folder of the processor."""
        super().__init__()
        backbone, start = body
        self.config, self.base = config, base
        self.processor = processor = Qwen2VLProcessor.from_pretrained(words)
        self.videoreward = None if start is None else str(start.path.parents[1])
        processor.tokenizer.add_special_tokens({"extra_special_tokens": list(REWARD_TOKENS)})
        self.prompt = read_template(config.template, processor.tokenizer)
        self.reward_ids = processor.tokenizer.convert_tokens_to_ids(list(REWARD_TOKENS))
        self.quality_places = [self.prompt.rubric.tolist().index(token) for token in self.reward_ids[:-1]]

        self.backbone = backbone.requires_grad_(False).eval()
        table = backbone.language_model.embed_tokens.weight.detach()
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

        `videoreward`, a folder that `read_checkpoint` takes, gives all but the head instead. The body computes in
        `dtype`, by default `default_dtype`; all that trains is float32. ValueError if that LoRA has another size.
        """
        backbone, start = body = load_body(base, videoreward, device=device, dtype=dtype)
        if start is not None and (start.rank, start.alpha) != (config.lora_rank, config.lora_alpha):
            wanted = f"the settings say {config.lora_rank} and {config.lora_alpha}"
            raise ValueError(f"the LoRA of {start.path} has rank {start.rank} and alpha {start.alpha}, {wanted}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reward = cls(body, base, config, base)
            if start is None:
                add_vlm_lora(backbone.language_model, config.lora_rank, config.lora_alpha)
            else:
                load_lora(backbone.language_model, start.rank, start.alpha, start.lora, source=start.path)
        return reward.to(device)

    def checkpoint_gradients(self) -> None:
        """Recompute layers in the backward pass: the same gradients, much less memory, about a third more time."""
        self.backbone.language_model.activation_checkpointing_enable()
        self.backbone.language_model.train()  # the layers only listen then; none of them has dropout

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.reward_embeddings.device

    @torch.no_grad()
    def _see(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Vision tokens (N,G,h,w,D) of N equally large inputs, each with grid (t, h, w) in patches."""
        # pooler_output is after the merger; last_hidden_state is before it and of another size.
        tokens = self.backbone.visual(pixels.to(self.device), grid_thw=grid.to(self.device)).pooler_output
        merge = self.backbone.config.vision_config.spatial_merge_size
        groups, height, width = grid[0].tolist()
        seen: Tensor = tokens.view(len(grid), groups, height // merge, width // merge, -1).float().cpu()
        return seen

    def _encode(self, process: Any, inputs: Sequence[Tensor], at_a_time: int, **options: bool) -> Tensor:
        parts = []
        for start in range(0, len(inputs), at_a_time):
            batch = inputs[start : start + at_a_time]
            made = process(batch, return_tensors="pt", **self.config.picture_size, **options)
            parts.append(self._see(*(made[name] for name in process.model_input_names)))
        return torch.cat(parts)

    def encode_videos(self, videos: Sequence[Video]) -> Tensor:
        """Vision tokens (K,G,h,w,D), float32 on the CPU, of K videos of one length and size, for G pairs of frames."""
        if len({(video.frames.shape, self.config.frames_of(video)) for video in videos}) != 1:
            raise ValueError("videos encoded together must have one length and size")
        wanted = sample_frames(videos[0].num_frames, self.config.frames_of(videos[0]))
        clips = [torch.from_numpy(video.frames[wanted]).permute(0, 3, 1, 2) for video in videos]
        as_they_are = {"do_sample_frames": False, "cap_pixels_per_frame": False}
        return self._encode(self.processor.video_processor, clips, CLIPS_AT_A_TIME, **as_they_are)

    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """Vision tokens (N,h,w,D) of N equally large images, float32 on the CPU."""
        if len({image.shape for image in images}) != 1:
            raise ValueError("images encoded together must have one size")
        pictures = [torch.tensor(image).permute(2, 0, 1) for image in images]  # a copy: pictures may be read-only
        return self._encode(self.processor.image_processor, pictures, PICTURES_AT_A_TIME)[:, 0]

    def _words(self) -> tuple[Tensor, ...]:
        """Embeddings of the prompt's three parts."""
        ids = torch.cat(self.prompt).to(self.device)
        own = ids[:, None] == torch.tensor(self.reward_ids, device=self.device)
        words = self.backbone.language_model.embed_tokens(ids.masked_fill(own.any(1), 0))
        reward = self.reward_embeddings[own.int().argmax(1)].to(words)
        return torch.where(own.any(1)[:, None], reward, words).split([len(part) for part in self.prompt])

    def read(self, video: Tensor, reference: Tensor) -> Reading:
        """Have the language model read `video` (B,G,h,w,D), the rubric and `reference` (B,h',w',D) tokens."""
        count, clip, picture = len(video), video.shape[1:4], reference.shape[1:3]
        before, rubric, after = (part.expand(count, -1, -1) for part in self._words())
        parts = [before, video.flatten(1, 3).to(before), rubric, reference.flatten(1, 2).to(before), after]
        states = read_line(self.backbone.language_model, torch.cat(parts, dim=1))
        _, seen, asked, kept, last = states.split([part.shape[1] for part in parts], dim=1)
        rewards = [asked[:, place] for place in self.quality_places] + [last[:, -1]]
        return Reading(seen.unflatten(1, clip), kept.unflatten(1, picture), torch.stack(rewards, dim=1))

    def compare(self, video: Tensor, reference: Tensor) -> Consistency:
        """Consistency per group (B,G,2) and per token (B,G,h*w,2), in [0,1], of what `read` takes."""
        video, reference = video.to(self.device), reference.to(self.device)
        reading = self.read(video, reference)
        result: Consistency = self.head(
            Tokens(video.float().flatten(2, 3), reading.video.flatten(2, 3)),
            Tokens(reference.float().flatten(1, 2), reading.reference.flatten(1, 2)),
            reading.rewards[:, -1],
        )
        return result

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores (B,G,D) in [0,1] per frame group and dimension; D is 3 with motion."""
        groups = self.compare(video, reference).groups
        return with_motion(groups, video.flatten(2, 3).to(groups), self.config.moving)

    def quality_logits(self, video: Tensor, reference: Tensor) -> Tensor:
        """VideoReward's raw visual and motion quality (B,2), which no reference can move."""
        return read_out(self.read(video, reference).rewards[:, :-1], self.rm_head)

    @torch.no_grad()
    def score_tokens(
        self, video: Tensor, reference: Tensor, *, num_frames: int, weights: tuple[float, float] | None = None
    ) -> Scores:
        """Scores of K clips from tokens (K,G,h,w,D) and the reference's (h',w',D); `weights` instead of its own."""
        shares = self.weights
        if weights is not None:  # as good as those of a config
            shares = torch.tensor(replace(self.config, weights=weights).weights).to(self.weights)
        parts = self(video, reference.expand(len(video), -1, -1, -1))
        return to_scores(parts, shares, group_times(num_frames, video.shape[1]), num_frames)

    def score(self, image: Image, videos: Sequence[Video], *, weights: tuple[float, float] | None = None) -> Scores:
        """Scores of K videos of one length and size against `image` (H,W,3); `weights` as of `score_tokens`."""
        tokens, reference = self.encode_videos(videos), self.encode_images([image])[0]
        return self.score_tokens(tokens, reference, num_frames=videos[0].num_frames, weights=weights)

    @torch.no_grad()
    def consistency_maps(self, image: Image, videos: Sequence[Video]) -> Array:
        """Where each video keeps `image`: (K,T,H,W) in [0,1], 1 = kept, upsampled from the token grid."""
        video, reference = self.encode_videos(videos), self.encode_images([image])
        tokens = self.compare(video, reference.expand(len(videos), -1, -1, -1)).tokens @ self.weights
        return upsample_maps(tokens.unflatten(2, video.shape[2:4]), videos[0].frames.shape[:3])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, processor, `adapter/` (LoRA) and `model.safetensors`; base and VideoReward are only named."""
        folder = Path(folder)
        with atomic(folder) as new:
            write_config(new, folder, asdict(self.config), base=self.base, videoreward=self.videoreward)
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
        base = settings.pop("base")
        body = load_body(base, settings.pop("videoreward"), device=device, dtype=dtype)
        config = ICRewardConfig(**settings)
        reward = cls(body, base, config, folder)
        load_model(reward._own(), str(folder / "model.safetensors"))
        adapter = load_peft_weights(str(folder / "adapter"), device="cpu")
        lora = {name.removeprefix("base_model.model."): value for name, value in adapter.items()}
        load_lora(body[0].language_model, config.lora_rank, config.lora_alpha, lora, source=folder)
        return reward.to(device)

    def _own(self) -> nn.Module:
        """The parameters that are neither the base's nor LoRA's, sharing storage with this model."""
        own = nn.Module()
        own.head, own.rm_head, own.reward_embeddings = self.head, self.rm_head, self.reward_embeddings
        return own

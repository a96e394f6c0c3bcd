"""ICReward lite: ICReward's head on feature maps of EfficientNet-Lite0, for real clips where no hub is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.rewards.base import Array, Image, Scores, check_weights, interpolate_frames, read_config, to_scores
from icreward_lib.rewards.head import Consistency, ConsistencyHead, Tokens
from icreward_lib.run.files import atomic, write_json
from icreward_lib.video import Video

_LEVELS = {2: 40, 3: 112, 4: 320}  # timm's feature levels at 1/8, 1/16 and 1/32 of the input -> their channels


@dataclass(frozen=True)
class LiteConfig:
    """What is read, sizes of the head, and shares of the dimensions."""

    input_size: int = 160  # pixels a side that pictures are squashed to
    num_frames: int = 32  # of a clip
    head_size: int = 64
    head_attention: int = 4
    weights: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        check_weights(self.weights)
        if self.input_size % 32 or self.input_size <= 0 or self.num_frames < 1:
            raise ValueError(f"input_size must be a multiple of 32 and num_frames positive, not {self}")


class ICRewardLite(nn.Module):
    """Scores videos by how well they keep a reference image (`Reward`), frame by frame, on a frozen backbone."""

    name = "ICReward lite"

    def __init__(self, config: LiteConfig, *, seed: int) -> None:
        """A new head, drawn from `seed`."""
        super().__init__()
        self.config = config
        # In a list, so that neither saving nor training takes it for a part of this.
        self._features = [EfficientNetLite0Features(config.input_size)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = ConsistencyHead(sum(_LEVELS.values()), config.head_size, config.head_attention)
        self.register_buffer("weights", torch.tensor(config.weights), persistent=False)
        self.weights: Tensor

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Map frames uint8 RGB (N,H,W,3) to tokens float32 (N,h,w,D) of 1/16 of the side: three levels of unit norm."""
        features = self._features[0]
        parts = []
        for start in range(0, len(frames), 16):
            pixels = features.preprocess(frames[start : start + 16])
            levels = features.model.forward_intermediates(pixels, indices=list(_LEVELS), intermediates_only=True)
            size = levels[1].shape[2:]
            maps = [F.adaptive_avg_pool2d(levels[0], size), levels[1], F.interpolate(levels[2], size, mode="bilinear")]
            parts.append(torch.cat([F.normalize(level, dim=1) for level in maps], dim=1).permute(0, 2, 3, 1))
        return torch.cat(parts).contiguous()

    def compare(self, video: Tensor, reference: Tensor) -> Consistency:
        """Consistency of frames and tokens in [0,1], (B,T,2) and (B,T,h*w,2), of (B,T,h,w,D) and (B,h,w,D)."""
        seen, kept = video.flatten(2, 3), reference.flatten(1, 2)
        # No language model: the context is the picture itself, what is asked is set by the reference.
        result: Consistency = self.head(Tokens(seen, seen), Tokens(kept, kept), kept.mean(1))
        return result

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores (B,T,2) in [0,1] per frame and dimension, of what `compare` takes."""
        return self.compare(video, reference).groups

    @torch.no_grad()
    def _judge(self, image: Image, videos: Sequence[Video]) -> tuple[Tensor, Tensor, list[float]]:
        """Consistency (K,T',2) of the frames that are read and (K,T',h,w,2) of their tokens; which frames they are."""
        if len({video.frames.shape for video in videos}) != 1:
            raise ValueError("videos scored together must have one length and size")
        total = videos[0].num_frames
        wanted = np.linspace(0, total - 1, min(total, self.config.num_frames)).round().astype(np.int64)
        frames = np.concatenate([video.frames[wanted] for video in videos])
        clips, reference = self.encode(frames).unflatten(0, (len(videos), -1)), self.encode(image[None])
        # One clip at a time: a score must not depend on who else is in the batch.
        groups, tokens = zip(*(self.compare(clip[None], reference) for clip in clips), strict=True)
        maps = torch.cat(tokens).unflatten(2, clips.shape[2:4])
        return torch.cat(groups), maps, wanted.astype(float).tolist()

    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores of K videos of one length and size against `image` (H,W,3)."""
        parts, _, times = self._judge(image, videos)
        return to_scores(parts, self.weights, times, videos[0].num_frames)

    def consistency_maps(self, image: Image, videos: Sequence[Video]) -> Array:
        """Where each video keeps `image`: (K,T,h,w) in [0,1] on the tokens' grid, 1 = kept."""
        _, maps, times = self._judge(image, videos)
        maps = interpolate_frames(maps @ self.weights, times, videos[0].num_frames)
        result: Array = maps.clamp(0, 1).numpy()
        return result

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and the head's model.safetensors."""
        with atomic(Path(folder)) as new:
            write_json(new / "config.json", {"model_type": "icreward-lite", **asdict(self.config)})
            save_model(self.head, str(new / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ICRewardLite:
        """Load what `save_pretrained` wrote. FileNotFoundError if `folder` holds none."""
        settings = read_config(Path(folder), "ICReward lite")
        del settings["model_type"]
        reward = cls(LiteConfig(**settings), seed=0)
        load_model(reward.head, str(Path(folder, "model.safetensors")))
        return reward.eval()

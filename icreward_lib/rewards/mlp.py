"""The baseline: an MLP on the CLIP features of the reference image and of a frame, averaged over frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from icreward_lib.metrics.clip import ClipSim
from icreward_lib.rewards.base import DIMENSIONS, Image, Scores, check_weights, read_config, to_scores, write_config
from icreward_lib.run.files import atomic
from icreward_lib.video import Video


@dataclass(frozen=True)
class MLPRewardConfig:
    """Width of the CLIP features and of the hidden layer, and the shares of subject and background."""

    features: int
    hidden: int = 256
    weights: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        check_weights(self.weights)


class MLPReward(nn.Module):
    """A sigmoid score per frame from the features of reference and frame, side by side (`Reward`)."""

    name = "MLP"

    def __init__(self, config: MLPRewardConfig, clip: ClipSim, *, base: str, seed: int) -> None:
        """A new baseline with weights drawn from `seed` on the CLIP model `clip`, loaded from `base`."""
        super().__init__()
        self.config, self.clip, self.base = config, clip, base
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(
                nn.Linear(2 * config.features, config.hidden), nn.GELU(), nn.Linear(config.hidden, len(DIMENSIONS))
            )
        self.register_buffer("weights", torch.tensor(config.weights), persistent=False)
        self.weights: Tensor

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores (B,T,2) in [0,1] from unit-norm features of frames (B,T,D) and of their references (B,D)."""
        pairs = torch.cat([reference[:, None].expand_as(video), video], dim=-1)
        # Unit-norm features have entries near 1/sqrt(D); linear layers expect entries near 1.
        return torch.sigmoid(self.mlp(pairs * self.config.features**0.5))

    @torch.no_grad()
    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores of K videos of one length against `image` (H,W,3)."""
        if len({video.num_frames for video in videos}) != 1:
            raise ValueError("videos scored together must have one length")
        device, num_frames = self.weights.device, videos[0].num_frames
        reference = self.encode_images([image]).to(device).expand(len(videos), -1)
        parts = self(self.encode_videos(videos).to(device), reference)
        return to_scores(parts, self.weights, range(num_frames), num_frames)

    def encode_videos(self, videos: Sequence[Video]) -> Tensor:
        """CLIP features (K,T,D) of the frames of K videos of one length, unit norm."""
        return torch.from_numpy(np.stack([self.clip.image_features(video.frames) for video in videos]))

    def encode_images(self, images: Sequence[Image]) -> Tensor:
        """CLIP features (N,D) of N equally large images, unit norm."""
        return torch.from_numpy(self.clip.image_features(np.stack(images)))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; CLIP is named, by relative path or hub id, not copied."""
        folder = Path(folder)
        with atomic(folder) as new:
            write_config(new, folder, asdict(self.config), base=self.base)
            save_model(self.mlp, str(new / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "cpu") -> MLPReward:
        """Load what `save_pretrained` wrote. FileNotFoundError if `folder` or its CLIP model is missing."""
        folder = Path(folder)
        settings = read_config(folder, "MLP reward")
        base = settings.pop("base")
        reward = cls(MLPRewardConfig(**settings), ClipSim(base, device=device), base=base, seed=0)
        load_model(reward.mlp, str(folder / "model.safetensors"))
        return reward.to(device)

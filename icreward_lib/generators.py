"""Generators of image-to-video: an image and a prompt become K videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from icreward_lib.opensora.pipeline import OpenSoraPipeline, to_frames, to_tensor
from icreward_lib.opensora.text import encode_captions
from icreward_lib.profile import Generation
from icreward_lib.video import Video


class Generator(Protocol):
    """What every image-to-video model has to offer here."""

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """K = num_videos clips that start from an image, uint8 RGB (H, W, 3), and follow a prompt.

        Clip k depends on the image, the prompt, the seed and k alone, not on how many are made.
        """
        ...


@dataclass(frozen=True)
class OpenSoraGenerator:
    """Open-Sora 1.2, of any size, with the sampling settings of a profile."""

    pipeline: OpenSoraPipeline
    settings: Generation

    @classmethod
    def from_pretrained(cls, model: str | Path, settings: Generation) -> OpenSoraGenerator:
        """Load the pipeline in float32 from a folder or a hub id."""
        pipeline = OpenSoraPipeline.from_pretrained(str(model), dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.spatial_vae.to(memory_format=torch.channels_last)  # a third faster on CPUs
        return cls(pipeline, settings)

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """See `Generator.generate`."""
        return self.sample(image, prompt, num_videos=num_videos, seed=seed)[0]

    def sample(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> tuple[list[Video], torch.Tensor]:
        """The videos of `generate`, and the latents (K, c, t', h', w') that they were decoded from."""
        s = self.settings
        output = self.pipeline(
            image,
            prompt,
            num_videos=num_videos,
            num_frames=s.num_frames,
            height=s.height,
            width=s.width,
            fps=s.fps,
            num_inference_steps=s.steps,
            guidance_scale=s.guidance,
            generator=torch.Generator().manual_seed(seed),
        )
        return [Video(frames, s.fps) for frames in output.frames], output.latents.cpu()

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text features (n, tokens, d) and masks (n, tokens)."""
        length = self.pipeline.transformer.config.model_max_length
        features, masks = encode_captions(self.pipeline.text_encoder, self.pipeline.tokenizer, prompts, length)
        return features[:, 0], masks

    @torch.inference_mode()
    def autoencode(self, video: Video) -> Video:
        """The video as the generator could at best show it: encoded, with its first frame on its own, and decoded."""
        vae, x = self.pipeline.vae, to_tensor(video.frames)[None]
        latents = vae.encode(x, sample_posterior=False)
        latents[:, :, :1] = vae.encode(x[:, :, :1], sample_posterior=False)
        frames = to_frames(vae.decode(latents, video.num_frames))
        return Video(frames[0], video.fps)

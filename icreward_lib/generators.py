"""Generators of image-to-video: an image and a prompt become K videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from icreward_lib.launch import device
from icreward_lib.opensora import memory
from icreward_lib.opensora.pipeline import OpenSoraPipeline, to_frames, to_tensor
from icreward_lib.opensora.public import load_pipeline
from icreward_lib.opensora.text import add_scores, encode_captions
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
    """Open-Sora 1.2, of any size, with the sampling settings of a profile.

    `aesthetic` and `motion` are scores to add to every prompt (None: not added); only the public model knows them.
    """

    pipeline: OpenSoraPipeline
    settings: Generation
    aesthetic: float | None = None
    motion: float | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        settings: Generation,
        *,
        models: str | Path | None = None,
        aesthetic: float | None = None,
        motion: float | None = None,
    ) -> OpenSoraGenerator:
        """Load a pipeline's folder in float32 on the CPU, or the public model, with a GPU in bfloat16 under offload.

        Args:
            model: a folder that `OpenSoraPipeline.save_pretrained` wrote; else the public denoiser, a hub id or a
                folder, which its autoencoder and text encoder come with.
            settings: of the sampling.
            models: a folder with the public repositories, laid out as the hub; None: from the hub itself.
            aesthetic, motion: fields of the generator.

        Raises:
            FileNotFoundError, ValueError: as of `load_pipeline`, for a public model.
        """
        if (Path(model) / "model_index.json").is_file():
            pipeline = OpenSoraPipeline.from_pretrained(str(model), dtype=torch.float32)
            pipeline.vae.spatial_vae.to(memory_format=torch.channels_last)  # a third faster on CPUs
        elif torch.cuda.is_available():
            pipeline = load_pipeline(model, models=models)
            pipeline.enable_model_cpu_offload(device=device())
        else:
            pipeline = load_pipeline(model, models=models, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, settings, aesthetic, motion)

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """See `Generator.generate`."""
        return self.sample(image, prompt, num_videos=num_videos, seed=seed)[0]

    def sample(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> tuple[list[Video], torch.Tensor]:
        """The videos of `generate`, and the latents (K, c, t', h', w') that they were decoded from.

        Raises `GpuMemoryError` where the GPU is too small or too busy for K videos at a time.
        """
        s = self.settings
        self._check_memory(num_videos)
        try:
            output = self.pipeline(
                image,
                prompt,
                aesthetic=self.aesthetic,
                motion=self.motion,
                num_videos=num_videos,
                num_frames=s.num_frames,
                height=s.height,
                width=s.width,
                fps=s.fps,
                num_inference_steps=s.steps,
                guidance_scale=s.guidance,
                generator=torch.Generator().manual_seed(seed),
            )
        except torch.OutOfMemoryError as error:
            raise memory.GpuMemoryError(
                f"the GPU ran out of memory while it made {num_videos} videos at a time, although it is large enough: "
                "end what else uses it, or make fewer at a time"
            ) from error
        return [Video(frames, s.fps) for frames in output.frames], output.latents.cpu()

    def _check_memory(self, num_videos: int) -> None:
        """Raise `GpuMemoryError` before the first step, where the GPU could not do the last."""
        device = self.pipeline._execution_device
        if device.type != "cuda":
            return
        s, parts = self.settings, self.pipeline
        request = memory.Request(s.num_frames, s.height, s.width, num_videos, s.guidance)
        needed = memory.phases(parts.text_encoder, parts.transformer, parts.vae, request)
        memory.check(needed, torch.cuda.get_device_properties(device).total_memory)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text features (n, tokens, d) and masks (n, tokens) of prompts with the generator's scores, on the CPU."""
        scored = [add_scores(prompt, aesthetic=self.aesthetic, motion=self.motion) for prompt in prompts]
        length = self.pipeline.transformer.config.model_max_length
        features, masks = encode_captions(self.pipeline.text_encoder, self.pipeline.tokenizer, scored, length)
        self.pipeline.maybe_free_model_hooks()
        return features[:, 0].cpu(), masks.cpu()

    @torch.inference_mode()
    def autoencode(self, video: Video) -> Video:
        """The video as the generator could at best show it: encoded, with its first frame on its own, and decoded."""
        vae = self.pipeline.vae
        x = to_tensor(video.frames)[None].to(self.pipeline._execution_device, vae.dtype)
        latents = vae.encode(x, sample_posterior=False)
        latents[:, :, :1] = vae.encode(x[:, :, :1], sample_posterior=False)
        frames = to_frames(vae.decode(latents, video.num_frames))
        return Video(frames[0], video.fps)

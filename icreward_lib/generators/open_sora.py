"""Generators of image-to-video: an image and a prompt become K videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch

from icreward_lib.generators.opensora import memory
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline, one_per_video, to_frames, to_tensor
from icreward_lib.generators.opensora.public_weights import load_pipeline
from icreward_lib.generators.opensora.text import add_scores, encode_captions
from icreward_lib.run.profile import GenerationSettings
from icreward_lib.video import Video


class Generator(Protocol):
    """What every image-to-video model has to offer here."""

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """Clips that start from an image, uint8 RGB (H, W, 3); clip k depends on image, prompt, seed and k alone."""


PROMPTS_AT_A_TIME = 8  # T5-XXL needs about 0.2 GB for the activations of one
VIDEOS_AT_A_TIME = 8  # on a CPU, where more are no faster and only need memory


@dataclass(frozen=True)
class OpenSoraGenerator:
    """Open-Sora 1.2, of any size, with the sampling settings of a profile."""

    pipeline: OpenSoraPipeline
    settings: GenerationSettings

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *parts: str | Path, settings: GenerationSettings, device: str = "cpu"
    ) -> Self:
        """Load a pipeline in float32 on the CPU, and in bfloat16 under offload on a GPU; errors as of `load_pipeline`.

        `model` is a folder that `OpenSoraPipeline.save_pretrained` wrote, or that of the public denoiser, and `parts`
        are its autoencoder and text encoder.
        """
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
        if parts:
            pipeline = load_pipeline(model, *parts, dtype=dtype)
        else:
            pipeline = OpenSoraPipeline.from_pretrained(str(model), dtype=dtype)
        if dtype == torch.float32:
            pipeline.vae.spatial_vae.to(memory_format=torch.channels_last)  # a third faster on CPUs
        else:
            pipeline.enable_model_cpu_offload(device=device)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, settings)

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """See `Generator.generate`."""
        return self.sample(image, prompt, num_videos=num_videos, seed=seed)[0]

    def sample(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> tuple[list[Video], torch.Tensor]:
        """The videos of `generate`, and the latents (K, c, t', h', w') that they were decoded from.

        As many at a time as fit, which changes no video; `GpuMemoryError` where not even one fits on a GPU.
        """
        s = self.settings
        options = s.model_dump(include={"aesthetic", "motion", "num_frames", "height", "width", "fps"})
        options |= {"num_inference_steps": s.steps, "guidance_scale": s.guidance}
        generators = one_per_video(torch.Generator().manual_seed(seed), num_videos)
        together = self._at_a_time(num_videos)
        videos, latents = [], []
        for start in range(0, num_videos, together):
            part = generators[start : start + together]
            try:
                output = self.pipeline(image, prompt, num_videos=len(part), generator=part, **options)
            except torch.OutOfMemoryError as error:
                ran_out = f"the GPU ran out of memory while it made {len(part)} videos at a time"
                raise memory.GpuMemoryError(f"{ran_out}: end what else uses it and run the same again") from error
            videos += [Video(frames, s.fps) for frames in output.frames]
            latents.append(output.latents.cpu())
        return videos, torch.cat(latents)

    def _at_a_time(self, num_videos: int) -> int:
        """How many videos the device has room for at once."""
        device = self.pipeline._execution_device
        if device.type != "cuda":
            return min(num_videos, VIDEOS_AT_A_TIME)
        available = torch.cuda.get_device_properties(device).total_memory

        def needed(count: int) -> list[memory.Phase]:
            s, parts = self.settings, self.pipeline
            request = memory.Request(s.num_frames, s.height, s.width, count, s.guidance)
            return memory.phases(parts.text_encoder, parts.transformer, parts.vae, request)

        memory.check(needed(1), available)
        counts = range(1, num_videos + 1)
        return max(count for count in counts if all(phase.total <= available for phase in needed(count)))

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Text features (n, tokens, d) and masks (n, tokens) of prompts with the generator's scores, on the CPU."""
        s, parts = self.settings, self.pipeline
        scored = [add_scores(prompt, aesthetic=s.aesthetic, motion=s.motion) for prompt in prompts]
        length, found = parts.transformer.config.model_max_length, []
        for start in range(0, len(scored), PROMPTS_AT_A_TIME):
            some = scored[start : start + PROMPTS_AT_A_TIME]
            features, masks = encode_captions(parts.text_encoder, parts.tokenizer, some, length)
            found.append((features[:, 0].cpu(), masks.cpu()))
        parts.maybe_free_model_hooks()
        features, masks = map(torch.cat, zip(*found, strict=True))
        return features, masks

    @torch.inference_mode()
    def as_seen(self, image: np.ndarray) -> np.ndarray:
        """An image, uint8 (H, W, 3), as its videos can at best begin: decoded as a clip that stands still."""
        s, vae = self.settings, self.pipeline.vae
        latent = self.pipeline.encode_image(image, s.height, s.width).to(vae.dtype)
        frames = vae.latent_size((s.num_frames, s.height, s.width))[0]
        still = vae.decode(latent.expand(-1, -1, frames, -1, -1), s.num_frames)
        return np.asarray(to_frames(still)[0, 0])

    @torch.inference_mode()
    def autoencode(self, video: Video) -> Video:
        """The video as the generator could at best show it: encoded, with its first frame on its own, and decoded."""
        vae = self.pipeline.vae
        x = to_tensor(video.frames)[None].to(self.pipeline._execution_device, vae.dtype)
        latents = vae.encode(x, sample_posterior=False)
        latents[:, :, :1] = vae.encode(x[:, :, :1], sample_posterior=False)
        frames = to_frames(vae.decode(latents, video.num_frames))
        return Video(frames[0], video.fps)

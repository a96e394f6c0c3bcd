"""Open-Sora 1.2 as a diffusers pipeline: an image and a prompt become videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.flow import RectifiedFlow, euler_sample, guided
from icreward_lib.generators.opensora.text import add_scores, encode_captions
from icreward_lib.generators.opensora.transformer import STDiT3

IMAGE_FPS = 120.0  # the frame rate by which the model knows single images


@dataclass
class OpenSoraOutput(BaseOutput):
    """Generated videos."""

    frames: np.ndarray  # uint8 (n, t, h, w, 3), RGB; h and w are cut to a multiple of the autoencoder's factor
    latents: Tensor  # float32 (n, c, t', h', w')


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale an image, uint8 (h, w, 3), until it covers (height, width), bicubic, and crop its middle."""
    rows, columns = image.shape[:2]
    factor = max(height / rows, width / columns)
    size = (max(width, round(columns * factor)), max(height, round(rows * factor)))
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    scaled = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(scaled.crop((left, top, left + width, top + height)))


def to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 (t, h, w, 3) -> float32 (3, t, h, w) in [-1, 1]."""
    return (torch.from_numpy(frames.copy()).permute(3, 0, 1, 2).float() / 255 - 0.5) / 0.5


def to_frames(video: Tensor) -> np.ndarray:
    """(n, 3, t, h, w), limited to [-1, 1] -> uint8 (n, t, h, w, 3)."""
    pixels = (video.float().clamp(-1, 1) + 1) / 2 * 255 + 0.5
    return pixels.to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()


class OpenSoraPipeline(DiffusionPipeline):
    """Text and image to video. Weights may be of any dtype; latents stay float32. ValueError if weights are missing."""

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        vae: VideoAutoencoder,
        transformer: STDiT3,
        scheduler: RectifiedFlow,
    ) -> None:
        super().__init__()
        for name, model in (("vae", vae), ("transformer", transformer)):
            # diffusers only warns of these and leaves them without values.
            if missing := [key for key, value in model.state_dict().items() if value.is_meta]:
                raise ValueError(f"the weights of the {name} lack {', '.join(missing)}: restore that folder")
        self.register_modules(
            text_encoder=text_encoder, tokenizer=tokenizer, vae=vae, transformer=transformer, scheduler=scheduler
        )

    @torch.no_grad()
    def encode_image(self, image: np.ndarray, height: int, width: int) -> Tensor:
        """Latent (1, c, 1, h', w') of an image, uint8 (h, w, 3) of any size: the posterior's mean, not a draw."""
        pixels = to_tensor(fit_image(image, height, width)[None])[None]
        pixels = pixels.to(self._execution_device, self.vae.dtype)
        return self.vae.encode(pixels, sample_posterior=False).float()

    @torch.no_grad()
    def sample_latents(
        self,
        image: np.ndarray | None,  # uint8 (h, w, 3) RGB of any size, scaled and cropped to fit; None: text to video
        prompt: str,  # cleaned before use
        *,  # defaults are upstream's 240p, two seconds
        aesthetic: float | None = None,  # this and `motion` are added to the prompt, see `text.add_scores`
        motion: float | None = None,
        num_videos: int = 1,
        num_frames: int = 51,  # 1 (an image) or a multiple of 17
        height: int = 240,  # nominal, in pixels
        width: int = 426,
        fps: float = 24,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.0,  # 1 is none and halves the work
        generator: torch.Generator | Sequence[torch.Generator],  # on the CPU; one a video, or one that seeds them
    ) -> Tensor:
        """Latents of videos, float32 (num_videos, c, t', h', w'); ValueError for sizes that do not fit."""
        device = self._execution_device
        generators = one_per_video(generator, num_videos)
        timesteps = self.scheduler.timesteps(num_inference_steps, height, width, num_frames)
        size = self.vae.latent_size((num_frames, height, width))
        if min(size) < 1:
            raise ValueError(f"a video of {height} x {width} pixels is too small for this autoencoder")
        captions = [add_scores(prompt, aesthetic=aesthetic, motion=motion)]
        length = self.transformer.config.model_max_length
        features, text_mask = encode_captions(self.text_encoder, self.tokenizer, captions, length)
        self.maybe_free_model_hooks()  # T5, by far the largest part, would stay on the GPU until the transformer comes
        features, text_mask = features.to(device).repeat(num_videos, 1, 1, 1), text_mask.to(device)
        shape = (self.transformer.config.in_channels, *size)
        # Drawn on the CPU, each video from its own generator: the same everywhere and in any company.
        z = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
        mask = None
        if image is not None:
            mask = torch.ones(num_videos, size[0], device=device)
            mask[:, 0] = 0
            z[:, :, :1] = self.encode_image(image, height, width)
        self.maybe_free_model_hooks()  # the autoencoder leaves the GPU as well, until it decodes
        rate = IMAGE_FPS if num_frames == 1 else fps
        rates, heights, widths = (torch.tensor([float(v)], device=device) for v in (rate, height, width))

        def velocity_of(latents: Tensor, t: Tensor, x_mask: Tensor | None, y: Tensor) -> Tensor:
            return self.transformer(latents, t, y, text_mask, x_mask, fps=rates, height=heights, width=widths)

        null = self.transformer.null_captions(num_videos).to(features)
        return euler_sample(guided(velocity_of, features, null, guidance_scale), z, timesteps, mask)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, num_frames: int) -> np.ndarray:
        """Latents (n, c, t', h', w') -> uint8 (n, num_frames, h, w, 3), one at a time to bound memory."""
        latents = latents.to(self._execution_device, self.vae.dtype)
        return np.concatenate([to_frames(self.vae.decode(z, num_frames)) for z in latents.split(1)])

    def __call__(
        self, image: np.ndarray | None, prompt: str, *, num_frames: int = 51, **settings: Any
    ) -> OpenSoraOutput:
        """Generate videos; arguments and errors as of `sample_latents`."""
        latents = self.sample_latents(image, prompt, num_frames=num_frames, **settings)
        frames = self.decode_latents(latents, num_frames)
        self.maybe_free_model_hooks()
        return OpenSoraOutput(frames=frames, latents=latents)


def one_per_video(generator: torch.Generator | Sequence[torch.Generator], num_videos: int) -> Sequence[torch.Generator]:
    """A generator for each video: seeded by a single one in turn, however many follow, or those that are given."""
    if isinstance(generator, torch.Generator):
        seeds = [int(torch.randint(2**62, (), generator=generator)) for _ in range(num_videos)]
        return [torch.Generator().manual_seed(seed) for seed in seeds]
    if len(generator) != num_videos:
        raise ValueError(f"got {len(generator)} generators for {num_videos} videos: give one or as many")
    return generator

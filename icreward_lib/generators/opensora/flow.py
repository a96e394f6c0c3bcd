"""Rectified flow as Open-Sora 1.2 uses it: noise levels, training loss and the Euler sampler.

Noise level t runs from 0 (clean) to 1000 (noise): x_t = (1 - t/1000) x0 + (t/1000) noise. The model predicts
x0 - noise, opposite in sign to diffusers (Liu et al., 2022). Frame masks (b, t): 1 = generate, 0 = keep clean.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

LEVELS = 1000.0
CHUNK_FRAMES, CHUNK_LATENTS = 17, 5  # the autoencoder turns 17 frames into 5 latent frames

SampleMethod = Literal["uniform", "logit-normal"]

# (latents (b, c, t, h, w), noise levels (b,), frames to denoise (b, t) bool or None) -> velocity.
Velocity = Callable[[Tensor, Tensor, Tensor | None], Tensor]


class RectifiedFlow(SchedulerMixin, ConfigMixin):
    """Noise levels for training, drawn by `sample_method`, and sampling.

    Bigger and longer videos need more noise: levels are shifted by size, from `base_size` pixels a side, and length
    (Esser et al., "Scaling Rectified Flow Transformers", 2024, section 5.3.2).
    """

    config_name = "scheduler_config.json"

    @register_to_config
    def __init__(
        self, use_timestep_transform: bool = True, sample_method: SampleMethod = "logit-normal", base_size: int = 512
    ) -> None:
        if sample_method not in get_args(SampleMethod):
            raise ValueError(f"RectifiedFlow: sample_method must be in {get_args(SampleMethod)}, not {sample_method!r}")

    def shift(self, t: Tensor, height: Tensor, width: Tensor, num_frames: Tensor) -> Tensor:
        """Noise levels t (b,), shifted for videos of nominal sizes in pixels and lengths in frames, (b,) each.

        ValueError for 2 to 16 frames, for which upstream's formula has no meaning (it gives NaN).
        """
        if not self.config.use_timestep_transform:
            return t
        if ((num_frames > 1) & (num_frames < CHUNK_FRAMES)).any():
            raise ValueError(
                f"Open-Sora makes single images or videos of at least {CHUNK_FRAMES} frames, not num_frames = "
                f"{sorted({int(n) for n in num_frames})}: set it to 1 or to a multiple of {CHUNK_FRAMES}"
            )
        latents = num_frames // CHUNK_FRAMES * CHUNK_LATENTS
        length = torch.where(num_frames == 1, torch.ones_like(latents), latents)
        ratio = (height * width / self.config.base_size**2).sqrt() * length.sqrt()
        u = t / LEVELS
        shifted = ratio * u / (1 + (ratio - 1) * u) * LEVELS
        return shifted.clamp(max=LEVELS)  # rounding can pass 1000, at which masked sampling would skip a step

    def timesteps(self, steps: int, height: int, width: int, num_frames: int) -> list[float]:
        """The `steps` falling noise levels of a sampling run, which ends at 0 (not listed)."""
        if steps < 1:
            raise ValueError(f"sampling needs at least one step, not {steps}")
        size = (torch.tensor([float(v)]) for v in (height, width, num_frames))
        levels = torch.tensor([(1.0 - i / steps) * LEVELS for i in range(steps)])
        return self.shift(levels, *size).tolist()

    def sample_timesteps(
        self, height: Tensor, width: Tensor, num_frames: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """Random training levels (b,) for videos of these sizes and lengths, each (b,). Drawn on the CPU."""
        if self.config.sample_method == "uniform":
            u = torch.rand(len(height), generator=generator)
        else:
            u = torch.randn(len(height), generator=generator).sigmoid()
        return self.shift(u.to(height.device) * LEVELS, height.float(), width.float(), num_frames.float())


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, x_mask: Tensor | None = None) -> Tensor:
    """Latents (b, c, t, h, w) at levels t (b,); frames where the bool mask (b, t) is False stay clean."""
    share = (t / LEVELS)[:, None, None, None, None]
    noisy = (1 - share) * x0 + share * noise
    return noisy if x_mask is None else torch.where(x_mask[:, None, :, None, None], noisy, x0)


def flow_losses(velocity: Velocity, x0: Tensor, noise: Tensor, t: Tensor, x_mask: Tensor | None = None) -> Tensor:
    """Rectified-flow training losses (b,) of clean latents x0 (b, c, t, h, w), noise like them and levels t (b,).

    x_mask (b, t) bool: False = frame of the *image*, given clean and not counted. `velocity` may return more channels.
    """
    prediction = velocity(add_noise(x0, noise, t, x_mask), t, x_mask)[:, : x0.shape[1]]
    per_frame = (prediction.float() - (x0 - noise).float()).square().mean(dim=(1, 3, 4))
    if x_mask is None:
        return per_frame.mean(1)
    if not x_mask.any(1).all():
        raise ValueError("a sample of the batch has no frame to denoise: its mask is all False")
    return (per_frame * x_mask).sum(1) / x_mask.sum(1)


def guided(velocity_of: Callable[..., Tensor], y: Tensor, y_null: Tensor, guidance_scale: float) -> Velocity:
    """Classifier-free guidance (Ho and Salimans, 2022): null + scale * (caption - null), both in one pass.

    `velocity_of(z, t, x_mask, y)`; captions and empty ones (b, 1, n, d). Scale 1 is no guidance, and half the work.
    """

    def velocity(z: Tensor, t: Tensor, x_mask: Tensor | None) -> Tensor:
        channels = z.shape[1]
        if guidance_scale == 1:
            return velocity_of(z, t, x_mask, y)[:, :channels]
        double_mask = None if x_mask is None else x_mask.repeat(2, 1)
        both = velocity_of(z.repeat(2, 1, 1, 1, 1), t.repeat(2), double_mask, torch.cat([y, y_null]))
        caption, null = both[:, :channels].chunk(2)
        return null + guidance_scale * (caption - null)

    return velocity


@torch.no_grad()
def euler_sample(
    velocity: Velocity,
    z: Tensor,
    timesteps: list[float],
    mask: Tensor | None = None,
    noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Integrate the flow from z (b, c, t, h, w), noise with kept latents, down the `timesteps` to 0: clean latents.

    Mask (b, t) in [0, 1]. 1: generate from noise. 0: keep, bit for bit. Between, with `noise` (step number -> like z):
    keep until the level falls to 1000 * mask, then noise the frame to it and generate (SDEdit, Meng et al., 2021).
    """
    if mask is not None and noise is None and ((mask > 0) & (mask < 1)).any():
        raise ValueError("euler_sample: mask values between 0 and 1 need `noise`")
    waiting = None if mask is None else mask < 1
    for step, (t, following) in enumerate(zip(timesteps, [*timesteps[1:], 0.0], strict=True)):
        kept, active, levels = z, None, torch.full((len(z),), t, device=z.device)
        if mask is not None and waiting is not None:
            active = mask * LEVELS >= t
            if noise is not None:
                fresh = (active & waiting)[:, None, :, None, None]
                z = torch.where(fresh, add_noise(z, noise(step), levels), z)
            waiting = ~active
        z = z + velocity(z, levels, active) * ((t - following) / LEVELS)
        if active is not None:
            z = torch.where(active[:, None, :, None, None], z, kept)
    return z

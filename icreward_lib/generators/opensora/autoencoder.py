"""Video autoencoder of Open-Sora 1.2 (Zheng et al., 2024, arXiv:2412.20404), as a diffusers model.

Every frame goes through a 2D `AutoencoderKL`, then a causal temporal autoencoder shortens independent chunks of
`micro_frame_size` frames: 17 become 5 latents, the first of them for the first frame alone. Parameter names are those
of the public checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from icreward_lib.generators.opensora.temporal_autoencoder import TemporalAutoencoder


class Posterior(DiagonalGaussianDistribution):
    """Diagonal Gaussian over latents (b, c, t, h, w), of their moments (b, 2 c, t, h, w)."""

    def kl(self) -> Tensor:
        """KL divergence to the standard normal in nats, summed over everything but the batch: (b,)."""
        return 0.5 * (self.mean.square() + self.var - 1.0 - self.logvar).flatten(1).sum(1)

    def draw(self, noise: Tensor) -> Tensor:
        """A draw, made of standard normal noise of the same shape."""
        return torch.addcmul(self.mean, self.std, noise)


@dataclass(frozen=True)
class Reconstruction:
    """What training needs of one pass, differentiable; latents are not normalised."""

    video: Tensor  # (b, 3, t, h, w)
    latents: Tensor  # (b, c, t', h', w'), drawn from `temporal`
    spatial_latents: Tensor  # (b, c2, t, h', w'), scaled, as they enter the temporal part
    spatial_reconstruction: Tensor  # the same as they leave it
    spatial: Posterior  # of the 2D part, not scaled
    temporal: Posterior


class SpatialAutoencoder(nn.Module):
    """The 2D autoencoder, named as in the public parameters; `micro_batch_size` frames share a call, to save memory."""

    def __init__(self, module: AutoencoderKL, *, scaling_factor: float, micro_batch_size: int) -> None:
        super().__init__()
        self.module, self.scaling_factor, self.micro_batch_size = module, scaling_factor, micro_batch_size

    def encode(self, x: Tensor) -> Posterior:
        """Video (b, 3, t, h, w) to the posterior of its frames, not scaled."""
        frames = x.transpose(1, 2).flatten(0, 1).split(self.micro_batch_size)
        moments = torch.cat([self.module.encode(group).latent_dist.parameters for group in frames])
        return Posterior(_as_video(moments, len(x)))

    def noise(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Standard normal noise for (b, c, t, h, w), drawn per group of frames as upstream does."""
        batch, channels, frames, height, width = like.shape
        groups = _chunks(batch * frames, self.micro_batch_size)
        draws = [_randn((group, channels, height, width), like, generator) for group in groups]
        return _as_video(torch.cat(draws), batch)

    def decode(self, z: Tensor) -> Tensor:
        """Scaled latents (b, c, t, h', w') to video (b, 3, t, h, w)."""
        frames = (z / self.scaling_factor).transpose(1, 2).flatten(0, 1).split(self.micro_batch_size)
        return _as_video(torch.cat([self.module.decode(group).sample for group in frames]), len(z))


def _as_video(frames: Tensor, batch: int) -> Tensor:
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _randn(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    # On the generator's own device, else the CPU: a seed then gives the same noise wherever the model is.
    device = "cpu" if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device).to(like)


class VideoAutoencoder(ModelMixin, ConfigMixin):
    """The two autoencoders, the chunks and the latents' normalisation. Defaults are the public model's.

    ValueError for sizes that do not fit together.
    """

    shift: Tensor
    scale: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        spatial_block_out_channels: Sequence[int] = (128, 256, 512, 512),
        spatial_layers_per_block: int = 2,
        spatial_latent_channels: int = 4,
        spatial_norm_num_groups: int = 32,
        spatial_mid_block_add_attention: bool = True,
        spatial_scaling_factor: float = 0.18215,
        temporal_filters: int = 128,
        temporal_num_res_blocks: int = 4,
        temporal_channel_multipliers: Sequence[int] = (1, 2, 2, 4),
        temporal_downsample: Sequence[bool] = (False, True, True),
        temporal_norm_num_groups: int = 32,
        micro_frame_size: int | None = 17,  # frames of a chunk; None: all
        micro_batch_size: int = 4,  # frames per call of the 2D part
        latent_shift: Sequence[float] = (-0.10, 0.34, 0.27, 0.98),
        latent_scale: Sequence[float] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        super().__init__()
        if len(latent_shift) != latent_channels or len(latent_scale) != latent_channels:
            found = f"latent_shift and latent_scale have {len(latent_shift)} and {len(latent_scale)} numbers"
            raise ValueError(f"{found}; give latent_channels={latent_channels} each")
        levels = len(spatial_block_out_channels)
        spatial = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(spatial_block_out_channels),
            layers_per_block=spatial_layers_per_block,
            latent_channels=spatial_latent_channels,
            norm_num_groups=spatial_norm_num_groups,
            mid_block_add_attention=spatial_mid_block_add_attention,
        )
        self.spatial_vae = SpatialAutoencoder(
            spatial, scaling_factor=spatial_scaling_factor, micro_batch_size=micro_batch_size
        )
        self.temporal_vae = TemporalAutoencoder(
            spatial_latent_channels,
            latent_channels,
            widths=[temporal_filters * multiplier for multiplier in temporal_channel_multipliers],
            num_res_blocks=temporal_num_res_blocks,
            downsample=temporal_downsample,
            num_groups=temporal_norm_num_groups,
        )
        self.spatial_factor = 2 ** (levels - 1)
        self.micro_frame_size = micro_frame_size
        for name, numbers in (("shift", latent_shift), ("scale", latent_scale)):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(1, -1, 1, 1, 1))

    def set_normalisation(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """Set buffers and config of `(latent - shift) / scale`, one number per latent channel."""
        self.shift.copy_(torch.tensor(shift).view_as(self.shift))
        self.scale.copy_(torch.tensor(scale).view_as(self.scale))
        self.register_to_config(latent_shift=tuple(shift), latent_scale=tuple(scale))

    def latent_size(self, size: tuple[int, int, int]) -> tuple[int, int, int]:
        """(frames, height, width) of a video -> those of its latents."""
        frames, height, width = size
        latents = sum(self.temporal_vae.num_latents(chunk) for chunk in self._frame_chunks(frames))
        return latents, height // self.spatial_factor, width // self.spatial_factor

    @apply_forward_hook
    def encode(self, x: Tensor, generator: torch.Generator | None = None, sample_posterior: bool = True) -> Tensor:
        """Video (b, 3, t, h, w) in [-1, 1] to normalised latents (b, c, *latent_size((t, h, w))).

        With `sample_posterior` both parts are sampled, as in the public denoiser's training; without, means are used.
        """
        latents = self._encode(x, generator, sample_posterior)[0]
        return (latents - self.shift) / self.scale

    @apply_forward_hook
    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """Normalised latents to a video (b, 3, num_frames, h, w) of about [-1, 1]; ValueError if lengths do not fit."""
        return self.spatial_vae.decode(self._decode_temporal(z * self.scale + self.shift, num_frames))

    def forward(
        self, x: Tensor, generator: torch.Generator | None = None, sample_posterior: bool = True
    ) -> Reconstruction:
        """Encode and decode a video (b, 3, t, h, w) in [-1, 1] for training; arguments as of `encode`."""
        latents, spatial_latents, spatial, temporal = self._encode(x, generator, sample_posterior)
        reconstruction = self._decode_temporal(latents, x.shape[2])
        video = self.spatial_vae.decode(reconstruction)
        return Reconstruction(video, latents, spatial_latents, reconstruction, spatial, temporal)

    def _encode(
        self, x: Tensor, generator: torch.Generator | None, sample_posterior: bool
    ) -> tuple[Tensor, Tensor, Posterior, Posterior]:
        spatial = self.spatial_vae.encode(x)
        drawn = spatial.draw(self.spatial_vae.noise(spatial.mean, generator)) if sample_posterior else spatial.mean
        latents = drawn * self.spatial_vae.scaling_factor
        chunks = latents.split(self._frame_chunks(latents.shape[2]), dim=2)
        moments = [self.temporal_vae.encode(chunk) for chunk in chunks]
        temporal = Posterior(torch.cat(moments, dim=2))
        if not sample_posterior:
            return temporal.mean, latents, spatial, temporal
        # One draw per chunk, as upstream does, so that a seed means the same there and here.
        batch, channels, _, height, width = temporal.mean.shape
        draws = [_randn((batch, channels, m.shape[2], height, width), m, generator) for m in moments]
        return temporal.draw(torch.cat(draws, dim=2)), latents, spatial, temporal

    def _decode_temporal(self, z: Tensor, num_frames: int) -> Tensor:
        frames = self._frame_chunks(num_frames)
        sizes = [self.temporal_vae.num_latents(chunk) for chunk in frames]
        if z.shape[2] != sum(sizes):
            raise ValueError(f"decode got {z.shape[2]} latent frames for {num_frames=}, which has {sum(sizes)}")
        pairs = zip(z.split(sizes, dim=2), frames, strict=True)
        return torch.cat([self.temporal_vae.decode(chunk, n) for chunk, n in pairs], dim=2)

    def _frame_chunks(self, num_frames: int) -> list[int]:
        return _chunks(num_frames, self.micro_frame_size or num_frames)

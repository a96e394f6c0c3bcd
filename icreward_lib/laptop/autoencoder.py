"""Train the small Open-Sora autoencoder on the sticker world: first the 2D part on frames, then the temporal part.

Upstream's three stages in two, for a small budget: frames are cheap and various, so the 2D part is learned from them
alone; then clips train the temporal part and the 2D decoder, with pixels decoded for a few frames of each clip only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from icreward_lib.generators.opensora.autoencoder import Posterior, VideoAutoencoder
from icreward_lib.laptop.loop import LoopConfig, fit
from icreward_lib.metrics.features import load_efficientnet_lite0
from icreward_lib.world.scenes import render, sample_scenes


@dataclass(frozen=True)
class AutoencoderRecipe:
    """Sizes and schedules of the two stages."""

    spatial_block_out_channels: tuple[int, ...] = (16, 32)
    spatial_latent_channels: int = 8
    temporal_filters: int = 32
    latent_channels: int = 6
    frames: LoopConfig = LoopConfig(steps=1000, lr=2e-3, muon_lr=0.03, warmup=100, save_every=100, seed=1)
    clips: LoopConfig = LoopConfig(steps=3000, lr=2e-3, muon_lr=0.02, warmup=30, save_every=100, seed=2)
    frame_batch: int = 8
    clip_batch: int = 2
    decoded_frames: int = 4  # frames of each clip whose pixels the second stage looks at
    kl_weight: float = 1e-4  # of the mean KL divergence per latent, in nats
    perceptual_weight: float = 0.02


def build(recipe: AutoencoderRecipe) -> VideoAutoencoder:
    """The untrained autoencoder: 17x64x64 clips to 5x32x32 latents."""
    channels = recipe.latent_channels
    model = VideoAutoencoder(
        latent_channels=channels,
        spatial_block_out_channels=recipe.spatial_block_out_channels,
        spatial_layers_per_block=1,
        spatial_latent_channels=recipe.spatial_latent_channels,
        spatial_norm_num_groups=4,
        spatial_mid_block_add_attention=False,
        spatial_scaling_factor=1.0,
        temporal_filters=recipe.temporal_filters,
        temporal_num_res_blocks=1,
        temporal_channel_multipliers=(1, 1, 1),
        temporal_downsample=(True, True),
        temporal_norm_num_groups=8,
        micro_batch_size=8,  # a fifth faster than whole clips: it fits the cache
        latent_shift=[0.0] * channels,
        latent_scale=[1.0] * channels,
    )
    # Posteriors begin narrow; at unit width their noise would hide everything for hundreds of steps.
    with torch.no_grad():
        for moments in (model.spatial_vae.module.quant_conv, model.temporal_vae.quant_conv.conv):
            moments.bias.chunk(2)[1].fill_(-4.0)
    return model


def clips(n: int, seed: int, *, split: Literal["seen", "unseen"] = "seen", num_frames: int = 17) -> Tensor:
    """Rendered clips "n 3 t h w" in [-1, 1]."""
    frames = torch.from_numpy(render(sample_scenes(n, seed=seed, split=split), num_frames=num_frames).frames)
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def vary(x: Tensor) -> Tensor:
    """Flips, a turn and a change of colours for each clip of "n 3 t h w": few photographs have to stand for many."""
    varied = []
    for clip in x:
        clip = clip[torch.randperm(3)] * (0.7 + 0.3 * torch.rand(3, 1, 1, 1)) * (1 if torch.rand(()) < 0.8 else -1)
        for axis in (2, 3):
            clip = clip.flip(axis) if torch.rand(()) < 0.5 else clip
        varied.append(clip.transpose(2, 3) if torch.rand(()) < 0.5 else clip)
    return torch.stack(varied)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each of a batch of pictures or videos in [-1, 1]."""
    return -10 * torch.log10(((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().flatten(1).mean(1))


def perceptual_distance(backbone: EfficientNet, a: Tensor, b: Tensor) -> Tensor:
    """How differently a network trained on photographs sees two batches of frames "n 3 h w" in [-1, 1].

    Squared distance of unit-normalised features, averaged over places and summed over five layers, as in LPIPS
    (Zhang et al., arXiv 1801.03924, equation 1, unweighted), at twice the frames' size.

    Returns:
        A scalar in [0, 20], 0 for equal frames.
    """
    both = F.interpolate(torch.cat([a, b]), scale_factor=2, mode="bicubic", align_corners=False)
    final, stages = backbone.forward_intermediates(both, indices=[1, 2, 3, 4])
    layers = [F.normalize(layer, dim=1).chunk(2) for layer in (*stages, final)]
    return torch.stack([(one - other).square().sum(1).mean() for one, other in layers]).sum()


def train_frames(model: VideoAutoencoder, recipe: AutoencoderRecipe, folder: Path) -> list[dict[str, float]]:
    """Stage 1: the 2D autoencoder on single frames, then scale its latents to unit variance."""
    spatial = model.spatial_vae.module

    def loss(step: int) -> dict[str, Tensor]:
        x = clips(recipe.frame_batch // 2, recipe.frames.seed * 10_000_000 + step, num_frames=2)
        x = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        posterior = spatial.encode(x).latent_dist
        output = spatial.decode(posterior.sample()).sample
        mse = F.mse_loss(output, x)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": mse + recipe.kl_weight * kl, "mse": mse, "kl": kl}

    held_out = clips(32, 99, split="unseen", num_frames=2).transpose(1, 2).flatten(0, 1)

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        output = spatial.decode(spatial.encode(held_out).latent_dist.mean).sample
        return {"psnr_unseen": float(psnr(output, held_out).mean())}

    log = fit(spatial, loss, recipe.frames, folder, evaluate)
    with torch.inference_mode():
        std = float(spatial.encode(held_out).latent_dist.mean.std())
    model.spatial_vae.scaling_factor = 1 / std
    model.register_to_config(spatial_scaling_factor=1 / std)
    return log


def train_clips(model: VideoAutoencoder, recipe: AutoencoderRecipe, folder: Path) -> list[dict[str, float]]:
    """Stage 2: the temporal autoencoder and the 2D decoder on clips, then normalise the latents."""
    backbone = load_efficientnet_lite0()
    spatial, temporal = model.spatial_vae.module, model.temporal_vae
    trained = nn.ModuleDict(
        {"temporal": temporal, "decoder": spatial.decoder, "post_quant_conv": spatial.post_quant_conv}
    )

    def loss(step: int) -> dict[str, Tensor]:
        x = vary(clips(recipe.clip_batch, recipe.clips.seed * 10_000_000 + step))
        with torch.no_grad():
            z2 = model.spatial_vae.encode(x).mean * model.spatial_vae.scaling_factor
        # As in sampling, the first latent is that of the image alone: the norms see a chunk of one frame there.
        moments = torch.cat([temporal.encode(z2[:, :, :1]), temporal.encode(z2)[:, :, 1:]], dim=2)
        posterior = Posterior.from_moments(moments)
        output = temporal.decode(posterior.sample(torch.randn_like(posterior.mean)), x.shape[2])
        chosen = torch.randperm(x.shape[2])[: recipe.decoded_frames]
        pixels = model.spatial_vae.decode(output[:, :, chosen]).transpose(1, 2).flatten(0, 1)
        target = x[:, :, chosen].transpose(1, 2).flatten(0, 1)
        mse, latent_mse = F.mse_loss(pixels, target), F.mse_loss(output, z2)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        seen = perceptual_distance(backbone, pixels[::2], target[::2])  # it costs more than all else
        total = mse + 0.1 * latent_mse + recipe.kl_weight * kl + recipe.perceptual_weight * seen
        return {"loss": total, "mse": mse, "latent_mse": latent_mse, "kl": kl, "perceptual": seen}

    held_out = clips(24, 98, split="unseen")

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        z = model.encode(held_out, sample_posterior=False)
        z[:, :, :1] = model.encode(held_out[:, :, :1], sample_posterior=False)
        output = model.decode(z, held_out.shape[2])
        first = psnr(output[:, :, :1], held_out[:, :, :1])
        return {"psnr_unseen": float(psnr(output, held_out).mean()), "psnr_unseen_first": float(first.mean())}

    log = fit(trained, loss, recipe.clips, folder, evaluate)
    with torch.inference_mode():
        z = torch.cat([model(clips(16, 97 + i)).latents for i in range(4)])
    model.set_normalisation(z.mean((0, 2, 3, 4)).tolist(), z.std((0, 2, 3, 4)).tolist())
    return log


def train(run_folder: Path, recipe: AutoencoderRecipe = AutoencoderRecipe()) -> VideoAutoencoder:  # noqa: B008
    """Both stages from nothing (or from where an earlier call stopped)."""
    torch.manual_seed(recipe.frames.seed)
    model = build(recipe)
    train_frames(model, recipe, run_folder / "frames")
    train_clips(model, recipe, run_folder / "clips")
    return model.eval()


@torch.inference_mode()
def evaluate(model: VideoAutoencoder, clips_judged: int = 48) -> dict[str, float]:
    """PSNR in dB of clips encoded and decoded as in sampling (first latent from the image alone), by content."""
    figures = {}
    splits: tuple[Literal["seen", "unseen"], ...] = ("seen", "unseen")
    for split in splits:
        x = clips(clips_judged, 1_000_000_007, split=split)
        z = model.encode(x, sample_posterior=False)
        z[:, :, :1] = model.encode(x[:, :, :1], sample_posterior=False)
        output = model.decode(z, x.shape[2])
        figures[f"psnr_{split}"] = float(psnr(output, x).mean())
        figures[f"psnr_{split}_first_frame"] = float(psnr(output[:, :, :1], x[:, :, :1]).mean())
    return figures

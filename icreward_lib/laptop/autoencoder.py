"""Train the small Open-Sora autoencoder on the sticker world: upstream's three stages in two, for a small budget.

Frames are cheap and various: they alone train the 2D part. Then clips train the temporal part and the 2D decoder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

from icreward_lib.generators.opensora.autoencoder import Posterior, VideoAutoencoder
from icreward_lib.laptop.loop import LoopConfig, fit
from icreward_lib.metrics.features import load_efficientnet_lite0
from icreward_lib.run.files import atomic
from icreward_lib.world.scenes import SPLITS, Split, render, sample_scenes

LATENT_CHANNELS = 6
FRAME_STAGE = LoopConfig(steps=1000, lr=2e-3, muon_lr=0.03, warmup=100, save_every=100, seed=1)
CLIP_STAGE = LoopConfig(steps=3000, lr=2e-3, muon_lr=0.02, warmup=30, save_every=100, seed=2)
DECODED_FRAMES = 4  # of each clip, whose pixels the second stage looks at
KL_WEIGHT = 1e-4  # of the mean KL divergence per latent, in nats
PERCEPTUAL_WEIGHT = 0.02


def build() -> VideoAutoencoder:
    """The untrained autoencoder: 17x64x64 clips to 5x32x32 latents."""
    model = VideoAutoencoder(
        latent_channels=LATENT_CHANNELS,
        spatial_block_out_channels=(16, 32),
        spatial_layers_per_block=1,
        spatial_latent_channels=8,
        spatial_norm_num_groups=4,
        spatial_mid_block_add_attention=False,
        spatial_scaling_factor=1.0,
        temporal_filters=32,
        temporal_num_res_blocks=1,
        temporal_channel_multipliers=(1, 1, 1),
        temporal_downsample=(True, True),
        temporal_norm_num_groups=8,
        micro_batch_size=8,  # a fifth faster than whole clips: it fits the cache
        latent_shift=[0.0] * LATENT_CHANNELS,
        latent_scale=[1.0] * LATENT_CHANNELS,
    )
    # Posteriors begin narrow; at unit width their noise would hide everything for hundreds of steps.
    with torch.no_grad():
        for moments in (model.spatial_vae.module.quant_conv, model.temporal_vae.quant_conv.conv):
            moments.bias.chunk(2)[1].fill_(-4.0)
    return model


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 "n t h w c" to "n c t h w" in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def clips(n: int, seed: int, *, split: Split = "seen", num_frames: int = 17) -> Tensor:
    """Rendered clips "n 3 t h w" in [-1, 1]."""
    return to_pixels(render(sample_scenes(n, seed=seed, split=split), num_frames=num_frames).frames)


def stills(n: int, seed: int, *, split: Split = "seen") -> Tensor:
    """First and last frames of n clips: "2n 3 h w" in [-1, 1]."""
    return clips(n, seed, split=split, num_frames=2).transpose(1, 2).flatten(0, 1)


def encode(vae: VideoAutoencoder, x: Tensor) -> Tensor:
    """Latents "n c t h w" of clips "n 3 t h w", as sampling has them: the first is that of the *image* alone."""
    z = vae.encode(x, sample_posterior=False)
    z[:, :, :1] = vae.encode(x[:, :, :1], sample_posterior=False)
    return z


def augment(x: Tensor) -> Tensor:
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
    """How differently a network sees two batches of frames "n 3 h w" in [-1, 1], at twice their size: in [0, 20].

    As LPIPS (Zhang et al., arXiv 1801.03924, equation 1, unweighted): squared distances of unit-norm features.
    """
    both = F.interpolate(torch.cat([a, b]), scale_factor=2, mode="bicubic")
    final, stages = backbone.forward_intermediates(both, indices=[1, 2, 3, 4])
    layers = [F.normalize(layer, dim=1).chunk(2) for layer in (*stages, final)]
    return torch.stack([(one - other).square().sum(1).mean() for one, other in layers]).sum()


def _kl(posterior: Posterior) -> Tensor:
    return posterior.kl().mean() / posterior.mean[0].numel()


def train_frames(model: VideoAutoencoder, folder: Path) -> None:
    """Stage 1: the 2D autoencoder on single frames, then scale its latents to unit variance."""
    spatial = model.spatial_vae.module

    def loss(step: int) -> dict[str, Tensor]:
        x = stills(4, FRAME_STAGE.seed * 10_000_000 + step).contiguous(memory_format=torch.channels_last)
        posterior = spatial.encode(x).latent_dist
        mse, kl = F.mse_loss(spatial.decode(posterior.sample()).sample, x), _kl(posterior)
        return {"loss": mse + KL_WEIGHT * kl, "mse": mse, "kl": kl}

    held_out = stills(32, 99, split="unseen")

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        output = spatial.decode(spatial.encode(held_out).latent_dist.mean).sample
        return {"psnr_unseen": float(psnr(output, held_out).mean())}

    fit(spatial, loss, FRAME_STAGE, folder, evaluate)
    with torch.inference_mode():
        scale = 1 / float(spatial.encode(stills(32, 96)).latent_dist.mean.std())
    model.spatial_vae.scaling_factor = scale
    model.register_to_config(spatial_scaling_factor=scale)


def train_clips(model: VideoAutoencoder, folder: Path) -> None:
    """Stage 2: the temporal autoencoder and the 2D decoder on clips, then normalise the latents."""
    backbone = load_efficientnet_lite0()
    spatial, temporal = model.spatial_vae.module, model.temporal_vae
    parts = {"temporal": temporal, "decoder": spatial.decoder, "post_quant_conv": spatial.post_quant_conv}

    def loss(step: int) -> dict[str, Tensor]:
        x = augment(clips(2, CLIP_STAGE.seed * 10_000_000 + step))
        with torch.no_grad():
            z2 = model.spatial_vae.encode(x).mean * model.spatial_vae.scaling_factor
        # As in sampling, the first latent is that of the image alone: the norms see a chunk of one frame there.
        posterior = Posterior(torch.cat([temporal.encode(z2[:, :, :1]), temporal.encode(z2)[:, :, 1:]], 2))
        output = temporal.decode(posterior.draw(torch.randn_like(posterior.mean)), x.shape[2])
        chosen = torch.randperm(x.shape[2])[:DECODED_FRAMES]
        pixels = model.spatial_vae.decode(output[:, :, chosen]).transpose(1, 2).flatten(0, 1)
        target = x[:, :, chosen].transpose(1, 2).flatten(0, 1)
        mse, latent_mse, kl = F.mse_loss(pixels, target), F.mse_loss(output, z2), _kl(posterior)
        perceptual = perceptual_distance(backbone, pixels[::2], target[::2])  # it costs more than all else
        total = mse + 0.1 * latent_mse + KL_WEIGHT * kl + PERCEPTUAL_WEIGHT * perceptual
        return {"loss": total, "mse": mse, "latent_mse": latent_mse, "kl": kl, "perceptual": perceptual}

    fit(
        nn.ModuleDict(parts), loss, CLIP_STAGE, folder, lambda: evaluate(model, clips(24, 98, split="unseen"), "unseen")
    )
    with torch.inference_mode():
        z = torch.cat([model(clips(16, 97 + i)).latents for i in range(4)])
    model.set_normalisation(z.mean((0, 2, 3, 4)).tolist(), z.std((0, 2, 3, 4)).tolist())


def train(run_folder: Path, out: Path) -> dict[str, float]:
    """Both stages from nothing, or from where an earlier call stopped; saved in half precision."""
    torch.manual_seed(FRAME_STAGE.seed)
    model = build()
    train_frames(model, run_folder / "frames")
    train_clips(model, run_folder / "clips")
    with atomic(out) as folder:
        model.half().save_pretrained(folder)
    saved = VideoAutoencoder.from_pretrained(out, torch_dtype=torch.float32).eval()
    seen, unseen = (evaluate(saved, clips(48, 1_000_000_007, split=split), split) for split in SPLITS)
    return seen | unseen


@torch.inference_mode()
def evaluate(model: VideoAutoencoder, x: Tensor, split: Split) -> dict[str, float]:
    """PSNR in dB of clips encoded as in sampling and decoded, of all their frames and of the first ones."""
    output = model.decode(encode(model, x), x.shape[2])
    first = psnr(output[:, :, :1], x[:, :, :1])
    return {f"psnr_{split}": float(psnr(output, x).mean()), f"psnr_{split}_first_frame": float(first.mean())}

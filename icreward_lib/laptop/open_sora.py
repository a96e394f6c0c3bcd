"""Train the small Open-Sora denoiser, with its T5 encoder, on latents of sticker-world clips."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.flow import RectifiedFlow, flow_losses
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.laptop.autoencoder import psnr
from icreward_lib.laptop.loop import LoopConfig, fit
from icreward_lib.laptop.tokenizer import build_tokenizer
from icreward_lib.world.scenes import Scene, render, sample_scenes

SIZE, FRAMES, FPS = 64, 17, 8
BLOCK = 250  # clips encoded between two saves


@dataclass(frozen=True)
class GeneratorRecipe:
    """Sizes and schedule."""

    clips: int = 6000  # training clips, all of seen content
    clips_seed: int = 11
    hidden_size: int = 192
    depth: int = 4
    num_heads: int = 6
    text_width: int = 64
    text_tokens: int = 20
    batch: int = 16
    loop: LoopConfig = LoopConfig(steps=7000, lr=1e-3, muon_lr=0.01, ema=0.997, save_every=200, seed=3)


class TextToVideo(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, recipe: GeneratorRecipe, latent_channels: int, vocabulary: int) -> None:
        """Draws the initial weights from the global generator."""
        super().__init__()
        self.transformer = STDiT3(
            input_sq_size=SIZE,
            in_channels=latent_channels,
            patch_size=(1, 4, 4),
            hidden_size=recipe.hidden_size,
            depth=recipe.depth,
            num_heads=recipe.num_heads,
            pred_sigma=False,
            caption_channels=recipe.text_width,
            model_max_length=recipe.text_tokens,
        )
        self.text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=vocabulary,
                d_model=recipe.text_width,
                d_kv=16,
                d_ff=2 * recipe.text_width,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
            )
        )


@torch.inference_mode()
def encode_clips(vae: VideoAutoencoder, scenes: list[Scene], path: Path) -> np.ndarray:
    """Latents of rendered scenes, conditioned as in sampling: latent frame 0 is that of the *image* alone.

    Args:
        path: of the cache, an .npy file; an interrupted call goes on where it stopped.

    Returns:
        float16 memory map "n c t h w".
    """
    count = path.with_suffix(".count")
    done = int(count.read_text()) if count.exists() else 0
    shape = (len(scenes), vae.config["latent_channels"], *vae.latent_size((FRAMES, SIZE, SIZE)))
    path.parent.mkdir(parents=True, exist_ok=True)
    latents = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float16, shape)
    for start in range(done, len(scenes), BLOCK):
        for first in range(start, min(start + BLOCK, len(scenes)), 10):
            frames = torch.from_numpy(render(scenes[first : first + 10], num_frames=FRAMES, size=SIZE).frames)
            x = frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            z = vae.encode(x, sample_posterior=False)
            z[:, :, :1] = vae.encode(x[:, :, :1], sample_posterior=False)
            latents[first : first + len(x)] = z.numpy()
        latents.flush()
        fresh = count.with_suffix(".tmp")
        fresh.write_text(str(min(start + BLOCK, len(scenes))))
        os.replace(fresh, count)
    return latents


def train(
    vae: VideoAutoencoder,
    run_folder: Path,
    recipe: GeneratorRecipe = GeneratorRecipe(),  # noqa: B008
) -> tuple[TextToVideo, PreTrainedTokenizerFast, list[dict[str, float]]]:
    """Train from nothing, or go on where an earlier call stopped; returns the networks, the tokenizer and the log."""
    tokenizer = build_tokenizer()
    scenes = sample_scenes(recipe.clips, seed=recipe.clips_seed)
    held_out = sample_scenes(200, seed=recipe.clips_seed + 1) + sample_scenes(
        200, seed=recipe.clips_seed + 2, split="unseen"
    )
    latents = encode_clips(vae, scenes, run_folder / "latents.npy")
    test_latents = encode_clips(vae, held_out, run_folder / "test_latents.npy")
    torch.manual_seed(recipe.loop.seed)
    model = TextToVideo(recipe, latents.shape[1], len(tokenizer))
    flow = training_flow()
    ids, masks = _tokens(tokenizer, scenes, recipe)
    test_ids, test_masks = _tokens(tokenizer, held_out, recipe)
    x_mask = torch.ones(1, latents.shape[2], dtype=torch.bool)
    x_mask[:, 0] = False  # image to video is all this model does

    def losses(z: Tensor, ids: Tensor, mask: Tensor, t: Tensor, generator: torch.Generator, drop: bool) -> Tensor:
        y = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, None]
        y = model.transformer.drop_captions(y, generator) if drop else y
        size = torch.full((len(z),), float(SIZE))

        def velocity(noisy: Tensor, level: Tensor, frames: Tensor | None) -> Tensor:
            fps = torch.full((len(noisy),), float(FPS))
            return model.transformer(noisy, level, y, mask, frames, fps=fps, height=size, width=size)

        noise = torch.randn(z.shape, generator=generator)
        return flow_losses(velocity, z, noise, t, x_mask.expand(len(z), -1))

    def levels(n: int, generator: torch.Generator) -> Tensor:
        size, frames = torch.full((n,), float(SIZE)), torch.full((n,), float(FRAMES))
        return flow.sample_timesteps(size, size, frames, generator=generator)

    def loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(recipe.loop.seed * 1_000_003 + step)
        chosen = torch.randint(len(scenes), (recipe.batch,), generator=generator)
        z = torch.from_numpy(latents[np.sort(chosen.numpy())]).float()
        chosen = chosen.sort().values
        t = levels(recipe.batch, generator)
        return {"loss": losses(z, ids[chosen], masks[chosen], t, generator, True).mean()}

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        figures = {}
        for name, part in (("seen", slice(0, 200)), ("unseen", slice(200, 400))):
            generator = torch.Generator().manual_seed(5)
            z = torch.from_numpy(test_latents[part]).float()
            t = levels(len(z), generator)
            batch = losses(z, test_ids[part], test_masks[part], t, generator, False)
            figures[f"loss_{name}"] = float(batch.mean())
        return figures

    log = fit(model, loss, recipe.loop, run_folder, evaluate)
    return model, tokenizer, log


def training_flow() -> RectifiedFlow:
    """The noise levels of the small model: uniform, then shifted by 2.24 for clips of 17 frames of 64x64.

    The public model's logit-normal draws relied on its larger clips' larger shift: here only 1 in 10^4 would lie above
    980, where sampling starts and the movement is decided.
    """
    return RectifiedFlow(sample_method="uniform", base_size=64)


def _tokens(tokenizer: PreTrainedTokenizerFast, scenes: list[Scene], recipe: GeneratorRecipe) -> tuple[Tensor, Tensor]:
    batch = tokenizer(
        [scene.caption for scene in scenes],
        padding="max_length",
        max_length=recipe.text_tokens,
        truncation=True,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask


@torch.inference_mode()
def evaluate_samples(pipeline: OpenSoraPipeline, scenes: list[Scene], *, steps: int, seed: int) -> dict[str, float]:
    """How the generator's clips compare with the true ones, one clip a scene.

    Returns:
        `psnr_generated`: to the true clip, dB; `psnr_frozen`: of the first frame held still; `psnr_autoencoded`: of
        the true clip encoded and decoded, the ceiling. Averages over the scenes that move.
    """
    truth = torch.from_numpy(render(scenes, num_frames=FRAMES, size=SIZE).frames)
    x = truth.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    figures: dict[str, list[float]] = {"psnr_generated": [], "psnr_frozen": [], "psnr_autoencoded": []}
    for index, scene in enumerate(scenes):
        clip = x[index : index + 1]
        frozen = clip[:, :, :1].expand_as(clip)
        if float((clip - frozen).abs().mean()) < 0.02:
            continue
        made = pipeline(
            truth[index, 0].numpy(),
            scene.caption,
            num_frames=FRAMES,
            height=SIZE,
            width=SIZE,
            fps=FPS,
            num_inference_steps=steps,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed + index),
        ).frames
        vae = pipeline.vae
        z = vae.encode(clip, sample_posterior=False)
        z[:, :, :1] = vae.encode(clip[:, :, :1], sample_posterior=False)
        shown = {
            "psnr_generated": torch.from_numpy(made).permute(0, 4, 1, 2, 3).float() / 127.5 - 1,
            "psnr_frozen": frozen,
            "psnr_autoencoded": vae.decode(z, FRAMES),
        }
        for name, video in shown.items():
            # The first frame is given: it would flatter all three alike.
            figures[name].append(float(psnr(video[:, :, 1:], clip[:, :, 1:]).mean()))
    return {name: float(np.mean(values)) for name, values in figures.items()}

"""Train the small Open-Sora denoiser, with its T5 encoder, on latents of sticker-world clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.flow import RectifiedFlow, flow_losses
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.laptop.autoencoder import encode, psnr, to_pixels
from icreward_lib.laptop.loop import LoopConfig, fit
from icreward_lib.laptop.tokenizer import build_tokenizer, tokenize
from icreward_lib.run.files import atomic
from icreward_lib.run.profile import GenerationSettings
from icreward_lib.video import Video
from icreward_lib.world.scenes import SPLITS, Scene, render, sample_scenes

SIZE, FRAMES, FPS = 64, 17, 8
BLOCK = 250  # clips encoded between two saves
CLIPS, CLIPS_SEED = 6000, 11  # to train on, all of seen content
HELD_OUT = 200  # clips of each split behind the losses that are logged
JUDGED = 30  # scenes of each split behind the figures of samples
BATCH = 16
TEXT_WIDTH, TEXT_TOKENS = 64, 20
LOOP = LoopConfig(steps=7000, lr=1e-3, muon_lr=0.01, ema=0.997, save_every=200, seed=3)


class TextToVideo(nn.Module):
    """The two networks that are trained together, and the loss of latents."""

    def __init__(self, latent_channels: int, vocabulary: int) -> None:
        super().__init__()
        self.transformer = STDiT3(
            input_sq_size=SIZE,
            in_channels=latent_channels,
            patch_size=(1, 4, 4),
            hidden_size=192,
            depth=4,
            num_heads=6,
            pred_sigma=False,
            caption_channels=TEXT_WIDTH,
            model_max_length=TEXT_TOKENS,
        )
        text = {"d_model": TEXT_WIDTH, "d_kv": 16, "d_ff": 2 * TEXT_WIDTH, "num_layers": 2, "num_heads": 4}
        self.text_encoder = T5EncoderModel(T5Config(vocab_size=vocabulary, dropout_rate=0.0, **text))

    def losses(self, z: Tensor, ids: Tensor, mask: Tensor, generator: torch.Generator, *, drop: bool) -> Tensor:
        """Flow-matching errors (n,) of latents "n c t h w" and captions (n, l), some dropped, at times drawn here."""
        full = torch.ones(len(z))
        t = training_flow().sample_timesteps(full * SIZE, full * SIZE, full * FRAMES, generator=generator)
        y = self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, None]
        y = self.transformer.drop_captions(y, generator) if drop else y

        def velocity(noisy: Tensor, level: Tensor, frames: Tensor | None) -> Tensor:
            fps, size = torch.full((len(noisy),), float(FPS)), full * SIZE
            return self.transformer(noisy, level, y, mask, frames, fps=fps, height=size, width=size)

        x_mask = torch.ones(len(z), z.shape[2], dtype=torch.bool)
        x_mask[:, 0] = False  # image to video is all this model does
        return flow_losses(velocity, z, torch.randn(z.shape, generator=generator), t, x_mask)


def training_flow() -> RectifiedFlow:
    """The noise levels of the small model: uniform, then shifted by 2.24 for clips of 17 frames of 64x64.

    Of the public model's logit-normal draws, made for larger clips, too few would lie where the movement is decided.
    """
    return RectifiedFlow(sample_method="uniform", base_size=64)


@torch.inference_mode()
def encode_scenes(vae: VideoAutoencoder, scenes: list[Scene], folder: Path) -> np.ndarray:
    """Latents float16 "n c t h w" of rendered scenes; blocks of them in `folder` outlast an interruption."""
    for start in range(0, len(scenes), BLOCK):
        block, path = scenes[start : start + BLOCK], folder / f"{start:06d}.npy"
        if not path.is_file():
            parts = (render(block[i : i + 10], num_frames=FRAMES, size=SIZE).frames for i in range(0, len(block), 10))
            latents = np.concatenate([encode(vae, to_pixels(frames)).numpy() for frames in parts])
            with atomic(path) as new:
                np.save(new, latents.astype(np.float16))
    return np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])


def train(run_folder: Path, out: Path) -> dict[str, float]:
    """Train on latents of the autoencoder in `out`/vae, or go on where an earlier call stopped; save the pipeline."""
    vae = VideoAutoencoder.from_pretrained(out / "vae", torch_dtype=torch.float32)
    scenes = sample_scenes(CLIPS, seed=CLIPS_SEED)
    held_out = sample_scenes(HELD_OUT, seed=CLIPS_SEED + 1)
    held_out += sample_scenes(HELD_OUT, seed=CLIPS_SEED + 2, split="unseen")
    latents = encode_scenes(vae, scenes, run_folder / "latents")
    test_latents = encode_scenes(vae, held_out, run_folder / "test_latents")
    ids, masks = tokenize([scene.caption for scene in scenes], TEXT_TOKENS)
    test_ids, test_masks = tokenize([scene.caption for scene in held_out], TEXT_TOKENS)
    torch.manual_seed(LOOP.seed)
    model = TextToVideo(latents.shape[1], len(build_tokenizer()))

    def loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(LOOP.seed * 1_000_003 + step)
        chosen = torch.randint(len(scenes), (BATCH,), generator=generator)
        z = torch.from_numpy(latents[chosen.numpy()]).float()
        return {"loss": model.losses(z, ids[chosen], masks[chosen], generator, drop=True).mean()}

    @torch.inference_mode()
    def evaluate() -> dict[str, float]:
        figures = {}
        for i, split in enumerate(SPLITS):
            part, generator = slice(i * HELD_OUT, (i + 1) * HELD_OUT), torch.Generator().manual_seed(5)
            z = torch.from_numpy(test_latents[part]).float()
            losses = model.losses(z, test_ids[part], test_masks[part], generator, drop=False)
            figures[f"loss_{split}"] = float(losses.mean())
        return figures

    log = fit(model, loss, LOOP, run_folder, evaluate)
    vae = VideoAutoencoder.from_pretrained(out / "vae")
    pipeline = OpenSoraPipeline(model.text_encoder, build_tokenizer(), vae, model.transformer, training_flow())
    paths = (out / "vae" / name for name in ("README.md", "training.json"))
    account = {path.name: path.read_bytes() for path in paths if path.is_file()}
    with atomic(out) as folder:
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
        for name, content in account.items():
            (folder / "vae" / name).write_bytes(content)
    figures = {name: value for name, value in log[-1].items() if name.startswith("loss")}
    for split in SPLITS:
        found = evaluate_samples(out, sample_scenes(JUDGED, seed=1_000_000_007, split=split))
        figures |= {f"{split}_{key}": value for key, value in found.items()}
    return figures


def evaluate_samples(folder: Path, scenes: list[Scene]) -> dict[str, float]:
    """PSNR to the true clips, dB, of what the generator in `folder` makes of scenes that move, first frames left out.

    Beside it those of the first frame held still, and of the true clip encoded and decoded: the ceiling.
    """
    settings = GenerationSettings(
        num_frames=FRAMES, height=SIZE, width=SIZE, fps=FPS, steps=10, guidance=1, aesthetic=None, motion=None
    )
    generator = OpenSoraGenerator.from_pretrained(folder, settings=settings)
    figures: dict[str, list[float]] = {"psnr_generated": [], "psnr_frozen": [], "psnr_autoencoded": []}
    for index, scene in enumerate(scenes):
        truth = render([scene], num_frames=FRAMES, size=SIZE).frames
        clip, true = to_pixels(truth), Video(truth[0], FPS)
        frozen = clip[:, :, :1].expand_as(clip)
        if float((clip - frozen).abs().mean()) >= 0.02:
            made = generator.generate(truth[0, 0], scene.caption, num_videos=1, seed=index)[0]
            shown = to_pixels(made.frames[None]), frozen, to_pixels(generator.autoencode(true).frames[None])
            for name, video in zip(figures, shown, strict=True):
                figures[name].append(float(psnr(video[:, :, 1:], clip[:, :, 1:])))
    return {name: float(np.mean(values)) for name, values in figures.items()}

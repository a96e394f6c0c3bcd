"""The laptop's CLIP: an open_clip model trained by contrast between rendered frames and captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import ClipLoss
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor

from icreward_lib.laptop.loop import EVALUATION_SEED, LoopConfig, Loss, degrade, fit, half_weights, reached
from icreward_lib.laptop.tokenizer import EOS, PAD, build_tokenizer, tokenize
from icreward_lib.run.files import atomic, write_json
from icreward_lib.world.scenes import Scene, Split, render, sample_scenes

SIZE = 64
CONTEXT = 20  # tokens; the longest caption has 16 with its end
PHASES = 5  # frames rendered of each scene, of which a step sees one


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of the model and of its training."""

    embed_dim: int = 128
    vision_width: int = 192
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 3
    batch_size: int = 64
    trials: int = 5  # retrievals among 100 scenes behind each final figure
    loop: LoopConfig = LoopConfig(steps=400, lr=1e-3, muon_lr=0.02, warmup=40, ema=0.98, save_every=50)


def _model_config(config: ClipConfig) -> dict[str, Any]:
    """The `model_cfg` of open_clip's config file."""
    ids = build_tokenizer().get_vocab()
    vision = {"image_size": SIZE, "patch_size": 8, "head_width": 32}
    vision |= {"width": config.vision_width, "layers": config.vision_layers}
    text = {"context_length": CONTEXT, "vocab_size": len(ids), "eos_id": ids[EOS], "pad_id": ids[PAD]}
    text |= {"width": config.text_width, "heads": config.text_width // 32, "layers": config.text_layers}
    # open_clip loads a local tokenizer from the model's own folder.
    named = {"hf_tokenizer_name": "local", "pool_type": "eos"}
    return {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text | named}


def build(config: ClipConfig) -> CLIP:
    """A CLIP with new weights, drawn from the loop's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return CLIP(**_model_config(config))


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 "n h w c" to the model's normalised "n c h w"."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _embed_captions(model: CLIP, scenes: list[Scene]) -> Tensor:
    texts: Tensor = model.encode_text(tokenize([scene.caption for scene in scenes], CONTEXT)[0], normalize=True)
    return texts


def contrastive_loss(model: CLIP, config: ClipConfig) -> Loss:
    """The loss of a step: symmetric cross-entropy over a batch's frames and captions (CLIP, Radford 2021)."""

    def loss(step: int) -> dict[str, Tensor]:
        seed = config.loop.seed * 1_000_003 + step
        rng = np.random.default_rng([seed, 1])
        scenes = sample_scenes(config.batch_size, seed=seed)
        clips = render(scenes, num_frames=PHASES, size=SIZE).frames
        frames = clips[np.arange(len(clips)), rng.integers(PHASES, size=len(clips))]
        pixels = to_pixels(degrade(frames[:, None], rng)[:, 0])
        images = model.encode_image(pixels, normalize=True)
        # The temperature's floor of 1/100 is the original's.
        scale = model.logit_scale.exp().clamp(max=100)
        return {"loss": ClipLoss()(images, _embed_captions(model, scenes), scale)}

    return loss


@torch.no_grad()
def evaluate(model: CLIP, *, split: Split = "seen", trials: int = 1) -> dict[str, float]:
    """Retrieval top-1 among 100 new scenes, averaged over `trials` draws of them.

    By a caption the middle frame, by the last frame the first, by the degraded middle frame the first.
    """
    hits: dict[str, list[float]] = {"text_to_image": [], "last_to_first": [], "blurred_to_first": []}
    for trial in range(trials):
        seed = EVALUATION_SEED + trial
        scenes = sample_scenes(100, seed=seed, split=split)
        clips = render(scenes, num_frames=3, size=SIZE).frames
        blurred = degrade(clips[:, 1:2], np.random.default_rng(seed), share=1.0)[:, 0]
        first, middle, last, soft = (
            model.encode_image(to_pixels(frames), normalize=True) for frames in (*clips.swapaxes(0, 1), blurred)
        )
        pairs = (_embed_captions(model, scenes), middle), (last, first), (soft, first)
        for name, (queries, keys) in zip(hits, pairs, strict=True):
            found = (queries @ keys.T).argmax(1)
            hits[name].append(float((found == torch.arange(len(scenes))).float().mean()))
    return {f"{split}_{name}": float(np.mean(values)) for name, values in hits.items()}


def train(run_folder: Path, out: Path, config: ClipConfig = ClipConfig()) -> dict[str, float]:  # noqa: B008
    """Train, or go on training, in `run_folder`; save to `out`, for open_clip; return the figures reached."""
    model = build(config)
    log = fit(model, contrastive_loss(model, config), config.loop, run_folder, lambda: evaluate(model))
    preprocess = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic"}
    with atomic(out) as new:
        write_json(new / "open_clip_config.json", {"model_cfg": _model_config(config), "preprocess_cfg": preprocess})
        save_file(half_weights(model), new / "open_clip_model.safetensors")
        build_tokenizer().save_pretrained(new)
    return reached(model, log, lambda split: evaluate(model, split=split, trials=config.trials))

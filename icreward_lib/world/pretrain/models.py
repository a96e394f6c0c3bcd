"""The laptop's models by name: train one, or go on training it, and write it with its card."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import T5EncoderModel

from icreward_lib.files import atomic, write_checksums, write_json, write_text
from icreward_lib.opensora.autoencoder import VideoAutoencoder
from icreward_lib.opensora.pipeline import OpenSoraPipeline
from icreward_lib.opensora.transformer import STDiT3
from icreward_lib.world.cards import model_card
from icreward_lib.world.pretrain import autoencoder, clip, generator, motion, vlm
from icreward_lib.world.pretrain.text import build_tokenizer
from icreward_lib.world.scenes import sample_scenes

NAMES = ("autoencoder", "opensora", "open-clip", "videomae", "qwen2-vl")
JUDGED = 30  # scenes behind the generator's figures, of seen and of held-out content each
DATA = (
    "Clips of the sticker world, drawn step by step from a seed: photographs that come with scikit-image, scikit-learn "
    "and matplotlib, glyphs of DejaVu Sans. Held-out glyphs, photographs and movements are never seen."
)
LIMITS = "It knows 13 photographs and 44 glyphs at 64x64 pixels. Its outputs on anything else mean nothing."


def train(name: str, run_folder: Path, checkpoints: Path) -> dict[str, float]:
    """Train the model `name` of `NAMES` in `run_folder`, resumably, and write `checkpoints/<its folder>`.

    The autoencoder is part of the generator's folder, so `opensora` has to follow it. Returns the figures reached.
    """
    trainers: dict[str, Callable[[], dict[str, float]]] = {
        "autoencoder": lambda: train_autoencoder(run_folder, checkpoints / "opensora" / "vae"),
        "opensora": lambda: train_generator(run_folder, checkpoints / "opensora"),
        "open-clip": lambda: clip.train(run_folder, checkpoints / "open-clip"),
        "videomae": lambda: motion.train(run_folder, checkpoints / "videomae"),
        "qwen2-vl": lambda: vlm.train(run_folder, checkpoints / "qwen2-vl"),
    }
    if name not in trainers:
        raise ValueError(f"there is no laptop model {name!r}; there are {', '.join(NAMES)}")
    figures = trainers[name]()
    folder = checkpoints / ("opensora/vae" if name == "autoencoder" else name)
    write_account(name, folder, run_folder, figures)
    return figures


def train_autoencoder(run_folder: Path, out: Path) -> dict[str, float]:
    """Train the video autoencoder and save it in half precision."""
    model = autoencoder.train(run_folder)
    with atomic(out) as folder:
        model.half().save_pretrained(folder)
    return autoencoder.evaluate(VideoAutoencoder.from_pretrained(out, torch_dtype=torch.float32))


def train_generator(run_folder: Path, out: Path) -> dict[str, float]:
    """Train the denoiser and its text encoder on the autoencoder in `out`/vae; save the pipeline in half precision."""
    vae = VideoAutoencoder.from_pretrained(out / "vae", torch_dtype=torch.float32)
    model, tokenizer, log = generator.train(vae, run_folder)
    save_generator(model.transformer, model.text_encoder, out)
    pipeline = OpenSoraPipeline.from_pretrained(str(out), dtype=torch.float32)
    figures = {name: value for name, value in log[-1].items() if name.startswith("loss")}
    for split in ("seen", "unseen"):
        scenes = sample_scenes(JUDGED, seed=1_000_000_007, split=split)
        found = generator.evaluate_samples(pipeline, scenes, steps=10, seed=0)
        figures |= {f"{split}_{key}": value for key, value in found.items()}
    return figures


def save_generator(transformer: STDiT3, text_encoder: T5EncoderModel, out: Path) -> None:
    """Write the pipeline's parts beside the autoencoder that is already in `out`/vae."""
    vae = VideoAutoencoder.from_pretrained(out / "vae")
    pipeline = OpenSoraPipeline(text_encoder, build_tokenizer(), vae, transformer, generator.training_flow())
    card, account = (out / "vae" / name for name in ("README.md", "training.json"))
    kept = {path.name: path.read_bytes() for path in (card, account) if path.is_file()}
    with atomic(out) as folder:
        pipeline.to(dtype=torch.float16).save_pretrained(folder)
        for name, content in kept.items():
            (folder / "vae" / name).write_bytes(content)


def write_account(name: str, folder: Path, run_folder: Path, figures: dict[str, float]) -> None:
    """Write the model card, the log of the training, and the checksums of the folder."""
    logs = {
        path.parent.name if path.parent != run_folder else "training": [
            json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in sorted(run_folder.rglob("log.jsonl"))
    }
    write_json(folder / "training.json", {"figures": figures, "logs": logs})
    steps = ", ".join(f"{stage}: {rows[-1]['step']:.0f} steps" for stage, rows in logs.items())
    paces = [row["seconds_per_step"] for rows in logs.values() for row in rows]
    seconds = sum(paces) / max(1, len(paces))
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    titles = {
        "autoencoder": (
            "Open-Sora video autoencoder, small",
            "17 frames of 64x64 pixels to 5 latents of 32x32.",
        ),
        "opensora": (
            "Open-Sora 1.2, small",
            "Image to video: STDiT3, video autoencoder and T5, 17 frames of 64x64.",
        ),
        "open-clip": ("open_clip model, small", "Image and text features of 64x64 frames and captions."),
        "videomae": ("VideoMAE, small", "Classifies camera and subject movement; features for FVD."),
        "qwen2-vl": (
            "Qwen2-VL, small",
            "Captions clips; the body of ICReward. It is also asked what became of a reference image: how often it is "
            "right is `change` below. A third of its training clips show letters over collages of seen photographs, "
            "which have no caption.",
        ),
    }
    title, what = titles[name]
    training = f"{steps}, from nothing, fp32 on 2 CPU cores ({seconds:.1f} s a step, shared); seeds in the code."
    card = model_card(title, what=what, data=DATA, training=training, figures=figures, limits=LIMITS, size=size)
    write_text(folder / "README.md", card)
    write_checksums(folder)

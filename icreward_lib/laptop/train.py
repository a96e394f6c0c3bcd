"""Cards: what a data set or a small model is, where it comes from, and what it is not for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.laptop import autoencoder, clip, domain_gauge, icreward_lite, open_sora, qwen2_vl_lessons, videomae
from icreward_lib.laptop.tokenizer import build_tokenizer
from icreward_lib.run.files import atomic, write_checksums, write_json, write_text
from icreward_lib.world.scenes import sample_scenes


def model_card(
    title: str,
    *,
    what: str,
    data: str,
    training: str,
    figures: Mapping[str, float],
    use: str,
    limits: str,
    size: float,
) -> str:
    """The card of one small model.

    Args:
        figures: what was measured, name -> value.
        size: of its files, in MB.
    """
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    return f"""# {title}

{what}

**Training data.** {data}

**Training.** {training}

**Size.** {size:.1f} MB.

**Intended use.** {use}

**Limits.** {limits}

| measured | value |
|---|---|
{rows}
"""


NAMES = ("autoencoder", "opensora", "open-clip", "videomae", "qwen2-vl", "icreward-lite", "domain")
JUDGED = 30  # scenes behind the generator's figures, of seen and of held-out content each
STICKER_WORLD = (
    "Clips of the sticker world, drawn step by step from a seed: photographs that come with scikit-image, scikit-learn "
    "and matplotlib, glyphs of DejaVu Sans. Held-out glyphs, photographs and movements are never seen."
)
PROFILE_ONLY = "The `laptop` profile of this project and its tests; nothing outside of the sticker world."
STRANGERS = "It knows 13 photographs and 44 glyphs at 64x64 pixels. Its outputs on anything else mean nothing."


@dataclass(frozen=True)
class About:
    """What the card of a model says besides its figures."""

    title: str
    what: str
    data: str = STICKER_WORLD
    limits: str = STRANGERS
    use: str = PROFILE_ONLY


ABOUT = {
    "autoencoder": About("Open-Sora video autoencoder, small", "17 frames of 64x64 pixels to 5 latents of 32x32."),
    "opensora": About("Open-Sora 1.2, small", "Image to video: STDiT3, video autoencoder and T5, 17 frames of 64x64."),
    "open-clip": About("open_clip model, small", "Image and text features of 64x64 frames and captions."),
    "videomae": About("VideoMAE, small", "Classifies camera and subject movement; features for FVD."),
    "qwen2-vl": About(
        "Qwen2-VL, small",
        "Captions clips; the body of ICReward. It is also asked what became of a reference image: how often it is "
        "right is `change` below. A third of its training clips show letters over collages of seen photographs, "
        "which have no caption.",
    ),
    "icreward-lite": About(
        "ICReward lite",
        "Scores how well a real clip keeps a reference image: ICReward's attention head on feature maps of "
        "EfficientNet-Lite0, which comes by pip; the files hold the head alone. `_rank` below is Spearman's "
        "correlation with the lessons' labels over new frames, `_mse` their mean squared error.",
        "Lessons drawn step by step from a seed: a camera moves over one of 13 photographs, half of the time with a "
        "part of another one in the middle, and the middle or what is around it is replaced, recoloured, blurred, "
        "warped or dissolved more and more; an eighth of the clips are of another photograph. The figures of "
        "`unseen` are on 4 photographs that no lesson shows.",
        "It has learned from 13 photographs and five made-up kinds of departure, never from videos that a generator "
        "made nor from what people say of them. The subject is whatever is in the middle. It judges every frame on "
        "its own: a frozen clip keeps its image perfectly, and flicker costs nothing but its darkest frames.",
        "`icreward score` on one's own clips where no hub is at hand: to order the videos of an image, and to see "
        "where they depart. A score is no measurement.",
    ),
    "domain": About(
        "Domain gauge of the sticker world",
        "Warns of pictures that look like nothing the laptop's models have seen: distance to the nearest of 2000 "
        "frames, by whitened principal components of EfficientNet-Lite0's features. `_warned` below is the share of "
        "new scenes that it warns of.",
        STICKER_WORLD,
        "It compares looks, not meaning: content that is new but looks like the sticker world passes.",
        "The warnings of `icreward score`.",
    ),
}


def train(name: str, run_folder: Path, checkpoints: Path) -> dict[str, float]:
    """Train the model `name` of `NAMES` in `run_folder`, resumably, and write `checkpoints/<its folder>`.

    The autoencoder is part of the generator's folder, so `opensora` has to follow it. Returns the figures reached.
    """
    trainers: dict[str, Callable[[], dict[str, float]]] = {
        "autoencoder": lambda: train_autoencoder(run_folder, checkpoints / "opensora" / "vae"),
        "opensora": lambda: train_generator(run_folder, checkpoints / "opensora"),
        "open-clip": lambda: clip.train(run_folder, checkpoints / "open-clip"),
        "videomae": lambda: videomae.train(run_folder, checkpoints / "videomae"),
        "qwen2-vl": lambda: qwen2_vl_lessons.train(run_folder, checkpoints / "qwen2-vl"),
        "icreward-lite": lambda: icreward_lite.train(run_folder, checkpoints / "icreward-lite"),
        "domain": lambda: domain_gauge.train(checkpoints / "domain"),
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
    model, tokenizer, log = open_sora.train(vae, run_folder)
    save_generator(model.transformer, model.text_encoder, out)
    pipeline = OpenSoraPipeline.from_pretrained(str(out), dtype=torch.float32)
    figures = {name: value for name, value in log[-1].items() if name.startswith("loss")}
    for split in ("seen", "unseen"):
        scenes = sample_scenes(JUDGED, seed=1_000_000_007, split=split)
        found = open_sora.evaluate_samples(pipeline, scenes, steps=10, seed=0)
        figures |= {f"{split}_{key}": value for key, value in found.items()}
    return figures


def save_generator(transformer: STDiT3, text_encoder: T5EncoderModel, out: Path) -> None:
    """Write the pipeline's parts beside the autoencoder that is already in `out`/vae."""
    vae = VideoAutoencoder.from_pretrained(out / "vae")
    pipeline = OpenSoraPipeline(text_encoder, build_tokenizer(), vae, transformer, open_sora.training_flow())
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
    pace = f" ({sum(paces) / len(paces):.1f} s a step, shared)" if paces else ""
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    about = ABOUT[name]
    card = model_card(
        about.title,
        what=about.what,
        data=about.data,
        training=f"{steps or 'one fit'}, from nothing, fp32 on 2 CPU cores{pace}; seeds in the code.",
        figures=figures,
        use=about.use,
        limits=about.limits,
        size=size,
    )
    write_text(folder / "README.md", card)
    write_checksums(folder)

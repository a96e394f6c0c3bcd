"""Train the laptop's small models, and write what each one is: its card, its log, its checksums."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icreward_lib.laptop import autoencoder, clip, domain_gauge, icreward_lite, open_sora, qwen2_vl, videomae
from icreward_lib.run.files import write_checksums, write_json, write_text


@dataclass(frozen=True)
class Model:
    """How a model is trained, from (a folder for the run, the folder to save to) to figures; and what its card says."""

    train: Callable[[Path, Path], dict[str, float]]
    title: str
    what: str
    data: str = (
        "Clips of the sticker world, drawn step by step from a seed: photographs that come with scikit-image, "
        "scikit-learn and matplotlib, glyphs of DejaVu Sans. Held-out glyphs, photographs and movements are never seen."
    )
    limits: str = "It knows 13 photographs and 44 glyphs at 64x64 pixels. Its outputs on anything else mean nothing."
    use: str = "The `laptop` profile of this project and its tests; nothing outside of the sticker world."
    folder: str = ""  # below the checkpoints; as the model's name if empty


#: By name. The autoencoder is part of the generator's folder, so `opensora` has to follow it.
MODELS = {
    "autoencoder": Model(
        autoencoder.train,
        "Open-Sora video autoencoder, small",
        "17 frames of 64x64 pixels to 5 latents of 32x32.",
        folder="opensora/vae",
    ),
    "opensora": Model(
        open_sora.train, "Open-Sora 1.2, small", "Image to video: STDiT3, video autoencoder and T5, 17 frames of 64x64."
    ),
    "open-clip": Model(clip.train, "open_clip model, small", "Image and text features of 64x64 frames and captions."),
    "videomae": Model(videomae.train, "VideoMAE, small", "Classifies camera and subject movement; features for FVD."),
    "qwen2-vl": Model(
        qwen2_vl.train,
        "Qwen2-VL, small",
        "Captions clips; the body of ICReward. It is also asked what became of a reference image: how often it is "
        "right is `change` below. A third of its training clips show letters over collages of seen photographs, "
        "which have no caption.",
    ),
    "icreward-lite": Model(
        icreward_lite.train,
        "ICReward lite",
        "Scores how well a real clip keeps a reference image: ICReward's attention head on feature maps of "
        "EfficientNet-Lite0, which comes by pip; the files hold the head alone. `_rank` below is Spearman's "
        "correlation with the examples' labels over new frames, `_mse` their mean squared error.",
        "Examples drawn step by step from a seed: a camera moves over one of 13 photographs, half of the time with a "
        "part of another one in the middle, and the middle or what is around it is replaced, recoloured, blurred, "
        "warped or dissolved more and more; an eighth of the clips are of another photograph. The figures of "
        "`unseen` are on 4 photographs that no example shows.",
        "It has learned from 13 photographs and five made-up kinds of departure, never from videos that a generator "
        "made nor from what people say of them. The subject is whatever is in the middle. It judges every frame on "
        "its own: a frozen clip keeps its image perfectly, and flicker costs nothing but its darkest frames.",
        "`icreward score` on one's own clips where no hub is at hand: to order the videos of an image, and to see "
        "where they depart. A score is no measurement.",
    ),
    "domain": Model(
        lambda _, out: domain_gauge.train(out),
        "Domain gauge of the sticker world",
        "Warns of pictures that look like nothing the laptop's models have seen: distance to the nearest of 2000 "
        "frames, by whitened principal components of EfficientNet-Lite0's features. `_warned` below is the share of "
        "new scenes that it warns of.",
        limits="It compares looks, not meaning: content that is new but looks like the sticker world passes.",
        use="The warnings of `icreward score`.",
    ),
}


def train(name: str, run_folder: Path, checkpoints: Path) -> dict[str, float]:
    """Train a model of `MODELS` in `run_folder`, resumably; write its folder of `checkpoints`; return the figures."""
    if name not in MODELS:
        raise ValueError(f"there is no laptop model {name!r}; there are {', '.join(MODELS)}")
    model = MODELS[name]
    folder = checkpoints / (model.folder or name)
    figures = model.train(run_folder, folder)
    logs = {}
    for path in sorted(run_folder.rglob("log.jsonl")):
        stage = path.parent.name if path.parent != run_folder else "training"
        logs[stage] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    write_json(folder / "training.json", {"figures": figures, "logs": logs})
    write_text(folder / "README.md", _card(model, folder, figures, logs))
    write_checksums(folder)
    return figures


def _card(model: Model, folder: Path, figures: dict[str, float], logs: dict[str, list[dict[str, float]]]) -> str:
    steps = ", ".join(f"{stage}: {rows[-1]['step']:.0f} steps" for stage, rows in logs.items())
    paces = [row["seconds_per_step"] for rows in logs.values() for row in rows]
    pace = f" ({sum(paces) / len(paces):.1f} s a step, shared)" if paces else ""
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in figures.items())
    return f"""# {model.title}

{model.what}

**Training data.** {model.data}

**Training.** {steps or "one fit"}, from nothing, fp32 on 2 CPU cores{pace}; seeds in the code.

**Size.** {size:.1f} MB.

**Intended use.** {model.use}

**Limits.** {model.limits}

| measured | value |
|---|---|
{rows}
"""

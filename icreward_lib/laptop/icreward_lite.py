"""Train ICReward lite: moving crops of real photographs, departures from them, and what these cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from icreward_lib.laptop.loop import EVALUATION_SEED, LoopConfig, degrade, fit
from icreward_lib.rewards.lite import ICRewardLite, LiteConfig
from icreward_lib.world.content import PHOTOGRAPHS, UNSEEN_PHOTOGRAPHS, photograph, turned_colours
from icreward_lib.world.damage import KINDS, REGIONS, depart, ellipse
from icreward_lib.world.scenes import SPLITS, Split

SHORT_SIDE, DEFOCUS = 400, 0.5  # pixels of the photographs that crops are taken from
#: Label of a region that has departed wholly. What merely changes a region's look costs less than another content.
WORST = {"replaced": 0.0, "dissolved": 0.0, "blurred": 0.2, "warped": 0.3, "recoloured": 0.3}


@dataclass(frozen=True)
class LiteTraining:
    """Sizes of the examples and of the training."""

    model: LiteConfig = LiteConfig()
    batch_size: int = 12
    frames: int = 4
    judged: int = 300  # new examples of each split behind the final figures
    loop: LoopConfig = LoopConfig(steps=500, lr=1e-3, warmup=20, weight_decay=0.01, ema=0.98, save_every=50)


class LiteExamples(NamedTuple):
    """Clips beside their reference images: uint8 "n t h w c" and "n h w c", labels float32 "n t 2" in [0, 1]."""

    clips: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def examples(count: int, config: LiteTraining, *, seed: int, split: Split = "seen") -> LiteExamples:
    """Draw clips that keep their image, depart from it in one region or both, or are of another one."""
    rng = np.random.default_rng([seed, 11])
    drawn = [_example(config, split, rng) for _ in range(count)]
    clips, images, labels = (np.stack(part) for part in zip(*drawn, strict=True))
    # What a codec or a blurry video model does to all of a clip is no departure.
    return LiteExamples(degrade(clips, rng, share=0.3), images, labels.astype(np.float32))


def _example(config: LiteTraining, split: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    names = [name for name in PHOTOGRAPHS if (name in UNSEEN_PHOTOGRAPHS) == (split == "unseen")]
    first, second, third = (str(name) for name in rng.choice(names, 3, replace=False))
    size = config.model.input_size
    clip, other = (_shot(name, config.frames + 1, size, rng) for name in (first, second))
    if rng.random() < 0.5:  # something in the middle that moves on its own
        clip = _pasted(clip, _shot(third, config.frames + 1, size, rng), ellipse(size, size, rng), rng)
    if rng.random() < 0.3:  # a camera that adapts to the light
        gain = np.linspace(1, rng.uniform(0.8, 1.25), len(clip))[:, None, None, None]
        clip = (gain * clip).round().clip(0, 255).astype(np.uint8)
    image, labels = clip[0], np.ones((config.frames + 1, len(REGIONS)))
    fate = rng.random()
    if fate < 0.12:
        clip, labels = other, np.zeros_like(labels)
    elif fate < 0.88:
        both, chosen = rng.random() < 0.25, rng.integers(len(REGIONS))
        for place, region in enumerate(REGIONS):
            if both or place == chosen:
                kind, severity = str(rng.choice(list(KINDS))), float(rng.choice([1.0, rng.random()]))
                draw = int(rng.integers(2**31))
                clip = depart(clip, kind=kind, region=region, severity=severity, other=other, seed=draw)
                labels[:, place] = 1 - (1 - WORST[kind]) * np.linspace(0, severity, len(clip))
    return clip[1:], image, labels[1:]


def _shot(name: str, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A camera that moves over a photograph, mirrored or not, in its colours or in others: uint8 "t h w c"."""
    whole = photograph(name, SHORT_SIDE, DEFOCUS)
    if rng.random() < 0.5:
        whole = whole.flip(2)
    sides = rng.uniform(0.4, 0.9) * SHORT_SIDE * np.linspace(1, rng.uniform(0.7, 1.4), frames)
    sides = sides.clip(size / 2, SHORT_SIDE)
    start = rng.random(2)
    places = np.linspace(start, (start + rng.uniform(-0.8, 0.8, 2)).clip(0, 1), frames)
    shown = []
    for side, place in zip(sides.round().astype(int), places, strict=True):
        top, left = (place * (np.array(whole.shape[1:]) - side)).astype(int)
        part = whole[None, :, top : top + side, left : left + side]
        shown.append(F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0])
    pixels = torch.stack(shown)
    if rng.random() < 0.4:
        pixels = turned_colours(pixels, rng)
    pixels = (pixels - 0.5) * rng.uniform(0.7, 1.2) + 0.5 + rng.uniform(-0.1, 0.1)
    return (255 * pixels.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()


def _pasted(clip: np.ndarray, subject: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clip with a part of another one laid over its middle, which drifts, turns and grows or shrinks on its own."""
    layer = np.concatenate([subject[0], 255 * mask[..., None]], -1).astype(np.float32)
    way = torch.linspace(0, 1, len(clip))
    shift = way[:, None] * torch.from_numpy(rng.uniform(-0.5, 0.5, 2)).float()  # of half a frame
    angle, scale = way * rng.uniform(-0.4, 0.4), 1 + way * rng.uniform(-0.25, 0.35)  # radians, and 1 / size
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    place = torch.cat([scale[:, None, None] * turn, shift[..., None]], -1)
    grid = F.affine_grid(place, [len(clip), 4, *clip.shape[1:3]], align_corners=False)
    layers = torch.from_numpy(layer).permute(2, 0, 1).expand(len(clip), -1, -1, -1)
    moved = F.grid_sample(layers, grid, align_corners=False).permute(0, 2, 3, 1).numpy()
    cover = moved[..., 3:] / 255
    return np.asarray(((1 - cover) * clip + cover * moved[..., :3]).round().clip(0, 255).astype(np.uint8))


def read(reward: ICRewardLite, batch: LiteExamples) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of clips and images, and labels."""
    count, frames = batch.clips.shape[:2]
    video = reward.encode(batch.clips.reshape(-1, *batch.clips.shape[2:])).unflatten(0, (count, frames))
    return video, reward.encode(batch.images), torch.from_numpy(batch.labels)


def train(run_folder: Path, out: Path, config: LiteTraining = LiteTraining()) -> dict[str, float]:  # noqa: B008
    """Train, save to `out`, and say how it does on new examples of seen and of held-out photographs."""
    reward = ICRewardLite(config.model, seed=config.loop.seed)

    def loss(step: int) -> dict[str, Tensor]:
        video, image, labels = read(reward, examples(config.batch_size, config, seed=step))
        return {"loss": F.mse_loss(reward(video, image), labels)}

    fit(reward, loss, config.loop, run_folder)
    reward.save_pretrained(out)
    return evaluate(ICRewardLite.from_pretrained(out), config)


@torch.no_grad()
def evaluate(reward: ICRewardLite, config: LiteTraining) -> dict[str, float]:
    """Mean squared error, and rank correlation with the labels over frames, by split and dimension."""
    figures = {}
    for split in SPLITS:
        found, wanted = [], []
        for start in range(0, config.judged, config.batch_size):
            batch = examples(config.batch_size, config, seed=EVALUATION_SEED + start, split=split)
            video, image, labels = read(reward, batch)
            found.append(reward(video, image).flatten(0, 1))
            wanted.append(labels.flatten(0, 1))
        scores, labels = torch.cat(found), torch.cat(wanted)
        figures[f"{split}_mse"] = float(F.mse_loss(scores, labels))
        for place, name in enumerate(REGIONS):
            figures[f"{split}_{name}_rank"] = float(spearmanr(scores[:, place], labels[:, place]).statistic)
    return figures

"""The laptop's VideoMAE: a classifier of movements, whose features serve the Fréchet distance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessor

from icreward_lib.laptop.loop import EVALUATION_SEED, LoopConfig, degrade, fit, half_weights, reached
from icreward_lib.laptop.patch_targets import patch_targets
from icreward_lib.metrics.video_features import videomae_pixels
from icreward_lib.run.files import atomic
from icreward_lib.video import Video
from icreward_lib.world.content import CAMERAS, MOTIONS
from icreward_lib.world.scenes import Scene, Split, render, sample_scenes

#: The head's outputs: logits of the camera's movements, then of the subject's, or that there is none.
LABELS = (*(f"the camera {name}" for name in CAMERAS), *(f"the subject {name}" for name in MOTIONS), "no subject")
SIZE, TUBELET = 64, 4  # pixels along a side, and frames of a patch
OUTPUTS = (len(CAMERAS), len(MOTIONS) + 1)  # how many of `LABELS` are the camera's and the subject's
FRAMES = 17  # of the world's clips; the model sees the last 16, as the Fréchet distance does


@dataclass(frozen=True)
class MotionConfig:
    """Sizes of the model and of its training."""

    width: int = 160
    layers: int = 3
    heads: int = 4
    patch_size: int = 8
    batch_size: int = 24
    judged: int = 512  # new clips of each split behind the final figures
    loop: LoopConfig = LoopConfig(steps=600, lr=1e-3, muon_lr=0.02, warmup=40, ema=0.98, save_every=50)


def build(config: MotionConfig) -> VideoMAEForVideoClassification:
    """A classifier with new weights, drawn from the loop's seed."""
    settings = VideoMAEConfig(
        image_size=SIZE,
        patch_size=config.patch_size,
        num_frames=FRAMES - 1,
        tubelet_size=TUBELET,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return VideoMAEForVideoClassification(settings)


def to_pixels(clips: np.ndarray) -> Tensor:
    """uint8 "n 17 h w c" to the model's normalised "n 16 c h w", without the first frame."""
    return videomae_pixels([Video(frames, 8.0) for frames in clips], num_frames=FRAMES - 1, size=clips.shape[2])


def to_labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Indices of the camera's movement, and of the subject's among `MOTIONS` and "no subject"; each (n,)."""
    cameras = [CAMERAS.index(scene.camera) for scene in scenes]
    motions = [len(MOTIONS) if scene.subject is None else MOTIONS.index(scene.motion) for scene in scenes]
    return torch.tensor(cameras), torch.tensor(motions)


class MotionPretraining(nn.Module):
    """The classifier and a head that reads off each patch's movement: whole clips' labels alone teach too slowly."""

    def __init__(self, model: VideoMAEForVideoClassification, config: MotionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.flow = nn.Linear(config.width, 2)
        nn.init.zeros_(self.flow.weight)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Two cross-entropies, and the squared error of the patches' movements in quarters of a frame."""
        config = self.config
        seed = config.loop.seed * 1_000_003 + step
        scenes = sample_scenes(config.batch_size, seed=seed)
        clips = render(scenes, num_frames=FRAMES, size=SIZE)
        pixels = to_pixels(degrade(clips.frames, np.random.default_rng([seed, 1]), share=0.3))
        states = self.model.videomae(pixels).last_hidden_state
        logits = self.model.classifier(self.model.fc_norm(states.mean(1)))
        camera, motion = (
            F.cross_entropy(*pair) for pair in zip(logits.split(OUTPUTS, -1), to_labels(scenes), strict=True)
        )
        flow = F.mse_loss(self.flow(states), 4 * movements(scenes, clips.masks, SIZE // config.patch_size))
        return {"loss": camera + motion + flow, "camera": camera, "motion": motion, "flow": flow}


def movements(scenes: list[Scene], masks: np.ndarray, grid: int) -> Tensor:
    """Truth "n tokens 2", in the order of the model's tokens."""
    groups = [list(range(first, first + TUBELET)) for first in range(1, FRAMES, TUBELET)]
    return patch_targets(scenes, masks, groups, grid)[1]


@torch.no_grad()
def evaluate(model: VideoMAEForVideoClassification, *, split: Split = "seen", count: int) -> dict[str, float]:
    """Accuracy of both labels on `count` new scenes."""
    hits: dict[str, list[Tensor]] = {"camera": [], "motion": []}
    scenes = sample_scenes(count, seed=EVALUATION_SEED, split=split)
    for start in range(0, count, 32):
        part = scenes[start : start + 32]
        logits = model(to_pixels(render(part, num_frames=FRAMES, size=SIZE).frames)).logits
        for name, answer, label in zip(hits, logits.split(OUTPUTS, -1), to_labels(part), strict=True):
            hits[name].append(answer.argmax(1) == label)
    return {f"{split}_{name}": float(torch.cat(values).float().mean()) for name, values in hits.items()}


def train(run_folder: Path, out: Path, config: MotionConfig = MotionConfig()) -> dict[str, float]:  # noqa: B008
    """Train, or go on training, in `run_folder`; save to `out`, for transformers; return the figures reached."""
    model = build(config)
    task = MotionPretraining(model, config)
    log = fit(task, task.loss, config.loop, run_folder, lambda: evaluate(model, count=config.judged // 4))
    size, colours = {"height": SIZE, "width": SIZE}, (list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
    with atomic(out) as new:
        model.save_pretrained(new, state_dict=half_weights(model))
        processor = VideoMAEImageProcessor(size=size, do_center_crop=False, image_mean=colours[0], image_std=colours[1])
        processor.save_pretrained(new)
    return reached(model, log, lambda split: evaluate(model, split=split, count=config.judged))

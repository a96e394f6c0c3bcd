"""The sticker world: a photograph seen by a moving camera, and a sticker that moves over it; every clip with its truth.

Some glyphs, photographs and combinations of movements are held out: a test can ask about what no model has seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from icreward_lib.world import content

Split = Literal["seen", "unseen"]
SPLITS: tuple[Split, ...] = ("seen", "unseen")
PHOTO_SIDE = 2.0  # the photograph's shorter side, in frame sizes
DEFOCUS = 1.0 / 64  # standard deviation of the background's blur, in frame sizes
STICKER_SIZE = 40  # resolution of the sticker's texture, in pixels


@dataclass(frozen=True)
class Scene:
    """The factors of one clip. Lengths are in frame sizes, angles in turns, amounts are over the whole clip."""

    photograph: str  # a name in content.PHOTOGRAPHS, or "collage N"
    camera: str  # one of content.CAMERAS
    crop: tuple[float, float, float]  # centre x and y as a share of the free range, side of the view
    camera_amount: float  # pan: distance; zoom: relative change of the view's side
    subject: str | None = None  # a name in content.SUBJECTS, or a letter; None: scenery only
    colours: tuple[str, str] = ("red", "blue")
    motion: str = "stays still"  # one of content.MOTIONS
    position: tuple[float, float] = (0.5, 0.5)  # the sticker's centre half-way through the clip
    size: float = 0.45  # the sticker's side
    tilt: float = 0.0
    subject_amount: float = 0.0  # move: distance; spin: turns; grow: relative change of size

    @property
    def caption(self) -> str:
        """The text prompt: what is seen and how it moves."""
        camera = "the camera is static" if self.camera == "static" else f"the camera {self.camera}"
        if self.subject is None:
            return f"the {self.photograph}, {camera}"
        first, second = self.colours
        return f"a {first} and {second} {self.subject} {self.motion} over the {self.photograph}, {camera}"

    @property
    def is_unseen(self) -> bool:
        """Whether any factor is held out from training."""
        return (
            self.photograph in content.UNSEEN_PHOTOGRAPHS
            or self.subject in content.UNSEEN_SUBJECTS
            or (self.subject is not None and (self.camera, self.motion) in content.UNSEEN_MOVES)
        )


@dataclass(frozen=True)
class Clips:
    """Rendered scenes with their truth."""

    frames: np.ndarray  # uint8 "n t h w c", RGB
    masks: np.ndarray  # float32 "n t h w", the sticker's coverage in [0, 1]


def sample_scenes(n: int, *, seed: int, split: Split = "seen") -> list[Scene]:
    """Draw n scenes, a fifth without a subject; scene i depends on `seed` and i alone.

    `seen` scenes hold no held-out factor, `unseen` ones a held-out glyph and photograph, and half of them movements.
    """
    return [_sample_scene(np.random.default_rng([seed, index]), split) for index in range(n)]


def _sample_scene(rng: np.random.Generator, split: str) -> Scene:
    held_out = split == "unseen"
    photographs = [name for name in content.PHOTOGRAPHS if (name in content.UNSEEN_PHOTOGRAPHS) == held_out]
    subjects = [name for name in content.SUBJECTS if (name in content.UNSEEN_SUBJECTS) == held_out]
    new_moves = held_out and rng.random() < 0.5
    moves = [m for m in product(content.CAMERAS, content.MOTIONS) if (m in content.UNSEEN_MOVES) == new_moves]
    camera, motion = moves[rng.integers(len(moves))]
    scenery_only = rng.random() < 0.2
    first, second = rng.choice(list(content.COLOURS), 2, replace=False)
    size = rng.uniform(0.38, 0.52)
    amounts = {"spins": rng.choice([-1, 1]) * rng.uniform(0.18, 0.35), "grows": rng.uniform(0.35, 0.6)}
    amount = amounts.get(motion, rng.uniform(0.22, 0.36))
    reach = size / 2 + (amount / 2 if motion.startswith("moves") else size * amount / 4 if motion == "grows" else 0)
    margin = min(reach, 0.5)
    return Scene(
        photograph=photographs[rng.integers(len(photographs))],
        camera=camera,
        crop=(rng.random(), rng.random(), rng.uniform(1.0, 1.25)),
        camera_amount=rng.uniform(0.2, 0.35),
        subject=None if scenery_only else subjects[rng.integers(len(subjects))],
        colours=(str(first), str(second)),
        motion=motion,
        position=(rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)),
        size=size,
        tilt=rng.uniform(-0.06, 0.06),
        subject_amount=float(amount) if motion != "stays still" else 0.0,
    )


def another_subject(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with another subject, held out if its own is, a letter if its own is one."""
    if scene.subject not in content.SUBJECTS:
        return replace(scene, subject=str(rng.choice(content.letters())))
    return replace(scene, subject=_another(scene.subject, content.SUBJECTS, content.UNSEEN_SUBJECTS, rng))


def another_background(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene over another photograph, held out if its own is, over a collage if it is over one."""
    if scene.photograph not in content.PHOTOGRAPHS:
        return collaged(scene, rng)
    return replace(scene, photograph=_another(scene.photograph, content.PHOTOGRAPHS, content.UNSEEN_PHOTOGRAPHS, rng))


def collaged(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene over a collage, which has no name."""
    return replace(scene, photograph=f"{content.COLLAGE}{rng.integers(content.COLLAGES)}")


def _another(name: str, names: Collection[str], held_out: Collection[str], rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in names if (other in held_out) == (name in held_out) and other != name]))


def recoloured(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with its subject in two other colours."""
    first, second = rng.choice([name for name in content.COLOURS if name not in scene.colours], 2, replace=False)
    return replace(scene, colours=(str(first), str(second)))


def render(scenes: list[Scene], *, num_frames: int = 17, size: int = 64) -> Clips:
    """Render scenes to clips of `num_frames`, which the movement spans whatever they are, of `size` x `size` pixels."""
    shape = (len(scenes), num_frames, size, size)
    frames, masks = np.empty((*shape, 3), np.uint8), np.zeros(shape, np.float32)
    # Phase of each frame, -1/2 at the first and 1/2 at the last.
    phase = torch.linspace(-0.5, 0.5, num_frames) if num_frames > 1 else torch.tensor([-0.5])
    for index, scene in enumerate(scenes):
        picture = _background(scene, phase, size)
        if scene.subject is not None:
            colour, alpha = _sticker(scene, phase, size)
            picture = picture * (1 - alpha) + colour
            masks[index] = alpha[:, 0].numpy()
        frames[index] = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Clips(frames, masks)


def _background(scene: Scene, phase: torch.Tensor, size: int) -> torch.Tensor:
    """The photograph through the camera: "t 3 size size" in [0, 1]."""
    photo = content.background(scene.photograph, round(PHOTO_SIDE * size), DEFOCUS * size)
    height, width = photo.shape[1:]
    kind, _, way = scene.camera.partition(" ")
    side = torch.full_like(phase, scene.crop[2] * size)  # of the view, in pixels of the photograph
    if kind == "zooms":
        side = side * (1 - scene.camera_amount * phase * (1 if way == "in" else -1))
    largest, centres = float(side.max()), []
    for length, place, direction in zip((width, height), scene.crop, content.DIRECTIONS.get(way, (0, 0)), strict=False):
        pan = scene.camera_amount * size * phase * direction
        free = (length - largest) / 2 - float(pan.abs().max())
        centres.append(2 * (pan + length / 2 + free * (2 * place - 1)) / length - 1)
    zero = torch.zeros_like(phase)
    return _sampled(photo, [[side / width, zero, centres[0]], [zero, side / height, centres[1]]], size, "border")


def _sticker(scene: Scene, phase: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The moving sticker: premultiplied colour "t 3 size size" and coverage "t 1 size size", both in [0, 1]."""
    assert scene.subject is not None
    kind, _, way = scene.motion.partition(" ")
    step = scene.subject_amount * phase
    directions = content.DIRECTIONS.get(way, (0, 0))
    x, y = (2 * (place + step * direction) - 1 for place, direction in zip(scene.position, directions, strict=True))
    scale = scene.size * (1 + step * (kind == "grows"))
    turn = scene.tilt + step * (kind == "spins")
    cos, sin = torch.cos(2 * torch.pi * turn) / scale, torch.sin(2 * torch.pi * turn) / scale
    theta = [[cos, sin, -(cos * x + sin * y)], [-sin, cos, sin * x - cos * y]]
    return _sampled(_texture(scene.subject, scene.colours), theta, size, "zeros").split((3, 1), 1)


def _sampled(picture: torch.Tensor, theta: list[list[torch.Tensor]], size: int, padding: str) -> torch.Tensor:
    """A picture "c h w" under the affine maps, 2 x 3 of (t,), from the frame's [-1, 1] square to its own."""
    maps = torch.stack([torch.stack(row, -1) for row in theta], 1)
    grid = F.affine_grid(maps, [len(maps), len(picture), size, size], align_corners=False)
    return F.grid_sample(picture.expand(len(maps), -1, -1, -1), grid, padding_mode=padding, align_corners=False)


def _texture(subject: str, colours: tuple[str, str]) -> torch.Tensor:
    """A coloured sticker: ink in a two-colour gradient, pale body, white border. "4 h w", premultiplied RGBA."""
    ink, body, cut = content.sticker_layers(subject, STICKER_SIZE)
    first, second = (torch.tensor(content.COLOURS[name])[:, None, None] for name in colours)
    gradient = first + (second - first) * torch.linspace(0, 1, STICKER_SIZE)[None, :, None]
    pale = 0.65 + 0.35 * gradient.flip(1)
    colour = (1 - body) + pale * body
    colour = colour * (1 - ink) + gradient * ink
    return torch.cat([colour * cut, cut[None]])

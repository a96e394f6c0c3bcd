"""Probes: true clips that depart from their image, or from their caption, in one known way and by a known amount.

A departure's first frame is the true clip's, as that of an image-to-video generator is its image. It comes on suddenly,
for a share of the frames, or grows to its full amount at the last frame. New content is held out if the scene's is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from icreward_lib.world.content import COLOURS
from icreward_lib.world.scenes import (
    Clips,
    Scene,
    Split,
    another_background,
    another_subject,
    recoloured,
    render,
    sample_scenes,
)

SEVERITIES = (0.33, 0.67, 1.0)
Breaks = Literal["subject", "background", "time", "motion"]


class Layers(NamedTuple):
    """What the frames of a clip are put together from, float32 in [0, 1]."""

    background: np.ndarray  # "t h w 3"
    sticker: np.ndarray  # "t h w 4": colour times coverage, and coverage

    @classmethod
    def of(cls, scene: Scene, num_frames: int, size: int) -> Layers:
        """The layers of a scene; joined again they are its frames."""
        clips = render([scene, replace(scene, subject=None)], num_frames=num_frames, size=size)
        whole, background = clips.frames / np.float32(255)
        mask = clips.masks[0, ..., None]
        return cls(background, np.concatenate([whole - background * (1 - mask), mask], -1))

    def joined(self) -> Clips:
        """One clip, and where its subject is."""
        colour, mask = self.sticker[..., :3], self.sticker[..., 3:]
        frames = np.clip(self.background * (1 - mask) + colour, 0, 1)
        return Clips((frames * 255).round().astype(np.uint8)[None], mask[None, ..., 0])


def moving_scenes(count: int, *, seed: int, split: Split = "seen") -> list[Scene]:
    """Scenes as of `sample_scenes` in which something moves, as 19 of 20 do.

    From the image and a clip alone nobody could tell the others' true clips from frozen ones.
    """
    scenes = (scene for scene in sample_scenes(2 * count + 8, seed=seed, split=split) if PROBES["freeze"].fits(scene))
    return list(islice(scenes, count))


Depart = Callable[[Scene, Layers, float, np.random.Generator], Layers]


@dataclass(frozen=True)
class Probe:
    """One kind of departure."""

    title: str
    breaks: tuple[Breaks, ...]
    needs: Literal["anything", "a subject", "movement"]  # of a scene; in others it would make no sense
    depart: Depart

    def fits(self, scene: Scene) -> bool:
        """Whether the scene has what the departure needs."""
        if self.needs == "a subject":
            return scene.subject is not None
        moves = scene.camera != "static" or (scene.subject is not None and scene.motion != "stays still")
        return moves or self.needs == "anything"


def depart(scene: Scene, kind: str, severity: float, *, seed: int, num_frames: int = 17, size: int = 64) -> Clips:
    """A clip of the scene that departs from the true one, and the mask of its subject (not of a second one).

    Args:
        scene: the truth.
        kind: a key of `PROBES`.
        severity: in [0, 1]; 0 is the true clip, and a larger one departs further in the same direction.
        seed: of what the departure draws, whatever its severity.
        num_frames: as of `render`.
        size: as of `render`.

    ValueError for an unknown kind, one that does not fit the scene, or a severity outside of [0, 1].
    """
    if kind not in PROBES:
        raise ValueError(f"There is no probe {kind!r}, only {', '.join(PROBES)}.")
    probe = PROBES[kind]
    if not probe.fits(scene):
        raise ValueError(f"The probe {kind!r} needs {probe.needs}, which this scene does not have: {scene.caption}.")
    if not 0 <= severity <= 1:
        raise ValueError(f"A severity lies in [0, 1], unlike {severity}.")
    rng = np.random.default_rng([seed, *kind.encode()])
    return probe.depart(scene, Layers.of(scene, num_frames, size), severity, rng).joined()


def _late(truth: Layers, severity: float) -> np.ndarray:
    """Weight of a sudden departure, "t 1 1 1": 1 in the last `severity` of the frames after the first, else 0."""
    frames = len(truth.background)
    changed = round(severity * (frames - 1))
    return (np.arange(frames) >= frames - changed).astype(np.float32).reshape(-1, 1, 1, 1)


def _growing(truth: Layers, severity: float) -> np.ndarray:
    """Weight of a growing departure, "t 1 1 1": from 0 at the first frame to `severity` at the last."""
    return np.linspace(0, severity, len(truth.background), dtype=np.float32).reshape(-1, 1, 1, 1)


def _mixed(truth: Layers, other: Layers, weight: np.ndarray) -> Layers:
    pairs = zip(truth, other, strict=True)
    return Layers(*((1 - weight) * own + weight * new for own, new in pairs))


def _like(truth: Layers, scene: Scene) -> Layers:
    return Layers.of(scene, *truth.background.shape[:2])


def _towards(
    change: Callable[[Scene, np.random.Generator], Scene],
    weight: Callable[[Layers, float], np.ndarray],
    scene: Scene,
    truth: Layers,
    severity: float,
    rng: np.random.Generator,
) -> Layers:
    """The clip, by the weight that of a changed scene."""
    return _mixed(truth, _like(truth, change(scene, rng)), weight(truth, severity))


def _elsewhere(
    weight: Callable[[Layers, float], np.ndarray],
    scene: Scene,
    truth: Layers,
    severity: float,
    rng: np.random.Generator,
) -> Layers:
    """The clip with another background, by the weight; its sticker stays exactly as it is."""
    return truth._replace(background=_towards(another_background, weight, scene, truth, severity, rng).background)


def _subject_shape(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    """Waves through the sticker, about one across it, of up to a sixth of its side."""
    rows, columns = _from_centre(truth)
    amount = scene.size / 6 * _growing(truth, severity)[..., 0]
    phases = 2 * np.pi * rng.random(2)
    wave = 2 * np.pi / scene.size
    return _warped(truth, amount * np.sin(wave * columns + phases[0]), amount * np.sin(wave * rows + phases[1]))


def _subject_missing(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    """Cut off from one side; the cut turns with the sticker."""
    frames = len(truth.background)
    turns = scene.subject_amount * np.linspace(-0.5, 0.5, frames) if scene.motion == "spins" else np.zeros(frames)
    angle = 2 * np.pi * (rng.random() + turns)[:, None, None]
    rows, columns = _from_centre(truth)
    depth = (columns * np.cos(angle) + rows * np.sin(angle)).reshape(frames, -1)
    order = depth.argsort(1)
    mass = np.take_along_axis(truth.sticker[..., 3].reshape(frames, -1), order, 1).cumsum(1)
    kept = np.empty_like(mass)
    np.put_along_axis(kept, order, mass > severity * mass[:, -1:], 1)
    kept[0] = 1
    return truth._replace(sticker=truth.sticker * kept.reshape(truth.sticker.shape[:3])[..., None])


def _second_subject(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    """Smaller, still, in the corner that is farthest from the first one, and behind it."""
    x, y = (0.8 if place < 0.5 else 0.2 for place in scene.position)
    first, second = rng.choice(list(COLOURS), 2, replace=False)
    new = another_subject(scene, rng)
    new = replace(new, colours=(str(first), str(second)), motion="stays still", position=(x, y), size=0.36)
    sticker = _late(truth, severity) * _like(truth, new).sticker
    return truth._replace(background=truth.background * (1 - sticker[..., 3:]) + sticker[..., :3])


def _style_drift(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    """Half grey, and tinted."""
    gains = rng.permutation([1.0, 0.8, 0.5]).astype(np.float32)
    graded = _graded(truth, (0.5 * np.eye(3, dtype=np.float32) + 0.5 / 3) * gains)
    return _mixed(truth, graded, _growing(truth, severity))


def _graded(truth: Layers, grade: np.ndarray) -> Layers:
    """Colours times a matrix 3 x 3: linear, so that it may be done to the layers or to what they join to."""
    sticker = np.concatenate([truth.sticker[..., :3] @ grade, truth.sticker[..., 3:]], -1)
    return Layers(truth.background @ grade, sticker)


def _flicker(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    """Each frame is darker by a random amount, up to 60 %."""
    frames = len(truth.background)
    light = (1 - 0.6 * severity * rng.random(frames) * (np.arange(frames) > 0)).astype(np.float32).reshape(-1, 1, 1, 1)
    return _graded(truth, light * np.eye(3, dtype=np.float32))


def _hard_cut(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    split: Split = "unseen" if scene.is_unseen else "seen"
    (new,) = sample_scenes(1, seed=int(rng.integers(2**31)), split=split)
    new = replace(new, photograph=another_background(scene, rng).photograph)
    return _mixed(truth, _like(truth, new), _late(truth, severity))


def _freeze(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    frames = len(truth.background)
    return _retimed(truth, np.minimum(np.arange(frames), frames - 1 - round(severity * (frames - 1))))


def _reversed(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    late, order = _late(truth, severity).ravel() > 0, np.arange(len(truth.background))
    return _retimed(truth, np.concatenate([order[~late], order[late][::-1]]))


def _retimed(truth: Layers, order: np.ndarray) -> Layers:
    return Layers(*(layer[order] for layer in truth))


def _wrong_motion(scene: Scene, truth: Layers, severity: float, rng: np.random.Generator) -> Layers:
    """Besides its own movement the subject drifts across it, towards the middle, by up to 0.3 frame sizes."""
    sideways = {"moves left": 1, "moves right": 1, "moves up": 0, "moves down": 0}.get(scene.motion, rng.integers(2))
    way = 1 if scene.position[sideways] < 0.5 else -1
    drift = np.broadcast_to(0.3 * way * _growing(truth, severity)[..., 0], truth.sticker.shape[:3])
    still = np.zeros_like(drift)
    return _warped(truth, still, drift) if sideways == 0 else _warped(truth, drift, still)


def _from_centre(truth: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns relative to the sticker's centre of mass, in frame sizes: "t h w" each."""
    mask = truth.sticker[..., 3]
    size = mask.shape[1]
    rows, columns = np.broadcast_to(np.indices(mask.shape[1:])[:, None] / size, (2, *mask.shape))
    weights = mask + 1e-9  # a sticker may be wholly out of the frame
    total = weights.sum((1, 2), keepdims=True)
    down, right = ((place * weights).sum((1, 2), keepdims=True) / total for place in (rows, columns))
    return rows - down, columns - right


def _warped(truth: Layers, down: np.ndarray, right: np.ndarray) -> Layers:
    """The sticker, each of its points moved by "t h w" frame sizes."""
    sticker = torch.from_numpy(truth.sticker).permute(0, 3, 1, 2)
    still = F.affine_grid(torch.eye(2, 3).expand(len(sticker), 2, 3), list(sticker.shape), align_corners=False)
    moved = still - 2 * torch.from_numpy(np.stack([right, down], -1)).float()
    warped = F.grid_sample(sticker, moved, align_corners=False)
    return truth._replace(sticker=warped.permute(0, 2, 3, 1).numpy())


PROBES: dict[str, Probe] = {
    "subject_swapped": Probe("subject swapped", ("subject",), "a subject", partial(_towards, another_subject, _late)),
    "subject_colour": Probe(
        "subject's colour drifts", ("subject",), "a subject", partial(_towards, recoloured, _growing)
    ),
    "subject_shape": Probe("subject's shape drifts", ("subject",), "a subject", _subject_shape),
    "subject_missing": Probe("part of subject missing", ("subject",), "a subject", _subject_missing),
    "second_subject": Probe("second subject", ("background",), "a subject", _second_subject),
    "background_replaced": Probe("background replaced", ("background",), "anything", partial(_elsewhere, _late)),
    "background_drift": Probe("background drifts", ("background",), "anything", partial(_elsewhere, _growing)),
    "style_drift": Probe("colour grade drifts", ("subject", "background"), "anything", _style_drift),
    "flicker": Probe("flicker", ("time",), "anything", _flicker),
    "hard_cut": Probe("hard cut", ("subject", "background", "time"), "anything", _hard_cut),
    "freeze": Probe("freeze", ("motion",), "movement", _freeze),
    "wrong_motion": Probe("wrong motion", ("motion",), "a subject", _wrong_motion),
    "reversed": Probe("time reversed", ("motion",), "movement", _reversed),
}

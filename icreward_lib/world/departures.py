"""Probes: true clips that depart from their image, or from their caption, in one known way and by a known amount.

A departure's first frame is the true clip's, as that of an image-to-video generator is its image. It comes on suddenly,
for a share of the frames, or grows to its full amount at the last frame. New content is held out if the scene's is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from icreward_lib.world import scenes as world
from icreward_lib.world.content import COLOURS, DIRECTIONS
from icreward_lib.world.scenes import Clips, Scene, Split, another_background, another_subject, recoloured, render

SEVERITIES = (0.33, 0.67, 1.0)


class Layers(NamedTuple):
    """What the frames of a clip are put together from, float32 in [0, 1]."""

    background: np.ndarray  # "t h w 3"
    sticker: np.ndarray  # "t h w 4": colour times coverage, and coverage

    @classmethod
    def of(cls, scene: Scene, num_frames: int, size: int) -> Layers:
        """Those of a scene; joined again they are its frames."""
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
    """Scenes as of `sample_scenes` in which something moves: others' true clips are frozen ones."""
    scenes = (
        scene for scene in world.sample_scenes(2 * count + 8, seed=seed, split=split) if PROBES["freeze"].fits(scene)
    )
    return list(islice(scenes, count))


@dataclass
class Case:
    """What a departure starts from."""

    scene: Scene
    truth: Layers
    severity: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.frames = frames = len(self.truth.background)
        # Weights "t 1 1 1": 1 in the last `severity` of the frames after the first; from 0 at the first to `severity`.
        late = np.arange(frames) >= frames - round(self.severity * (frames - 1))
        self.late = late.astype(np.float32).reshape(-1, 1, 1, 1)
        self.growing = np.linspace(0, self.severity, frames, dtype=np.float32).reshape(-1, 1, 1, 1)

    def layers(self, scene: Scene) -> Layers:
        """Those of another scene, as many and as large."""
        return Layers.of(scene, *self.truth.background.shape[:2])

    def mixed(self, other: Layers, weight: np.ndarray) -> Layers:
        """The truth, by the weight another clip."""
        return Layers(*((1 - weight) * own + weight * new for own, new in zip(self.truth, other, strict=True)))

    def changed(self, change: Callable[[Scene, np.random.Generator], Scene], weight: np.ndarray) -> Layers:
        """The truth, by the weight a changed scene."""
        return self.mixed(self.layers(change(self.scene, self.rng)), weight)

    def retimed(self, order: np.ndarray) -> Layers:
        """The true frames in another order."""
        return Layers(*(layer[order] for layer in self.truth))


@dataclass(frozen=True)
class Probe:
    """One kind of departure."""

    title: str
    breaks: tuple[Literal["subject", "background", "time", "motion"], ...]
    needs: Literal["anything", "a subject", "movement"]  # of a scene; in others it would make no sense
    depart: Callable[[Case], Layers]

    def fits(self, scene: Scene) -> bool:
        """Whether the scene has what the departure needs."""
        if self.needs == "a subject":
            return scene.subject is not None
        moves = scene.camera != "static" or (scene.subject is not None and scene.motion != "stays still")
        return moves or self.needs == "anything"


def depart(scene: Scene, kind: str, severity: float, *, seed: int, num_frames: int = 17, size: int = 64) -> Clips:
    """A clip that departs from the true one as a kind of `PROBES` does, with the mask of its (first) subject.

    A severity in [0, 1] is 0 for the true clip; a larger one departs further in the same direction, which `seed` draws.
    ValueError for an unknown kind, one that does not fit the scene, or another severity.
    """
    if kind not in PROBES:
        raise ValueError(f"There is no probe {kind!r}, only {', '.join(PROBES)}.")
    needs = PROBES[kind].needs
    if not PROBES[kind].fits(scene):
        raise ValueError(f"The probe {kind!r} needs {needs}, which this scene does not have: {scene.caption}.")
    if not 0 <= severity <= 1:
        raise ValueError(f"A severity lies in [0, 1], unlike {severity}.")
    rng = np.random.default_rng([seed, *kind.encode()])
    return PROBES[kind].depart(Case(scene, Layers.of(scene, num_frames, size), severity, rng)).joined()


def _subject_shape(case: Case) -> Layers:
    """Waves through the sticker, about one across it, of up to a sixth of its side."""
    rows, columns = _from_centre(case.truth)
    amount = case.scene.size / 6 * case.growing[..., 0]
    phases = 2 * np.pi * case.rng.random(2)
    wave = 2 * np.pi / case.scene.size
    return _warped(case.truth, amount * np.sin(wave * columns + phases[0]), amount * np.sin(wave * rows + phases[1]))


def _subject_missing(case: Case) -> Layers:
    """Cut off from one side; the cut turns with the sticker."""
    turns = case.scene.subject_amount * (case.scene.motion == "spins") * np.linspace(-0.5, 0.5, case.frames)
    angle = 2 * np.pi * (case.rng.random() + turns)[:, None, None]
    rows, columns = _from_centre(case.truth)
    depth = (columns * np.cos(angle) + rows * np.sin(angle)).reshape(case.frames, -1)
    order = depth.argsort(1)
    mass = np.take_along_axis(case.truth.sticker[..., 3].reshape(case.frames, -1), order, 1).cumsum(1)
    kept = np.empty_like(mass)
    np.put_along_axis(kept, order, mass > case.severity * mass[:, -1:], 1)
    kept[0] = 1
    return case.truth._replace(sticker=case.truth.sticker * kept.reshape(case.truth.sticker.shape[:3])[..., None])


def _second_subject(case: Case) -> Layers:
    """Smaller, still, in the corner that is farthest from the first one, and behind it."""
    x, y = (0.8 if place < 0.5 else 0.2 for place in case.scene.position)
    first, second = case.rng.choice(list(COLOURS), 2, replace=False)
    new = another_subject(case.scene, case.rng)
    new = replace(new, colours=(str(first), str(second)), motion="stays still", position=(x, y), size=0.36)
    sticker = case.late * case.layers(new).sticker
    return case.truth._replace(background=case.truth.background * (1 - sticker[..., 3:]) + sticker[..., :3])


def _elsewhere(case: Case, weight: np.ndarray) -> Layers:
    """Another background by the weight; the sticker stays exactly as it is."""
    return case.truth._replace(background=case.changed(another_background, weight).background)


def _style_drift(case: Case) -> Layers:
    """Half grey, and tinted."""
    gains = case.rng.permutation([1.0, 0.8, 0.5]).astype(np.float32)
    graded = _graded(case.truth, (0.5 * np.eye(3, dtype=np.float32) + 0.5 / 3) * gains)
    return case.mixed(graded, case.growing)


def _graded(truth: Layers, grade: np.ndarray) -> Layers:
    """Colours times a matrix 3 x 3: linear, so that it may be done to the layers or to what they join to."""
    sticker = np.concatenate([truth.sticker[..., :3] @ grade, truth.sticker[..., 3:]], -1)
    return Layers(truth.background @ grade, sticker)


def _flicker(case: Case) -> Layers:
    """Each frame is darker by a random amount, up to 60 %."""
    light = 1 - 0.6 * case.severity * case.rng.random(case.frames) * (np.arange(case.frames) > 0)
    return _graded(case.truth, light.astype(np.float32)[:, None, None, None] * np.eye(3, dtype=np.float32))


def _hard_cut(case: Case) -> Layers:
    split: Split = "unseen" if case.scene.is_unseen else "seen"
    (new,) = world.sample_scenes(1, seed=int(case.rng.integers(2**31)), split=split)
    new = replace(new, photograph=another_background(case.scene, case.rng).photograph)
    return case.mixed(case.layers(new), case.late)


def _freeze(case: Case) -> Layers:
    last = case.frames - 1
    return case.retimed(np.minimum(np.arange(case.frames), last - round(case.severity * last)))


def _reversed(case: Case) -> Layers:
    late, order = case.late.ravel() > 0, np.arange(case.frames)
    return case.retimed(np.concatenate([order[~late], order[late][::-1]]))


def _wrong_motion(case: Case) -> Layers:
    """Besides its own movement the subject drifts across it, towards the middle, by up to 0.3 frame sizes."""
    kind, _, direction = case.scene.motion.partition(" ")
    sideways = int(DIRECTIONS[direction][0] != 0) if kind == "moves" else int(case.rng.integers(2))
    way = 1 if case.scene.position[sideways] < 0.5 else -1
    drift = np.broadcast_to(0.3 * way * case.growing[..., 0], case.truth.sticker.shape[:3])
    still = np.zeros_like(drift)
    return _warped(case.truth, still, drift) if sideways == 0 else _warped(case.truth, drift, still)


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
    "subject_swapped": Probe(
        "subject swapped", ("subject",), "a subject", lambda c: c.changed(another_subject, c.late)
    ),
    "subject_colour": Probe(
        "subject's colour drifts", ("subject",), "a subject", lambda c: c.changed(recoloured, c.growing)
    ),
    "subject_shape": Probe("subject's shape drifts", ("subject",), "a subject", _subject_shape),
    "subject_missing": Probe("part of subject missing", ("subject",), "a subject", _subject_missing),
    "second_subject": Probe("second subject", ("background",), "a subject", _second_subject),
    "background_replaced": Probe("background replaced", ("background",), "anything", lambda c: _elsewhere(c, c.late)),
    "background_drift": Probe("background drifts", ("background",), "anything", lambda c: _elsewhere(c, c.growing)),
    "style_drift": Probe("colour grade drifts", ("subject", "background"), "anything", _style_drift),
    "flicker": Probe("flicker", ("time",), "anything", _flicker),
    "hard_cut": Probe("hard cut", ("subject", "background", "time"), "anything", _hard_cut),
    "freeze": Probe("freeze", ("motion",), "movement", _freeze),
    "wrong_motion": Probe("wrong motion", ("motion",), "a subject", _wrong_motion),
    "reversed": Probe("time reversed", ("motion",), "movement", _reversed),
}

"""Clips beside pictures that they should have kept, and what became of these."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from icreward_lib.laptop.tokenizer import CHANGES
from icreward_lib.world.content import (
    COLLAGE,
    COLLAGES,
    COLOURS,
    PHOTOGRAPHS,
    SUBJECTS,
    UNSEEN_PHOTOGRAPHS,
    UNSEEN_SUBJECTS,
    letters,
)
from icreward_lib.world.scenes import Scene, render, sample_scenes


class Examples(NamedTuple):
    """Clips beside pictures of what they should have kept."""

    scenes: list[Scene]  # what the clips show, at their end if they drift
    clips: np.ndarray  # uint8 "n f h w c", the frames that are read
    masks: np.ndarray  # float32 "n 17 h w", of `scenes`
    pictures: np.ndarray  # uint8 "n h w c"
    changes: list[str]  # keys of CHANGES
    drifting: np.ndarray  # bool (n,)
    named: np.ndarray  # bool (n,)


def with_nameless_content(
    scenes: list[Scene], share: float, rng: np.random.Generator
) -> tuple[list[Scene], np.ndarray]:
    """Give a share of the scenes content that has no name: a letter over a collage.

    What is the same and what is not must be learnt on more pictures than have a word, or everything new looks
    like a change.

    Returns:
        The scenes, and which of them kept their names, bool (n,).
    """
    named = rng.random(len(scenes)) >= share
    strange = [
        scene
        if keeps
        else replace(
            scene,
            photograph=_collage(rng),
            subject=None if scene.subject is None else str(rng.choice(letters())),
        )
        for scene, keeps in zip(scenes, named, strict=True)
    ]
    return strange, named


def examples(
    count: int,
    *,
    seed: int,
    frames: list[int],
    size: int,
    split: Literal["seen", "unseen"] = "seen",
    drifting: int = 0,
    strange: float = 0.0,
) -> Examples:
    """Draw scenes, change two in three of them, and render.

    Args:
        count: how many.
        seed: fixes every draw.
        frames: indices, of the world's 17, of the frames to keep of each clip.
        size: height and width in pixels.
        split: which content; what replaces it is of the same.
        drifting: how many clips, the last ones, start like their picture and fade into their change.
        strange: share of the clips whose content has no name.
    """
    rng = np.random.default_rng([seed, 2])
    before, named = with_nameless_content(sample_scenes(count, seed=seed, split=split), strange, rng)
    changes = [_draw_change(scene, rng) for scene in before]
    after = [_change(scene, change, rng) for scene, change in zip(before, changes, strict=True)]
    # Both ends of the movement: a lone first frame would place a zooming view elsewhere.
    pictures = render(before, num_frames=2, size=size).frames[:, 0]
    rendered = render(after, size=size)
    clips = rendered.frames[:, frames]
    fades = np.arange(count) >= count - drifting
    for index in np.flatnonzero(fades):
        kept = render([before[index]], size=size).frames[0, frames]
        shown = np.clip((np.array(frames) - rng.uniform(0, 10)) / 4, 0, 1)[:, None, None, None]
        clips[index] = ((1 - shown) * kept + shown * clips[index]).round().astype(np.uint8)
    return Examples(after, clips, rendered.masks, pictures, changes, fades, named)


def _draw_change(scene: Scene, rng: np.random.Generator) -> str:
    possible = ["elsewhere"] if scene.subject is None else [name for name in CHANGES if name != "nothing"]
    return "nothing" if rng.random() < 1 / 3 else str(rng.choice(possible))


def _change(scene: Scene, change: str, rng: np.random.Generator) -> Scene:
    if change == "nothing":
        return scene
    if change == "recoloured":
        first, second = rng.choice([name for name in COLOURS if name not in scene.colours], 2, replace=False)
        return replace(scene, colours=(str(first), str(second)))
    if change == "replaced":
        return replace(scene, subject=_another(scene.subject, SUBJECTS, UNSEEN_SUBJECTS, rng))
    if change == "removed":
        return replace(scene, subject=None)
    return replace(scene, photograph=_another(scene.photograph, PHOTOGRAPHS, UNSEEN_PHOTOGRAPHS, rng))


def _another(name: str | None, names: Collection[str], held_out: frozenset[str], rng: np.random.Generator) -> str:
    """Another one, held out if `name` is, without a name in the world if `name` has none."""
    if name not in names:
        return _collage(rng) if str(name).startswith(COLLAGE) else str(rng.choice(letters()))
    return str(rng.choice([other for other in names if (other in held_out) == (name in held_out) and other != name]))


def _collage(rng: np.random.Generator) -> str:
    return f"{COLLAGE}{rng.integers(COLLAGES)}"

"""Clips beside pictures that they should have kept, and what became of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from icreward_lib.world import scenes as world
from icreward_lib.world.content import letters
from icreward_lib.world.scenes import Scene, Split, render, sample_scenes

_CHANGES: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    "recoloured": world.recoloured,
    "replaced": world.another_subject,
    "removed": lambda scene, rng: replace(scene, subject=None),
    "elsewhere": world.another_background,
}


class ChangeExamples(NamedTuple):
    """Clips beside pictures of what they should have kept."""

    scenes: list[Scene]  # what the clips show, at their end if they drift
    clips: np.ndarray  # uint8 "n f h w c", the frames that are read
    masks: np.ndarray  # float32 "n 17 h w", of `scenes`
    pictures: np.ndarray  # uint8 "n h w c"
    changes: list[str]  # keys of `tokenizer.CHANGES`
    drifting: np.ndarray  # bool (n,)
    named: np.ndarray  # bool (n,): content that has a word


def out_of_vocabulary(scenes: list[Scene], share: float, rng: np.random.Generator) -> tuple[list[Scene], np.ndarray]:
    """Give a share of the scenes content without a word, a letter over a collage; and say which keep theirs, (n,).

    What changed must be learnt on more pictures than have a word, or everything new looks like a change.
    """
    named, drawn = rng.random(len(scenes)) >= share, list(scenes)
    for index in np.flatnonzero(~named):
        drawn[index] = world.collaged(scenes[index], rng)
        if scenes[index].subject is not None:
            drawn[index] = replace(drawn[index], subject=str(rng.choice(letters())))
    return drawn, named


def examples(
    count: int,
    frames: list[int],
    size: int,
    *,
    seed: int,
    split: Split = "seen",
    drifting: int = 0,
    nameless: float = 0,
) -> ChangeExamples:
    """Draw scenes, change two in three of them, and render, at `size` x `size` pixels.

    `frames` are indices, of the world's 17, of those to keep. The last `drifting` clips start like their picture and
    fade into their change. `nameless` is the share of the clips whose content has no word.
    """
    rng = np.random.default_rng([seed, 2])
    before, named = out_of_vocabulary(sample_scenes(count, seed=seed, split=split), nameless, rng)
    changes = []
    for scene in before:
        possible = list(_CHANGES) if scene.subject is not None else ["elsewhere"]
        changes.append("nothing" if rng.random() < 1 / 3 else str(rng.choice(possible)))
    pairs = zip(before, changes, strict=True)
    after = [_CHANGES[change](scene, rng) if change in _CHANGES else scene for scene, change in pairs]
    # Both ends of the movement: a lone first frame would place a zooming view elsewhere.
    pictures = render(before, num_frames=2, size=size).frames[:, 0]
    rendered = render(after, size=size)
    clips = rendered.frames[:, frames]
    fades = np.arange(count) >= count - drifting
    for index in np.flatnonzero(fades):
        kept = render([before[index]], size=size).frames[0, frames]
        shown = np.clip((np.array(frames) - rng.uniform(0, 10)) / 4, 0, 1)[:, None, None, None]
        clips[index] = ((1 - shown) * kept + shown * clips[index]).round().astype(np.uint8)
    return ChangeExamples(after, clips, rendered.masks, pictures, changes, fades, named)

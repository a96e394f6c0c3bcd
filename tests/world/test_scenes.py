"""The sticker world: deterministic, honest about what is held out, and true to its captions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from icreward_lib.video import Video
from icreward_lib.world import content
from icreward_lib.world.scenes import Scene, render, sample_scenes
from icreward_lib.world.truth import fidelity

STILL = Scene("coffee", "static", (0.5, 0.5, 1.0), 0.3, "star", ("red", "blue"), "stays still", size=0.4)


def centroid(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(mask.shape)
    return np.array([(rows * mask).sum(), (columns * mask).sum()]) / mask.sum()


def test_a_scene_depends_on_its_seed_and_place_alone() -> None:
    assert sample_scenes(3, seed=4) == sample_scenes(5, seed=4)[:3]
    assert sample_scenes(3, seed=4) != sample_scenes(3, seed=5)
    scenes = sample_scenes(3, seed=4)
    together, alone = render(scenes), render(scenes[1:2])
    assert np.array_equal(together.frames[1], alone.frames[0])
    assert together.frames.shape == (3, 17, 64, 64, 3) and together.masks.shape == (3, 17, 64, 64)


def test_seen_scenes_hold_nothing_that_is_held_out() -> None:
    seen, unseen = sample_scenes(300, seed=0), sample_scenes(300, seed=0, split="unseen")
    assert not any(scene.is_unseen for scene in seen)
    assert all(scene.is_unseen for scene in unseen)
    assert {s.photograph for s in unseen} == content.UNSEEN_PHOTOGRAPHS
    assert {s.subject for s in unseen} - {None} <= content.UNSEEN_SUBJECTS
    assert any((s.camera, s.motion) in content.UNSEEN_MOVES for s in unseen if s.subject)
    assert 0.1 < np.mean([s.subject is None for s in seen]) < 0.3


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("moves left", 1, -1), ("moves right", 1, 1), ("moves up", 0, -1), ("moves down", 0, 1)],
)
def test_the_sticker_moves_as_the_caption_says(motion: str, axis: int, sign: int) -> None:
    scene = replace(STILL, motion=motion, subject_amount=0.3)
    assert motion in scene.caption
    masks = render([scene]).masks[0]
    step = centroid(masks[-1]) - centroid(masks[0])
    assert step[axis] * sign == pytest.approx(0.3 * 64, abs=1.5)
    assert abs(step[1 - axis]) < 1.0


def test_growing_and_spinning() -> None:
    grown = render([replace(STILL, motion="grows", subject_amount=0.5)]).masks[0].sum((1, 2))
    assert grown[-1] / grown[0] == pytest.approx((1.25 / 0.75) ** 2, rel=0.1)
    spun = render([replace(STILL, subject="arrow", motion="spins", subject_amount=0.5)]).masks[0]
    assert spun[0].sum() == pytest.approx(spun[-1].sum(), rel=0.05)
    assert np.abs(spun[0] - spun[-1]).mean() > 0.01


@pytest.mark.parametrize(("camera", "axis", "sign"), [("pans right", 2, 1), ("pans left", 2, -1), ("pans down", 1, 1)])
def test_the_camera_moves_as_the_caption_says(camera: str, axis: int, sign: int) -> None:
    frames = render([replace(STILL, subject=None, camera=camera)]).frames[0].astype(float)
    shift = round(0.3 * 64) * sign
    # What was `shift` pixels further on in the first frame has come here in the last.
    moved = np.roll(frames[0], -shift, axis=axis - 1)
    inner = (slice(24, 40), slice(24, 40))
    assert np.abs(moved[inner] - frames[-1][inner]).mean() < 0.5 * np.abs(frames[0][inner] - frames[-1][inner]).mean()


def test_every_glyph_and_photograph_can_be_drawn() -> None:
    for subject in content.SUBJECTS:
        ink, body, cut = content.sticker_layers(subject, 40)
        assert ink.mean() > 0.03, subject
        assert (body >= ink - 1e-6).all() and (cut >= body - 1e-6).all() and cut.mean() < 0.9
    for name, photo in content.PHOTOGRAPHS.items():
        assert content.photograph(name, 96, 1.0).shape[0] == 3
        assert photo.credit


def test_truth_knows_the_true_clip_from_a_frozen_and_another_one() -> None:
    scene = replace(STILL, motion="moves right", subject_amount=0.3, camera="pans left")
    other = replace(scene, subject="cloud", photograph="grass")
    true, wrong = render([scene, other]).frames
    frozen = np.repeat(true[:1], 17, axis=0)
    found = fidelity(scene, [Video(clip, 8.0) for clip in (true, frozen, wrong)])
    assert found["subject_fidelity"][0] == pytest.approx(1) and found["background_fidelity"][0] == pytest.approx(1)
    assert found["motion_faithfulness"].round(6).tolist() == [1.0, 0.0, 0.0]
    assert found["background_fidelity"][2] < found["background_fidelity"][1] < 1
    assert found["subject_fidelity"][2] < 0.7


def test_a_collage_is_fixed_by_its_number_and_has_nothing_that_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (content.background(f"collage {number}", 32, 0.5) for number in (1, 2))
    assert one.shape == (3, 32, 32) and 0 <= one.min() < one.max() <= 1
    content.background.cache_clear()
    assert torch.equal(one, content.background("collage 1", 32, 0.5)) and not torch.equal(one, other)
    used = set()
    photograph = content.photograph
    monkeypatch.setattr(content, "photograph", lambda name, *size: used.add(name) or photograph(name, *size))
    content.background.cache_clear()
    for number in range(100):
        content.background(f"collage {number}", 32, 0.5)
    assert used == set(content.PHOTOGRAPHS) - content.UNSEEN_PHOTOGRAPHS


def test_letters_can_be_drawn_and_are_no_subjects() -> None:
    letters = content.letters()
    assert len(letters) > 1000 and not set(letters) & {chr(code) for code in content.SUBJECTS.values()}
    for letter in letters[::200]:
        assert content.sticker_layers(letter, 40)[0].mean() > 0.01, letter

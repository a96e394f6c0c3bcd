"""Probes break what they say and nothing else, by as much as they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from icreward_lib.video import Video
from icreward_lib.world import content
from icreward_lib.world.departures import PROBES, SEVERITIES, Layers, depart
from icreward_lib.world.scenes import Scene, render, sample_scenes
from icreward_lib.world.truth import fidelity

SCENE = Scene(
    *("coffee", "pans left", (0.5, 0.5, 1.0), 0.3, "star", ("red", "blue"), "moves right"),
    position=(0.4, 0.5),
    size=0.4,
    subject_amount=0.3,
)
TRUE = render([SCENE])
SUBJECT = ("subject_swapped", "subject_colour", "subject_shape", "subject_missing", "wrong_motion")
BACKGROUND = ("second_subject", "background_replaced", "background_drift")


def departed(kind: str, severity: float, scene: Scene = SCENE, seed: int = 3) -> np.ndarray:
    return depart(scene, kind, severity, seed=seed).frames[0]


def test_there_is_a_kind_for_everything_that_can_break() -> None:
    assert {part for probe in PROBES.values() for part in probe.breaks} == {"subject", "background", "time", "motion"}
    assert len({probe.title for probe in PROBES.values()}) == len(PROBES) == 13


@pytest.mark.parametrize("kind", PROBES)
def test_severity_0_is_the_true_clip_and_the_first_frame_always_stays(kind: str) -> None:
    assert np.array_equal(departed(kind, 0.0), TRUE.frames[0])
    assert np.array_equal(departed(kind, 1.0)[0], TRUE.frames[0, 0])


@pytest.mark.parametrize("kind", PROBES)
def test_the_truth_breaks_more_with_severity(kind: str) -> None:
    scenes = [scene for scene in sample_scenes(6, seed=1) if PROBES[kind].fits(scene)]
    broken = {"subject": "subject_fidelity", "background": "background_fidelity"}.get(PROBES[kind].breaks[0])
    for scene in scenes:
        clips = [depart(scene, kind, severity, seed=5).frames[0] for severity in (0.0, *SEVERITIES)]
        errors = [np.abs(clip / 255.0 - clips[0] / 255.0).mean() for clip in clips]
        assert (np.diff(errors) > 0).all(), (scene, errors)
        if broken:
            kept = fidelity(scene, [Video(clip, 8.0) for clip in clips])[broken]
            assert (np.diff(kept) < 0).all(), (scene, kept)


def test_motion_is_less_faithful_with_severity() -> None:
    for kind in ("freeze", "wrong_motion", "reversed"):
        clips = [Video(departed(kind, severity), 8.0) for severity in (0.0, 0.25, 0.5)]
        assert (np.diff(fidelity(SCENE, clips)["motion_faithfulness"]) < 0).all(), kind


@pytest.mark.parametrize("kind", PROBES)
def test_what_is_drawn_depends_on_the_seed_alone(kind: str) -> None:
    assert np.array_equal(departed(kind, 0.5), departed(kind, 0.5))
    drawn = len({departed(kind, 0.5, seed=seed).tobytes() for seed in range(4)}) > 1
    # Where to drift follows from how the subject moves, and time has no choice.
    assert drawn == (kind not in ("freeze", "reversed", "wrong_motion"))


@pytest.mark.parametrize("kind", SUBJECT)
def test_what_breaks_the_subject_leaves_the_background(kind: str) -> None:
    clip = depart(SCENE, kind, 1.0, seed=3)
    neither = (TRUE.masks[0] == 0) & (clip.masks[0] == 0)
    assert np.array_equal(clip.frames[0][neither], TRUE.frames[0][neither]) and neither.mean() > 0.5


@pytest.mark.parametrize("kind", BACKGROUND)
def test_what_breaks_the_background_leaves_the_subject(kind: str) -> None:
    clip = depart(SCENE, kind, 1.0, seed=3)
    assert np.array_equal(clip.masks, TRUE.masks)
    inside = TRUE.masks[0] == 1
    assert np.array_equal(clip.frames[0][inside], TRUE.frames[0][inside]) and inside.any()


def test_a_colour_drifts_without_the_shape_and_a_style_without_either_mask() -> None:
    for kind in ("subject_colour", "style_drift", "flicker"):
        assert np.allclose(depart(SCENE, kind, 1.0, seed=3).masks, TRUE.masks, atol=1e-6), kind


@pytest.mark.parametrize("kind", ["subject_swapped", "background_replaced", "second_subject", "hard_cut", "reversed"])
def test_what_is_sudden_lasts_for_its_share_of_the_frames(kind: str) -> None:
    changed = (departed(kind, 0.5) != TRUE.frames[0]).any((1, 2, 3))
    # The middle of what is reversed stays in its place; there is none of an even number.
    assert changed.tolist() == [False] * 9 + [True] * 8


def test_as_much_of_the_subject_is_missing_as_is_said() -> None:
    for scene in (SCENE, replace(SCENE, motion="spins")):
        whole = render([scene]).masks[0].sum((1, 2))
        left = depart(scene, "subject_missing", 0.75, seed=3).masks[0].sum((1, 2))
        assert left[1:] / whole[1:] == pytest.approx(0.25, abs=0.01) and left[0] == whole[0]


def test_a_frozen_clip_repeats_a_frame_and_a_reversed_one_has_the_same_frames() -> None:
    assert (departed("freeze", 1.0) == TRUE.frames[0, 0]).all()
    assert (departed("freeze", 0.5)[8:] == TRUE.frames[0, 8]).all()
    assert np.array_equal(departed("reversed", 1.0)[1:], TRUE.frames[0, :0:-1])


def test_the_wrong_motion_goes_across_the_true_one() -> None:
    rows, columns = np.indices((64, 64))
    moved = depart(SCENE, "wrong_motion", 1.0, seed=3).masks[0]
    for place, expected in ((rows, 0.3), (columns, 0.0)):
        middle = [(place * masks[-1]).sum() / masks[-1].sum() / 64 for masks in (moved, TRUE.masks[0])]
        assert abs(middle[0] - middle[1]) == pytest.approx(expected, abs=0.03)


def test_what_is_new_is_held_out_if_the_scene_is(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Scene] = []
    of = Layers.of
    monkeypatch.setattr(Layers, "of", lambda scene, *shape: drawn.append(scene) or of(scene, *shape))
    for split in ("seen", "unseen"):
        for scene in (each for each in sample_scenes(6, seed=2, split=split) if each.subject):
            for kind in ("subject_swapped", "second_subject", "background_replaced", "hard_cut"):
                drawn.clear()
                depart(scene, kind, 1.0, seed=3)
                new = drawn[-1]
                assert new.photograph != scene.photograph or new.subject != scene.subject
                assert (new.photograph in content.UNSEEN_PHOTOGRAPHS) == scene.is_unseen
                assert new.subject is None or (new.subject in content.UNSEEN_SUBJECTS) == scene.is_unseen


def test_kinds_that_make_no_sense_are_refused() -> None:
    scenery, still = replace(SCENE, subject=None), replace(SCENE, camera="static", motion="stays still")
    assert {kind for kind, probe in PROBES.items() if not probe.fits(scenery)} == {*SUBJECT, "second_subject"}
    assert {kind for kind, probe in PROBES.items() if not probe.fits(still)} == {"freeze", "reversed"}
    with pytest.raises(ValueError, match="needs a subject"):
        departed("subject_colour", 0.5, scenery)
    with pytest.raises(ValueError, match="no probe 'melt'"):
        departed("melt", 0.5)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        departed("flicker", 1.5)

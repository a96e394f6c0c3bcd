"""Probes: true clips and their departures, measured by everything and scored by the rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from icreward_lib.curation import Curated
from icreward_lib.judging import Trained
from icreward_lib.measuring import METRICS, Measured, SampleClips, measure_clips, reward_scores
from icreward_lib.run import Run
from icreward_lib.samples import Sample, SceneSample
from icreward_lib.video import Video
from icreward_lib.world.content import UNSEEN_MOVES
from icreward_lib.world.probes import PROBES, SEVERITIES, depart, moving_scenes

TRUE = "true"  # the kind of a clip that does not depart
CODE = ("probing", "world.probes", "world.scenes", "world.content")
#: What notebook 07 shows: `dynamic_degree` is higher for a clip that moves more, all others for one that is better.
SHOWN = (*METRICS, "mlp", "mlp_seeds", "icreward", "icreward_seeds", "dynamic_degree")


def probed_scenes(run: Run) -> list[SceneSample]:
    """Moving scenes of their own, as many as the profile says, half of them with held-out content.

    They are scenes of the sticker world, whose truth is known, beside an image suite as well. Each has about forty
    clips.
    """
    unseen = run.profile.probes.scenes // 2
    scenes = moving_scenes(run.profile.probes.scenes - unseen, seed=run.seed("probed scenes, second draw", "seen"))
    scenes += moving_scenes(unseen, seed=run.seed("probed scenes, second draw", "unseen"), split="unseen")
    return [SceneSample(number, "test", scene) for number, scene in enumerate(scenes)]


def content_of(sample: Sample) -> str:
    """Which of its content a sample holds out from all training: seen, unseen content, or unseen content and moves."""
    if not sample.is_unseen:
        return "seen"
    scene = sample.scene if isinstance(sample, SceneSample) else None
    moves = scene is not None and scene.subject is not None and (scene.camera, scene.motion) in UNSEEN_MOVES
    return "unseen content and moves" if moves else "unseen content"


def departures(run: Run, sample: SceneSample) -> dict[tuple[str, float], Video]:
    """A sample's true clip (`TRUE`, severity 0) and all departures from it that fit its scene."""
    kinds = [kind for kind, probe in PROBES.items() if probe.fits(sample.scene)]
    return clips_of(run, sample, [(TRUE, 0.0), *((kind, severity) for kind in kinds for severity in SEVERITIES)])


def clips_of(run: Run, sample: SceneSample, wanted: Sequence[tuple[str, float]]) -> dict[tuple[str, float], Video]:
    """The true clip of a sample (kind `TRUE`), or departures from it, by kind and severity; square."""
    shape = run.profile.generation
    size = {"num_frames": shape.num_frames, "size": shape.height}
    clips = {}
    for kind, severity in wanted:
        if kind == TRUE:
            clips[kind, severity] = sample.real_clip(shape.model_copy(update={"width": shape.height}))
        else:
            made = depart(sample.scene, kind, severity, seed=run.seed("probes", sample.id), **size)
            clips[kind, severity] = Video(made.frames[0], shape.fps)
    return clips


def probe(run: Run, curated: Curated, samples: Sequence[SceneSample]) -> Measured:
    """Measure the true clips and all departures of scenes against the true clip's first frame."""

    def clips(sample: Sample) -> SampleClips:
        assert isinstance(sample, SceneSample)
        return sample_clips(departures(run, sample))

    return measure_clips(run, "probes", curated, samples, clips, code=CODE, seed=run.profile.seed)


def sample_clips(clips: Mapping[tuple[str, float], Video]) -> SampleClips:
    """Departures as `measure_clips` takes them: the first of them, the true clip, gives the image."""
    videos = list(clips.values())
    kinds, severities = zip(*clips, strict=True)
    image = videos[0].frames[0]
    return SampleClips(videos, image, image, {"kind": kinds, "severity": severities})


def scored(run: Run, measured: Measured, rewards: Mapping[str, Trained]) -> pd.DataFrame:
    """The table of measured clips with the rewards' columns.

    Of each reward `<name>`, the scores of its first training, and `<name>_seeds`, the mean over all of them.
    """
    columns: dict[str, np.ndarray] = {}
    for name, trained in rewards.items():
        scores = reward_scores(run, measured, trained)[..., 0]
        columns |= {name: scores[0], f"{name}_seeds": scores.mean(0)}
    return measured.table.assign(**columns)

"""Probes: true clips and their departures, measured by everything and scored by the rewards."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import METRICS, Measured, SampleClips, measure_clips, reward_scores
from icreward_lib.poster.reward_models import Trained
from icreward_lib.poster.samples import Sample, SceneSample, scene_sample
from icreward_lib.run import Run
from icreward_lib.video import Video
from icreward_lib.world.content import UNSEEN_MOVES
from icreward_lib.world.departures import PROBES, SEVERITIES, depart, moving_scenes

TRUE = "true"  # the kind of a clip that does not depart
Departures = dict[tuple[str, float], Video]  # by kind and severity
#: What notebook 07 shows: `dynamic_degree` is higher for a clip that moves more, all others for one that is better.
SHOWN = (*METRICS, "mlp", "mlp_seeds", "icreward", "icreward_seeds", "dynamic_degree")


def probed_scenes(run: Run) -> list[SceneSample]:
    """Moving scenes of the sticker world, also beside an image suite; half of them have held-out content."""
    return _moving_scenes(run, "probed scenes, second draw", run.profile.probes.scenes, first=0)


def frozen_scenes(run: Run) -> list[SceneSample]:
    """Further such scenes, for the frozen first frame alone: two clips each, so that there can be many."""
    probes = run.profile.probes
    return _moving_scenes(run, "frozen scenes", probes.frozen_scenes, first=probes.scenes)


def _moving_scenes(run: Run, draw: str, count: int, *, first: int) -> list[SceneSample]:
    """`count` scenes numbered from `first` on, of a draw of that name."""
    unseen = count // 2
    scenes = moving_scenes(count - unseen, seed=run.seed(draw, "seen"))
    scenes += moving_scenes(unseen, seed=run.seed(draw, "unseen"), split="unseen")
    return [scene_sample(number, "test", scene) for number, scene in enumerate(scenes, first)]


def content_of(sample: Sample) -> str:
    """Which of its content a sample holds out from all training: seen, unseen content, or unseen content and moves."""
    if not sample.is_unseen:
        return "seen"
    scene = sample.scene if isinstance(sample, SceneSample) else None
    moves = scene is not None and scene.subject is not None and (scene.camera, scene.motion) in UNSEEN_MOVES
    return "unseen content and moves" if moves else "unseen content"


def departures(run: Run, sample: SceneSample) -> Departures:
    """A sample's true clip (`TRUE`, severity 0) and all departures from it that fit its scene."""
    kinds = [kind for kind, probe in PROBES.items() if probe.fits(sample.scene)]
    return clips_of(run, sample, [(TRUE, 0.0), *((kind, severity) for kind in kinds for severity in SEVERITIES)])


def frozen(run: Run, sample: SceneSample) -> Departures:
    """A sample's true clip, and its first frame in place of all others."""
    return clips_of(run, sample, [(TRUE, 0.0), ("freeze", 1.0)])


def clips_of(run: Run, sample: SceneSample, wanted: Sequence[tuple[str, float]]) -> Departures:
    """The true clip of a sample (kind `TRUE`), or departures from it; square."""
    shape = run.profile.generation

    def made(kind: str, severity: float) -> Video:
        if kind == TRUE:
            return sample.real_clip(shape.model_copy(update={"width": shape.height}))
        size, seed = {"num_frames": shape.num_frames, "size": shape.height}, run.seed("probes", sample.id)
        return Video(depart(sample.scene, kind, severity, seed=seed, **size).frames[0], shape.fps)

    return {key: made(*key) for key in wanted}


def probe(run: Run, curated: Curated, samples: Sequence[SceneSample]) -> Measured:
    """Measure the true clips and all departures of scenes against the true clip's first frame."""
    return _measure(run, "probes", curated, samples, departures)


def probe_frozen(run: Run, curated: Curated, samples: Sequence[SceneSample]) -> Measured:
    """Measure the true clips of scenes and their frozen first frames, likewise."""
    return _measure(run, "frozen", curated, samples, frozen)


def _measure(
    run: Run,
    name: str,
    curated: Curated,
    samples: Sequence[SceneSample],
    made: Callable[[Run, SceneSample], Departures],
) -> Measured:
    def clips(sample: Sample) -> SampleClips:
        assert isinstance(sample, SceneSample)
        found = made(run, sample)
        kinds, severities = zip(*found, strict=True)
        image = found[TRUE, 0.0].frames[0]
        return SampleClips(list(found.values()), image, image, {"kind": kinds, "severity": severities})

    return measure_clips(run, name, curated, samples, clips, code=[made], seed=run.profile.seed)


def add_reward_scores(run: Run, measured: Measured, rewards: Mapping[str, Trained]) -> pd.DataFrame:
    """The table of measured clips with each reward's first training, `<name>`, and the mean of all, `<name>_seeds`."""
    columns: dict[str, np.ndarray] = {}
    for name, trained in rewards.items():
        scores = reward_scores(run, measured, trained)[..., 0]
        columns |= {name: scores[0], f"{name}_seeds": scores.mean(0)}
    return measured.table.assign(**columns)

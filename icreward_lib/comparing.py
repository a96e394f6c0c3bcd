"""What the rewards' picks are judged by: CLIPSim, FVD, motion, and the world's truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from icreward_lib import networks
from icreward_lib.curation import Curated
from icreward_lib.generation import compared_with
from icreward_lib.judging import Trained, clip_features
from icreward_lib.measuring import Measured, SampleClips, measure_clips, reward_scores
from icreward_lib.metrics.clip import clipsim
from icreward_lib.parallel import side_by_side
from icreward_lib.run import Run
from icreward_lib.samples import Sample, other_real_clips, real_folder
from icreward_lib.sampling import picks
from icreward_lib.stats import bootstrap_mean
from icreward_lib.study.pairs import Shown
from icreward_lib.tuning import NewClips
from icreward_lib.world.truth import FIDELITIES


def _rows(curated: Curated, split: str) -> np.ndarray:
    """Rows of `Curated.rows` of a split's generated videos, "samples videos"."""
    table = curated.table
    rows = table.index.to_numpy()[table["split"] == split]
    return rows.reshape(len(curated.of(split)), -1)


def measure(run: Run, curated: Curated, split: str) -> dict[str, np.ndarray]:
    """Metrics of every generated video of a split, "samples videos"; none but the label was trained on."""
    features = clip_features(run, curated)
    rows = _rows(curated, split)
    frames, references = features.clips.numpy(), features.references.numpy()
    result = {}
    for name, first in (("clipsim", True), ("clipsim_no_first", False)):
        values = [
            clipsim(references[sample.id], frames[videos], include_first=first)
            for sample, videos in zip(curated.of(split), rows, strict=True)
        ]
        result[name] = np.stack(values)
    return result | {name: curated.matrix(name, split) for name in ("dynamic_degree", "label")}


def fvd_features(run: Run, curated: Curated, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features for FVD of a split's generated videos, "samples videos d", and of its real clips, "samples d"."""
    shape = run.profile.generation
    with run.stage(
        "fvd_features",
        code=("metrics.video_features", "samples"),
        videos=curated.videos.stage,
        model=run.model("fvd"),
        real=real_folder(run),
        split=split,
    ) as stage:
        if stage.lacks("features.npz"):
            extractor = networks.video_features(run)
            samples = curated.of(split)

            def seen(sample: Sample) -> np.ndarray:
                return extractor.features([*curated.videos.of(sample.id), sample.real_clip(shape)])

            found = np.stack([features for _, features in side_by_side(seen, samples)])
            stage.save_npz("features.npz", fake=found[:, :-1], real=found[:, -1])
    arrays = stage.load_npz("features.npz")
    return arrays["fake"], arrays["real"]


def real_clip_features(run: Run) -> np.ndarray:
    """Features for FVD of at least twice as many other real clips as the test split has."""
    with run.stage(
        "real_features",
        code=("metrics.video_features", "samples", "world.scenes", "world.content"),
        model=run.model("fvd"),
        real=real_folder(run),
        generation=run.profile.generation,
        data=run.profile.data,
        seed=run.profile.seed,
    ) as stage:
        if stage.lacks("features.npz"):
            stage.save_npz("features.npz", features=networks.video_features(run).features(other_real_clips(run)))
    return stage.load_npz("features.npz")["features"]


def showcase(run: Run, curated: Curated) -> list[Sample]:
    """The samples that figures show one by one: the first of the test split, those with a subject before others."""
    by_subject = sorted(curated.of("test"), key=lambda sample: sample.dimension != "subject")
    return by_subject[: run.profile.study.showcase]


def showcase_clipsim(
    run: Run, curated: Curated, chosen: Mapping[str, np.ndarray], samples: Sequence[Sample]
) -> pd.DataFrame:
    """CLIPSim of the picked video of each sample, its interval over the clip's frames.

    Args:
        chosen: picker -> video per test sample, (S,).
        samples: which of the test samples.

    Returns:
        Columns sample (title), pick, video, mean, low, high.
    """
    features, rows, test = clip_features(run, curated), _rows(curated, "test"), curated.of("test")
    bars = []
    for number, sample in enumerate(samples, start=1):
        position = test.index(sample)
        reference = features.references[sample.id].numpy()
        for name, columns in chosen.items():
            video = int(columns[position])
            cosines = features.clips[rows[position, video]].numpy() @ reference
            interval = bootstrap_mean(cosines, seed=run.seed("frames", sample.id), level=run.profile.stats.level)
            title = f"sample {number}: {sample.title}"
            bars.append({"sample": title, "pick": name, "video": video, **interval.as_dict()})
    return pd.DataFrame(bars)


def pick_truth(curated: Curated, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The true fidelities of the pickers' videos on the test samples where their picks differ.

    Args:
        scores: picker -> "samples videos" on the test split.

    Returns:
        Columns sample, arm and the three fidelities; `attrs["identical"]` counts the samples left out.
    """
    chosen = {arm: picks(values) for arm, values in scores.items()}
    fidelities = {name: curated.matrix(name, "test") for name in FIDELITIES}
    rows = []
    identical = 0
    for position, sample in enumerate(curated.of("test")):
        if len({int(columns[position]) for columns in chosen.values()}) == 1:
            identical += 1
            continue
        rows += [
            {"sample": sample.id, "arm": arm}
            | {name: float(values[position, columns[position]]) for name, values in fidelities.items()}
            for arm, columns in chosen.items()
        ]
    table = pd.DataFrame(rows, columns=["sample", "arm", *FIDELITIES])
    table.attrs["identical"] = identical
    return table


def pick_scores(curated: Curated, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What each reward, and the label, say of the pickers' videos: a column each, by the video's id in the votes."""
    chosen = {arm: picks(values) for arm, values in scores.items()}
    judges = {**scores, "label": curated.matrix("label", "test")}
    return pd.DataFrame.from_dict(
        {
            f"{sample.id}/{arm}": {j: float(values[position, columns[position]]) for j, values in judges.items()}
            for position, sample in enumerate(curated.of("test"))
            for arm, columns in chosen.items()
        },
        orient="index",
    )


def picked_clips(run: Run, curated: Curated, chosen: Mapping[str, np.ndarray], split: str = "test") -> Iterator[Shown]:
    """The image of each sample with the video that every picker chose, for `study.pairs.build_pairs`.

    Args:
        chosen: picker -> video per sample of the split, (S,), as `sampling.picks` and `random_picks` give.
    """
    shape = run.profile.generation
    for position, sample in enumerate(curated.of(split)):
        videos = curated.videos.of(sample.id)
        picked = {name: videos[int(columns[position])] for name, columns in chosen.items()}
        yield Shown(str(sample.id), sample.image(shape.height, shape.width), picked)


def new_clips(run: Run, new: Mapping[str, NewClips]) -> Iterator[Shown]:
    """The image of each sample with the new clip of every generator, for `study.pairs.build_pairs`."""
    shape = run.profile.generation
    for sample in next(iter(new.values())).samples:
        clips = {generator: made.of(sample) for generator, made in new.items()}
        yield Shown(str(sample.id), sample.image(shape.height, shape.width), clips)


def measure_new(run: Run, curated: Curated, made: NewClips) -> Measured:
    """Measure new clips."""
    shape = run.profile.generation

    def clips(sample: Sample) -> SampleClips:
        seen = compared_with(run, sample, curated.videos)
        return SampleClips([made.of(sample)], sample.image(shape.height, shape.width), seen, {})

    inputs = {"videos": curated.videos.stage, "made": made.stage}
    return measure_clips(run, "new_clips", curated, made.samples, clips, code=("comparing",), **inputs)


def judge_new(run: Run, curated: Curated, new: Mapping[str, NewClips], rewards: Mapping[str, Trained]) -> pd.DataFrame:
    """What everything says of new clips, one row per sample and generator.

    Columns: sample, unseen, generator; metrics, dynamic_degree and fidelities; each reward's first training.
    """
    tables = []
    for generator, made in new.items():
        measured = measure_new(run, curated, made)
        judged = {name: reward_scores(run, measured, trained)[0, :, 0] for name, trained in rewards.items()}
        tables.append(measured.table.assign(generator=generator, **judged))
    return pd.concat(tables, ignore_index=True)


def new_sample_wins(judged: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per judge, whether the tuned generator's clip beats the base's on each sample: 1, 0, or 1/2 for a tie."""
    wins = {}
    for judge in ("icreward", "mlp", "label"):
        table = judged.pivot(index="sample", columns="generator", values=judge)
        gain = table["tuned"].to_numpy() - table["base"].to_numpy()
        wins["oracle" if judge == "label" else judge] = (1 + np.sign(gain)) / 2
    return wins

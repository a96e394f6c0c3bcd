"""What metrics and rewards say of clips; `measure` and `fvd_features` of curated ones, `measure_clips` of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from icreward_lib.metrics.clip import clipsim
from icreward_lib.metrics.features import distinct_frames
from icreward_lib.metrics.motion import dynamic_degrees
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import CONSISTENCY, Curated, labels_of
from icreward_lib.poster.reward_models import Trained, clip_features, load
from icreward_lib.poster.samples import Sample, other_real_clips, real_folder
from icreward_lib.poster.videos import load_each, save_each
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.training import predict
from icreward_lib.run import Run
from icreward_lib.run.processes import side_by_side
from icreward_lib.run.stages import Stage
from icreward_lib.video import Video

#: What is higher for a clip that should be better.
METRICS = ("clipsim", "clipsim_no_first", *CONSISTENCY, "label")
READ = ("clip_image", "clip_frames", "image_tokens", "video_tokens", "features")
TIE = 1e-5  # scores that differ by less are equal: the same frames in another order sum to other last digits


def wins(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """1 where a is above b, 0 where it is below, 1/2 where they are equal; broadcast."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.asarray((1 + np.sign(np.where(np.abs(difference) < TIE, 0, difference))) / 2)


@dataclass(frozen=True)
class SampleClips:
    """K clips of one sample, of one length and size, and what they are compared with, uint8 RGB (H, W, 3) each."""

    videos: Sequence[Video]
    image: np.ndarray  # for CLIPSim and the rewards
    seen: np.ndarray  # for labels, see `videos.compared_with`
    about: Mapping[str, Sequence[object]]  # further columns of the table, a value a clip


@dataclass(frozen=True)
class Measured:
    """N clips: a row each of the table, of both data sets and of the features."""

    stage: Stage
    table: pd.DataFrame  # sample, unseen, the columns of `about`, METRICS, dynamic_degree and FIDELITIES
    clip: ClipDataset  # as the MLP reads them, without labels
    tokens: ClipDataset  # as ICReward does
    features: np.ndarray  # (N, D), for FVD


def measure_clips(
    run: Run,
    name: str,
    curated: Curated,
    samples: Sequence[Sample],
    clips_of: Callable[[Sample], SampleClips],
    *,
    code: Sequence[Callable[..., object]] = (),
    **inputs: object,
) -> Measured:
    """Measure the clips of some samples in one pass, in a stage called `name`; labels by the curated set's anchors.

    `clips_of` makes or reads those of one, on several threads; `code` are functions that it was given to call, `inputs`
    what else it follows from.
    """
    inputs |= {"samples": [sample.account() for sample in samples], "generation": run.profile.generation}
    inputs |= {"icreward": networks.icreward_config(run), "backbone": networks.backbone(run)}
    inputs["models"] = [*networks.icreward_files(run), run.model("clip"), run.model("fvd")]
    with run.stage(name, code=[measure_clips, clips_of, *code], **inputs) as stage:
        if not stage.done:
            read_clips = _reader(run)
            save_each(stage, samples, lambda sample: read_clips(sample, clips_of(sample)))
    found = load_each(stage, samples)
    read = {key: [values.pop(key) for values in found] for key in READ}
    rows = zip(samples, found, strict=True)
    tables = [pd.DataFrame({"sample": s.id, "unseen": s.is_unseen, **values}) for s, values in rows]
    table = pd.concat(tables, ignore_index=True)
    table["label"] = labels_of(run, table, curated.anchors)
    place = np.repeat(np.arange(len(samples)), [len(values) for values in read["features"]])
    clip = unlabelled(np.concatenate(read["clip_frames"]), np.stack(read["clip_image"]), place)
    tokens = unlabelled(np.concatenate(read["video_tokens"]), np.stack(read["image_tokens"]), place)
    return Measured(stage, table, clip, tokens, np.concatenate(read["features"]))


def unlabelled(clips: np.ndarray, references: np.ndarray, place: np.ndarray) -> ClipDataset:
    """Clips (N, ...) and references (S, ...) to be scored; `place` (N,) is the row of a clip's reference."""
    nothing = torch.full((len(clips), len(DIMENSIONS)), torch.nan)
    video, images, rows = (torch.from_numpy(each) for each in (clips, references, place))
    return ClipDataset(video, images, rows, nothing[:, 0], nothing)


def _reader(run: Run) -> Callable[[Sample, SampleClips], dict[str, np.ndarray]]:
    """Values of K clips of a sample, (K,) each, and `READ`, by all networks, which share what they read of a clip."""
    scorer, video_features, clip = networks.consistency_scorer(run), networks.video_features(run), networks.clip(run)
    icreward = networks.new_icreward(run, seed=0)  # its vision tower is that of all

    def read(sample: Sample, clips: SampleClips) -> dict[str, np.ndarray]:
        videos, image = clips.videos, clips.image
        raw = scorer.score(clips.seen, videos)
        distinct, where = distinct_frames(videos)
        frames, reference = clip.image_features(distinct)[where], clip.image_features(image[None])[0]
        return {
            **{column: np.asarray(values) for column, values in clips.about.items()},
            "clipsim": clipsim(reference, frames, include_first=True),
            "clipsim_no_first": clipsim(reference, frames, include_first=False),
            **{name: raw[name] for name in CONSISTENCY},
            "dynamic_degree": dynamic_degrees(videos),
            **sample.fidelity(videos, raw),
            "clip_image": reference,
            "clip_frames": frames,
            "image_tokens": icreward.encode_images([image])[0].numpy(),
            "video_tokens": icreward.encode_videos(videos).numpy(),
            "features": video_features.features(videos),
        }

    return read


def reward_scores(run: Run, measured: Measured, trained: Trained) -> np.ndarray:
    """What each training of a reward says of measured clips: overall and dimensions, (seeds, N, 1 + D) in [0, 1]."""
    data = measured.clip if trained.name == "mlp" else measured.tokens
    inputs = {"clips": measured.stage, "reward": trained.stage, "folders": [folder.name for folder in trained.folders]}
    with run.stage("reward_scores", code=reward_scores, **inputs) as stage:
        if not stage.done:
            missing = [number for number in range(len(trained.folders)) if not stage.has(f"{number}.npz")]
            models = {number: load(run, trained, number) for number in missing}  # two cannot load at once
            for number, found in side_by_side(lambda number: predict(models[number], data), missing):
                values = np.concatenate([found.overall[:, None], found.dimensions], axis=1)
                stage.save_npz(f"{number}.npz", scores=values)
    return np.stack([stage.load_npz(f"{number}.npz")["scores"] for number in range(len(trained.folders))])


def measure(run: Run, curated: Curated, split: str) -> dict[str, np.ndarray]:
    """Metrics of every generated video of a split, "samples videos"; none but the label was trained on."""
    features, samples = clip_features(run, curated), curated.of(split)
    frames, references = features.clips.numpy(), features.references.numpy()
    rows = np.flatnonzero(curated.table["split"] == split).reshape(len(samples), -1)
    pairs = [(references[sample.id], frames[own]) for sample, own in zip(samples, rows, strict=True)]
    kinds = {"clipsim": True, "clipsim_no_first": False}
    found = {name: np.stack([clipsim(*pair, include_first=first) for pair in pairs]) for name, first in kinds.items()}
    return found | {name: curated.matrix(name, split) for name in ("dynamic_degree", "label")}


def fvd_features(run: Run, curated: Curated, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features for FVD of a split's generated videos, "samples videos d", and of its real clips, "samples d"."""
    shape = run.profile.generation
    inputs = {"videos": curated.videos.stage, "model": run.model("fvd"), "real": real_folder(run), "split": split}
    with run.stage("fvd_features", code=fvd_features, **inputs) as stage:
        if stage.lacks("features.npz"):
            extractor = networks.video_features(run)

            def seen(sample: Sample) -> np.ndarray:
                return extractor.features([*curated.videos.of(sample.id), sample.real_clip(shape)])

            found = np.stack([features for _, features in side_by_side(seen, curated.of(split))])
            stage.save_npz("features.npz", fake=found[:, :-1], real=found[:, -1])
    arrays = stage.load_npz("features.npz")
    return arrays["fake"], arrays["real"]


def real_clip_features(run: Run) -> np.ndarray:
    """Features for FVD of at least twice as many other real clips as the test split has."""
    settings = {"generation": run.profile.generation, "data": run.profile.data, "seed": run.profile.seed}
    inputs = {"model": run.model("fvd"), "real": real_folder(run), **settings}
    with run.stage("real_features", code=real_clip_features, **inputs) as stage:
        if stage.lacks("features.npz"):
            stage.save_npz("features.npz", features=networks.video_features(run).features(other_real_clips(run)))
    return stage.load_npz("features.npz")["features"]

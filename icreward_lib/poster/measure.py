"""What every metric says of any clips of any samples, and what the rewards read of them: all of it in one pass.

`measure` and `fvd_features` are for the curated videos, `measure_clips` for clips that are no part of the curated set,
such as probes, or many more videos of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from icreward_lib.metrics.clip import clipsim
from icreward_lib.metrics.features import distinct_frames
from icreward_lib.metrics.motion import dynamic_degrees
from icreward_lib.metrics.vbench import DIMENSIONS, ic_label
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import CONSISTENCY, Curated
from icreward_lib.poster.reward_models import Trained, clip_features, load
from icreward_lib.poster.samples import Sample, other_real_clips, real_folder
from icreward_lib.poster.videos import item_of
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.training import predict
from icreward_lib.run import Run
from icreward_lib.run.processes import own_share, side_by_side
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
    """K clips of one sample, of one length and size, and what they are compared with, uint8 RGB (H, W, 3) each.

    CLIPSim and the rewards compare with `image`, labels with `seen` (see `generation.compared_with`). `about` are
    further columns of the table, a value a clip.
    """

    videos: Sequence[Video]
    image: np.ndarray
    seen: np.ndarray
    about: Mapping[str, Sequence[object]]


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
    """Measure the clips of some samples.

    Args:
        run: whose profile names the networks.
        name: of the stage.
        curated: for the label's anchors.
        samples: whose clips they are.
        clips_of: makes or reads the clips of a sample, one after the other on several threads.
        code: functions that `clips_of` was given to call, and inputs: what else it follows from.
    """
    with run.stage(
        name,
        code=[measure_clips, clips_of, *code],
        samples=[sample.account() for sample in samples],
        generation=run.profile.generation,
        icreward=asdict(networks.icreward_config(run)),
        backbone=networks.backbone(run),
        models=[*networks.icreward_files(run), run.model("clip"), run.model("fvd")],
        **inputs,
    ) as stage:
        if not stage.done:
            readers = _Readers(run)
            missing = [sample for sample in own_share(samples) if not stage.has(f"{item_of(sample.id)}.npz")]
            for sample, values in side_by_side(lambda sample: readers.read(sample, clips_of(sample)), missing):
                stage.save_npz(f"{item_of(sample.id)}.npz", **values)
    found = [stage.load_npz(f"{item_of(sample.id)}.npz") for sample in samples]
    read = {key: [values.pop(key) for values in found] for key in READ}
    table = pd.concat(
        [
            pd.DataFrame({"sample": sample.id, "unseen": sample.is_unseen, **values})
            for sample, values in zip(samples, found, strict=True)
        ],
        ignore_index=True,
    )
    labels = run.profile.labels
    weights = {"subject": labels.subject_weight, "background": labels.background_weight}
    table["label"] = ic_label({d: table[d].to_numpy() for d in DIMENSIONS}, curated.anchors, weights)
    place = np.repeat(np.arange(len(samples)), [len(values) for values in read["features"]])

    def data(clips: str, references: str) -> ClipDataset:
        return unlabelled(np.concatenate(read[clips]), np.stack(read[references]), place)

    return Measured(
        stage,
        table,
        data("clip_frames", "clip_image"),
        data("video_tokens", "image_tokens"),
        np.concatenate(read["features"]),
    )


def unlabelled(clips: np.ndarray, references: np.ndarray, place: np.ndarray) -> ClipDataset:
    """Clips (N, ...) and references (S, ...) to be scored; `place` (N,) is the row of a clip's reference."""
    nothing = torch.full((len(clips), len(DIMENSIONS)), torch.nan)
    return ClipDataset(
        torch.from_numpy(clips), torch.from_numpy(references), torch.from_numpy(place), nothing[:, 0], nothing
    )


class _Readers:
    """All networks, which share what they read of a clip."""

    def __init__(self, run: Run) -> None:
        self.scorer = networks.consistency_scorer(run)
        self.video_features = networks.video_features(run)
        self.clip = networks.clip(run)
        self.icreward = networks.new_icreward(run, seed=0)  # its vision tower is that of all

    def read(self, sample: Sample, clips: SampleClips) -> dict[str, np.ndarray]:
        """Values of K clips, (K,) each, and `READ`."""
        videos, image = clips.videos, clips.image
        raw = self.scorer.score(clips.seen, videos)
        distinct, where = distinct_frames(videos)
        frames, reference = self.clip.image_features(distinct)[where], self.clip.image_features(image[None])[0]
        return {
            **{column: np.asarray(values) for column, values in clips.about.items()},
            "clipsim": clipsim(reference, frames, include_first=True),
            "clipsim_no_first": clipsim(reference, frames, include_first=False),
            **{name: raw[name] for name in CONSISTENCY},
            "dynamic_degree": dynamic_degrees(videos),
            **sample.fidelity(videos, raw),
            "clip_image": reference,
            "clip_frames": frames,
            "image_tokens": self.icreward.encode_images([image])[0].numpy(),
            "video_tokens": self.icreward.encode_videos(videos).numpy(),
            "features": self.video_features.features(videos),
        }


def reward_scores(run: Run, measured: Measured, trained: Trained) -> np.ndarray:
    """What each training of a reward says of measured clips: overall and dimensions, (seeds, N, 1 + D) in [0, 1]."""
    data = measured.clip if trained.name == "mlp" else measured.tokens
    with run.stage(
        "reward_scores",
        code=reward_scores,
        clips=measured.stage,
        reward=trained.stage,
        folders=[folder.name for folder in trained.folders],
    ) as stage:
        if not stage.done:
            missing = [number for number in range(len(trained.folders)) if not stage.has(f"{number}.npz")]
            models = {number: load(run, trained, number) for number in missing}  # two cannot load at once
            for number, found in side_by_side(lambda number: predict(models[number], data), missing):
                values = np.concatenate([found.overall[:, None], found.dimensions], axis=1)
                stage.save_npz(f"{number}.npz", scores=values)
    return np.stack([stage.load_npz(f"{number}.npz")["scores"] for number in range(len(trained.folders))])


def rows_of(curated: Curated, split: str) -> np.ndarray:
    """Rows of `Curated.rows` of a split's generated videos, "samples videos"."""
    table = curated.table
    rows = table.index.to_numpy()[table["split"] == split]
    return rows.reshape(len(curated.of(split)), -1)


def measure(run: Run, curated: Curated, split: str) -> dict[str, np.ndarray]:
    """Metrics of every generated video of a split, "samples videos"; none but the label was trained on."""
    features = clip_features(run, curated)
    rows = rows_of(curated, split)
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
        code=fvd_features,
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
        code=real_clip_features,
        model=run.model("fvd"),
        real=real_folder(run),
        generation=run.profile.generation,
        data=run.profile.data,
        seed=run.profile.seed,
    ) as stage:
        if stage.lacks("features.npz"):
            stage.save_npz("features.npz", features=networks.video_features(run).features(other_real_clips(run)))
    return stage.load_npz("features.npz")["features"]

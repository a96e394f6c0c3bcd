"""The curated set: images, their generated videos, VBench++ scores, labels and low-score additions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from icreward_lib.metrics.motion import dynamic_degree, dynamic_degrees
from icreward_lib.metrics.vbench import DIMENSIONS, Anchors, fit_anchors, ic_label
from icreward_lib.poster.networks import backbone, consistency_scorer, label_weights, open_sora, open_sora_files
from icreward_lib.poster.samples import Sample, draw_samples
from icreward_lib.poster.videos import Videos, compared_with, generate, load_each, save_each
from icreward_lib.run import Run
from icreward_lib.run.processes import side_by_side
from icreward_lib.video import Video
from icreward_lib.world.truth import FIDELITIES

#: The VBench++ score of each dimension, and its frames' mean and least conformity.
CONSISTENCY = tuple(d + end for d in DIMENSIONS for end in ("", "_mean", "_min"))
FROZEN_COPIES = 20  # frozen clips behind the upper anchor; they all score 1 up to rounding


def score(run: Run, samples: Sequence[Sample], videos: Videos) -> pd.DataFrame:
    """Raw scores, a row per video: sample, split, unseen, prompt, video; CONSISTENCY; dynamic_degree; FIDELITIES."""
    with run.stage("scores", code=score, videos=videos.stage, backbone=backbone(run)) as stage:
        if not stage.done:
            scorer = consistency_scorer(run)

            def scored(sample: Sample) -> dict[str, np.ndarray]:
                clips = videos.of(sample.id)
                values = scorer.score(compared_with(run, sample, videos), clips)
                values["dynamic_degree"] = dynamic_degrees(clips)
                return values | sample.fidelity(clips, values)

            save_each(stage, samples, scored)
    tables = []
    for sample, values in zip(samples, load_each(stage, samples), strict=True):
        about = {"sample": sample.id, "split": sample.split, "unseen": sample.is_unseen, "prompt": sample.prompt}
        columns = {name: values[name].astype(float) for name in (*CONSISTENCY, "dynamic_degree", *FIDELITIES)}
        tables.append(pd.DataFrame({**about, "video": range(len(values["subject"])), **columns}))
    return pd.concat(tables, ignore_index=True)


def anchors(run: Run, samples: Sequence[Sample], videos: Videos) -> dict[str, Anchors]:
    """What label 0 and 1 mean, measured on the training split, by dimension and by `<dimension>_mean` and `_min`.

    0: the median score of a clip against another sample's reference. 1: that of a frozen copy of the reference.
    """
    train = [sample for sample in samples if sample.split == "train"]
    with run.stage("anchors", code=anchors, videos=videos.stage, backbone=backbone(run)) as stage:
        if stage.lacks("scores.npz"):
            scorer = consistency_scorer(run)

            def mismatch(sample: Sample) -> dict[str, np.ndarray]:
                other = train[(train.index(sample) + 1) % len(train)]
                return scorer.score(compared_with(run, other, videos), [videos.first(sample.id)])

            mismatched = [scores for _, scores in side_by_side(mismatch, train)]
            images = [compared_with(run, sample, videos) for sample in train[:FROZEN_COPIES]]
            frozen = [scorer.score(image, [Video(np.stack([image] * 2), 1.0)]) for image in images]
            arrays = {f"mismatched_{n}": np.concatenate([found[n] for found in mismatched]) for n in CONSISTENCY}
            arrays |= {f"frozen_{n}": np.concatenate([found[n] for found in frozen]) for n in CONSISTENCY}
            stage.save_npz("scores.npz", **arrays)
    found = stage.load_npz("scores.npz")
    return {name: fit_anchors(found[f"mismatched_{name}"], found[f"frozen_{name}"]) for name in CONSISTENCY}


def add_labels(run: Run, table: pd.DataFrame, limits: dict[str, Anchors]) -> pd.DataFrame:
    """Add `label` and `label_<dimension>`, all in [0, 1]."""
    each = {f"label_{d}": on_label_scale(table[d], limits[d]) for d in DIMENSIONS}
    return table.assign(label=labels_of(run, table, limits), **each)


def labels_of(run: Run, table: pd.DataFrame, limits: dict[str, Anchors]) -> np.ndarray:
    """The labels of raw scores, (N,) in [0, 1]."""
    weights = dict(zip(DIMENSIONS, label_weights(run), strict=True))
    return ic_label({d: table[d].to_numpy() for d in DIMENSIONS}, limits, weights)


def on_label_scale(raw: pd.Series, limits: Anchors) -> np.ndarray:
    """Raw scores (N,) as `ic_label` has them: 0 at the lower anchor, 1 at the upper one, clipped."""
    return np.clip((raw.to_numpy() - limits.low) / (limits.high - limits.low), 0, 1)


def low_scores(
    run: Run, samples: Sequence[Sample], videos: Videos, limits: dict[str, Anchors]
) -> tuple[pd.DataFrame, list[Video]]:
    """Additional training videos whose label is low, as the poster adds about 30 by hand.

    They begin as a training sample's own video and then cut, or dissolve, into another sample's, which the generator
    seldom does. The first ones whose label falls below the limit are kept: a table like that of `add_labels`, with
    `video` counted from the sample's own videos on, and the clips.
    """
    data = run.profile.data
    train = [sample for sample in samples if sample.split == "train"]
    scale = {"labels": run.profile.labels, "backbone": backbone(run), "anchors": limits}
    inputs = {"videos": videos.stage, "data": data, "seed": run.profile.seed, **scale}
    with run.stage("low_scores", code=low_scores, **inputs) as stage:
        if stage.lacks("clips.npz"):
            scorer = consistency_scorer(run)
            rng = np.random.default_rng(run.seed("low scores"))
            kept, rows = list[np.ndarray](), list[dict[str, float]]()
            for first, second in zip(rng.permutation(len(train)), rng.permutation(len(train)), strict=True):
                if len(kept) == data.low_score_additions or first == second:
                    continue
                sample, other = train[first], train[second]
                clip = _departure(videos.first(sample.id), videos.first(other.id), rng)
                scored = scorer.score(compared_with(run, sample, videos), [clip])
                found = {name: scored[name] for name in CONSISTENCY} | sample.fidelity([clip], scored)
                row = {"sample": sample.id, "video": data.videos_per_sample, "dynamic_degree": dynamic_degree(clip)}
                row |= {name: float(value[0]) for name, value in found.items()}
                if labels_of(run, pd.DataFrame([row]), limits)[0] < data.low_score_below:
                    kept.append(clip.frames)
                    rows.append(row)
            stage.save_json("rows.json", rows)
            stage.save_npz("clips.npz", frames=np.stack(kept) if kept else np.empty(0, np.uint8))
    rows = stage.load_json("rows.json")
    if not rows:
        return pd.DataFrame(), []
    table = add_labels(run, pd.DataFrame(rows), limits)
    prompts = {sample.id: sample.prompt for sample in samples}
    table = table.assign(split="train", unseen=False, prompt=table["sample"].map(prompts))
    clips = [Video(frames, run.profile.generation.fps) for frames in stage.load_npz("clips.npz")["frames"]]
    return table, clips


def _departure(own: Video, other: Video, rng: np.random.Generator) -> Video:
    """Own clip, then another one: by a cut at the start or early on, or by a dissolve over the whole clip."""
    t = own.num_frames
    share = np.zeros(t)
    if rng.random() < 0.5:
        share[rng.integers(0, max(1, t // 3)) :] = 1.0
    else:
        share = np.linspace(rng.uniform(0.2, 0.6), 1.0, t)
    mixed = own.frames * (1 - share)[:, None, None, None] + other.frames * share[:, None, None, None]
    return Video(mixed.round().astype(np.uint8), own.fps)


@dataclass(frozen=True)
class Curated:
    """The curated set in memory. Videos are read from disk when asked for."""

    samples: Sequence[Sample]  # all that `draw_samples` draws: what is computed of one is looked up by its number
    videos: Videos
    anchors: dict[str, Anchors]
    table: pd.DataFrame  # one row per generated video
    additions: pd.DataFrame  # one row per low-score addition
    added_clips: list[Video]

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Generated videos and additions, in the order in which `clips` gives them: by sample, additions last."""
        return pd.concat([self.table, self.additions], ignore_index=True)

    def matrix(self, column: str, split: str | None = None) -> np.ndarray:
        """A column of the generated videos as "samples videos", of one split or of all."""
        part = self.table if split is None else self.table[self.table["split"] == split]
        return part.pivot(index="sample", columns="video", values=column).to_numpy()

    def of(self, split: str) -> list[Sample]:
        """The samples of a split."""
        return [sample for sample in self.samples if sample.split == split]


def curate(run: Run) -> Curated:
    """All stages from images to labels; what is cached is read."""
    samples = draw_samples(run)
    videos = generate(run, samples)
    limits = anchors(run, samples, videos)
    table = add_labels(run, score(run, samples, videos), limits)
    additions, clips = low_scores(run, samples, videos, limits)
    return Curated(samples, videos, limits, table, additions, clips)


def spread(labels: np.ndarray) -> tuple[float, float]:
    """Standard deviation of the label within an image, and of the images' means, of labels "samples videos"."""
    return float(np.sqrt(labels.var(1, ddof=1).mean())), float(labels.mean(1).std(ddof=1))


def some_of_test(curated: Curated) -> list[Sample]:
    """About forty test samples, evenly spread."""
    samples = curated.of("test")
    return samples[:: max(1, len(samples) // 40)]


def autoencoded_gap(run: Run, samples: Sequence[Sample]) -> pd.DataFrame:
    """Raw scores of true clips and of the same clips after the autoencoder: what its blur alone costs.

    A row per sample, for each dimension: `true_<d>`, the true clip against its image; `blurred_<d>`, the autoencoded
    clip against the image; `autoencoded_<d>`, the same against the image as the generator sees it, as labels do.
    """
    settings, accounts = run.profile.generation, [sample.account() for sample in samples]
    networks = {"model": open_sora_files(run), "backbone": backbone(run)}
    with run.stage("autoencoded", code=autoencoded_gap, samples=accounts, generation=settings, **networks) as stage:
        if stage.lacks("rows.json"):
            generator, scorer, rows = open_sora(run), consistency_scorer(run), []
            for sample in samples:
                clip = sample.real_clip(settings)
                blurred = generator.autoencode(clip)
                scored = {
                    "true": scorer.score(clip.frames[0], [clip]),
                    "blurred": scorer.score(clip.frames[0], [blurred]),
                    "autoencoded": scorer.score(generator.as_seen(clip.frames[0]), [blurred]),
                }
                gap = {f"{kind}_{d}": float(found[d][0]) for kind, found in scored.items() for d in DIMENSIONS}
                rows.append({"sample": sample.id, "unseen": sample.is_unseen, **gap})
            stage.save_json("rows.json", rows)
    return pd.DataFrame(stage.load_json("rows.json"))

"""Several generators on the same images of the VBench++ suite: one row each, with what belongs beside every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.generators import Generator
from icreward_lib.metrics.fvd import distance_columns
from icreward_lib.metrics.motion import dynamic_degree
from icreward_lib.metrics.vbench import DIMENSIONS, ConsistencyScorer
from icreward_lib.metrics.video_features import VideoFeatures
from icreward_lib.stages import Stage
from icreward_lib.stats import bootstrap_mean
from icreward_lib.suite import SuiteImage
from icreward_lib.video import read_image

CODE = (
    *("benchmark", "generators", "other_generators", "opensora", "suite", "video"),
    *("metrics.vbench", "metrics.vbench_features", "metrics.features", "metrics.video_features", "metrics.motion"),
)
SUMMARIES = ("", "_mean", "_min")


@dataclass(frozen=True)
class Tools:
    """What a generator is measured with."""

    generator: Generator
    scorer: ConsistencyScorer
    features: VideoFeatures


@dataclass(frozen=True)
class Measured:
    """One generator's clips: a row each in both, image by image."""

    table: pd.DataFrame  # prompt, kind, dimension, video; subject, background and their _mean, _min; dynamic_degree
    features: np.ndarray  # (clips, d) for FVD


def measure_generator(
    stage: Stage,
    load: Callable[[], Tools],
    images: Sequence[SuiteImage],
    files: Sequence[Path],
    *,
    num_videos: int,
    seed: int,
) -> Measured:
    """Make the videos of every image and score them; an interrupted stage goes on with the first missing image.

    Args:
        stage: opened with `code=CODE` and all that names the generator, the networks, the images and the settings.
        load: gives generator, scorer and features; called only if an image is missing.
        images: of the suite.
        files: where they lie (`suite.image_files`), in the same order.
        num_videos: per image; VBench++ wants 5.
        seed: image i has seed + i.
    """
    items = [f"{i:04d}.npz" for i in range(len(images))]
    if missing := stage.missing(items):
        tools = load()
        for i in (items.index(item) for item in missing):
            image = read_image(files[i])
            clips = tools.generator.generate(image, images[i].prompt, num_videos=num_videos, seed=seed + i)
            scores = tools.scorer.score(image, clips)
            kept = {d + end: scores[d + end] for d in DIMENSIONS for end in SUMMARIES}
            kept["dynamic_degree"] = np.array([dynamic_degree(clip) for clip in clips])
            stage.save_npz(items[i], features=tools.features.features(clips), **kept)
    found = [stage.load_npz(item) for item in items]
    features = np.concatenate([values.pop("features") for values in found])
    rows = [
        {"prompt": image.prompt, "kind": image.kind, "dimension": image.dimension, "video": k}
        | {name: float(column[k]) for name, column in values.items()}
        for image, values in zip(images, found, strict=True)
        for k in range(num_videos)
    ]
    return Measured(pd.DataFrame(rows), features)


def generator_table(
    measured: Mapping[str, Measured], real: np.ndarray, *, seed: int, draws: int = 200, level: float = 0.95
) -> pd.DataFrame:
    """One row per generator, by its name.

    As VBench++ has it, `i2v_subject` is the mean over the clips of subject images, `i2v_background` over those of
    background images; both, and `dynamic_degree` over all, with `_low` and `_high` by resampling images. Then
    `metrics.fvd.distance_columns`.

    Args:
        measured: name -> `measure_generator`.
        real: features (m, d) of real clips, by the same extractor.
        seed: of resamples.
        draws: resamples behind an interval.
        level: coverage of intervals.

    Raises:
        ValueError: if generators were measured on other images: their rows would not compare.
    """
    names = list(measured)
    prompts = [measured[name].table["prompt"].tolist() for name in names]
    for name, own in zip(names, prompts, strict=True):
        if own != prompts[0]:
            raise ValueError(f"{name} and {names[0]} were measured on other images or numbers of videos.")
    return pd.DataFrame.from_dict(
        {name: _row(measured[name], real, seed, draws, level) for name in names}, orient="index"
    ).rename_axis("generator")


def _row(measured: Measured, real: np.ndarray, seed: int, draws: int, level: float) -> dict[str, float]:
    table = measured.table
    parts = {f"i2v_{d}": (d, table[table["dimension"] == d]) for d in DIMENSIONS if d in set(table["dimension"])}
    row: dict[str, float] = {}
    for name, (column, part) in (parts | {"dynamic_degree": ("dynamic_degree", table)}).items():
        found = bootstrap_mean(part[column], clusters=part["prompt"], seed=seed, draws=draws, level=level)
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    images = table["prompt"].to_numpy()
    return row | distance_columns(real, measured.features, images=images, seed=seed, draws=draws, level=level)

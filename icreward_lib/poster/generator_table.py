"""Several generators on the same images: one row each, with what belongs beside every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.generators.open_sora import Generator
from icreward_lib.generators.others import DiffusersGenerator, FinishedVideos, Sampling
from icreward_lib.metrics.fvd import distance_columns
from icreward_lib.metrics.motion import dynamic_degrees
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import fvd_features
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import item_of
from icreward_lib.run import Run
from icreward_lib.run.models import find, locate
from icreward_lib.run.processes import own_share
from icreward_lib.stats import bootstrap_mean

SCORES = (*(d + end for d in DIMENSIONS for end in ("", "_mean", "_min")), "dynamic_degree")


@dataclass(frozen=True)
class MeasuredGenerator:
    """One generator's clips: a row each in both, image by image."""

    table: pd.DataFrame  # prompt, kind, dimension, video; subject, background and their _mean, _min; dynamic_degree
    features: np.ndarray  # (clips, d) for FVD


def measure_own(run: Run, curated: Curated, split: str) -> MeasuredGenerator:
    """The profile's own generator, whose videos of a split are made and measured already."""
    rows = curated.table[curated.table["split"] == split]
    features = fvd_features(run, curated, split)[0]
    samples = curated.of(split)
    values = [{name: part[name].to_numpy() for name in SCORES} for _, part in rows.groupby("sample", sort=False)]
    return _measured(samples, values, features.reshape(-1, features.shape[-1]))


def measure_generator(run: Run, source: str, samples: Sequence[Sample]) -> MeasuredGenerator:
    """Another generator's videos of every sample, made or read, and measured; a stage that resumes by sample.

    Where labels compare with the image as the generator sees it, a clip is compared with its own first frame: what
    another generator's autoencoder makes of the image is not known.

    Args:
        run: gives the networks that measure, and the number of videos of an image.
        source: what `open_generator` takes.
        samples: the images.

    Raises:
        FileNotFoundError, ValueError: as of `open_generator`, or if finished videos are missing or of several lengths.
    """
    k, prompts = run.profile.data.videos_per_sample, [sample.prompt for sample in samples]
    finished = _finished(source)
    if finished:
        finished.require(prompts, k)
    with run.stage(
        "generator",
        code=measure_generator,
        # A hub id says what a pipeline is; finished videos count by their content.
        source=[finished.paths[prompt][:k] for prompt in prompts] if finished else source,
        samples=[sample.account() for sample in samples],
        shape=run.profile.generation,
        k=k,
        backbone=networks.backbone(run),
        fvd=run.model("fvd"),
        seed=run.profile.seed,
    ) as stage:
        items = {f"{item_of(sample.id)}.npz": sample for sample in samples}
        if wanted := [item for item in own_share(list(items)) if not stage.done and not stage.has(item)]:
            generator: Generator = finished or open_generator(source, fps=run.profile.generation.fps, device=run.device)
            scorer, extractor, shape = (
                networks.consistency_scorer(run),
                networks.video_features(run),
                run.profile.generation,
            )
            for item in wanted:
                sample = items[item]
                image = sample.image(shape.height, shape.width)
                seed = run.seed("generator", source, sample.id)
                clips = generator.generate(image, sample.prompt, num_videos=k, seed=seed)
                references = [image if run.profile.labels.reference == "image" else clip.frames[0] for clip in clips]
                each = [scorer.score(reference, [clip]) for reference, clip in zip(references, clips, strict=True)]
                scores = {name: np.concatenate([found[name] for found in each]) for name in each[0]}
                scores["dynamic_degree"] = dynamic_degrees(clips)
                kept = {name: scores[name] for name in SCORES}
                stage.save_npz(item, features=extractor.features(clips), **kept)
    found = [stage.load_npz(item) for item in items]
    return _measured(samples, found, np.concatenate([values["features"] for values in found]))


def open_generator(source: str, *, fps: float, device: str) -> Generator:
    """A generator by what it is: finished videos (`FinishedVideos`), or a pipeline of diffusers by folder or hub id.

    Args:
        source: a CSV, a folder of videos, a folder with a `model_index.json`, or a hub id.
        fps: of a pipeline's clips.
        device: for a pipeline.
    """
    if finished := _finished(source):
        return finished
    folder = Path(source) if Path(source).is_dir() else locate(source)
    return DiffusersGenerator.from_pretrained(folder, Sampling(fps), device=device)


def _finished(source: str) -> FinishedVideos | None:
    if source.endswith(".csv"):
        return FinishedVideos.from_csv(source)
    folder = Path(source) if Path(source).is_dir() else find(source)
    if folder is None or (folder / "model_index.json").is_file():
        return None
    return FinishedVideos.from_folder(folder)


def _measured(
    samples: Sequence[Sample], values: Sequence[Mapping[str, np.ndarray]], features: np.ndarray
) -> MeasuredGenerator:
    rows = [
        {"prompt": sample.prompt, "kind": sample.kind, "dimension": sample.dimension, "video": k}
        | {name: float(found[name][k]) for name in SCORES}
        for sample, found in zip(samples, values, strict=True)
        for k in range(len(found["subject"]))
    ]
    return MeasuredGenerator(pd.DataFrame(rows), features)


def generator_table(
    measured: Mapping[str, MeasuredGenerator], real: np.ndarray, *, seed: int, draws: int = 200, level: float = 0.95
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


def _row(measured: MeasuredGenerator, real: np.ndarray, seed: int, draws: int, level: float) -> dict[str, float]:
    table = measured.table
    parts = {f"i2v_{d}": (d, table[table["dimension"] == d]) for d in DIMENSIONS if d in set(table["dimension"])}
    row: dict[str, float] = {}
    for name, (column, part) in (parts | {"dynamic_degree": ("dynamic_degree", table)}).items():
        found = bootstrap_mean(part[column], clusters=part["prompt"], seed=seed, draws=draws, level=level)
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    images = table["prompt"].to_numpy()
    return row | distance_columns(real, measured.features, images=images, seed=seed, draws=draws, level=level)

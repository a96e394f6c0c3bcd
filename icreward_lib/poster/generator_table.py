"""Several generators on the same images: one row each, with what belongs beside every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.generators.open_sora import Generator
from icreward_lib.generators.others import DiffusersGenerator, FinishedVideos
from icreward_lib.metrics.fvd import distance_columns
from icreward_lib.metrics.motion import dynamic_degrees
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import CONSISTENCY, Curated
from icreward_lib.poster.measure import fvd_features
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import item_of
from icreward_lib.run import Run
from icreward_lib.run.models import find, locate
from icreward_lib.run.processes import own_share
from icreward_lib.stats import bootstrap_mean

SCORES = (*CONSISTENCY, "dynamic_degree")


@dataclass(frozen=True)
class MeasuredGenerator:
    """One generator's clips: a row each in both, image by image."""

    table: pd.DataFrame  # prompt, kind, dimension, video; subject, background and their _mean, _min; dynamic_degree
    features: np.ndarray  # (clips, d) for FVD


def measure_own(run: Run, curated: Curated, split: str) -> MeasuredGenerator:
    """The profile's own generator, whose videos of a split are made and measured already."""
    samples, features = curated.of(split), fvd_features(run, curated, split)[0]
    values = [{name: rows[name].to_numpy() for name in SCORES} for _, rows in curated.table.groupby("sample")]
    return _measured(samples, [values[s.id] for s in samples], features.reshape(-1, features.shape[-1]))


def measure_generator(run: Run, source: str, samples: Sequence[Sample]) -> MeasuredGenerator:
    """Another generator's videos of every sample, made or read, and measured; a stage that resumes by sample.

    `source`: finished videos (a CSV, or a folder of them), or a pipeline of diffusers (its folder or hub id). Where
    labels compare with the image as the generator sees it, a clip is compared with its own first frame. Raises
    FileNotFoundError or ValueError, also if finished videos are missing or of several lengths.
    """
    k, prompts = run.profile.data.videos_per_sample, [sample.prompt for sample in samples]
    shape, accounts = run.profile.generation, [sample.account() for sample in samples]
    finished = _finished(source)
    if finished:
        finished.require(prompts, k)
    # A hub id says what a pipeline is; finished videos count by their content.
    content = [finished.paths[prompt][:k] for prompt in prompts] if finished else source
    made = {"source": content, "samples": accounts, "shape": shape, "k": k, "seed": run.profile.seed}
    measured = {"backbone": networks.backbone(run), "fvd": run.model("fvd")}
    with run.stage("generator", code=measure_generator, **made, **measured) as stage:
        items = {f"{item_of(sample.id)}.npz": sample for sample in samples}
        if wanted := [item for item in own_share(list(items)) if not stage.done and not stage.has(item)]:
            generator: Generator = finished or _pipeline(source, fps=shape.fps, device=run.device)
            scorer, extractor = networks.consistency_scorer(run), networks.video_features(run)
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


def _pipeline(source: str, *, fps: float, device: str) -> DiffusersGenerator:
    folder = Path(source) if Path(source).is_dir() else locate(source)
    return DiffusersGenerator.from_pretrained(folder, fps, device=device)


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
    tables = []
    for sample, found in zip(samples, values, strict=True):
        about = {"prompt": sample.prompt, "kind": sample.kind, "dimension": sample.dimension}
        columns = {name: found[name].astype(float) for name in SCORES}
        tables.append(pd.DataFrame({**about, "video": range(len(found["subject"])), **columns}))
    return MeasuredGenerator(pd.concat(tables, ignore_index=True), features)


def generator_table(
    measured: Mapping[str, MeasuredGenerator], real: np.ndarray, *, seed: int, draws: int = 200, level: float = 0.95
) -> pd.DataFrame:
    """One row per generator, by its name; `real` (m, d) are features of real clips.

    As VBench++ has it, `i2v_subject` is the mean over the clips of subject images, `i2v_background` over those of
    background images; both, and `dynamic_degree` over all, with `_low` and `_high` by resampling images. Then
    `metrics.fvd.distance_columns`. ValueError if generators were measured on other images: rows would not compare.
    """
    rows: dict[str, dict[str, float]] = {}
    first, *_ = measured.items()
    for name, own in measured.items():
        table, images = own.table, own.table["prompt"].to_numpy()
        if images.tolist() != first[1].table["prompt"].tolist():
            raise ValueError(f"{name} and {first[0]} were measured on other images or numbers of videos.")
        parts = {f"i2v_{d}": (d, part) for d, part in table.groupby("dimension", sort=False)}
        rows[name] = {}
        for column, (source, part) in (parts | {"dynamic_degree": ("dynamic_degree", table)}).items():
            found = bootstrap_mean(part[source], clusters=part["prompt"], seed=seed, draws=draws, level=level)
            rows[name] |= {column: found.mean, f"{column}_low": found.low, f"{column}_high": found.high}
        rows[name] |= distance_columns(real, own.features, images=images, seed=seed, draws=draws, level=level)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("generator")

"""The VBench++ image-to-video suite (Huang et al., arXiv 2411.13503): its images, a curated subset, its final score."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from icreward_lib.run.files import first_few

KINDS = (
    *("single-human", "multiple-human", "animal", "food", "plant", "transportation", "other"),  # subject images
    *("architecture", "scenery", "indoor", "abstract"),  # background images
)
# How VBench++ makes one number of nine: (least, greatest) maps a dimension to [0, 1], then it counts with its weight.
RANGES = {
    "camera_motion": (0.0, 1.0),
    "i2v_subject": (0.1462, 1.0),
    "i2v_background": (0.2615, 1.0),
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "motion_smoothness": (0.7060, 0.9975),
    "dynamic_degree": (0.0, 1.0),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
}
I2V_WEIGHTS = {"camera_motion": 0.1, "i2v_subject": 1.0, "i2v_background": 1.0}
QUALITY_WEIGHTS = {
    "subject_consistency": 1.0,
    "background_consistency": 1.0,
    "motion_smoothness": 1.0,
    "dynamic_degree": 0.5,
    "aesthetic_quality": 1.0,
    "imaging_quality": 1.0,
}


@dataclass(frozen=True)
class SuiteImage:
    """One image of the suite with its own prompt, not one of its camera prompts."""

    prompt: str
    file: str  # name of the cropped image in every crop folder
    kind: str  # one of KINDS
    dimension: Literal["subject", "background"]  # the one of i2v_subject and i2v_background that VBench++ scores it by


def read_suite(index: Path) -> list[SuiteImage]:
    """The suite's images, in the index's order: 355 of them in the public one, 246 of subjects, 109 of backgrounds.

    Args:
        index: VBench's `vbench2_i2v_full_info.json`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a file that is not such an index.
    """
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: it is in VBench's repository, in vbench2_beta_i2v/.")
    images = []
    try:
        for entry in json.loads(index.read_text(encoding="utf-8")):
            dimensions = {"i2v_subject", "i2v_background"} & set(entry["dimension"])
            if not dimensions:  # a camera prompt of an image that has its own entry
                continue
            (dimension,) = dimensions
            side: Literal["subject", "background"] = "subject" if dimension == "i2v_subject" else "background"
            images.append(SuiteImage(entry["prompt_en"], entry["image_name"], entry["image_type"], side))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{index} is not VBench's vbench2_i2v_full_info.json: {error!r}.") from error
    strange = sorted({image.kind for image in images} - set(KINDS))
    twice = [prompt for prompt, count in Counter(image.prompt for image in images).items() if count > 1]
    if strange or twice or not images:
        what = f"unknown image types {strange}" if strange else f"{twice[0]!r} twice" if twice else "no images"
        raise ValueError(f"{index} is not VBench's vbench2_i2v_full_info.json: it has {what}.")
    return images


def curate_images(images: Sequence[SuiteImage], count: int, *, seed: int) -> list[SuiteImage]:
    """A subset in which every kind has its share, drawn at random within the kinds, in the suite's order.

    Shares are rounded by largest remainders, ties to the kind that `KINDS` names first. The same images and seed
    give the same subset on every machine.

    Raises:
        ValueError: if there are fewer images than `count`.
    """
    if not 1 <= count <= len(images):
        raise ValueError(f"The suite has {len(images)} images; {count} cannot be drawn from it.")
    present = Counter(image.kind for image in images)
    # In whole numbers, as the remainders decide: count * present / all = quota + remainder / all.
    quota = {kind: count * present[kind] // len(images) for kind in KINDS}
    by_remainder = sorted(KINDS, key=lambda kind: -(count * present[kind] % len(images)))
    for kind in by_remainder[: count - sum(quota.values())]:
        quota[kind] += 1
    rng = np.random.default_rng(seed)
    chosen: set[int] = set()
    for kind in KINDS:
        members = [i for i, image in enumerate(images) if image.kind == kind]
        chosen.update(rng.permutation(members)[: quota[kind]].tolist())
    return [image for i, image in enumerate(images) if i in chosen]


def count_kinds(images: Sequence[SuiteImage], chosen: Sequence[SuiteImage]) -> pd.DataFrame:
    """How many images of each kind the suite has and a subset took: columns kind, dimension, suite, chosen."""
    suite, subset = (Counter((i.kind, i.dimension) for i in part) for part in (images, chosen))
    rows = [(*group, suite[group], subset[group]) for group in sorted(suite, key=lambda group: KINDS.index(group[0]))]
    return pd.DataFrame(rows, columns=["kind", "dimension", "suite", "chosen"])


def crop_folder(crops: Path, height: int, width: int) -> Path:
    """The crop folder (`16-9`, `7-4`, `8-5`, `1-1`, ...) whose shape comes nearest to a video's.

    Raises:
        FileNotFoundError: if there is no such folder in `crops`.
    """

    def ratio(folder: Path) -> float:
        columns, rows = folder.name.split("-")
        return float(np.log(int(columns) / int(rows)))

    def is_shape(name: str) -> bool:
        return all(part.isdecimal() and int(part) for part in name.split("-"))

    found = [path for path in sorted(crops.glob("*-*")) if path.is_dir() and is_shape(path.name)]
    if not found:
        raise FileNotFoundError(
            f"{crops} has no folder named by its shape, such as 16-9: unpack VBench's crop.zip there."
        )
    return min(found, key=lambda folder: abs(ratio(folder) - np.log(width / height)))


def image_files(images: Sequence[SuiteImage], folder: Path) -> list[Path]:
    """Where the images lie in a crop folder, checked to be all there; read them with `video.read_image`.

    Raises:
        FileNotFoundError: naming the first few of those that are missing, and how many there are.
    """
    paths = [folder / image.file for image in images]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(paths)} images of the suite ({first_few(missing)}): "
            "unpack VBench's crop.zip there again."
        )
    return paths


def final_score(values: Mapping[str, float]) -> dict[str, float]:
    """VBench++'s "i2v", "quality" and "total" score, in [0, 1], of its nine dimensions' means, in [0, 1].

    Raises:
        ValueError: if a dimension is missing or none of VBench++'s (VBench itself would count a missing one as 0),
            or a value is not in [0, 1].
    """
    if set(values) != set(RANGES):
        raise ValueError(
            f"The final score needs {', '.join(RANGES)}; missing: {sorted(set(RANGES) - set(values))}, "
            f"unknown: {sorted(set(values) - set(RANGES))}."
        )
    if outside := {name: value for name, value in values.items() if not 0 <= value <= 1}:
        raise ValueError(f"The dimensions' means must be in [0, 1], not per cent or beyond: {outside}.")
    scaled = {name: (values[name] - low) / (high - low) for name, (low, high) in RANGES.items()}

    def mean(weights: Mapping[str, float]) -> float:
        return sum(weight * scaled[name] for name, weight in weights.items()) / sum(weights.values())

    i2v, quality = mean(I2V_WEIGHTS), mean(QUALITY_WEIGHTS)
    return {"i2v": i2v, "quality": quality, "total": (i2v + quality) / 2}

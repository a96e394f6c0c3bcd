"""The VBench++ image-to-video suite (Huang et al., arXiv 2411.13503): its images, and a curated subset."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icreward_lib.run.files import first_few

KINDS = (
    *("single-human", "multiple-human", "animal", "food", "plant", "transportation", "other"),  # subject images
    *("architecture", "scenery", "indoor", "abstract"),  # background images
)


@dataclass(frozen=True)
class SuiteImage:
    """One image of the suite with its own prompt, not one of its camera prompts."""

    prompt: str
    file: str  # name of the cropped image in every crop folder
    kind: str  # one of KINDS
    dimension: str  # subject or background: VBench++ scores it by i2v_subject or i2v_background


def read_suite(index: Path) -> list[SuiteImage]:
    """The images of VBench's `vbench2_i2v_full_info.json`, in its order: 246 of subjects, 109 of backgrounds.

    Raises FileNotFoundError if there is none, ValueError for a file that is not such an index.
    """
    if not index.is_file():
        raise FileNotFoundError(f"{index} is missing: it is in VBench's repository, in vbench2_beta_i2v/.")
    images = []
    try:
        for entry in json.loads(index.read_text(encoding="utf-8")):
            dimensions = {"i2v_subject", "i2v_background"} & set(entry["dimension"])
            if dimensions:  # else a camera prompt of an image that has its own entry
                (dimension,) = (each.removeprefix("i2v_") for each in dimensions)
                images.append(SuiteImage(entry["prompt_en"], entry["image_name"], entry["image_type"], dimension))
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

    Shares are rounded by largest remainders, ties to the kind that `KINDS` names first. The same images and seed give
    the same subset on every machine. Raises ValueError if there are fewer images than `count`.
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


def crop_folder(crops: Path, height: int, width: int) -> Path:
    """The crop folder (`16-9`, `7-4`, `8-5`, `1-1`, ...) whose shape comes nearest to a video's.

    Raises FileNotFoundError if there is no such folder in `crops`.
    """
    named = {path: re.fullmatch(r"([1-9]\d*)-([1-9]\d*)", path.name) for path in sorted(crops.glob("*-*"))}
    ratios = {path: int(shape[1]) / int(shape[2]) for path, shape in named.items() if shape and path.is_dir()}
    if not ratios:
        raise FileNotFoundError(
            f"{crops} has no folder named by its shape, such as 16-9: unpack VBench's crop.zip there."
        )
    return min(ratios, key=lambda folder: abs(np.log(ratios[folder]) - np.log(width / height)))


def image_files(images: Sequence[SuiteImage], folder: Path) -> list[Path]:
    """Where the images lie in a crop folder; FileNotFoundError names the first few that are not, and counts them."""
    paths = [folder / image.file for image in images]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(paths)} images of the suite ({first_few(missing)}): "
            "unpack VBench's crop.zip there again."
        )
    return paths

"""The contract of a reward, and what every reward of this package shares."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from icreward_lib.run.files import write_json
from icreward_lib.video import Video

Array = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

DIMENSIONS = ("subject", "background")  # what VBench++ measures; the last axis of every per-dimension tensor here
MOTION = "motion"  # a third one of some rewards: the share of a clip in which anything moves


@dataclass(frozen=True, eq=False)
class Scores:
    """What a reward says about K videos of one reference image: float32 in [0,1], higher is better.

    `overall` (K,) is the mean of `frames` (K,T), except VBench++'s, which weighs by its own formula and whose `frames`
    show the similarity to the image alone; `dimensions` maps names to (K,). ValueError for other shapes or values.
    """

    overall: Array
    dimensions: Mapping[str, Array]
    frames: Array

    def __post_init__(self) -> None:
        clips = self.overall.shape
        if len(clips) != 1 or self.frames.ndim != 2 or self.frames.shape[:1] != clips:
            raise ValueError(f"scores are overall (K,) and frames (K,T), not {clips} and {self.frames.shape}")
        for name, values in {"overall": self.overall, "frames": self.frames, **self.dimensions}.items():
            if name != "frames" and values.shape != clips:
                raise ValueError(f"the scores '{name}' have shape {values.shape}, expected {clips}")
            if not (np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()):
                raise ValueError(f"the scores '{name}' must lie in [0,1]")

    def clip(self, k: int) -> ClipScores:
        """The scores of one of the K videos."""
        dimensions = {name: float(values[k]) for name, values in self.dimensions.items()}
        return ClipScores(float(self.overall[k]), dimensions, self.frames[k])


@dataclass(frozen=True, eq=False)
class ClipScores:
    """One video's part of `Scores`; `maps` (T,h,w) say where the image is kept, 1 = kept, if asked and possible."""

    overall: float
    dimensions: Mapping[str, float]
    frames: Array
    maps: Array | None = None
    warnings: tuple[str, ...] = ()


class Reward(Protocol):
    """Anything that scores how well videos keep their reference image; a metric may be one, too."""

    @property
    def name(self) -> str:
        """What tables call it."""

    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores of K videos of one length and size against `image` (H,W,3), whatever their order and number."""


def check_weights(weights: Sequence[float]) -> None:
    """ValueError unless `weights` are one non-negative share for each of `DIMENSIONS`, summing to 1."""
    if len(weights) != len(DIMENSIONS) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"weights must be shares of {DIMENSIONS} summing to 1, not {tuple(weights)}")


def overall_score(parts: Tensor, weights: Tensor) -> Tensor:
    """Overall scores (...) of dimensions' scores (...,D): shares `weights` of `DIMENSIONS`, times motion if there."""
    kept = parts[..., : len(DIMENSIONS)] @ weights
    return kept * parts[..., -1] if parts.shape[-1] > len(DIMENSIONS) else kept


def interpolate_frames(values: Tensor, times: Sequence[float], num_frames: int) -> Tensor:
    """Values (K,num_frames,...) of all frames, linear in those (K,G,...) of rising `times`; outside, the nearest."""
    columns = [np.interp(np.arange(num_frames), times, column) for column in np.eye(len(times))]
    matrix = torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)
    return torch.einsum("tg,kg...->kt...", matrix.to(values), values)


def to_scores(parts: Tensor, weights: Tensor, times: Sequence[float], num_frames: int) -> Scores:
    """`Scores` of K clips from `parts` (K,G,D) of moments: weighed and gated one by one, then brought to frames."""
    overall, dimensions = (  # rounding may leave a convex combination one ulp outside the interval
        interpolate_frames(values, times, num_frames).clamp(0, 1).float().cpu().numpy()
        for values in (overall_score(parts, weights), parts)
    )
    names = (*DIMENSIONS, MOTION)[: parts.shape[-1]]
    return Scores(overall.mean(1), dict(zip(names, np.moveaxis(dimensions.mean(1), 1, 0), strict=True)), overall)


def write_config(new: Path, folder: Path, settings: Mapping[str, Any], **models: str | None) -> None:
    """Write a reward's config.json to `new`, which moves to `folder`, with `models` by relative path or hub id."""
    named = {key: os.path.relpath(m, folder) if m and Path(m).is_dir() else m for key, m in models.items()}
    write_json(new / "config.json", {**settings, **named})


def read_config(folder: Path, what: str) -> dict[str, Any]:
    """The config.json of a saved reward, lists as tuples; FileNotFoundError if it or a model it names is missing."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no {what}: config.json is missing")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("base", "videoreward"):
        path = folder / (reference := settings.get(name) or "")
        if reference and path.is_dir():
            settings[name] = os.path.normpath(path)
        elif reference.startswith("."):
            raise FileNotFoundError(f"{folder} builds on the model in {path}, which is not there")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}

"""Frechet video distance (Unterthiner et al., arXiv 1812.01717) on VideoMAE features.

At a few hundred clips FVD is mostly bias: read it beside `real_vs_real` at the same n, compare only values
of one feature extractor, n, length and size, and do not expect it to notice frozen clips.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch.nn import functional as F
from transformers import VideoMAEModel

from icreward_lib.stats import Interval, cluster_draws
from icreward_lib.video import Video

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as public VideoMAE models expect


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of features (n, d) and (m, d), in float64; 0 = alike.

    Covariances divide by n - 1 (numpy's; other FVD code divides by n). The root's trace is the nuclear norm
    of A B^T with A, B the centred features / sqrt(n - 1): exact and real for every n, also n <= d where
    covariances are singular.
    """
    a, b = _features(a), _features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"Both sets need one feature size, not {a.shape[1]} and {b.shape[1]}.")
    root_a, root_b = _root(a), _root(b)
    nuclear = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.square(root_a).sum() + np.square(root_b).sum() - 2 * nuclear
    return max(0.0, float(distance))


def real_vs_real(real: np.ndarray, n: int, *, seed: int, draws: int = 50, level: float = 0.95) -> Interval:
    """Distance between two disjoint random sets of n real clips each: a perfect generator's FVD at this n.

    `real` (N, d) with N >= 2n, one clip per image. The limits are quantiles over `draws` repeated splits.
    """
    real = _features(real)
    if len(real) < 2 * n:
        raise ValueError(f"Two disjoint sets of {n} need {2 * n} real clips, not {len(real)}.")
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(len(real)), (draws, 1)), axis=1)
    distances = [frechet_distance(real[order[:n]], real[order[n : 2 * n]]) for order in orders]
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(distances)), float(low), float(high), n)


def bootstrap_fvd(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    images: ArrayLike,
    real_images: ArrayLike | None = None,
    minus: np.ndarray | None = None,
    seed: int,
    draws: int = 500,
    level: float = 0.95,
) -> Interval:
    """Distance of `fake` (n, d) to `real` (m, d) with an interval over images; n counts images.

    `images` (n,) names the image of each fake clip: its clips are drawn together. `real_images` (m,) does
    so for real clips, which then follow the image they share; others, and all without it, stay as they are.
    With `minus` (n, d), other videos of the same rows, the interval is that of FVD(fake) - FVD(minus) on
    the same draws.

    Drawing with replacement adds bias, so limits are moved by the draws' mean error: they show the spread
    at this n, not the distance to the limit of infinitely many clips.
    """
    real, fake = _features(real), _features(fake)
    other = None if minus is None else _features(minus)
    labels = np.asarray(images)
    if labels.shape != fake.shape[:1] or (other is not None and other.shape != fake.shape):
        raise ValueError(f"`images` and `minus` must have the {len(fake)} rows of the fake features.")

    def distance(real_rows: np.ndarray, rows: np.ndarray) -> float:
        base = 0.0 if other is None else frechet_distance(real[real_rows], other[rows])
        return frechet_distance(real[real_rows], fake[rows]) - base

    names = np.unique(labels)
    codes, counts = cluster_draws(labels, seed=seed, draws=draws)
    real_labels = None if real_images is None else np.asarray(real_images)
    every, every_real = np.arange(len(fake)), np.arange(len(real))
    drawn = []
    for count in counts:
        repeats = np.ones(len(real), dtype=int)
        if real_labels is not None:
            shared = np.isin(real_labels, names)
            repeats[shared] = count[np.searchsorted(names, real_labels[shared])]
        drawn.append(distance(np.repeat(every_real, repeats), np.repeat(every, count[codes])))
    mean = distance(every_real, every)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) + mean - np.mean(drawn)
    return Interval(mean, float(low), float(high), len(names))


class VideoMAEFeatures:
    """Mean of VideoMAE's last hidden states over all patches, the features for FVD."""

    def __init__(self, folder: str | os.PathLike[str], *, batch_size: int = 16) -> None:
        """Load a VideoMAEModel or the trunk of a VideoMAEForVideoClassification; ValueError if not whole."""
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"No VideoMAE folder at {folder}.")
        try:
            self.model, report = VideoMAEModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"No whole VideoMAE model in {folder}: {error}") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            raise ValueError(f"The weights in {folder} do not fit its config.json.")
        self.model.eval().requires_grad_(False)
        self.batch_size = batch_size

    @property
    def name(self) -> str:
        """Features and preprocessing, for provenance: two names, two incomparable distances."""
        config = self.model.config
        return f"videomae-mean last-{config.num_frames}-frames squash-{config.image_size} bilinear antialias"

    @torch.inference_mode()
    def features(self, videos: Sequence[Video]) -> np.ndarray:
        """Map N videos of at least the model's frame count to float32 (N, D), each row on its own."""
        config, rows = self.model.config, []
        for start in range(0, len(videos), self.batch_size):
            batch = videos[start : start + self.batch_size]
            pixels = videomae_pixels(batch, num_frames=config.num_frames, size=config.image_size)
            rows.append(self.model(pixels).last_hidden_state.mean(1))
        return torch.cat(rows).numpy()


def videomae_pixels(videos: Sequence[Video], *, num_frames: int, size: int) -> torch.Tensor:
    """Prepare videos for VideoMAE: float32 (N, num_frames, 3, size, size), ImageNet-normalised.

    Takes the *last* `num_frames` frames, one after the other (a first frame that copies the reference tells
    nothing), and squashes them to a square with antialiased bilinear. Raises ValueError for shorter clips.
    """
    clips = []
    for video in videos:
        if video.num_frames < num_frames:
            raise ValueError(f"These video features need {num_frames} frames; a clip has {video.num_frames}.")
        frames = torch.tensor(video.frames[-num_frames:]).permute(0, 3, 1, 2).float() / 255
        clips.append(F.interpolate(frames, (size, size), mode="bilinear", align_corners=False, antialias=True))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return (torch.stack(clips) - mean) / std


def _features(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"FVD needs finite features of at least 2 clips, (n, d), not an array of shape {array.shape}.")
    return array


def _root(features: np.ndarray) -> np.ndarray:
    """A factor R (min(n, d), d) of the covariance, R^T R = S."""
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred

"""VBench++ image-to-video consistency and the IC label made of it (Huang et al., arXiv 2411.13503).

The formulas of VBench's code since 2024-07-12 for `i2v_subject` and `i2v_background`. A frozen copy of the reference
is their optimum: compare clips of one frame rate and length only, and show a dynamic degree beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from icreward_lib.metrics.features import FrameFeatures, distinct_frames
from icreward_lib.video import Video

DIMENSIONS = ("subject", "background")


def conformity(reference: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """c_t = max(0, cos(reference, frame_t)) in [0, 1]: reference (D,), frames (..., T, D) -> (..., T)."""
    return F.cosine_similarity(frames, reference, dim=-1).clamp(0, 1)


def consecutive(frames: torch.Tensor) -> torch.Tensor:
    """s_t = max(0, cos(frame_t-1, frame_t)) in [0, 1]: (..., T, D) with T >= 2 -> (..., T-1)."""
    if frames.shape[-2] < 2:
        raise ValueError("VBench++ consistency compares neighbouring frames: a clip needs at least 2.")
    return F.cosine_similarity(frames[..., :-1, :], frames[..., 1:, :], dim=-1).clamp(0, 1)


def i2v_score(conformity: torch.Tensor, consecutive: torch.Tensor) -> torch.Tensor:
    """0.4 max_t c_t + 0.3 mean_t s_t + 0.3 min_t s_t, in [0, 1]: (..., T), (..., T-1) -> (...)."""
    return 0.4 * conformity.amax(-1) + 0.3 * consecutive.mean(-1) + 0.3 * consecutive.amin(-1)


class ConsistencyScorer:
    """Scores videos against their reference image in both dimensions with one pass over the frames."""

    def __init__(self, features: FrameFeatures, batch_size: int = 64) -> None:
        """`batch_size` (frames) bounds memory; scores do not depend on it."""
        self.features, self.batch_size = features, batch_size

    @torch.inference_mode()
    def score(self, image: np.ndarray, videos: Sequence[Video]) -> dict[str, np.ndarray]:
        """Score K videos of one length and frame rate against an image, uint8 RGB (H, W, 3).

        Returns float32 in [0, 1], higher = more consistent, for d in subject, background: `d` (K,) the VBench++ score,
        `d_frames` (K, T) each frame's conformity c_t, and its `d_mean`, `d_min` (K,), which unlike the score see drift.
        """
        shapes = {(video.num_frames, video.fps) for video in videos}
        if len(shapes) != 1:
            raise ValueError(f"Scores compare clips of one length and frame rate, not (frames, fps) {sorted(shapes)}.")
        reference, scores = self.features.reference(image), {}
        distinct, place = distinct_frames(videos)  # frozen and departing clips repeat theirs
        parts = (distinct[i : i + self.batch_size] for i in range(0, len(distinct), self.batch_size))
        encoded = [torch.cat(batches) for batches in zip(*map(self.features, parts), strict=True)]
        for d, name in enumerate(DIMENSIONS):
            frames = encoded[d][torch.from_numpy(place)]
            c = conformity(reference[d], frames)
            scores[name] = i2v_score(c, consecutive(frames)).numpy()
            scores[f"{name}_frames"] = c.numpy()
            scores[f"{name}_mean"], scores[f"{name}_min"] = c.mean(-1).numpy(), c.amin(-1).numpy()
        return scores


@dataclass(frozen=True)
class Anchors:
    """The raw scores of one dimension that become label 0 and 1."""

    low: float
    high: float

    def __post_init__(self) -> None:  # noqa: D105
        if not self.low < self.high:
            raise ValueError(f"Anchors need low < high, not {self.low} and {self.high}.")


def fit_anchors(mismatched: np.ndarray, frozen: np.ndarray) -> Anchors:
    """Medians of raw scores: clips against *another* sample's reference (n,), and its frozen copies against it (m,)."""
    return Anchors(float(np.median(mismatched)), float(np.median(frozen)))


def ic_label(
    scores: Mapping[str, np.ndarray], anchors: Mapping[str, Anchors], weights: Mapping[str, float]
) -> np.ndarray:
    """Raw scores (K,) of both dimensions, mapped from [low, high] to [0, 1], clipped and averaged: the label (K,)."""
    shares = np.array([weights[name] for name in DIMENSIONS], dtype=np.float64)
    if shares.min() < 0 or shares.sum() <= 0:
        raise ValueError(f"Weights must be >= 0 with a positive sum, not {dict(weights)}.")
    low, high = np.array([(anchors[name].low, anchors[name].high) for name in DIMENSIONS]).T
    raw = np.stack([np.asarray(scores[name], np.float64) for name in DIMENSIONS], axis=-1)
    return np.asarray(np.clip((raw - low) / (high - low), 0, 1) @ (shares / shares.sum()))

"""Whether pictures look like the sticker world, which is all that the laptop's small models have seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.neighbors import NearestNeighbors

from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.run.files import atomic
from icreward_lib.video import Video

SIDE = 64  # pixels: the laptop's models see everything at this size
_NEIGHBOURS, _FRAMES = 5, 8


class Domain:
    """Distance of pictures to the nearest ones of a set that was seen in training (Sun et al., arXiv 2204.06507).

    Pictures are compared by whitened principal components of EfficientNet-Lite0's intermediate layers.
    """

    def __init__(self, mean: np.ndarray, basis: np.ndarray, seen: np.ndarray, *, threshold: float) -> None:
        """`mean` (D,), `basis` (d,D), `seen` (n,d); from `threshold` on a distance is out of the domain."""
        self.mean, self.basis, self.seen, self.threshold = mean, basis, seen, threshold
        self._nearest = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(seen)
        self._features = EfficientNetLite0Features()

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """Mean distance (n,) of `domain_features` (n,D) of pictures to the five nearest that were seen."""
        found, _ = self._nearest.kneighbors((rows - self.mean) @ self.basis.T)
        return np.asarray(found.mean(1))

    def warning(self, image: np.ndarray, videos: Sequence[Video]) -> str | None:
        """A sentence if the image, uint8 RGB (H,W,3), or most frames of the videos look like nothing that was seen."""
        wanted = [video.frames[np.linspace(0, video.num_frames - 1, _FRAMES).round().astype(int)] for video in videos]
        pictures = [image, *(frame for frames in wanted for frame in frames)]
        small = np.stack([np.asarray(Image.fromarray(picture).resize((SIDE, SIDE))) for picture in pictures])
        distances = self.distances(domain_features(self._features, small))
        typical = max(distances[0], float(np.median(distances)))
        if typical <= self.threshold:
            return None
        return (
            f"out of domain: {typical / self.threshold:.1f} times as far from the sticker world, all that this judge "
            "has seen, as its own scenes get; do not trust the score"
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `domain.safetensors`, in half precision."""
        with atomic(Path(folder)) as new:
            new.mkdir()
            halves = {n: np.ascontiguousarray(getattr(self, n), np.float16) for n in ("mean", "basis", "seen")}
            save_file(halves, new / "domain.safetensors", metadata={"threshold": repr(self.threshold)})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Domain:
        """Load what `save_pretrained` wrote. FileNotFoundError if `folder` holds none."""
        path = Path(folder) / "domain.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no domain gauge: {path.name} is missing")
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}
            return cls(**tensors, threshold=float(file.metadata()["threshold"]))


def domain_features(features: EfficientNetLite0Features, frames: np.ndarray) -> np.ndarray:
    """What frames uint8 RGB (n,h,w,3) look like: the pooled intermediate layers, float32 (n,496)."""
    parts = [features(frames[start : start + 16])[1].numpy() for start in range(0, len(frames), 16)]
    return np.concatenate(parts)

"""What the sticker world looks like, for the gauge that warns of pictures unlike it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from icreward_lib.laptop.loop import EVALUATION_SEED, degrade
from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.rewards.domain import SIDE, Domain, domain_features
from icreward_lib.world.scenes import SPLITS, Split, render, sample_scenes


def train(
    out: Path, *, scenes: int = 2000, dimensions: int = 64, false_alarms: float = 0.01, judged: int = 500
) -> dict[str, float]:
    """Fit the gauge, save it to `out`, and give the share of new scenes that it warns of, by split.

    It remembers `scenes`; `judged` new ones are behind the threshold, and as many behind each of the final figures.
    """
    seen = _scenes(scenes, seed=0, split="seen")
    pca = PCA(dimensions, whiten=True, random_state=0).fit(seen)
    basis = pca.components_ / np.sqrt(pca.explained_variance_)[:, None]
    gauge = Domain(pca.mean_, basis, pca.transform(seen), threshold=np.inf)
    distances = gauge.distances(_scenes(judged, seed=EVALUATION_SEED, split="seen"))
    gauge.threshold = float(np.quantile(distances, 1 - false_alarms))
    gauge.save_pretrained(out)
    gauge = Domain.from_pretrained(out)
    figures = {}
    for split in SPLITS:
        found = gauge.distances(_scenes(judged, seed=EVALUATION_SEED + 1, split=split))
        figures[f"{split}_warned"] = float((found > gauge.threshold).mean())
    return figures


def _scenes(count: int, *, seed: int, split: Split) -> np.ndarray:
    """What new scenes look like, (count, D): each at a frame of its own, as it is or as a video model would show it."""
    features = EfficientNetLite0Features()
    rows = []
    for start in range(0, count, 100):
        frames = render(sample_scenes(100, seed=seed * 1009 + start, split=split), size=SIDE).frames
        rng = np.random.default_rng([seed, start])
        chosen = frames[np.arange(100), rng.integers(frames.shape[1], size=100)]
        rows.append(domain_features(features, degrade(chosen[:, None], rng)[:, 0]))
    return np.concatenate(rows)[:count]

"""What there is to explore: the test samples' videos, every score of them, and ICReward's consistency in detail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from icreward_lib import comparing, networks
from icreward_lib.curation import Curated
from icreward_lib.judging import Trained, dataset, vision_tokens
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.rewards.icreward import ICReward
from icreward_lib.robust import robust_matrix
from icreward_lib.run import Run
from icreward_lib.samples import Sample
from icreward_lib.video import Video

METRICS = ("clipsim", *DIMENSIONS, "label", "mlp", "icreward", "robust")  # all that says which video is better


@dataclass(frozen=True, eq=False)
class Material:
    """K videos of each of S samples, and what is said of them."""

    samples: Sequence[Sample]
    scores: Mapping[str, np.ndarray]  # of each of `METRICS`, (S, K), higher is better
    parts: Mapping[str, Mapping[str, np.ndarray]]  # of what can be weighed, (S, K) for each of `DIMENSIONS`
    weight: float  # the subject's share, in [0, 1], that `scores` were made with
    groups: np.ndarray  # ICReward's consistency, (S, K, G, 2) in [0, 1], of a clip's G groups of frames
    tokens: np.ndarray  # and (S, K, G, h, w, 2), of the tokens in them
    clips: Callable[[int], tuple[np.ndarray, list[Video]]]  # the image, uint8 RGB (H, W, 3), and videos of a sample

    def title(self, position: int) -> str:
        """The number of a sample, and what it shows."""
        return f"sample {self.samples[position].id}: {self.samples[position].title}"


def gather(run: Run, curated: Curated, mlp: Trained, icreward: Trained, robust: Trained) -> Material:
    """The test samples' videos, with all scores that notebooks 01 to 04 and 08 made; of rewards the first training.

    `robust` is the recipe `robust.ROBUST`. Only ICReward's maps are new: they are read off cached tokens.
    """
    shape, samples = run.profile.generation, curated.of("test")
    groups, tokens = consistency(run, curated, icreward)
    measured = comparing.measure(run, curated, "test")
    rewards = {"mlp": mlp.matrix("test"), "icreward": icreward.matrix("test")}
    scores = {
        **{name: measured[name] for name in ("clipsim", "label")},
        **{d: curated.matrix(d, "test") for d in DIMENSIONS},
        **rewards,
        "robust": robust_matrix(run, robust, "test"),
    }
    return Material(
        samples=samples,
        scores={name: scores[name] for name in METRICS},
        parts={
            "icreward": {d: groups.mean(2)[..., number] for number, d in enumerate(DIMENSIONS)},
            "label": {d: curated.matrix(f"label_{d}", "test") for d in DIMENSIONS},
        },
        weight=networks.icreward_config(run).weights[0],
        groups=groups,
        tokens=tokens,
        clips=lambda i: (samples[i].image(shape.height, shape.width), curated.videos.of(samples[i].id)),
    )


def consistency(run: Run, curated: Curated, trained: Trained) -> tuple[np.ndarray, np.ndarray]:
    """What the first ICReward says of the test samples' K videos, dimension by dimension, in [0, 1].

    Returns:
        Of groups of frames, float32 (S, K, G, 2), and of the tokens in them, (S, K, G, h, w, 2).
    """
    features = vision_tokens(run, curated)
    with run.stage(
        "consistency", code=("rewards", "exploring.material"), reward=trained.stage, features=features.stage
    ) as stage:
        if stage.lacks("test.npz"):
            reward = ICReward.from_pretrained(trained.folders[0], device=run.device)
            data = dataset(curated, features, "test")
            with torch.no_grad():
                found = [
                    reward.compare(data.video[rows], data.references[data.sample[rows]])
                    for rows in torch.arange(len(data)).split(64)
                ]
            groups, tokens = (torch.cat([part[i].cpu() for part in found]).numpy() for i in range(2))
            stage.save_npz("test.npz", groups=groups, tokens=tokens.reshape(*data.video.shape[:4], -1))
    arrays = stage.load_npz("test.npz")
    count = len(curated.of("test"))
    groups, tokens = (arrays[name].reshape(count, -1, *arrays[name].shape[1:]) for name in ("groups", "tokens"))
    return groups, tokens

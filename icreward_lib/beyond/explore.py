"""What there is to explore: the test samples' videos, every score of them, and ICReward's consistency in detail."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch

from icreward_lib.beyond.dimension_weights import weighted
from icreward_lib.beyond.robust_reward import robust_scores
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.poster import measure, networks
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.reward_models import Trained, dataset, vision_tokens
from icreward_lib.poster.samples import Sample
from icreward_lib.rewards.best_of_k import picks
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.run import Run
from icreward_lib.stats import bootstrap_mean
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


def gather_material(run: Run, curated: Curated, mlp: Trained, icreward: Trained, robust: Trained) -> Material:
    """The test samples' videos, with all scores that notebooks 01 to 04 and 08 made; of rewards the first training.

    `robust` is the recipe `robust_reward.ROBUST`. Only ICReward's maps are new: they are read off cached tokens.
    """
    shape, samples = run.profile.generation, curated.of("test")
    groups, tokens = consistency(run, curated, icreward)
    scores = {**measure.measure(run, curated, "test"), **{d: curated.matrix(d, "test") for d in DIMENSIONS}}
    scores |= {"mlp": mlp.matrix("test"), "icreward": icreward.matrix("test")}
    scores["robust"] = robust_scores(run, robust, "test")
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
    """ICReward's scores in [0, 1] of the test samples' videos: groups (S, K, G, 2), and tokens (S, K, G, h, w, 2)."""
    features = vision_tokens(run, curated)
    with run.stage("consistency", code=consistency, reward=trained.stage, features=features.stage) as stage:
        if stage.lacks("test.npz"):
            reward = ICRewardModel.from_pretrained(trained.folders[0], device=run.device)
            data = dataset(curated, features, "test")
            with torch.no_grad():
                found = [
                    reward.compare(data.video[rows], data.references[data.sample[rows]])
                    for rows in torch.arange(len(data)).split(64)
                ]
            groups, tokens = (torch.cat([part[i].cpu() for part in found]).numpy() for i in range(2))
            stage.save_npz("test.npz", groups=groups, tokens=tokens.reshape(*data.video.shape[:4], -1))
    arrays, count = stage.load_npz("test.npz"), len(curated.of("test"))
    groups, tokens = (arrays[name].reshape(count, -1, *arrays[name].shape[1:]) for name in ("groups", "tokens"))
    return groups, tokens


def ranking(parts: Mapping[str, np.ndarray], weight: float) -> pd.DataFrame:
    """Videos and scores by rank from 1, at a weight of the subject; of equal ones the first; parts are (K,) each."""
    scores = weighted(parts, weight)
    order = np.argsort(-scores, kind="stable")
    return pd.DataFrame({"video": order, "score": scores[order]}, index=pd.RangeIndex(1, len(order) + 1, name="rank"))


def picks_by_weight(parts: Mapping[str, np.ndarray], weights: Iterable[float], usual: float) -> pd.Series:
    """The share of samples whose best video is another one than at the usual weight, by weight; parts are (S, K)."""
    before = picks(weighted(parts, usual))
    moved = {weight: float((picks(weighted(parts, weight)) != before).mean()) for weight in weights}
    return pd.Series(moved, name="picks moved").rename_axis("weight")


def disagreements(first: np.ndarray, second: np.ndarray, order: str = "cost") -> pd.DataFrame:
    """The samples on which two metrics, (S, K) each, disagree, worst first by `correlation` or `cost`.

    By position of the sample: `correlation`, Spearman's inside the sample (nan where a metric says the same of all
    videos; those come last); `pick_first` and `pick_second`; `cost`, what both metrics lose by the other's pick
    together, in units of their standard deviation inside a sample.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    table = pd.DataFrame({"pick_first": picks(a), "pick_second": picks(b)}).rename_axis("position")
    table.insert(0, "correlation", pd.DataFrame(a).rank(axis=1).corrwith(pd.DataFrame(b).rank(axis=1), axis=1))
    table["cost"] = _lost(a, picks(b)) + _lost(b, picks(a))
    by = [order, *({"correlation", "cost"} - {order})]  # the other one decides between equals
    return table.sort_values(by, ascending=[name == "correlation" for name in by], kind="stable")


def _lost(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """What the videos `chosen` (S,) score below the best, in standard deviations inside a sample, of values (S, K)."""
    lost: np.ndarray = values.max(1) - values[np.arange(len(values)), chosen]
    return lost / (np.sqrt(values.var(1).mean()) or 1.0)  # where nothing differs, nothing is lost


def agreement(scores: Mapping[str, np.ndarray], *, seed: int, draws: int, level: float) -> pd.DataFrame:
    """How far each pair of metrics, (S, K) each, puts the videos of a sample in one order.

    Columns first, second; mean, low, high, n: Spearman's correlation inside samples, over those n that have one, and
    None without two of them; `same_pick`, the share of samples on which both pick one video.
    """
    rows = []
    for first, second in combinations(scores, 2):
        table = disagreements(scores[first], scores[second])
        found = table["correlation"].dropna()
        cell: dict[str, Any] = {"mean": None, "low": None, "high": None, "n": len(found)}
        if len(found) > 1:
            cell = bootstrap_mean(found, seed=seed, draws=draws, level=level).as_dict()
        same = float((table["pick_first"] == table["pick_second"]).mean())
        rows.append({"first": first, "second": second, **cell, "same_pick": same})
    return pd.DataFrame(rows)

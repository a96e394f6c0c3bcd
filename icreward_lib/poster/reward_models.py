"""Both rewards on the curated set: what they see of every video, their training over several seeds, their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from icreward_lib.figures import NAMES
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import load_each, save_each
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.mlp import MLPReward
from icreward_lib.rewards.training import Epoch, History, TrainConfig, predict, train_reward
from icreward_lib.run import Run
from icreward_lib.run.processes import barrier, rank
from icreward_lib.run.profile import ICRewardSettings, MlpSettings
from icreward_lib.run.stages import Stage
from icreward_lib.stats import Interval, percentile_interval

RewardModel = MLPReward | ICRewardModel
Build = Callable[[Run, int], RewardModel]  # a reward before its training, of a seed


@dataclass(frozen=True)
class Features:
    """What one reward sees: per clip, in the order of `Curated.rows`, and per reference image."""

    stage: Stage
    clips: torch.Tensor  # (N, T, D) of CLIP, or (N, G, h, w, D) vision tokens
    references: torch.Tensor  # (S, D) or (S, h, w, D)


def clip_features(run: Run, curated: Curated) -> Features:
    """CLIP features of all frames and references, unit norm."""
    return _features(run, curated, "clip_features", [run.model("clip")], networks.new_mlp)


def vision_tokens(run: Run, curated: Curated) -> Features:
    """Tokens of ICReward's frozen vision tower for the frames that it reads, and for the references."""
    config, files = networks.icreward_config(run), networks.icreward_files(run)
    seen = {"num_frames": config.num_frames, "frame_pixels": config.frame_pixels}
    return _features(run, curated, "vision_tokens", files, networks.new_icreward, **seen)


def _features(run: Run, curated: Curated, name: str, models: list[Path], build: Build, **settings: object) -> Features:
    shape = run.profile.generation
    inputs = {"videos": curated.videos.stage, "added": curated.additions, "models": models, **settings}
    with run.stage(name, code=[_features, build], **inputs) as stage:
        if not stage.done:
            reward = build(run, 0)

            def seen(sample: Sample) -> dict[str, np.ndarray]:
                reference = reward.encode_images([sample.image(shape.height, shape.width)])[0]
                clips = reward.encode_videos(curated.videos.of(sample.id))
                return {"reference": reference.numpy(), "clips": clips.numpy()}

            save_each(stage, curated.samples, seen)
            if curated.added_clips and stage.lacks("added.npz"):
                stage.save_npz("added.npz", clips=reward.encode_videos(curated.added_clips).numpy())
    items = load_each(stage, curated.samples)
    added = [stage.load_npz("added.npz")] if curated.added_clips else []
    clips = np.concatenate([item["clips"] for item in [*items, *added]])
    references = np.stack([item["reference"] for item in items])
    return Features(stage, torch.from_numpy(clips), torch.from_numpy(references))


def dataset(curated: Curated, features: Features, split: str | None = None) -> ClipDataset:
    """All videos of a split, or of all, with their labels; the training split has the low-score additions."""
    rows = curated.rows
    chosen = np.arange(len(rows)) if split is None else np.flatnonzero(rows["split"] == split)
    part = rows.iloc[chosen]
    sample = torch.tensor(part["sample"].to_numpy(np.int64))
    labels = torch.tensor(part[["label", *(f"label_{d}" for d in DIMENSIONS)]].to_numpy(np.float32))
    return ClipDataset(features.clips[torch.tensor(chosen)], features.references, sample, labels[:, 0], labels[:, 1:])


@dataclass(frozen=True)
class Trained:
    """One reward after its training with several seeds."""

    name: str
    folders: list[Path]  # one saved model a seed
    histories: list[History]
    scores: np.ndarray  # (seeds, N) in [0, 1], of all clips in the order of `Curated.rows`
    labels: pd.DataFrame  # sample, video, split, unseen, label, and whether generated, of those clips
    stage: Stage

    def _rows(self, split: str) -> np.ndarray:
        """Rows of a split's generated videos, "samples videos"."""
        part = self.labels[(self.labels["split"] == split) & self.labels["generated"]]
        return part.index.to_numpy().reshape(part["sample"].nunique(), -1)

    def matrices(self, split: str) -> np.ndarray:
        """Scores of the generated videos of a split, "seeds samples videos"."""
        return self.scores[:, self._rows(split)]

    def matrix(self, split: str, seed: int = 0) -> np.ndarray:
        """Those of one seed's model, "samples videos"."""
        return self.matrices(split)[seed]

    def label_matrix(self, split: str) -> np.ndarray:
        """The labels of the same videos, "samples videos"."""
        return self.labels["label"].to_numpy()[self._rows(split)]

    def errors(self, split: str) -> np.ndarray:
        """Squared errors against the label, averaged over the videos of an image, "seeds samples"."""
        return np.square(self.matrices(split) - self.label_matrix(split)).mean(-1)

    def error(self, split: str, *, seed: int, draws: int, level: float) -> Interval:
        """Mean squared error against the label on a split; `n` counts images.

        The interval is over what training and data vary: each draw takes images with replacement, and one training.
        """
        return _over_trainings(self.errors(split), np.mean, seed=seed, draws=draws, level=level)

    def correlation(self, split: str, *, seed: int, draws: int, level: float) -> Interval:
        """Spearman's correlation of score and label over a split's videos: mostly of which images are easy."""
        label = self.label_matrix(split)
        both = np.stack(np.broadcast_arrays(self.matrices(split), label), axis=-1)

        def statistic(chosen: np.ndarray) -> float:
            ranks = pd.DataFrame(chosen.reshape(-1, 2)).rank().to_numpy()
            return float(np.corrcoef(ranks.T)[0, 1]) if ranks.std(0).all() else 0.0  # constant scores order nothing

        return _over_trainings(both, statistic, seed=seed, draws=draws, level=level)

    def correlation_within(self, split: str, *, seed: int, draws: int, level: float) -> Interval:
        """Likewise within an image, averaged over images, without those of equal scores or labels (in `n`, too)."""
        label = pd.DataFrame(self.label_matrix(split)).rank(axis=1)
        scores = [pd.DataFrame(values).rank(axis=1) for values in self.matrices(split)]
        found = np.stack([ranks.corrwith(label, axis=1).to_numpy() for ranks in scores])
        return _over_trainings(found, lambda r: float(pd.Series(r).mean()), seed=seed, draws=draws, level=level)


def _over_trainings(
    values: np.ndarray, statistic: Callable[[np.ndarray], float], *, seed: int, draws: int, level: float
) -> Interval:
    """A statistic of values "trainings images ...": its mean over trainings, bootstrapped over both."""
    rng = np.random.default_rng(seed)
    trainings, images = values.shape[:2]
    drawn = [statistic(values[rng.integers(trainings), rng.integers(images, size=images)]) for _ in range(draws)]
    estimate = float(np.mean([statistic(each) for each in values]))
    return percentile_interval(np.array(drawn), estimate=estimate, level=level, n=images)


def train_mlp(run: Run, curated: Curated) -> Trained:
    """Train the baseline."""
    settings, features = run.profile.mlp, clip_features(run, curated)
    shape = {"hidden": settings.hidden, "labels": run.profile.labels}
    return _train(run, curated, "mlp", features, _config(settings), shape, settings.seeds, networks.new_mlp)


def train_icreward(run: Run, curated: Curated) -> Trained:
    """Train ICReward."""
    settings, features = run.profile.icreward, vision_tokens(run, curated)
    config, shape = _config(settings, settings.pairwise_weight), networks.icreward_config(run)
    return _train(run, curated, "icreward", features, config, shape, settings.seeds, networks.new_icreward)


def _config(settings: MlpSettings | ICRewardSettings, pairwise_weight: float = 0.0) -> TrainConfig:
    shared = settings.model_dump(include={"epochs", "batch_size", "lr"})
    return TrainConfig(**shared, decay=settings.weight_decay, pairwise_weight=pairwise_weight)


def _train(
    run: Run, curated: Curated, name: str, features: Features, config: TrainConfig, shape: object, n: int, build: Build
) -> Trained:
    """Train a reward with `n` seeds and have it score all clips of the curated set."""
    data = {split: dataset(curated, features, split) for split in ("train", "val")}
    inputs = {"features": features.stage, "data": [part.digest() for part in data.values()]}
    inputs |= {"config": config, "shape": shape, "seeds": n, "seed": run.profile.seed}
    with run.stage(f"reward_{name}", code=[_train, build], **inputs) as stage:
        missing = [number for number in range(n) if not stage.has(f"{number}.npz")]
        barrier()  # all have looked before the leader writes
        for number in missing:
            seed = run.seed(name, number)
            model = build(run, seed)
            working = stage.folder / f"training_{number}"  # training's own resumable state, no item of the stage
            history = train_reward(model, data["train"], data["val"], config, seed=seed, checkpoint_dir=working)
            scores = predict(model, dataset(curated, features)).overall
            if rank() == 0:
                save_trained(stage, str(number), model, history, scores)
    return finished(run, curated, stage, name, [str(number) for number in range(n)])


def finished(run: Run, curated: Curated, stage: Stage, name: str, items: Sequence[str]) -> Trained:
    """The trainings that a stage holds: for each item `model_<item>`, and its scores and epochs in `<item>.npz`."""
    folders, found = [stage.path(f"model_{item}") for item in items], [stage.load_npz(f"{item}.npz") for item in items]
    histories = [History(tuple(Epoch(*row) for row in each["epochs"]), int(each["best"])) for each in found]
    rows = curated.rows[["sample", "video", "split", "unseen", "label"]]
    rows = rows.assign(generated=curated.rows["video"] < run.profile.data.videos_per_sample)
    return Trained(name, folders, histories, np.stack([each["scores"] for each in found]), rows, stage)


def save_trained(stage: Stage, item: str, model: RewardModel, history: History, scores: np.ndarray) -> None:
    """Write what `finished` reads."""
    with stage.write(f"model_{item}") as folder:
        model.save_pretrained(folder)
    epochs = np.array([list(epoch) for epoch in history.epochs])
    stage.save_npz(f"{item}.npz", scores=scores, epochs=epochs, best=np.array(history.best))


def published(trained: Trained) -> dict[str, str]:
    """Where a reward is kept, for the entry `rewards` of a notebook's results, where `icreward score` finds it."""
    return {"stage": trained.stage.name, "key": trained.stage.key}


def load(run: Run, trained: Trained, number: int) -> RewardModel:
    """The model of one training of a reward."""
    kind = MLPReward if trained.name == "mlp" else ICRewardModel
    return kind.from_pretrained(trained.folders[number], device=run.device)


def selection_note(models: Mapping[str, Trained]) -> str:
    """How the epochs were chosen, in a sentence for a caption: the validation errors are of chosen epochs."""
    chosen = ", ".join(f"{NAMES[name]} the best of {len(m.histories[0].epochs)} epochs" for name, m in models.items())
    images = len(next(iter(models.values())).label_matrix("val"))
    return (
        f"Each training keeps its epoch of least validation error ({chosen}), so that errors on the same {images} "
        "validation images are a little too low, the more so the more epochs there are to choose from; test images "
        "had no part in the choice."
    )


def error_difference(a: Trained, b: Trained, split: str, *, seed: int, draws: int, level: float) -> Interval:
    """Mean squared error of `a` minus that of `b` on a split; draws take the same images of both and any seeds."""
    gaps = a.errors(split)[:, None] - b.errors(split)
    return _over_trainings(gaps.reshape(-1, gaps.shape[-1]), np.mean, seed=seed, draws=draws, level=level)


def error_by_content(models: Mapping[str, Trained], split: str) -> pd.DataFrame:
    """Mean squared error, averaged over seeds, on samples of seen and of held-out content."""
    columns = {}
    for name, model in models.items():
        unseen = model.labels["unseen"].to_numpy(bool)[model._rows(split)[:, 0]]
        columns[name] = pd.Series(model.errors(split).mean(0)).groupby(unseen).mean()
    return pd.DataFrame(columns).rename({False: "seen", True: "unseen"}).rename_axis("content")

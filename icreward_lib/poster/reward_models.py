"""Both rewards on the curated set: what they see of every video, their training over several seeds, their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import item_of
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.mlp import MLPReward, MLPRewardConfig
from icreward_lib.rewards.prompt import ICRewardConfig
from icreward_lib.rewards.training import Epoch, History, TrainConfig, predict, train_reward
from icreward_lib.run import Run
from icreward_lib.run.processes import barrier, own_share, rank, side_by_side
from icreward_lib.run.stages import Stage


@dataclass(frozen=True)
class Features:
    """What one reward sees: per clip, in the order of `Curated.rows`, and per reference image."""

    stage: Stage
    clips: torch.Tensor  # (N, T, D) of CLIP, or (N, G, h, w, D) vision tokens
    references: torch.Tensor  # (S, D) or (S, h, w, D)


def clip_features(run: Run, curated: Curated) -> Features:
    """CLIP features of all frames and references, unit norm."""

    def extractor() -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
        clip = networks.clip(run)
        return (lambda image: clip.image_features(image[None])[0]), (
            lambda videos: np.stack([clip.image_features(video.frames) for video in videos])
        )

    return _features(run, curated, "clip_features", [run.model("clip")], extractor)


def vision_tokens(run: Run, curated: Curated) -> Features:
    """Tokens of ICReward's frozen vision tower for the frames that it reads, and for the references."""

    def extractor() -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
        reward = networks.new_icreward(run, seed=0)
        return (lambda image: reward.encode_images([image])[0].numpy()), (
            lambda videos: reward.encode_videos(videos).numpy()
        )

    config = networks.icreward_config(run)
    seen = {"num_frames": config.num_frames, "frame_pixels": config.frame_pixels}
    return _features(run, curated, "vision_tokens", networks.icreward_files(run), extractor, **seen)


def _features(
    run: Run,
    curated: Curated,
    name: str,
    models: list[Path],
    extractor: Callable[[], tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]],
    **settings: object,
) -> Features:
    shape = run.profile.generation
    with run.stage(
        name,
        code=[_features, extractor],
        videos=curated.videos.stage,
        added=curated.additions.to_dict("list"),
        models=models,
        labels=run.profile.labels,
        **settings,
    ) as stage:
        if not stage.done:
            image_features, video_features = extractor()

            def seen(sample: Sample) -> dict[str, np.ndarray]:
                reference = image_features(sample.image(shape.height, shape.width))
                return {"reference": reference, "clips": video_features(curated.videos.of(sample.id))}

            missing = [sample for sample in own_share(curated.samples) if not stage.has(f"{item_of(sample.id)}.npz")]
            for sample, values in side_by_side(seen, missing):
                stage.save_npz(f"{item_of(sample.id)}.npz", **values)
            if curated.added_clips and stage.lacks("added.npz"):
                stage.save_npz("added.npz", clips=video_features(curated.added_clips))
    items = [stage.load_npz(f"{item_of(sample.id)}.npz") for sample in curated.samples]
    found = [item["clips"] for item in items]
    if curated.added_clips:
        found.append(stage.load_npz("added.npz")["clips"])
    references = np.stack([item["reference"] for item in items])
    return Features(stage, torch.from_numpy(np.concatenate(found)), torch.from_numpy(references))


def dataset(curated: Curated, features: Features, split: str | None = None) -> ClipDataset:
    """All videos of a split, or of all, with their labels; the training split has the low-score additions."""
    rows = curated.rows
    chosen = np.arange(len(rows)) if split is None else np.flatnonzero(rows["split"] == split)
    part = rows.iloc[chosen]
    return ClipDataset(
        video=features.clips[torch.from_numpy(chosen)],
        references=features.references,
        sample=torch.from_numpy(part["sample"].to_numpy(np.int64).copy()),
        labels=torch.from_numpy(part["label"].to_numpy(np.float32).copy()),
        dimension_labels=torch.from_numpy(part[[f"label_{d}" for d in DIMENSIONS]].to_numpy(np.float32).copy()),
    )


@dataclass(frozen=True)
class Trained:
    """One reward after its training with several seeds."""

    name: str
    folders: list[Path]  # one saved model a seed
    histories: list[History]
    scores: np.ndarray  # (seeds, N) in [0, 1], of all clips in the order of `Curated.rows`
    labels: pd.DataFrame  # sample, video, split, unseen, label of those clips
    stage: Stage

    def matrix(self, split: str, seed: int = 0) -> np.ndarray:
        """Scores of the generated videos of a split, "samples videos", of one seed's model."""
        table = self.labels.assign(score=self.scores[seed])
        table = table[(table["split"] == split) & table["generated"]]
        return table.pivot(index="sample", columns="video", values="score").to_numpy()

    def error(self, split: str, *, draws: int, level: float) -> dict[str, float | int]:
        """Mean squared error against the label on a split.

        The interval is over both what training and what data vary: a bootstrap over images, each draw also
        taking a random seed's model.
        """
        squared = np.square(self.scores - self.labels["label"].to_numpy())
        return self._interval(lambda s, rows: squared[s, rows].mean(), split, draws, level)

    def correlation(self, split: str, *, draws: int, level: float) -> dict[str, float | int]:
        """Spearman correlation of score and label over the videos of a split; interval as in `error`."""
        labels = self.labels["label"].to_numpy()

        def statistic(s: int, rows: np.ndarray) -> float:
            a, b = (pd.Series(v[rows]).rank().to_numpy() for v in (self.scores[s], labels))
            # Constant scores put nothing in order: no correlation, rather than none that could be written down.
            return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0

        return self._interval(statistic, split, draws, level)

    def _interval(
        self, statistic: Callable[[int, np.ndarray], float], split: str, draws: int, level: float
    ) -> dict[str, float | int]:
        rows = np.flatnonzero((self.labels["split"] == split) & self.labels["generated"])
        samples = self.labels["sample"].to_numpy()[rows]
        groups = [rows[samples == sample] for sample in np.unique(samples)]
        seeds = len(self.scores)
        rng = np.random.default_rng(0)
        drawn = [
            statistic(
                int(rng.integers(seeds)),
                np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]),
            )
            for _ in range(draws)
        ]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        mean = float(np.mean([statistic(s, rows) for s in range(seeds)]))
        return {"mean": mean, "low": float(low), "high": float(high), "seeds": seeds, "n": len(groups)}


def train_mlp(run: Run, curated: Curated) -> Trained:
    """Train the baseline."""
    settings, features = run.profile.mlp, clip_features(run, curated)
    config = TrainConfig(
        epochs=settings.epochs, batch_size=settings.batch_size, lr=settings.lr, decay=settings.weight_decay
    )
    labels = run.profile.labels
    base = run.model("clip")
    shape = MLPRewardConfig(
        features=features.clips.shape[-1],
        hidden=settings.hidden,
        weights=(labels.subject_weight, labels.background_weight),
    )
    clip = networks.clip(run)
    return _train(
        run,
        curated,
        "mlp",
        features,
        config,
        shape,
        settings.seeds,
        lambda seed: MLPReward(shape, clip, base=str(base), seed=seed).to(run.device),
    )


def train_icreward(run: Run, curated: Curated) -> Trained:
    """Train ICReward."""
    settings, features = run.profile.icreward, vision_tokens(run, curated)
    config = TrainConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        decay=settings.weight_decay,
        pairwise_weight=settings.pairwise_weight,
    )
    return _train(
        run,
        curated,
        "icreward",
        features,
        config,
        networks.icreward_config(run),
        settings.seeds,
        lambda seed: networks.new_icreward(run, seed),
    )


def _train(
    run: Run,
    curated: Curated,
    name: str,
    features: Features,
    config: TrainConfig,
    shape: MLPRewardConfig | ICRewardConfig,
    seeds: int,
    build: Callable[[int], MLPReward] | Callable[[int], ICRewardModel],
) -> Trained:
    """Train a reward with several seeds and have it score all clips of the curated set."""
    data = {split: dataset(curated, features, split) for split in ("train", "val")}
    with run.stage(
        f"reward_{name}",
        code=[_train, build],
        features=features.stage,
        config=asdict(config),
        shape=asdict(shape),
        data=[data[split].digest() for split in ("train", "val")],
        seeds=seeds,
        seed=run.profile.seed,
    ) as stage:
        missing = [number for number in range(seeds) if not stage.has(f"{number}.npz")]
        barrier()  # all have looked before the leader writes
        for number in missing:
            model = build(run.seed(name, number))
            # Training keeps its own resumable state, which is not an item until it is finished.
            working = stage.folder / f"training_{number}"
            seed = run.seed(name, number)
            history = train_reward(model, data["train"], data["val"], config, seed=seed, checkpoint_dir=working)
            scores = predict(model, dataset(curated, features)).overall
            if rank() == 0:
                save_trained(stage, str(number), model, history, scores)
    return finished(run, curated, stage, name, [str(number) for number in range(seeds)])


def finished(run: Run, curated: Curated, stage: Stage, name: str, items: Sequence[str]) -> Trained:
    """The trainings that a stage holds: for each item `model_<item>`, and its scores and epochs in `<item>.npz`."""
    rows = curated.rows
    found = [stage.load_npz(f"{item}.npz") for item in items]
    histories = [History(tuple(Epoch(*row) for row in each["epochs"]), int(each["best"])) for each in found]
    generated = rows["video"] < run.profile.data.videos_per_sample
    return Trained(
        name,
        [stage.path(f"model_{item}") for item in items],
        histories,
        np.stack([each["scores"] for each in found]),
        rows[["sample", "video", "split", "unseen", "label"]].assign(generated=generated),
        stage,
    )


def save_trained(
    stage: Stage, item: str, model: MLPReward | ICRewardModel, history: History, scores: np.ndarray
) -> None:
    """Write what `finished` reads."""
    with stage.write(f"model_{item}") as folder:
        model.save_pretrained(folder)
    epochs = np.array([list(epoch) for epoch in history.epochs])
    stage.save_npz(f"{item}.npz", scores=scores, epochs=epochs, best=np.array(history.best))


def published(trained: Trained) -> dict[str, str]:
    """Where a reward is kept. Under its name in an entry `rewards` of a notebook's results, `icreward score` finds it.

    The names are `icreward`, `mlp` and `robust`, as in `--with icreward=laptop`.
    """
    return {"stage": trained.stage.name, "key": trained.stage.key}


def load(run: Run, trained: Trained, number: int) -> MLPReward | ICRewardModel:
    """The model of one training of a reward."""
    kind = MLPReward if trained.name == "mlp" else ICRewardModel
    return kind.from_pretrained(trained.folders[number], device=run.device)


def error_difference(a: Trained, b: Trained, split: str, *, draws: int, level: float) -> dict[str, float]:
    """Mean squared error of `a` minus that of `b` on a split; negative: `a` is better.

    The bootstrap draws images, the same for both, and one seed's model of each.
    """
    rows = np.flatnonzero((a.labels["split"] == split) & a.labels["generated"])
    label = a.labels["label"].to_numpy()[rows]
    errors = [np.square(model.scores[:, rows] - label) for model in (a, b)]
    samples = a.labels["sample"].to_numpy()[rows]
    groups = [np.flatnonzero(samples == sample) for sample in np.unique(samples)]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        chosen = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        first, second = (error[rng.integers(len(error)), chosen].mean() for error in errors)
        drawn.append(first - second)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(errors[0].mean() - errors[1].mean()), "low": float(low), "high": float(high)}


def error_by_content(models: dict[str, Trained], split: str) -> pd.DataFrame:
    """Mean squared error, averaged over seeds, on samples of seen and of held-out content."""
    columns = {}
    for name, model in models.items():
        rows = (model.labels["split"] == split) & model.labels["generated"]
        error = np.square(model.scores - model.labels["label"].to_numpy()).mean(0)[rows]
        columns[name] = pd.Series(error).groupby(model.labels.loc[rows, "unseen"].to_numpy(bool)).mean()
    table = pd.DataFrame(columns)
    table.index = pd.Index(["unseen" if unseen else "seen" for unseen in table.index], name="content")
    return table

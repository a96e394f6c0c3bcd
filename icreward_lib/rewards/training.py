"""Training of both rewards on cached features: regression to the labels, and a pairwise term by labels or votes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icreward_lib.rewards.base import Array, overall_score
from icreward_lib.rewards.clips import ClipDataset, pairwise_loss
from icreward_lib.run.processes import gather, own_share, processes
from icreward_lib.training import Row, Schedule, Training


class Trainable(Protocol):
    """A module that maps (video, reference) tensors to scores (B,G,D) in [0,1], drawing no random numbers."""

    weights: Tensor

    def __call__(self, video: Tensor, reference: Tensor) -> Tensor: ...  # noqa: D102

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...  # noqa: D102


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation by AdamW with a short warm-up and cosine decay."""

    epochs: int = 6
    batch_size: int = 32
    lr: float = 1e-3
    decay: float = 0.01  # of weights
    warmup: float = 0.05  # share of the steps
    clip: float = 1.0  # gradient norm
    dimension_weight: float = 1.0  # of the regression of subject and background, that of the overall label being 1
    pairwise_weight: float = 0.0  # of the Bradley-Terry term over the pairs of a batch


class Predictions(NamedTuple):
    """Scores of N clips in [0,1]: `overall` (N,) and `dimensions` (N,D)."""

    overall: Array
    dimensions: Array


class Epoch(NamedTuple):
    """One epoch: mean training loss, and the validation's errors."""

    loss: float
    mse: float  # of the overall score; nan without labels, like those of the dimensions
    subject_mse: float
    background_mse: float
    pairwise: float = 0.0  # Bradley-Terry loss by people's votes, 0 without them


@dataclass(frozen=True)
class History:
    """All epochs, and the index of the one of least validation loss, whose weights the model ends with."""

    epochs: tuple[Epoch, ...]
    best: int


def _forward(model: Trainable, data: ClipDataset, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Overall (B,) by the reward's `weights`, and dimensions (B,D), of the clips `rows`: means over moments."""
    device = model.weights.device
    parts = model(data.video[rows].to(device), data.references[data.sample[rows]].to(device))
    return overall_score(parts, model.weights).mean(1), parts.mean(1)


@torch.no_grad()
def predict(model: Trainable, data: ClipDataset, *, batch_size: int = 64) -> Predictions:
    """Scores of every clip of `data`, in its order. The processes divide the batches; every one gets all scores."""
    batches = torch.arange(len(data)).split(batch_size)
    made = [_forward(model, data, rows) for rows in own_share(batches)]
    parts = gather([[values.clamp(0, 1).cpu().numpy() for values in pair] for pair in made], len(batches))
    overall, dimensions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Predictions(overall, dimensions)


def _regression(overall: Tensor, dimensions: Tensor, data: ClipDataset, rows: Tensor, weight: float) -> Tensor:
    """Squared error of the clips `rows` that have labels, of the dimensions by `weight`; 0 if none has."""
    labels, parts = data.labels[rows].to(overall), data.dimension_labels[rows].to(overall)
    known = ~labels.isnan()
    if not known.any():
        return 0 * overall.sum()
    return F.mse_loss(overall[known], labels[known]) + weight * F.mse_loss(dimensions[known], parts[known])


def epoch_order(sample: Tensor, *, seed: int, epoch: int, together: bool) -> Tensor:
    """The order (N,) of an epoch's clips; `together` puts those of a sample side by side, for pairs in batches."""
    rng = np.random.default_rng([seed, epoch])
    order = torch.from_numpy(rng.permutation(len(sample)))
    if together:
        rank = torch.from_numpy(rng.permutation(int(sample.max()) + 1))
        order = order[rank[sample[order]].argsort(stable=True)]
    return order


def _loss(model: Trainable, data: ClipDataset, rows: Tensor, config: TrainConfig) -> Tensor:
    """This process's part of the loss of the clips `rows`: whole samples, for the pairs in them, or none."""
    samples = data.sample[rows]
    share = rows[torch.isin(samples, samples.new_tensor(own_share(samples.unique().tolist())))]
    seen = share if len(share) else rows[:1]  # a process without any has gradients too, of nothing that counts
    overall, dimensions = _forward(model, data, seen)
    own, whole = (int((~data.labels[part].isnan()).sum()) for part in (share, rows))
    loss = own / max(1, whole) * _regression(overall, dimensions, data, seen, config.dimension_weight)
    if config.pairwise_weight:
        wins, counted = data.wins(seen), float(data.wins(rows).sum())
        part = float(wins.sum()) / counted if counted else 0.0
        loss = loss + config.pairwise_weight * part * pairwise_loss(overall, wins.to(overall))
    return loss


def _validate(model: Trainable, data: ClipDataset) -> list[float]:
    """What an `Epoch` says of the validation set."""
    predicted = predict(model, data)
    labels: npt.NDArray[np.floating[Any]] = data.labels.cpu().numpy()
    known = ~np.isnan(labels)
    errors = [math.nan] * 3
    if known.any():
        parts = ((predicted.dimensions - data.dimension_labels.cpu().numpy()) ** 2)[known].mean(axis=0)
        errors = [float(((predicted.overall - labels) ** 2)[known].mean()), *map(float, parts)]
    if not len(data.pairs):
        return [*errors, 0.0]
    return [*errors, float(pairwise_loss(torch.from_numpy(predicted.overall), data.wins(torch.arange(len(data)))))]


def train_reward(
    model: Trainable,
    train: ClipDataset,
    validation: ClipDataset,
    config: TrainConfig,
    *,
    seed: int,
    checkpoint_dir: Path,
) -> History:
    """Train `model` in place and leave it with the weights of the epoch of least validation loss: MSE, plus votes'.

    Goes on from `checkpoint_dir`/training.pt exactly (`Training`), with any number of processes: they divide every
    batch, are called alike and get the same. ValueError for a checkpoint that is damaged or of other settings or data,
    a validation set without labels and votes, or votes to train on that would not count.
    """
    if validation.labels.isnan().all() and not len(validation.pairs):
        raise ValueError("the validation set has neither labels nor votes to choose an epoch by")
    if len(train.pairs) and not config.pairwise_weight:
        raise ValueError("people's votes only count with a pairwise_weight above 0")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.lr, weight_decay=config.decay)
    made_by = {**asdict(config), "seed": seed, "data": train.digest(), "validation": validation.digest()}
    path = checkpoint_dir / "training.pt"
    training = Training(trained, [optimizer], path, made_by, {"epochs": [], "best": {}})
    batches = math.ceil(len(train) / config.batch_size)
    steps = config.epochs * batches

    def descend(step: int) -> Row:
        epoch, place = divmod(step, batches)
        order = epoch_order(train.sample, seed=seed, epoch=epoch, together=config.pairwise_weight > 0)
        rows = order.split(config.batch_size)[place]
        loss = _loss(model, train, rows, config)
        loss.backward()
        return {"loss": float(loss.detach()) * len(rows)}

    def look(done: int, rows: Sequence[Row]) -> None:
        loss = sum(gather([sum(row["loss"] for row in rows)], processes())) / len(train)
        training.kept["epochs"].append([loss, *_validate(model, validation)])
        if best() == done // batches - 1:
            training.kept["best"] = training.weights()

    def best() -> int:
        weight, epochs = config.pairwise_weight, training.kept["epochs"]
        return int(np.argmin([np.nan_to_num(mse) + weight * pairwise for _, mse, _, _, pairwise in epochs]))

    training.run(Schedule(steps, batches, max(1, round(config.warmup * steps)), clip=config.clip), descend, look)
    training.load(training.kept["best"])
    return History(tuple(Epoch(*row) for row in training.kept["epochs"]), best())

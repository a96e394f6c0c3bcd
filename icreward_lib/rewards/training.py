"""Training of both rewards on cached features: regression to the labels, and a pairwise term by labels or votes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from icreward_lib.rewards.base import Array, overall_score
from icreward_lib.rewards.clips import ClipDataset, pairwise_loss
from icreward_lib.run.files import atomic
from icreward_lib.run.processes import barrier, gather, own_share, processes, rank


class Trainable(Protocol):
    """`MLPReward` or `ICReward`: a module that maps (video, reference) tensors to scores (B,G,D) in [0,1]."""

    weights: Tensor

    def __call__(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores per clip, moment and dimension."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of every module."""
        ...


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation by AdamW with a short warm-up and cosine decay.

    `dimension_weight` scales the regression of subject and background against that of the overall label,
    `pairwise_weight` the Bradley-Terry term over the pairs of a batch; `decay` is the weight decay, `clip` bounds the
    gradient's norm.
    """

    epochs: int = 6
    batch_size: int = 32
    lr: float = 1e-3
    decay: float = 0.01
    warmup: float = 0.05
    clip: float = 1.0
    dimension_weight: float = 1.0
    pairwise_weight: float = 0.0


class Predictions(NamedTuple):
    """Scores of N clips in [0,1]: `overall` (N,) and `dimensions` (N,D)."""

    overall: Array
    dimensions: Array


class Epoch(NamedTuple):
    """One epoch: mean training loss; validation MSE of the overall score, of subject and of background, nan without
    labels; and the validation's Bradley-Terry loss by people's votes, 0 without them.
    """

    loss: float
    mse: float
    subject_mse: float
    background_mse: float
    pairwise: float = 0.0


@dataclass(frozen=True)
class History:
    """All epochs, and the index of the one of least validation loss, whose weights the model ends with."""

    epochs: tuple[Epoch, ...]
    best: int


Network = Callable[[Tensor, Tensor], Tensor]  # (video, reference) -> scores, as of `Trainable`


def _forward(network: Network, weights: Tensor, data: ClipDataset, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Overall (B,) by the `weights` of a reward, and dimensions (B,D), of the clips `rows`: means over moments."""
    device = weights.device
    parts = network(data.video[rows].to(device), data.references[data.sample[rows]].to(device))
    return overall_score(parts, weights).mean(1), parts.mean(1)


@torch.no_grad()
def predict(model: Trainable, data: ClipDataset, *, batch_size: int = 64) -> Predictions:
    """Scores of every clip of `data`, in its order. The processes divide the batches; every one gets all scores."""
    batches = torch.arange(len(data)).split(batch_size)
    made = [_forward(model, model.weights, data, rows) for rows in own_share(batches)]
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
    """The order (N,) of an epoch's clips, a function of `seed` and `epoch` alone.

    `together` puts the clips of a sample next to each other, so that batches hold pairs.
    """
    rng = np.random.default_rng([seed, epoch])
    order = torch.from_numpy(rng.permutation(len(sample)))
    if together:
        rank = torch.from_numpy(rng.permutation(int(sample.max()) + 1))
        order = order[rank[sample[order]].argsort(stable=True)]
    return order


def _rate(config: TrainConfig, step: int, steps: int) -> float:
    """Learning rate of `step`: linear warm-up, then a cosine to zero at `steps`."""
    warmup = max(1, round(config.warmup * steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _replica(model: Trainable) -> Network:
    """The model, whose gradients are averaged over the processes if there are several."""
    if processes() == 1:
        return model
    barrier()  # they know each other from here on
    return DistributedDataParallel(cast(nn.Module, model))


def _share(rows: Tensor, sample: Tensor) -> Tensor:
    """This process's clips of a batch: whole samples, for the pairs in them. There may be none."""
    samples = sample[rows]
    return rows[torch.isin(samples, samples.new_tensor(own_share(samples.unique().tolist())))]


def _train_epoch(
    model: Trainable,
    network: Network,
    optimizer: torch.optim.Optimizer,
    data: ClipDataset,
    config: TrainConfig,
    *,
    seed: int,
    epoch: int,
) -> float:
    """One pass over `data`; the mean loss. `network` is the `_replica` of the model."""
    group = optimizer.param_groups[0]
    order = epoch_order(data.sample, seed=seed, epoch=epoch, together=config.pairwise_weight > 0)
    batches = order.split(config.batch_size)
    total = 0.0
    for index, rows in enumerate(batches):
        group["lr"] = _rate(config, epoch * len(batches) + index, config.epochs * len(batches))
        share = _share(rows, data.sample)
        seen = share if len(share) else rows[:1]  # all processes take part in all steps, if with nothing that counts
        overall, dimensions = _forward(network, model.weights, data, seen)
        own, whole = (int((~data.labels[part].isnan()).sum()) for part in (share, rows))
        loss = own / max(1, whole) * _regression(overall, dimensions, data, seen, config.dimension_weight)
        if config.pairwise_weight:
            wins = data.wins(seen)
            counted = float(data.wins(rows).sum())
            pairs = pairwise_loss(overall, wins.to(overall))
            loss = loss + config.pairwise_weight * (float(wins.sum()) / counted if counted else 0.0) * pairs
        optimizer.zero_grad()
        (processes() * loss).backward()  # the gradients' mean over the processes is then that of the whole batch
        torch.nn.utils.clip_grad_norm_(group["params"], config.clip)
        optimizer.step()
        total += float(loss.detach()) * len(rows)
    return sum(gather([total], processes())) / len(data)


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
    progress: Callable[[int, Epoch], None] = lambda epoch, result: None,
) -> History:
    """Train `model` in place and leave it with the weights of its best epoch.

    That is the one of least validation MSE plus, where `validation` has people's votes, their loss by its weight.

    After each epoch the state goes to `checkpoint_dir`/training.pt; called again, training goes on from there,
    and a finished one returns at once. The models draw no random numbers while they train and an epoch's
    order depends on (`seed`, epoch) alone, so a resumed run equals an uninterrupted one. `progress` is called
    after every epoch. Raises ValueError if the folder belongs to a training with other settings or data, if
    `validation` has neither labels nor votes, or if `train` has votes that would not count.

    Several processes divide every batch among them. All call this with the same and get the same, and it may
    go on with another number of them; results differ from those of one process by the order of sums alone.
    """
    if validation.labels.isnan().all() and not len(validation.pairs):
        raise ValueError("the validation set has neither labels nor votes to choose an epoch by")
    if len(train.pairs) and not config.pairwise_weight:
        raise ValueError("people's votes only count with a pairwise_weight above 0")
    path = checkpoint_dir / "training.pt"
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.lr, weight_decay=config.decay)
    run = {**asdict(config), "seed": seed, "data": train.digest(), "validation": validation.digest()}
    epochs: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    if path.is_file():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["run"] != run:
            changed = sorted(key for key in run if state["run"].get(key) != run[key])
            raise ValueError(f"{path} is of a run that differs in {', '.join(changed)}: use another folder")
        epochs = [Epoch(*row) for row in state["epochs"]]
        best_weights = state["best"]
        _load(trained, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    network = _replica(model)
    for epoch in range(len(epochs), config.epochs):
        loss = _train_epoch(model, network, optimizer, train, config, seed=seed, epoch=epoch)
        epochs.append(Epoch(loss, *_validate(model, validation)))
        weights = {name: p.detach().cpu().clone() for name, p in trained.items()}
        if _best(epochs, config) == epoch:
            best_weights = weights
        state = {
            "run": run,
            "epochs": [list(row) for row in epochs],
            "weights": weights,
            "best": best_weights,
            "optimizer": optimizer.state_dict(),
        }
        if rank() == 0:
            with atomic(path) as temporary:
                torch.save(state, temporary)
        progress(epoch, epochs[-1])
    _load(trained, best_weights)
    return History(tuple(epochs), _best(epochs, config))


def _best(epochs: Sequence[Epoch], config: TrainConfig) -> int:
    losses = [np.nan_to_num(epoch.mse) + config.pairwise_weight * epoch.pairwise for epoch in epochs]
    return int(np.argmin(losses))


def _load(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])

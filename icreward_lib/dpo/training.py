"""Flow-DPO training: LoRA, exactly resumable, with held-out preference accuracy on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from icreward_lib.dpo.objective import dpo_loss, flow_errors, implicit_reward_logit, reference_model
from icreward_lib.dpo.pairs import PairData
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.run.processes import barrier, gather, processes, rank
from icreward_lib.stats import bootstrap_mean
from icreward_lib.training import Row, Schedule, Training


@dataclass(frozen=True)
class DPOConfig:
    """How to train and evaluate. Beta goes with the mean-reduced error."""

    beta: float = 500.0
    lr: float = 2e-4
    lora_rank: int = 16
    lora_alpha: float = 32.0
    steps: int = 100
    batch_size: int = 8  # pairs a step
    micro_batch: int = 8  # pairs a forward, in training and evaluation: memory, not results
    warmup: int = 10  # steps of linear warm-up, then constant
    clip: float = 1.0  # gradient norm
    eval_every: int = 10  # steps between evaluations, and checkpoints
    eval_timesteps: int = 5  # fixed timesteps at which held-out pairs are compared
    objective: Literal["preference", "supervised"] = "preference"  # supervised: the flow's own loss on the winners
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name not in ("warmup", "objective", "seed") and value <= 0:
                raise ValueError(f"DPOConfig.{name} must be positive, not {value}.")


@dataclass
class DPOHistory:
    """What happened, as rows ready for `pandas.DataFrame`, each with its "step"."""

    # Per step of the optimizer: "loss", "accuracy" (of the batch, before the update), "grad_norm".
    steps: list[Row] = field(default_factory=list)
    # Per evaluation: "accuracy" with "low" and "high" (95 %, bootstrap over samples), "n_pairs", mean "logit".
    curve: list[Row] = field(default_factory=list)
    # Per evaluation and timestep "t" (0..1000): "accuracy", and how far the errors rose from reference to policy,
    # "d_winner" and "d_loser": if both do, the model forgets, whatever the accuracy says.
    bins: list[Row] = field(default_factory=list)
    # Per evaluation and "pair": its "sample", "logit" (mean over timesteps), "win" (1, 0, or 0.5 for an exact tie).
    outcomes: list[Row] = field(default_factory=list)


def train(
    policy: PeftModel,
    flow: RectifiedFlow,
    pairs: PairData,
    held_out: PairData,
    config: DPOConfig,
    folder: Path,
    *,
    report: Callable[[Row], None] = lambda row: None,
) -> DPOHistory:
    """Train the adapters of `policy` (see `add_denoiser_lora`), evaluating at step 0 and every `eval_every` steps.

    Goes on from the checkpoint in `folder` exactly (`Training`), with any number of processes: they divide batches,
    evaluations and frozen weights, are called alike and get the same. Nothing is selected by the `held_out` pairs, of
    two samples or more. `report` gets each new row of the curve, with `policy` as it is then. ValueError for a
    checkpoint that is damaged or of other settings or pairs.
    """
    adapters = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(adapters.values(), lr=config.lr, weight_decay=0.0)
    if processes() > 1:
        _divide(policy, set(adapters.values()))
    # What diffusers notes beside the settings comes in another order in every process.
    levels = sorted(item for item in flow.config.items() if not item[0].startswith("_"))
    made_by = asdict(config) | {"flow": str(levels), "pairs": pairs.digest(), "held_out": held_out.digest()}
    training = Training(adapters, [optimizer], folder / "dpo_state.pt", made_by)
    timesteps = evaluation_timesteps(flow, held_out, config)
    new = not training.kept
    if new:
        with reference_model(policy):
            reference = evaluation_errors(policy, timesteps, held_out, config)
        training.kept = {"reference": reference, "history": vars(DPOHistory())}
    reference, history = training.kept["reference"], DPOHistory(**training.kept["history"])

    def look(done: int, rows: Sequence[Row]) -> None:
        history.steps.extend(rows)
        # Adapters start without effect: the first evaluation would only repeat the reference's.
        errors = evaluation_errors(policy, timesteps, held_out, config) if done else reference
        logits = implicit_reward_logit(errors, reference, config.beta)  # (pairs, timesteps)
        change = (errors - reference).mean(dim=0)
        won = _wins(logits).mean(dim=0)
        history.bins += _rows(step=done, t=timesteps, d_winner=change[:, 0], d_loser=change[:, 1], accuracy=won)
        logit = logits.mean(dim=1)
        wins = _wins(logit)
        history.outcomes += _rows(step=done, pair=range(len(wins)), sample=held_out.sample, logit=logit, win=wins)
        accuracy = bootstrap_mean(wins.numpy(), clusters=held_out.sample.numpy(), seed=config.seed)
        row = {"step": done, "accuracy": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
        history.curve.append({**row, "n_pairs": len(wins), "logit": float(logit.mean())})
        report(history.curve[-1])

    if new:
        look(0, [])
        training.save()
    schedule = Schedule(config.steps, config.eval_every, warmup=config.warmup, least=1.0, clip=config.clip)
    training.run(schedule, partial(_descend, policy, flow, pairs, config), look)
    return history


def _divide(policy: PeftModel, adapters: set[nn.Parameter]) -> None:
    """Have every process keep its part of the frozen weights, by FSDP; the small adapters are whole everywhere."""
    barrier()  # the processes know each other from here on
    denoiser = policy.get_base_model()
    for part in (*denoiser.spatial_blocks, *denoiser.temporal_blocks, denoiser):
        # None is left whole after a forward: the leader, which saves, would divide it again, and the others not.
        fully_shard(part, ignored_params=adapters, reshard_after_forward=True)


def _share(count: int) -> tuple[Tensor, Tensor]:
    """This process's rows of `count` as by `own_share`, and which of them count: all have equally many to forward."""
    rows = torch.arange(rank(), math.ceil(count / processes()) * processes(), processes())
    return rows.clamp(max=count - 1), rows < count


def _descend(policy: PeftModel, flow: RectifiedFlow, pairs: PairData, config: DPOConfig, step: int) -> Row:
    """Gradients of this process's part of a step's loss; the step's mean loss and accuracy before it."""
    rows = _batch(len(pairs), config, step)
    draw = _generator(config.seed, 0, step)
    timestep = _training_timesteps(flow, pairs, len(rows), draw)
    noise = torch.randn(len(rows), *pairs.winner.shape[1:], generator=draw)
    made: list[list[float]] = []
    for part, counts in zip(*(values.split(config.micro_batch) for values in _share(len(rows))), strict=True):
        with torch.no_grad(), reference_model(policy):
            reference = flow_errors(policy, pairs, rows[part], noise[part], timestep[part])
        errors = flow_errors(policy, pairs, rows[part], noise[part], timestep[part])
        logit = implicit_reward_logit(errors, reference, config.beta)
        loss = dpo_loss(logit) if config.objective == "preference" else errors[:, 0]
        ((loss * counts.to(loss)).sum() / len(rows)).backward()
        made += torch.stack([logit, loss], dim=1).tolist()
    logits, losses = torch.tensor(gather(made, len(rows))).T.contiguous()
    return {"step": step + 1, "loss": float(losses.mean()), "accuracy": float(_wins(logits).mean())}


@torch.no_grad()
def evaluation_errors(policy: PeftModel, timesteps: Tensor, pairs: PairData, config: DPOConfig) -> Tensor:
    """`flow_errors` of all pairs, (pairs, timesteps, 2), under fixed noise of each pair and timestep."""
    share, _ = _share(len(pairs))
    errors = torch.empty(len(share), len(timesteps), 2)
    for index, timestep in enumerate(timesteps):
        for places in torch.arange(len(share)).split(config.micro_batch):
            rows = share[places]
            draws = [_generator(config.seed, 1, index, row) for row in rows.tolist()]
            noise = torch.stack([torch.randn(pairs.winner.shape[1:], generator=draw) for draw in draws])
            errors[places, index] = flow_errors(policy, pairs, rows, noise, timestep.expand(len(rows))).cpu()
    return torch.tensor(gather(errors.tolist(), len(pairs)))


def evaluation_timesteps(flow: RectifiedFlow, pairs: PairData, config: DPOConfig) -> Tensor:
    """The fixed timesteps (eval_timesteps,) in 0..1000, rising: even quantiles of those of training."""
    many = _training_timesteps(flow, pairs, 10_000, _generator(config.seed, 2))
    return many.quantile((torch.arange(config.eval_timesteps) + 0.5) / config.eval_timesteps)


def _training_timesteps(flow: RectifiedFlow, pairs: PairData, count: int, generator: torch.Generator) -> Tensor:
    size = (torch.full((count,), float(v)) for v in (pairs.height, pairs.width, pairs.num_frames))
    return flow.sample_timesteps(*size, generator=generator)


def _rows(**columns: int | range | Tensor) -> list[Row]:
    """Columns as rows; a number is the same in all."""
    table = pd.DataFrame({name: c.tolist() if isinstance(c, Tensor) else c for name, c in columns.items()})
    return cast("list[Row]", table.to_dict("records"))


def _wins(logits: Tensor) -> Tensor:
    """1 where the winner is preferred, 0 where the loser is, one half where the model cannot tell."""
    return (1.0 + logits.sign()) / 2.0


def _batch(pairs: int, config: DPOConfig, step: int) -> Tensor:
    """Rows of a step (batch_size,): consecutive pieces of an endless row of shuffled epochs."""
    places = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
    epochs = np.unique(places // pairs).tolist()
    order = np.concatenate([np.random.default_rng([config.seed, epoch]).permutation(pairs) for epoch in epochs])
    return torch.from_numpy(order[places - epochs[0] * pairs])


def _generator(*key: int) -> torch.Generator:
    """A CPU generator of its own for every key."""
    state = np.random.SeedSequence(key).generate_state(2, dtype=np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)

"""How all small models are trained: AdamW and Muon, averaged weights, a log; and what several of them need."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from icreward_lib.run.files import write_text
from icreward_lib.training import Row, Schedule, Training
from icreward_lib.world.scenes import SPLITS, Split

#: Training steps seed their draws with numbers below this one, evaluations from it upwards.
EVALUATION_SEED = 1_000_000_000
Loss = Callable[[int], dict[str, Tensor]]  # step -> named terms
MOMENTUM = 0.95  # of Muon


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    lr: float  # peak rate of AdamW; linear warm-up, then cosine decay to a twentieth
    warmup: int = 100
    weight_decay: float = 0.0
    muon_lr: float = 0.0  # peak rate of Muon, for all matrices and convolutions; 0: AdamW for them too
    ema: float = 0.0  # decay of the weights' exponential moving average; 0: none
    seed: int = 0
    save_every: int = 200  # steps between resumable checkpoints (and evaluations)


def fit(
    model: nn.Module, loss: Loss, config: LoopConfig, folder: Path, evaluate: Callable[[], Row] = dict
) -> list[Row]:
    """Train `model` in place, from where an earlier call stopped; return the log, which `folder` keeps too.

    Of the terms of `loss` "loss" is minimised; all they see must depend on the step alone (the
    global generator is seeded from it). `evaluate` sees the averaged weights, which the model has in the end.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters, optimizers = list(trained.values()), _optimizers(model, config)
    made_by = asdict(config) | {"weights": {name: tuple(p.shape) for name, p in trained.items()}}
    training = Training(trained, optimizers, folder / "state.pt", made_by, {"log": []})
    # Without `ema` the average is the last step's weights. It forgets its random start at first.
    average = EMAModel(parameters, decay=config.ema, foreach=True)
    if training.done:
        average.load_state_dict(training.kept["average"])
        average.to(parameters[0].device)
    optimizers[-1].register_step_post_hook(lambda *_: average.step(parameters))
    clock = time.monotonic()

    def descend(step: int) -> Row:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed * 1_000_003 + step)
            terms = loss(step)
        terms["loss"].backward()
        return {name: float(value.detach()) for name, value in terms.items()}

    def look(done: int, rows: Sequence[Row]) -> None:
        nonlocal clock
        row = {"step": done, **{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}}
        row["seconds_per_step"] = (time.monotonic() - clock) / len(rows)
        average.store(parameters)
        average.copy_to(parameters)
        model.eval()
        row |= evaluate()
        model.train()
        average.restore(parameters)
        training.kept["log"].append(row)
        training.kept["average"] = average.state_dict()
        write_text(folder / "log.jsonl", "".join(json.dumps(row) + "\n" for row in training.kept["log"]))
        print(json.dumps({k: round(v, 5) for k, v in row.items()}), flush=True)
        clock = time.monotonic()

    model.train()
    schedule = Schedule(config.steps, config.save_every, warmup=config.warmup, least=0.05)
    training.run(schedule, descend, look)
    average.copy_to(parameters)
    model.eval()
    log: list[Row] = training.kept["log"]
    return log


def _optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    layers = [m for m in model.modules() if config.muon_lr and isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
    matrices = {m.weight: None for m in layers if m.weight.requires_grad}  # a dict keeps the order
    rest = [p for p in model.parameters() if p.requires_grad and p not in matrices]
    adam = torch.optim.AdamW(rest, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    return [adam, Muon(list(matrices), lr=config.muon_lr)] if matrices else [adam]


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are orthogonalised before each step (Jordan et al. 2024); `lr` is a step's spectral norm.

    The autoencoder needs five times fewer steps with it than with AdamW. torch's own class takes no convolutions (here
    all dimensions but the first are one) and works in bfloat16, which some CPUs advertise and then crash on.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.mul_(MOMENTUM).add_(parameter.grad)
                update = (parameter.grad + MOMENTUM * average).flatten(1)
                rows, columns = update.shape
                # Tall matrices move further, so that outputs change alike whatever the layer's shape.
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.add_(_orthogonal(update).view_as(parameter), alpha=-size)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values about 1 (0.7 to 1.2), by a quintic Newton-Schulz iteration."""
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T


def degrade(clips: np.ndarray, rng: np.random.Generator, share: float = 0.6) -> np.ndarray:
    """Blur, noise and JPEG blocks in a share of clips uint8 "n t h w c", such as come out of a blurry video model."""
    result = clips.copy()
    for index in np.flatnonzero(rng.random(len(clips)) < share):
        sigma = rng.uniform(0.2, 1.2)  # pixels
        soft = ndimage.gaussian_filter(result[index].astype(np.float32), (0, sigma, sigma, 0), truncate=2)
        noisy = soft + rng.normal(0, rng.uniform(0, 8), soft.shape)
        result[index] = noisy.clip(0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            for frame in result[index]:
                file = io.BytesIO()
                Image.fromarray(frame).save(file, "jpeg", quality=int(rng.integers(40, 90)))
                frame[:] = np.asarray(Image.open(file))
    return result


def half_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` with its floats as float16: half the bytes; loaders cast back to float32."""
    state = model.state_dict().items()
    return {name: (v.half() if v.dtype == torch.float32 else v).contiguous() for name, v in state}


def reached(model: nn.Module, log: list[Row], evaluate: Callable[[Split], Row]) -> Row:
    """The figures of a trained model: its last loss, its size, and what `evaluate` finds for each split."""
    figures = {"loss": log[-1]["loss"], "parameters": sum(p.numel() for p in model.parameters())}
    for split in SPLITS:
        figures |= evaluate(split)
    return figures

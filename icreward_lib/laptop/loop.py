"""One training loop for all small models: resumable at any step, logging to JSON lines."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from icreward_lib.laptop.muon import Muon


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    lr: float  # peak rate of AdamW; linear warm-up, then cosine decay to a twentieth
    warmup: int = 100
    weight_decay: float = 0.0
    muon_lr: float = 0.0  # peak rate of Muon, for all matrices and convolutions; 0: AdamW for them too
    clip: float = 1.0  # gradient norm
    ema: float = 0.0  # decay of the weights' exponential moving average; 0: none
    seed: int = 0
    save_every: int = 200  # steps between resumable checkpoints (and evaluations)

    def rate(self, step: int) -> float:
        """Share of the peak learning rates at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fit(
    model: nn.Module,
    loss: Callable[[int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """Train `model` in place; start again where an earlier, interrupted call stopped.

    Args:
        model: its parameters that require gradients are trained.
        loss: step -> named terms; "loss" is minimised, all are logged. What a step sees must depend on the step alone
            (the global generator is seeded from it), so that a resumed run equals an uninterrupted one.
        folder: for `state.pt` and `log.jsonl`.
        evaluate: figures to log at every checkpoint, computed with the averaged weights if there are any.

    Returns:
        The log. The model holds the averaged weights if `config.ema` is set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = _optimizers(model, config)
    average = [p.detach().clone() for p in parameters] if config.ema else []
    start, log = 0, []
    if (folder / "state.pt").exists():
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average, start, log = state["average"], state["step"], state["log"]
    model.train()
    sums: dict[str, float] = {}
    begin, clock = start, time.monotonic()
    for step in range(start, config.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * config.rate(step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed * 1_000_003 + step)
            terms = loss(step)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # The average forgets its start at first, or the random initial weights would stay in it for long.
        decay = min(config.ema, (step + 1) / (step + 10))
        for mean, parameter in zip(average, parameters, strict=False):
            mean.lerp_(parameter.detach(), 1 - decay)
        for name, value in {**terms, "grad_norm": norm}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        done = step + 1
        if done % config.save_every == 0 or done == config.steps:
            count = done - begin
            row = {"step": done, **{name: value / count for name, value in sums.items()}}
            row["seconds_per_step"] = (time.monotonic() - clock) / count
            if evaluate is not None:
                with _averaged(parameters, average):
                    model.eval()
                    row |= evaluate()
                    model.train()
            log.append(row)
            sums, begin, clock = {}, done, time.monotonic()
            _save(folder, model, optimizers, average, done, log)
            print(json.dumps({k: round(v, 5) for k, v in row.items()}), flush=True)
    for mean, parameter in zip(average, parameters, strict=False):
        parameter.data.copy_(mean)
    model.eval()
    return log


def _optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    layers = [m for m in model.modules() if config.muon_lr and isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
    matrices = {m.weight: None for m in layers if m.weight.requires_grad}  # a dict keeps the order
    rest = [p for p in model.parameters() if p.requires_grad and p not in matrices]
    adam = {"params": rest, "lr": config.lr, "peak": config.lr, "weight_decay": config.weight_decay}
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW([adam], betas=(0.9, 0.99))]
    if matrices:
        optimizers.append(Muon([{"params": list(matrices), "peak": config.muon_lr}], lr=config.muon_lr))
    return optimizers


class _averaged:
    """Inside the block, the parameters hold their averages."""

    def __init__(self, parameters: list[nn.Parameter], average: list[Tensor]) -> None:
        self.pairs = list(zip(parameters, average, strict=False))

    def _swap(self) -> None:
        for parameter, mean in self.pairs:
            parameter.data, mean.data = mean.data, parameter.data

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def _save(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: list[Tensor],
    step: int,
    log: list[dict[str, float]],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average,
        "step": step,
        "log": log,
    }
    torch.save(state, folder / "state.tmp")
    os.replace(folder / "state.tmp", folder / "state.pt")
    (folder / "log.tmp").write_text("".join(json.dumps(row) + "\n" for row in log))
    os.replace(folder / "log.tmp", folder / "log.jsonl")


#: Training steps seed their draws with numbers below this one, evaluations from it upwards.
EVALUATION_SEED = 1_000_000_000


def degrade(clips: np.ndarray, rng: np.random.Generator, share: float = 0.6) -> np.ndarray:
    """Blur, noise and JPEG blocks, so that features hold for what comes out of a slightly blurry video model.

    Args:
        clips: uint8 "n t h w c"; the frames of a clip get the same treatment.
        rng: every draw.
        share: of the clips that are touched.
    """
    result = clips.copy()
    for index in np.flatnonzero(rng.random(len(clips)) < share):
        sigma = rng.uniform(0.2, 1.2)  # pixels
        soft = ndimage.gaussian_filter(result[index].astype(np.float32), (0, sigma, sigma, 0), truncate=2)
        noisy = soft + rng.normal(0, rng.uniform(0, 8), soft.shape)
        result[index] = noisy.clip(0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            result[index] = [_recompress(frame, int(rng.integers(40, 90))) for frame in result[index]]
    return result


def _recompress(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


def half_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` with its floats as float16: half the bytes; loaders cast back to float32."""
    return {
        name: (value.half() if value.dtype == torch.float32 else value).contiguous()
        for name, value in model.state_dict().items()
    }

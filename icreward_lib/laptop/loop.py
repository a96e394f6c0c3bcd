"""How all small models are trained: AdamW and Muon, averaged weights, a log; and what several of them need."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from icreward_lib.laptop.muon import Muon
from icreward_lib.run.files import write_text
from icreward_lib.training import Row, Schedule, Training


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


def fit(
    model: nn.Module,
    loss: Callable[[int], dict[str, Tensor]],
    config: LoopConfig,
    folder: Path,
    evaluate: Callable[[], Row] = dict,
) -> list[Row]:
    """Train `model` in place; start again where an earlier, interrupted call stopped.

    Args:
        model: its parameters that require gradients are trained.
        loss: step -> named terms; "loss" is minimised, all are logged. What a step sees must depend on the step alone
            (the global generator is seeded from it), so that a resumed run equals an uninterrupted one.
        folder: for the checkpoint, `state.pt`, and the log, `log.jsonl`.
        evaluate: figures to log at every checkpoint, computed with the averaged weights if there are any.

    Returns:
        The log. The model holds the averaged weights if `config.ema` is set.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters, optimizers = list(trained.values()), _optimizers(model, config)
    made_by = asdict(config) | {"weights": {name: tuple(p.shape) for name, p in trained.items()}}
    training = Training(trained, optimizers, folder / "state.pt", made_by, {"log": []})
    # Without `ema` the average is the last step's weights. It forgets its start at first, or the random initial weights
    # would stay in it for long.
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
    schedule = Schedule(config.steps, config.save_every, warmup=config.warmup, least=0.05, clip=config.clip)
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

"""What every training here shares: steps of gradient descent, kept so that a later call goes on from them exactly."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from icreward_lib.run.files import atomic
from icreward_lib.run.processes import barrier, processes, rank

Row = dict[str, float]


@dataclass(frozen=True)
class Schedule:
    """How many steps, with what share of the optimizers' rates: a linear rise over `warmup`, a cosine down to `least`.

    `clip` bounds the gradient's norm. A look, and a checkpoint, follows every `every` steps and the last.
    """

    steps: int
    every: int
    warmup: int = 0
    least: float = 0.0
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Share of the peak rates at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.least + (1 - self.least) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Training:
    """Parameters that train, their optimizers and what else is to be kept: as new, or as in the checkpoint `path`.

    ValueError if that is damaged, or was made by something else.
    """

    trained: Mapping[str, nn.Parameter]  # the checkpoint's are copied into them
    optimizers: Sequence[torch.optim.Optimizer]  # with their peak rates
    path: Path
    made_by: dict[str, Any]  # numbers and texts, all that the outcome depends on
    kept: dict[str, Any] = field(default_factory=dict)  # tensors, numbers, texts, and lists and dicts of them
    done: int = 0  # steps so far

    def __post_init__(self) -> None:
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["initial_lr"] = group["lr"]  # torch's name for the peak; it is saved with the group
        if not self.path.is_file():
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"The checkpoint {self.path} is damaged: delete it to train from the start.") from error
        made_by = state.get("made_by", {})
        if changed := sorted(k for k in self.made_by | made_by if made_by.get(k) != self.made_by.get(k)):
            raise ValueError(
                f"The checkpoint {self.path} is of a training that differs in {', '.join(changed)}: "
                "delete it or use another folder."
            )
        self.load(state["trained"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.kept, self.done = state["kept"], state["done"]

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into the parameters of the same names."""
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])

    def weights(self) -> dict[str, Tensor]:
        """A copy of the parameters as they are, on the CPU."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trained.items()}

    def run(
        self, schedule: Schedule, descend: Callable[[int], Row], look: Callable[[int, Sequence[Row]], None]
    ) -> None:
        """Make the steps that are left. Of several processes the gradients are summed, all look and the first saves.

        `descend` adds the gradients of a step, counted from 0, to the parameters, and tells figures of it; what it sees
        must depend on the step alone. `look` is given the steps done, and the figures of those since the last look,
        each with its "grad_norm"; a checkpoint follows, so that a training that dies in it looks again.
        """
        barrier()  # the processes know each other from here on
        parameters = list(self.trained.values())
        rows: list[Row] = []
        for step in range(self.done, schedule.steps):
            row = descend(step)
            if processes() > 1:
                gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
                total = parameters_to_vector(gradients)
                torch.distributed.all_reduce(total)
                vector_to_parameters(total, gradients)
            norm = clip_grad_norm_(parameters, schedule.clip)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * schedule.rate(step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            rows.append({**row, "grad_norm": float(norm)})
            self.done = step + 1
            if self.done % schedule.every == 0 or self.done == schedule.steps:
                look(self.done, rows)
                self.save()
                rows = []

    def save(self) -> None:
        """Write the checkpoint."""
        if rank() != 0:
            return
        state = {
            "made_by": self.made_by,
            "done": self.done,
            "trained": self.weights(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "kept": self.kept,
        }
        with atomic(self.path) as temporary:
            buffer = io.BytesIO()  # torch hides why it could not write; a full disk has to show
            torch.save(state, buffer)
            temporary.write_bytes(buffer.getbuffer())


def digest(*tensors: Tensor) -> str:
    """A short hash of what tensors hold."""
    state = hashlib.sha256()
    for values in tensors:
        state.update(values.contiguous().cpu().view(torch.uint8).numpy().data)  # NumPy has no bfloat16
    return state.hexdigest()[:16]

"""Muon (Jordan et al. 2024): momentum whose matrices are orthogonalised before each step.

The convolutional autoencoder needs about five times fewer steps with it than with AdamW. torch's own class takes
matrices only (no convolutions) and works in bfloat16, which some CPUs advertise and then crash on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """For weights of two and more dimensions; all but the first are taken as one."""

    def __init__(self, parameters: Any, lr: float, momentum: float = 0.95) -> None:
        """`lr` is the spectral norm of a step; 0.02 suits most layers."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"].mul_(group["momentum"]).add_(parameter.grad)
                update = (parameter.grad + group["momentum"] * average).flatten(1)
                rows, columns = update.shape
                # Tall matrices move further, so that outputs change alike whatever the layer's shape.
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.add_(orthogonal(update).view_as(parameter), alpha=-size)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with all singular values about 1 (0.7 to 1.2), by a quintic Newton-Schulz iteration."""
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T

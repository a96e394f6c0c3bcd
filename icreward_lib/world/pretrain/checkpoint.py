"""How the weights of a trained model are stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def half_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` with its floats as float16: half the bytes; loaders cast back to float32."""
    return {
        name: (value.half() if value.dtype == torch.float32 else value).contiguous()
        for name, value in model.state_dict().items()
    }

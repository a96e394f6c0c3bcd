"""Whether a clip moves, seen by the vision tower: what keeps a frozen clip from being the best of all."""

from __future__ import annotations

import torch
from torch import Tensor


def movement(tokens: Tensor) -> Tensor:
    """How far the tokens (B,G,N,D) of each frame group are from those of the group before, relative to their length.

    (B,G), 0 where nothing changes; the first group's is the next one's. All 0 for a single group.
    """
    if tokens.shape[1] < 2:
        return tokens.new_zeros(tokens.shape[:2])
    steps = (tokens[:, 1:] - tokens[:, :-1]).norm(dim=-1).mean(-1)
    steps = steps / tokens.norm(dim=-1).mean((1, 2))[:, None]
    return torch.cat([steps[:, :1], steps], dim=1)


def moves(tokens: Tensor, moving: float) -> Tensor:
    """Whether the frame groups of tokens (B,G,N,D) move: (B,G), 1 from a `movement` of `moving` on, 0 without any."""
    return (movement(tokens) / moving).clamp(max=1)


def with_motion(scores: Tensor, tokens: Tensor, moving: float | None) -> Tensor:
    """Scores (B,G,D) of tokens (B,G,N,C), with what `moves` says as a further dimension if `moving` is a number."""
    return scores if moving is None else torch.cat([scores, moves(tokens, moving)[..., None]], dim=-1)

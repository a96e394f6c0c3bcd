"""The image-consistency head: video tokens look up reference tokens and are compared with what they find."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icreward_lib.rewards.base import DIMENSIONS


class Consistency(NamedTuple):
    """Consistency in [0,1]: `groups` (B,G,2) per frame group, `tokens` (B,G,N,2) per video token."""

    groups: Tensor
    tokens: Tensor


class Tokens(NamedTuple):
    """The two readings (..., D) of the same tokens: by the vision tower and by the language model."""

    vision: Tensor
    context: Tensor


class ConsistencyHead(nn.Module):
    """Attention from video to reference, comparison, attention pooling.

    Both sides are projected alike, as only then "equal" means zero difference: the vision tokens plus the language
    model's states, from zero on, as causality makes those of the two sides unlike. The evidence at token i
    for dimension d is e = s_d * mean cos(found, own) + MLP(cosines, |difference|, own). `tokens` is sigmoid(e + b_d),
    a group's score sigmoid(sum_i a_i e_i + b_d); the joint state sets b and the queries behind the weights a.
    """

    def __init__(self, hidden_size: int, size: int, num_heads: int, *, temporal: bool = False) -> None:
        """A new head of width `size` on states of width `hidden_size`; `temporal` also shows it each token's change."""
        super().__init__()
        if size % num_heads:
            raise ValueError(f"the head's size {size} must be a multiple of its {num_heads} attention heads")
        outputs = len(DIMENSIONS)
        self.num_heads, self.temporal = num_heads, temporal
        self.vision_norm, self.context_norm, self.joint_norm = (nn.LayerNorm(hidden_size) for _ in range(3))
        self.vision, self.context = (nn.Linear(hidden_size, size, bias=False) for _ in range(2))
        self.query, self.key = (nn.Linear(size, size, bias=False) for _ in range(2))
        self.sharpness = nn.Parameter(torch.full((num_heads, 1, 1), 10.0))
        self.scale = nn.Parameter(torch.full((outputs,), 4.0))
        self.compare = nn.Linear(num_heads + (3 if temporal else 2) * size, size)
        self.judge = nn.Linear(size, outputs)
        self.pool_key = nn.Linear(2 * size, size, bias=False)
        self.pool_query = nn.Linear(hidden_size, outputs * size)
        self.bias = nn.Linear(hidden_size, outputs)
        for weight in (self.context.weight, self.judge.weight, self.judge.bias):
            nn.init.zeros_(weight)
        for weight in (self.query.weight, self.key.weight):
            nn.init.eye_(weight)

    def _change(self, own: Tensor) -> Tensor:
        """How far each token (B,G,N,size) is from that of its place a group before; the first group's is the next's."""
        unit = F.normalize(own, dim=-1)
        change = (unit[:, 1:] - unit[:, :-1]).abs() * own.shape[-1] ** 0.5
        return torch.cat([change[:, :1], change], dim=1)

    def _split(self, x: Tensor) -> Tensor:
        """(B,N,size) -> (B,heads,N,size/heads)."""
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _project(self, tokens: Tokens) -> Tensor:
        own: Tensor = self.vision(self.vision_norm(tokens.vision))
        return own + self.context(self.context_norm(tokens.context))

    def forward(self, video: Tokens, reference: Tokens, joint: Tensor) -> Consistency:
        """Compare `video` tokens (B,G,N,D) with `reference` tokens (B,M,D), given the `joint` state (B,D)."""
        shape = video.vision.shape[:3]
        own, kept = self._project(video).flatten(1, 2), self._project(reference)
        own_heads, kept_heads = self._split(own), self._split(kept)
        found = F.scaled_dot_product_attention(
            F.normalize(self._split(self.query(own)), dim=-1) * self.sharpness,
            F.normalize(self._split(self.key(kept)), dim=-1),
            kept_heads,
            scale=1.0,
        )
        cosines = F.cosine_similarity(found, own_heads, dim=-1).transpose(1, 2)
        found = found.transpose(1, 2).flatten(2)
        difference = F.normalize(own, dim=-1) - F.normalize(found, dim=-1)
        compared = [cosines, difference.abs() * own.shape[-1] ** 0.5, own]
        if self.temporal:
            compared.append(self._change(own.unflatten(1, shape[1:])).flatten(1, 2))
        judged = self.judge(F.gelu(self.compare(torch.cat(compared, dim=-1))))
        evidence = self.scale * cosines.mean(-1, keepdim=True) + judged

        joint = self.joint_norm(joint)
        bias = self.bias(joint)
        queries = self.pool_query(joint).unflatten(-1, (len(DIMENSIONS), -1))
        keys = self.pool_key(torch.cat([own, difference * own.shape[-1] ** 0.5], dim=-1))
        attention = torch.einsum("bnc,bdc->bnd", keys, queries) / keys.shape[-1] ** 0.5

        evidence, attention = evidence.unflatten(1, shape[1:]), attention.unflatten(1, shape[1:])
        pooled = (attention.softmax(dim=2) * evidence).sum(dim=2)
        return Consistency(torch.sigmoid(pooled + bias[:, None]), torch.sigmoid(evidence + bias[:, None, None]))


def movement(tokens: Tensor) -> Tensor:
    """How far tokens (B,G,N,D) are from those of the group before, by their length: (B,G); the first as the next."""
    if tokens.shape[1] < 2:
        return tokens.new_zeros(tokens.shape[:2])
    steps = (tokens[:, 1:] - tokens[:, :-1]).norm(dim=-1).mean(-1) / tokens.norm(dim=-1).mean((1, 2))[:, None]
    return torch.cat([steps[:, :1], steps], dim=1)


def with_motion(scores: Tensor, tokens: Tensor, moving: float | None) -> Tensor:
    """Scores (B,G,D) of tokens (B,G,N,C) and, if `moving` is a number, whether they move: 1 from that `movement` on."""
    if moving is None:
        return scores
    return torch.cat([scores, (movement(tokens) / moving).clamp(max=1)[..., None]], dim=-1)

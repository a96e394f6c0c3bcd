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

    Looking up and comparing happen in one space, a shared projection of both sides, because only there does
    "equal" mean zero difference. The projection reads the vision tokens, which know their own picture and
    nothing else, plus the language model's states, which add the time line and whatever LoRA learns. The
    second part starts at zero: causality lets reference states see the video but not the reverse, so the two
    sides of it are not alike and the comparison must first learn how much of it to trust.

    For token i and dimension d the evidence is e = s_d * cos(found, own), averaged over heads, plus
    MLP(cosines, |difference|, own). `tokens` is sigmoid(e + b_d), a group's score sigmoid(sum_i a_i e_i + b_d):
    the score is its map, pooled in logits. The language model's state at the image-consistency token sets the
    bias b and the queries behind the pooling weights a.
    """

    def __init__(self, hidden_size: int, size: int, num_heads: int, *, temporal: bool = False) -> None:
        """A new head of width `size` on states of width `hidden_size`.

        With `temporal` the evidence also rests on the difference of every token from that of its place in the group
        before: none at all in a frozen clip.
        """
        super().__init__()
        if size % num_heads:
            raise ValueError(f"the head's size {size} must be a multiple of its {num_heads} attention heads")
        outputs = len(DIMENSIONS)
        self.num_heads, self.temporal = num_heads, temporal
        self.vision_norm, self.context_norm, self.joint_norm = (nn.LayerNorm(hidden_size) for _ in range(3))
        self.vision = nn.Linear(hidden_size, size, bias=False)
        self.context = nn.Linear(hidden_size, size, bias=False)
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.sharpness = nn.Parameter(torch.full((num_heads, 1, 1), 10.0))
        self.scale = nn.Parameter(torch.full((outputs,), 4.0))
        self.compare = nn.Linear(num_heads + (3 if temporal else 2) * size, size)
        self.judge = nn.Linear(size, outputs)
        self.pool_key = nn.Linear(2 * size, size, bias=False)
        self.pool_query = nn.Linear(hidden_size, outputs * size)
        self.bias = nn.Linear(hidden_size, outputs)
        nn.init.zeros_(self.context.weight)
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight)
        nn.init.zeros_(self.judge.weight)
        nn.init.zeros_(self.judge.bias)

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
        context: Tensor = self.context(self.context_norm(tokens.context))
        return own + context

    def forward(self, video: Tokens, reference: Tokens, joint: Tensor) -> Consistency:
        """Compare `video` tokens (B,G,N,D) with `reference` tokens (B,M,D), given the `joint` state (B,D)."""
        shape = video.vision.shape[:3]
        own = self._project(video).flatten(1, 2)
        kept = self._project(reference)
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
        features = torch.cat(compared, dim=-1)
        evidence = self.scale * cosines.mean(-1, keepdim=True) + self.judge(F.gelu(self.compare(features)))

        joint = self.joint_norm(joint)
        bias = self.bias(joint)
        queries = self.pool_query(joint).unflatten(-1, (len(DIMENSIONS), -1))
        keys = self.pool_key(torch.cat([own, difference * own.shape[-1] ** 0.5], dim=-1))
        attention = torch.einsum("bnc,bdc->bnd", keys, queries) / keys.shape[-1] ** 0.5

        evidence, attention = evidence.unflatten(1, shape[1:]), attention.unflatten(1, shape[1:])
        pooled = (attention.softmax(dim=2) * evidence).sum(dim=2)
        return Consistency(
            groups=torch.sigmoid(pooled + bias[:, None]),
            tokens=torch.sigmoid(evidence + bias[:, None, None]),
        )


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

"""Clips as the rewards read them, with their labels and what people said of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from icreward_lib.training import digest


@dataclass(frozen=True)
class ClipDataset:
    """N labelled clips as the models read them.

    `video` is (N,T,D) CLIP features or (N,G,h,w,D) vision tokens; `references` (S,...) has a row per image, `sample`
    (N,) says which is a clip's. `labels` (N,) and `dimension_labels` (N,2) lie in [0,1], nan where there is none.
    `pairs` (M,2) are clips of one image that people compared, `votes` (M,2) theirs for each with half of the ties.
    """

    video: Tensor
    references: Tensor
    sample: Tensor
    labels: Tensor
    dimension_labels: Tensor
    pairs: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.long))
    votes: Tensor = field(default_factory=lambda: torch.empty(0, 2))

    def __post_init__(self) -> None:
        if not len(self) or {len(self.sample), len(self.labels), len(self.dimension_labels)} != {len(self)}:
            raise ValueError(f"a data set needs clips, and a sample and labels for each; it has {len(self)} clips")
        for values in (self.labels, self.dimension_labels):
            if not (values.isnan() | (values >= 0) & (values <= 1)).all():
                raise ValueError("labels must lie in [0,1]")
        if self.votes.shape != self.pairs.shape or not ((self.votes >= 0) & self.votes.isfinite()).all():
            raise ValueError("pairs need a number of votes from 0 for each of their clips")
        if not (self.sample[self.pairs[:, 0]] == self.sample[self.pairs[:, 1]]).all():
            raise ValueError("the clips of a pair must be of one image")

    def __len__(self) -> int:
        return len(self.video)

    def wins(self, rows: Tensor) -> Tensor:
        """How often clips `rows` (B,) beat each other, (B,B): people's votes, or the labels' order."""
        if not len(self.pairs):
            labels, sample = self.labels[rows], self.sample[rows]
            return ((sample[:, None] == sample) & (labels[:, None] > labels)).float()
        place = torch.full((len(self),), -1)
        place[rows] = torch.arange(len(rows))
        here = place[self.pairs]  # -1: not in this batch
        both = (here >= 0).all(1)
        first, second = here[both].T
        wins = self.votes.new_zeros(len(rows), len(rows))
        wins.index_put_((first, second), self.votes[both, 0], accumulate=True)
        return wins.index_put_((second, first), self.votes[both, 1], accumulate=True)

    def part(self, rows: Tensor) -> ClipDataset:
        """Some of the clips, (M,), without votes."""
        chosen = {name: getattr(self, name)[rows] for name in ("video", "sample", "labels", "dimension_labels")}
        return ClipDataset(references=self.references, **chosen)

    def joined(self, other: ClipDataset) -> ClipDataset:
        """The clips, images and votes of both, `other`'s after these."""
        theirs = vars(other) | {"sample": other.sample + len(self.references), "pairs": other.pairs + len(self)}
        return ClipDataset(**{name: torch.cat([mine, theirs[name]]) for name, mine in vars(self).items()})

    def digest(self) -> str:
        """A short hash of all tensors."""
        return digest(*vars(self).values())


def pairwise_loss(scores: Tensor, wins: Tensor) -> Tensor:
    """Mean Bradley-Terry loss of scores (B,) in (0,1) by `wins` (B,B), how often clip i (row) beat j; 0 if none."""
    logits = torch.logit(scores, eps=1e-6)
    losses = F.softplus(-(logits[:, None] - logits))
    return (losses * wins).sum() / (wins.sum() + (wins.sum() == 0))

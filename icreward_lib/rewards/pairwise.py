"""Bradley-Terry on pairs of clips: by the order of their labels, or by people's votes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_loss(scores: Tensor, wins: Tensor) -> Tensor:
    """Bradley-Terry loss -log sigmoid(logit s_i - logit s_j) of scores (B,) in (0,1).

    Mean over pairs weighted by `wins` (B,B), how often clip i (row) beat clip j; 0 if there are none.
    """
    logits = torch.logit(scores, eps=1e-6)
    losses = F.softplus(-(logits[:, None] - logits))
    return (losses * wins).sum() / (wins.sum() + (wins.sum() == 0))


def label_order(labels: Tensor, sample: Tensor) -> Tensor:
    """Wins (B,B): 1 where a clip has a higher label than another of its sample."""
    return ((sample[:, None] == sample) & (labels[:, None] > labels)).float()


def vote_order(pairs: Tensor, votes: Tensor, rows: Tensor) -> Tensor:
    """Wins (B,B) of the clips `rows` (B,), by people.

    Args:
        pairs: (M,2), clips that were compared.
        votes: (M,2), votes for the first and the second of a pair, with half of the ties each.
        rows: the clips of a batch, every clip once.
    """
    place = torch.full((int(max(pairs.max(), rows.max())) + 1,), -1)
    place[rows] = torch.arange(len(rows))
    here = place[pairs]  # -1: not in this batch
    both = (here >= 0).all(1)
    first, second = here[both].T
    wins = votes.new_zeros(len(rows), len(rows))
    wins.index_put_((first, second), votes[both, 0], accumulate=True)
    wins.index_put_((second, first), votes[both, 1], accumulate=True)
    return wins

"""The smallest trainable reward, data for it, and clips that keep or lose a colour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from icreward_lib.rewards import training
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.video import Video


class Line(nn.Module):
    """The smallest trainable reward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.zeros_(self.layer.bias)
        self.register_buffer("weights", torch.tensor([0.5, 0.5]))

    def forward(self, video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layer(torch.cat([video, reference[:, None].expand_as(video)], -1)))


def points(samples: int = 12, seed: int = 0) -> ClipDataset:
    g = torch.Generator().manual_seed(seed)
    sample = torch.arange(samples).repeat_interleave(2)
    video = torch.rand(2 * samples, 4, 3, generator=g)
    labels = video.mean((1, 2))
    return ClipDataset(video, torch.rand(samples, 3, generator=g), sample, labels, torch.stack([labels] * 2, 1))


class Killed(Exception):
    pass


@contextmanager
def killed_after(epochs: int | None) -> Iterator[None]:
    """A training of a reward in here dies once it has kept so many more epochs; it does not if None."""
    validate, left = training._validate, epochs

    def counting(*arguments: Any) -> list[float]:
        nonlocal left
        if left == 0:
            raise Killed
        left = None if left is None else left - 1
        return validate(*arguments)

    with mock.patch.object(training, "_validate", counting):
        yield


def coloured(reward: ICRewardModel, samples: int, seed: int) -> ClipDataset:
    """Two clips for each coloured image: one keeps the colour, one has another."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (samples, 2, 1, 1, 3))
    noisy = np.clip(colours[:, :, None] + rng.normal(0, 8, (samples, 2, 5, 32, 32, 3)), 0, 255).astype(np.uint8)
    videos = [Video(noisy[s, c, 1:], 8.0) for s in range(samples) for c in range(2)]
    labels = torch.tensor([0.9, 0.1]).repeat(samples)
    return ClipDataset(
        video=reward.encode_videos(videos),
        references=reward.encode_images([noisy[s, 0, 0] for s in range(samples)]),
        sample=torch.arange(samples).repeat_interleave(2),
        labels=labels,
        dimension_labels=torch.stack([labels, labels], 1),
    )


def with_votes(data: ClipDataset) -> ClipDataset:
    """Both clips of every image compared; every third image has no labels, another third no votes."""
    first = torch.arange(0, len(data), 2)
    number = first // 2
    bare = (number % 3 == 0).repeat_interleave(2)
    kept = number % 3 != 1
    pairs = torch.stack([first, first + 1], 1)[kept]
    return replace(
        data,
        labels=data.labels.masked_fill(bare, torch.nan),
        dimension_labels=data.dimension_labels.masked_fill(bare[:, None], torch.nan),
        pairs=pairs,
        votes=torch.stack([3.0 + number, 5.5 - number / 4], 1)[kept],
    )

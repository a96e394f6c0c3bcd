"""A new head on the body of a trained ICReward, which reads every clip once and costs a hundred times as much."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.head import ConsistencyHead, Tokens, with_motion
from icreward_lib.rewards.icreward import ICRewardModel


class HeadOnCachedStates(nn.Module):
    """The head of an ICReward on clips of `read`: trained in place, the reward's own head is then a trained one."""

    def __init__(self, reward: ICRewardModel, data: ClipDataset) -> None:
        """Take the head of `reward`; `data` has clips (N,G,h,w,D) and references (S,h',w',D) of the shape to come."""
        super().__init__()
        self.head, self.moving = reward.head, reward.config.moving
        groups, height, width = data.video.shape[1:4]
        self.video, self.reference = (groups, height * width), data.references.shape[1] * data.references.shape[2]
        self.register_buffer("weights", reward.weights, persistent=False)
        self.weights: Tensor

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        """Scores (B,G,D) in [0,1] of what `read` gave (B,L,D); it has the references in it."""
        del reference
        groups, tokens = self.video
        count = groups * tokens
        own, context, seen, kept, joint = video.split([count, count, self.reference, self.reference, 1], dim=1)
        own, context = (values.unflatten(1, (groups, tokens)) for values in (own, context))
        scores: Tensor = self.head(Tokens(own, context), Tokens(seen, kept), joint[:, 0]).groups
        return with_motion(scores, own, self.moving)


@torch.no_grad()
def read(reward: ICRewardModel, data: ClipDataset, *, batch_size: int = 64) -> ClipDataset:
    """The same clips with tokens and states of clip and reference, and the consistency token's, (N,L,D), as `video`."""
    parts = []
    for rows in torch.arange(len(data)).split(batch_size):
        video, reference = data.video[rows].to(reward.device), data.references[data.sample[rows]].to(reward.device)
        states = reward.read(video, reference)
        clip = [video.float().flatten(1, 3), states.video.flatten(1, 3)]
        picture = [reference.float().flatten(1, 2), states.reference.flatten(1, 2)]
        parts.append(torch.cat([*clip, *picture, states.rewards[:, -1:]], dim=1).cpu())
    return replace(data, video=torch.cat(parts), references=torch.zeros(len(data.references), 1))


def with_new_head(reward: ICRewardModel, *, seed: int) -> ICRewardModel:
    """The reward itself, its head replaced by an untrained one that also looks at what changes over time."""
    reward.config = config = replace(reward.config, temporal=True)
    width = reward.reward_embeddings.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reward.head = ConsistencyHead(width, config.head_size, config.head_attention, temporal=True).to(reward.device)
    return reward

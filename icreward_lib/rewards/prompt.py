"""What ICReward reads around its pictures: the rubric and the reward tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

#: Visual and motion quality as in VideoReward, and ours in the place of its text alignment.
REWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|IC_reward|>")

#: VideoReward's order with a rubric short enough for a small model.
SHORT_TEMPLATE = (
    "<|im_start|>user<|vision_start|>{video}<|vision_end|>does the video keep the image"
    "<|VQ_reward|><|MQ_reward|><|vision_start|>{reference}<|vision_end|><|IC_reward|>"
)


@dataclass(frozen=True)
class Prompt:
    """Token ids of the text before the video, between video and reference, and after the reference."""

    before: Tensor
    rubric: Tensor
    after: Tensor

    @property
    def ids(self) -> Tensor:
        """All three parts, one after the other."""
        return torch.cat([self.before, self.rubric, self.after])

    @property
    def lengths(self) -> tuple[int, int, int]:
        """The number of tokens of each part."""
        return len(self.before), len(self.rubric), len(self.after)


def read_template(template: str, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Tokenise `template`: `{video}`, the quality tokens, `{reference}`, the IC token, once each, in order.

    By causality the quality tokens then cannot depend on the reference, and nothing after the IC token could
    matter, so the template ends with it. The tokenizer must know `REWARD_TOKENS`. ValueError for any other
    template.
    """
    order = ("{video}", *REWARD_TOKENS[:2], "{reference}", REWARD_TOKENS[2])
    places = [template.find(part) for part in order]
    if places != sorted(places) or any(template.count(part) != 1 for part in order):
        raise ValueError(f"the template must name {', '.join(order)} once each, in this order: {template!r}")
    if not template.endswith(REWARD_TOKENS[2]):
        raise ValueError(f"the template must end with {REWARD_TOKENS[2]}: {template!r}")
    before, rest = template.split("{video}")
    texts = (before, *rest.split("{reference}"))
    return Prompt(*(torch.tensor(tokenizer(text, add_special_tokens=False).input_ids) for text in texts))

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

#: A rubric about as long as VideoReward's, in its order and inside Qwen2-VL's chat, for models of full size. The
#: wording is ours: VideoReward's own text is part of its code, and gives its very logits as another `template`.
DETAILED_TEMPLATE = """<|im_start|>system
You are a helpful assistant.<|im_end|>
<|im_start|>user
<|vision_start|>{video}<|vision_end|>
You are an experienced judge of generated video. Watch the clip above and rate it from 0 (unusable) to 10 \
(flawless) in three respects. Rate each of them on its own merits; one must not colour another.

**1. Visual quality**: how good are the single frames, whatever happens between them?
- Plausibility: bodies, objects and places are built as they could be, with no missing, merged or surplus parts.
- Sharpness: edges and textures are clear, without blur, blocks, noise or banding.
- Detail: surfaces, light and shadow are rich and agree with each other.
- Appeal: composition and colour are balanced and pleasing.
- Decency: nothing is disturbing, violent or offensive.
Visual quality: <|VQ_reward|>

**2. Motion quality**: how good is what happens between the frames?
- Steadiness: no flicker, no jitter, no sudden jump, nothing that comes from or goes into nowhere.
- Physics: things move, bend, collide and fall as their weight and material ask for.
- Fluency: movement is smooth and at a credible speed, of subjects and of the camera.
- Coherence: moving things stay attached to the scene, and stay sharp while they move.
- Amount: something moves; a clip that all but stands still rates low.
Motion quality: <|MQ_reward|>

**3. Image consistency**: the clip was generated from the reference image below, which should be its first frame. \
How faithfully does the clip keep the image?
- Subject: the main subject keeps its identity, shape, proportions, colours, markings and clothing.
- Background: place, layout, objects and light stay those of the image, also where the camera moves on.
- Style: medium, palette and level of detail of the image last to the end.
- Drift: the last frames keep the image as well as the first; what leaves the view and returns is the same.
Changes of pose and viewpoint that the motion brings about are no faults.
Reference image: <|vision_start|>{reference}<|vision_end|>
Image consistency: <|IC_reward|>"""


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

"""What ICReward reads around its pictures: the rubric and the reward tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icreward_lib.rewards.backbone import frame_count
from icreward_lib.rewards.base import check_weights
from icreward_lib.video import Video

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


class Prompt(NamedTuple):
    """Token ids of the text before the video, between video and reference, and after the reference."""

    before: Tensor
    rubric: Tensor
    after: Tensor


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


@dataclass(frozen=True)
class ICRewardConfig:
    """The text, frames read of each clip, sizes of head and LoRA, shares of subject and background.

    Of each clip `num_frames` frames are read (even); with `fps`, so many a second as `frame_count` says and at
    most `num_frames`. `frame_pixels` bounds the pixels of a frame and of the reference, which are resized
    with their aspect kept; without it the base's own processor says what they are resized to. With `temporal` the head
    also compares each frame group with the one before it; with `moving`, as of
    `head.with_motion`, the reward has motion as a third dimension.
    """

    template: str = SHORT_TEMPLATE
    num_frames: int = 8
    fps: float | None = None
    frame_pixels: tuple[int, int] | None = None
    head_size: int = 128
    head_attention: int = 4
    lora_rank: int = 16
    lora_alpha: int = 32
    weights: tuple[float, float] = (0.5, 0.5)
    temporal: bool = False
    moving: float | None = None

    def __post_init__(self) -> None:
        check_weights(self.weights)
        if self.num_frames < 2 or self.num_frames % 2:
            raise ValueError(f"num_frames must be even and at least 2, got {self.num_frames}")
        if self.moving is not None and self.moving <= 0:
            raise ValueError(f"moving must be positive, got {self.moving}")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if self.frame_pixels is not None and not 0 < self.frame_pixels[0] <= self.frame_pixels[1]:
            raise ValueError(f"frame_pixels must be a least and a greatest number, got {self.frame_pixels}")

    def frames_of(self, video: Video) -> int:
        """How many frames are read of `video`, if it has them."""
        if self.fps is None:
            return self.num_frames
        return frame_count(video.num_frames, clip_fps=video.fps, fps=self.fps, at_most=self.num_frames)

    @property
    def picture_size(self) -> dict[str, dict[str, int]]:
        """`frame_pixels` as an argument of Qwen2-VL's processors, which call areas edges."""
        if self.frame_pixels is None:
            return {}
        least, most = self.frame_pixels
        return {"size": {"shortest_edge": least, "longest_edge": most}}


#: What goes with the public checkpoint of VideoReward: the frames and pixels that it was trained to see (2 frames
#: a second; upstream's bounds for a frame are 128 and 256 tokens of 28 x 28 pixels), its LoRA, a text of its kind.
VIDEOREWARD_CONFIG = ICRewardConfig(
    template=DETAILED_TEMPLATE,
    num_frames=768,
    fps=2.0,
    frame_pixels=(128 * 28 * 28, 256 * 28 * 28),
    lora_rank=64,
    lora_alpha=128,
)

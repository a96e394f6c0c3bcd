"""What ICReward reads around its pictures: the rubric and the reward tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from icreward_lib.rewards.base import check_weights
from icreward_lib.video import Video

# Visual and motion quality as in VideoReward, and ours in the place of its text alignment.
REWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|IC_reward|>")
# VideoReward's order with a rubric short enough for a small model.
SHORT_TEMPLATE = (
    "<|im_start|>user<|vision_start|>{video}<|vision_end|>does the video keep the image"
    "<|VQ_reward|><|MQ_reward|><|vision_start|>{reference}<|vision_end|><|IC_reward|>"
)
# A rubric about as long as VideoReward's, in its order and inside Qwen2-VL's chat, for models of full size. The
# wording is ours: VideoReward's own text is part of its code, and gives its very logits as another `template`.
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
    """Tokenise `template`: `{video}`, the quality tokens, `{reference}` and, last, the IC token, once each, in order.

    By causality the qualities cannot depend on the reference. ValueError for any other template.
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
    """The text, frames read of each clip, sizes of head and LoRA, shares of subject and background."""

    template: str = SHORT_TEMPLATE
    num_frames: int = 8  # even
    fps: float | None = None  # frames to read a second; then num_frames is the most of them
    frame_pixels: tuple[int, int] | None = None  # least and most of a frame and the reference; None: by the base
    head_size: int = 128
    head_attention: int = 4
    lora_rank: int = 16
    lora_alpha: int = 32
    weights: tuple[float, float] = (0.5, 0.5)
    temporal: bool = False  # the head also compares each frame group with the one before it
    moving: float | None = None  # `head.with_motion`: motion as a third dimension

    def __post_init__(self) -> None:
        check_weights(self.weights)
        if self.num_frames < 2 or self.num_frames % 2:
            raise ValueError(f"num_frames must be even and at least 2, got {self.num_frames}")
        for name, value in (("moving", self.moving), ("fps", self.fps)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.frame_pixels is not None and not 0 < self.frame_pixels[0] <= self.frame_pixels[1]:
            raise ValueError(f"frame_pixels must be a least and a greatest number, got {self.frame_pixels}")

    def frames_of(self, video: Video) -> int:
        """How many frames are read of `video`, if it has them: with `fps` as VideoReward does, even and at least 4."""
        if self.fps is None:
            return self.num_frames
        wanted = min(max(video.num_frames / video.fps * self.fps, 4), min(self.num_frames, video.num_frames) // 2 * 2)
        return max(2, round(wanted / 2) * 2)

    @property
    def picture_size(self) -> dict[str, dict[str, int]]:
        """`frame_pixels` as an argument of Qwen2-VL's processors, which call areas edges."""
        edges = ("shortest_edge", "longest_edge")
        return {"size": dict(zip(edges, self.frame_pixels, strict=True))} if self.frame_pixels else {}


# What goes with the public checkpoint of VideoReward: frames and pixels as it was trained (upstream's bounds for a
# frame are 128 and 256 tokens of 28 x 28 pixels), its LoRA, a text of its kind.
_PIXELS = (128 * 28 * 28, 256 * 28 * 28)
VIDEOREWARD_CONFIG = ICRewardConfig(DETAILED_TEMPLATE, 768, fps=2.0, frame_pixels=_PIXELS, lora_rank=64, lora_alpha=128)

"""The settings of ICReward, and those that go with the public VideoReward."""

from __future__ import annotations

from dataclasses import dataclass

from icreward_lib.rewards.backbone import frame_count
from icreward_lib.rewards.base import check_weights
from icreward_lib.rewards.prompt import DETAILED_TEMPLATE, SHORT_TEMPLATE
from icreward_lib.video import Video


@dataclass(frozen=True)
class ICRewardConfig:
    """The text, frames read of each clip, sizes of head and LoRA, shares of subject and background.

    Of each clip `num_frames` frames are read (even); with `fps`, so many a second as `frame_count` says and at
    most `num_frames`. `frame_pixels` bounds the pixels of a frame and of the reference, which are resized
    with their aspect kept; without it the base's own processor says what they are resized to. With `temporal` the head
    also compares each frame group with the one before it; with `moving`, as of
    `movement.with_motion`, the reward has motion as a third dimension.
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

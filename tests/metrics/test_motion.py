"""Dynamic degree: zero when frozen, the right unit, monotone in speed, cheap."""

import time

import numpy as np
import pytest
import skimage.data
from skimage.transform import resize

from icreward_lib.metrics.motion import dynamic_degree, dynamic_degrees
from icreward_lib.video import Video

FINE = resize(skimage.data.astronaut(), (256, 512), anti_aliasing=True)  # four pixels to one of the clips


def pan(speed: float, *, frames: int = 17, fps: float = 8.0) -> Video:
    """A 64x64 camera moving right over a photograph by `speed` (0, 1/4, ... 4) pixels a frame."""
    windows = [FINE[:, round(4 * speed * t) :][:, :256] for t in range(frames)]
    small = [window.reshape(64, 4, 64, 4, 3).mean((1, 3)) for window in windows]
    return Video((np.array(small) * 255).round().astype(np.uint8), fps)


def sticker(speed: int) -> Video:
    """A still photograph on which a patterned square of 16 pixels moves down."""
    frames = pan(0).frames.copy()
    patch = frames[0, 40:56, 4:20][::-1].copy()
    for t, frame in enumerate(frames):
        top = 4 + (speed * t) % 40
        frame[top : top + 16, 24:40] = patch
    return Video(frames, 8.0)


def test_frozen_is_zero() -> None:
    assert dynamic_degree(pan(0)) == 0


@pytest.mark.property
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0, 4.0])
def test_unit_is_frame_widths_per_second(speed: float) -> None:
    assert dynamic_degree(pan(speed)) == pytest.approx(speed / 64 * 8, rel=0.25)


@pytest.mark.property
def test_monotone_in_speed() -> None:
    degrees = [dynamic_degree(pan(speed)) for speed in (0, 0.25, 0.5, 1, 2, 3, 4)]
    assert degrees == sorted(degrees) and len(set(degrees)) == len(degrees)
    small = [dynamic_degree(sticker(speed)) for speed in (0, 1, 2)]
    assert small == sorted(small) and small[0] == 0 and small[1] > 0.05


def test_unit_does_not_depend_on_frame_rate_or_size() -> None:
    assert dynamic_degree(pan(1, fps=16.0)) == pytest.approx(2 * dynamic_degree(pan(1)))
    large = Video(np.repeat(np.repeat(pan(1).frames, 2, axis=1), 2, axis=2), 8.0)
    assert dynamic_degree(large) == pytest.approx(dynamic_degree(pan(1)), rel=0.1)


@pytest.mark.fault
def test_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="one-frame"):
        dynamic_degree(pan(1, frames=1))
    assert dynamic_degree(pan(1, frames=2)) > 0


def test_clips_that_share_frames_are_measured_as_each_alone() -> None:
    moving = pan(1)
    stops = Video(np.concatenate([moving.frames[:8], moving.frames[7:8].repeat(9, 0)]), 8.0)
    clips = [moving, stops, pan(0), Video(moving.frames[::-1], 8.0)]
    assert dynamic_degrees(clips).tolist() == [dynamic_degree(clip) for clip in clips]
    assert 0 < dynamic_degree(stops) < dynamic_degree(moving)


def test_is_cheap() -> None:
    clip = pan(1)
    dynamic_degree(clip)
    start = time.process_time()
    for _ in range(5):
        dynamic_degree(clip)
    assert (time.process_time() - start) / 5 < 0.12  # 1500 clips take about a minute at 0.04

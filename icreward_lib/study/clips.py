"""Clips that differ in nothing but what they show: one size, rate and length, one encoding, no telling name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from icreward_lib.video import Video, write_video

SHOWN_HEIGHT = 240  # smaller clips are enlarged by whole pixels first, which 4:2:0 colour would smear
ASPECT_TOLERANCE = 0.02
LANCZOS = Image.Resampling.LANCZOS


def in_one_format(videos: Mapping[str, Video]) -> dict[str, Video]:
    """Bring clips to the smallest size, rate and length among them; ValueError if that would distort one."""
    aspects = {name: video.width / video.height for name, video in videos.items()}
    widest, narrowest = max(aspects, key=aspects.__getitem__), min(aspects, key=aspects.__getitem__)
    if aspects[widest] > aspects[narrowest] * (1 + ASPECT_TOLERANCE):
        raise ValueError(f"the clips of {widest} and {narrowest} have different shapes: crop one of them")
    size = min(((video.width, video.height) for video in videos.values()), key=lambda size: size[1])
    fps = min(video.fps for video in videos.values())
    seconds = min(video.num_frames / video.fps for video in videos.values())
    times = np.arange(max(1, round(seconds * fps))) / fps

    def formatted(video: Video) -> Video:
        shown = np.floor(times * video.fps + 1e-6).astype(int)  # the frames on the screen at these times
        frames = video.frames[np.minimum(shown, video.num_frames - 1)]
        if (video.width, video.height) != size:
            frames = np.stack([np.asarray(Image.fromarray(frame).resize(size, LANCZOS)) for frame in frames])
        return Video(frames, fps)

    return {name: formatted(video) for name, video in videos.items()}


def corrupted(video: Video, *, seed: int) -> Video:
    """A copy that nobody can prefer: its tiles are shuffled anew in every frame, under noise."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.array_split(np.arange(size), 6) for size in (video.height, video.width))
    tiles = [(row[: video.height // 6], column[: video.width // 6]) for row in rows for column in columns]
    frames = video.frames.copy()
    for frame, original in zip(frames, video.frames, strict=True):
        for target, source in zip(tiles, rng.permutation(len(tiles)), strict=True):
            frame[np.ix_(*target)] = original[np.ix_(*tiles[source])]
    noisy = frames + rng.normal(0, 48, frames.shape)
    return Video(np.clip(noisy, 0, 255).astype(np.uint8), video.fps)


def save_clip(folder: Path, video: Video) -> str:
    """Write a clip as H.264 and as VP9 under a random name; gives the name of the H.264 file."""
    path = folder / f"{secrets.token_hex(16)}.mp4"
    shown = Video(_enlarged(video.frames), video.fps)
    write_video(path, shown)
    _write_webm(path.with_suffix(".webm"), shown)
    for written in (path, path.with_suffix(".webm")):
        os.utime(written, (0, 0))  # the order of encoding would tell the arms apart
    return path.name


def save_image(folder: Path, image: np.ndarray) -> str:
    """Write a reference image under a random name, enlarged as the clips are; gives the name."""
    path = folder / f"{secrets.token_hex(16)}.png"
    Image.fromarray(_enlarged(image[None])[0]).save(path)
    os.utime(path, (0, 0))
    return path.name


def _enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames "t h w c" enlarged by a whole factor to about `SHOWN_HEIGHT`, at an even size."""
    factor = max(1, round(SHOWN_HEIGHT / frames.shape[1]))
    larger = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    return larger[:, : larger.shape[1] // 2 * 2, : larger.shape[2] // 2 * 2]


def _write_webm(path: Path, video: Video) -> None:
    """VP9 at constant quality, visually the same as the H.264 copy."""
    options = {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4"}
    with av.open(str(path), "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=Fraction(video.fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = video.height, video.width, "yuv420p"
        for frame in video.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())

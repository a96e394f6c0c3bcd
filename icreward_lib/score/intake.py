"""People's own files, whatever their suffix: a picture or a clip in memory, or one sentence that says why not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from icreward_lib.score.decoding import (
    PICTURES,
    AnimatedWebP,
    IntakeError,
    Limits,
    StreamedVideo,
    on_white,
    open_file,
    open_picture,
)
from icreward_lib.video import Video

_FEW = 8  # frames under which a score over time says little


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture: `image` uint8 RGB (H, W, 3), shrunk; `size` its (width, height) in pixels as shown, before that."""

    image: np.ndarray
    size: tuple[int, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """The kept frames of a video.

    `video`: T frames, shrunk; its fps is their mean rate (1 if T = 1). `times`: float64 (T,), when each is shown, in
    seconds from the first. `num_frames`: of the file. `size`: (width, height) in pixels as shown, before shrinking.
    """

    video: Video
    times: np.ndarray
    num_frames: int
    size: tuple[int, int]
    warnings: tuple[str, ...]


def read_picture(path: str | os.PathLike[str], limits: Limits = Limits()) -> Picture:  # noqa: B008 (frozen)
    """Read a picture of any mode: png, jpeg, webp, gif, tiff, bmp or avif.

    EXIF rotation is applied, transparency is laid on white, 16-bit values are scaled to 8 bits; of an animation the
    first frame is taken. Raises IntakeError.
    """
    path = Path(path)
    with open_file(path, "picture") as file, open_picture(file, PICTURES, limits) as opened:
        width, height = opened.size
        # Phones put a preview beside the photo, as a second picture of the file.
        several = getattr(opened, "is_animated", False) and opened.format != "MPO"
        image, warnings = _eight_bits(opened)
        image.thumbnail((limits.side, limits.side), Image.Resampling.LANCZOS)
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        ImageOps.exif_transpose(image, in_place=True)
        if several:
            warnings = (*warnings, "it holds several pictures: the first is taken")
        return Picture(on_white(image), (height, width) if turned else (width, height), warnings)


def read_clip(path: str | os.PathLike[str], limits: Limits = Limits()) -> Clip:  # noqa: B008 (frozen)
    """Read a video: mp4, mov, webm, mkv, avi, gif or animated webp.

    At most `limits.kept` frames are kept, evenly spaced in time, the first and the last among them. Rotation and pixel
    shape are applied, transparency is laid on white. Missing or damaged frames, too, raise IntakeError.
    """
    path = Path(path)
    with open_file(path, "video") as file:
        webp = file.read(12)[8:] == b"WEBP"
        source = AnimatedWebP(file, limits) if webp else StreamedVideo(file, limits)
        times, tick = source.times()
        if len(times) > 1 and times[-1] == 0:
            raise IntakeError(f"has zero duration: all its {len(times)} frames are shown at the same moment")
        chosen = _evenly_spaced(times, limits.kept)
        frames, size = source.read(chosen, len(times))
        shown = times[chosen]
        rate = float((len(shown) - 1) / shown[-1]) if len(shown) > 1 else 1.0
        return Clip(Video(np.stack(frames), rate), shown, len(times), size, _warnings(times, shown, tick))


def framed(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Cut the middle of a picture (H, W, 3) to the shape width:height; the same array, if they agree within 2 %."""
    tall, wide = image.shape[:2]
    if abs(wide * height / (tall * width) - 1) <= 0.02:
        return image
    new_wide = min(wide, max(1, round(tall * width / height)))
    new_tall = min(tall, max(1, round(wide * height / width)))
    top, left = (tall - new_tall) // 2, (wide - new_wide) // 2
    return image[top : top + new_tall, left : left + new_wide]


def _eight_bits(picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """Bring a picture into a mode of 8 bits that can be shrunk, and say what had to be assumed."""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture.load()
        low, high = (values := np.asarray(picture)).min(), values.max()
        ranges = (1, 255) if picture.mode == "F" else (65535,)
        white = next((white for white in ranges if 0 <= low and high <= white), None)  # none either if it holds NaN
        if white is None:
            raise IntakeError(f"has values from {low} to {high}, where 0 to {ranges[-1]} are known: save it as 8-bit")
        scaled = Image.fromarray((values.astype(np.float32) * (255 / white)).round().astype(np.uint8))
        scaled.info = picture.info  # its EXIF rotation
        assumed = (f"its values are floating-point numbers: white is taken to be {white}",)
        return scaled, assumed if picture.mode == "F" else ()
    if picture.mode in ("LA", "RGBA"):
        return picture, ()
    if picture.has_transparency_data:
        return picture.convert("RGBA"), ()
    # Left as they are, JPEGs are decoded at the size they are shrunk to.
    return picture if picture.mode in ("L", "RGB", "CMYK") else picture.convert("RGB"), ()


def _evenly_spaced(times: np.ndarray, kept: int) -> np.ndarray:
    """Which frames to keep of those shown at `times` (sorted): the nearest to `kept` instants, each once."""
    if len(times) <= kept:
        return np.arange(len(times))
    instants = np.linspace(times[0], times[-1], kept)
    after = np.searchsorted(times, instants).clip(1, len(times) - 1)
    nearest = np.where(instants - times[after - 1] <= times[after] - instants, after - 1, after)
    nearest[0], nearest[-1] = 0, len(times) - 1  # frames may share a moment
    return np.unique(nearest)


def _warnings(times: np.ndarray, shown: np.ndarray, tick: float) -> tuple[str, ...]:
    found = []
    if len(shown) < _FEW:
        found.append(f"only {len(shown)} frame{'s' * (len(shown) > 1)}: the score says little")
    gaps = np.diff(times)
    if len(gaps) and np.ptp(gaps) > max(2 * tick, 0.5 * float(np.median(gaps))):  # times are rounded to ticks
        found.append(f"its frame rate varies: {len(shown)} of {len(times)} frames are kept, by when they are shown")
    return tuple(found)

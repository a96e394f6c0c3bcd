"""What a file must be before anything of it is decoded, and the one sentence that is said of it if it is not."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import BinaryIO

import av
from PIL import Image, UnidentifiedImageError

AGAIN = "write or download it again"
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")

# All that Pillow and PyAV are known to raise on broken bytes.
_READER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    MemoryError,
    AssertionError,
    struct.error,
    Image.DecompressionBombError,
    av.error.FFmpegError,
)


class IntakeError(ValueError):
    """A file that cannot be used; the message is one sentence: which, why, and what to do."""


@dataclass(frozen=True)
class Limits:
    """How large a file may be, and how much of it is kept.

    `pixels`: of one picture or frame. `frames`: of a video. `kept`: frames of a clip, at least 2. `side`: pixels of
    the longer side that pictures and frames are shrunk to; smaller ones stay as they are. Raises ValueError.
    """

    pixels: int = 100_000_000
    frames: int = 100_000
    kept: int = 32
    side: int = 512

    def __post_init__(self) -> None:  # noqa: D105
        for field in fields(self):
            least = 2 if field.name == "kept" else 1
            if getattr(self, field.name) < least:
                raise ValueError(f"Limits.{field.name} must be at least {least}, not {getattr(self, field.name)}.")

    def check_pixels(self, width: int, height: int) -> None:
        """Raise IntakeError for a picture or frame that is empty or larger than allowed."""
        if width < 1 or height < 1:
            less = f"declares no size, or more than the limit of {self.pixels} pixels"  # FFmpeg then says 0 by 0
            raise IntakeError(f"{less}: {AGAIN}, shrink it, or raise --max-pixels if you trust it")
        if width * height > self.pixels:
            size = f"{width}x{height} pixels, more than the limit of {self.pixels}"
            raise IntakeError(f"has {size}: shrink it, or raise --max-pixels if you trust it")

    def check_frames(self, frames: int) -> None:
        """Raise IntakeError for a video of more frames than allowed."""
        if frames > self.frames:
            raise IntakeError(f"has more frames than the limit of {self.frames}: cut it, or raise --max-frames")

    def shrunk(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) in pixels to which a frame of this size is shrunk."""
        scale = min(1.0, self.side / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


DEFAULTS = Limits()


@contextmanager
def one_sentence(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever is raised about a file into an IntakeError that begins with its path.

    An IntakeError raised inside says only what is wrong ("is empty"). `kind`: what the file should be ("video").
    """
    name = os.fsencode(path).decode(errors="replace")  # names that are not UTF-8 could not be printed
    try:
        yield
    except IntakeError as error:
        raise IntakeError(f"{name} {error}.") from error.__cause__
    except UnidentifiedImageError as error:
        kinds = ", ".join(PICTURES).lower()
        raise IntakeError(f"{name} is not a picture of a kind that can be read ({kinds}): convert it.") from error
    except _READER_ERRORS as error:
        said = " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
        raise IntakeError(f"{name} is not a readable {kind} ({said}): {AGAIN}, or convert it.") from error


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file that has something in it; raises IntakeError."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IntakeError("is a folder: name a file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise IntakeError("is not a regular file: copy its content to one")
        if status.st_size == 0:
            raise IntakeError(f"is empty (0 bytes): {AGAIN}")
        file = path.open("rb")
    except FileNotFoundError as error:
        raise IntakeError("does not exist: check its name") from error
    except PermissionError as error:
        raise IntakeError("may not be read: change its permissions") from error
    with file:
        yield file

"""The frames of videos that nobody vouches for: when each is shown, then the chosen ones, decoded once and shrunk.

Only the opened file is read, and its sizes and counts are checked before. Beside the kept frames memory is some 25
bytes a pixel of one frame of usual H.264 (200 MB for 4K), and 60 with 10 bits and many reference frames.
"""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

AGAIN = "write or download it again"
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")

# All that Pillow and PyAV are known to raise on broken bytes.
_PYTHONS = (OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
_OTHERS = (EOFError, MemoryError, AssertionError, struct.error, Image.DecompressionBombError, av.error.FFmpegError)


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

    def __post_init__(self) -> None:
        for name, least in {"pixels": 1, "frames": 1, "kept": 2, "side": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"Limits.{name} must be at least {least}, not {getattr(self, name)}.")

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


@contextmanager
def open_file(path: Path, kind: str) -> Iterator[BinaryIO]:
    """Open a regular file that has something in it, and turn whatever is raised about it into an IntakeError.

    The path is put before its message. `kind`: what the file should be ("video").
    """
    name = os.fsencode(path).decode(errors="replace")  # names that are not UTF-8 could not be printed
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IntakeError("is a folder: name a file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise IntakeError("is not a regular file: copy its content to one")
        if status.st_size == 0:
            raise IntakeError(f"is empty (0 bytes): {AGAIN}")
        with path.open("rb") as file:
            yield file
    except IntakeError as error:
        raise IntakeError(f"{name} {error}.") from error.__cause__
    except FileNotFoundError as error:
        raise IntakeError(f"{name} does not exist: check its name.") from error
    except PermissionError as error:
        raise IntakeError(f"{name} may not be read: change its permissions.") from error
    except UnidentifiedImageError as error:
        kinds = ", ".join(PICTURES).lower()
        raise IntakeError(f"{name} is not a picture of a kind that can be read ({kinds}): convert it.") from error
    except (*_PYTHONS, *_OTHERS) as error:
        said = " ".join((getattr(error, "strerror", None) or str(error)).split()) or type(error).__name__
        raise IntakeError(f"{name} is not a readable {kind} ({said}): {AGAIN}, or convert it.") from error


_CONTAINERS = "mov,matroska,avi,gif"  # FFmpeg's names; mov reads mp4 and m4v too, matroska reads webm
_TRANSPARENT = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave the alpha channel out
_THREADS = 4  # each holds frames of its own: more would cost memory on large machines
_PILLOW_LIMIT = threading.Lock()  # Pillow's own limit is one number for the process, and lower than ours may be


@contextmanager
def open_picture(file: BinaryIO, kinds: tuple[str, ...], limits: Limits) -> Iterator[Image.Image]:
    """Open a picture with Pillow, as one of `kinds`; its declared size is checked, nothing is decoded yet."""
    file.seek(0)
    with _PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(file, formats=kinds) as opened:
                limits.check_pixels(*opened.size)
                yield opened
        finally:
            Image.MAX_IMAGE_PIXELS = before


def on_white(image: Image.Image) -> np.ndarray:
    """Make a picture uint8 RGB (H, W, 3), what is transparent in it white."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


class AnimatedWebP:
    """An animated (or still) webp, read by Pillow; methods as of `StreamedVideo`."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.file, self.limits = file, limits

    def _frames(self) -> Iterator[Image.Image]:
        with open_picture(self.file, ("WEBP",), self.limits) as opened:
            count = getattr(opened, "n_frames", 1)
            self.limits.check_frames(count)
            for number in range(count):
                opened.seek(number)
                opened.load()
                yield opened

    def times(self) -> tuple[np.ndarray, float]:
        """Pillow tells the times together with the frames, so these are decoded twice."""
        stamps = np.array([frame.info.get("timestamp", 0) for frame in self._frames()])
        return (stamps - stamps[0]) / 1000, 0.001

    def read(self, chosen: np.ndarray, count: int) -> tuple[list[np.ndarray], tuple[int, int]]:
        """All frames have the size of the canvas."""
        wanted, kept, size = set(chosen.tolist()), [], (0, 0)
        for number, frame in enumerate(self._frames()):
            size = frame.size
            if number in wanted:
                kept.append(on_white(_resized(frame, self.limits.shrunk(*size))))
        return kept, size


class StreamedVideo:
    """The first video stream of an mp4, mov, webm, mkv, avi or gif, read by PyAV."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self.file, self.limits = file, limits
        # FFmpeg decodes some frames on opening, and frames may be larger than declared. It counts whole blocks.
        self._bound = {"max_pixels": str(2 * limits.pixels + 2**16)}

    @contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        self.file.seek(0)
        only_this = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
        try:
            opened = av.open(self.file, container_options=only_this, options=self._bound, metadata_errors="replace")
        except av.error.ArgumentError as error:
            kinds = "mp4, mov, webm, mkv, avi, gif, webp"
            raise IntakeError(f"is not a video of a kind that can be read ({kinds}): convert it to mp4") from error
        with opened as container:
            covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
            stream = next((each for each in container.streams.video if not each.disposition & covers), None)
            if stream is None:
                raise IntakeError("has no video stream: name a video")
            if stream.codec_context is None:
                raise IntakeError("is coded in a way that is not known here: convert it to H.264")
            self.limits.check_pixels(stream.codec_context.width, stream.codec_context.height)
            yield container, stream

    def times(self) -> tuple[np.ndarray, float]:
        """When each frame is shown, in s from the first: float64 (N,), sorted; and the clock's tick in s."""
        with self._open() as (container, stream):
            self.limits.check_frames(stream.frames)
            packets, stamps, is_avi = 0, [], container.format.name == "avi"
            for packet in container.demux(stream):
                if packet.pos is None and not packet.size:
                    continue  # the mark of the end
                packets += 1
                self.limits.check_frames(packets)
                hidden = stream.codec_context.name == "vp8" and packet.size and not bytes(packet)[0] & 0x10
                if not packet.is_discard and not hidden:  # that an edit cut away, or VP8 only refers to
                    # AVI only tells when to decode a frame: another order, at the same distances.
                    stamps.append(packet.dts if is_avi else packet.pts)
            _require_whole(self.file, container.format.name, packets, len(stream.index_entries))
            if not stamps:
                raise IntakeError(f"holds no frames: {AGAIN}")
            if None in stamps:
                raise IntakeError("does not say when its frames are shown: convert it to mp4")
            tick, first = float(stream.time_base), min(stamps)
            return np.array([(stamp - first) * tick for stamp in sorted(stamps)]), tick

    def read(self, chosen: np.ndarray, count: int) -> tuple[list[np.ndarray], tuple[int, int]]:
        """The chosen frames, shrunk, uint8 (H, W, 3), of the `count` there are; and their (width, height) as shown."""
        wanted, kept, seen, shape = set(chosen.tolist()), [], 0, (0, 0)
        with self._open() as (container, stream):
            ratio, decoder = float(stream.sample_aspect_ratio or 1), stream.codec_context
            if stream.metadata.get("alpha_mode") == "1" and decoder.name in _TRANSPARENT:
                decoder = av.CodecContext.create(_TRANSPARENT[decoder.name], "r")
            decoder.options, decoder.thread_type, decoder.thread_count = self._bound, "AUTO", _THREADS
            for packet in container.demux(stream):
                for frame in decoder.decode(packet if packet.size else None):
                    if not seen:  # once, since a frame whose side data was looked at stays in memory
                        matrix, shape = _display_matrix(frame), (frame.width, frame.height)
                        size = max(1, round(shape[0] * ratio)), shape[1]
                    if (frame.width, frame.height) != shape:
                        raise IntakeError(f"changes its size at frame {seen + 1}: convert it to one size")
                    if frame.is_corrupt:
                        raise IntakeError(f"is damaged at frame {seen + 1}: {AGAIN}")
                    if seen in wanted:
                        clear = frame.format.has_palette or any(part.is_alpha for part in frame.format.components)
                        picture = frame.to_ndarray(format="rgba" if clear else "rgb24", threads=1)
                        small = _resized(Image.fromarray(picture), self.limits.shrunk(*size))
                        kept.append(np.ascontiguousarray(_upright(on_white(small), matrix)))
                    seen += 1
        if seen != count:
            raise IntakeError(f"gives {seen} of its {count} frames: {AGAIN}")
        return kept, size[::-1] if abs(matrix[1]) > abs(matrix[0]) else size


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Shrink a picture, in two steps if much; a picture of this size comes back as it is."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """The (a, b, c, d) of a frame: its point (x, y) is shown at (a x + c y, b x + d y)."""
    data = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    numbers = (1, 0, 0, 0, 1) if data is None else struct.unpack("=5i", bytes(data)[:20])
    return *numbers[:2], *numbers[3:]


def _upright(image: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """Turn and mirror a picture (H, W, 3) by a display matrix, to the next quarter turn."""
    right, down = matrix[0], matrix[3]
    if abs(matrix[1]) > abs(matrix[0]):
        image, right, down = image.swapaxes(0, 1), matrix[2], matrix[1]
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def _require_whole(file: BinaryIO, kind: str, packets: int, indexed: int) -> None:
    """Hold a file to the number of frames or of bytes that its container declares, where it declares any."""
    length = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(1024)
    # Counts in headers include frames that edits cut away, and empty ones; an index does not.
    if kind not in ("gif", "matroska,webm") and packets != indexed:
        raise IntakeError(f"holds {packets} of its {indexed} frames: {AGAIN}")
    file.seek(max(0, length - 1024))
    if (
        (kind == "gif" and not file.read().rstrip(b"\0").endswith(b";"))
        or (kind == "avi" and 8 + int.from_bytes(head[4:8], "little") > length)
        or (kind == "matroska,webm" and _is_shorter_than_segment(head, length))
    ):
        raise IntakeError(f"looks truncated: {AGAIN}")


def _is_shorter_than_segment(head: bytes, length: int) -> bool:
    """Whether a Matroska file is cut: a header, then a segment, each an ID of 4 bytes, a size, and that many bytes."""
    at = size = width = 0
    for _ in ("header", "segment"):
        at += size + 4
        width = 9 - head[at].bit_length()  # leading zero bits say how many bytes the size has
        size = int.from_bytes(head[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width
    unknown = (1 << 7 * width) - 1  # browsers record without knowing the end
    return size != unknown and at + size > length

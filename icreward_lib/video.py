"""Videos in memory, on disk and on the page: reading (decord), writing (PyAV), contact sheets, HTML."""

import base64
import html
import io
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from icreward_lib.run.files import atomic
from icreward_lib.run.profile import GenerationSettings

_BT601 = 6  # SMPTE 170M, the matrix swscale uses for RGB -> YUV; tagged so that players do not guess by size


@dataclass(frozen=True, eq=False)
class Video:
    """A clip in memory: `frames` uint8 RGB "t h w c" with t, h, w >= 1, and `fps` > 0; else ValueError."""

    frames: np.ndarray
    fps: float

    def __post_init__(self) -> None:
        frames = self.frames
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            raise ValueError(f"Video.frames must be a uint8 numpy array, not {getattr(frames, 'dtype', type(frames))}.")
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise ValueError(f"Video.frames must have shape (t, h, w, 3) with no empty axis, not {frames.shape}.")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"Video.fps must be a positive number, not {self.fps}.")
        object.__setattr__(self, "frames", np.ascontiguousarray(frames))

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        """H in pixels."""
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """W in pixels."""
        return int(self.frames.shape[2])


def read_video(path: str | os.PathLike[str]) -> Video:
    """Decode every frame of a video file.

    Raises FileNotFoundError, and ValueError for anything but a whole video: a truncated one is never a shorter clip.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No video file at {path}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): write or download it again.")
    _require_whole(path)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        frames = np.stack([_unpadded(reader.next().asnumpy()) for _ in range(len(reader))])
        return Video(frames, float(reader.get_avg_fps()))
    except decord.DECORDError as error:
        raise ValueError(f"{path} could not be decoded; it may be damaged: write or download it again.") from error


def _unpadded(frame: np.ndarray) -> np.ndarray:
    """Undo decord's reading of padded rows as a fourth channel, which it does at some widths up to 72."""
    height, width, channels = frame.shape
    return frame.reshape(height, width * channels)[:, : 3 * width].reshape(height, width, 3)


def _require_whole(path: Path) -> None:
    """Hold the packets to the frame count of the container (0: it declares none)."""
    again = "it looks truncated: write or download it again"
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream.")
            stream = container.streams.video[0]
            declared = stream.frames
            packets = [packet.is_corrupt for packet in container.demux(stream) if packet.size]
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is not a readable video ({error.strerror}); {again}.") from error
    if any(packets) or not packets or (declared and len(packets) != declared):
        raise ValueError(f"{path} holds {len(packets) - sum(packets)} whole frames of {declared or '?'}; {again}.")


def write_video(path: str | os.PathLike[str], video: Video, *, lossless: bool = False) -> None:
    """Write an .mp4 file, whole or not at all.

    lossless=True: H.264 in RGB at qp 0; `read_video` gives back the same bytes. Browsers do not play it.
    lossless=False: H.264 yuv420p, crf 18, BT.601, faststart: plays everywhere; height and width must be even.
    """
    path = Path(path)
    if path.suffix != ".mp4":
        raise ValueError(f"Videos are written as .mp4, not {path.name!r}.")
    if not lossless and (video.height % 2 or video.width % 2):
        size = f"{video.height}x{video.width}"
        raise ValueError(f"yuv420p needs an even height and width, not {size}: resize it or use lossless=True.")
    with atomic(path) as temporary:
        _encode(str(temporary), video, lossless)


def _encode(path: str, video: Video, lossless: bool) -> None:
    options = {"qp": "0", "preset": "veryfast"} if lossless else {"crf": "18"}
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(video.fps).limit_denominator(1001)
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate, options=options)
        stream.height, stream.width = video.height, video.width
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # x264's output depends on its number of threads, hence on the machine
        if not lossless:
            context.colorspace = context.color_primaries = context.color_trc = _BT601
        for frame in video.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture of any mode as uint8 RGB (H, W, 3), as EXIF turns it, on white. FileNotFoundError, ValueError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No picture at {path}.")
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):  # convert() would clip 16 bits instead of scaling them
                picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
            if picture.has_transparency_data:
                rgba = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL raises SyntaxError on broken PNGs
        raise ValueError(f"{path} is not a readable picture ({error}).") from error


def contact_sheet(
    image: np.ndarray,
    videos: Mapping[str, Video],
    *,
    scores: Mapping[str, np.ndarray] | None = None,
    columns: int = 5,
    width: int = 128,
) -> np.ndarray:
    """Lay clips out as one picture, uint8 (H, W, 3): per video the reference and `columns` frames, `width` pixels wide.

    `scores` (title -> (T,) in [0, 1]) adds those of the shown frames, a box around the worst of them, and a strip of
    bars for all frames.
    """
    if not videos:
        raise ValueError("contact_sheet needs at least one video.")
    height = round(width * image.shape[0] / image.shape[1])
    line, gap, strip = max(12, width // 8), 4, (width // 6 if scores else 0)
    row = line + height + strip + gap
    sheet = Image.new("RGB", ((columns + 1) * (width + gap) - gap, row * len(videos) - gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(line * 0.75)
    for y, (title, video) in zip(range(0, row * len(videos), row), videos.items(), strict=True):
        times = np.linspace(0, video.num_frames - 1, columns).round().astype(int)
        draw.text((0, y), f"reference | {title}", "black", font)
        sheet.paste(_fit(image, width, height), (0, y + line))
        cells = [(column + 1) * (width + gap) for column in range(columns)]
        for x, time in zip(cells, times, strict=True):
            sheet.paste(_fit(video.frames[time], width, height), (x, y + line))
        if scores is None:
            continue
        values = np.asarray(scores[title], dtype=float)
        if values.shape != (video.num_frames,):
            raise ValueError(f"The scores of {title!r} have shape {values.shape}, not ({video.num_frames},).")
        worst = int(np.argmin(values[times]))
        box = (cells[worst], y + line, cells[worst] + width - 1, y + line + height - 1)
        draw.rectangle(box, outline="#d55e00", width=3)
        for x, value in zip(cells, values[times], strict=True):
            place, label = (x + width - 4, y + line + 2), f"{value:.2f}"
            draw.text(place, label, "white", font, "ra", stroke_width=2, stroke_fill="black")
        edges = np.linspace(cells[0], cells[-1] + width, video.num_frames + 1)
        for left, right, value in zip(edges, edges[1:], np.clip(values, 0, 1), strict=False):
            bottom = y + line + height + strip
            draw.rectangle((left, bottom - value * (strip - 2), max(right - 2, left), bottom), fill="#0072b2")
    return np.asarray(sheet)


def video_html(videos: Mapping[str, Video], *, width: int = 192, columns: int = 5) -> str:
    """Make a self-contained HTML table of looping players, `columns` to a row, each under its title.

    Wider clips are shrunk to `width` pixels. Pages that cannot play H.264 show three stills.
    """
    cells = [_player(title, video, width) for title, video in videos.items()]
    rows = ["".join(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"


def _player(title: str, video: Video, width: int) -> str:
    height, frames = round(width * video.height / video.width), video.frames
    if video.width > width:
        frames = np.stack([np.asarray(_fit(frame, width, height)) for frame in frames])
    video = Video(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2], video.fps)
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder, "clip.mp4"), video)
        clip = base64.b64encode(Path(folder, "clip.mp4").read_bytes()).decode()
    shown = video.frames[np.linspace(0, video.num_frames - 1, 3).round().astype(int)]
    still, poster = _jpeg(np.concatenate(list(shown), axis=1)), _jpeg(shown[0])
    size, name = f'width="{width}" height="{height}"', html.escape(title)
    # On <video>, since JupyterLab strips it from <source> in untrusted notebooks.
    source = f'src="data:video/mp4;base64,{clip}" poster="{poster}" {size}'
    image = f'<img src="{still}" alt="{name}: first, middle and last frame" width="{width}">'
    player = f'<video {source} controls loop muted preload="metadata">{image}</video>'
    return f'<td align="center"><b>{name}</b><br>{player}</td>'


def _jpeg(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _fit(picture: np.ndarray, width: int, height: int) -> Image.Image:
    # Nearest when enlarging: show the pixels that the metrics saw.
    how = Image.Resampling.NEAREST if width >= picture.shape[1] else Image.Resampling.BICUBIC
    return Image.fromarray(picture).resize((width, height), how)


def fit_clip(video: Video, shape: GenerationSettings) -> Video:
    """The middle of a video: the frames nearest in time, cropped about their centre. ValueError if it is too short."""
    times = np.round(np.arange(shape.num_frames) * video.fps / shape.fps).astype(int)
    spare = video.num_frames - 1 - int(times[-1])
    if spare < 0:
        wanted = f"{shape.num_frames / shape.fps:.1f} s ({shape.num_frames} frames at {shape.fps:g} fps)"
        found = f"{video.num_frames} frames at {video.fps:g} fps"
        raise ValueError(f"a real clip must last {wanted}; this one has {found}")
    size, how = (shape.width, shape.height), Image.Resampling.LANCZOS
    pictures = [Image.fromarray(frame) for frame in video.frames[times + spare // 2]]
    return Video(np.stack([np.asarray(ImageOps.fit(picture, size, how)) for picture in pictures]), shape.fps)

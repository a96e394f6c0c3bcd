"""A report of rankings: one HTML file that opens from disk, holds its media and asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from PIL import Image

from icreward_lib.rewards.base import ClipScores
from icreward_lib.run.files import write_text
from icreward_lib.score.intake import Clip
from icreward_lib.score.ranking import Entry, Ranking
from icreward_lib.video import Video, write_video

PAGE = Path(__file__).parent / "page"
PLAYER = (320, 384)  # width and height in pixels that clips are fitted into
REFERENCE = (480, 480)
THUMBNAIL = (96, 96)
THUMBNAILS = 8
SHORTEST, LONGEST = 2.0, 8.0  # seconds that all clips of a reference are stretched to, as long as the longest


def write_report(path: Path, ranking: Ranking) -> None:
    """Write a ranking as one self-contained HTML file, whole or not at all; ValueError if it has not kept its clips."""
    if any(entry.clip is None and entry.error is None for entry in ranking.entries):
        raise ValueError(f"The ranking has not kept the clips that {path} is to show: rank with keep_clips=True.")
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    # What is inlined is allowed by its hash, so that nothing else can run or load, whatever a file is called.
    policy = (
        "default-src 'none'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    pages = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = pages.get_template("report.html").render(
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        ranking=ranking,
        section=_section(ranking),
        legend=_png(_departure(np.linspace(1, 0, 128)[None])),
        version=metadata.version("icreward"),
    )
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))  # names may hold bytes that are no text


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _names(paths: Sequence[str]) -> list[str]:
    """The paths without the folders that all of them share."""
    folders = {os.path.dirname(path) for path in paths}
    try:
        shared = os.path.commonpath(folders)
    except ValueError:  # relative and absolute paths, or several drives
        return list(paths)
    return [os.path.relpath(path, shared) if shared else path for path in paths]


def _section(ranking: Ranking) -> dict[str, Any]:
    """The parts of `report.html`; `warnings` are about the reference or all videos, `seconds` what clips last here."""
    shown = [entry for entry in ranking.entries if entry.error is None]
    judges = list(dict.fromkeys([ranking.reward, *(judge for entry in shown for judge in entry.scores)]))
    columns = [(j, list(dict.fromkeys(part for entry in shown for part in entry.scores[j].dimensions))) for j in judges]
    mapped_by = next((j for j in judges if any(entry.scores[j].maps is not None for entry in shown)), None)
    seconds = min(max([SHORTEST, *(float(entry.clip.times[-1]) for entry in shown if entry.clip)]), LONGEST)
    warnings = [entry.all_warnings() for entry in ranking.entries]
    scored = [found for entry, found in zip(ranking.entries, warnings, strict=True) if entry.error is None]
    everywhere = [text for text in scored[0] if all(text in found for found in scored)] if len(scored) > 1 else []
    names = _names([entry.path for entry in ranking.entries])
    cards = [
        {
            "name": each,
            "entry": entry,
            "facts": _facts(entry.clip) if entry.clip else "",
            "warnings": [text for text in found if text not in everywhere],
            "player": _player(entry, entry.clip, judges, mapped_by, seconds) if entry.clip else None,
        }
        for each, entry, found in zip(names, ranking.entries, warnings, strict=True)
    ]
    return {
        "name": os.path.basename(ranking.reference),
        "picture": _jpeg(_fitted(ranking.picture.image[None], REFERENCE)[0]),
        "judges": judges,
        "columns": columns,
        "motion": any("motion" in parts for _, parts in columns),
        "mapped_by": mapped_by,
        "cards": cards,
        "warnings": [*ranking.picture.warnings, *(f"All videos: {text}" for text in everywhere)],
        "seconds": seconds,
    }


def _facts(clip: Clip) -> str:
    kept, frames = clip.video.num_frames, clip.num_frames
    judged = f"{kept} of {frames} frames" if kept < frames else "1 frame" if frames == 1 else f"{frames} frames"
    return f"{clip.size[0]} × {clip.size[1]}, {_time(clip.times[-1])}, {judged}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f}\N{NO-BREAK SPACE}s"


def _player(entry: Entry, clip: Clip, judges: Sequence[str], mapped_by: str | None, seconds: float) -> dict[str, Any]:
    """What moves on a card: `scores` of the ranking judge per frame, `lines` (SVG, in the unit square) of all judges.

    `maps` is a strip of one picture per frame, `map_size` the width and height of one.
    """
    frames = _fitted(clip.video.frames, PLAYER)
    scores = entry.scores[judges[0]].frames
    worst = int(np.argmin(scores))
    maps = entry.scores[mapped_by].maps if mapped_by is not None else None
    strip = _strip(frames, clip.times, scores, worst)
    return {
        "video": _mp4(Video(frames, len(frames) / seconds)),
        "poster": _jpeg(frames[0]),
        "size": (frames.shape[2], frames.shape[1]),
        "scores": [round(float(score), 4) for score in scores],
        "lines": [_line(entry.scores[judge]) for judge in judges],
        "summary": f"Score of {judges[0]} frame by frame: {scores[0]:.3f} at first, {scores[-1]:.3f} at last, "
        f"lowest {scores[worst]:.3f} at {_time(clip.times[worst])}.",
        "seconds": float(clip.times[-1]),
        "thumbnails": strip,
        "worst": next(each for each in strip if each["worst"]),
        "maps": None if maps is None else _png(np.concatenate(list(_departure(maps)), axis=1)),
        "map_size": (0, 0) if maps is None else (maps.shape[2], maps.shape[1]),
    }


def _strip(frames: np.ndarray, times: np.ndarray, scores: np.ndarray, worst: int) -> list[dict[str, Any]]:
    """Up to `THUMBNAILS` frames, evenly spaced but for the worst, and their `place` in the clip, in [0, 1]."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, THUMBNAILS).round().astype(int))
    chosen[np.argmin(np.abs(chosen - worst))] = worst
    return [
        {
            "picture": _jpeg(_fitted(frames[index][None], THUMBNAIL)[0]),
            "label": f"{_time(times[index])}, score {scores[index]:.3f}",
            "place": (index + 0.5) / len(frames),
            "worst": bool(index == worst),
        }
        for index in chosen
    ]


def _line(scores: ClipScores) -> str:
    """The score of each frame over the middle of the time it is on the screen; SVG's y axis points down."""
    count = len(scores.frames)
    return " ".join(f"{(index + 0.5) / count:.4f},{1 - score:.4f}" for index, score in enumerate(scores.frames))


def _departure(kept: np.ndarray) -> np.ndarray:
    """Colours, uint8 (..., 4), of maps (...) in [0, 1]: clear where 1, over purple and red to yellow where 0.

    The colours also grow lighter all the way, so that they can be told apart without seeing hues.
    """
    away = 1 - np.clip(kept, 0, 1)
    colours = colormaps["inferno"](0.25 + 0.7 * away)
    colours[..., 3] = 0.85 * away
    return (255 * colours).round().astype(np.uint8)


def _fitted(frames: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Frames "t h w c" shrunk into a box (width, height), or enlarged by a whole factor; H.264 needs even sizes."""
    height, width = frames.shape[1:3]
    scale = min(box[0] / width, box[1] / height)
    scale = float(int(scale)) if scale >= 1 else scale
    size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, method)) for frame in frames])


def _mp4(video: Video) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_video(path, video)
        return _uri("video/mp4", path.read_bytes())


def _picture(picture: np.ndarray, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return _uri(f"image/{kind}", buffer.getvalue())


_jpeg = partial(_picture, kind="jpeg", quality=85)
_png = partial(_picture, kind="png", optimize=True)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

"""The pairs that people compare: building them from the videos of several arms, reading and checking them.

`pairs.csv` has one row per pair; paths are relative to its folder:

==================  ==========================================================================
column              meaning
==================  ==========================================================================
pair, sample        names of the pair and of the reference image
reference           the image
arm_a, video_a      one side: who picked or made it, and its clip, .mp4 with a .webm beside it
arm_b, video_b      the other side
corrupted           a ruined copy of `video_a`, for practice and attention checks
==================  ==========================================================================

Media files have random names, since raters can read them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.run.files import atomic
from icreward_lib.study.clips import alike, corrupted, save_clip, save_image
from icreward_lib.study.votes import CORRUPTED
from icreward_lib.video import Video, read_image, read_video

COLUMNS = ("pair", "sample", "reference", "arm_a", "video_a", "arm_b", "video_b", "corrupted")
VIDEOS = (".mp4", ".webm", ".mov", ".avi")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")

_OPAQUE = re.compile(r"[0-9a-f]{32}\.[a-z0-9]+")
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


class PairsError(ValueError):
    """Pairs that cannot be shown; the message names the row or file and what would be right."""


@dataclass(frozen=True)
class Shown:
    """One sample: its image, and the clip of every arm."""

    sample: str
    image: np.ndarray
    videos: dict[str, Video]


@dataclass(frozen=True)
class Pair:
    """A row of `pairs.csv` with absolute paths."""

    pair: str
    sample: str
    reference: Path
    arm_a: str
    video_a: Path
    arm_b: str
    video_b: Path
    corrupted: Path


def from_folders(references: Path, arms: dict[str, Path]) -> Iterable[Shown]:
    """Samples from a folder of images and one folder of clips per arm; a sample's files share its name."""
    for folder in (references, *arms.values()):
        if not folder.is_dir():
            raise PairsError(f"There is no folder {folder}.")
    images = _by_name(references, IMAGES)
    if not images:
        raise PairsError(f"{references} holds no reference image ({', '.join(IMAGES)}).")
    clips = {arm: _by_name(folder, VIDEOS) for arm, folder in arms.items()}
    for arm, found in clips.items():
        if missing := images.keys() - found.keys():
            raise PairsError(f"Arm '{arm}' has no video for sample '{min(missing)}' in {arms[arm]}.")
    for sample, image in images.items():
        yield Shown(sample, read_image(image), {arm: read_video(found[sample]) for arm, found in clips.items()})


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise PairsError(f"{folder} has two files for sample '{path.stem}': keep one of them.")
        found[path.stem] = path
    return found


def write_pairs(samples: Iterable[Shown], folder: Path, *, seed: int) -> tuple[int, int]:
    """Write `pairs.csv` and its media to a folder: all pairs of arms, both sides encoded alike.

    Pairs whose clips are identical are dropped. Gives how many were written and how many dropped. Raises
    `PairsError`, and `DiskFullError` when there is no room; then no `pairs.csv` is left.
    """
    if (folder / "pairs.csv").exists():
        raise PairsError(f"{folder} already holds pairs, maybe with votes: choose another folder.")
    rows: list[dict[str, str]] = []
    dropped = 0
    with atomic(folder / "media") as media:
        media.mkdir()
        for shown in samples:
            _check_arms(shown.videos)
            different = [
                (a, b)
                for a, b in itertools.combinations(shown.videos, 2)
                if not _same(shown.videos[a], shown.videos[b])
            ]
            dropped += len(shown.videos) * (len(shown.videos) - 1) // 2 - len(different)
            for row in _rows(shown, different, media, seed=seed):
                rows.append({"pair": f"p{len(rows) + 1:04}", **row})
    if not rows:
        raise PairsError(f"There is nothing to compare: all {dropped} pairs show one clip twice.")
    with atomic(folder / "pairs.csv") as temporary:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(temporary, index=False)
    return len(rows), dropped


def _rows(shown: Shown, different: list[tuple[str, str]], media: Path, *, seed: int) -> Iterable[dict[str, str]]:
    if not different:
        return
    try:
        clips = alike(shown.videos)
    except ValueError as error:
        raise PairsError(f"Sample '{shown.sample}': {error}.") from error
    names = {arm: save_clip(media, clip) for arm, clip in clips.items()}
    ruined = {a: save_clip(media, corrupted(clips[a], seed=seed)) for a in dict.fromkeys(a for a, _ in different)}
    reference = save_image(media, shown.image)
    for a, b in different:
        files = {"reference": reference, "video_a": names[a], "video_b": names[b], "corrupted": ruined[a]}
        paths = {column: f"media/{name}" for column, name in files.items()}
        yield {"sample": shown.sample, "arm_a": a, "arm_b": b, **paths}


def _check_arms(videos: dict[str, Video]) -> None:
    if len(videos) < 2:
        raise PairsError("Pairs need two arms at least, there is one.")
    for arm in videos:
        if not _ARM.fullmatch(arm) or arm == CORRUPTED:
            raise PairsError(f"'{arm}' cannot be an arm's name: use letters and digits, and not '{CORRUPTED}'.")


def _same(a: Video, b: Video) -> bool:
    return a.fps == b.fps and np.array_equal(a.frames, b.frames)


def read_pairs(path: Path) -> list[Pair]:
    """Read `pairs.csv` and check every row and file of it; raises `PairsError` about the first problem."""
    if not path.is_file():
        raise PairsError(f"There is no pairs file {path}: icreward study pairs makes one.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise PairsError(f"{path} is not a CSV table of pairs: {str(error).strip()}.") from error
    if missing := [column for column in COLUMNS if column not in table]:
        raise PairsError(f"{path} lacks the column(s) {', '.join(missing)}; it needs {', '.join(COLUMNS)}.")
    if table.empty:
        raise PairsError(f"{path} has no rows: there is nothing to compare.")
    records = [{column: row[column] for column in COLUMNS} for _, row in table.iterrows()]
    _check_rows(records, path)
    folder = path.resolve().parent
    pairs = [_pair(folder, record, f"Row {row} of {path.name}") for row, record in enumerate(records, 1)]
    _check_media(pairs)
    return pairs


def _pair(folder: Path, record: dict[str, str], where: str) -> Pair:
    reference = _media(folder, record["reference"], where, IMAGES)
    video_a, video_b, ruined = (
        _media(folder, record[column], where, (".mp4",)) for column in ("video_a", "video_b", "corrupted")
    )
    return Pair(record["pair"], record["sample"], reference, record["arm_a"], video_a, record["arm_b"], video_b, ruined)


def _check_rows(records: Sequence[dict[str, str]], path: Path) -> None:
    names: set[str] = set()
    compared: set[tuple[str, ...]] = set()
    videos: dict[tuple[str, str], str] = {}
    for row, record in enumerate(records, 1):
        where = f"Row {row} of {path.name}"
        for column in COLUMNS:
            if not record[column].strip():
                raise PairsError(f"{where}: '{column}' is empty.")
        if record["pair"] in names:
            raise PairsError(f"{where}: there is another pair '{record['pair']}'.")
        names.add(record["pair"])
        if record["arm_a"] == record["arm_b"]:
            raise PairsError(f"{where}: both sides are of the arm '{record['arm_a']}'.")
        if record["video_a"] == record["video_b"]:
            raise PairsError(f"{where}: both sides are one and the same video: drop the pair.")
        key = (record["sample"], *sorted((record["arm_a"], record["arm_b"])))
        if key in compared:
            raise PairsError(f"{where}: sample '{key[0]}' has another pair of {key[1]} and {key[2]}.")
        compared.add(key)
        for side in "ab":
            video = record["sample"], record[f"arm_{side}"]
            if record[f"arm_{side}"] == CORRUPTED:
                raise PairsError(f"{where}: '{CORRUPTED}' is not an arm's name.")
            if videos.setdefault(video, record[f"video_{side}"]) != record[f"video_{side}"]:
                raise PairsError(f"{where}: arm '{video[1]}' has another video of sample '{video[0]}'.")


def _media(folder: Path, name: str, where: str, suffixes: tuple[str, ...]) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise PairsError(f"{where}: {name} lies outside the folder of the pairs file.")
    if not _OPAQUE.fullmatch(path.name):
        raise PairsError(f"{where}: raters could read the name {name}: icreward study pairs gives random ones.")
    if path.suffix not in suffixes:
        raise PairsError(f"{where}: {name} should end in {' or '.join(suffixes)}.")
    for each in (path, path.with_suffix(".webm") if path.suffix == ".mp4" else path):
        if not each.is_file():
            raise PairsError(f"{where}: there is no file {each}.")
    return path


def _check_media(pairs: Sequence[Pair]) -> None:
    """Every clip is whole in both encodings, and both sides of a pair have one size, rate and length."""
    shapes: dict[Path, tuple[object, ...]] = {}
    for pair in pairs:
        try:
            read_image(pair.reference)
            for path in (pair.video_a, pair.video_b, pair.corrupted):
                for encoded in (path, path.with_suffix(".webm")):
                    if encoded not in shapes:
                        video = read_video(encoded)
                        shapes[encoded] = (*video.frames.shape[:3], round(video.fps, 2))
                    if shapes[encoded] != shapes[pair.video_a]:
                        raise PairsError(f"its clips differ in size, rate or length ({encoded.name})")
        except ValueError as error:
            raise PairsError(f"Pair '{pair.pair}': {str(error).rstrip('.')}.") from error

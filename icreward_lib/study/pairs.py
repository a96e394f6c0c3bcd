"""The pairs that people compare: building them from the videos of several arms, reading and checking them.

Paths in `pairs.csv` are relative to its folder. Media have random names, which raters can read; beside every .mp4 lies
its .webm.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from icreward_lib.run.files import atomic
from icreward_lib.study.clips import corrupted, in_one_format, save_clip, save_image
from icreward_lib.study.votes import CORRUPTED
from icreward_lib.video import Video, read_image, read_video

VIDEOS = (".mp4", ".webm", ".mov", ".avi")
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
MEDIA = {"reference": IMAGES} | dict.fromkeys(("video_a", "video_b", "corrupted"), (".mp4",))

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
    """A row of `pairs.csv`, with absolute paths: two arms (who picked or made a clip) of a sample."""

    pair: str
    sample: str
    reference: Path
    arm_a: str
    video_a: Path
    arm_b: str
    video_b: Path
    corrupted: Path  # a ruined copy of `video_a`, for practice and attention checks


COLUMNS = tuple(field.name for field in fields(Pair))


def from_folders(references: Path, arms: dict[str, Path]) -> Iterable[Shown]:
    """Samples from a folder of images and one folder of clips per arm; a sample's files share its name."""
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
    if not folder.is_dir():
        raise PairsError(f"There is no folder {folder}.")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes):
        if path.stem in found:
            raise PairsError(f"{folder} has two files for sample '{path.stem}': keep one of them.")
        found[path.stem] = path
    return found


def write_pairs(samples: Iterable[Shown], folder: Path, *, seed: int) -> tuple[int, int]:
    """Write `pairs.csv` and its media to a folder: all pairs of arms whose clips differ, both sides encoded alike.

    Gives how many were written and how many dropped. Raises `PairsError` and `DiskFullError`, and then leaves none.
    """
    if (folder / "pairs.csv").exists():
        raise PairsError(f"{folder} already holds pairs, maybe with votes: choose another folder.")
    rows: list[dict[str, str]] = []
    dropped = 0
    with atomic(folder / "media") as media:
        media.mkdir()
        for shown in samples:
            couples = list(itertools.combinations(shown.videos, 2))
            rows += (found := _rows(shown, couples, media, seed=seed))
            dropped += len(couples) - len(found)
    if not rows:
        raise PairsError(f"There is nothing to compare: all {dropped} pairs show one clip twice.")
    table = pd.DataFrame(rows).assign(pair=[f"p{number:04}" for number in range(1, len(rows) + 1)])
    with atomic(folder / "pairs.csv") as temporary:
        table[list(COLUMNS)].to_csv(temporary, index=False)
    return len(rows), dropped


def _rows(shown: Shown, couples: list[tuple[str, str]], media: Path, *, seed: int) -> list[dict[str, str]]:
    """Write a sample's media; gives its rows of `pairs.csv`, without the pairs' names."""
    if not couples:
        raise PairsError("Pairs need two arms at least, there is one.")
    for arm in shown.videos:
        if not _ARM.fullmatch(arm) or arm == CORRUPTED:
            raise PairsError(f"'{arm}' cannot be an arm's name: use letters and digits, and not '{CORRUPTED}'.")
    sides = {(a, b): (shown.videos[a], shown.videos[b]) for a, b in couples}
    different = [key for key, (a, b) in sides.items() if a.fps != b.fps or not np.array_equal(a.frames, b.frames)]
    if not different:
        return []
    try:
        clips = in_one_format(shown.videos)
    except ValueError as error:
        raise PairsError(f"Sample '{shown.sample}': {error}.") from error
    names = {arm: f"media/{save_clip(media, clip)}" for arm, clip in clips.items()}
    firsts = dict.fromkeys(a for a, _ in different)
    ruined = {a: f"media/{save_clip(media, corrupted(clips[a], seed=seed))}" for a in firsts}
    same = {"sample": shown.sample, "reference": f"media/{save_image(media, shown.image)}"}
    return [
        {**same, "arm_a": a, "video_a": names[a], "arm_b": b, "video_b": names[b], "corrupted": ruined[a]}
        for a, b in different
    ]


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
    table = table[list(COLUMNS)]
    _check_rows(table, path.name)
    folder, pairs = path.resolve().parent, []
    for number, row in enumerate(table.to_dict("records"), 1):
        where = f"Row {number} of {path.name}"
        media = {column: _media(folder, row[column], suffixes, where) for column, suffixes in MEDIA.items()}
        pairs.append(Pair(**{str(column): media.get(str(column), cell) for column, cell in row.items()}))
    _check_media(pairs)
    return pairs


def _check_rows(table: pd.DataFrame, name: str) -> None:
    """Refuse the first row that does not fit what it is said to be, or another row."""
    arms = table[["arm_a", "arm_b"]]
    couples = table[["sample"]].assign(first=arms.min(axis=1), second=arms.max(axis=1))
    sides = pd.concat(
        table[["sample", f"arm_{side}", f"video_{side}"]].set_axis(["sample", "arm", "video"], axis=1) for side in "ab"
    )
    another = sides["video"] != sides.groupby(["sample", "arm"])["video"].transform("first")
    for bad, reason in (
        *((table[column].str.strip() == "", f"'{column}' is empty") for column in COLUMNS),
        (table["pair"].duplicated(), "there is another pair '{pair}'"),
        ((arms == CORRUPTED).any(axis=1), f"'{CORRUPTED}' is not an arm's name"),
        (table["arm_a"] == table["arm_b"], "both sides are of the arm '{arm_a}'"),
        (table["video_a"] == table["video_b"], "both sides are one and the same video: drop the pair"),
        (couples.duplicated(), "sample '{sample}' has another pair of {arm_a} and {arm_b}"),
        (another.groupby(level=0).any(), "arm '{arm_a}' or '{arm_b}' has another video of sample '{sample}'"),
    ):
        if bad.any():
            row = int(np.argmax(bad.to_numpy()))
            raise PairsError(f"Row {row + 1} of {name}: {reason.format_map(table.loc[row].to_dict())}.")


def _media(folder: Path, name: str, suffixes: tuple[str, ...], where: str) -> Path:
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

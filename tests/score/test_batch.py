"""Many videos from a table: lines as they come, resumption, bad rows, two batches at once."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.scored import Counting, moving, picture, write_scene

from icreward_lib.cli.main import main
from icreward_lib.run.files import DiskFullError
from icreward_lib.score.batch import BatchError, Line, read_table, score_table
from icreward_lib.score.intake import Limits
from icreward_lib.score.judges import OpenedReward, open_reward
from icreward_lib.video import write_video

LIMITS = Limits()


@pytest.fixture(scope="module")
def vbench() -> OpenedReward:
    return open_reward("vbench")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two references with three videos each, in two groups, in a folder with a quote and letters of other scripts."""
    folder = tmp_path / "tom's 視頻"
    write_scene(folder)
    Image.fromarray(picture("coffee")).save(folder / "coffee.png")
    rows = [
        *(f"reference.png,{name}.mp4," for name in ("slow", "fast", "other")),
        *(f"coffee.png,{name}.mp4,{group}" for name, group in (("slow", "x"), ("other", "x"), ("fast", "y"))),
    ]
    (folder / "clips.csv").write_text("\n".join(["image,video,group", *rows]) + "\n", encoding="utf-8")
    return folder / "clips.csv"


def scored(table: Path, judge: OpenedReward, out: Path | None = None, limits: Limits = LIMITS) -> list[Line]:
    return score_table(read_table(table), [judge], limits, out=out)


def test_every_row_is_a_line_in_the_order_of_the_table(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    lines = scored(table, vbench, out)
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == lines
    assert lines == scored(table, vbench)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [{name: line[name] for name in ("image", "video", "group")} for line in lines] == rows
    names = {"image", "video", "group", "overall", "subject", "background", "frames", "warnings", "fps", "key"}
    assert all(set(line) == names and 0 <= line["overall"] <= 1 and len(line["frames"]) == 8 for line in lines)
    # Its own photograph is what each of the two references is kept best by.
    assert lines[0]["overall"] > lines[2]["overall"] and lines[4]["overall"] > lines[3]["overall"]


def test_lines_are_there_as_soon_as_they_are_known(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out, seen = tmp_path / "scores.jsonl", []

    def progress(done: int, total: int) -> None:
        seen.append((done, total, len(out.read_text(encoding="utf-8").splitlines())))

    score_table(read_table(table), [vbench], LIMITS, out=out, progress=progress)
    assert seen == [(done, 6, done - 1) for done in range(1, 7)]


@pytest.mark.fault
@pytest.mark.parametrize("patience", [0, 3, 5])
def test_an_interrupted_batch_goes_on_and_ends_with_the_same_file(
    table: Path, vbench: OpenedReward, tmp_path: Path, patience: int
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "scores.jsonl"
    scored(table, vbench, whole)
    with pytest.raises(KeyboardInterrupt):
        scored(table, Counting(vbench, patience), out)
    left = out.read_text(encoding="utf-8").splitlines()
    assert len(left) == 3 * (patience // 3)
    again = Counting(vbench)
    scored(table, again, out)
    assert out.read_bytes() == whole.read_bytes()
    assert again.clips == 6 - len(left)


@pytest.mark.fault
def test_wherever_a_line_is_torn_the_file_ends_the_same(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    scored(table, vbench, out)
    whole = out.read_bytes()
    for kept in np.linspace(0, len(whole), 5).astype(int):
        out.write_bytes(whole[:kept])
        scored(table, vbench, out)
        assert out.read_bytes() == whole
    idle = Counting(vbench)
    scored(table, idle, out)
    assert idle.clips == 0


def test_what_has_changed_is_scored_again_and_nothing_else(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    before = scored(table, vbench, out)
    write_video(table.with_name("other.mp4"), moving("astronaut"))
    again = Counting(vbench)
    after = scored(table, again, out)
    # All rows of an image that are judged together are judged together again.
    assert again.clips == 6
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, True, False, True]
    assert [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] == after
    other = Counting(vbench)
    scored(table, other, out, Limits(kept=4))
    assert other.clips == 6


def test_a_table_in_another_order_costs_nothing(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    before = scored(table, vbench, out)
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([header, *rows[::-1]]), encoding="utf-8")
    idle = Counting(vbench)
    assert scored(table, idle, out) == before[::-1] and idle.clips == 0
    table.write_text("\n".join([header, rows[0]]), encoding="utf-8")
    assert scored(table, idle, out) == before[:1] and len(out.read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.fault
def test_bad_rows_are_reported_and_the_rest_goes_on(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = table.parent, tmp_path / "scores.jsonl"
    (folder / "broken.mp4").write_bytes((folder / "slow.mp4").read_bytes()[:700])
    (folder / "empty.png").touch()
    (folder / "a folder").mkdir()
    bad = {
        "reference.png,,": "line 8 of the table has no video",
        ",slow.mp4,": "line 9 of the table has no image",
        "reference.png": "line 10 of the table has no video",
        "reference.png,broken.mp4,": "broken.mp4",
        "reference.png,missing.mp4,": "missing.mp4",
        f"reference.png,{'x' * 300}.mp4,": "x" * 300,
        "reference.png,a folder,": "a folder",
        "empty.png,slow.mp4,": "empty.png",
        "missing.png,slow.mp4,": "missing.png",
    }
    with table.open("a", encoding="utf-8") as file:
        file.write("\n".join(bad) + "\n")
    command = ["score", "--csv", str(table), "--out", str(out), "--with", "vbench"]
    assert main(command) == 3
    shown = capsys.readouterr()
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 6 + len(bad) and all("error" not in line for line in lines[:6])
    for line, said in zip(lines[6:], bad.values(), strict=True):
        assert said in line["error"] and "overall" not in line and line["error"] in shown.err
    before = out.read_bytes()
    assert main(command) == 3 and out.read_bytes() == before and "broken.mp4" in capsys.readouterr().err
    # What was missing is scored as soon as it is there.
    shutil.copy(folder / "slow.mp4", folder / "missing.mp4")
    main(command)
    now = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert now[10]["overall"] == pytest.approx(lines[0]["overall"], abs=1e-5)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"picture,video\na.png,a.mp4\n", "no column image"),
        (b"a.png;a.mp4\n", "no column image and no column video"),
        (b"", "no column image"),
        (b"image,video\n", "no rows"),
        (b"image,video\n\xff\xfe.png,a.mp4\n", "UTF-8"),
        (b"image,video\n" + b"a" * 200_000 + b",b", "cannot be read as a CSV file"),
    ],
)
def test_what_is_no_such_table_is_refused(
    tmp_path: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips.csv").write_bytes(content)
    assert main(["score", "--csv", str(tmp_path / "clips.csv"), "--with", "vbench"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and said in shown.err and len(shown.err.splitlines()) == 1


def test_a_table_from_a_spreadsheet_is_read(table: Path, vbench: OpenedReward) -> None:
    expected = scored(table, vbench)
    text = table.read_text(encoding="utf-8").replace("image,video,group", "Note, video, image ,group")
    rows = [line.split(",") for line in text.splitlines()[1:]]
    lines = ["note, video, image ,group", *(f'"a, note", {video},{image},{group}' for image, video, group in rows)]
    table.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())
    assert scored(table, vbench) == expected
    with pytest.raises(BatchError, match="there is no table"):
        read_table(table.with_name("nothing.csv"))


@pytest.mark.fault
def test_a_second_batch_with_the_same_results_is_refused(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out, refused = tmp_path / "scores.jsonl", []

    def at_once(done: int, total: int) -> None:
        with pytest.raises(BatchError, match="another batch is writing") as error:
            scored(table, vbench, out)
        refused.append(error)

    lines = score_table(read_table(table), [vbench], LIMITS, out=out, progress=at_once)
    assert len(refused) == 6 and scored(table, vbench, out) == lines


@pytest.mark.fault
def test_results_never_replace_something_else(table: Path, vbench: OpenedReward, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    for text in ('{"prompt": "a cat"}\n', "a diary\n", "[1]\n", '{"image": 1, "video": "", "group": "", "key": ""}\n'):
        out.write_text(text)
        with pytest.raises(BatchError, match="something other than results"):
            scored(table, vbench, out)
        assert out.read_text() == text


@pytest.mark.fault
def test_a_place_that_cannot_be_written_is_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", "--csv", str(table), "--with", "vbench", "--out"]
    for out in (table.with_name("slow.mp4") / "scores.jsonl", table.parent / ("x" * 300 + ".jsonl")):
        assert main([*command, str(out)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be written" in line and str(out) in line


@pytest.mark.fault
def test_a_full_disk_is_said_so_and_the_batch_goes_on_later(
    table: Path, vbench: OpenedReward, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sync, left = tmp_path / "scores.jsonl", os.fsync, [2]

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="no room left"):
            scored(table, vbench, out)
    assert 2 <= len(out.read_text(encoding="utf-8").splitlines()) <= 3
    lines = scored(table, vbench, out)
    assert lines == scored(table, vbench)


def test_videos_are_ranked_within_their_image_and_group(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(table.with_name("slow.mp4"), table.with_name("fast.mp4"))
    out = tmp_path / "scores.csv"
    assert main(["score", "--csv", str(table), "--out", str(out), "--with", "vbench", "--json"]) == 0
    groups = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["reference"], each["group"], each["reward"]) for each in groups] == [
        ("reference.png", "", "vbench"), ("coffee.png", "x", "vbench"), ("coffee.png", "y", "vbench"),
    ]  # fmt: skip
    assert [[(video["path"], video["rank"]) for video in each["videos"]] for each in groups] == [
        [("slow.mp4", 1), ("fast.mp4", 1), ("other.mp4", 3)], [("other.mp4", 1), ("slow.mp4", 2)], [("fast.mp4", 1)],
    ]  # fmt: skip
    names = {"path", "rank", "overall", "subject", "background", "frames", "warnings"}
    assert all(set(video) == names for each in groups for video in each["videos"])
    rows = list(csv.DictReader(out.open(encoding="utf-8")))
    assert [(row["group"], row["rank"], row["video"]) for row in rows] == [
        (each["group"], str(video["rank"]), video["path"]) for each in groups for video in each["videos"]
    ]
    assert float(rows[0]["overall"]) == groups[0]["videos"][0]["overall"]
    assert len(out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()) == 6


def test_other_frame_rates_in_a_group_are_warned_of(
    table: Path, vbench: OpenedReward, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(table.with_name("fast.mp4"), moving(speed=6, fps=24))
    assert main(["score", "--csv", str(table), "--with", "vbench"]) == 0
    first, second, third = capsys.readouterr().out.split("\n\n")
    assert "8 to 24 a second" in first and "(all videos)" in first
    assert "a second" not in second and "a second" not in third
    assert "coffee.png (x), ranked by vbench" in second

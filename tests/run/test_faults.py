"""The batch scorer under kills, on a full and on a read-only disk, and two of it at once."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from PIL import Image
from support import ROOT
from support.smalldisk import SmallDisk, small_disk
from support.standins_metrics import moving_clip

import icreward_lib.cli.main as command_line
from icreward_lib.run import files
from icreward_lib.run.files import DiskFullError, ReadOnlyError, write_text
from icreward_lib.video import Video, write_video

KILLS, IMAGES, VIDEOS = 20, 10, 4
BROKEN = "clip 3-1.mp4"
pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 10 pictures with 4 clips each, one of them broken."""
    folder = tmp_path_factory.mktemp("table")
    rows = ["image,video,group"]
    for number in range(IMAGES):
        for k in range(VIDEOS):
            frames = moving_clip(number * VIDEOS + k, frames=9, height=64, width=96)
            write_video(folder / f"clip {number}-{k}.mp4", Video(frames, 8.0))
            rows.append(f"{number}.png,clip {number}-{k}.mp4,{'first' if number < 5 else ''}")
        Image.fromarray(frames[0]).save(folder / f"{number}.png")
    (folder / BROKEN).write_bytes((folder / BROKEN).read_bytes()[:700])
    (folder / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "table.csv"


def words(table: Path, out: Path) -> list[str]:
    return ["score", "--csv", str(table), "--out", str(out), "--with", "vbench"]


def icreward(arguments: list[str], printed: Path) -> None:
    """The command line, as the whole of a process."""
    with printed.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        sys.exit(command_line.main(arguments))


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.ForkServerContext:
    """Processes that begin with everything imported, which takes seconds: a kill then finds them at work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["icreward_lib.poster.networks", "icreward_lib.score.batch", "test_faults"])
    return context


class Batches:
    """Starts batches of one table, each a process."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, table: Path, folder: Path) -> None:
        self.context, self.table, self.printed = context, table, folder / "printed"

    def begin(self, out: Path) -> ForkServerProcess:
        process = self.context.Process(target=icreward, args=(words(self.table, out), self.printed))
        process.start()
        return process

    def end(self, process: ForkServerProcess) -> int:
        process.join()
        assert process.exitcode is not None
        return process.exitcode


@pytest.fixture(scope="module")
def batches(
    context: multiprocessing.context.ForkServerContext, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> Batches:
    return Batches(context, table, tmp_path_factory.mktemp("batches"))


@pytest.fixture(scope="module")
def undisturbed(batches: Batches, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the results of a batch that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert batches.end(batches.begin(folder / "scores.csv")) == 3, batches.printed.read_text()
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """All that a batch wrote, but for its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.is_file() else 0


def test_every_row_has_a_line_and_the_broken_one_an_error(undisturbed: Path) -> None:
    found = [json.loads(line) for line in (undisturbed / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(found) == IMAGES * VIDEOS and [line["video"] for line in found if "error" in line] == [BROKEN]
    assert len({line.get("overall") for line in found}) > IMAGES
    assert set(results(undisturbed)) == {"scores.jsonl", "scores.csv"}


def test_a_batch_killed_at_any_moment_ends_as_if_it_had_not_been(
    batches: Batches, undisturbed: Path, tmp_path: Path
) -> None:
    rng, out, reached = random.Random(0), tmp_path / "scores.jsonl", []
    for number in range(KILLS):
        process = batches.begin(tmp_path / "scores.csv")
        wanted = (number + rng.random()) / KILLS * (IMAGES - 3) * VIDEOS  # kills fall all over the batch
        while (there := lines(out)) < wanted:
            assert process.is_alive(), batches.printed.read_text()
            assert there >= max(reached, default=0), "what was scored is scored again"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))  # and anywhere between two lines
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached.append(lines(out))
    assert len(set(reached)) >= IMAGES / 2
    assert batches.end(batches.begin(tmp_path / "scores.csv")) == 3
    assert results(tmp_path) == results(undisturbed)


def test_a_second_batch_of_the_same_results_is_refused(batches: Batches, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    first = batches.begin(out)
    while not lines(out.with_suffix(".jsonl")):
        assert first.is_alive()
        time.sleep(0.002)
    started = [batches.begin(out) for _ in range(2)]
    assert [batches.end(process) for process in started] == [1, 1]
    said = batches.printed.read_text()
    assert f"another batch is writing {out.with_suffix('.jsonl')}: wait for it" in said and said.count("\n") == 1
    assert batches.end(first) == 3
    assert results(tmp_path) == results(undisturbed)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path, "1m") as disk:
        yield disk


def score_on(disk: SmallDisk, table: Path) -> subprocess.CompletedProcess[str]:
    command = [*disk.inside, sys.executable, "-m", "icreward_lib", *words(table, disk.folder / "out" / "scores.csv")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.e2e
def test_a_batch_on_a_full_or_read_only_disk_says_so_and_goes_on_later(
    table: Path, undisturbed: Path, disk: SmallDisk
) -> None:
    whole = (undisturbed / "scores.jsonl").read_bytes()
    with disk.full(room=4096 + len(whole) // 8192 * 4096):  # for about half of the lines
        done = score_on(disk, table)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("icreward: no room left to write ") and done.stderr.count("\n") == 1
        kept = results(disk.seen / "out")
        assert set(kept) == {"scores.jsonl"} and 0 < lines(disk.seen / "out/scores.jsonl") < IMAGES * VIDEOS
        assert whole.startswith(kept["scores.jsonl"])
    with disk.read_only("out"):
        done = score_on(disk, table)
        assert (done.returncode, done.stdout) == (1, "")
        assert "scores.jsonl cannot be written (Read-only file system)" in done.stderr and done.stderr.count("\n") == 1
    assert score_on(disk, table).returncode == 3
    assert results(disk.seen / "out") == results(undisturbed)


def test_files_on_a_full_or_read_only_disk_stay_what_they_were(disk: SmallDisk) -> None:
    path = disk.seen / "a.txt"
    write_text(path, "before")
    with disk.full(room=8192), pytest.raises(DiskFullError, match="no room left to write .*a.txt"):
        write_text(path, "after" * 10**4)
    with disk.full(room=0), pytest.raises(DiskFullError, match="no room left to write .*new"):
        write_text(disk.seen / "new" / "a.txt", "after")
    with disk.read_only("results"), pytest.raises(ReadOnlyError, match="nothing can be written to .*results: make it"):
        write_text(disk.seen / "results" / "a.txt", "after")
    assert path.read_text() == "before"
    assert not list(disk.seen.rglob(f"{files._TEMPORARY}*"))

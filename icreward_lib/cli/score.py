"""The command line of scoring: `icreward score`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # all that is ours is imported where it is used: it takes seconds, and --help has to be quick
    from icreward_lib.score.intake import Limits
    from icreward_lib.score.judges import OpenedReward

_EPILOG = """\
examples:
  icreward score reference.png a.mp4 b.mp4 c.mp4
  icreward score reference.png *.mp4 --with icreward,vbench,clipsim --report report.html
  icreward score --csv clips.csv --out scores.jsonl

judges (--with), the first of which ranks; NAME=SOURCE chooses their weights:
  icreward   ICReward lite, for real clips; or SOURCE: a folder of a saved ICReward, or a profile that has been
             run here, such as laptop
  vbench     VBench++'s subject and background consistency, on EfficientNet-Lite0 at 128 pixels (the labels of the
             profile laptop are measured at 96); or vbench=dino-dreamsim
  clipsim    similarity of CLIP features; SOURCE: an open_clip model by name, hub id or folder
  mlp        the baseline trained by a profile's run; SOURCE: a profile, or a folder
  robust     the cautious ensemble trained by a profile's run; SOURCE: a profile

All scores lie in [0, 1]; higher keeps the picture better. Compare scores of one judge only.

exit codes: 0 all videos were scored; 1 nothing could be done; 2 wrong usage; 3 some videos could not be scored,
the others were; 130 interrupted.
"""


def add_command(commands: Any, models: argparse.ArgumentParser) -> None:
    """Add `score` to a parser's sub-commands; `models` is the parent parser with --models."""
    score = commands.add_parser(
        "score", parents=[models], epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        help="score and rank your own videos by how well they keep a picture",
        description="Score videos made from a reference picture by how well they keep it, and rank them.",
        usage="icreward score REF VIDEO... [options]\n       icreward score --csv FILE [options]",
    )  # fmt: skip
    score.set_defaults(command=_score, usage_error=score.error)
    add = score.add_argument
    add("reference", nargs="?", type=Path, metavar="REF", help="the reference picture")
    add("videos", nargs="*", type=Path, metavar="VIDEO", help="videos that were made from it")
    add("--csv", type=Path, metavar="FILE", help="score many: a table with columns image, video and, if wanted, group; "
        "paths relative to the table; videos are ranked within each image and group")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="with --csv: FILE.jsonl gets a line for each video as soon as it is "
        "scored, and the same command goes on after an interruption; FILE.csv gets the ranked table at the end, its "
        "lines are kept in FILE.jsonl beside it")  # fmt: skip
    add("--with", dest="judges", type=_names, default=["icreward"], metavar="NAME,...",
        help="judges, with commas between them (default: icreward); see below")  # fmt: skip
    add("--json", action="store_true", help="print JSON; with --csv an object a line for each ranking")
    add("--report", type=Path, metavar="FILE.html", help="write a page with players, curves and maps")
    add("--max-pixels", type=_count, metavar="N", default=100_000_000,
        help="refuse larger pictures and frames (default: %(default)s)")  # fmt: skip
    add("--max-frames", type=_count, metavar="N", default=100_000, help="refuse longer videos (default: %(default)s)")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of different names, such as icreward,vbench")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def _misuse(chosen: argparse.Namespace) -> str | None:
    """What does not go together."""
    csv, out = chosen.csv, chosen.out
    wrong = {
        "give a reference and videos, or --csv with a table of them, not both": csv and chosen.reference,
        "give a reference picture and videos made from it, or --csv with a table of them": not (
            csv or chosen.reference
        ),
        f"give at least one video after the reference picture {chosen.reference}": not (csv or chosen.videos),
        "--out goes with --csv; for a few videos send --json to a file": out and not csv,
        "--report goes with a reference and videos, not with --csv": chosen.report and csv,
        f"--out {out}: name a file that ends in .jsonl or .csv": out and out.suffix not in (".jsonl", ".csv"),
        f"--out {out} would replace the table: name another file": out and csv and out.resolve() == csv.resolve(),
    }
    return next((message for message, holds in wrong.items() if holds), None)


def _score(chosen: argparse.Namespace) -> int:
    if misuse := _misuse(chosen):
        chosen.usage_error(misuse)
    from icreward_lib.score import batch, intake, judges, ranking

    limits, report = intake.Limits(pixels=chosen.max_pixels, frames=chosen.max_frames), chosen.report is not None
    opened = [judges.open_reward(name, maps=report) for name in chosen.judges]
    if chosen.csv:
        shown = _table(chosen, opened, limits)
    else:
        inputs = (chosen.reference, chosen.videos, opened, limits)
        ranked = ranking.rank_videos(*inputs, keep_clips=report, progress=_progress)
        shown = [ranked.to_json()]
    if chosen.json:
        print(*map(json.dumps, shown), sep="\n")  # in ASCII, which every terminal and pipe takes
    else:
        print("\n\n".join(map(batch.to_text, shown)), flush=True)
    if report:
        from icreward_lib.score.report import write_report

        with batch.writing(chosen.report):
            write_report(chosen.report, ranked)
    videos = [video for each in shown for video in each["videos"]]
    errors = [video["error"] for video in videos if "error" in video]
    for error in errors:
        print(f"icreward: {batch.printable(error)}", file=sys.stderr)
    return 0 if not errors else 1 if len(errors) == len(videos) else 3


def _table(chosen: argparse.Namespace, judges: list[OpenedReward], limits: Limits) -> list[dict[str, Any]]:
    from icreward_lib.score import batch

    out, rows = chosen.out, batch.read_table(chosen.csv)
    lines = batch.score_table(rows, judges, limits, out=out and out.with_suffix(".jsonl"), progress=_progress)
    found = batch.rankings(lines, [judge.name for judge in judges])
    if out and out.suffix == ".csv":
        with batch.writing(out):
            batch.write_csv(out, found)
    return found


def _progress(done: int, total: int) -> None:
    """A line that counts, for those who look at it."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} videos", end="\n" if done == total else "", file=sys.stderr, flush=True)

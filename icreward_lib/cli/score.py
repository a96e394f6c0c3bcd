"""The command line of scoring: `icreward score`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # all that is ours is imported where it is used: it takes seconds, and --help has to be quick
    from icreward_lib.score.intake import Limits
    from icreward_lib.score.judges import Judge

_EPILOG = """\
examples:
  icreward score reference.png a.mp4 b.mp4 c.mp4
  icreward score reference.png *.mp4 --with icreward,vbench,clipsim --report report.html
  icreward score --csv clips.csv --out scores.jsonl

judges (--with), the first of which ranks; NAME=SOURCE chooses their weights:
  icreward   ICReward lite, for real clips; or SOURCE: a folder of a saved ICReward, or a profile that has been
             run here, such as laptop
  vbench     VBench++'s subject and background consistency, on EfficientNet-Lite0; or vbench=dino-dreamsim
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
        "score",
        parents=[models],
        help="score and rank your own videos by how well they keep a picture",
        description="Score videos made from a reference picture by how well they keep it, and rank them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="icreward score REF VIDEO... [options]\n       icreward score --csv FILE [options]",
    )
    score.set_defaults(command=_score, usage_error=score.error)
    score.add_argument("reference", nargs="?", type=Path, metavar="REF", help="the reference picture")
    score.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="videos that were made from it")
    score.add_argument(
        "--csv", type=Path, metavar="FILE",
        help="score many: a table with columns image, video and, if wanted, group; paths relative to the table; "
        "videos are ranked within each image and group",
    )  # fmt: skip
    score.add_argument(
        "--out", type=Path, metavar="FILE",
        help="with --csv: FILE.jsonl gets a line for each video as soon as it is scored, and the same command goes on "
        "after an interruption; FILE.csv gets the ranked table at the end, its lines are kept in FILE.jsonl beside it",
    )  # fmt: skip
    score.add_argument(
        "--with", dest="judges", type=_names, default=["icreward"], metavar="NAME,...",
        help="judges, with commas between them (default: icreward); see below",
    )  # fmt: skip
    score.add_argument("--json", action="store_true", help="print JSON; with --csv an object a line for each ranking")
    score.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with players, curves and maps")
    score.add_argument(
        "--max-pixels", type=_count, metavar="N", help="refuse larger pictures and frames (default: 100000000)"
    )
    score.add_argument("--max-frames", type=_count, metavar="N", help="refuse longer videos (default: 100000)")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of different names, such as icreward,vbench")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def _check(chosen: argparse.Namespace) -> None:
    """End with a usage error for what does not go together."""
    if chosen.csv and chosen.reference:
        chosen.usage_error("give a reference and videos, or --csv with a table of them, not both")
    if not chosen.csv and not chosen.reference:
        chosen.usage_error("give a reference picture and videos made from it, or --csv with a table of them")
    if not chosen.csv and not chosen.videos:
        chosen.usage_error(f"give at least one video after the reference picture {chosen.reference}")
    if chosen.out and not chosen.csv:
        chosen.usage_error("--out goes with --csv; for a few videos send --json to a file")
    if chosen.report and chosen.csv:
        chosen.usage_error("--report goes with a reference and videos, not with --csv")
    if chosen.out and chosen.out.suffix not in (".jsonl", ".csv"):
        chosen.usage_error(f"--out {chosen.out}: name a file that ends in .jsonl or .csv")
    if chosen.csv and chosen.out and chosen.out.resolve() == chosen.csv.resolve():
        chosen.usage_error(f"--out {chosen.out} would replace the table: name another file")


def _score(chosen: argparse.Namespace) -> int:
    _check(chosen)
    from icreward_lib.score.batch import printable
    from icreward_lib.score.intake import Limits
    from icreward_lib.score.judges import open_judge

    given = {"pixels": chosen.max_pixels, "frames": chosen.max_frames}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    judges = [open_judge(name, maps=chosen.report is not None) for name in chosen.judges]
    rankings = _score_table(chosen, judges, limits) if chosen.csv else _score_videos(chosen, judges, limits)
    errors = [video["error"] for ranking in rankings for video in ranking["videos"] if "error" in video]
    for error in errors:
        print(f"icreward: {printable(error)}", file=sys.stderr)
    if not errors:
        return 0
    return 1 if len(errors) == sum(len(ranking["videos"]) for ranking in rankings) else 3


def _score_videos(chosen: argparse.Namespace, judges: list[Judge], limits: Limits) -> list[dict[str, Any]]:
    from icreward_lib.score.ranking import rank_videos

    ranking = rank_videos(
        chosen.reference, chosen.videos, judges, limits, keep_clips=chosen.report is not None, progress=_progress
    )
    found = [ranking.to_json()]
    _show(found, chosen.json)
    if chosen.report:
        from icreward_lib.score.batch import writing
        from icreward_lib.score.report import write_report

        with writing(chosen.report):
            write_report(chosen.report, [ranking])
    return found


def _score_table(chosen: argparse.Namespace, judges: list[Judge], limits: Limits) -> list[dict[str, Any]]:
    from icreward_lib.score.batch import rankings, read_table, score_table, write_csv, writing

    rows = read_table(chosen.csv)
    lines = score_table(rows, judges, limits, out=chosen.out and chosen.out.with_suffix(".jsonl"), progress=_progress)
    found = rankings(lines, [judge.name for judge in judges])
    if chosen.out and chosen.out.suffix == ".csv":
        with writing(chosen.out):
            write_csv(chosen.out, found)
    _show(found, chosen.json)
    return found


def _show(rankings: list[dict[str, Any]], as_json: bool) -> None:
    from icreward_lib.score.batch import to_text

    if as_json:
        for ranking in rankings:
            print(json.dumps(ranking, allow_nan=False))  # in ASCII, which every terminal and pipe takes
    else:
        print("\n\n".join(map(to_text, rankings)), flush=True)


def _progress(done: int, total: int) -> None:
    """A line that counts, for those who look at it."""
    if sys.stderr.isatty():
        print(f"\r{done}/{total} videos", end="\n" if done == total else "", file=sys.stderr, flush=True)

"""Rankings as tables: to read, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icreward_lib.files import write_text
from icreward_lib.scoring.ranking import ranks, rates_differ


def to_text(ranking: Mapping[str, Any]) -> str:
    """A ranking, as of `Ranking.to_json`, as aligned columns, and below them every warning once with its files."""
    scored = [video for video in ranking["videos"] if "error" not in video]
    columns: dict[str, list[float | None]] = {
        name: [video[name] for video in scored] for name in ("overall", "subject", "background")
    }
    for video in scored:
        for judge in video.get("scores", {}):
            if judge != ranking["reward"]:
                columns.setdefault(judge, [each["scores"][judge]["overall"] for each in scored])
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    lines = [["rank", *columns, "video"]]
    for place, video in enumerate(scored):
        values = ["" if (value := column[place]) is None else f"{value:.3f}" for column in columns.values()]
        lines.append([str(video["rank"]), *values, printable(video["path"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join([*map(str.rjust, line[:-1], widths), line[-1]]) for line in lines] if scored else []
    group = f" ({ranking['group']})" if ranking.get("group") else ""
    title = f"{printable(ranking['reference'])}{printable(group)}, ranked by {printable(ranking['reward'])}"
    return "\n".join([title, *table, *_warnings(scored)])


def _warnings(videos: Sequence[Mapping[str, Any]]) -> list[str]:
    found: dict[str, list[str]] = {}
    for video in videos:
        for text in video["warnings"]:
            found.setdefault(text, []).append(printable(video["path"]))
    return [
        f"! {text}" + (f" ({', '.join(paths)})" if len(paths) < len(videos) or len(videos) == 1 else " (all videos)")
        for text, paths in found.items()
    ]


def printable(text: str) -> str:
    """A name without what a terminal would obey, or cannot show."""
    return "".join(each if each.isprintable() else "?" for each in text)


def rankings(lines: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of each image and group as a ranking, as of `Ranking.to_json` with its `group`; in order of the table.

    `judges` are their names.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["image"], line["group"]), []).append(line)
    return [
        {"reference": image, "group": group, "reward": judges[0], "videos": _ranked(members, judges)}
        for (image, group), members in groups.items()
    ]


def _ranked(lines: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> list[dict[str, Any]]:
    warning = rates_differ([line.get("fps") for line in lines], judges)
    videos = []
    for line, place in zip(lines, ranks([line.get("overall") for line in lines]), strict=True):
        kept = {name: value for name, value in line.items() if name not in ("image", "video", "group", "fps", "key")}
        if place is not None:
            kept["warnings"] = [*kept["warnings"], *([warning] if warning else [])]
            kept = {"rank": place, **kept}
        videos.append({"path": line["video"], **kept})
    return sorted(videos, key=lambda video: video.get("rank", len(lines) + 1))


def write_csv(out: Path, ranked: Sequence[dict[str, Any]]) -> None:
    """Write rankings as one CSV table, whole: a row for every video, best first within its image and group.

    Raises OSError if it cannot be written.
    """
    scored = [(each, video) for each in ranked for video in each["videos"]]
    others = list(dict.fromkeys(name for _, video in scored for name in video.get("scores", {})))
    names = ["image", "group", "rank", "video", "overall", "subject", "background", *others, "warnings", "error"]
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for each, video in scored:
        own = {name: scores["overall"] for name, scores in video.get("scores", {}).items()}
        warnings = "; ".join(video.get("warnings", []))
        where = {"image": each["reference"], "group": each["group"], "video": video["path"]}
        table.writerow({**video, **own, **where, "warnings": warnings})
    write_text(out, buffer.getvalue())

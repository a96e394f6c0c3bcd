"""Many pictures and videos from one CSV file, a JSON line each as they are scored; an interrupted batch goes on."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from icreward_lib.run.files import DiskFullError, content_hash, digest, only_one, reporting_full_disk, write_text
from icreward_lib.score.intake import IntakeError, Limits, Picture, read_picture
from icreward_lib.score.judges import OpenedReward
from icreward_lib.score.ranking import TOGETHER, Entry, Progress, assess, ranks, rate_warnings

COLUMNS = ("image", "video")  # and "group", if there is one
Line = dict[str, Any]


class BatchError(ValueError):
    """A table that cannot be read, or results that cannot be written; the message says what to do."""


@dataclass(frozen=True)
class Row:
    """A row of the table: paths as they are written there, and where the files are."""

    image: str
    video: str
    group: str
    folder: Path
    line: int

    @property
    def names(self) -> dict[str, str]:
        """What it is called, in the table and in results."""
        return {"image": self.image, "video": self.video, "group": self.group}

    @property
    def lacking(self) -> str | None:
        """What to say if a column that has to have a value has none."""
        columns = " and no ".join(name for name in COLUMNS if not self.names[name])
        return f"line {self.line} of the table has no {columns}" if columns else None


def read_table(path: Path) -> list[Row]:
    """Read a CSV file with columns image, video and, if wanted, group; paths are relative to it. Raises BatchError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = header = [name.strip() for name in reader.fieldnames or []]
            if missing := [name for name in COLUMNS if name not in header]:
                present = ", ".join(header) or "none"
                raise BatchError(
                    f"{path} has no column {' and no column '.join(missing)}: its first line has to name the columns "
                    f"image, video and, if wanted, group, with commas between them (it has: {present})"
                )
            rows = []
            for found in reader:
                image, video, group = ((found.get(name) or "").strip() for name in (*COLUMNS, "group"))
                rows.append(Row(image, video, group, path.parent, reader.line_num))
    except FileNotFoundError as error:
        raise BatchError(f"there is no table {path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BatchError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from error
    if not rows:
        raise BatchError(f"{path} has a header but no rows")
    return rows


def score_table(
    rows: Sequence[Row],
    judges: Sequence[OpenedReward],
    limits: Limits,
    *,
    out: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Line]:
    """Score all rows, in their order, with memory bounded by `TOGETHER` clips; the line of each is as of `_line`.

    With `out`, a .jsonl file, every result is a line of it as soon as it is known, and rows that have theirs, of the
    same files, judges and limits, are not scored again. `judges` and `progress` as of `rank_videos`. Raises BatchError
    if `out` cannot be written, holds something else or is being written, DiskFullError when there is no room.
    """
    known: dict[int, Line] = {}
    with ExitStack() as held:
        if out:
            busy = BatchError(f"another batch is writing {out}: wait for it, or name another file")
            with writing(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(only_one(out.with_name(f".{out.name}.lock"), busy))
            known = _known(out, rows, judges, limits)
            _rewrite(out, [known[place] for place in sorted(known)])
        for place, line in _scored(rows, frozenset(known), judges, limits):
            known[place] = line
            progress(len(known), len(rows))
            if out:
                with writing(out), out.open("a", encoding="utf-8") as file:  # closing it writes, too
                    file.write(_text(line))
                    file.flush()
                    os.fsync(file.fileno())
        lines = [known[place] for place in range(len(rows))]
        if out:
            _rewrite(out, lines)  # what an older table left may stand in another order
    return lines


def _scored(
    rows: Sequence[Row], known: frozenset[int], judges: Sequence[OpenedReward], limits: Limits
) -> Iterator[tuple[int, Line]]:
    """The lines of rows that are not known, by their place."""
    for _, run in itertools.groupby(range(len(rows)), key=lambda place: rows[place].image):
        # Parts depend on the table alone, so that a part that was interrupted gives the same numbers when scored again.
        places, picture = list(run), None
        for part in (places[start : start + TOGETHER] for start in range(0, len(places), TOGETHER)):
            if not known.issuperset(part):
                own = [rows[place] for place in part]
                picture = picture or _picture(own[0].folder / own[0].image, limits)
                lines = zip(part, own, _entries(own, picture, judges, limits), strict=True)
                yield from ((k, _line(row, entry, judges, limits)) for k, row, entry in lines if k not in known)


def _picture(path: Path, limits: Limits) -> Picture | IntakeError:
    try:
        return read_picture(path, limits)
    except IntakeError as error:
        return error


def _entries(
    rows: Sequence[Row], picture: Picture | IntakeError, judges: Sequence[OpenedReward], limits: Limits
) -> list[Entry]:
    """Entries of rows of one image."""
    if isinstance(picture, IntakeError):
        return [Entry(row.video, error=row.lacking or str(picture)) for row in rows]
    scored = iter(assess(picture, [row.folder / row.video for row in rows if not row.lacking], judges, limits))
    entries = [Entry(row.video, error=row.lacking) if row.lacking else next(scored) for row in rows]
    warnings = tuple(f"reference: {text}" for text in picture.warnings)
    return [replace(entry, warnings=(*warnings, *entry.warnings)) for entry in entries]


def _line(row: Row, entry: Entry, judges: Sequence[OpenedReward], limits: Limits) -> Line:
    """Image, video, group, then as in `Entry.to_json`, without a rank; `fps`; `key`, of all that it follows from."""
    found = {name: value for name, value in entry.to_json(judges[0].name).items() if name not in ("path", "rank")}
    rate = {} if entry.rate is None else {"fps": round(entry.rate, 3)}
    return {**row.names, **found, **rate, "key": _key(row, judges, limits)}


def _key(row: Row, judges: Sequence[OpenedReward], limits: Limits) -> str:
    contents: list[str | None] = []
    for path in (row.folder / row.image, row.folder / row.video):
        try:
            contents.append(content_hash(path) if path.is_file() else None)
        except (OSError, ValueError):  # no file can be called so, or this one may not be read
            contents.append(None)
    return digest([row.names, row.lacking, contents, [[j.name, j.identity] for j in judges], asdict(limits)])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors about a file that cannot be written into `BatchError` or `DiskFullError`."""
    try:
        with reporting_full_disk(path):
            yield
    except DiskFullError:
        raise
    except OSError as error:
        raise BatchError(f"{path} cannot be written ({error.strerror}): name another place") from error


def _known(out: Path, rows: Sequence[Row], judges: Sequence[OpenedReward], limits: Limits) -> dict[int, Line]:
    """What an earlier batch left of these rows, by their place; a line that a kill has torn is left out."""
    try:
        *whole, _torn = out.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BatchError(f"{out} cannot be read ({error.strerror}): name another file") from error
    try:
        lines: dict[str, Line] = {line["key"]: line for line in map(json.loads, whole)}
        names = {tuple(line[name] for name in (*COLUMNS, "group")) for line in lines.values()}
        if not all(isinstance(text, str) for name in [*names, lines] for text in name):
            raise ValueError("a name is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise BatchError(f"{out} holds something other than results of a batch: name another file") from error
    keys = {place: _key(row, judges, limits) for place, row in enumerate(rows) if tuple(row.names.values()) in names}
    return {place: lines[key] for place, key in keys.items() if key in lines}


def _rewrite(out: Path, lines: Sequence[Line]) -> None:
    text = "".join(map(_text, lines))
    if not out.is_file() or out.read_bytes() != text.encode("utf-8"):
        with writing(out):
            write_text(out, text)


def _text(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def to_text(ranking: Mapping[str, Any]) -> str:
    """A ranking, as of `Ranking.to_json`, as aligned columns, and below them every warning once with its files."""
    scored = [video for video in ranking["videos"] if "error" not in video]
    rows = [
        {name: video[name] for name in ("overall", "subject", "background")}
        | {j: found["overall"] for j, found in video.get("scores", {}).items() if j != ranking["reward"]}
        for video in scored
    ]
    columns = [name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)]
    lines = [["rank", *columns, "video"]]
    for row, video in zip(rows, scored, strict=True):
        values = ["" if row[name] is None else f"{row[name]:.3f}" for name in columns]
        lines.append([str(video["rank"]), *values, printable(video["path"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join([*map(str.rjust, line[:-1], widths), line[-1]]) for line in lines] if scored else []
    group = f" ({ranking['group']})" if ranking.get("group") else ""
    title = f"{printable(ranking['reference'])}{printable(group)}, ranked by {printable(ranking['reward'])}"
    warned: dict[str, list[str]] = {}
    for video in scored:
        for text in video["warnings"]:
            warned.setdefault(text, []).append(printable(video["path"]))
    where = {
        text: "all videos" if len(scored) == len(paths) > 1 else ", ".join(paths) for text, paths in warned.items()
    }
    return "\n".join([title, *table, *(f"! {text} ({paths})" for text, paths in where.items())])


def printable(text: str) -> str:
    """A name without what a terminal would obey, or cannot show."""
    return "".join(each if each.isprintable() else "?" for each in text)


def rankings(lines: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of each image and group as of `Ranking.to_json`, with its `group`, in order; `judges` are names."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["image"], line["group"]), []).append(line)
    return [
        {"reference": image, "group": group, "reward": judges[0], "videos": _ranked(members, judges)}
        for (image, group), members in groups.items()
    ]


def _ranked(lines: Sequence[Mapping[str, Any]], judges: Sequence[str]) -> list[dict[str, Any]]:
    shared = rate_warnings([line.get("fps") for line in lines], judges)
    videos = []
    for line, place in zip(lines, ranks([line.get("overall") for line in lines]), strict=True):
        kept = {name: value for name, value in line.items() if name not in ("image", "video", "group", "fps", "key")}
        if place is not None:
            kept = {"rank": place, **kept, "warnings": [*kept["warnings"], *shared]}
        videos.append({"path": line["video"], **kept})
    return sorted(videos, key=lambda video: video.get("rank", len(lines) + 1))


def write_csv(out: Path, ranked: Sequence[dict[str, Any]]) -> None:
    """Write rankings as one CSV table, whole: a row for every video, best first within its image and group."""
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

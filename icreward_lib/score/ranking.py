"""Videos of one reference picture, judged and put in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import rankdata

from icreward_lib.score.intake import Clip, IntakeError, Limits, Picture, read_clip, read_picture
from icreward_lib.score.judges import Judge, Verdict

TOGETHER = 8  # clips that are held in memory and judged at a time
DIGITS = 6  # of a score that is written; what is equal in all of them is a tie
Progress = Callable[[int, int], None]
_FEW = 8  # frames; a score of fewer says little
_RATES = 1.1  # quotient of frame rates from which on VBench++ is not fair


@dataclass(frozen=True, eq=False)
class Entry:
    """One video: what every judge says of it (by name), and its rank, 1 the best; or why it could not be scored.

    `rate` is the kept frames' per second, `warnings` are those about the file.
    """

    path: str
    clip: Clip | None
    verdicts: Mapping[str, Verdict]
    rank: int | None
    error: str | None
    warnings: tuple[str, ...] = ()
    rate: float | None = None

    def to_json(self, reward: str) -> dict[str, Any]:
        """As JSON, with the scores of the judge `reward` first; of several judges, all under `scores`."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        scores = {name: _scores(verdict) for name, verdict in self.verdicts.items()}
        said = [verdict.warnings for verdict in self.verdicts.values()]
        found = list(self.warnings)
        for name, verdict in self.verdicts.items():
            found += [text if all(text in each for each in said) else f"{name}: {text}" for text in verdict.warnings]
        return {
            "path": self.path,
            "rank": self.rank,
            **scores[reward],
            "frames": [round(float(score), DIGITS) for score in self.verdicts[reward].frames],
            "warnings": list(dict.fromkeys(found)),
            **({"scores": scores} if len(scores) > 1 else {}),
        }


def _scores(verdict: Verdict) -> dict[str, float | None]:
    parts = {name: verdict.dimensions.get(name) for name in ("subject", "background", "motion")}
    if parts["motion"] is None:
        del parts["motion"]
    named = {"overall": verdict.overall, **parts}
    return {name: None if value is None else round(value, DIGITS) for name, value in named.items()}


@dataclass(frozen=True, eq=False)
class Ranking:
    """The videos of one reference, best first by the judge `reward`, those that could not be scored last."""

    reference: str
    picture: Picture
    reward: str
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """What `icreward score --json` prints."""
        videos = [entry.to_json(self.reward) for entry in self.entries]
        for video in videos:
            if "error" not in video:
                video["warnings"] = [f"reference: {text}" for text in self.picture.warnings] + video["warnings"]
        return {"reference": self.reference, "reward": self.reward, "videos": videos}


def rank_videos(
    reference: Path,
    videos: Sequence[Path],
    judges: Sequence[Judge],
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    *,
    keep_clips: bool = True,
    progress: Progress = lambda done, total: None,
) -> Ranking:
    """Judge videos against a reference picture and rank them by the first of the judges; equal scores share a rank.

    Args:
        reference: a picture.
        videos: at least one. A video that cannot be scored becomes an entry with an error.
        judges: at least one, of different names.
        limits: on what is read.
        keep_clips: False leaves the clips out of the entries, and memory bounded however many videos there are.
        progress: told how many of the videos are done, now and then.

    Raises:
        IntakeError: for a reference that cannot be read.
    """
    picture = read_picture(reference, limits)
    entries: list[Entry] = []
    for start in range(0, len(videos), TOGETHER):
        found = assess(picture, videos[start : start + TOGETHER], judges, limits)
        entries += found if keep_clips else [replace(entry, clip=None) for entry in found]
        progress(len(entries), len(videos))
    if warning := rates_differ([entry.rate for entry in entries], [judge.name for judge in judges]):
        entries = [_warned(entry, warning) for entry in entries]
    reward = judges[0].name
    places = ranks([None if entry.error else entry.verdicts[reward].overall for entry in entries])
    ranked = [replace(entry, rank=place) for entry, place in zip(entries, places, strict=True)]
    ranked.sort(key=lambda entry: len(entries) + 1 if entry.rank is None else entry.rank)
    return Ranking(str(reference), picture, reward, tuple(ranked))


def assess(picture: Picture, videos: Sequence[Path], judges: Sequence[Judge], limits: Limits) -> list[Entry]:
    """Unranked entries of videos, in their order; all clips are held in memory."""
    entries = []
    for path in videos:
        try:
            clip = read_clip(path, limits)
        except IntakeError as error:
            entries.append(Entry(str(path), None, {}, None, str(error)))
            continue
        if (kept := clip.video.num_frames) < _FEW:
            few = f"only {kept} frame{'s' if kept > 1 else ''}: the score says little"
            clip = replace(clip, warnings=(*clip.warnings, few))
        entries.append(Entry(str(path), clip, {}, None, None, clip.warnings, clip.video.fps))
    for judge in judges:
        whole = [place for place, entry in enumerate(entries) if entry.error is None]
        clips = [known for place in whole if (known := entries[place].clip)]
        for place, found in zip(whole, _verdicts(judge, picture, clips), strict=True):
            entry = entries[place]
            if isinstance(found, str):
                entries[place] = Entry(entry.path, None, {}, None, f"{entry.path}: {judge.name}: {found}")
            else:
                entries[place] = replace(entry, verdicts={**entry.verdicts, judge.name: found})
    return entries


def _verdicts(judge: Judge, picture: Picture, clips: Sequence[Clip]) -> Iterator[Verdict | str]:
    """A verdict on each of the clips, or why there is none; one that cannot be judged does not stop the others."""
    try:
        yield from judge.judge(picture.image, [clip.video for clip in clips])
    except ValueError as error:
        if len(clips) == 1:
            yield str(error)
        else:
            for clip in clips:
                yield from _verdicts(judge, picture, [clip])


def ranks(scores: Sequence[float | None]) -> list[int | None]:
    """The rank of each score, 1 the highest, equals sharing the better one (1, 1, 3); None where there is no score."""
    known = [round(score, DIGITS) for score in scores if score is not None]
    places = iter(rankdata([-score for score in known], method="min").astype(int).tolist())
    return [None if score is None else next(places) for score in scores]


def rates_differ(rates: Sequence[float | None], judges: Sequence[str]) -> str | None:
    """A warning if VBench++ is among the judges' names and frames follow each other at different rates."""
    known = [rate for rate in rates if rate is not None]
    if not any(name.split("=")[0] == "vbench" for name in judges) or not known or max(known) <= _RATES * min(known):
        return None
    return (
        f"vbench favours higher frame rates, and the frames that it compares are {min(known):.3g} to "
        f"{max(known):.3g} a second: compare clips of one rate and length"
    )


def _warned(entry: Entry, warning: str) -> Entry:
    if entry.error is not None:
        return entry
    clip = entry.clip and replace(entry.clip, warnings=(*entry.clip.warnings, warning))
    return replace(entry, clip=clip, warnings=(*entry.warnings, warning))

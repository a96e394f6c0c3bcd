"""Videos of one reference picture, scored and put in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scipy.stats import rankdata

from icreward_lib.rewards.base import ClipScores
from icreward_lib.score.intake import Clip, IntakeError, Limits, Picture, read_clip, read_picture
from icreward_lib.score.judges import OpenedReward

TOGETHER = 8  # clips that are held in memory and scored at a time
DIGITS = 6  # of a score that is written; what is equal in all of them is a tie
Progress = Callable[[int, int], None]
_RATES = 1.1  # quotient of frame rates from which on VBench++ is not fair


@dataclass(frozen=True, eq=False)
class Entry:
    """One video: its scores by each judge's name, and its rank, 1 the best; or why it could not be scored.

    `rate` is the kept frames' per second, `warnings` are those about the file.
    """

    path: str
    clip: Clip | None = None
    scores: Mapping[str, ClipScores] = field(default_factory=dict)
    rank: int | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    rate: float | None = None

    def to_json(self, reward: str) -> dict[str, Any]:
        """As JSON, with the scores of the judge `reward` first; of several judges, all under `scores`."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        numbers = {name: _numbers(scores) for name, scores in self.scores.items()}
        return {
            "path": self.path,
            "rank": self.rank,
            **numbers[reward],
            "frames": [round(float(score), DIGITS) for score in self.scores[reward].frames],
            "warnings": self.all_warnings(),
            **({"scores": numbers} if len(numbers) > 1 else {}),
        }

    def all_warnings(self) -> list[str]:
        """Those about the file, then the judges', each once, with the judge's name unless all of them say it."""
        found = list(self.warnings)
        for name, scores in self.scores.items():
            shared = [text for text in scores.warnings if all(text in each.warnings for each in self.scores.values())]
            found += [text if text in shared else f"{name}: {text}" for text in scores.warnings]
        return list(dict.fromkeys(found))


def _numbers(scores: ClipScores) -> dict[str, float | None]:
    """Overall and dimensions; None for a subject or background that is not measured."""
    named = {"overall": scores.overall, "subject": None, "background": None, **scores.dimensions}
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
    judges: Sequence[OpenedReward],
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    *,
    keep_clips: bool = True,
    progress: Progress = lambda done, total: None,
) -> Ranking:
    """Score videos against a reference picture and rank them by the first of the judges; equal scores share a rank.

    A video that cannot be scored becomes an entry with an error; a reference that cannot be read raises IntakeError.
    `judges` have different names. Without `keep_clips` memory is bounded. `progress` is told how many are done.
    """
    picture = read_picture(reference, limits)
    entries: list[Entry] = []
    for start in range(0, len(videos), TOGETHER):
        found = assess(picture, videos[start : start + TOGETHER], judges, limits)
        entries += found if keep_clips else [replace(entry, clip=None) for entry in found]
        progress(len(entries), len(videos))
    shared = rate_warnings([entry.rate for entry in entries], [judge.name for judge in judges])
    reward = judges[0].name
    places = ranks([None if entry.error else entry.scores[reward].overall for entry in entries])
    ranked = [
        entry if place is None else replace(entry, rank=place, warnings=(*entry.warnings, *shared))
        for entry, place in zip(entries, places, strict=True)
    ]
    ranked.sort(key=lambda entry: entry.rank or len(entries) + 1)
    return Ranking(str(reference), picture, reward, tuple(ranked))


def assess(picture: Picture, videos: Sequence[Path], judges: Sequence[OpenedReward], limits: Limits) -> list[Entry]:
    """Unranked entries of videos, in their order; all clips are held in memory."""
    entries = [_read(path, limits) for path in videos]
    for judge in judges:
        whole = [(place, clip) for place, entry in enumerate(entries) if (clip := entry.clip)]
        for (place, _), found in zip(whole, _scored(judge, picture, [clip for _, clip in whole]), strict=True):
            entry = entries[place]
            if isinstance(found, str):
                entries[place] = Entry(entry.path, error=f"{entry.path}: {judge.name}: {found}")
            else:
                entries[place] = replace(entry, scores={**entry.scores, judge.name: found})
    return entries


def _read(path: Path, limits: Limits) -> Entry:
    try:
        clip = read_clip(path, limits)
        return Entry(str(path), clip, warnings=clip.warnings, rate=clip.video.fps)
    except IntakeError as error:
        return Entry(str(path), error=str(error))


def _scored(judge: OpenedReward, picture: Picture, clips: Sequence[Clip]) -> Iterator[ClipScores | str]:
    """Scores of each of the clips, or why there are none; one that cannot be scored does not stop the others."""
    try:
        yield from judge.score_clips(picture.image, [clip.video for clip in clips])
    except ValueError as error:
        if len(clips) == 1:
            yield str(error)
        else:
            for clip in clips:
                yield from _scored(judge, picture, [clip])


def ranks(scores: Sequence[float | None]) -> list[int | None]:
    """The rank of each score, 1 the highest, equals sharing the better one (1, 1, 3); None where there is no score."""
    known = [round(score, DIGITS) for score in scores if score is not None]
    places = iter(rankdata([-score for score in known], method="min").astype(int).tolist())
    return [None if score is None else next(places) for score in scores]


def rate_warnings(rates: Sequence[float | None], judges: Sequence[str]) -> list[str]:
    """A warning if VBench++ is among the judges' names and frames follow each other at different rates."""
    known = [rate for rate in rates if rate is not None]
    if not any(name.split("=")[0] == "vbench" for name in judges) or not known or max(known) <= _RATES * min(known):
        return []
    return [
        f"vbench favours higher frame rates, and the frames that it compares are {min(known):.3g} to "
        f"{max(known):.3g} a second: compare clips of one rate and length"
    ]

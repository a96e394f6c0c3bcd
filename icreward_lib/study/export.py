"""Votes as files that other tools read: a CSV and the codebook that explains it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from icreward_lib.run.files import atomic, write_text
from icreward_lib.study.protocol import StudyConfig
from icreward_lib.study.store import Answer, Store
from icreward_lib.study.votes import CORRUPTED, SETTINGS

COLUMNS = {
    "rater": "number of the rater; names are not known",
    "trial": "position of the screen in the rater's session, from 0; practice comes first and is not exported",
    "pair": "name of the pair; of a ranking, the sample and the two arms",
    "sample": "name of the reference image",
    "arm_left": f"where the left clip came from; '{CORRUPTED}' is a ruined copy",
    "arm_right": "where the right clip came from",
    "choice": "left, right or tie; of a ranking, the side that was ranked higher",
    "question": "name of the question, see below",
    "is_attention": "whether the answer was known: a clip beside its ruined copy, or twice the same clip (tie)",
    "is_repeat": "whether an earlier trial was shown again, the other way round",
    "shown_at": "when the screen was shown, UTC",
    "answered_at": "when the answer was stored, UTC",
    "feedback": "what the rater wrote, if anything",
    "tags": "what the rater said had decided, separated by spaces",
    "left": "id of the left clip",
    "right": "id of the right clip",
    "source": "people",
}


def votes_table(store: Store) -> pd.DataFrame:
    """All votes but those of practice, a row each; a ranking gives one row for any two of its clips."""
    answers = (answer for answer in store.answers() if answer.screen.kind != "practice")
    return pd.DataFrame([row for answer in answers for row in _rows(answer)], columns=list(COLUMNS))


def _rows(answer: Answer) -> Iterator[dict[str, object]]:
    screen = answer.screen
    for i, j in itertools.combinations(range(len(screen.clips)), 2):
        left, right = screen.clips[i], screen.clips[j]
        pair, choice = screen.pair, answer.choice
        if len(screen.clips) > 2:
            if screen.kind == "attention" and CORRUPTED not in (left.arm, right.arm):
                continue
            pair = f"{screen.sample}:{'+'.join(sorted((left.arm, right.arm)))}"
            ranks = answer.choice.split("-")
            choice = "left" if ranks.index(str(i)) < ranks.index(str(j)) else "right"
        yield {
            "rater": f"r{answer.rater + 1:03}",
            "trial": answer.trial,
            "pair": pair,
            "sample": screen.sample,
            "arm_left": left.arm,
            "arm_right": right.arm,
            "choice": choice,
            "question": screen.question,
            "is_attention": screen.kind == "attention",
            "is_repeat": screen.kind == "repeat",
            "shown_at": _moment(answer.shown_at),
            "answered_at": _moment(answer.answered_at),
            "feedback": answer.feedback,
            "tags": answer.tags,
            "left": left.video,
            "right": right.video,
            "source": "people",
        }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def codebook(config: StudyConfig) -> str:
    """What the columns of the votes mean, and the settings fixed before the first vote, as Markdown."""
    lines = ["# Codebook", "", "One row per vote, UTF-8, comma-separated.", "", "| column | meaning |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in COLUMNS.items()]
    lines += ["", "## Questions", "", *(f"- `{question.name}`: {question.text}" for question in config.questions)]
    rule = config.exclusion
    lines += [
        "",
        "## Exclusion, fixed before the first vote",
        "",
        f"A rater does not count who passes fewer than {rule.min_attention_passed:.0%} of the attention items, answers "
        f"fewer than {rule.min_repeats_alike:.0%} of the repeats as before or fewer than {rule.min_trials} trials, or "
        f"takes less than {rule.min_median_seconds:g} s for the median screen. Nobody is left out of the export.",
        "",
    ]
    return "\n".join(lines)


def export(store: Store, path: Path) -> int:
    """Write the votes as `path`, beside them a codebook and the study's settings; gives the number of rows."""
    table = votes_table(store)
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
    write_text(path.with_suffix(".codebook.md"), codebook(store.config))
    write_text(path.with_suffix(SETTINGS), store.config.model_dump_json(indent=2) + "\n")
    return len(table)

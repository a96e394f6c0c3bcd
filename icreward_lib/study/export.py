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
from icreward_lib.study.votes import COLUMNS, CORRUPTED, SETTINGS


def votes_table(store: Store) -> pd.DataFrame:
    """All votes but those of practice, a row each; a ranking gives one row for any two of its clips."""
    answers = (answer for answer in store.answers() if answer.screen.kind != "practice")
    return pd.DataFrame([row for answer in answers for row in _rows(answer)], columns=list(COLUMNS))


def _rows(answer: Answer) -> Iterator[tuple[object, ...]]:
    """The columns of `COLUMNS` for any two clips of a screen."""
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
        yield (
            *(f"r{answer.rater + 1:03}", answer.trial, pair, screen.sample, left.arm, right.arm, choice),
            *(screen.question, screen.kind == "attention", screen.kind == "repeat"),
            *(_moment(answer.shown_at), _moment(answer.answered_at), answer.feedback, answer.tags),
            *(left.video, right.video, "people"),
        )


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def codebook(config: StudyConfig) -> str:
    """What the columns of the votes mean, and the settings fixed before the first vote, as Markdown."""
    columns = "\n".join(f"| {name} | {meaning} |" for name, meaning in COLUMNS.items())
    questions = "\n".join(f"- `{question.name}`: {question.text}" for question in config.questions)
    rule = config.exclusion
    return f"""# Codebook

One row per vote, UTF-8, comma-separated.

| column | meaning |
|---|---|
{columns}

## Questions

{questions}

## Exclusion, fixed before the first vote

A rater does not count who passes fewer than {rule.min_attention_passed:.0%} of the attention items, answers \
fewer than {rule.min_repeats_alike:.0%} of the repeats as before or fewer than {rule.min_trials} trials, or \
takes less than {rule.min_median_seconds:g} s for the median screen. Nobody is left out of the export.
"""


def export(store: Store, path: Path) -> int:
    """Write the votes as `path`, beside them a codebook and the study's settings; gives the number of rows."""
    table = votes_table(store)
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
    write_text(path.with_suffix(".codebook.md"), codebook(store.config))
    write_text(path.with_suffix(SETTINGS), store.config.model_dump_json(indent=2) + "\n")
    return len(table)

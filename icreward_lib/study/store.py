"""Where votes are kept: one SQLite file, every vote on the disk before it is acknowledged; and their export.

The screens of a rater are stored when the link is made, so that no change of code or files can alter them.
"""

from __future__ import annotations

import itertools
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd
from pydantic import TypeAdapter

from icreward_lib.run.files import DiskFullError, atomic, digest, make_folder, write_text
from icreward_lib.study.protocol import Item, Screen, StudyConfig, StudyError, draw
from icreward_lib.study.votes import COLUMNS, CORRUPTED, SETTINGS

_SCHEMA = """
CREATE TABLE study (config TEXT NOT NULL, items TEXT NOT NULL, version TEXT NOT NULL, begun REAL NOT NULL);
CREATE TABLE raters (
    rater INTEGER PRIMARY KEY, token TEXT UNIQUE, code TEXT UNIQUE, consented REAL, withdrawn REAL
) STRICT;
CREATE TABLE screens (
    rater INTEGER NOT NULL REFERENCES raters, trial INTEGER NOT NULL, screen TEXT NOT NULL, PRIMARY KEY (rater, trial)
) STRICT, WITHOUT ROWID;
CREATE TABLE votes (
    rater INTEGER NOT NULL, trial INTEGER NOT NULL, choice TEXT NOT NULL, shown_at REAL NOT NULL,
    answered_at REAL NOT NULL, feedback TEXT NOT NULL DEFAULT '', tags TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (rater, trial), FOREIGN KEY (rater, trial) REFERENCES screens (rater, trial)
) STRICT, WITHOUT ROWID;
"""
_SCREEN = TypeAdapter(Screen)
_CODE_LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"  # none that are mistaken for another


class RefusedError(ValueError):
    """A request that does not fit the rater's state; nothing was changed."""


@dataclass(frozen=True)
class Rater:
    """A rater as the server knows them. `trial` is the next unanswered screen, None when there is none."""

    number: int
    code: str
    consented: bool
    trial: int | None
    screens: int


@dataclass(frozen=True)
class Answer:
    """A stored vote beside the screen that it answers."""

    rater: int
    trial: int
    screen: Screen
    choice: str
    shown_at: float
    answered_at: float
    feedback: str
    tags: str


class Store:
    """A study's votes. One thread at a time may use it; a second process waits its turn for each vote."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Open a study, or with `create` begin one where there is none; raises `StudyError`."""
        if not create and not path.is_file():
            raise StudyError(f"There is no study {path}: icreward study serve begins one.")
        self.path = path
        make_folder(path.parent)
        path.touch(mode=0o600)  # links are secrets
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
                self._db.execute(f"PRAGMA {setting}")
            if not self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'votes'").fetchone():
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StudyError(f"{path} is not a study's file of votes ({error}).") from error

    def close(self) -> None:
        """Close the file; all votes are in it already."""
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on the disk when the block ends, or undone."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFullError(f"no room left for votes in {self.path}: free some; no vote was lost") from error
            raise

    def begin(self, config: StudyConfig, judged: Sequence[Item]) -> None:
        """Fix the study's settings and clips, or check that they are those it was begun with."""
        settings, clips = config.model_dump_json(), digest([asdict(item) for item in judged])
        with self._writing() as db:
            stored = db.execute("SELECT config, items FROM study").fetchone()
            if stored is None:
                row = settings, clips, metadata.version("icreward"), time.time()
                db.execute("INSERT INTO study VALUES (?, ?, ?, ?)", row)
            elif stored != (settings, clips):
                other = f"{self.path} was begun with other {'settings' if stored[0] != settings else 'pairs'}"
                raise StudyError(f"{other}: restore them, or name another file of votes.")

    @property
    def config(self) -> StudyConfig:
        """The settings that the study was begun with."""
        if stored := self._db.execute("SELECT config FROM study").fetchone():
            return StudyConfig.model_validate_json(stored[0])
        raise StudyError(f"{self.path} holds no study yet.")

    def enrol(self, count: int, judged: Sequence[Item]) -> None:
        """Make links until there are `count`, and store what each rater will see."""
        config = self.config
        with self._writing() as db:
            (known,) = db.execute("SELECT COUNT(*) FROM raters").fetchone()
            for number in range(known, count):
                token = secrets.token_urlsafe(24)
                code = "-".join("".join(secrets.choice(_CODE_LETTERS) for _ in range(4)) for _ in range(3))
                db.execute("INSERT INTO raters (rater, token, code) VALUES (?, ?, ?)", (number, token, code))
                screens = enumerate(draw(config, judged, number))
                rows = [(number, trial, _SCREEN.dump_json(screen).decode()) for trial, screen in screens]
                db.executemany("INSERT INTO screens VALUES (?, ?, ?)", rows)

    def links(self) -> list[tuple[int, str]]:
        """Number and token of every rater who has not withdrawn."""
        return self._db.execute("SELECT rater, token FROM raters WHERE token IS NOT NULL ORDER BY rater").fetchall()

    def rater(self, token: str) -> Rater | None:
        """The rater of a link, None if there is no such link."""
        row = self._db.execute("SELECT rater, code, consented FROM raters WHERE token = ?", (token,)).fetchone()
        if row is None:
            return None
        # Screens are answered in order, so that the last vote tells the next one.
        last, voted = self._db.execute(
            "SELECT (SELECT MAX(trial) FROM screens WHERE rater = ?1), (SELECT MAX(trial) FROM votes WHERE rater = ?1)",
            row[:1],
        ).fetchone()
        trial = 0 if voted is None else voted + 1
        return Rater(row[0], row[1], row[2] is not None, trial if trial <= last else None, last + 1)

    def screen(self, rater: int, trial: int) -> Screen:
        """What a rater sees as screen number `trial`; raises `RefusedError` if there is none."""
        query = "SELECT screen FROM screens WHERE rater = ? AND trial = ?"
        if row := self._db.execute(query, (rater, trial)).fetchone():
            return _SCREEN.validate_json(row[0])
        raise RefusedError(f"There is no screen {trial}.")

    def consent(self, rater: int) -> None:
        """Note that a rater agreed, at the first time."""
        with self._writing() as db:
            db.execute("UPDATE raters SET consented = ? WHERE rater = ? AND consented IS NULL", (time.time(), rater))

    def vote(self, rater: Rater, trial: int, choice: str, seconds: float) -> str:
        """Store an answer that took so many seconds; gives the stored one, the first if there are several."""
        if not rater.consented:
            raise RefusedError("Answers are taken only after consent.")
        if not self.screen(rater.number, trial).allows(choice):
            raise RefusedError(f"'{choice}' is not an answer to this screen.")
        if rater.trial is not None and trial > rater.trial:
            raise RefusedError("This screen has not been shown yet.")
        now = time.time()
        with self._writing() as db:
            db.execute(
                "INSERT INTO votes (rater, trial, choice, shown_at, answered_at) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (rater, trial) DO NOTHING",
                (rater.number, trial, choice, now - seconds, now),
            )
        row = self._db.execute("SELECT choice FROM votes WHERE rater = ? AND trial = ?", (rater.number, trial))
        return str(row.fetchone()[0])

    def note(self, rater: Rater, trial: int, feedback: str, tags: Sequence[str]) -> None:
        """Add what a rater wrote about an answered screen."""
        with self._writing() as db:
            changed = db.execute(
                "UPDATE votes SET feedback = ?, tags = ? WHERE rater = ? AND trial = ?",
                (feedback, " ".join(tags), rater.number, trial),
            )
        if not changed.rowcount:
            raise RefusedError("Remarks are taken only after the answer.")

    def withdraw(self, code: str) -> bool:
        """Delete a rater's votes and link, by the withdrawal code; False if there is no such code."""
        code = code.strip().upper()
        with self._writing() as db:
            row = db.execute("SELECT rater FROM raters WHERE code = ?", (code,)).fetchone()
            if row is None:
                return False
            db.execute("DELETE FROM votes WHERE rater = ?", row)
            db.execute("DELETE FROM screens WHERE rater = ?", row)
            db.execute(
                "UPDATE raters SET token = NULL, code = NULL, consented = NULL, withdrawn = ? WHERE rater = ?",
                (time.time(), *row),
            )
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # or the log would still hold the votes
        return True

    def answers(self) -> list[Answer]:
        """All votes, by rater and trial."""
        rows = self._db.execute(
            "SELECT rater, trial, screen, choice, shown_at, answered_at, feedback, tags "
            "FROM votes JOIN screens USING (rater, trial) ORDER BY rater, trial"
        )
        return [Answer(rater, trial, _SCREEN.validate_json(screen), *row) for rater, trial, screen, *row in rows]


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

"""Stages: folders of cached items that survive a kill and notice damage."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from icreward_lib.run.files import DamagedFileError, atomic, content_hash, remove, write_json
from icreward_lib.run.processes import rank

ACCOUNT = ".done.json"  # of how a finished stage was made


class Stage:
    """A folder of items (files or folders) that were made from the same inputs.

    Items are written whole, with a checksum, one by one: a run that was killed goes on with the first item that is
    missing, and an item damaged since is made again.
    """

    def __init__(self, name: str, key: str, folder: Path, tell: Callable[[int, int], None] | None = None) -> None:
        self.name, self.key, self.folder = name, key, folder
        self._tell = tell  # how many items are there, of those that were asked for
        # One for each process: on a disk that several machines share, what they append to one file can get lost.
        self._journal = folder / f".journal-{rank()}"
        self._sums: dict[str, set[str]] = {}
        self._there: dict[str, bool] = {}  # the items that were asked for
        for journal in sorted(folder.glob(".journal-*")):
            for line in journal.read_text(encoding="utf-8").splitlines():
                if entry := re.fullmatch(r"(\w{64}) (.+)", line):
                    self._sums.setdefault(entry[2], set()).add(entry[1])
        #: Whether anything was written before, and whether all of it was, and is still intact.
        self.started = bool(self._sums)
        self.done = ACCOUNT in self._sums and not self.missing(list(self._sums))
        self._there.clear()

    def path(self, item: str) -> Path:
        """Where an item lies, or will."""
        return self.folder / item

    def has(self, item: str) -> bool:
        """Whether an item is there and intact. A damaged one is deleted, and said so."""
        path = self.path(item)
        intact = path.exists() and content_hash(path) in self._sums.get(item, ())
        if path.exists() and not intact:
            print(f"{self.name}: the cached {item} is damaged and will be made again", file=sys.stderr)
            remove(path)
        self._there[item] = intact
        return intact

    def lacks(self, item: str) -> bool:
        """Whether this process has to make an item that is made as a whole: it is missing, and this process leads."""
        return rank() == 0 and not self.has(item)

    def missing(self, items: Iterable[str]) -> list[str]:
        """The items that are still to be made."""
        return [item for item in items if not self.has(item)]

    @contextmanager
    def write(self, item: str) -> Iterator[Path]:
        """Give a temporary path to write an item to (a file, or a folder); it becomes the item at the end."""
        with atomic(self.path(item)) as temporary:
            yield temporary
            # The checksum goes first: a kill between the two leaves the old item, whose checksum stands too.
            sha = content_hash(temporary)
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(f"\n{sha} {item}\n")  # the leading newline keeps a line torn by a full disk apart
            self._sums.setdefault(item, set()).add(sha)
        if self._tell and item in self._there:
            self._there[item] = True
            self._tell(sum(self._there.values()), len(self._there))

    def save_npz(self, item: str, **arrays: np.ndarray) -> None:
        """Write arrays as one `.npz` item; equal arrays give equal bytes."""
        with self.write(item) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)

    def load_npz(self, item: str) -> dict[str, np.ndarray]:
        """Read the arrays of an item. Raises `DamagedFileError` or `FileNotFoundError`."""
        with self._reading(item) as path, np.load(path) as arrays:
            return dict(arrays)

    def save_json(self, item: str, value: object) -> None:
        """Write a JSON item."""
        with self.write(item) as temporary:
            write_json(temporary, value)

    def load_json(self, item: str) -> Any:
        """Read a JSON item. Raises `DamagedFileError` or `FileNotFoundError`."""
        with self._reading(item) as path:
            return json.loads(path.read_text(encoding="utf-8"))

    @contextmanager
    def _reading(self, item: str) -> Iterator[Path]:
        path = self.path(item)
        if not path.exists():
            raise FileNotFoundError(f"stage {self.name} has no {item}: run the notebook that makes it again")
        try:
            yield path
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise DamagedFileError(f"{path} is damaged: delete it and run the same notebook again") from error

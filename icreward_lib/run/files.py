"""Files that are written whole or not at all, and hashes that tell whether they are still the same."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel

LIBRARY = Path(__file__).parents[1]
CHECKOUT = LIBRARY.parent if (LIBRARY.parent / "pyproject.toml").is_file() else LIBRARY  # see setup.py
CHECKSUMS = "SHA256SUMS"
SHOWN = 3  # of many names, those that an error lists
LARGE = 10**7  # bytes of a file whose hash is worth writing down
SETTLED = 2 * 10**9  # nanoseconds after which another change gets another time, on every file system
_TEMPORARY = ".tmp-"


def output_root() -> Path:
    """The folder of `results`, `figures` and `.cache`: `ICREWARD_OUTPUT`, else the checkout, else the current one."""
    return Path(os.environ.get("ICREWARD_OUTPUT") or ("." if CHECKOUT == LIBRARY else CHECKOUT)).resolve()


class DiskFullError(OSError):
    """No room was left while a file was being written; nothing half-written stays behind."""


class DamagedFileError(ValueError):
    """A file is not what was once written; the message says how to get it back."""


class ReadOnlyError(ValueError):
    """Nothing can be written to a folder."""


@contextmanager
def reporting_full_disk(path: Path) -> Iterator[None]:
    """Turn the system's error about a full disk into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room left to write {path}: free some and run the same again") from error
        raise


def make_folder(folder: Path) -> None:
    """Make a folder that can be written to, if it is not there. Raises `ReadOnlyError` or `DiskFullError`."""
    with reporting_full_disk(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
    if not os.access(folder, os.W_OK):
        how = "make it writable, or choose another folder (for runs: ICREWARD_OUTPUT) and run the same again"
        raise ReadOnlyError(f"nothing can be written to {folder}: {how}")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path, of the same suffix, to write a file or a folder to, then move it into its place.

    On an error, or if the process dies, `path` is what it was before. Raises `DiskFullError` and `ReadOnlyError`.
    """
    make_folder(path.parent)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with reporting_full_disk(path):
            yield temporary
            if path.is_dir():  # os.replace moves onto files only
                shutil.rmtree(path)
            os.replace(temporary, path)
    finally:
        remove(temporary)


@contextmanager
def only_one(lock: Path, refusal: Exception) -> Iterator[None]:
    """Hold the file `lock`, or raise `refusal` while another process does; `OSError` if it cannot be made."""
    try:
        with reporting_full_disk(lock):
            held = FileLock(lock).acquire(blocking=False)
    except Timeout as error:
        raise refusal from error
    with held:
        yield


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files under `folder` of processes that died while writing."""
    for path in folder.rglob(f"{_TEMPORARY}*"):
        pid = path.name.removeprefix(_TEMPORARY).split("-")[0]
        if pid.isdecimal():
            try:
                os.kill(int(pid), 0)
            except OSError as error:
                if error.errno != errno.EPERM:  # another user's
                    remove(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON with tables, dataclasses, pydantic models and NumPy values anywhere in it; `ValueError` for NaN."""
    try:
        text = json.dumps(value, indent=2, default=_plain, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}; write null where a number is missing") from error
    write_text(path, text + "\n")


def read_state(path: Path) -> dict[str, Any]:
    """What earlier processes noted as JSON; nothing counts as noted if that cannot be read."""
    with suppress(FileNotFoundError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return {}


def _plain(value: object) -> Any:
    """For JSON: rows of a table, fields of a dataclass or pydantic model, NumPy values, a path by what it holds."""
    if hasattr(value, "to_dict"):  # a table; pandas is not imported for those who have none
        return value.to_dict("records")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return content_hash(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def digest(value: object) -> str:
    """A short hash of settings; a `Path` counts by the content of its file or folder."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents in a folder (without model cards and checksums)."""
    if path.is_dir():
        return hashlib.sha256(json.dumps(folder_hashes(path)).encode()).hexdigest()
    status = path.stat()
    if _TEMPORARY in str(path) or time.time_ns() - status.st_mtime_ns < SETTLED:
        return _hash(path)
    return _remembered_hash(path.absolute(), status.st_size, status.st_mtime_ns)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _remembered_hash(path: Path, size: int, modified: int) -> str:
    """Once in a process, and of a large file once on a machine."""
    if size < LARGE:
        return _hash(path)
    note, known_by = hash_notes() / f"{digest(str(path))}.json", {"path": str(path), "size": size, "modified": modified}
    noted = read_state(note)
    if noted.items() >= known_by.items():
        return str(noted["sha256"])
    found = _hash(path)
    with suppress(ReadOnlyError, DiskFullError):  # then it is hashed again next time
        write_json(note, known_by | {"sha256": found})
    return found


def hash_notes() -> Path:
    """The folder of what is known of large files."""
    return output_root() / ".cache" / "hashes"


def folder_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder by its name, without model cards, checksums and hidden files."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = [name for name in names if not name.startswith(".") and not name.endswith((".md", CHECKSUMS))]
    return {name: content_hash(folder / name) for name in kept}


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` into a folder of weights, as `sha256sum --check` reads it."""
    write_text(folder / CHECKSUMS, "".join(f"{sha}  {name}\n" for name, sha in folder_hashes(folder).items()))


def verify_checksums(folder: Path) -> dict[str, str]:
    """`folder_hashes`, or `DamagedFileError` if one differs from the folder's `SHA256SUMS`, where it has that."""
    found, sums = folder_hashes(folder), folder / CHECKSUMS
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else ():
        sha, name = line.split("  ", 1)
        if found.get(name) != sha:
            state = "damaged" if name in found else "missing"
            raise DamagedFileError(f"{folder / name} is {state}: restore it, such as with git checkout")
    return found


def first_few(names: Sequence[str]) -> str:
    """The first few of many names, for an error."""
    return ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")

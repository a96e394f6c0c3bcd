"""A disk of a few megabytes that can be full or read-only: a tmpfs that only its own processes see."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """`folder` for commands that begin with `inside`; `seen`, the same folder for everybody else.

    Where no disk can be mounted, `missing` says why, and the folder is an ordinary one.
    """

    folder: Path
    seen: Path
    inside: Sequence[str] = ()
    missing: str = ""

    @contextmanager
    def full(self, room: int) -> Iterator[None]:
        """Leave so many bytes free, as if others had filled the rest."""
        if self.missing:
            pytest.skip(self.missing)
        filler, status = self.seen / ".filler", os.statvfs(self.seen)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_bsize - room)
        try:
            yield
        finally:
            filler.unlink()

    @contextmanager
    def read_only(self, name: str) -> Iterator[None]:
        """Let nothing be written to a folder of this disk, whose permissions say that it may: root, too, heeds that."""
        if self.missing:
            pytest.skip(self.missing)
        (self.seen / name).mkdir(parents=True, exist_ok=True)
        folder = str(self.folder / name)
        for words in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
            subprocess.run([*self.inside, "mount", *words], check=True)
        try:
            yield
        finally:
            subprocess.run([*self.inside, "umount", folder], check=True)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount one, until the block ends or this process dies."""
    if not all(map(shutil.which, ("unshare", "nsenter", "mount"))):
        yield SmallDisk(folder, folder, missing="there is no unshare, nsenter or mount here")
        return
    script = 'mount -t tmpfs -o "size=$0" tmpfs "$1" && echo mounted && exec cat'
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, size, str(folder)]
    keeper = subprocess.Popen(words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert keeper.stdin and keeper.stdout and keeper.stderr
    try:
        if keeper.stdout.readline() == "mounted\n":
            inside = ["nsenter", f"--target={keeper.pid}", "--user", "--mount", "--preserve-credentials", "--wd=."]
            yield SmallDisk(folder, Path(f"/proc/{keeper.pid}/root{folder}"), inside)
        else:
            yield SmallDisk(folder, folder, missing=f"no disk can be mounted here: {keeper.stderr.read().strip()}")
    finally:
        keeper.stdin.close()  # ends `cat`, and with the last process inside, the disk
        keeper.wait()
        keeper.stdout.close()
        keeper.stderr.close()

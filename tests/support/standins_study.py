"""Small clips to compare, and a study of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from icreward_lib.study.pairs import Shown, write_pairs
from icreward_lib.study.protocol import ArmClip, Item
from icreward_lib.video import Video

ARMS = ("icreward", "baseline-mlp")


def clip(shift: int = 0, *, frames: int = 8, height: int = 32, width: int = 32, fps: float = 8) -> Video:
    """A bright square that moves over a gradient; `shift` moves all of it."""
    y, x = np.mgrid[:height, :width]
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 2], video[..., 1] = x * 5, y * 5
    for time in range(frames):
        video[time, (abs(y - height // 2) < 5) & (abs(x - 6 - time - shift) < 5)] = (230, 160, 40)
    return Video(video, fps)


def shown(samples: int, arms: tuple[str, ...] = ARMS) -> list[Shown]:
    """Samples whose arms all differ."""
    return [
        Shown(f"s{number}", clip(number).frames[0], {arm: clip(number + 3 * k) for k, arm in enumerate(arms)})
        for number in range(samples)
    ]


def make_pairs(folder: Path, samples: int = 3, arms: tuple[str, ...] = ARMS) -> Path:
    """Build pairs in a folder; gives the path of pairs.csv."""
    write_pairs(shown(samples, arms), folder, seed=0)
    return folder / "pairs.csv"


def imagined(count: int, clips: int = 2) -> list[Item]:
    """Items without files."""

    def one(number: int) -> Item:
        arms = [ArmClip(f"arm{k}", f"s{number}/arm{k}", f"{number:016x}{k:016x}") for k in range(clips)]
        ruined = ArmClip("corrupted", f"s{number}/arm0/corrupted", f"{number:016x}{99:016x}")
        return Item(f"p{number}", f"s{number}", f"{number:032x}", tuple(arms), ruined)

    return [one(number) for number in range(count)]

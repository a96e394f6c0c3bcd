"""Saved rewards: of any kind, in any folder, or the newest that a profile's run has trained."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError

from icreward_lib.files import verify_checksums
from icreward_lib.launch import device
from icreward_lib.models import find, locate
from icreward_lib.profile import load_profile, profile_names
from icreward_lib.rewards.ensemble import Ensemble
from icreward_lib.rewards.icreward import ICReward
from icreward_lib.rewards.lite import ICRewardLite
from icreward_lib.rewards.mlp import MLPReward
from icreward_lib.run import output_root
from icreward_lib.stages import Stage

SavedReward = MLPReward | Ensemble | ICReward | ICRewardLite


def saved_reward(source: str, stage: str) -> tuple[SavedReward, list[Path]]:
    """A reward and its folder: the first training of a profile's stage, or whatever a folder holds."""
    if source in profile_names() or source.endswith((".yaml", ".yml")):
        folder: Path | None = trained(load_profile(source).name, stage)[0]
    else:
        path = Path(source).expanduser()
        folder = path if path.is_dir() else locate(source) if source.startswith("checkpoints/") else find(source)
    if folder is None:
        raise FileNotFoundError(
            f"there is no folder {source} with a saved reward: name one, or a profile that has been run "
            f"({', '.join(profile_names())})"
        )
    return load_reward(folder), [folder]


def trained(profile: str, stage: str) -> list[Path]:
    """The trainings that the newest finished stage of that name holds in the cache of a profile."""
    folder = output_root() / ".cache" / profile / stage
    for path in sorted(folder.glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True):
        if Stage(stage, path.name, path).done:
            return sorted(path.glob("model_*"), key=lambda path: int(path.name.removeprefix("model_")))
    raise FileNotFoundError(
        f"the profile {profile} has no trained reward in {folder}: run `make reproduce PROFILE={profile}` first, or "
        "name a folder, as in icreward=FOLDER"
    )


def load_reward(folder: Path) -> SavedReward:
    """Load whichever reward `save_pretrained` wrote to a folder, on this process's device (ICReward lite: the CPU).

    Raises:
        FileNotFoundError: if the folder, or a model that the reward builds on, is not there.
        ValueError: if it holds something else, or is damaged.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no saved reward: config.json is missing")
    verify_checksums(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "members" in settings:
            return Ensemble.from_pretrained(folder, device=device())
        if "features" in settings:
            return MLPReward.from_pretrained(folder, device=device())
        if "template" in settings:
            return ICReward.from_pretrained(folder, device=device())
        if settings["model_type"] == "icreward-lite":
            return ICRewardLite.from_pretrained(folder)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole reward: {' '.join(str(error).split())}") from error
    raise ValueError(f"{folder} holds no reward of this library, but a model of type {settings['model_type']}")

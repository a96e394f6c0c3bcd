"""What a run is made of: one YAML file, checked field by field before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROFILES = Path(__file__).parent / "profiles"

Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the file, the key and what would be right."""


class Group(BaseModel):
    """Settings that belong together. Unknown keys and wrong types are refused, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelsSettings(Group):
    """Where the pretrained weights come from: names that `models.locate` knows, of folders or of the hub."""

    generator: str = Field(description="Open-Sora 1.2: a whole pipeline, or the public denoiser")
    autoencoder: str = Field(description="its autoencoder; empty: in the pipeline's folder")
    text_encoder: str = Field(description="its T5; empty: in the pipeline's folder")
    vlm: str = Field(description="Qwen2-VL, the body of ICReward")
    videoreward: str = Field(description="VideoReward's checkpoint to start ICReward from; empty: from the VLM itself")
    clip: str = Field(description="open_clip model: the baseline's features, and CLIPSim")
    fvd: str = Field(description="VideoMAE or I3D, features of the Frechet video distance")
    labels: Literal["efficientnet-lite0", "vbench"] = Field(description="backbone of VBench++'s scores, or its own two")


class DataSettings(Group):
    """The curated set. A sample is one reference image with its caption and generated videos."""

    suite: str = Field(description="folder of the VBench++ image suite; empty: scenes of the sticker world")
    samples: Count = Field(description="reference images; the poster: 300")
    videos_per_sample: Count = Field(description="videos generated from one image; the poster: 5")
    low_score_additions: int = Field(ge=0, description="extra training videos with a low label; the poster: about 30")
    low_score_below: Share = Field(description="a label below this counts as low; the poster: 0.4")
    train: Count = Field(description="samples to train on")
    val: Count = Field(description="samples to choose epochs and settings on")
    test: Count = Field(description="samples that only final numbers are read from")
    unseen_share: Share = Field(
        description="share of the test samples with subjects and motions held out from training"
    )


class GenerationSettings(Group):
    """How one video is sampled."""

    num_frames: int = Field(ge=17, multiple_of=17, description="frames of a clip, in the autoencoder's chunks of 17")
    height: int = Field(ge=32, multiple_of=2, description="pixels")
    width: int = Field(ge=32, multiple_of=2, description="pixels; videos have whole latent pixels, 424 for 426")
    fps: Positive = Field(description="frames per second")
    steps: Count = Field(description="steps of the rectified flow from noise to clip")
    guidance: float = Field(ge=1, allow_inf_nan=False, description="classifier-free guidance; 1 = none, half the work")
    aesthetic: Positive | None = Field(description="aesthetic score that prompts ask for; null: none, as small models")
    motion: Positive | None = Field(description="motion score that prompts ask for; null: none")


class LabelsSettings(Group):
    """How VBench++ scores become one image-consistency label in [0, 1]."""

    subject_weight: NotNegative = Field(description="weight of i2v_subject in the label")
    background_weight: NotNegative = Field(description="weight of i2v_background in the label")
    reference: Literal["image", "as_seen"] = Field(description="compare with the image, or with its autoencoded self")
    input_size: int = Field(ge=32, multiple_of=32, description="pixels of a frame for EfficientNet-Lite0, in strides")
    antialias: bool = Field(description="antialias frames for VBench++'s networks; its leaderboard was made without")


class MlpSettings(Group):
    """Training of the baseline: an MLP on CLIP features of the reference image and of a frame."""

    hidden: Count = Field(description="width of the hidden layer")
    lr: Positive
    weight_decay: NotNegative
    epochs: Count
    batch_size: Count = Field(description="videos per step")
    seeds: Count = Field(description="independent trainings; intervals are over them")


class ICRewardSettings(Group):
    """Training of ICReward: Qwen2-VL with LoRA and the image-consistency head."""

    lr: Positive
    weight_decay: NotNegative
    epochs: Count
    batch_size: Count = Field(description="videos per step")
    lora_rank: Count = Field(description="rank of the adapters on the language model")
    pairwise_weight: NotNegative = Field(description="weight of the Bradley-Terry term beside the MSE; 0 = off")
    num_frames: int = Field(ge=2, multiple_of=2, description="frames seen, merged in twos")
    seeds: Count = Field(description="independent trainings; intervals are over them")


class DpoSettings(Group):
    """Flow-DPO: the generator learns to prefer ICReward's pick over the baseline's."""

    subset: Several = Field(description="videos that rewards pick from: each such subset of a sample's videos is tried")
    beta: Positive = Field(description="strength of the pull towards the reference model, constant over time")
    lr: Positive
    lora_rank: Count = Field(description="rank of the adapters on the transformer")
    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="pairs per step")
    micro_batch: Count = Field(description="pairs in one pass through the network: memory, not results")
    held_out_pairs: Several = Field(description="at most as many pairs of val and test images to measure accuracy on")
    eval_every: Count = Field(description="steps between two points of the accuracy curve")
    eval_timesteps: Count = Field(description="noise levels at which a held-out pair is compared")
    seeds: Count = Field(description="independent trainings")
    new_samples: Count = Field(description="test images from which tuned and base generator each make a new clip")


class ProbesSettings(Group):
    """True clips and their departures, of known kind and degree."""

    scenes: Several = Field(description="scenes that are probed, with about forty clips each")
    frozen_scenes: Several = Field(description="further scenes, for their frozen first frame alone")


class PoolSettings(Group):
    """Many videos of a few images, to see what picking ever harder by a reward does."""

    images: Several = Field(description="test images")
    videos: Several = Field(description="videos of each, the curated ones among them")


class RobustSettings(Group):
    """The robust ICReward and the steps towards it: new heads on the trained ICRewards; else trained as those."""

    scenes: Count = Field(description="scenes of the sticker world to learn departures from")
    departures: Count = Field(description="departed clips of each, beside its true one")
    epochs: Count
    batch_size: Count = Field(description="videos per step")
    caution: NotNegative = Field(description="standard deviations of its members that it takes from their mean")


class RulesSettings(Group):
    """Short fine-tunings of the generator, each on pairs that another rule prefers; else as Flow-DPO."""

    steps: Count = Field(description="optimizer steps")
    eval_timesteps: Count = Field(description="noise levels at which a held-out pair is compared")
    held_out_pairs: Several = Field(description="pairs that a rule's accuracy is measured on")
    seeds: Count = Field(description="independent trainings under each rule")
    new_samples: Count = Field(description="images from which each generator makes a new clip; two at least")


class StudySettings(Group):
    """The human study."""

    raters: Count = Field(description="people, or simulated raters while there are no votes; the poster: 20")
    showcase: Count = Field(description="samples shown one by one in figures 3 and 4; the poster: 3")


class StatsSettings(Group):
    """Intervals."""

    bootstrap_draws: int = Field(ge=100, description="resamples behind an interval")
    level: float = Field(gt=0.5, lt=1, description="coverage of an interval")


class Profile(Group):
    """One scale of the whole protocol. `name` is the file's name and the folder that results go to."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    seed: int = Field(ge=0, lt=2**31, description="every random draw is derived from it")
    models: ModelsSettings
    data: DataSettings
    generation: GenerationSettings
    labels: LabelsSettings
    mlp: MlpSettings
    icreward: ICRewardSettings
    dpo: DpoSettings
    probes: ProbesSettings
    pool: PoolSettings
    robust: RobustSettings
    rules: RulesSettings
    study: StudySettings
    stats: StatsSettings

    @model_validator(mode="after")
    def _fits_together(self) -> Profile:
        models, data, labels = self.models, self.data, self.labels
        if bool(models.autoencoder) != bool(models.text_encoder):
            raise ValueError(
                "models: name both autoencoder and text_encoder of the public denoiser, or none of a pipeline"
            )
        if (total := data.train + data.val + data.test) != data.samples:
            raise ValueError(f"data: train + val + test must be samples ({data.samples}), they are {total}")
        if abs(labels.subject_weight + labels.background_weight - 1) > 1e-9:
            raise ValueError("labels: subject_weight + background_weight must be 1")
        limits = {
            "data.test": ("study.showcase", "dpo.new_samples", "pool.images", "rules.new_samples"),
            "pool.videos": ("data.videos_per_sample",),
            "data.videos_per_sample": ("dpo.subset",),
            "dpo.steps": ("dpo.eval_every",),
            "generation.num_frames": ("icreward.num_frames",),
        }
        for key, limiting in ((key, limiting) for limiting, keys in limits.items() for key in keys):
            value, limit = attrgetter(key, limiting)(self)
            if value > limit:
                raise ValueError(f"{key} ({value}) must be at most {limiting} ({limit})")
        return self


def profile_names() -> list[str]:
    """Names of the profiles that come with the library."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name_or_path: str | Path, changes: Mapping[str, Any] | None = None) -> Profile:
    """Read a profile by name (`laptop`) or from a `.yaml` file of one's own.

    `changes` replaces single settings by their dotted name: `{"icreward.epochs": 3, "seed": 1}`.
    Raises `ProfileError` for an unknown profile or key, a wrong type or an impossible value.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name_or_path}.yaml"
        if name_or_path not in profile_names():
            names = ", ".join(profile_names())
            raise ProfileError(f"there is no profile '{name_or_path}'; there are {names}, or give a .yaml file")
    elif not path.is_file():
        raise ProfileError(f"there is no profile file {name_or_path}")
    shown = path.name if path.parent == PROFILES else str(path)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{shown} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ProfileError(f"{shown} must hold 'key: value' lines, as profiles/laptop.yaml does")
    if "name" in settings:
        raise ProfileError(f"{shown}: remove the key 'name'; a profile is called like its file")
    for key, value in (changes or {}).items():
        _change(settings, key, value)
    try:
        return Profile.model_validate({"name": path.stem, **settings})
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ProfileError(f"{shown}{' with changes' if changes else ''}: {problems}") from error


def _change(settings: dict[str, Any], key: str, value: object) -> None:
    """Set one dotted key. A misspelt one is set too, and refused with a suggestion by the schema."""
    *groups, last = key.split(".")
    for group in groups:
        settings = settings.setdefault(group, {})
        if not isinstance(settings, dict):
            raise ProfileError(f"there is no setting '{key}': '{group}' is a single value, not a group")
    settings[last] = value


def _explain(problem: Any) -> str:
    """One pydantic error as one clause of a sentence."""
    where, value, why = ".".join(map(str, problem["loc"])), problem["input"], problem["msg"]
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{where}' ({suggestion(str(problem['loc'][-1]), _keys(problem['loc'][:-1]))})"
    if problem["type"] == "missing":
        return f"the key '{where}' is missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "model_type":
        why = f"should be a group of {', '.join(_keys(problem['loc']))}"
    if problem["type"] == "float_type":  # YAML takes 1e-4 for text
        with suppress(TypeError, ValueError):
            why += f"; write {float(value):.1e}"
    return f"'{where}' is {value!r}: {why}"


def suggestion(name: str, known: Sequence[str]) -> str:
    """What to write in the place of an unknown name: the known one that is like it, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are {', '.join(known) or 'none'}"


def _keys(location: tuple[str, ...]) -> list[str]:
    """The keys that the group at `location` has."""
    group: Any = Profile
    for part in location:
        group = group.model_fields[part].annotation
    return [key for key in group.model_fields if (group, key) != (Profile, "name")]

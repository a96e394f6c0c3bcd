"""Samples: a reference image and its prompt each, of the sticker world or of the VBench++ suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from icreward_lib.poster.suite import crop_folder, curate_images, image_files, read_suite
from icreward_lib.run import Run
from icreward_lib.run.files import content_hash
from icreward_lib.run.models import locate
from icreward_lib.run.profile import GenerationSettings
from icreward_lib.video import Video, fit_clip, read_image, read_video
from icreward_lib.world.scenes import Scene, render, sample_scenes
from icreward_lib.world.truth import FIDELITIES, fidelity

SPLITS = ("train", "val", "test")
INDEX, CROPS, REAL = "vbench2_i2v_full_info.json", "crop", "real"  # in a suite's folder
REAL_SUFFIXES = (".mp4", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class _Described:
    id: int  # from 0
    split: str  # one of `SPLITS`
    prompt: str  # the text that the generator is given
    title: str  # short, for figures
    kind: str  # what sort of image it is: the suite's category, or `subject` or `scenery`
    dimension: str  # what VBench++ scores it by: `subject` or `background`
    is_unseen: bool  # held out from all training, the pretrained models' too; unknown, and False, in the suite


@dataclass(frozen=True)
class SceneSample(_Described):
    """A scene of the sticker world, whose true continuation is known."""

    scene: Scene

    def image(self, height: int, width: int) -> np.ndarray:
        """The first frame of the scene's true clip, uint8 RGB (height, width, 3); scenes are square."""
        if height != width:
            raise ValueError(f"Scenes of the sticker world are square, not {height}x{width}.")
        return render([self.scene], num_frames=1, size=height).frames[0, 0]

    def real_clip(self, shape: GenerationSettings) -> Video:
        """The clip that the prompt asks for, rendered: what generated ones are held against."""
        return _rendered([self.scene], shape)[0]

    def account(self) -> dict[str, object]:
        """What it is, for the keys of stages."""
        return asdict(self.scene)

    def fidelity(self, videos: Sequence[Video], scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What simulated raters see of K videos: the `FIDELITIES` to the true clip, (K,) in [0, 1] each."""
        del scores  # of `ConsistencyScorer`: they have no part in it
        return fidelity(self.scene, videos)


@dataclass(frozen=True)
class SuiteSample(_Described):
    """An image of the VBench++ suite."""

    path: Path
    real: Path | None  # a real video, of whatever content; samples of the test split have one each

    def image(self, height: int, width: int) -> np.ndarray:
        """The cropped picture, resized."""
        picture = Image.fromarray(read_image(self.path))
        return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))

    def real_clip(self, shape: GenerationSettings) -> Video:
        """Its real video."""
        if self.real is None:
            raise ValueError(f"Sample {self.id} of the split {self.split} has no real clip: only test samples have.")
        return fit_clip(read_video(self.real), shape)

    def account(self) -> dict[str, object]:
        """Likewise: prompt, and the picture's content."""
        return {"prompt": self.prompt, "image": content_hash(self.path)}

    def fidelity(self, videos: Sequence[Video], scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """No truth is known: the mean likeness of the frames to the image, which is no part of the label."""
        values = (scores["subject_mean"], scores["background_mean"], np.ones(len(videos)))
        return dict(zip(FIDELITIES, values, strict=True))


Sample = SceneSample | SuiteSample


def scene_sample(number: int, split: str, scene: Scene) -> SceneSample:
    """A sample of a scene: its caption is the prompt, its subject, or photograph, the title."""
    subject = scene.subject is not None
    kind, dimension = ("subject", "subject") if subject else ("scenery", "background")
    title = scene.subject or scene.photograph
    return SceneSample(number, split, scene.caption, title, kind, dimension, scene.is_unseen, scene)


def draw_samples(run: Run) -> Sequence[Sample]:
    """The samples of a profile: in the sticker world only the test split has its share of unseen content."""
    data = run.profile.data
    if data.suite:
        return _suite_samples(run)
    unseen = round(data.test * data.unseen_share)
    seen = sample_scenes(data.samples - unseen, seed=run.seed("scenes", "seen"))
    scenes = seen + sample_scenes(unseen, seed=run.seed("scenes", "unseen"), split="unseen")
    splits = [split for split in SPLITS for _ in range(getattr(data, split))]
    return [scene_sample(i, split, scene) for i, (split, scene) in enumerate(zip(splits, scenes, strict=True))]


def _suite_samples(run: Run) -> list[SuiteSample]:
    """Those of the suite, with an equal share of every kind in each split."""
    data, settings = run.profile.data, run.profile.generation
    folder = locate(data.suite)
    left = curate_images(read_suite(folder / INDEX), data.samples, seed=run.seed("suite"))
    parts = []
    for split in SPLITS:
        count = getattr(data, split)
        part = curate_images(left, count, seed=run.seed("suite", split)) if count < len(left) else left
        taken = {image.prompt for image in part}
        left = [image for image in left if image.prompt not in taken]
        parts += [(split, image) for image in part]
    crops = crop_folder(folder / CROPS, settings.height, settings.width)
    files = image_files([image for _, image in parts], crops)
    real = _real_files(folder, data.test)
    clips = [*[None] * (len(parts) - data.test), *real[: data.test]]  # the test split comes last
    samples = []
    for i, ((split, image), path, clip) in enumerate(zip(parts, files, clips, strict=True)):
        title = image.prompt if len(image.prompt) <= 24 else image.prompt[:23].rstrip() + "…"
        samples.append(SuiteSample(i, split, image.prompt, title, image.kind, image.dimension, False, path, clip))
    return samples


def other_real_clips(run: Run) -> list[Video]:
    """Real clips beyond those of the test samples: twice as many, or, beside the suite, all others in `real`."""
    data, shape = run.profile.data, run.profile.generation
    if data.suite:
        return [fit_clip(read_video(path), shape) for path in _real_files(locate(data.suite), data.test)[data.test :]]
    unseen = round(2 * data.test * data.unseen_share)
    scenes = sample_scenes(2 * data.test - unseen, seed=run.seed("real", "seen"))
    return _rendered(scenes + sample_scenes(unseen, seed=run.seed("real", "unseen"), split="unseen"), shape)


def real_folder(run: Run) -> Path | None:
    """Where real clips are read from; None in the sticker world, which renders them."""
    suite = run.profile.data.suite
    return locate(suite) / REAL if suite else None


def _rendered(scenes: list[Scene], shape: GenerationSettings) -> list[Video]:
    return [Video(clip, shape.fps) for clip in render(scenes, num_frames=shape.num_frames, size=shape.height).frames]


def _real_files(suite: Path, test: int) -> list[Path]:
    """Real videos: one for each test sample, and at least twice as many to compare real clips with each other."""
    found = sorted(path for path in (suite / REAL).glob("*") if path.suffix.lower() in REAL_SUFFIXES)
    if len(found) < 3 * test:
        raise FileNotFoundError(
            f"{suite / REAL} holds {len(found)} real videos; FVD of {test} test images needs {3 * test} (mp4, "
            "webm, avi or mov): put any videos of real scenes there, such as a part of Kinetics or of OpenVid."
        )
    return found

"""Generators that are not ours: any image-to-video pipeline of diffusers, or finished videos made elsewhere."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from icreward_lib.run.files import first_few
from icreward_lib.video import Video, read_video

# What pipelines call their frame rate, if they take one.
FPS_NAMES = ("fps", "target_fps", "frame_rate")
SUFFIXES = ("mp4", "mov", "webm", "avi", "gif")


class DiffusersGenerator:
    """A diffusers pipeline whose call takes an `image`, and a `prompt` if it reads one (SVD does not).

    `fps` is that of the clips, on which scores depend; the pipeline's other `settings` are its own, as VBench++ wants.
    """

    def __init__(self, pipeline: DiffusionPipeline, fps: float, **settings: Any) -> None:
        """ValueError if the pipeline takes no image."""
        self.pipeline, self.fps, kind = pipeline, fps, type(pipeline).__name__
        self._accepted = set(inspect.signature(pipeline.__call__).parameters)
        if "image" not in self._accepted:
            raise ValueError(f"{kind} takes no image: name an image-to-video pipeline, as THUDM/CogVideoX-5b-I2V.")
        self._settings = settings | {name: round(fps) for name in FPS_NAMES if name in self._accepted}

    @classmethod
    def from_pretrained(cls, model: str | Path, fps: float, *, device: str = "cpu") -> Self:
        """Load a pipeline by hub id or folder: float32 on the CPU; bfloat16, part by part, on a GPU."""
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        pipeline = DiffusionPipeline.from_pretrained(str(model), torch_dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        if device != "cpu":
            pipeline.enable_model_cpu_offload(device=device)
        return cls(pipeline, fps)

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """As of a `Generator`; ValueError if a video is not finite, as happens in half precision."""
        inputs: dict[str, Any] = {"image": Image.fromarray(image), "output_type": "np", **self._settings}
        if "prompt" in self._accepted:
            inputs["prompt"] = prompt
        videos = []
        for k in range(num_videos):  # one call each, as not every pipeline keeps several apart
            number = int(np.random.SeedSequence([seed, k]).generate_state(1)[0])
            output = self.pipeline(**inputs, generator=torch.Generator().manual_seed(number))
            frames = np.asarray(output.frames[0], dtype=np.float32)
            if not np.isfinite(frames).all():
                name = type(self.pipeline).__name__
                raise ValueError(f"{name} gave nan in video {k} of {prompt!r}: load it as float32.")
            videos.append(Video((frames * 255).round().clip(0, 255).astype(np.uint8), self.fps))
        return videos


@dataclass(frozen=True)
class FinishedVideos:
    """Videos that some generator made elsewhere, found by their prompt."""

    source: Path
    paths: dict[str, list[Path]]  # prompt -> its videos, by their numbers

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """Videos named `{prompt}-{k}.mp4`, as VBench names them (or .mov, .webm, .avi, .gif).

        FileNotFoundError if there are none, ValueError if two have one prompt and number.
        """
        rows = []
        for path in sorted(Path(folder).glob("[!.]*")):
            if found := re.fullmatch(rf"(.+)-(\d+)\.({'|'.join(SUFFIXES)})", path.name, re.IGNORECASE):
                rows.append((found[1], int(found[2]), path))
        return cls._of(Path(folder), rows, "a video named like 'a dog runs-0.mp4'")

    @classmethod
    def from_csv(cls, listing: str | Path) -> Self:
        """Videos listed in a CSV with columns prompt, k and video, a path from the CSV; errors as above."""
        listing = Path(listing)
        kinds = {"prompt": str, "k": int, "video": str}
        try:
            table = pd.read_csv(listing, dtype=kinds, usecols=list(kinds), keep_default_na=False)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"There is no list of finished videos at {listing}.") from error
        except ValueError as error:  # also what pandas calls ParserError and EmptyDataError
            raise ValueError(f"{listing} is not a CSV with columns prompt, k (a number) and video: {error}") from error
        files = [listing.parent / name for name in table["video"]]
        return cls._of(listing, list(zip(table["prompt"], table["k"], files, strict=True)), "a video")

    @classmethod
    def _of(cls, source: Path, rows: Sequence[tuple[str, int, Path]], what: str) -> Self:
        if not rows:
            raise FileNotFoundError(f"{source} does not hold {what}.")
        numbered: dict[str, dict[int, Path]] = {}
        for prompt, k, path in rows:
            if (other := numbered.setdefault(prompt, {}).setdefault(k, path)) is not path:
                raise ValueError(f"{source} has video {k} of {prompt!r} twice: {other.name} and {path.name}.")
        return cls(source, {prompt: [found[k] for k in sorted(found)] for prompt, found in numbered.items()})

    def require(self, prompts: Sequence[str], num_videos: int) -> None:
        """Check, before any work, that every prompt has `num_videos` videos; FileNotFoundError if not."""
        if few := [prompt for prompt in prompts if len(self.paths.get(prompt, [])) < num_videos]:
            lacking = f"{len(few)} of {len(prompts)} prompts ({first_few(few)})"
            raise FileNotFoundError(f"{self.source} has fewer than {num_videos} videos for {lacking}.")
        files = [path for prompt in prompts for path in self.paths[prompt][:num_videos]]
        if lost := [path.name for path in files if not path.is_file()]:
            count = f"{len(lost)} of {len(files)}"
            raise FileNotFoundError(f"{self.source} lists {count} videos that are not there ({first_few(lost)}).")

    def generate(self, image: np.ndarray, prompt: str, *, num_videos: int, seed: int) -> list[Video]:
        """The first `num_videos` videos of a prompt; image and seed were settled when they were made."""
        self.require([prompt], num_videos)
        return [read_video(path) for path in self.paths[prompt][:num_videos]]

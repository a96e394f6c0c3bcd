"""How much a clip moves: the control beside every consistency number, which a frozen clip would win."""

from collections.abc import Sequence

import numpy as np
from skimage.color import rgb2gray
from skimage.registration import optical_flow_ilk
from skimage.transform import resize

from icreward_lib.video import Video

_WORKING_WIDTH = 64  # wider clips are shrunk to it: the flow of 64x64 pixels takes about 8 ms on one core
_PAIRS = 4  # of neighbouring frames, evenly spaced, whose flow is measured


def dynamic_degree(video: Video) -> float:
    """Speed of what moves most, in frame widths per second: >= 0, 0 = frozen.

    After VBench's, which thresholds the largest 5 % of RAFT flow: the 95th percentile of Lucas-Kanade flow's length
    (Le Besnerais & Champagnat 2005), averaged over four evenly spaced pairs of neighbouring frames. Steps beyond a
    tenth of the width are not followed reliably. ValueError for a one-frame clip.
    """
    return float(dynamic_degrees([video])[0])


def dynamic_degrees(videos: Sequence[Video]) -> np.ndarray:
    """`dynamic_degree` of K videos, (K,); a pair of frames that several of them have is measured once."""
    known: dict[bytes, float] = {}
    degrees = np.empty(len(videos))
    for k, video in enumerate(videos):
        if video.num_frames < 2:
            raise ValueError("A one-frame clip has no motion to measure.")
        starts = np.unique(np.linspace(0, video.num_frames - 2, _PAIRS).round().astype(int))
        pairs = {pair.tobytes(): pair for pair in (video.frames[t : t + 2] for t in starts)}
        known |= {key: _pair_speed(*map(_grey, pair)) for key, pair in pairs.items() if key not in known}
        degrees[k] = np.mean([known[video.frames[t : t + 2].tobytes()] for t in starts]) * video.fps
    return degrees


def _pair_speed(first: np.ndarray, second: np.ndarray) -> float:
    """Length that the 5 % largest displacements exceed, in frame widths."""
    flow = optical_flow_ilk(first, second, radius=7, num_warp=3, dtype=np.float32)
    return float(np.quantile(np.hypot(*flow), 0.95) / first.shape[1])


def _grey(frame: np.ndarray) -> np.ndarray:
    grey = np.asarray(rgb2gray(frame), dtype=np.float32)
    height, width = grey.shape
    if width <= _WORKING_WIDTH:
        return grey
    size = (max(1, round(height * _WORKING_WIDTH / width)), _WORKING_WIDTH)
    return np.asarray(resize(grey, size, anti_aliasing=True))

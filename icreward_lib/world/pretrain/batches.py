"""What the small models' training steps see: frames with the mild faults of a video model, as tensors."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage

#: Training steps seed their draws with numbers below this one, evaluations from it upwards.
EVALUATION_SEED = 1_000_000_000


def degrade(clips: np.ndarray, rng: np.random.Generator, share: float = 0.6) -> np.ndarray:
    """Blur, noise and JPEG blocks, so that features hold for what comes out of a slightly blurry video model.

    Args:
        clips: uint8 "n t h w c"; the frames of a clip get the same treatment.
        rng: every draw.
        share: of the clips that are touched.
    """
    result = clips.copy()
    for index in np.flatnonzero(rng.random(len(clips)) < share):
        sigma = rng.uniform(0.2, 1.2)  # pixels
        soft = ndimage.gaussian_filter(result[index].astype(np.float32), (0, sigma, sigma, 0), truncate=2)
        noisy = soft + rng.normal(0, rng.uniform(0, 8), soft.shape)
        result[index] = noisy.clip(0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            result[index] = [_recompress(frame, int(rng.integers(40, 90))) for frame in result[index]]
    return result


def _recompress(frame: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))

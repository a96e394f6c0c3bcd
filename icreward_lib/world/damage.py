"""Departures done to any clip, without knowing its scene: what is taught to, and asked of, judges of real clips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

REGIONS = ("subject", "background")
Change = Callable[[np.ndarray, float, np.ndarray, np.random.Generator], np.ndarray]


def depart(frames: np.ndarray, *, kind: str, region: str, severity: float, other: np.ndarray, seed: int) -> np.ndarray:
    """Have a clip uint8 "t h w c" depart from its first frame, up to a severity in [0, 1] at its last one.

    It departs in one of `REGIONS` (without a true mask: a soft ellipse near the middle, or all around it), in the way
    `kind` of `KINDS`; `other`, of its shape, is what may replace it. ValueError for anything else.
    """
    if kind not in KINDS or region not in REGIONS:
        raise ValueError(f"There is no departure {kind!r} of the {region!r}, only {', '.join(KINDS)} of {REGIONS}.")
    if not 0 <= severity <= 1:
        raise ValueError(f"A severity lies in [0, 1], unlike {severity}.")
    if other.shape != frames.shape or len(frames) < 2:
        shapes = f"{frames.shape}, {other.shape}"
        raise ValueError(f"Two clips of one shape, with 2 frames or more, are needed, not {shapes}.")
    rng = np.random.default_rng([seed, *kind.encode()])
    mask = ellipse(frames.shape[1], frames.shape[2], rng)[..., None]
    if region == "background":
        mask = 1 - mask
    result, draw = frames.copy(), int(rng.integers(2**31))
    amounts = np.linspace(0, severity, len(frames))
    for t in range(1, len(frames) if severity else 0):
        own = frames[t].astype(np.float32)
        changed = KINDS[kind](own, float(amounts[t]), other[t].astype(np.float32), np.random.default_rng(draw))
        result[t] = ((1 - mask) * own + mask * changed).round().clip(0, 255).astype(np.uint8)
    return result


def ellipse(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A soft-edged ellipse near the middle, float32 (height, width) in [0, 1], on a fifth to a third of the frame."""
    y, x = 0.5 + rng.uniform(-0.1, 0.1, 2)
    tall, wide = rng.uniform(0.25, 0.35, 2)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(((rows + 0.5) / height - y) / tall, ((columns + 0.5) / width - x) / wide)
    mask: np.ndarray = np.clip((1.15 - distance) / 0.3, 0, 1)
    return mask


def _recoloured(own: np.ndarray, amount: float, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours turned about grey, and tinted."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    tint = rng.uniform(-60, 60, 3).astype(np.float32)
    turned = (own - 127.5) @ turn.T + 127.5 + tint
    return (1 - amount) * own + amount * turned.clip(0, 255)


def _blurred(own: np.ndarray, amount: float, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sigma = amount * min(own.shape[:2]) / 12
    return np.asarray(ndimage.gaussian_filter(own, (sigma, sigma, 0), truncate=2))


def _warped(own: np.ndarray, amount: float, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Waves, about two across the frame, of up to a tenth of its side."""
    height, width = own.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    phases, waves = 2 * np.pi * rng.random(2), 2 * np.pi * rng.uniform(1.5, 2.5, 2)
    rows = rows + amount * height / 10 * np.sin(waves[0] * columns / width + phases[0])
    columns = columns + amount * width / 10 * np.sin(waves[1] * rows / height + phases[1])
    channels = [ndimage.map_coordinates(own[..., c], (rows, columns), order=1, mode="nearest") for c in range(3)]
    return np.stack(channels, axis=-1)


def _dissolved(own: np.ndarray, amount: float, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Into smooth coloured noise of its own mean."""
    noise = ndimage.gaussian_filter(rng.normal(size=own.shape).astype(np.float32), (*[min(own.shape[:2]) / 24] * 2, 0))
    texture = own.mean((0, 1)) + 50 * noise / noise.std()
    return (1 - amount) * own + amount * texture.clip(0, 255)


#: What becomes of a region: RGB frame float32 "h w c", how far in [0, 1], the other clip's frame -> "h w c".
KINDS: dict[str, Change] = {
    "replaced": lambda own, amount, other, rng: (1 - amount) * own + amount * other,
    "recoloured": _recoloured,
    "blurred": _blurred,
    "warped": _warped,
    "dissolved": _dissolved,
}

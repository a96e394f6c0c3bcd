"""Departures done to real clips: they grow, keep to their region, and say no to nonsense."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from icreward_lib.world.damage import KINDS, REGIONS, depart

FRAMES = np.stack([skimage.data.chelsea()[20 : 20 + 48, x : x + 64] for x in range(60, 100, 8)])
OTHER = np.stack([skimage.data.coffee()[100 : 100 + 48, x : x + 64] for x in range(60, 100, 8)])


def error(departed: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each pixel from the true clip, "t h w"."""
    return np.abs(departed.astype(float) - FRAMES).mean(-1)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_departure_begins_with_nothing_and_grows_with_time_and_severity(kind: str, region: str) -> None:
    mild, full = (
        error(depart(FRAMES, kind=kind, region=region, severity=severity, other=OTHER, seed=3)).mean((1, 2))
        for severity in (0.4, 1.0)
    )
    assert mild[0] == full[0] == 0 and full[-1] > 1
    assert (np.diff(mild) > 0).all() and full[-1] > mild[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_subject_is_in_the_middle_and_the_background_around_it(kind: str) -> None:
    subject, background = (
        error(depart(FRAMES, kind=kind, region=region, severity=1, other=OTHER, seed=3))[-1] for region in REGIONS
    )
    middle = (slice(22, 26), slice(28, 36))
    edge = np.concatenate([subject[:2].ravel(), subject[:, :2].ravel()])
    assert subject[middle].mean() > 1 and not edge.any()
    assert background[middle].mean() == 0 and background[:2].mean() > 1


@pytest.mark.property
@settings(max_examples=30, deadline=None)
@given(st.sampled_from(list(KINDS)), st.sampled_from(REGIONS), st.floats(0, 1), st.integers(0, 2**31))
def test_the_same_seed_gives_the_same_clip(kind: str, region: str, severity: float, seed: int) -> None:
    first, second = (
        depart(FRAMES, kind=kind, region=region, severity=severity, other=OTHER, seed=seed) for _ in range(2)
    )
    assert first.dtype == np.uint8 and first.shape == FRAMES.shape and np.array_equal(first, second)
    assert np.array_equal(first[0], FRAMES[0])
    if severity == 0:
        assert np.array_equal(first, FRAMES)


@pytest.mark.parametrize(
    "change",
    [{"kind": "melted"}, {"region": "sky"}, {"severity": 1.1}, {"severity": float("nan")}, {"other": OTHER[:2]}],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    wanted = {"kind": "warped", "region": "subject", "severity": 1.0, "other": OTHER, "seed": 0}
    with pytest.raises(ValueError):
        depart(FRAMES, **(wanted | change))  # type: ignore[arg-type]

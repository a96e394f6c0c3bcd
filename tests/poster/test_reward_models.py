"""What is said of trainings: errors, order over all videos and within an image, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from icreward_lib.poster.reward_models import Trained, error_by_content, error_difference, selection_note
from icreward_lib.rewards.training import Epoch, History
from icreward_lib.run.stages import Stage

SETTINGS: dict[str, Any] = {"seed": 0, "draws": 400, "level": 0.95}
LABELS = np.array([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]])  # two images, of which the second is the easier one


def trained(*scores: np.ndarray, name: str = "icreward") -> Trained:
    """Trainings that say these of `LABELS`' videos, of the split val, and nothing right of an addition."""
    generated = pd.DataFrame(
        {"sample": np.repeat([4, 5], 3), "video": [0, 1, 2] * 2, "unseen": np.repeat([False, True], 3)}
    ).assign(split="val", label=LABELS.ravel(), generated=True)
    addition = pd.DataFrame(
        {"sample": [4], "video": [3], "unseen": False, "split": "val", "label": 0.0, "generated": False}
    )
    rows = pd.concat([generated, addition], ignore_index=True)
    values = np.stack([np.append(each.ravel(), 1.0) for each in scores])
    history = History((Epoch(0.1, 0.2, 0.2, 0.2),) * 2, 1)
    return Trained(name, [Path("model")] * len(scores), [history] * len(scores), values, rows, cast(Stage, None))


def test_the_error_is_over_images_and_trainings_and_leaves_additions_out() -> None:
    off = np.array([[0.1], [0.3]])
    found = trained(LABELS + off, LABELS).error("val", **SETTINGS)
    assert found.mean == pytest.approx((0.01 + 0.09) / 4) and found.n == 2
    assert (found.low, found.high) == pytest.approx((0, 0.09), abs=1e-9)
    assert np.array_equal(trained(LABELS).matrix("val"), LABELS)


def test_an_order_over_all_videos_is_none_within_an_image() -> None:
    by_image = LABELS.mean(1, keepdims=True) + np.array([0.02, 0.01, 0.0])  # the right images, and the wrong videos
    model = trained(by_image)
    assert model.correlation("val", **SETTINGS).mean == pytest.approx(
        np.corrcoef([3, 2, 1, 6, 5, 4], np.arange(1, 7))[0, 1]
    )
    within = model.correlation_within("val", **SETTINGS)
    assert (within.mean, within.low, within.high) == pytest.approx((-1, -1, -1))
    constant = LABELS.copy()
    constant[0] = 0.5  # orders nothing in the first image, which is left out
    assert trained(constant).correlation_within("val", **SETTINGS).mean == pytest.approx(1)


def test_a_difference_is_of_the_same_images() -> None:
    worse, better = trained(LABELS + 0.2), trained(LABELS + 0.1, name="mlp")
    found = error_difference(worse, better, "val", **SETTINGS)
    assert (found.mean, found.low, found.high) == pytest.approx((0.03, 0.03, 0.03))
    table = error_by_content({"icreward": worse, "mlp": better}, "val")
    assert table.loc[["seen", "unseen"], "mlp"].tolist() == pytest.approx([0.01, 0.01])
    assert "ICReward the best of 2 epochs" in selection_note({"icreward": worse}) and "2 valid" in selection_note(
        {"icreward": worse}
    )

"""Subject against background, in picks and in what is noticed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from icreward_lib.beyond.dimension_weights import detection_sweep, dimension_scores, weight_sweep, weighted


def test_the_weight_of_the_subject_decides_what_is_kept() -> None:
    rng = np.random.default_rng(0)
    subject, background = rng.random((2, 6, 20))
    parts = {"subject": subject, "background": background}
    table = weight_sweep(parts, parts, [0.0, 0.5, 1.0], seed=0, draws=200, level=0.95).set_index("weight")
    assert table.loc[1.0, "subject"] == pytest.approx((subject.max(1) - subject.mean(1)).mean())
    assert table["subject"].is_monotonic_increasing and table["background"].is_monotonic_decreasing
    assert (table["subject_low"] <= table["subject"]).all()
    still = parts | {"motion": (background > 0.8).astype(float)}  # and of what does not move, nothing is picked
    moved = weight_sweep(still, parts, [1.0], seed=0, draws=200, level=0.95)
    assert moved["background"].iloc[0] > table.loc[1.0, "background"]


def test_the_weight_of_the_subject_decides_what_is_noticed() -> None:
    rows = [
        {"sample": sample, "kind": kind, "severity": severity}
        for sample in range(4)
        for kind, severity in (("true", 0.0), ("subject_swapped", 1.0), ("background_replaced", 1.0))
    ]
    table = pd.DataFrame(rows)
    parts = {
        "subject": 1.0 - (table["kind"] == "subject_swapped").to_numpy(),
        "background": 1.0 - (table["kind"] == "background_replaced").to_numpy(),
    }
    found = detection_sweep(table, parts, [0.0, 0.5, 1.0], seed=0, draws=100, level=0.95).set_index("weight")
    assert found["subject"].tolist() == [0.5, 1, 1] and found["background"].tolist() == [1, 1, 0.5]
    gated = weighted(parts | {"motion": np.full(12, 0.25)}, 1.0)
    assert gated == pytest.approx(parts["subject"] / 4)


def test_dimensions_of_several_trainings_are_their_mean_or_the_cautious_score() -> None:
    scores = np.array([[[0.5, 0.2, 0.4]], [[0.5, 0.4, 0.4]]])  # two trainings, one clip: overall, subject, background
    mean, careful = (dimension_scores(scores, caution) for caution in (None, 1.0))
    assert list(mean) == ["subject", "background"] and mean["subject"].tolist() == pytest.approx([0.3])
    assert careful["subject"] < mean["subject"] and careful["background"] == pytest.approx(mean["background"])

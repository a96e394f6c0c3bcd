"""What is made of trainings after they are done."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from icreward_lib.dpo import DPOConfig, DPOHistory
from icreward_lib.poster.open_sora_dpo import Tuned, accuracy_curve, running_share
from icreward_lib.run.stages import Stage


def tuned(wins: list[float]) -> Tuned:
    """A training that ended with these wins on pairs 0, 1, ... of images 0, 0, 1, 1, ..."""
    history = DPOHistory()
    for step, values in ((0, [0.5] * len(wins)), (10, wins)):
        history.outcomes += [
            {"step": step, "pair": pair, "sample": pair // 2, "logit": 0.0, "win": win}
            for pair, win in enumerate(values)
        ]
        accuracy = float(np.mean(values))
        history.curve.append({"step": step, "accuracy": accuracy, "low": 0.0, "high": 1.0, "n_pairs": len(wins)})
    return Tuned(cast(Stage, None), history, DPOConfig())


def test_the_accuracy_is_over_trainings_and_its_interval_over_images_too() -> None:
    curve = accuracy_curve([tuned([1, 1, 1, 0]), tuned([1, 0, 0, 0])], seed=0, draws=500, level=0.95)
    assert curve["seed"].tolist() == ["all", "all", "0", "0", "1", "1"]
    start, end = (row for _, row in curve[curve["seed"] == "all"].iterrows())
    assert start["accuracy"] == start["low"] == start["high"] == 0.5
    assert end["accuracy"] == pytest.approx(0.5) and end["n_pairs"] == 4
    # A draw takes one training (images at 1 and 1/2, or 1/2 and 0) and two images: from 0 to 1.
    assert (end["low"], end["high"]) == (0, 1)


def test_trainings_that_agree_leave_the_images() -> None:
    same = [tuned([1, 1, 1, 1, 0, 0, 1, 0]) for _ in range(3)]
    one, three = (accuracy_curve(runs, seed=0, draws=4000, level=0.95).iloc[1] for runs in (same[:1], same))
    assert one["accuracy"] == three["accuracy"] == 0.625
    assert (one["low"], one["high"]) == pytest.approx((three["low"], three["high"]))


def test_running_share_ends_at_the_mean_and_counts_ties_as_halves() -> None:
    table = running_share([1.0, 0.5, 0.0, 1.0], [0, 1, 1, 2], seed=0, draws=200, level=0.9)
    assert table["evaluated"].tolist() == [2, 3, 4] and table["running"].tolist() == [0.75, 0.5, 0.625]
    assert (table["low"] <= table["running"]).all() and (table["running"] <= table["high"]).all()

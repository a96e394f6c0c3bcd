"""What the robust reward learns from: labels that follow from what was broken, and by how much."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from icreward_lib.beyond import robust_reward
from icreward_lib.metrics.vbench import Anchors
from icreward_lib.poster.samples import scene_sample
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.head import movement
from icreward_lib.world.departures import PROBES
from icreward_lib.world.scenes import Scene

SCENE = Scene(
    *("coffee", "pans left", (0.5, 0.5, 1.0), 0.3, "star", ("red", "blue"), "moves right"), subject_amount=0.3
)


def labels(kind: str, severity: float, scene: Scene = SCENE) -> list[float]:
    return list(robust_reward.departure_labels(scene_sample(0, "train", scene), kind, severity).values())


def test_what_is_learned_and_what_is_held_out_share_nothing_and_each_breaks_everything() -> None:
    assert not set(robust_reward.LEARNED) & set(robust_reward.HELD_OUT) and {
        *robust_reward.LEARNED,
        *robust_reward.HELD_OUT,
    } == set(PROBES)
    for kinds in (robust_reward.LEARNED, robust_reward.HELD_OUT):
        assert {part for kind in kinds for part in PROBES[kind].breaks} >= {"subject", "background", "motion", "time"}


def test_a_label_is_one_less_the_severity_where_the_kind_breaks_it() -> None:
    assert labels("true", 0.0) == [1, 1]
    assert labels("subject_swapped", 0.75) == [0.25, 1]
    assert labels("style_drift", 0.5) == [0.5, 0.5]
    assert labels("freeze", 0.25) == [1, 1]
    assert labels("hard_cut", 1.0) == [0, 0]
    assert labels("background_replaced", 0.5, replace(SCENE, subject=None)) == [0.5, 0.5]  # scenery is all background


def test_a_group_stands_still_that_moves_less_than_nearly_all_of_true_clips() -> None:
    video = torch.ones(100, 4, 2, 2, 3)
    video[:, 1:] += (
        torch.linspace(0.01, 1, 100)[:, None, None, None, None] * torch.arange(1, 4)[None, :, None, None, None]
    )
    video[90:] = 1.0  # frozen
    clips = ClipDataset(
        video, torch.ones(1, 2, 2, 3), torch.zeros(100, dtype=torch.long), torch.ones(100), torch.ones(100, 2)
    )
    about = pd.DataFrame({"kind": ["true"] * 90 + ["freeze"] * 10})
    least = robust_reward.movement_threshold(clips, about)
    found = movement(video[:90].flatten(2, 3))[:, 1:]
    assert 0 < least < 0.1 and float((found < least).float().mean()) == pytest.approx(0.01, abs=0.005)


def test_conformity_labels_see_a_single_bad_frame() -> None:
    limits = {d + end: Anchors(0.5, 1.0) for d in ("subject", "background") for end in ("", "_mean", "_min")}
    curated: Any = SimpleNamespace(anchors=limits)
    subject, background = {"mean": [1, 0.9], "min": [1, 0.6]}, {"mean": [0.75, 1], "min": [0.5, 1]}
    both = {"subject": subject, "background": background}
    rows = pd.DataFrame({f"{d}_{end}": values for d, ends in both.items() for end, values in ends.items()})
    found = robust_reward.conformity_labels(curated, rows)
    assert found["subject"].tolist() == pytest.approx([1, (0.8 + 0.2) / 2])
    assert found["background"].tolist() == pytest.approx([0.25, 1])

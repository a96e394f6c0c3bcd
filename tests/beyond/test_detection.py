"""What scores of probes tell, against hand examples and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from icreward_lib.beyond import detection, probes
from icreward_lib.metrics.fvd import frechet_distance
from icreward_lib.poster import measure
from icreward_lib.poster.samples import draw_samples
from icreward_lib.run import Run, start
from icreward_lib.stats import wilson
from icreward_lib.world.departures import PROBES, SEVERITIES

LEVELS = (0.25, 0.5, 0.75, 1.0)


def table_of(scores: dict[str, np.ndarray]) -> pd.DataFrame:
    """Scenes by 5 levels of each kind, level 0 the true clip, which all kinds share."""
    rows = []
    for kind, values in scores.items():
        for sample, scores_by_severity in enumerate(values):
            rows += [
                {"sample": sample, "unseen": sample % 2 == 1, "kind": kind, "severity": severity, "metric": level}
                for severity, level in zip(LEVELS, scores_by_severity[1:], strict=True)
            ]
            rows.append(
                {
                    "sample": sample,
                    "unseen": sample % 2 == 1,
                    "kind": "true",
                    "severity": 0.0,
                    "metric": scores_by_severity[0],
                }
            )
    return pd.DataFrame(rows).drop_duplicates(["sample", "kind", "severity"], ignore_index=True)


HAND = table_of({"flicker": np.array([[0.9, 0.8, 0.7, 0.9, 0.5], [0.6, 0.7, 0.6, 0.1, 0.0]])})


def test_auroc_by_hand_and_by_scikit_learn() -> None:
    # Of 16 pairs of a true and a departed clip: 0.9 beats 7 and ties 1; 0.6 beats 3 and ties 1.
    found = detection.auroc(HAND, "metric", ["flicker"], seed=0)
    assert found.mean == pytest.approx((7.5 + 3.5) / 16) and found.n == 2
    assert found.mean == pytest.approx(roc_auc_score(HAND["kind"] == "true", HAND["metric"]))
    # A draw holds both scenes, or one of them twice: 0.9 against its own four, or 0.6 against its own.
    shift = 11 / 16 - (11 / 16 / 2 + 2.5 / 4 / 4 + 3.5 / 4 / 4)
    assert (found.low, found.high) == pytest.approx((2.5 / 4 + shift, 3.5 / 4 + shift), abs=0.01)


def test_the_auroc_of_several_kinds_is_their_mean() -> None:
    rng = np.random.default_rng(0)
    values = {kind: rng.random((9, 5)) for kind in ("flicker", "hard_cut")}
    values["hard_cut"][:, 0] = values["flicker"][:, 0]
    table = table_of(values)
    alone = [detection.auroc(table, "metric", [kind], seed=0).mean for kind in values]
    both = detection.auroc(table, "metric", list(values), seed=0)
    assert both.mean == pytest.approx(np.mean(alone)) and both.low < both.mean < both.high and both.n == 9


def test_differences_of_rounding_are_ties() -> None:
    assert measure.wins([0.5, 0.5, 0.5], [0.5 + 1e-7, 0.4, 0.6]).tolist() == [0.5, 1, 0]


def test_monotonicity_by_hand() -> None:
    # First scene: 10 pairs, of which 7 are in order, (0, 0.75) ties, (0.25, 0.75) and (0.5, 0.75) are not.
    # Second: (0, 0.25) is not, (0, 0.5) ties, the other 8 are.
    found = detection.monotonicity(HAND, "metric", "flicker", seed=0)
    assert found.mean == pytest.approx((0.75 + 0.85) / 2) and found.n == 2


def test_frozen_preference_counts_what_is_above_only() -> None:
    values = np.zeros((4, 5))
    values[:, 4] = [0.1, 0.0, -0.1, 1e-7]
    assert detection.frozen_preference(table_of({"freeze": values}), "metric", seed=0).mean == 0.25


def test_scenes_that_all_agree_do_not_make_an_interval_of_no_width() -> None:
    values = np.tile([1.0, 0.9, 0.8, 0.7, 0.6], (4, 1))
    table = table_of({"freeze": values})
    assert detection.frozen_preference(table, "metric", seed=0) == wilson(0, 4)
    assert detection.auroc(table, "metric", ["freeze"], seed=0) == wilson(4, 4)
    assert detection.monotonicity(table, "metric", "freeze", seed=0) == wilson(4, 4)


def test_a_kind_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'freeze'"):
        detection.scores_by_severity(HAND, "metric", "freeze")


def test_the_summary_leaves_out_what_fits_one_scene_and_can_be_written() -> None:
    rng = np.random.default_rng(0)
    table = table_of({"flicker": rng.random((4, 5)), "freeze": rng.random((4, 5)), "hard_cut": rng.random((1, 5))})
    found = detection.summary(table, ["metric"], seed=0, draws=100)
    assert list(found["auroc"]["metric"]) == ["flicker", "freeze"] == list(found["monotonicity"]["metric"])
    assert set(found["mean_auroc"]["metric"]) == {"mean", "low", "high", "n"}
    assert "NaN" not in json.dumps(found) and "frozen_preference" in found


def test_fvd_rises_by_the_difference_of_the_distances() -> None:
    rng = np.random.default_rng(0)
    features, real = rng.normal(size=(len(HAND), 3)), rng.normal(size=(20, 3))
    rise = detection.fvd_rise(HAND, features, real, seed=0, draws=20)
    assert rise["severity"].tolist() == list(LEVELS) and (rise["n"] == 2).all()
    own, last = features[HAND["kind"] == "true"], features[HAND["severity"] == 1.0]
    assert rise["mean"].iloc[-1] == pytest.approx(frechet_distance(real, last) - frechet_distance(real, own))


@pytest.fixture
def run(output: object) -> Run:
    return start("07_what_does_it_measure", "smoke")


def test_departures_of_a_sample_are_the_true_clip_and_all_that_fit(run: Run) -> None:
    sample = draw_samples(run)[0]
    clips = probes.departures(run, sample)
    (first, true), *rest = clips.items()
    assert first == ("true", 0.0) and np.array_equal(true.frames, sample.real_clip(run.profile.generation).frames)
    fitting = [(kind, s) for kind, probe in PROBES.items() if probe.fits(sample.scene) for s in SEVERITIES]
    assert [key for key, _ in rest] == fitting
    again = probes.departures(run, sample)
    assert all(np.array_equal(clips[key].frames, again[key].frames) for key in clips)


def test_half_of_the_probed_scenes_hold_something_out_and_none_is_of_the_curated_set(run: Run) -> None:
    scenes = probes.probed_scenes(run)
    assert [(scene.id, scene.is_unseen) for scene in scenes] == [(i, i > 2) for i in range(6)]
    assert not {scene.scene for scene in scenes} & {sample.scene for sample in draw_samples(run)}
    assert probes.content_of(scenes[0]) == "seen" and probes.content_of(scenes[-1]).startswith("unseen content")


def test_scenes_for_frozen_clips_are_further_ones_with_two_clips_each(run: Run) -> None:
    probed, scenes = probes.probed_scenes(run), probes.frozen_scenes(run)
    assert [(scene.id, scene.is_unseen) for scene in scenes] == [(6, False), (7, False), (8, True), (9, True)]
    assert not {scene.scene for scene in scenes} & {scene.scene for scene in probed}
    true, still = probes.frozen(run, scenes[0]).values()
    assert (still.frames == true.frames[0]).all() and np.ptp(true.frames.astype(int), axis=0).any()


def test_a_difference_of_aurocs_is_over_the_same_scenes() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((12, 5))
    table = table_of({"flicker": values})
    table["better"] = table["metric"] + (table["kind"] == "true")
    table["same"] = table["metric"] + 3
    found = detection.auroc_difference(table, "better", "metric", ["flicker"], seed=0)
    single = [detection.auroc(table, name, ["flicker"], seed=0).mean for name in ("better", "metric")]
    assert found.mean == pytest.approx(single[0] - single[1]) and 0 < found.low < found.mean < found.high
    none = detection.auroc_difference(table, "same", "metric", ["flicker"], seed=0)
    assert (none.mean, none.low, none.high) == (0, 0, 0)
    # Of several trainings, the mean of what each is worth.
    both = detection.auroc(table, ["better", "metric"], ["flicker"], seed=0)
    assert both.mean == pytest.approx(np.mean(single))

"""From scores to labels, candidates and additions; stages are tested end to end by the notebooks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from icreward_lib.metrics.vbench import Anchors
from icreward_lib.poster import data_curation, videos
from icreward_lib.poster.samples import SPLITS, draw_samples
from icreward_lib.run import Run, start
from icreward_lib.video import Video


@pytest.fixture
def run(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ICREWARD_OUTPUT", str(tmp_path))
    return start("01_data_curation", "smoke")


def test_splits_and_their_content(run: Run) -> None:
    samples = draw_samples(run)
    data = run.profile.data
    assert [sum(s.split == split for s in samples) for split in SPLITS] == [data.train, data.val, data.test]
    unseen = [s for s in samples if s.is_unseen]
    assert len(unseen) == round(data.test * data.unseen_share) and {s.split for s in unseen} == {"test"}
    assert len({s.scene for s in samples}) == len(samples)
    image = samples[0].image(64, 64)
    assert np.array_equal(image, samples[0].real_clip(run.profile.generation).frames[0])


def test_labels_and_candidates(run: Run) -> None:
    table = pd.DataFrame(
        {
            "sample": [0, 0, 0, 1, 1, 1],
            "video": [0, 1, 2, 0, 1, 2],
            "subject": [0.5, 0.75, 1.0, 0.4, 0.8, 0.6],
            "background": [0.5, 0.75, 1.0, 0.4, 0.6, 0.8],
        }
    )
    limits = {"subject": Anchors(0.5, 1.0), "background": Anchors(0.5, 1.0)}
    labelled = data_curation.add_labels(run, table, limits)
    assert labelled["label"].tolist() == pytest.approx([0, 0.5, 1, 0, 0.4, 0.4])
    assert labelled["label_subject"].tolist() == pytest.approx([0, 0.5, 1, 0, 0.6, 0.2])
    assert labelled.groupby("sample")["candidate"].sum().tolist() == [2, 2]
    assert labelled.loc[labelled["sample"] == 0, "candidate"].tolist() == [True, False, True]


def test_spread_tells_within_from_between() -> None:
    within, between = data_curation.spread(np.array([[0.1, 0.3], [0.1, 0.3], [0.1, 0.3]]))
    assert within == pytest.approx(0.2 / 2**0.5) and between == pytest.approx(0)
    within, between = data_curation.spread(np.array([[0.1, 0.1], [0.3, 0.3]]))
    assert within == pytest.approx(0) and between == pytest.approx(0.2 / 2**0.5)


def test_the_reference_of_labels_is_the_mean_first_frame() -> None:
    clips = [Video(np.full((17, 32, 32, 3), value, np.uint8), 8.0) for value in (10, 20, 60)]
    clips[0].frames[1:] = 255
    reference = videos.as_seen(clips)
    assert reference.dtype == np.uint8 and reference.shape == (32, 32, 3)
    assert (reference == 30).all()


def test_departures_leave_the_image() -> None:
    own = Video(np.zeros((17, 8, 8, 3), np.uint8), 8.0)
    other = Video(np.full((17, 8, 8, 3), 200, np.uint8), 8.0)
    for seed in range(8):
        mixed = data_curation._departure(own, other, np.random.default_rng(seed)).frames
        assert (mixed[-1] == 200).all()
        assert (np.diff(mixed[:, 0, 0, 0].astype(int)) >= 0).all()

"""From scores to labels and additions; stages are tested end to end by the notebooks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from icreward_lib.metrics.vbench import Anchors
from icreward_lib.poster import data_curation, videos
from icreward_lib.poster.samples import SPLITS, draw_samples
from icreward_lib.run import Run, start
from icreward_lib.video import Video, write_video


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


def test_labels_follow_from_scores_and_anchors(run: Run) -> None:
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


def test_spread_tells_within_from_between() -> None:
    within, between = data_curation.spread(np.array([[0.1, 0.3], [0.1, 0.3], [0.1, 0.3]]))
    assert within == pytest.approx(0.2 / 2**0.5) and between == pytest.approx(0)
    within, between = data_curation.spread(np.array([[0.1, 0.1], [0.3, 0.3]]))
    assert within == pytest.approx(0) and between == pytest.approx(0.2 / 2**0.5)


@pytest.mark.e2e
def test_a_label_depends_on_no_other_video(run: Run) -> None:
    samples = draw_samples(run)[:2]
    made = videos.generate(run, samples)
    before = data_curation.score(run, samples, made)
    seen = videos.compared_with(run, samples[0], made)
    clips = made.of(0)
    first = clips[0].frames[0]
    assert seen.dtype == np.uint8 and seen.shape == first.shape
    assert np.abs(seen - first.astype(float)).mean() < 8, (
        "it is what videos begin with, up to what the decoder mixes in"
    )
    with made.stage.write(f"{videos.item_of(0)}/001.mp4") as path:
        write_video(path, Video(255 - clips[1].frames, clips[1].fps), lossless=True)
    assert np.array_equal(videos.compared_with(run, samples[0], made), seen)
    (run.cache / "scores").rename(run.cache / "scores before")
    after = data_curation.score(run, samples, made)
    replaced = (before["sample"] == 0) & (before["video"] == 1)
    assert after[~replaced].equals(before[~replaced]) and not after[replaced].equals(before[replaced])


def test_departures_leave_the_image() -> None:
    own = Video(np.zeros((17, 8, 8, 3), np.uint8), 8.0)
    other = Video(np.full((17, 8, 8, 3), 200, np.uint8), 8.0)
    for seed in range(8):
        mixed = data_curation._departure(own, other, np.random.default_rng(seed)).frames
        assert (mixed[-1] == 200).all()
        assert (np.diff(mixed[:, 0, 0, 0].astype(int)) >= 0).all()

"""Best-of-K picks and the naive sampling table."""

import numpy as np
import pytest

from icreward_lib.poster.naive_sampling import sampling_difference, sampling_table
from icreward_lib.rewards.best_of_k import pick, picks, random_picks

SCORES = np.array([[0.1, 0.9, 0.9], [0.5, 0.2, 0.3], [0.0, 0.1, 0.2], [0.3, 0.3, 0.3]])
CLIPSIM = np.array([[0.1, 0.2, 0.6], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9], [1.0, 0.0, 0.5]])
METRICS = {"clipsim": CLIPSIM, "dynamic_degree": 1.0 - CLIPSIM}


def squares(images: np.ndarray, videos: np.ndarray) -> float:
    """Stands in for FVD: any statistic that is no mean of a metric."""
    return float(np.var(CLIPSIM[images, videos]) + len(images))


def test_pick_is_the_best_and_the_first_of_equals():
    assert pick([0.2, 0.7, 0.7]) == 1
    assert picks(SCORES).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("scores", [[], [0.1, np.nan], [np.inf, 0.0]])
def test_pick_refuses_what_has_no_best(scores):
    with pytest.raises(ValueError, match=r"score|Scores"):
        pick(scores)


def test_random_picks_are_seeded_and_cover_all_videos():
    draws = random_picks(500, 5, seed=3)
    assert (draws == random_picks(500, 5, seed=3)).all()
    assert set(draws) == set(range(5))


def test_table_by_hand():
    table = sampling_table({"mlp": 1 - SCORES, "icreward": SCORES}, METRICS, seed=0, fvd=squares)
    assert list(table.index) == ["random", "mlp", "icreward"]
    assert table.loc["icreward", "clipsim"] == pytest.approx(np.mean([0.2, 0.4, 0.9, 1.0]))
    assert table.loc["mlp", "clipsim"] == pytest.approx(np.mean([0.1, 0.5, 0.7, 1.0]))
    assert table.loc["random", "clipsim"] == pytest.approx(CLIPSIM.mean())  # the expectation, not a draw
    assert table.loc["icreward", "fvd"] == pytest.approx(np.var([0.2, 0.4, 0.9, 1.0]) + 4)
    assert (table["n"] == 4).all()
    for metric in (*METRICS, "fvd"):
        assert (table[f"{metric}_low"] <= table[f"{metric}_high"]).all()
    assert (table["clipsim_low"] <= table["clipsim"]).all() and (table["clipsim"] <= table["clipsim_high"]).all()


def test_fvd_sees_resampled_images_and_the_random_row_uses_each_video_once():
    calls = []

    def record(images, videos):
        calls.append((images.copy(), videos.copy()))
        return 0.0

    sampling_table({"mlp": SCORES}, {}, seed=0, fvd=record)
    full = [videos for images, videos in calls[:3]]
    assert all((images == np.arange(4)).all() for images, _ in calls[:3])
    assert sorted(np.stack(full)[:, 0]) == [0, 1, 2]  # K complementary draws
    assert any(len(set(images)) < 4 for images, _ in calls[3:])
    by_reward = [call for call in calls if (call[1] == picks(SCORES)[call[0]]).all()]
    assert len(by_reward) >= 4  # the picked video follows its image into every resample


def test_table_is_seeded():
    def table(seed: int):
        return sampling_table({"mlp": SCORES}, METRICS, seed=seed, draws=11)

    assert table(1).equals(table(1))
    assert not table(1).equals(table(2))


def test_difference_is_paired():
    scores = {"mlp": 1 - SCORES, "icreward": SCORES}
    table = sampling_difference(scores, METRICS, "icreward", "mlp", seed=0, fvd=squares)
    assert table.loc["clipsim", "mean"] == pytest.approx(0.2 / 4 - 0.0, abs=1e-12)
    assert table["same_pick"].iloc[0] == pytest.approx(0.25)
    same = sampling_difference({"a": SCORES, "b": SCORES}, METRICS, "a", "b", seed=0, fvd=squares)
    assert (same[["mean", "low", "high"]] == 0).all(axis=None)  # no noise between equal picks
    assert sampling_difference({"a": SCORES}, METRICS, "a", "random", seed=0)["same_pick"].iloc[0] == pytest.approx(
        1 / 3
    )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="samples x 3 videos"):
        sampling_table({"mlp": SCORES}, {"clipsim": CLIPSIM[:2]}, seed=0)
    with pytest.raises(ValueError, match="random"):
        sampling_table({"random": SCORES}, METRICS, seed=0)
    with pytest.raises(ValueError, match="oracle"):
        sampling_difference({"mlp": SCORES}, METRICS, "mlp", "oracle", seed=0)

"""Scoring the candidates of one reference, beside one clip at a time; and what it costs against K, T and resolution."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Duel
from benchmarks.record import Record, summary
from benchmarks.scoring import (
    Cached,
    Candidates,
    Metrics,
    difference,
    make_candidates,
    new_reward,
    reward_one_at_a_time,
    reward_together,
)
from icreward_lib.rewards.icreward import ICRewardModel

SAME = 1e-5  # in float32
SIZES = {"clips": (1, 2, 5, 10), "frames": (9, 17, 33), "side": (32, 64, 128)}
USUAL = {"clips": 5, "frames": 17, "side": 64}


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    """Five clips of 17 frames of 64 x 64 pixels, no two frames of which are alike."""
    made = make_candidates(tmp_path_factory.mktemp("candidates"))
    frames = np.concatenate([video.frames for video in made.read()[1]])
    assert len({frame.tobytes() for frame in frames}) == len(frames)
    return made


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    """VBench++'s and CLIPSim's networks."""
    return Metrics.load()


@pytest.fixture(scope="module")
def reward() -> ICRewardModel:
    """ICReward."""
    return new_reward()


@pytest.mark.parametrize("way", ["one_at_a_time", "one_at_a_time_sharing"])
def test_vbench_and_clipsim(way: str, metrics: Metrics, candidates: Candidates, duel: Duel, record: Record) -> None:
    """One decode and one reference for all clips and metrics, over a loop."""
    name = "vbench_clipsim_speedup" if way == "one_at_a_time" else "vbench_clipsim_shared_speedup"
    theirs = getattr(metrics, way)
    record.checks[name] = difference(metrics.together(candidates), theirs(candidates))
    assert record.checks[name] <= SAME
    duel(name, lambda: metrics.together(candidates), lambda: theirs(candidates), rounds=10, over="ours")


def test_icreward(reward: ICRewardModel, candidates: Candidates, duel: Duel, record: Record) -> None:
    """All clips at once, over one by one."""
    found, wanted = reward_together(reward, candidates), reward_one_at_a_time(reward, candidates)
    record.checks["icreward_speedup"] = difference(found, wanted)
    assert record.checks["icreward_speedup"] <= SAME
    duel(
        "icreward_speedup",
        lambda: reward_together(reward, candidates),
        lambda: reward_one_at_a_time(reward, candidates),
        rounds=20,
        over="ours",
    )


@pytest.mark.parametrize("kept", ["states", "tokens"])
def test_scoring_again(kept: str, candidates: Candidates, duel: Duel, record: Record) -> None:
    """Another head and weight from what is cached, over from the clips' frames in memory."""
    name = "rescore_speedup" if kept == "states" else "rescore_tokens_speedup"
    cached = Cached.of(new_reward(), candidates)
    ours = cached.from_states if kept == "states" else cached.from_tokens
    record.checks[name] = difference(ours(), cached.from_frames())
    assert record.checks[name] <= SAME
    duel(name, ours, cached.from_frames, rounds=20, over="ours")


@pytest.mark.parametrize(("axis", "value"), [(axis, value) for axis, values in SIZES.items() for value in values])
def test_cost(
    axis: str,
    value: int,
    metrics: Metrics,
    reward: ICRewardModel,
    benchmark: BenchmarkFixture,
    record: Record,
    tmp_path: Path,
) -> None:
    """Seconds of the clips in memory."""
    size = USUAL | {axis: value}
    image, videos = make_candidates(tmp_path, count=size["clips"], num_frames=size["frames"], side=size["side"]).read()
    seconds: list[float] = []

    def timed_reward() -> None:
        begin = time.perf_counter()
        reward.score(image, videos)
        seconds.append(time.perf_counter() - begin)

    benchmark.pedantic(lambda: metrics.of(image, videos), setup=timed_reward, rounds=3, warmup_rounds=1)
    for scored, taken in {"metrics": benchmark.stats.stats.data, "icreward": seconds[-3:]}.items():
        record.costs.append({"axis": axis, "value": value, "scored": scored, **size, **summary(taken)})

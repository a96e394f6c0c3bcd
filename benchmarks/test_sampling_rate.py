"""Rectified-flow sampling, as a run does it, in operations a second beside the matmul rate of the same cores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.record import Record
from benchmarks.sampling import Sampling, flops, shares
from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.run.matmul import measure_gflops
from icreward_lib.run.profile import load_profile

GENERATOR = Path(__file__).parents[1] / "checkpoints" / "laptop" / "opensora"
ROUNDS = 5


@pytest.fixture(scope="module")
def sampling() -> Sampling:
    """Five videos of as many pictures as there are threads, with the settings of the laptop's profile."""
    generator = OpenSoraGenerator.from_pretrained(GENERATOR, settings=load_profile("laptop").generation)
    return Sampling.of(generator, images=torch.get_num_threads())


@pytest.mark.parametrize("part", ["whole", "flow"])
def test_sampling_rate(part: str, sampling: Sampling, benchmark: BenchmarkFixture, record: Record) -> None:
    """The share of the matmul rate, which is measured before every round."""
    name = "sampling_matmul_fraction" if part == "whole" else "sampling_flow_matmul_fraction"
    sample = getattr(sampling, part)
    count = flops(lambda: sample(0)) * len(sampling.images)
    rates: list[float] = []

    def measure() -> None:
        rate, reason = measure_gflops("float32")
        assert rate is not None, reason
        rates.append(rate)

    benchmark.pedantic(lambda: sampling.all(sample), setup=measure, rounds=ROUNDS, warmup_rounds=1)
    seconds, rates = list(benchmark.stats.stats.data), rates[-ROUNDS:]
    record.rounds[name] = [count / taken / (rate * 1e9) for taken, rate in zip(seconds, rates, strict=True)]
    record.seconds[name], record.profile[name] = seconds, {"gflop": count / 1e9, "shares": _shares(sampling, part)}
    record.matmul += rates


def _shares(sampling: Sampling, part: str) -> dict[str, float]:
    """Where the time goes on one thread, as every picture is sampled on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return shares(lambda: getattr(sampling, part)(0))
    finally:
        torch.set_num_threads(threads)

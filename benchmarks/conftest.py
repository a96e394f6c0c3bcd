"""What the benchmarks share: the record of a run, `--write`, and duels within one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.record import Record

Duel = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write` keeps the results."""
    parser.addoption("--write", action="store_true", help="write results.json, the README's table and the figure")


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Iterator[Record]:
    """Everything that the run measures; written at its end if nothing failed."""
    found = Record()
    yield found
    if request.config.getoption("--write") and not request.session.testsfailed:
        found.write(Path(__file__).parent)


@pytest.fixture
def duel(benchmark: BenchmarkFixture, record: Record) -> Duel:
    """Time two sides in turn, round by round, so that what else the machine does meets both."""

    def run(name: str, ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int, over: str) -> None:
        """Keep the ratios `over` "ours" (a speed-up) or "theirs" (a cost) under `name`."""
        other: list[float] = []

        def before() -> None:
            begin = time.perf_counter()
            theirs()
            other.append(time.perf_counter() - begin)

        benchmark.pedantic(ours, setup=before, rounds=rounds, warmup_rounds=1)
        own = list(benchmark.stats.stats.data)
        other = other[-rounds:]
        pairs = zip(own, other, strict=True)
        record.rounds[name] = [b / a if over == "ours" else a / b for a, b in pairs]
        record.seconds |= {f"{name} ours": own, f"{name} theirs": other}
        benchmark.extra_info["ratios"] = record.rounds[name]

    return run

"""Work side by side: order, errors, threads given back."""

from __future__ import annotations

import time

import pytest
import torch
from threadpoolctl import threadpool_info

from icreward_lib.run.processes import side_by_side


def test_results_come_in_order_with_their_items() -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert list(side_by_side(slow_first, range(5))) == [(n, n * n) for n in range(5)]


def test_torch_works_on_one_thread_inside_and_on_all_again_afterwards() -> None:
    before = torch.get_num_threads()
    inside = [threads for _, threads in side_by_side(lambda _: torch.get_num_threads(), range(6))]
    assert inside == [1] * 6 and torch.get_num_threads() == before


def test_blas_works_on_one_thread_inside_and_on_all_again_afterwards() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    assert [found for _, found in side_by_side(lambda _: threads(), range(3))] == [[1] * len(before)] * 3
    assert before and threads() == before


@pytest.mark.fault
def test_an_error_comes_at_its_turn_and_stops_the_rest() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01)
        if item == 2:
            raise ValueError("no room")
        return item

    done = []
    with pytest.raises(ValueError, match="no room"):
        for item, _ in side_by_side(work, range(200)):
            done.append(item)
    assert done == [0, 1] and len(begun) < 100
    assert torch.get_num_threads() >= 1

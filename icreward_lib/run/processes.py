"""Processes that `accelerate launch` started together, and threads: who makes what, and where they wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # not for good: the command line imports this module and has to start quickly
    from accelerate import PartialState

Item = TypeVar("Item")
Result = TypeVar("Result")
PATIENCE = timedelta(days=2)  # that processes wait for the slowest of them


def rank() -> int:
    """This process's number, from 0; the first leads."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device() -> str:
    """Where this process computes: `cuda`, or its own of several GPUs, `cuda:<n>`, if there are any; else `cpu`."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ['LOCAL_RANK']}" if processes() > 1 else "cuda"


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share of the items: no two processes ever take the same one."""
    return items[rank() :: processes()]


def gather(made: Sequence[Item], count: int) -> list[Item]:
    """What all processes made of their shares (`own_share`) of `count` items, in order; numbers rather than tensors."""
    if processes() == 1:
        return list(made[:count])
    import torch.distributed

    _group()
    shares: list[list[Item]] = [[] for _ in range(processes())]
    torch.distributed.all_gather_object(shares, list(made))
    return [shares[place % processes()][place // processes()] for place in range(count)]


def barrier() -> None:
    """Wait until every process has come here."""
    if processes() > 1:
        _group().wait_for_everyone()


def _group() -> PartialState:
    """The processes as `torch.distributed` knows them, by NCCL on GPUs and Gloo on CPUs."""
    from accelerate import PartialState

    # Unless it is told that there is no GPU, it takes every process for one alone, which waits for nobody.
    return PartialState(cpu=device() == "cpu", timeout=PATIENCE)


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield every item with `function(item)`, in order, on a GPU one at a time, else as many as torch has threads.

    There torch and BLAS work on one thread, so that results do not depend on the cores. An error is raised at its
    item's turn; what has not begun by then is dropped.
    """
    import torch  # here, as in `device`: the command line has to start quickly
    from threadpoolctl import threadpool_limits

    if torch.cuda.is_available():
        yield from ((item, function(item)) for item in items)
        return
    items, threads = list(items), torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with threadpool_limits(1, user_api="blas"):
            yield from zip(items, pool.map(function, items), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)

"""Independent pieces of work side by side, one core each.

Small networks do not fill two cores with one operation; two videos at a time, each on one core, do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result]]:
    """Yield every item with `function(item)`, in order, as many at a time as torch has threads.

    Inside, torch and BLAS work on one thread, so that a result does not depend on how many cores there are. An error is
    raised at its item's turn; what has not begun by then is dropped. Where there is a GPU, one item at a time fills it.
    """
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

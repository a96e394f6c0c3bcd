"""Processes that `accelerate launch` started together: who makes what, and where they wait for each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")

PATIENCE = timedelta(days=2)  # that processes wait for the slowest of them


def rank() -> int:
    """This process's number, from 0; the first leads."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def mine(items: Sequence[Item]) -> Sequence[Item]:
    """This process's share of what is to be made.

    It depends on the items alone, not on which of them exist already: no two processes ever take the same one.
    """
    return items[rank() :: processes()]


def meet() -> None:
    """Wait until every process has come here."""
    if processes() > 1:
        from accelerate import PartialState  # not at the top: the command line has to start quickly

        PartialState(timeout=PATIENCE).wait_for_everyone()

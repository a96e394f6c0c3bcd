"""A handful of votes, written as rows."""

from __future__ import annotations

import pandas as pd

from icreward_lib.study.votes import REQUIRED

ARMS = ("icreward", "mlp")


def votes(*rows: str) -> pd.DataFrame:
    """Rows as "rater sample arm_left arm_right choice [trial|attention|repeat] [question]"; a pair is its sample."""
    table = []
    for number, row in enumerate(rows):
        rater, sample, left, right, choice, *more = row.split()
        kind, question = (*more, *("trial", "consistency")[len(more) :])
        flags = (kind == "attention", kind == "repeat")
        table.append((rater, number, sample, sample, left, right, choice, question, *flags, "", "", "", ""))
    return pd.DataFrame(table, columns=REQUIRED)


SMALL = votes(
    "r1 a icreward mlp left",
    "r2 a mlp icreward right",
    "r3 a icreward mlp right",
    "r1 b mlp icreward tie",
    "r2 b icreward mlp left",
    "r3 b mlp icreward left",
)


def with_more(*rows: str) -> pd.DataFrame:
    """`SMALL` and some attention items or repeats."""
    return pd.concat([SMALL, votes(*rows).assign(trial=range(10, 10 + len(rows)))])

"""Which samples Figures 3 and 4 show, and under which names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from icreward_lib.poster.human_study import showcase


def test_the_showcase_has_different_picks_first_and_then_subjects() -> None:
    kinds = ("background", "subject", "subject", "background", "subject")
    test = [SimpleNamespace(id=10 + n, dimension=kind, title=kind[0]) for n, kind in enumerate(kinds)]
    curated = cast(Any, SimpleNamespace(of=lambda split: test))
    run = cast(Any, SimpleNamespace(profile=SimpleNamespace(study=SimpleNamespace(showcase=3))))
    shown = showcase(run, curated, [np.array([0, 1, 2, 3, 4]), np.array([1, 1, 0, 0, 4])])
    assert {title: sample.id for title, sample in shown.items()} == {
        "sample 1: s": 12,
        "sample 2: b": 10,
        "sample 3: b": 13,
    }

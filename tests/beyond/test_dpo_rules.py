"""Rules of preference, and the table of what training on their pairs comes to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from icreward_lib.beyond import dpo_rules
from icreward_lib.dpo import DPOConfig, DPOHistory
from icreward_lib.poster.open_sora_dpo import Tuned

RNG = np.random.default_rng(0)
SCORES = {name: RNG.random((30, 5)) for name in ("mlp", "icreward", "robust")}
MOTION = RNG.random((30, 5))


def pairs(rule: str) -> pd.DataFrame:
    return dpo_rules.pairs_by(rule, SCORES, MOTION, subset=3, seed=1).table


def test_every_rule_prefers_by_its_own_reward() -> None:
    for rule in ("poster", "best_over_worst", "motion_matched", "supervised"):
        table = pairs(rule)
        own = SCORES["icreward"]
        assert (own[table["sample"], table["winner"]] > own[table["sample"], table["loser"]]).all(), rule
    table = pairs("robust")
    assert (table["winner"] == SCORES["robust"].argmax(1)).all() and (
        table["loser"] == SCORES["robust"].argmin(1)
    ).all()
    assert pairs("supervised").equals(pairs("poster")), "the same winners, another loss"
    assert len(pairs("random")) == 30


def tuned(win: float, rise: float) -> Tuned:
    history = DPOHistory()
    for step in (0, 4):
        history.outcomes += [{"step": step, "pair": i, "sample": i, "logit": 0.0, "win": win} for i in range(4)]
        history.bins += [{"step": step, "t": t, "accuracy": 1.0, "d_winner": rise, "d_loser": 2 * rise} for t in (1, 2)]
    return Tuned(cast(Any, None), history, DPOConfig(steps=4))


def measured(shift: float) -> Any:
    generator = np.random.default_rng(1)
    table = pd.DataFrame({"sample": [3, 4, 5, 6], "unseen": False})
    for judge in dpo_rules.JUDGES:
        table[judge] = generator.random(4) + shift
    return SimpleNamespace(table=table, features=generator.normal(size=(4, 3)) + shift)


def test_a_rule_is_held_against_the_base_generator_image_by_image() -> None:
    run: Any = SimpleNamespace(
        seed=lambda *names: 0, profile=SimpleNamespace(stats=SimpleNamespace(bootstrap_draws=200, level=0.95))
    )
    trainings = {"poster": [tuned(1.0, 0.1), tuned(0.5, 0.3)]}
    clips = {dpo_rules.BASE: [measured(0.0)], "poster": [measured(0.2), measured(0.4)]}
    scores = {dpo_rules.BASE: [{"mlp": np.zeros(4)}], "poster": [{"mlp": np.ones(4)}, {"mlp": np.zeros(4)}]}
    real = np.random.default_rng(2).normal(size=(20, 3))
    table = dpo_rules.rule_table(run, trainings, clips, scores, real).set_index("measure")
    assert table.loc["label", ["mean", "low", "high"]].tolist() == pytest.approx([0.3] * 3)
    assert table.loc["mlp", "mean"] == 0.5 and table.loc["mlp", "n"] == 4
    assert table.loc["preference_accuracy", "mean"] == 0.75
    assert table.loc["winner_error", ["mean", "low", "high"]].tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert table.loc["loser_error", "mean"] == pytest.approx(0.4)
    assert table.loc["fvd", "low"] <= table.loc["fvd", "mean"] <= table.loc["fvd", "high"]

"""Simulated raters have the habits that they are given, and the analysis finds them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.few_votes import ARMS, SMALL

from icreward_lib.study.analysis import counts, summarise, themes, win_rate
from icreward_lib.study.simulate import FIDELITIES, RaterModel, simulate_votes
from icreward_lib.study.votes import attention_pass_rate, repeat_consistency, side_bias, trials

QUIET = RaterModel(noise=0.0, noise_spread=0.0, side_bias=0.0, side_bias_spread=0.0, lapse=0.0, feedback=0.0)


def truth(gap: float = 0.0, samples: int = 30, *, seed: int = 0) -> pd.DataFrame:
    """Both arms around 0.6; the first is better by `gap` in everything."""
    rng = np.random.default_rng(seed)
    rows = []
    for sample in range(samples):
        base = rng.uniform(0.5, 0.7, size=3)
        for arm, shift in (("icreward", gap / 2), ("mlp", -gap / 2)):
            rows.append({"sample": f"s{sample}", "arm": arm, **dict(zip(FIDELITIES, base + shift, strict=True))})
    return pd.DataFrame(rows)


def with_arms_swapped(table: pd.DataFrame) -> pd.DataFrame:
    swap = dict(zip(ARMS, ARMS[::-1], strict=True))
    return table.assign(arm_left=table["arm_left"].replace(swap), arm_right=table["arm_right"].replace(swap))


@pytest.mark.property
def test_swapping_the_arms_flips_the_counts():
    table = simulate_votes(truth(0.05), ARMS, seed=3)
    here, there = counts(table, ARMS), counts(with_arms_swapped(table), ARMS)
    assert here["icreward"].sum() != here["mlp"].sum()
    assert here["icreward"].equals(there["mlp"].rename("icreward")) and here["tie"].equals(there["tie"])
    a, b = win_rate(table, ARMS), win_rate(with_arms_swapped(table), ARMS)
    assert (a.mean, a.low, a.high) == pytest.approx((1 - b.mean, 1 - b.high, 1 - b.low))


def test_simulated_votes_are_marked_seeded_and_balanced():
    table = simulate_votes(truth(0.05), ARMS, seed=1)
    assert (table["source"] == "simulated").all()
    assert table.equals(simulate_votes(truth(0.05), ARMS, seed=1))
    assert not table.equals(simulate_votes(truth(0.05), ARMS, seed=2))
    own = trials(table)
    assert len(own) == 20 * 30 and not own.duplicated(["rater", "sample"]).any()
    left = (own["arm_left"] == "icreward").groupby(own["sample"]).sum()
    assert (left == 10).all()  # half of the raters see each pair each way round
    assert (table.groupby("rater").size() == 30 + 4 + 3).all()


def test_no_true_difference_gives_even_votes():
    summary = summarise(simulate_votes(truth(0.0, 60), ARMS, seed=5), ARMS, seed=0)
    assert abs(summary["win_rate"]["mean"] - 0.5) < 0.03
    assert summary["win_rate"]["low"] < 0.5 < summary["win_rate"]["high"]


def test_the_truer_arm_wins():
    assert win_rate(simulate_votes(truth(0.1), ARMS, seed=0, model=QUIET), ARMS).mean == 1.0
    assert win_rate(simulate_votes(truth(-0.1), ARMS, seed=0, model=QUIET), ARMS).mean == 0.0
    rates = [win_rate(simulate_votes(truth(gap), ARMS, seed=0), ARMS).mean for gap in (0.0, 0.03, 0.1)]
    assert rates == sorted(rates) and 0.5 < rates[1] < rates[2] <= 1.0


def test_the_raters_weights_decide():
    only_motion = truth(0.0).assign(**{FIDELITIES[2]: lambda t: np.where(t["arm"] == "mlp", 0.9, 0.1)})
    cares = replace(QUIET, weights=(0.05, 0.05, 0.9), concentration=1000.0)
    careless = replace(QUIET, weights=(0.5, 0.49, 0.01), concentration=1000.0, tie_width=0.1)
    assert win_rate(simulate_votes(only_motion, ARMS, seed=0, model=cares), ARMS).mean == 0.0
    assert (simulate_votes(only_motion, ARMS, seed=0, model=careless).pipe(trials)["choice"] == "tie").all()


def test_side_bias_is_recovered():
    leaning = replace(RaterModel(), side_bias=0.05, side_bias_spread=0.0)
    biased = side_bias(simulate_votes(truth(), ARMS, seed=2, model=leaning), seed=0)
    fair = side_bias(simulate_votes(truth(), ARMS, seed=2, model=replace(leaning, side_bias=0.0)), seed=0)
    assert biased.low > 0.55 and fair.low < 0.5 < fair.high
    assert win_rate(simulate_votes(truth(), ARMS, seed=2, model=leaning), ARMS).mean == pytest.approx(0.5, abs=0.05)


def test_lapses_and_attention():
    asleep = attention_pass_rate(simulate_votes(truth(), ARMS, seed=0, model=replace(QUIET, lapse=1.0)))
    awake = attention_pass_rate(simulate_votes(truth(), ARMS, seed=0, model=QUIET))
    usual = attention_pass_rate(simulate_votes(truth(), ARMS, seed=0))
    assert (awake["rate"] == 1).all() and asleep["rate"].mean() < 0.4 and usual["rate"].mean() > 0.8
    assert (awake["n"] == 4).all()
    assert repeat_consistency(simulate_votes(truth(0.1), ARMS, seed=0, model=QUIET), seed=0).mean == 1.0


def test_written_feedback_names_what_differed():
    worse_background = truth(0.0).assign(**{FIDELITIES[1]: lambda t: np.where(t["arm"] == "mlp", 0.5, 0.9)})
    table = simulate_votes(worse_background, ARMS, seed=0, model=replace(QUIET, feedback=1.0))
    written = trials(table)
    assert (written["feedback"] != "").all() and written["feedback"].nunique() > 5
    assert set(written["tags"]) <= {"background", ""} and (written["tags"] != "").mean() > 0.9
    found = themes(table, ARMS)
    assert found.loc["background", "share"] > 0.95 and found.loc["background", "icreward"] == len(written)
    assert found.drop(index=["background", "sharpness"])["share"].max() < 0.05
    assert not written["feedback"].str.contains("icreward|mlp|{", regex=True).any()  # raters know sides, not arms
    poor = truth(0.1).assign(**{FIDELITIES[2]: 0.1})
    assert simulate_votes(poor, ARMS, seed=0)["feedback"].str.contains("Neither video has").any()


def test_summary_is_json_and_says_simulated():
    summary = summarise(simulate_votes(truth(0.05), ARMS, seed=1), ARMS, seed=0)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["source"] == "simulated" and summary["raters"] == 20 and summary["votes"] == 600
    assert summary["attention"]["n"] == 80 and len(summary["samples"]) == 30
    bare = summarise(SMALL.assign(choice="tie"), ARMS, seed=0)
    assert bare["source"] == "people" and bare["side_bias"] is None and bare["samples"][0]["share"] is None
    json.dumps(bare, allow_nan=False)

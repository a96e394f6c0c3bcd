"""Verdicts follow from intervals, and simulated raters never reproduce anything."""

from __future__ import annotations

import json

import pytest

from icreward_lib.poster import claims
from icreward_lib.run import Run, start


@pytest.fixture
def run(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ICREWARD_OUTPUT", str(tmp_path))
    run = start("06_open_sora_dpo", "smoke")
    write(run, mse=-0.01, clipsim=0.02, fvd=-3.0, source="simulated", accuracy=0.8)
    return run


def write(run: Run, *, mse: float, clipsim: float, fvd: float, source: str, accuracy: float) -> None:
    def around(value: float) -> dict[str, float]:
        return {"mean": value, "low": value - abs(value) / 2, "high": value + abs(value) / 2}

    def row(metric: str, value: float) -> dict[str, object]:
        cell = around(value)
        return {
            "metric": metric,
            "difference": value,
            "difference_low": cell["low"],
            "difference_high": cell["high"],
        }

    files = {
        "reward_models": {"icreward_minus_mlp": {"val": around(mse), "test": around(mse)}},
        "picks": {"icreward_minus_mlp": [row("clipsim", clipsim), row("fvd", fvd)]},
        "study": {"win_rate": {"mean": 0.7, "low": 0.6, "high": 0.8}, "source": source},
        "dpo": {
            "preference_accuracy": {"final": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "n_pairs": 120},
            "wins": {judge: {"mean": 0.6, "low": 0.52, "high": 0.68} for judge in ("icreward", "oracle")},
        },
    }
    run.results.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (run.results / f"{name}.json").write_text(json.dumps(content))
    (run.results / "table1.csv").write_text("pick,clipsim,fvd\nmlp,0.7,100\nicreward,0.8,90\n")


def verdicts(run: Run) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in claims.collect(run)}


def test_whole_intervals_on_the_claims_side(run: Run) -> None:
    found = verdicts(run)
    assert found["fig2"] == found["table1_clipsim"] == found["table1_fvd"] == found["fig5"] == claims.REPRODUCED
    assert found["fig4"] == claims.NOT_COMPARABLE


def test_a_claim_that_fails_is_said_to_fail(run: Run) -> None:
    write(run, mse=0.01, clipsim=-0.02, fvd=3.0, source="people", accuracy=0.6)
    found = verdicts(run)
    assert found["fig4"] == claims.REPRODUCED
    assert {found[i] for i in ("fig2", "table1_clipsim", "table1_fvd", "fig5")} == {claims.NOT_REPRODUCED}


def write_beyond(run: Run, *, frozen: float, gain: float) -> None:
    def around(value: float) -> dict[str, float]:
        return {"mean": value, "low": value - 0.02, "high": value + 0.02}

    judges = ("subject_fidelity", "background_fidelity", "motion_faithfulness")
    robust = {
        name: {"heldout_auroc": around(0.7), "frozen_preference": around(frozen) | {"n": 96}}
        for name in ("poster", "mlp", "robust")
    }
    measures = ("motion_faithfulness", "dynamic_degree", "label")
    files = {
        "probes": {"frozen_preference": {name: around(frozen) for name in ("icreward", "label", "clipsim")}},
        "hacking": {
            "best_of_n": [
                {"pick": "icreward", "judge": j, "n": n, **around(n * gain)} for j in judges for n in (1, 64)
            ],
            "turning_points": [{"pick": "icreward", "judge": j, "best_n": 8, **around(-0.1)} for j in judges],
        },
        "robust": robust | {"heldout_difference": {"poster": around(gain), "mlp": around(gain)}},
        "dpo_variants": {
            "rules": [{"rule": rule, "measure": m, **around(gain)} for rule in ("poster", "robust") for m in measures]
        },
    }
    for name, content in files.items():
        (run.results / f"{name}.json").write_text(json.dumps(content))


def test_claims_of_our_own_hold_or_do_not(run: Run) -> None:
    write_beyond(run, frozen=0.01, gain=0.1)
    assert {claim["verdict"] for claim in claims.collect_beyond(run)} == {claims.HOLDS}
    write_beyond(run, frozen=0.04, gain=0.1)
    unsure = {claim["id"]: claim["verdict"] for claim in claims.collect_beyond(run)}
    assert unsure["robust_frozen"] == claims.DOES_NOT_HOLD, "its interval goes on to 0.06"
    write_beyond(run, frozen=0.9, gain=-0.1)
    beyond = claims.collect_beyond(run)
    assert {claim["verdict"] for claim in beyond} == {claims.DOES_NOT_HOLD}
    assert "of 64" in next(c for c in beyond if c["id"] == "best_of_n_subject_fidelity")["claim"]
    claims.publish(run, claims.collect(run), beyond)
    published = (run.results / "claims.md").read_text()
    assert claims.to_markdown(beyond, aim="aim") in published and "## Beyond the poster" in published


def test_the_table_is_published_for_the_laptop_only(run: Run) -> None:
    table = claims.collect(run)
    claims.publish(run, table, [])
    assert (run.results / "claims.md").read_text().count("\n| ") == len(table) + 2
    assert not (run.root / "results" / "claims.md").exists()

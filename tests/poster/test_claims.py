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
    write(run, mse=-0.01, clipsim=0.02, fvd=-3.0, source="simulated", accuracy=0.8, tuned=0.02)
    return run


def around(value: float, wide: float | None = None) -> dict[str, float]:
    margin = abs(value) / 2 if wide is None else wide
    return {"mean": value, "low": value - margin, "high": value + margin, "n": 64}


def write_files(run: Run, files: dict[str, object]) -> None:
    run.results.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (run.results / f"{name}.json").write_text(json.dumps(content))


def write(run: Run, *, mse: float, clipsim: float, fvd: float, source: str, accuracy: float, tuned: float) -> None:
    write_files(
        run,
        {
            "reward_models": {
                "icreward_minus_mlp": {"val": around(mse), "test": around(mse)},
                "icreward": {"test_spearman": around(0.7), "test_spearman_within": around(0.3, 0.4)},
            },
            "picks": {
                "icreward_minus_mlp": [{"metric": "clipsim"} | around(clipsim), {"metric": "fvd"} | around(fvd)],
                "table1": [
                    {"pick": "mlp", "clipsim": 0.7, "fvd": 100.0},
                    {"pick": "icreward", "clipsim": 0.8, "fvd": 90.0},
                ],
                "fvd_real_vs_real": around(78.0),
            },
            "study": {"win_rate": around(0.7, 0.1), "source": source},
            "dpo": {
                "preference_accuracy": around(accuracy, 0.05) | {"n_pairs": 120},
                "wins": {judge: around(0.6, 0.08) for judge in ("icreward", "oracle", "mlp")},
                "changes": [{"metric": "clipsim", "base": 0.9, "tuned": 0.9 + tuned} | around(tuned)],
            },
        },
    )


def verdicts(run: Run) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in claims.collect(run)}


def test_whole_intervals_on_the_claims_side(run: Run) -> None:
    found = verdicts(run)
    assert found["fig2"] == found["table1_clipsim"] == found["table1_fvd"] == found["fig5"] == claims.REPRODUCED
    assert found["dpo_clipsim"] == found["dpo_mlp"] == claims.REPRODUCED
    assert found["fig4"] == claims.NOT_COMPARABLE
    assert found["order_within"] == claims.NOT_REPRODUCED, "its interval goes down to -0.1"


def test_a_claim_that_fails_is_said_to_fail(run: Run) -> None:
    write(run, mse=0.01, clipsim=-0.02, fvd=3.0, source="people", accuracy=0.6, tuned=-0.06)
    found = verdicts(run)
    assert found["fig4"] == claims.REPRODUCED
    failed = ("fig2", "table1_clipsim", "table1_fvd", "fig5", "dpo_clipsim")
    assert {found[i] for i in failed} == {claims.NOT_REPRODUCED}
    (fall,) = (claim for claim in claims.collect(run) if claim["id"] == "dpo_clipsim")
    assert fall["why"].startswith("0.840 against 0.900") and "leave the image" in fall["why"]


@pytest.mark.fault
def test_what_a_notebook_has_not_recorded_is_one_sentence(run: Run) -> None:
    write_files(run, {"dpo": {"preference_accuracy": around(0.8) | {"n_pairs": 3}, "wins": {}}})
    with pytest.raises(ValueError, match="dpo.json has no icreward where claims look for it: run its notebook again"):
        claims.collect(run)
    (run.results / "picks.json").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*picks.json: run the notebook"):
        claims.collect(run)


def near(value: float) -> dict[str, float]:
    return around(value, 0.02)


def write_beyond(run: Run, *, frozen: float, gain: float) -> None:
    judges = ("subject_fidelity", "background_fidelity", "motion_faithfulness")
    robust = {
        name: {"heldout_auroc": near(0.7), "frozen_preference": near(frozen)} for name in ("poster", "mlp", "robust")
    }
    measures = ("motion_faithfulness", "dynamic_degree", "label")
    files: dict[str, object] = {
        "probes": {"frozen_preference": {name: near(frozen) for name in ("icreward", "label", "clipsim")}},
        "hacking": {
            "best_of_n": [
                {"pick": "icreward", "judge": j} | near(n * gain) | {"n": n} for j in judges for n in (1, 64)
            ],
            "turning_points": [{"pick": "icreward", "judge": j, "best_n": 8, **near(-0.1)} for j in judges],
        },
        "robust": robust | {"heldout_difference": {"poster": near(gain), "mlp": near(gain)}},
        "dpo_variants": {
            "rules": [{"rule": rule, "measure": m, **near(gain)} for rule in ("poster", "robust") for m in measures]
        },
    }
    write_files(run, files)


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

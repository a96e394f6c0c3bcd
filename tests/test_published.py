"""What is published agrees with itself: results, claims, figures and README come from one run of `laptop`."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from support import ROOT

from icreward_lib.poster.claims import to_markdown
from icreward_lib.run.profile import load_profile

RESULTS, FIGURES = ROOT / "results" / "laptop", ROOT / "figures" / "laptop"
NAMES = ("dataset", "reward_models", "picks", "study", "dpo", "power", "timing", "claims")
BEYOND = ("probes", "hacking", "robust", "weights", "dpo_variants", "claims_beyond", "explore", "real_clips")


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def provenance(content: Any) -> dict[str, Any]:
    found: dict[str, Any] = (content[0] if isinstance(content, list) else content)["provenance"]
    return found


def test_all_results_are_of_one_code_one_profile_and_one_seed() -> None:
    made_by = [provenance(read(name)) for name in (*NAMES, *BEYOND)]
    made_by.append(json.loads((RESULTS / "table1.provenance.json").read_text(encoding="utf-8")))
    assert len({json.dumps(entry["source"]["library"]) for entry in made_by}) == 1
    for entry in made_by:
        assert entry["changes"] == {}
        assert entry["parameters"] == load_profile("laptop").model_dump()


def test_the_counts_are_the_posters() -> None:
    data, study = read("dataset"), read("study")
    assert (data["samples"], data["videos"]) == (300, 1500)
    assert 25 <= data["low_score_added"] <= 35 and sum(data["splits"].values()) == 300
    assert study["raters"] + len(study["left_out"]) == 20 and len(study["shown"]) == 3
    assert read("dpo")["preference_accuracy"]["n_pairs"] >= 100


def test_the_claims_are_the_same_wherever_they_show() -> None:
    claims = read("claims")
    table = to_markdown(claims)
    beyond = to_markdown(read("claims_beyond"), aim="aim")
    assert beyond in (ROOT / "results" / "claims.md").read_text(encoding="utf-8")
    assert beyond in (ROOT / "README.md").read_text(encoding="utf-8")
    assert table in (ROOT / "results" / "claims.md").read_text(encoding="utf-8")
    assert table in (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {claim["id"]: claim for claim in claims}
    accuracy = read("dpo")["preference_accuracy"]
    assert shown["fig5"]["ours"] == accuracy["mean"] and shown["fig5"]["low"] == accuracy["low"]
    with (RESULTS / "table1.csv").open(encoding="utf-8") as file:
        rows = {row["pick"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"random", "mlp", "icreward", "oracle"}
    difference = float(rows["icreward"]["clipsim"]) - float(rows["mlp"]["clipsim"])
    assert shown["table1_clipsim"]["ours"] == pytest.approx(difference, abs=1e-9)


def test_raters_that_are_not_people_are_called_simulated() -> None:
    if read("study")["source"] == "simulated":
        (claim,) = (claim for claim in read("claims") if claim["id"] == "fig4")
        assert claim["verdict"] == "not comparable" and "simulated" in claim["why"]


@pytest.mark.parametrize("number", range(1, 12))
def test_every_figure_has_its_three_files(number: int) -> None:
    names = {path.suffix for path in FIGURES.glob(f"fig{number}_*")}
    assert names == {".png", ".pdf", ".csv"}


def test_the_readme_has_the_answer_of_the_power_notebook() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for rate, rows in read("power")["smallest"].items():
        answer = "; ".join(f"{row['raters']} x {row['pairs']} ({row['power']:.2f})" for row in rows)
        assert f"| {float(rate):.0%} | {answer} |" in text

"""What is published agrees with itself: results, claims, figures and pages come from runs of the code as it is."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from icreward_lib.poster.claims import to_markdown
from icreward_lib.run.code import notebook_code_hash
from icreward_lib.run.profile import load_profile

RESULTS, FIGURES = ROOT / "results" / "laptop", ROOT / "figures" / "laptop"
MADE = sorted(path for path in RESULTS.glob("*.json") if path.name != "timing.json")


def read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def provenance(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    entry = content[0] if isinstance(content, list) else content
    return entry if path.name.endswith(".provenance.json") else entry["provenance"]


def pages() -> list[str]:
    """What a reader reads: README.md and docs/*.md."""
    return [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]


@cache
def code_of(notebook: str) -> str:
    return notebook_code_hash(ROOT / "notebooks" / f"{notebook}.ipynb")


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_a_result_is_of_its_notebook_as_it_is_now(path: Path) -> None:
    """A file that its notebook writes no longer has to be deleted."""
    made = provenance(path)
    shown = path.relative_to(ROOT).as_posix()
    assert made["source"] == code_of(made["notebook"]), (
        f"{shown} was made by other code of notebook {made['notebook']}: run make reproduce"
    )
    assert made["changes"] == {} and made["parameters"] == load_profile("laptop").model_dump(), (
        f"{shown} was made under another profile than laptop.yaml is now: run make reproduce"
    )


def test_every_notebook_has_published_results() -> None:
    made = {provenance(path)["notebook"] for path in MADE}
    assert made >= {f"{path.stem}" for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")} - {"00_laptop_models"}


def test_the_counts_are_the_posters() -> None:
    data, study = read("dataset"), read("study")
    assert (data["samples"], data["videos"]) == (300, 1500)
    assert 25 <= data["low_score_added"] <= 35 and sum(data["splits"].values()) == 300
    assert study["raters"] + len(study["left_out"]) == 20 and len(study["shown"]) == 3
    assert read("dpo")["preference_accuracy"]["n_pairs"] >= 100


def test_the_claims_are_the_same_wherever_they_show() -> None:
    claims = read("claims")
    file = (ROOT / "results" / "claims.md").read_text(encoding="utf-8")
    for table in (to_markdown(claims), to_markdown(read("claims_beyond"), aim="aim")):
        assert table in file, "results/claims.md is not of these claims: run make reproduce"
        assert any(table in page for page in pages()), f"no page shows this table as results/claims.md has it:\n{table}"
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


def test_a_page_has_the_answer_of_the_power_notebook() -> None:
    for rate, rows in read("power")["smallest"].items():
        answer = "; ".join(f"{row['raters']} x {row['pairs']} ({row['power']:.2f})" for row in rows)
        line = f"| {float(rate):.0%} | {answer} |"
        assert any(line in page for page in pages()), f"no page has the line {line}"

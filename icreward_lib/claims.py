"""The poster's claims beside what this run measured, one by one."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from typing import Any

from icreward_lib.files import write_text
from icreward_lib.run import Run
from icreward_lib.stats import with_interval

REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE = "reproduced", "not reproduced", "not comparable"


@dataclass(frozen=True)
class Claim:
    """One claim of the poster: `ours` with its interval, and a verdict with its reason."""

    id: str
    claim: str
    poster: str
    ours: float
    low: float
    high: float
    verdict: str
    why: str


def collect(run: Run) -> list[dict[str, Any]]:
    """Read what notebooks 03 to 06 recorded and hold it against the poster.

    A direction counts as reproduced where the whole interval lies on the claim's side.
    """
    rewards, picks, study, dpo = (
        json.loads((run.results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("reward_models", "picks", "study", "dpo")
    )
    with (run.results / "table1.csv").open(encoding="utf-8") as file:
        table = {row["pick"]: row for row in csv.DictReader(file)}
    differences = {row["metric"]: row for row in picks["icreward_minus_mlp"]}
    found = []

    mse, test = (rewards["icreward_minus_mlp"][split] for split in ("val", "test"))
    found.append(
        Claim(
            "fig2",
            "ICReward has a lower validation MSE than the MLP (difference, ICReward minus MLP)",
            "lower",
            mse["mean"],
            mse["low"],
            mse["high"],
            _side(mse["high"] < 0),
            f"test difference {test['mean']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]",
        )
    )
    for metric, name, poster, better in (
        ("clipsim", "CLIPSim", "0.81 against 0.72 (+0.09)", 1),
        ("fvd", "FVD", "89.6 against 110.3 (-20.7)", -1),
    ):
        row = differences[metric]
        low, high = row["difference_low"], row["difference_high"]
        found.append(
            Claim(
                f"table1_{metric}",
                f"ICReward's best of 5 has a {'higher' if better > 0 else 'lower'} {name} than the MLP's (difference)",
                poster,
                row["difference"],
                low,
                high,
                _side(low > 0 if better > 0 else high < 0),
                f"ours: {float(table['icreward'][metric]):.3f} against {float(table['mlp'][metric]):.3f}; "
                "the poster names neither its CLIP nor its FVD network: only the sign compares",
            )
        )
    rate = study["win_rate"]
    simulated = study["source"] == "simulated"
    found.append(
        Claim(
            "fig4",
            "Raters prefer ICReward's pick to the MLP's (win rate, ties as half)",
            "consistently, 20 raters",
            rate["mean"],
            rate["low"],
            rate["high"],
            NOT_COMPARABLE if simulated else _side(rate["low"] > 0.5),
            "raters are simulated, no people voted" if simulated else "clustered by rater and clip",
        )
    )
    accuracy = dpo["preference_accuracy"]
    found.append(
        Claim(
            "fig5",
            "After DPO the generator prefers ICReward's pick on held-out pairs",
            "83 %",
            accuracy["final"],
            accuracy["low"],
            accuracy["high"],
            _side(accuracy["low"] > 0.5 and accuracy["high"] >= 0.83),
            f"{accuracy['n_pairs']} held-out pairs; reproduced: above chance, and 83 % within reach",
        )
    )
    wins = dpo["wins"]["icreward"]
    oracle = dpo["wins"]["oracle"]
    found.append(
        Claim(
            "fig6",
            "The tuned generator's new clips win against the base's (share, judged by ICReward)",
            "running average of wins rises above one half",
            wins["mean"],
            wins["low"],
            wins["high"],
            _side(wins["low"] > 0.5),
            f"judged by the label instead: {with_interval(oracle['mean'], oracle['low'], oracle['high'])}",
        )
    )
    return [asdict(claim) for claim in found]


def _about(run: Run) -> str:
    """What the numbers are of."""
    models = run.profile.models
    if models.labels == "efficientnet-lite0":
        return (
            "The generator, the VLM, CLIP and VideoMAE are the small stand-ins of this profile, trained on a synthetic "
            "world; labels are VBench++'s formulas on EfficientNet-Lite0."
        )
    return f"Generator {models.generator}, VLM {models.vlm}, CLIP {models.clip}; labels are VBench++'s own."


def _side(holds: bool) -> str:
    return REPRODUCED if holds else NOT_REPRODUCED


def to_markdown(claims: list[dict[str, Any]]) -> str:
    """The claims as a table."""
    lines = ["| claim | poster | ours | interval | verdict | why |", "|---|---|---|---|---|---|"]
    for c in claims:
        # Three digits that count: the claims are of very different sizes.
        ours, interval = f"{c['ours']:#.3g}", f"[{c['low']:#.3g}, {c['high']:#.3g}]"
        lines.append(f"| {c['claim']} | {c['poster']} | {ours} | {interval} | **{c['verdict']}** | {c['why']} |")
    return "\n".join(lines) + "\n"


def publish(run: Run, claims: list[dict[str, Any]]) -> None:
    """Write `claims.md` beside the JSON, and for the unchanged `laptop` profile as `results/claims.md`."""
    text = (
        "# The poster's claims, and ours\n\n"
        f"Profile `{run.name}`, seed {run.profile.seed}. Intervals: {run.profile.stats.level:.0%}. "
        f"{_about(run)}\n\n" + to_markdown(claims)
    )
    run.record("claims.md", text)
    if run.name == "laptop":
        write_text(run.root / "results" / "claims.md", text)

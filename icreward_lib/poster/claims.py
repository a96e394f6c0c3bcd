"""The poster's claims beside what this run measured, one by one."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from icreward_lib.run import Run
from icreward_lib.run.files import write_text
from icreward_lib.stats import with_interval

REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE = "reproduced", "not reproduced", "not comparable"
HOLDS, DOES_NOT_HOLD = "holds", "does not hold"
_OTHERS = {"poster": "the poster's ICReward", "mlp": "the MLP", "robust": "the robust ICReward"}


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


def collect_beyond(run: Run) -> list[dict[str, Any]]:
    """Read what notebooks 07 and 08 recorded: claims of our own, `poster` being what they aim at.

    A claim holds where its whole interval lies on its side.
    """
    probes, hacking, robust, rules = (
        json.loads((run.results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("probes", "hacking", "robust", "dpo_variants")
    )
    found = []

    def add(name: str, claim: str, aim: str, cell: dict[str, float], holds: bool, why: str) -> None:
        verdict = HOLDS if holds else DOES_NOT_HOLD
        found.append(Claim(name, claim, aim, cell["mean"], cell["low"], cell["high"], verdict, why))

    frozen = probes["frozen_preference"]
    add(
        "stillness",
        "The poster's ICReward prefers the true clip to its frozen first frame (share of frozen ones preferred)",
        "below 0.5",
        frozen["icreward"],
        frozen["icreward"]["high"] < 0.5,
        f"the label that it learned from: {_shown(frozen['label'])}; CLIPSim {_shown(frozen['clipsim'])}",
    )
    for judge in ("subject_fidelity", "background_fidelity", "motion_faithfulness"):
        rows = [r for r in hacking["best_of_n"] if r["pick"] == "icreward" and r["judge"] == judge]
        last = max(rows, key=lambda row: row["n"])
        turn = next(r for r in hacking["turning_points"] if r["pick"] == "icreward" and r["judge"] == judge)
        add(
            f"best_of_n_{judge}",
            f"ICReward's best of {last['n']} has a higher {judge.replace('_', ' ')} than a random clip (gain)",
            "above 0",
            last,
            last["low"] > 0,
            "no turn up to there"
            if turn["best_n"] == last["n"]
            else f"best at n = {turn['best_n']}, change from there to the last n {_shown(turn)}",
        )
    for other in ("poster", "mlp"):
        cell = robust["heldout_difference"][other]
        add(
            f"robust_{other}",
            f"Robust ICReward tells departures of unknown kinds better than {_OTHERS[other]} (mean AUROC, difference)",
            "above 0",
            cell,
            cell["low"] > 0,
            f"{_shown(robust['robust']['heldout_auroc'])} against {_shown(robust[other]['heldout_auroc'])}",
        )
    cell = robust["robust"]["frozen_preference"]
    add(
        "robust_frozen",
        "Robust ICReward prefers a frozen clip to the true moving one (share of scenes)",
        "at most 0.05",
        cell,
        cell["high"] <= 0.05,
        f"{cell['n']} scenes; the poster's: {_shown(robust['poster']['frozen_preference'])}",
    )
    table = {(row["rule"], row["measure"]): row for row in rules["rules"]}
    for rule in ("poster", "robust"):
        cell = table[rule, "motion_faithfulness"]
        add(
            f"dpo_{rule}",
            f"Flow-DPO by {_OTHERS[rule]}'s pairs makes clips follow the true motion better (faithfulness, change)",
            "above 0",
            cell,
            cell["low"] > 0,
            f"dynamic degree {_shown(table[rule, 'dynamic_degree'])}; label {_shown(table[rule, 'label'])}",
        )
    return [asdict(claim) for claim in found]


def _shown(cell: Mapping[str, float]) -> str:
    return with_interval(cell["mean"], cell["low"], cell["high"])


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


def to_markdown(claims: list[dict[str, Any]], *, aim: str = "poster") -> str:
    """The claims as a table; `aim` heads the column of what they are held against."""
    lines = [f"| claim | {aim} | ours | interval | verdict | why |", "|---|---|---|---|---|---|"]
    for c in claims:
        # Three digits that count: the claims are of very different sizes.
        ours, interval = f"{c['ours']:#.3g}", f"[{c['low']:#.3g}, {c['high']:#.3g}]"
        lines.append(f"| {c['claim']} | {c['poster']} | {ours} | {interval} | **{c['verdict']}** | {c['why']} |")
    return "\n".join(lines) + "\n"


def publish(run: Run, claims: list[dict[str, Any]], beyond: list[dict[str, Any]]) -> None:
    """Write both tables as `claims.md` beside the JSON, and for the unchanged `laptop` profile as `results/claims.md`.

    `beyond` are the claims of `collect_beyond`. The last notebook that has claims writes all of them: of two that write
    one file, neither would ever be up to date.
    """
    text = (
        "# The poster's claims, and ours\n\n"
        f"Profile `{run.name}`, seed {run.profile.seed}. Intervals: {run.profile.stats.level:.0%}. "
        f"{_about(run)}\n\n{to_markdown(claims)}\n"
        f"## Beyond the poster\n\n{to_markdown(beyond, aim='aim')}"
    )
    run.record("claims.md", text)
    if run.name == "laptop":
        write_text(run.root / "results" / "claims.md", text)

"""The poster's claims beside what this run measured, one by one, and claims of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from icreward_lib.run import Run
from icreward_lib.run.files import write_text
from icreward_lib.stats import Interval

REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE = "reproduced", "not reproduced", "not comparable"
HOLDS, DOES_NOT_HOLD = "holds", "does not hold"
_REWARDS = {"poster": "the poster's ICReward", "mlp": "the MLP", "robust": "the robust ICReward"}


class _Claims:
    """Claims, and what notebooks recorded: values by the keys that lead to them, where a mapping chooses a row."""

    def __init__(self, run: Run, yes: str, no: str) -> None:
        self.found: list[dict[str, Any]] = []
        self._folder, self._yes, self._no = run.results, yes, no

    def add(self, name: str, claim: str, poster: str, ours: Interval, verdict: bool | str, why: str) -> None:
        if isinstance(verdict, bool):
            verdict = self._yes if verdict else self._no
        measured = {"ours": ours.mean, "low": ours.low, "high": ours.high}
        self.found.append({"id": name, "claim": claim, "poster": poster, **measured, "verdict": verdict, "why": why})

    def value(self, file: str, *keys: str | dict[str, object]) -> Any:
        path = self._folder / f"{file}.json"
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}: run the notebook that records it")
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            try:
                if isinstance(key, dict):
                    (found,) = (row for row in found if key.items() <= row.items())
                else:
                    found = found[key]
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{path} has no {key} where claims look for it: run its notebook again") from error
        return found

    def interval(self, file: str, *keys: str | dict[str, object]) -> Interval:
        cell = self.value(file, *keys)
        return Interval(cell["mean"], cell["low"], cell["high"], cell.get("n", 0))


def collect(run: Run) -> list[dict[str, Any]]:
    """The poster's claims against what notebooks 03 to 06 recorded: what was measured, a verdict and its reason.

    A direction counts as reproduced where the whole interval lies on the claim's side. Raises FileNotFoundError or
    ValueError if a notebook has not recorded what a claim needs.
    """
    results = _Claims(run, REPRODUCED, NOT_REPRODUCED)
    add = results.add

    val, test = (results.interval("reward_models", "icreward_minus_mlp", split) for split in ("val", "test"))
    claim = "ICReward has a lower validation MSE than the MLP (ICReward minus MLP)"
    add("fig2", claim, "lower", val, val.high < 0, f"on test images {test:+.4f}")

    within, overall = (results.interval("reward_models", "icreward", f"test_spearman{end}") for end in ("_within", ""))
    claim = "ICReward puts the videos of one image in the order of their labels (rank correlation within an image)"
    why = f"over all test videos {overall:.2f}, which mostly says which images are easy"
    add("order_within", claim, "picks the best of 5", within, within.low > 0, why)

    clipsim, fvd = ("CLIPSim", "higher", "0.81 against 0.72 (+0.09)"), ("FVD", "lower", "89.6 against 110.3 (-20.7)")
    for metric, (name, better, poster) in {"clipsim": clipsim, "fvd": fvd}.items():
        difference = results.interval("picks", "icreward_minus_mlp", {"metric": metric})
        first, second = (results.value("picks", "table1", {"pick": pick}, metric) for pick in ("icreward", "mlp"))
        claim = f"ICReward's best of 5 has a {better} {name} than the MLP's (difference)"
        why = f"ours: {first:.3f} against {second:.3f}; the poster names no network for it, so only the sign compares"
        if metric == "fvd":
            why += f"; real clips of other scenes: {results.interval('picks', 'fvd_real_vs_real'):.0f}"
        side = difference.low > 0 if better == "higher" else difference.high < 0
        add(f"table1_{metric}", claim, poster, difference, side, why)

    rate, people = results.interval("study", "win_rate"), results.value("study", "source") == "people"
    claim = "Raters prefer ICReward's pick to the MLP's (win rate, ties as half)"
    why = "clustered by rater and clip" if people else "raters are simulated, no people voted"
    add("fig4", claim, "consistently, 20 raters", rate, rate.low > 0.5 if people else NOT_COMPARABLE, why)

    accuracy, pairs = results.interval("dpo", "preference_accuracy"), results.value("dpo", "preference_accuracy")
    claim = "After DPO the generator prefers ICReward's pick on held-out pairs"
    why = f"{pairs['n_pairs']} held-out pairs; reproduced: above chance, and 83 % within reach"
    add("fig5", claim, "83 %", accuracy, accuracy.low > 0.5 and accuracy.high >= 0.83, why)

    wins = {judge: results.interval("dpo", "wins", judge) for judge in ("icreward", "oracle", "mlp")}
    claim = "The tuned generator's new clips win against the base's (share, judged by ICReward)"
    why = f"judged by the label instead: {wins['oracle']}"
    add("fig6", claim, "wins rise above one half", wins["icreward"], wins["icreward"].low > 0.5, why)

    row = results.value("dpo", "changes", {"metric": "clipsim"})
    change = results.interval("dpo", "changes", {"metric": "clipsim"})
    claim = "The tuned generator's new clips stay nearer to the image than the base's (CLIPSim, tuned minus base)"
    why = f"{row['tuned']:.3f} against {row['base']:.3f}"
    why += ": tuned clips leave the image" if change.high < 0 else ""
    add("dpo_clipsim", claim, "better consistency, no number", change, change.low > 0, why)

    claim = "The MLP, which the pairs are against, prefers the tuned generator's new clips too (share)"
    add("dpo_mlp", claim, "not measured", wins["mlp"], wins["mlp"].low > 0.5, f"{wins['mlp'].n} images, ties as half")
    return results.found


def collect_beyond(run: Run) -> list[dict[str, Any]]:
    """As `collect`, of what notebooks 07 to 10 recorded: claims of our own, `poster` being what they aim at."""
    results = _Claims(run, HOLDS, DOES_NOT_HOLD)
    add = results.add

    frozen = {name: results.interval("probes", "frozen_preference", name) for name in ("icreward", "label", "clipsim")}
    claim = "The poster's ICReward prefers the true clip to its frozen first frame (share of frozen ones preferred)"
    why = f"the label that it learned from: {frozen['label']}; CLIPSim {frozen['clipsim']}"
    add("stillness", claim, "below 0.5", frozen["icreward"], frozen["icreward"].high < 0.5, why)

    last = max(row["n"] for row in results.value("hacking", "best_of_n"))
    for judge in ("subject_fidelity", "background_fidelity", "motion_faithfulness"):
        picked: dict[str, object] = {"pick": "icreward", "judge": judge}
        gain = results.interval("hacking", "best_of_n", {**picked, "n": last})
        turn = results.interval("hacking", "turning_points", picked)
        best = results.value("hacking", "turning_points", picked, "best_n")
        claim = f"ICReward's best of {last} has a higher {judge.replace('_', ' ')} than a random clip (gain)"
        why = f"best at n = {best}, change from there to the last n {turn}" if best < last else "no turn up to there"
        add(f"best_of_n_{judge}", claim, "above 0", gain, gain.low > 0, why)

    unknown = {name: results.interval("robust", name, "heldout_auroc") for name in _REWARDS}
    for other in ("poster", "mlp"):
        ours, than = results.interval("robust", "heldout_difference", other), _REWARDS[other]
        claim = f"Robust ICReward tells departures of unknown kinds better than {than} (mean AUROC, difference)"
        add(f"robust_{other}", claim, "above 0", ours, ours.low > 0, f"{unknown['robust']} against {unknown[other]}")

    still, before = (results.interval("robust", name, "frozen_preference") for name in ("robust", "poster"))
    claim = "Robust ICReward prefers a frozen clip to the true moving one (share of scenes)"
    add("robust_frozen", claim, "at most 0.05", still, still.high <= 0.05, f"{still.n} scenes; the poster's: {before}")

    for rule in ("poster", "robust"):
        ours, motion, label = (
            results.interval("dpo_variants", "rules", {"rule": rule, "measure": measure})
            for measure in ("motion_faithfulness", "dynamic_degree", "label")
        )
        claim = f"Flow-DPO by {_REWARDS[rule]}'s pairs makes clips follow the true motion better (faithfulness, change)"
        add(f"dpo_{rule}", claim, "above 0", ours, ours.low > 0, f"dynamic degree {motion}; label {label}")
    return results.found


def to_markdown(claims: Sequence[dict[str, Any]], *, aim: str = "poster") -> str:
    """The claims as a table; `aim` heads the column of what they are held against."""
    lines = [f"| claim | {aim} | ours | interval | verdict | why |", "|---|---|---|---|---|---|"]
    for c in claims:
        # Three digits that count: the claims are of very different sizes.
        ours, interval = f"{c['ours']:#.3g}", f"[{c['low']:#.3g}, {c['high']:#.3g}]"
        lines.append(f"| {c['claim']} | {c['poster']} | {ours} | {interval} | **{c['verdict']}** | {c['why']} |")
    return "\n".join(lines) + "\n"


def publish(run: Run, claims: list[dict[str, Any]], beyond: list[dict[str, Any]]) -> None:
    """Write both tables as `claims.md` beside the JSON, and for the unchanged `laptop` profile as `results/claims.md`.

    The last notebook that has claims writes all of them: of two that write one file, neither would be up to date.
    """
    models = run.profile.models
    about = f"Generator {models.generator}, VLM {models.vlm}, CLIP {models.clip}; labels are VBench++'s own."
    if models.labels == "efficientnet-lite0":
        about = (
            "The generator, the VLM, CLIP and VideoMAE are the small stand-ins of this profile, trained on a synthetic "
            "world; labels are VBench++'s formulas on EfficientNet-Lite0."
        )
    text = (
        "# The poster's claims, and ours\n\n"
        f"Profile `{run.name}`, seed {run.profile.seed}. Intervals: {run.profile.stats.level:.0%}. "
        f"{about}\n\n{to_markdown(claims)}\n"
        f"## Beyond the poster\n\n{to_markdown(beyond, aim='aim')}"
    )
    run.record("claims.md", text)
    if run.name == "laptop":
        write_text(run.root / "results" / "claims.md", text)

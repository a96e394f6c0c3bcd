"""Fine-tunings of the generator on pairs that different rules prefer, and what becomes of its clips."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from icreward_lib.dpo import Pairs, at_random, best_over_worst, build_pairs, motion_matched
from icreward_lib.metrics.fvd import bootstrap_fvd
from icreward_lib.poster import open_sora_dpo
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import Measured
from icreward_lib.poster.open_sora_dpo import HELD_OUT, Preferences, Tuned
from icreward_lib.poster.samples import Sample
from icreward_lib.run import Run
from icreward_lib.stats import bootstrap_mean
from icreward_lib.world.truth import FIDELITIES

RULES = {
    "poster": "ICReward's pick over the MLP's",
    "best_over_worst": "ICReward's best over its worst",
    "random": "one of two, by a coin",
    "supervised": "ICReward's picks, supervised",
    "motion_matched": "ICReward, pairs that move alike",
    "robust": "robust ICReward's best over its worst",
}
BASE = "base"
JUDGES = (*FIDELITIES, "label", "dynamic_degree")


def pairs_by(rule: str, scores: Mapping[str, np.ndarray], motion: np.ndarray, *, subset: int, seed: int) -> Pairs:
    """A rule's pairs by scores of mlp, icreward and robust, and dynamic degrees, (S, K) each; `seed` is the coin's."""
    if rule in ("poster", "supervised"):
        return build_pairs(scores["icreward"], scores["mlp"], motion=motion, subset=subset)
    if rule == "random":
        return at_random(scores["icreward"], seed=seed)
    if rule == "motion_matched":
        return motion_matched(scores["icreward"], motion)
    return best_over_worst(scores["robust" if rule == "robust" else "icreward"])


def tune_by(run: Run, curated: Curated, rule: str, matrices: Mapping[str, Mapping[str, np.ndarray]]) -> list[Tuned]:
    """Flow-DPO, but shorter, on a rule's pairs, once a seed; `matrices`: reward -> split -> "samples videos"."""
    settings = run.profile.rules
    scores = {name: values.__getitem__ for name, values in matrices.items()}

    def preferred(splits: Sequence[str]) -> Preferences:
        made = partial(pairs_by, rule, subset=run.profile.dpo.subset, seed=run.seed("coin", *splits))
        return open_sora_dpo.prefer(curated, splits, scores, made)

    training = preferred(["train"])
    held_out = open_sora_dpo.at_most(preferred(HELD_OUT), settings.held_out_pairs, seed=run.seed("held out"))
    shorter: dict[str, Any] = {"steps": settings.steps, "warmup": settings.steps // 5, "eval_every": settings.steps}
    shorter["objective"] = "supervised" if rule == "supervised" else "preference"
    shorter["eval_timesteps"] = settings.eval_timesteps
    configs = [replace(open_sora_dpo.config_of(run, seed), **shorter) for seed in range(settings.seeds)]
    return [open_sora_dpo.tune(run, curated, training, held_out, config) for config in configs]


def new_images(run: Run, curated: Curated) -> list[Sample]:
    """Test images, evenly spread, from which every generator makes a new clip."""
    test = curated.of("test")
    return [test[i] for i in np.linspace(0, len(test) - 1, run.profile.rules.new_samples).round().astype(int)]


def measure_all(
    run: Run, curated: Curated, samples: Sequence[Sample], tuned: Mapping[str, Sequence[Tuned]]
) -> dict[str, list[Measured]]:
    """Measure a new clip of every sample from the base generator (`BASE`) and from each fine-tuned one."""
    generators: dict[str, Sequence[Tuned | None]] = {BASE: [None], **tuned}

    def measured(each: Tuned | None) -> Measured:
        return open_sora_dpo.measure_new(run, curated, open_sora_dpo.generate_new(run, samples, each))

    return {rule: [measured(each) for each in several] for rule, several in generators.items()}


def rule_table(
    run: Run,
    tuned: Mapping[str, Sequence[Tuned]],
    measured: Mapping[str, Sequence[Measured]],
    scores: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    real: np.ndarray,
) -> pd.DataFrame:
    """What each rule came to: columns rule, measure, mean, low, high, n; a rule's trainings count together, by image.

    `preference_accuracy` is of held-out pairs. `winner_error` and `loser_error` are how much the velocity errors rose,
    from the least to the most of the trainings. All else is of the new clips of `measure_all`, less the base's: the
    judges, the rewards of `scores` (N,), one for each generator, and `fvd` to features `real` (M, D) of real clips.
    """
    seed, level, draws = run.seed("rules"), run.profile.stats.level, run.profile.stats.bootstrap_draws
    (base,), (base_scores,) = measured[BASE], scores[BASE]
    before = base.table.assign(**base_scores)
    rows = []

    def add(rule: str, measure: str, values: pd.Series) -> None:
        interval = bootstrap_mean(values, clusters=values.index, seed=seed, draws=draws, level=level)
        rows.append({"rule": rule, "measure": measure, **interval.as_dict()})

    for rule, trainings in tuned.items():
        outcomes = pd.concat([pd.DataFrame(each.history.outcomes) for each in trainings])
        last = outcomes[outcomes["step"] == outcomes["step"].max()]
        add(rule, "preference_accuracy", last.set_index("sample")["win"])
        after = pd.concat([each.table.assign(**own) for each, own in zip(measured[rule], scores[rule], strict=True)])
        judges = [*JUDGES, *base_scores]
        gain = after.set_index("sample")[judges] - before.set_index("sample").loc[after["sample"], judges]
        for judge in judges:
            add(rule, judge, gain[judge])
        bins = pd.concat([pd.DataFrame(each.history.bins).assign(training=n) for n, each in enumerate(trainings)])
        rises = bins[bins["step"] == bins["step"].max()].groupby("training")[["d_winner", "d_loser"]].mean()
        for side in ("winner", "loser"):
            rise = rises[f"d_{side}"]
            spread = {"mean": rise.mean(), "low": rise.min(), "high": rise.max(), "n": len(rise)}
            rows.append({"rule": rule, "measure": f"{side}_error", **spread})
        features = np.concatenate([each.features for each in measured[rule]])
        minus, images, few = np.tile(base.features, (len(trainings), 1)), after["sample"].to_numpy(), min(draws, 200)
        fvd = bootstrap_fvd(real, features, images=images, minus=minus, seed=seed, draws=few, level=level)
        rows.append({"rule": rule, "measure": "fvd", **asdict(fvd)})
    return pd.DataFrame(rows)

"""A better ICReward, step by step: what each step adds, and what it is worth on departures that none has learned.

The steps (`RECIPES`) are: the poster's ICReward; labels that see slow drift; departures from true clips as examples; a
motion dimension, so that stillness is no virtue. The robust reward is the last one as a cautious ensemble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch

from icreward_lib import networks
from icreward_lib.curation import Curated
from icreward_lib.generation import item_of
from icreward_lib.judging import Trained, dataset, icreward_training, train, train_icreward, vision_tokens
from icreward_lib.launch import mine
from icreward_lib.metrics.vbench import DIMENSIONS, ic_label
from icreward_lib.parallel import side_by_side
from icreward_lib.probing import CODE as PROBE_CODE
from icreward_lib.probing import TRUE, clips_of, scene_samples
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.config import ICRewardConfig
from icreward_lib.rewards.ensemble import Ensemble, cautious
from icreward_lib.rewards.icreward import ICReward
from icreward_lib.run import Run
from icreward_lib.samples import SceneSample
from icreward_lib.stats import bootstrap_mean
from icreward_lib.world.probes import PROBES

#: The kinds of departure that a reward may learn from. All others are for testing what it makes of kinds unknown to it.
LEARNED = ("subject_swapped", "subject_colour", "background_replaced", "style_drift", "hard_cut", "freeze")
HELD_OUT = tuple(kind for kind in PROBES if kind not in LEARNED)
MOTION = (*DIMENSIONS, "motion")


@dataclass(frozen=True)
class Recipe:
    """One way to train ICReward; each adds to the one before it."""

    title: str
    conformity: bool  # labels of mean and least conformity, instead of VBench++'s score
    departures: bool  # true clips and their departures, of the kinds `LEARNED`, beside the generated ones
    motion: bool  # a third dimension


RECIPES = {
    "poster": Recipe("the poster's ICReward", False, False, False),
    "conformity": Recipe("+ mean and least conformity", True, False, False),
    "departures": Recipe("+ departures to learn from", True, True, False),
    "motion": Recipe("+ a motion dimension", True, True, True),
}
ROBUST = "motion"  # the recipe whose trainings are the robust reward's members
CODE = ("robust", "rewards", "judging", *PROBE_CODE)


def conformity_labels(curated: Curated, rows: pd.DataFrame) -> pd.DataFrame:
    """Labels that see slow drift and single bad frames: half the mean, half the least conformity, by dimension.

    On the label's own scale: 0 is another image's video and 1 a frozen copy.
    """
    ends = ("_mean", "_min")
    alone = {d: {other: float(other == d) for other in DIMENSIONS} for d in DIMENSIONS}
    return pd.DataFrame(
        {
            d: np.mean(
                [
                    ic_label(
                        {other: rows[other + end].to_numpy() for other in DIMENSIONS},
                        {other: curated.anchors[other + end] for other in DIMENSIONS},
                        alone[d],
                    )
                    for end in ends
                ],
                axis=0,
            )
            for d in DIMENSIONS
        }
    )


def departure_labels(sample: SceneSample, kind: str, severity: float) -> dict[str, float]:
    """What a departure's dimensions deserve: 1 less its severity where its kind breaks them, 1 elsewhere.

    nan: nobody could say, as of the motion of a scene in which nothing moves. A scene without a subject is all
    background.
    """
    breaks = () if kind == TRUE else PROBES[kind].breaks
    labels = {d: 1.0 - severity * (d in breaks) for d in MOTION}
    if sample.scene.subject is None:
        labels["subject"] = labels["background"]
    if "time" in breaks or not PROBES["freeze"].fits(sample.scene):
        labels["motion"] = np.nan
    return labels


def departed_clips(run: Run, curated: Curated, split: str) -> tuple[ClipDataset, pd.DataFrame]:
    """True clips of a split's scenes and departures from each, of random kinds of `LEARNED` and random severities.

    Returns:
        The clips as ICReward reads them, labelled in the dimensions `MOTION`; and columns sample, kind, severity.
    """
    samples = scene_samples(run, curated, split)
    with run.stage(
        "departed_clips",
        code=CODE,
        samples=[sample.account() for sample in samples],
        generation=run.profile.generation,
        icreward=asdict(networks.icreward_config(run)),
        models=networks.icreward_files(run),
        departures=run.profile.robust.departures,
        seed=run.profile.seed,
    ) as stage:
        if not stage.done:
            reward = networks.new_icreward(run, seed=0)

            def read(sample: SceneSample) -> dict[str, np.ndarray]:
                rng = np.random.default_rng(run.seed("departures", sample.id))
                fitting = [kind for kind in LEARNED if PROBES[kind].fits(sample.scene)]
                kinds = rng.choice(fitting, run.profile.robust.departures)
                severities = rng.uniform(0.2, 1, len(kinds))
                chosen = list(zip(map(str, kinds), map(float, severities), strict=True))
                clips = clips_of(run, sample, [(TRUE, 0.0), *chosen])
                labels = [departure_labels(sample, *key) for key in clips]
                videos = list(clips.values())
                return {
                    "kind": np.array([kind for kind, _ in clips]),
                    "severity": np.array([severity for _, severity in clips]),
                    "labels": np.array([[each[d] for d in MOTION] for each in labels], np.float32),
                    "image_tokens": reward.encode_images([videos[0].frames[0]])[0].numpy(),
                    "video_tokens": reward.encode_videos(videos).numpy(),
                }

            missing = [sample for sample in mine(samples) if not stage.has(f"{item_of(sample.id)}.npz")]
            for sample, values in side_by_side(read, missing):
                stage.save_npz(f"{item_of(sample.id)}.npz", **values)
    found = [stage.load_npz(f"{item_of(sample.id)}.npz") for sample in samples]
    place = np.repeat(np.arange(len(samples)), [len(values["kind"]) for values in found])
    labels = torch.from_numpy(np.concatenate([values["labels"] for values in found]))
    clips = ClipDataset(
        torch.from_numpy(np.concatenate([values["video_tokens"] for values in found])),
        torch.from_numpy(np.stack([values["image_tokens"] for values in found])),
        torch.from_numpy(place),
        torch.full((len(labels),), torch.nan),
        labels,
    )
    about = pd.DataFrame({key: np.concatenate([values[key] for values in found]) for key in ("kind", "severity")})
    return clips, about.assign(sample=np.array([sample.id for sample in samples])[place])


def clips_for(run: Run, curated: Curated, recipe: Recipe, split: str) -> ClipDataset:
    """What a recipe learns from, or is validated on."""
    data = dataset(curated, vision_tokens(run, curated), split)
    shape = reward_config(run, recipe)
    weights = torch.tensor(shape.weights)
    if recipe.conformity:
        rows = curated.rows[curated.rows["split"] == split].reset_index(drop=True)
        labels = torch.from_numpy(conformity_labels(curated, rows).to_numpy(np.float32))
        data = replace(data, dimension_labels=labels, labels=labels @ weights[:2] / weights[:2].sum())
    if recipe.motion:  # nobody knows how far a generated clip moves as it should
        unknown = torch.full((len(data), 1), torch.nan)
        both = torch.cat([data.dimension_labels, unknown], dim=1)
        data = replace(data, dimension_labels=both, labels=unknown[:, 0])
    if recipe.departures:
        departed, _ = departed_clips(run, curated, split)
        labels = departed.dimension_labels[:, : len(shape.dimensions)]
        data = data.joined(replace(departed, dimension_labels=labels, labels=labels @ weights))
    return data


def reward_config(run: Run, recipe: Recipe) -> ICRewardConfig:
    """ICReward's settings under a recipe; with motion all dimensions count alike."""
    config = networks.icreward_config(run)
    if not recipe.motion:
        return config
    return replace(config, dimensions=MOTION, weights=(1 / 3, 1 / 3, 1 / 3))


def train_recipe(run: Run, curated: Curated, name: str) -> Trained:
    """Train ICReward by a recipe of `RECIPES`; the poster's is that of notebook 03."""
    recipe, settings = RECIPES[name], run.profile.robust
    if name == "poster":
        return train_icreward(run, curated)
    config = reward_config(run, recipe)
    return train(
        run,
        curated,
        f"icreward_{name}",
        vision_tokens(run, curated),
        replace(icreward_training(run), epochs=settings.epochs),
        config,
        settings.seeds,
        lambda seed: networks.new_icreward(run, seed, config),
        {split: clips_for(run, curated, recipe, split) for split in ("train", "val")},
    )


def robust_matrix(run: Run, trained: Trained, split: str) -> np.ndarray:
    """What the robust reward says of the generated videos of a split, "samples videos"."""
    members = np.stack([trained.matrix(split, seed) for seed in range(len(trained.folders))])
    return cautious(members, run.profile.robust.caution)


def robust_reward(run: Run, trained: Trained) -> Ensemble:
    """The robust reward itself, of the trainings of `ROBUST`."""
    members = [ICReward.from_pretrained(folder, device=run.device) for folder in trained.folders]
    return Ensemble(members, caution=run.profile.robust.caution)


def weight_sweep(
    dimensions: Mapping[str, np.ndarray],
    judges: Mapping[str, np.ndarray],
    weights: Sequence[float],
    *,
    seed: int,
    draws: int,
    level: float,
) -> pd.DataFrame:
    """What the best clips keep as a reward's weight moves from the background to the subject.

    Args:
        dimensions: subject, background and maybe motion, which keeps its third: scores (S, N) of N clips of S images.
        judges: (S, N) each.
        weights: of the subject against the background, in [0, 1].
        seed: of the bootstrap over images; draws: of it; level: of its intervals.

    Returns:
        Columns weight and, for each judge, `<name>`, `<name>_low`, `<name>_high`: its gain over a random clip.
    """
    rows = []
    for weight in weights:
        score = weight * dimensions["subject"] + (1 - weight) * dimensions["background"]
        if "motion" in dimensions:
            score = 2 / 3 * score + 1 / 3 * dimensions["motion"]
        best = score.argmax(1)
        row = {"weight": weight}
        for name, said in judges.items():
            picked = said[np.arange(len(said)), best] - said.mean(1)
            gain = bootstrap_mean(picked, seed=seed, draws=draws, level=level)
            row |= {name: gain.mean, f"{name}_low": gain.low, f"{name}_high": gain.high}
        rows.append(row)
    return pd.DataFrame(rows)

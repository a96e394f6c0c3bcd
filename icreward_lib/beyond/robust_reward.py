"""A better ICReward, step by step, each a new head on the body of the poster's.

The same labels, for comparison; labels that see slow drift; departures from true clips as examples; and a gate for
what does not move, so that stillness is no virtue. The robust reward is the last one as a cautious ensemble.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from icreward_lib.beyond.probes import TRUE, clips_of
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.poster import networks
from icreward_lib.poster.data_curation import Curated, on_label_scale
from icreward_lib.poster.measure import Measured, reward_scores
from icreward_lib.poster.reward_models import Trained, dataset, finished, save_trained, vision_tokens
from icreward_lib.poster.samples import SceneSample, scene_sample
from icreward_lib.poster.videos import load_each, save_each
from icreward_lib.rewards.cached_states import HeadOnCachedStates, read, with_new_head
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.ensemble import ROBUST, cautious
from icreward_lib.rewards.head import movement
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.training import History, TrainConfig, predict, train_reward
from icreward_lib.run import Run
from icreward_lib.run.processes import side_by_side
from icreward_lib.run.stages import Stage
from icreward_lib.video import fit_clip
from icreward_lib.world.departures import PROBES, moving_scenes

#: The kinds of departure that a reward may learn from. All others are for testing what it makes of kinds unknown to it.
LEARNED = ("subject_swapped", "subject_colour", "background_replaced", "style_drift", "hard_cut", "freeze")
HELD_OUT = tuple(kind for kind in PROBES if kind not in LEARNED)


@dataclass(frozen=True)
class Recipe:
    """One way to train a new head on the body of the poster's ICReward."""

    title: str
    conformity: bool  # labels of mean and least conformity, instead of VBench++'s score
    departures: bool  # true clips and their departures, of the kinds `LEARNED`, beside the generated ones


POSTER = "poster"  # the reward of notebook 03, whose body all recipes share
RECIPES = {
    "head": Recipe("a new head on its body", conformity=False, departures=False),
    "conformity": Recipe("+ mean and least conformity", conformity=True, departures=False),
    "departures": Recipe("+ departures to learn from, without those labels", conformity=False, departures=True),
}
#: What tables call the rewards that `every_score` scores by, and the robust one.
TITLES = {
    "mlp": "MLP",
    POSTER: "the poster's ICReward",
    **{name: recipe.title for name, recipe in RECIPES.items()},
    ROBUST: "+ a gate for what does not move",
    "robust": "robust: the last, cautious",
}
STILL_QUANTILE = 0.01  # the quantile of true clips' movement below which a frame group counts as not moving


def conformity_labels(curated: Curated, rows: pd.DataFrame) -> pd.DataFrame:
    """Half the mean, half the least conformity, on the label's scale: they see slow drift and single bad frames."""
    found = {
        d: [on_label_scale(rows[d + end], curated.anchors[d + end]) for end in ("_mean", "_min")] for d in DIMENSIONS
    }
    return pd.DataFrame({d: np.mean(both, axis=0) for d, both in found.items()})


def departure_labels(sample: SceneSample, kind: str, severity: float) -> dict[str, float]:
    """1 less the severity for dimensions that the kind breaks, else 1; a scene without a subject is all background."""
    breaks = () if kind == TRUE else PROBES[kind].breaks
    labels = {d: 1.0 - severity * (d in breaks) for d in DIMENSIONS}
    if sample.scene.subject is None:
        labels["subject"] = labels["background"]
    return labels


def departed_clips(run: Run, curated: Curated, split: str) -> tuple[ClipDataset, pd.DataFrame]:
    """True clips of moving scenes beyond the curated set's, none with held-out content, and departures from each.

    The kinds, of `LEARNED`, and severities are random. As ICReward reads them; and columns sample, kind, severity.
    """
    shape = run.profile.generation
    count = run.profile.robust.scenes if split == "train" else max(2, run.profile.robust.scenes // 8)
    scenes = moving_scenes(count, seed=run.seed("departing scenes", split))
    samples = [scene_sample(number, split, scene) for number, scene in enumerate(scenes)]
    generated = curated.videos.of(curated.of("train")[0].id)[0]
    # A generator may make videos of another size than the image's; these have to fit beside them.
    size = {"height": generated.height, "width": generated.width}
    with run.stage(
        "departed_clips",
        code=departed_clips,
        split=split,
        generation=shape,
        icreward=asdict(networks.icreward_config(run)),
        models=networks.icreward_files(run),
        settings=[run.profile.robust.scenes, run.profile.robust.departures, size],
        seed=run.profile.seed,
    ) as stage:
        if not stage.done:
            reward = networks.new_icreward(run, seed=0)

            def read(sample: SceneSample) -> dict[str, np.ndarray]:
                rng = np.random.default_rng(run.seed("departures", split, sample.id))
                fitting = [kind for kind in LEARNED if PROBES[kind].fits(sample.scene)]
                kinds = rng.choice(fitting, min(run.profile.robust.departures, len(fitting)), replace=False)
                severities = rng.uniform(0.2, 1, len(kinds))
                chosen = list(zip(map(str, kinds), map(float, severities), strict=True))
                clips = clips_of(run, sample, [(TRUE, 0.0), *chosen])
                videos = [fit_clip(clip, shape.model_copy(update=size)) for clip in clips.values()]
                return {
                    "kind": np.array([kind for kind, _ in clips]),
                    "severity": np.array([severity for _, severity in clips]),
                    "labels": np.array([list(departure_labels(sample, *key).values()) for key in clips], np.float32),
                    "image_tokens": reward.encode_images([fit_clip(clips[TRUE, 0.0], shape).frames[0]])[0].numpy(),
                    "video_tokens": reward.encode_videos(videos).numpy(),
                }

            save_each(stage, samples, read)
    found = load_each(stage, samples)
    place = np.repeat(np.arange(len(samples)), [len(values["kind"]) for values in found])
    images = torch.from_numpy(np.stack([values.pop("image_tokens") for values in found]))
    every = {key: np.concatenate([values[key] for values in found]) for key in found[0]}
    videos, labels = (torch.from_numpy(every[key]) for key in ("video_tokens", "labels"))
    overall = labels @ torch.tensor(networks.icreward_config(run).weights)
    about = pd.DataFrame({key: every[key] for key in ("kind", "severity")})
    clips = ClipDataset(videos, images, torch.from_numpy(place), overall, labels)
    return clips, about.assign(sample=np.array([sample.id for sample in samples])[place])


def recipe_data(
    run: Run, curated: Curated, recipe: Recipe, generated: ClipDataset, departed: ClipDataset, split: str
) -> ClipDataset:
    """What a recipe learns from in a split; `generated` are all curated clips, in order, `departed` the split's."""
    rows = np.flatnonzero(curated.rows["split"] == split)
    data = generated.part(torch.from_numpy(rows))
    if recipe.conformity:
        labels = torch.tensor(conformity_labels(curated, curated.rows.iloc[rows]).to_numpy(np.float32))
        weights = torch.tensor(networks.icreward_config(run).weights)
        data = replace(data, dimension_labels=labels, labels=labels @ weights)
    return data.joined(departed) if recipe.departures else data


def train_recipes(run: Run, curated: Curated, poster: Trained) -> dict[str, Trained]:
    """Train a new head by each of `RECIPES` on the body of each training of the poster's ICReward; and `ROBUST`."""
    own, usual = run.profile.robust, run.profile.icreward
    config = TrainConfig(epochs=own.epochs, batch_size=own.batch_size, lr=usual.lr, decay=usual.weight_decay)
    generated = dataset(curated, vision_tokens(run, curated))
    found = {split: departed_clips(run, curated, split) for split in ("train", "val")}
    departed = {split: clips for split, (clips, _) in found.items()}

    def train_heads(stage: Stage, folder: Path, number: int, missing: Sequence[str]) -> None:
        """Train and save heads by some recipes on the body in a folder, with scores of all generated clips."""
        bodies = {name: ICRewardModel.from_pretrained(folder, device=run.device) for name in missing}
        first = bodies[missing[0]]
        states, others = read(first, generated), {split: read(first, data) for split, data in departed.items()}
        seeds = {name: run.seed("recipe", name, number) for name in missing}
        # Before any training: they are drawn one after the other from the one global generator.
        heads = {name: HeadOnCachedStates(with_new_head(bodies[name], seed=seeds[name]), generated) for name in missing}

        def trained(name: str) -> tuple[History, np.ndarray]:
            head, seed = heads[name], seeds[name]
            data = {s: recipe_data(run, curated, RECIPES[name], states, others[s], s) for s in others}
            working = stage.folder / f"training_{name}_{number}"
            history = train_reward(head, data["train"], data["val"], config, seed=seed, checkpoint_dir=working)
            return history, predict(head, states).overall

        # The longest first, so that all cores are done at one time.
        for name, (history, scores) in side_by_side(trained, sorted(missing, key=lambda n: not RECIPES[n].departures)):
            save_trained(stage, f"{name}_{number}", bodies[name], history, scores)

    with run.stage(
        "recipes",
        code=train_recipes,
        body=poster.stage,
        data=[data.digest() for data in (generated, *departed.values())],
        anchors={name: asdict(limits) for name, limits in curated.anchors.items()},
        config=asdict(config),
        seed=run.profile.seed,
    ) as stage:
        for number, folder in enumerate(poster.folders):
            missing = [name for name in RECIPES if not stage.has(f"{name}_{number}.npz")]
            if missing:
                train_heads(stage, folder, number, missing)
    trained = {}
    for name in RECIPES:
        items = [f"{name}_{number}" for number in range(len(poster.folders))]
        trained[name] = finished(run, curated, stage, f"icreward_{name}", items)
    moving = movement_threshold(*found["train"])
    return {**trained, ROBUST: gated(run, curated, trained["departures"], generated, moving)}


def movement_threshold(departed: ClipDataset, about: pd.DataFrame) -> float:
    """How little a frame group of a true clip moves: the quantile `STILL_QUANTILE`, of clips of moving scenes."""
    true = departed.video[torch.from_numpy(np.flatnonzero(about["kind"] == TRUE))]
    return float(movement(true.flatten(2, 3))[:, 1:].quantile(STILL_QUANTILE))


def gated(run: Run, curated: Curated, trained: Trained, generated: ClipDataset, moving: float) -> Trained:
    """The trainings of a recipe with motion as a third dimension, the gate of `rewards.base.overall_score`."""
    items = [str(number) for number in range(len(trained.folders))]
    with run.stage(ROBUST, code=gated, trained=trained.stage, data=generated.digest(), moving=moving) as stage:
        for number, item in enumerate(items):
            if not stage.has(f"{item}.npz"):
                reward = ICRewardModel.from_pretrained(trained.folders[number], device=run.device)
                reward.config = replace(reward.config, moving=moving)
                save_trained(stage, item, reward, trained.histories[number], predict(reward, generated).overall)
    return finished(run, curated, stage, f"icreward_{ROBUST}", items)


def robust_scores(run: Run, trained: Trained, split: str) -> np.ndarray:
    """What the robust reward says of the generated videos of a split, "samples videos"."""
    return cautious(trained.matrices(split), run.profile.robust.caution)


def every_score(
    run: Run, measured: Measured, mlp: Trained, poster: Trained, recipes: Mapping[str, Trained]
) -> dict[str, np.ndarray]:
    """What every training of the MLP, of `POSTER` and of all recipes says of measured clips, (seeds, N, 1 + D) each.

    The overall score comes first, as of `measure.reward_scores`; for the recipes a body reads the clips once.
    """
    scores = {name: reward_scores(run, measured, trained) for name, trained in (("mlp", mlp), (POSTER, poster))}
    with run.stage("recipe_scores", code=every_score, clips=measured.stage, recipes=recipes[ROBUST].stage) as stage:
        for number, folder in enumerate(poster.folders):
            missing = [name for name in recipes if not stage.has(f"{name}_{number}.npz")]
            if missing:
                states = read(ICRewardModel.from_pretrained(folder, device=run.device), measured.tokens)
            for name in missing:
                own = ICRewardModel.from_pretrained(recipes[name].folders[number], device=run.device)
                found = predict(HeadOnCachedStates(own, measured.tokens), states)
                values = np.concatenate([found.overall[:, None], found.dimensions], axis=1)
                stage.save_npz(f"{name}_{number}.npz", scores=values)
    for name in recipes:
        trainings = [stage.load_npz(f"{name}_{number}.npz")["scores"] for number in range(len(poster.folders))]
        scores[name] = np.stack(trainings)
    return scores


def add_every_score(run: Run, measured: Measured, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The table of measured clips with the overall scores of `every_score`.

    A column `<name>_<number>` a training; the MLP's and the poster's means as `mlp` and `POSTER`, and `robust`.
    """
    columns = {f"{name}_{n}": each[:, 0] for name, several in scores.items() for n, each in enumerate(several)}
    columns |= {name: scores[name][..., 0].mean(0) for name in ("mlp", POSTER)}
    columns["robust"] = cautious(scores[ROBUST][..., 0], run.profile.robust.caution)
    return measured.table.assign(**columns)


def ensemble_scores(
    run: Run, measured: Measured, mlp: Trained, icreward: Trained, robust: Trained
) -> dict[str, np.ndarray]:
    """Overall scores (N,) of measured clips: the mean of the trainings of `mlp` and of `icreward`, and `robust`."""
    each = {"mlp": mlp, "icreward": icreward, "robust": robust}
    scores = {name: reward_scores(run, measured, trained)[..., 0] for name, trained in each.items()}
    caution = run.profile.robust.caution
    return {name: cautious(own, caution) if name == "robust" else own.mean(0) for name, own in scores.items()}

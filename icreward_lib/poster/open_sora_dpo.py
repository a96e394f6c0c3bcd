"""Fine-tune the generator on the rewards' picks, and make new videos with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from icreward_lib.dpo import DPOConfig, DPOHistory, PairData, Pairs, add_denoiser_lora, build_pairs, train
from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import Measured, SampleClips, measure_clips, reward_scores, wins
from icreward_lib.poster.networks import open_sora, open_sora_files
from icreward_lib.poster.reward_models import Trained
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import Videos, compared_with, save_videos
from icreward_lib.run import Run
from icreward_lib.run.processes import rank
from icreward_lib.run.stages import Stage
from icreward_lib.stats import bootstrap_mean, cluster_draws, paired_difference, percentile_interval
from icreward_lib.study.pairs import Shown
from icreward_lib.video import Video
from icreward_lib.world.truth import FIDELITIES

HELD_OUT = ("val", "test")
POINTS = 200  # of a running average
ADAPTERS = "adapters_{}.safetensors"  # of a step
CHANGES = ("clipsim", "clipsim_no_first", "label", *FIDELITIES, "dynamic_degree")  # of clips, by tuning
Scores = dict[str, np.ndarray]
Rule = Callable[[Scores, np.ndarray], Pairs]  # scores by reward and dynamic degrees, (S, K) each, to pairs


@dataclass(frozen=True)
class Preferences:
    """Pairs of one part of the samples, and the samples themselves."""

    pairs: Pairs
    samples: list[Sample]


def prefer(
    curated: Curated, splits: Sequence[str], scores: Mapping[str, Callable[[str], np.ndarray]], rule: Rule
) -> Preferences:
    """The pairs that a rule gives in some splits; `scores` gives each reward's of a split, "samples videos"."""
    samples = [sample for split in splits for sample in curated.of(split)]
    stacked = {name: np.concatenate([of(split) for split in splits]) for name, of in scores.items()}
    motion = np.concatenate([curated.matrix("dynamic_degree", split) for split in splits])
    return Preferences(rule(stacked, motion), samples)


def at_most(preferences: Preferences, count: int, *, seed: int) -> Preferences:
    """A random part of the pairs, so that evaluating them stays cheap; the counts stay those of all."""
    table = preferences.pairs.table
    if len(table) > count:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(table))[:count])
        table = table.iloc[chosen].reset_index(drop=True)
    return replace(preferences, pairs=replace(preferences.pairs, table=table))


def preferences(
    run: Run, curated: Curated, icreward: Trained, mlp: Trained
) -> tuple[Preferences, Preferences, Preferences]:
    """Pairs of ICReward's pick over the MLP's, from every subset of a sample's videos of the profile's size.

    Those of training images, to train on; all of validation and test images; and those of them to evaluate.
    """

    def rule(scores: Scores, motion: np.ndarray) -> Pairs:
        return build_pairs(scores["icreward"], scores["mlp"], motion=motion, subset=run.profile.dpo.subset)

    scores = {"icreward": icreward.matrix, "mlp": mlp.matrix}
    training, every = (prefer(curated, splits, scores, rule) for splits in (("train",), HELD_OUT))
    return training, every, at_most(every, run.profile.dpo.held_out_pairs, seed=run.seed("held out"))


def images_for_new_samples(run: Run, curated: Curated) -> list[Sample]:
    """Test samples, then validation samples, as many as the profile says."""
    return [*curated.of("test"), *curated.of("val")][: run.profile.dpo.new_samples]


def pair_data(run: Run, curated: Curated, generator: OpenSoraGenerator, preferences: Preferences) -> PairData:
    """Latents and texts of the pairs, of one or of many (`at_most`)."""
    used, rows = np.unique(preferences.pairs.table["sample"], return_inverse=True)
    samples = [preferences.samples[number] for number in used]
    latents = torch.from_numpy(np.stack([curated.videos.latents(sample.id) for sample in samples]))
    text, mask = generator.encode_prompts([sample.prompt for sample in samples])
    pairs = preferences.pairs.table.assign(sample=rows)
    return PairData.gather(pairs, latents, text, mask, run.profile.generation)


@dataclass(frozen=True)
class Tuned:
    """The outcome of one training."""

    stage: Stage
    history: DPOHistory
    config: DPOConfig


def config_of(run: Run, seed: int) -> DPOConfig:
    """The profile's settings of Flow-DPO, for one of its trainings."""
    settings = run.profile.dpo
    shared = {"beta", "lr", "lora_rank", "steps", "batch_size", "micro_batch", "eval_every", "eval_timesteps"}
    own = settings.model_dump(include=shared)
    return DPOConfig(**own, lora_alpha=2.0 * settings.lora_rank, seed=run.seed("dpo", seed))


def tune(run: Run, curated: Curated, training: Preferences, held_out: Preferences, config: DPOConfig) -> Tuned:
    """Fine-tune the generator with LoRA, with nothing selected on the held-out pairs; every evaluated step is kept."""
    inputs = {"model": open_sora_files(run), "videos": curated.videos.stage, "config": config}
    inputs["pairs"] = [part.pairs.table.to_dict("list") for part in (training, held_out)]
    with run.stage("dpo", code=tune, **inputs) as stage:
        if not stage.done:
            generator = open_sora(run)
            known, unknown = (pair_data(run, curated, generator, part) for part in (training, held_out))
            generator.pipeline.remove_all_hooks()  # of the offload to the CPU: training keeps the denoiser in place
            for model in generator.pipeline.components.values():
                vars(model).pop("forward", None)  # left behind by its hook and bound to it: a circle that holds memory
            policy = _policy(generator, config).to(run.device)

            def keep(row: dict[str, float]) -> None:
                if rank() == 0:
                    with stage.write(ADAPTERS.format(int(row["step"]))) as path:
                        save_file(get_peft_model_state_dict(policy), path)

            history = train(policy, generator.pipeline.scheduler, known, unknown, config, stage.folder, report=keep)
            if rank() == 0:
                stage.save_json("history.json", asdict(history))
    return Tuned(stage, DPOHistory(**stage.load_json("history.json")), config)


def _policy(generator: OpenSoraGenerator, config: DPOConfig) -> PeftModel:
    denoiser = generator.pipeline.transformer
    return add_denoiser_lora(denoiser, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)


@dataclass(frozen=True)
class NewClips:
    """One new clip of each of some samples."""

    stage: Stage
    samples: Sequence[Sample]

    def of(self, sample: Sample) -> Video:
        """The clip of a sample."""
        return Videos(self.stage).first(sample.id)


def generate_new(run: Run, samples: Sequence[Sample], tuned: Tuned | None, step: int | None = None) -> NewClips:
    """One new clip of every sample: from the base generator, or after a step (the last) of its fine-tuning.

    The seeds are the same for all generators, and new: no clip of the curated set was made from them.
    """
    settings = run.profile.generation
    after = 0 if tuned is None else tuned.config.steps if step is None else step
    inputs = {"samples": [sample.account() for sample in samples], "generation": settings, "seed": run.profile.seed}
    inputs |= {"model": open_sora_files(run), "tuned": tuned.stage if tuned and after else None, "step": after}
    with run.stage("new_samples", code=generate_new, **inputs) as stage:
        if not stage.done:
            generator = open_sora(run)
            if tuned and after:
                policy = _policy(generator, tuned.config)
                set_peft_model_state_dict(policy, load_file(tuned.stage.path(ADAPTERS.format(after))))

            def sampled(sample: Sample) -> tuple[list[Video], dict[str, np.ndarray]]:
                image, seed = sample.image(settings.height, settings.width), run.seed("new samples", sample.id)
                return generator.generate(image, sample.prompt, num_videos=1, seed=seed), {}

            save_videos(stage, samples, sampled)
    return NewClips(stage, samples)


def accuracy_curve(runs: Sequence[Tuned], *, seed: int, draws: int, level: float) -> pd.DataFrame:
    """Held-out preference accuracy at every evaluation: of each training, and of all (`seed` is "all").

    Columns seed, step, accuracy, low, high, n_pairs. The interval of a single training is over images; that of "all" is
    over what training varies, too: each draw of the bootstrap also takes a random training.
    """
    single = pd.concat([pd.DataFrame(tuned.history.curve).assign(seed=str(n)) for n, tuned in enumerate(runs)])
    outcomes = pd.concat([pd.DataFrame(tuned.history.outcomes).assign(seed=n) for n, tuned in enumerate(runs)])
    chosen = np.random.default_rng(seed).integers(len(runs), size=draws)
    rows = []
    for step, part in outcomes.groupby("step"):
        won = part.pivot(index=["pair", "sample"], columns="seed", values="win")
        codes, counts = cluster_draws(won.index.get_level_values("sample").to_numpy(), seed=seed, draws=draws)
        sums = np.stack([np.bincount(codes, won[n]) for n in won])
        drawn = (counts * sums[chosen]).sum(1) / (counts @ np.bincount(codes))
        found = percentile_interval(drawn, estimate=float(won.to_numpy().mean()), level=level, n=len(won))
        rows.append(("all", step, found.mean, found.low, found.high, found.n))
    every = pd.DataFrame(rows, columns=["seed", "step", "accuracy", "low", "high", "n_pairs"])
    return pd.concat([every, single], ignore_index=True)[every.columns]


def running_share(won: ArrayLike, images: ArrayLike, *, seed: int, draws: int, level: float) -> pd.DataFrame:
    """Running average of wins (n,) in {0, 1/2, 1} with a bootstrap interval over the images (n,) seen so far.

    Columns evaluated, running, low, high, at about `POINTS` places, from the second image on.
    """
    values, seen = np.asarray(won, float), np.asarray(images)
    second = int(np.argmax(seen != seen[0])) + 1
    rows = []
    for n in np.unique(np.linspace(second, len(values), POINTS).round().astype(int)):
        share = bootstrap_mean(values[:n], clusters=seen[:n], seed=seed, draws=draws, level=level)
        rows.append({"evaluated": n, "running": share.mean, "low": share.low, "high": share.high})
    return pd.DataFrame(rows)


def new_clips(run: Run, new: Mapping[str, NewClips]) -> Iterator[Shown]:
    """The image of each sample with the new clip of every generator, for `study.pairs.write_pairs`."""
    shape = run.profile.generation
    for sample in next(iter(new.values())).samples:
        clips = {generator: made.of(sample) for generator, made in new.items()}
        yield Shown(str(sample.id), sample.image(shape.height, shape.width), clips)


def measure_new(run: Run, curated: Curated, made: NewClips) -> Measured:
    """Measure new clips."""
    shape = run.profile.generation

    def clips(sample: Sample) -> SampleClips:
        seen = compared_with(run, sample, curated.videos)
        return SampleClips([made.of(sample)], sample.image(shape.height, shape.width), seen, {})

    return measure_clips(run, "new_clips", curated, made.samples, clips, videos=curated.videos.stage, made=made.stage)


def judge_new(run: Run, curated: Curated, new: Mapping[str, NewClips], rewards: Mapping[str, Trained]) -> pd.DataFrame:
    """A row per sample and generator: what `measure_new` and each reward's first training say of new clips."""
    tables = []
    for generator, made in new.items():
        measured = measure_new(run, curated, made)
        judged = {name: reward_scores(run, measured, trained)[0, :, 0] for name, trained in rewards.items()}
        tables.append(measured.table.assign(generator=generator, **judged))
    return pd.concat(tables, ignore_index=True)


def new_sample_wins(judged: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per judge, whether the tuned generator's clip beats the base's on each sample: 1, 0, or 1/2 for a tie."""
    wide = judged.pivot(index="sample", columns="generator")
    judges = {"icreward": "icreward", "mlp": "mlp", "oracle": "label"}
    return {name: wins(wide[column]["tuned"], wide[column]["base"]) for name, column in judges.items()}


def metric_changes(
    judged: pd.DataFrame, metrics: Sequence[str] = CHANGES, *, seed: int, draws: int, level: float
) -> pd.DataFrame:
    """What tuning changed in new clips, by metric: means of base and tuned; mean, low, high, n of tuned less base."""
    rows = []
    for metric in metrics:
        table = judged.pivot(index="sample", columns="generator", values=metric)
        change = paired_difference(table["tuned"], table["base"], seed=seed, draws=draws, level=level)
        rows.append({"metric": metric, "base": table["base"].mean(), "tuned": table["tuned"].mean(), **asdict(change)})
    return pd.DataFrame(rows)

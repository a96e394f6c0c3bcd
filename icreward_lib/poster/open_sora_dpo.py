"""Fine-tune the generator on the rewards' picks, and make new videos with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from icreward_lib.dpo import DPOConfig, DPOHistory, PairData, Pairs, add_denoiser_lora, build_pairs, train
from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import Measured, SampleClips, measure_clips, reward_scores, wins
from icreward_lib.poster.networks import open_sora, open_sora_files
from icreward_lib.poster.reward_models import Trained
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import compared_with, item_of
from icreward_lib.run import Run
from icreward_lib.run.processes import own_share, rank, side_by_side
from icreward_lib.run.stages import Stage
from icreward_lib.stats import cluster_draws, paired_difference
from icreward_lib.study.pairs import Shown
from icreward_lib.video import Video, read_video, write_video
from icreward_lib.world.truth import FIDELITIES

HELD_OUT = ("val", "test")
CHANGES = ("clipsim", "clipsim_no_first", "label", *FIDELITIES, "dynamic_degree")  # of clips, by tuning


@dataclass(frozen=True)
class Preferences:
    """Pairs of one part of the samples, and the samples themselves."""

    pairs: Pairs
    samples: list[Sample]


def prefer(run: Run, curated: Curated, icreward: Trained, mlp: Trained, splits: Sequence[str]) -> Preferences:
    """Pairs of ICReward's pick over the MLP's pick, from every subset of a sample's videos of the profile's size."""
    samples = [sample for split in splits for sample in curated.of(split)]

    def stacked(matrix: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([matrix[split] for split in splits])

    pairs = build_pairs(
        stacked({split: icreward.matrix(split) for split in splits}),
        stacked({split: mlp.matrix(split) for split in splits}),
        motion=stacked({split: curated.matrix("dynamic_degree", split) for split in splits}),
        subset=run.profile.dpo.subset,
    )
    return Preferences(pairs, samples)


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
    """Pairs of training images, to train on; all pairs of validation and test images; and those of them to evaluate."""
    training, every = (prefer(run, curated, icreward, mlp, splits) for splits in (("train",), HELD_OUT))
    return training, every, at_most(every, run.profile.dpo.held_out_pairs, seed=run.seed("held out"))


def images_for_new_samples(run: Run, curated: Curated) -> list[Sample]:
    """Test samples, then validation samples, as many as the profile says."""
    return [*curated.of("test"), *curated.of("val")][: run.profile.dpo.new_samples]


def pair_data(run: Run, curated: Curated, generator: OpenSoraGenerator, preferences: Preferences) -> PairData:
    """Latents and texts of the pairs."""
    latents = torch.from_numpy(np.stack([curated.videos.latents(sample.id) for sample in preferences.samples]))
    text, mask = generator.encode_prompts([sample.prompt for sample in preferences.samples])
    settings = run.profile.generation
    return PairData.gather(
        preferences.pairs.table,
        latents,
        latents[:, 0, :, 0],
        text,
        mask,
        num_frames=settings.num_frames,
        height=settings.height,
        width=settings.width,
        fps=settings.fps,
    )


@dataclass(frozen=True)
class Tuned:
    """The outcome of one training."""

    stage: Stage
    history: DPOHistory
    config: DPOConfig


def config_of(run: Run, seed: int) -> DPOConfig:
    """The profile's settings of Flow-DPO, for one of its trainings."""
    settings = run.profile.dpo
    return DPOConfig(
        beta=settings.beta,
        lr=settings.lr,
        lora_rank=settings.lora_rank,
        lora_alpha=2.0 * settings.lora_rank,
        steps=settings.steps,
        batch_size=settings.batch_size,
        micro_batch=settings.micro_batch,
        eval_every=settings.eval_every,
        eval_timesteps=settings.eval_timesteps,
        seed=run.seed("dpo", seed),
    )


def tune(run: Run, curated: Curated, training: Preferences, held_out: Preferences, config: DPOConfig) -> Tuned:
    """Fine-tune the generator with LoRA; nothing is selected on the held-out pairs.

    The adapters of every evaluated step are kept: `generate_new` makes clips with them.
    """
    with run.stage(
        "dpo",
        code=tune,
        model=open_sora_files(run),
        videos=curated.videos.stage,
        pairs=[p.pairs.table.to_dict("list") for p in (training, held_out)],
        config=asdict(config),
    ) as stage:
        if not stage.done:
            generator = open_sora(run)
            known, unknown = (pair_data(run, curated, generator, part) for part in (training, held_out))
            generator.pipeline.remove_all_hooks()  # of the offload to the CPU: training keeps the denoiser in place
            policy = _policy(generator, config).to(run.device)

            def keep(row: dict[str, float]) -> None:
                if rank() == 0:
                    with stage.write(_adapters(int(row["step"]))) as path:
                        save_file(get_peft_model_state_dict(policy), path)

            history = train(policy, generator.pipeline.scheduler, known, unknown, config, stage.folder, report=keep)
            if rank() == 0:
                stage.save_json("history.json", asdict(history))
    return Tuned(stage, DPOHistory(**stage.load_json("history.json")), config)


def _policy(generator: OpenSoraGenerator, config: DPOConfig) -> PeftModel:
    return add_denoiser_lora(
        generator.pipeline.transformer, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed
    )


def _adapters(step: int) -> str:
    return f"adapters_{step}.safetensors"


@dataclass(frozen=True)
class NewClips:
    """One new clip of each of some samples."""

    stage: Stage
    samples: Sequence[Sample]

    def path(self, sample: Sample) -> Path:
        """Where a sample's clip lies."""
        return self.stage.path(f"{item_of(sample.id)}.mp4")

    def of(self, sample: Sample) -> Video:
        """The clip of a sample."""
        return read_video(self.path(sample))


def generate_new(run: Run, samples: Sequence[Sample], tuned: Tuned | None, step: int | None = None) -> NewClips:
    """One new clip of every sample: from the base generator, or after a step (the last) of its fine-tuning.

    The seeds are the same for all generators, and new: no clip of the curated set was made from them.
    """
    settings = run.profile.generation
    after = 0 if tuned is None else tuned.config.steps if step is None else step
    with run.stage(
        "new_samples",
        code=generate_new,
        model=open_sora_files(run),
        tuned=tuned.stage if tuned and after else None,
        step=after,
        samples=[sample.account() for sample in samples],
        generation=settings.model_dump(),
        seed=run.profile.seed,
    ) as stage:
        made = NewClips(stage, samples)
        if not stage.done:
            generator = open_sora(run)
            if tuned and after:
                policy = _policy(generator, tuned.config)
                set_peft_model_state_dict(policy, load_file(tuned.stage.path(_adapters(after))))

            def sampled(sample: Sample) -> Video:
                image, seed = sample.image(settings.height, settings.width), run.seed("new samples", sample.id)
                return generator.generate(image, sample.prompt, num_videos=1, seed=seed)[0]

            missing = [sample for sample in own_share(samples) if not stage.has(made.path(sample).name)]
            for sample, clip in side_by_side(sampled, missing):
                with stage.write(made.path(sample).name) as path:
                    write_video(path, clip, lossless=True)
    return made


def accuracy_curve(runs: Sequence[Tuned], *, seed: int, draws: int, level: float) -> pd.DataFrame:
    """Held-out preference accuracy at every evaluation: of each training, and of all (`seed` is "all").

    The interval of "all" is over both what training and what data vary: a bootstrap over images, each draw also
    taking a random training.

    Returns:
        Columns seed, step, accuracy, low, high, n_pairs; low and high of a single training are over images alone.
    """
    single = pd.concat([pd.DataFrame(tuned.history.curve).assign(seed=str(n)) for n, tuned in enumerate(runs)])
    outcomes = pd.concat([pd.DataFrame(tuned.history.outcomes).assign(seed=n) for n, tuned in enumerate(runs)])
    rows = []
    for step, part in outcomes.groupby("step"):
        wins = part.pivot(index="pair", columns="seed", values="win").to_numpy()
        images = part[part["seed"] == 0].sort_values("pair")["sample"].to_numpy()
        codes, counts = cluster_draws(images, seed=seed, draws=draws)
        sums = np.stack([np.bincount(codes, wins[:, n]) for n in range(len(runs))])
        chosen = np.random.default_rng(seed).integers(len(runs), size=draws)
        means = (counts * sums[chosen]).sum(1) / (counts @ np.bincount(codes))
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        row = {"accuracy": float(wins.mean()), "low": float(low), "high": float(high), "n_pairs": len(wins)}
        rows.append({"seed": "all", "step": step, **row})
    return pd.concat([pd.DataFrame(rows), single], ignore_index=True)[
        ["seed", "step", "accuracy", "low", "high", "n_pairs"]
    ]


def running_share(wins: np.ndarray, *, seed: int, draws: int, level: float) -> pd.DataFrame:
    """Running average of wins (n,) in {0, 1/2, 1} with a bootstrap interval over the images seen so far.

    Returns columns evaluated, running, low, high, from the second image on.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(2, len(wins) + 1):
        means = wins[rng.integers(n, size=(draws, n))].mean(1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        rows.append({"evaluated": n, "running": float(wins[:n].mean()), "low": float(low), "high": float(high)})
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
    """What everything says of new clips, one row per sample and generator.

    Columns: sample, unseen, generator; metrics, dynamic_degree and fidelities; each reward's first training.
    """
    tables = []
    for generator, made in new.items():
        measured = measure_new(run, curated, made)
        judged = {name: reward_scores(run, measured, trained)[0, :, 0] for name, trained in rewards.items()}
        tables.append(measured.table.assign(generator=generator, **judged))
    return pd.concat(tables, ignore_index=True)


def new_sample_wins(judged: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per judge, whether the tuned generator's clip beats the base's on each sample: 1, 0, or 1/2 for a tie."""
    found = {}
    for judge in ("icreward", "mlp", "label"):
        table = judged.pivot(index="sample", columns="generator", values=judge)
        found["oracle" if judge == "label" else judge] = wins(table["tuned"], table["base"])
    return found


def metric_changes(
    judged: pd.DataFrame, metrics: Sequence[str] = CHANGES, *, seed: int, draws: int, level: float
) -> pd.DataFrame:
    """What tuning changed in new clips of the same images and seeds, by each metric.

    Returns:
        Columns metric; base, tuned (means over samples); mean, low, high, n: of tuned less base, over samples.
    """
    rows = []
    for metric in metrics:
        table = judged.pivot(index="sample", columns="generator", values=metric)
        change = paired_difference(table["tuned"], table["base"], seed=seed, draws=draws, level=level)
        rows.append({"metric": metric, "base": table["base"].mean(), "tuned": table["tuned"].mean(), **asdict(change)})
    return pd.DataFrame(rows)

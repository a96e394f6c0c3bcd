"""`icreward prepare`: the stages of the notebooks that take long, on the processes of `accelerate launch`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from icreward_lib.cli.reproduce import only_run
from icreward_lib.poster import data_curation, measure, open_sora_dpo, reward_models
from icreward_lib.run import start
from icreward_lib.run.processes import rank


def prepare(profile: str, changes: Mapping[str, object]) -> None:
    """Make every stage of notebooks 01 to 06 that is not finished; one that was interrupted goes on.

    `changes` are settings by their dotted names. Raises `ProfileError`, `NotebookError` while the profile is at work,
    `FileNotFoundError`, `DamagedFileError` or `GpuMemoryError`.
    """
    run = start("prepare", profile, **changes)
    with only_run(run.cache) if rank() == 0 else nullcontext():
        data = data_curation.curate(run)
        data_curation.autoencoded_gap(run, data_curation.some_of_test(data))
        mlp, icreward = reward_models.train_mlp(run, data), reward_models.train_icreward(run, data)
        measure.fvd_features(run, data, "test")
        measure.real_clip_features(run)
        training, _, held_out = open_sora_dpo.preferences(run, data, icreward, mlp)
        configs = [open_sora_dpo.config_of(run, seed) for seed in range(run.profile.dpo.seeds)]
        tuned = [open_sora_dpo.tune(run, data, training, held_out, config) for config in configs]
        images = open_sora_dpo.images_for_new_samples(run, data)
        for generator in (None, tuned[0]):
            open_sora_dpo.measure_new(run, data, open_sora_dpo.generate_new(run, images, generator))

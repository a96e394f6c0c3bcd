"""`icreward prepare`: all that takes long, on as many processes as `accelerate launch` starts.

What it makes are the stages that the notebooks ask for, so that `icreward reproduce` then finds them finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from icreward_lib import comparing, curation, judging, tuning
from icreward_lib.launch import rank
from icreward_lib.reproduce import only_run
from icreward_lib.run import start


def prepare(profile: str, changes: Mapping[str, object]) -> None:
    """Make every stage of notebooks 01 to 06 that is not finished; one that was interrupted goes on.

    Args:
        profile: name or path.
        changes: settings by their dotted names, as the notebooks' parameter of that name.

    Raises:
        ProfileError, NotebookError: for a profile that cannot be used, or is at work already.
        FileNotFoundError, DamagedFileError, GpuMemoryError: with what to do.
    """
    run = start("prepare", profile, **changes)
    with only_run(run.cache) if rank() == 0 else nullcontext():
        data = curation.curate(run)
        curation.autoencoded_gap(run, curation.some_of_test(data))
        mlp, icreward = judging.train_mlp(run, data), judging.train_icreward(run, data)
        comparing.fvd_features(run, data, "test")
        comparing.real_clip_features(run)
        training, _, held_out = tuning.preferences(run, data, icreward, mlp)
        configs = [tuning.config_of(run, seed) for seed in range(run.profile.dpo.seeds)]
        tuned = [tuning.tune(run, data, training, held_out, config) for config in configs]
        images = tuning.images_for_new_samples(run, data)
        for generator in (None, tuned[0]):
            comparing.measure_new(run, data, tuning.generate_new(run, images, generator))

"""What the rewards' picks show, and the pairs that raters are shown (Figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from icreward_lib.metrics.clip import clipsim
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import rows_of
from icreward_lib.poster.reward_models import clip_features
from icreward_lib.poster.samples import Sample
from icreward_lib.rewards.best_of_k import picks
from icreward_lib.run import Run
from icreward_lib.study.pairs import Shown
from icreward_lib.world.truth import FIDELITIES


def showcase(run: Run, curated: Curated) -> list[Sample]:
    """The samples that figures show one by one: the first of the test split, those with a subject before others."""
    by_subject = sorted(curated.of("test"), key=lambda sample: sample.dimension != "subject")
    return by_subject[: run.profile.study.showcase]


def showcase_clipsim(
    run: Run, curated: Curated, chosen: Mapping[str, np.ndarray], samples: Sequence[Sample]
) -> pd.DataFrame:
    """CLIPSim of the picked video of each sample: single values, whose frames are no sample to draw from.

    Args:
        chosen: picker -> video per test sample, (S,).
        samples: which of the test samples.

    Returns:
        Columns sample (title), pick, video, clipsim.
    """
    features, rows, test = clip_features(run, curated), rows_of(curated, "test"), curated.of("test")
    found = []
    for number, sample in enumerate(samples, start=1):
        position = test.index(sample)
        reference = features.references[sample.id].numpy()
        for name, columns in chosen.items():
            video = int(columns[position])
            similar = float(clipsim(reference, features.clips[rows[position, video]].numpy(), include_first=True))
            title = f"sample {number}: {sample.title}"
            found.append({"sample": title, "pick": name, "video": video, "clipsim": similar})
    return pd.DataFrame(found)


def pick_truth(curated: Curated, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The true fidelities of the pickers' videos on the test samples where their picks differ.

    Args:
        scores: picker -> "samples videos" on the test split.

    Returns:
        Columns sample, arm and the three fidelities; `attrs["identical"]` counts the samples left out.
    """
    chosen = {arm: picks(values) for arm, values in scores.items()}
    fidelities = {name: curated.matrix(name, "test") for name in FIDELITIES}
    rows = []
    identical = 0
    for position, sample in enumerate(curated.of("test")):
        if len({int(columns[position]) for columns in chosen.values()}) == 1:
            identical += 1
            continue
        rows += [
            {"sample": sample.id, "arm": arm}
            | {name: float(values[position, columns[position]]) for name, values in fidelities.items()}
            for arm, columns in chosen.items()
        ]
    table = pd.DataFrame(rows, columns=["sample", "arm", *FIDELITIES])
    table.attrs["identical"] = identical
    return table


def pick_scores(curated: Curated, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What each reward, and the label, say of the pickers' videos: a column each, by the video's id in the votes."""
    chosen = {arm: picks(values) for arm, values in scores.items()}
    judges = {**scores, "label": curated.matrix("label", "test")}
    return pd.DataFrame.from_dict(
        {
            f"{sample.id}/{arm}": {j: float(values[position, columns[position]]) for j, values in judges.items()}
            for position, sample in enumerate(curated.of("test"))
            for arm, columns in chosen.items()
        },
        orient="index",
    )


def picked_clips(run: Run, curated: Curated, chosen: Mapping[str, np.ndarray], split: str = "test") -> Iterator[Shown]:
    """The image of each sample with the video that every picker chose, for `study.pairs.build_pairs`.

    Args:
        chosen: picker -> video per sample of the split, (S,), as `sampling.picks` and `random_picks` give.
    """
    shape = run.profile.generation
    for position, sample in enumerate(curated.of(split)):
        videos = curated.videos.of(sample.id)
        picked = {name: videos[int(columns[position])] for name, columns in chosen.items()}
        yield Shown(str(sample.id), sample.image(shape.height, shape.width), picked)

"""What the rewards' picks show, and the pairs that raters are shown (Figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.samples import Sample
from icreward_lib.rewards.best_of_k import picks
from icreward_lib.run import Run
from icreward_lib.study.pairs import Shown
from icreward_lib.world.truth import FIDELITIES


def showcase(run: Run, curated: Curated, chosen: Sequence[np.ndarray]) -> dict[str, Sample]:
    """The test samples that Figures 3 and 4 show one by one, by their titles there; `chosen` as `picks` gives, (S,).

    Those for which pickers chose different videos come first, and among them those with a subject: a rule that sees no
    score and no vote.
    """
    differ = np.ptp(np.stack(chosen), axis=0) > 0
    test = curated.of("test")
    order = sorted(range(len(test)), key=lambda i: (not differ[i], test[i].dimension != "subject"))
    shown = [test[i] for i in order[: run.profile.study.showcase]]
    return {f"sample {number}: {sample.title}": sample for number, sample in enumerate(shown, start=1)}


def pick_truth(curated: Curated, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The true fidelities of the pickers' videos on the test samples where their picks differ.

    `scores` are "samples videos" of the test split by picker. Columns sample, arm and the three fidelities;
    `attrs["identical"]` counts the samples left out.
    """
    chosen = {arm: picks(values) for arm, values in scores.items()}
    differ = np.ptp(list(chosen.values()), axis=0) > 0
    ids = np.array([sample.id for sample in curated.of("test")])
    truth = {name: curated.matrix(name, "test") for name in FIDELITIES}
    seen = [{name: _of_picks(values, c) for name, values in truth.items()} for c in chosen.values()]
    tables = [pd.DataFrame({"sample": ids, "arm": arm, **s})[differ] for arm, s in zip(chosen, seen, strict=True)]
    table = pd.concat(tables).sort_values("sample", kind="stable", ignore_index=True)
    table.attrs["identical"] = int((~differ).sum())
    return table


def pick_scores(curated: Curated, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """What each reward, and the label, say of the pickers' videos: a column each, by the video's id in the votes."""
    judges = {**scores, "label": curated.matrix("label", "test")}
    tables = []
    for arm, values in scores.items():
        ids = [f"{sample.id}/{arm}" for sample in curated.of("test")]
        tables.append(pd.DataFrame({j: _of_picks(said, picks(values)) for j, said in judges.items()}, index=ids))
    return pd.concat(tables)


def _of_picks(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values (S, K) of the videos that were picked, (S,), of each sample."""
    return np.asarray(values[np.arange(len(values)), columns])


def picked_clips(run: Run, curated: Curated, chosen: Mapping[str, np.ndarray]) -> Iterator[Shown]:
    """The image of each test sample with the video that every picker chose, (S,), for `study.pairs.write_pairs`."""
    shape = run.profile.generation
    for position, sample in enumerate(curated.of("test")):
        videos = curated.videos.of(sample.id)
        picked = {name: videos[int(columns[position])] for name, columns in chosen.items()}
        yield Shown(str(sample.id), sample.image(shape.height, shape.width), picked)

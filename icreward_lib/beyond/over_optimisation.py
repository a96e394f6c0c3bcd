"""Over-optimisation: what happens to judges that had no part in a reward when clips are picked, or made, by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import comb

from icreward_lib.beyond.detection import Bootstrap
from icreward_lib.poster.data_curation import Curated
from icreward_lib.poster.measure import Measured, SampleClips, measure_clips
from icreward_lib.poster.networks import open_sora, open_sora_files
from icreward_lib.poster.samples import Sample
from icreward_lib.poster.videos import Videos, compared_with, save_videos
from icreward_lib.run import Run
from icreward_lib.run.stages import Stage
from icreward_lib.stats import Interval, bootstrap_mean
from icreward_lib.video import Video

Judgements = Mapping[str, ArrayLike]  # by name, what is said of N clips of S samples, (S, N) each


@dataclass(frozen=True)
class Pool:
    """Many videos of each of some images, the curated ones among them."""

    samples: list[Sample]
    curated: Curated
    more: Stage  # what was generated beside the curated videos, a folder a sample
    size: int  # videos of an image

    def of(self, sample: Sample) -> list[Video]:
        """All videos of a sample, the curated ones first."""
        return self.curated.videos.of(sample.id) + Videos(self.more).of(sample.id)


def many_videos(run: Run, curated: Curated) -> Pool:
    """Generate more videos of test images, evenly spread, until there are as many as the profile says."""
    settings, shape = run.profile.pool, run.profile.generation
    test = curated.of("test")
    samples = [test[i] for i in np.linspace(0, len(test) - 1, settings.images).round().astype(int)]
    first = run.profile.data.videos_per_sample
    with run.stage(
        "many_videos",
        code=many_videos,
        model=open_sora_files(run),
        samples=[sample.account() for sample in samples],
        generation=shape,
        numbers=[first, settings.videos],
        seed=run.profile.seed,
    ) as stage:
        if not stage.done:
            generator = open_sora(run)

            def sampled(sample: Sample) -> tuple[list[Video], dict[str, np.ndarray]]:
                image, seed = sample.image(shape.height, shape.width), run.seed("many videos", sample.id)
                return generator.generate(image, sample.prompt, num_videos=settings.videos - first, seed=seed), {}

            save_videos(stage, samples, sampled)
    return Pool(samples, curated, stage, settings.videos)


def measure_pool(run: Run, pool: Pool) -> Measured:
    """Measure all videos of a pool; the column `video` numbers those of a sample."""
    shape = run.profile.generation

    def clips(sample: Sample) -> SampleClips:
        videos = pool.of(sample)
        seen = compared_with(run, sample, pool.curated.videos)
        return SampleClips(videos, sample.image(shape.height, shape.width), seen, {"video": range(len(videos))})

    videos = pool.curated.videos.stage
    return measure_clips(run, "pool", pool.curated, pool.samples, clips, videos=videos, more=pool.more)


def sizes(pool: int) -> list[int]:
    """The n of a best-of-n curve: 1, 2, 4 and so on up to the size of the pool."""
    return [2**k for k in range(int(np.log2(pool)) + 1)]


def best_of_n(scores: ArrayLike, judged: ArrayLike, n: int) -> np.ndarray:
    """What a judge is expected to say of the best of n clips by some score: (S, N), (S, N) -> (S,).

    The expectation over all choices of n of a sample's N clips, without drawing any: the clip of rank i from below is
    the best of C(i - 1, n - 1) of the C(N, n) choices. Equal scores share their ranks. ValueError unless 1 <= n <= N.
    """
    scores, judged = np.asarray(scores, np.float64), np.asarray(judged, np.float64)
    size = scores.shape[1]
    if scores.shape != judged.shape or not 1 <= n <= size:
        raise ValueError(f"best of {n} needs scores and judgements of one shape and 1 <= n <= {size}")
    chance = comb(np.arange(size), n - 1) / comb(size, n)
    expected = np.empty(len(scores))
    for row, (own, said) in enumerate(zip(scores, judged, strict=True)):
        order = np.argsort(own, kind="stable")
        _, level = np.unique(own[order], return_inverse=True)
        shared = np.bincount(level, chance) / np.bincount(level)
        expected[row] = (shared[level] * said[order]).sum()
    return expected


def best_of_n_curves(scores: Judgements, judges: Judgements, **bootstrap: Unpack[Bootstrap]) -> pd.DataFrame:
    """How far each judge's value of the best of n lies above its mean over all clips, for every score that picks.

    As the judge `itself` a score judges its own picks, in units of its standard deviation within a sample. Columns
    pick, judge, n, mean, low, high, samples: the gain over n = 1.
    """
    rows = []
    for pick, values in scores.items():
        own = np.asarray(values, np.float64)
        spread = np.sqrt(own.var(1).mean()) or 1.0
        for judge, said in {"itself": own / spread, **judges}.items():
            first = best_of_n(own, said, 1)
            for n in sizes(own.shape[1]):
                gain = bootstrap_mean(best_of_n(own, said, n) - first, **bootstrap)
                rows.append({"pick": pick, "judge": judge, "n": n, **_over_samples(gain)})
    return pd.DataFrame(rows)


def turning_points(scores: Judgements, judges: Judgements, **bootstrap: Unpack[Bootstrap]) -> pd.DataFrame:
    """Where over-optimisation starts: the n at which each judge is content most, and its loss from there to the last n.

    Columns pick, judge, best_n, mean, low, high, samples: the value at the last n minus that at `best_n`. The loss
    counts where `high` is below 0; `best_n` was chosen on the same clips, so that it is somewhat overstated.
    """
    rows = []
    for pick, values in scores.items():
        for judge, said in judges.items():
            found = {n: best_of_n(values, said, n) for n in sizes(np.shape(values)[1])}
            best = max(found, key=lambda n: float(found[n].mean()))
            loss = bootstrap_mean(found[max(found)] - found[best], **bootstrap)
            rows.append({"pick": pick, "judge": judge, "best_n": best, **_over_samples(loss)})
    return pd.DataFrame(rows)


def training_curves(judged: pd.DataFrame, judges: Sequence[str], **bootstrap: Unpack[Bootstrap]) -> pd.DataFrame:
    """How far new clips of a generator in training lie above those of the same seeds before it, by each judge.

    `judged` has columns sample, step (0: before) and one a judge; the result judge, step, mean, low, high, samples.
    """
    rows = []
    for judge in judges:
        table = judged.pivot(index="sample", columns="step", values=judge)
        for step in table:
            gain = bootstrap_mean(table[step] - table[0], **bootstrap)
            rows.append({"judge": judge, "step": step, **_over_samples(gain)})
    return pd.DataFrame(rows)


def _over_samples(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high, "samples": found.n}


def matrix(measured: Measured, values: ArrayLike) -> np.ndarray:
    """Values (N,) of measured clips as "samples videos"."""
    table = measured.table[["sample", "video"]].assign(value=np.asarray(values))
    wide = table.pivot(index="sample", columns="video", values="value")
    return np.asarray(wide.loc[measured.table["sample"].drop_duplicates()], np.float64)

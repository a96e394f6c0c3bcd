"""Simulated raters: a stand-in for votes until people have voted, and marked as such in every row.

They judge by the sticker world's own truth (how well each video really keeps the subject, the background and
the motion), never by a reward, so a reward is not graded by itself. A rater weighs the three fidelities, sees
each video through noise, leans a little to one side, calls close pairs a tie, and sometimes answers at
random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from icreward_lib.study.votes import COLUMNS, CORRUPTED, REQUIRED, validate
from icreward_lib.world.truth import FIDELITIES

SOURCE = "simulated"
QUESTION = "consistency"

_SUBJECT, _BACKGROUND, _MOTION = FIDELITIES
_TAGS = {_SUBJECT: "subject", _BACKGROUND: "background", _MOTION: "motion"}
# What a rater writes: praise of the chosen {side}, and blame of the {other}.
_PRAISE = {
    _SUBJECT: (
        "The {side} video keeps the subject as it is in the image.",
        "The object holds its shape better on the {side}.",
        "On the {side} I still recognise the subject in the last frame.",
    ),
    _BACKGROUND: (
        "The background remains the original photo on the {side}.",
        "The {side} scene remains true to the picture.",
        "The surroundings are better preserved on the {side}.",
    ),
    _MOTION: (
        "The motion on the {side} looks right.",
        "The {side} video moves as described.",
        "The camera movement is smoother on the {side}.",
    ),
}
_BLAME = {
    _SUBJECT: (
        "On the {other} the subject slowly melts.",
        "The {other} one loses the outline of the object.",
        "The subject on the {other} turns into something else.",
    ),
    _BACKGROUND: (
        "The {other} background drifts away from the image.",
        "On the {other} the scene behind gets blurry.",
        "The {other} backdrop changes halfway.",
    ),
    _MOTION: (
        "The {other} video hardly moves.",
        "The motion on the {other} goes the wrong way.",
        "The {other} one jitters.",
    ),
}
_EVEN = (
    "I see no difference, they look the same.",
    "Both look about the same.",
    "Neither is better, they are very similar.",
    "Hard to say, equal for me.",
)
_BOTH_POOR = {
    _SUBJECT: "Both lose the subject.",
    _BACKGROUND: "The background is off in both videos.",
    _MOTION: "Neither video has believable motion.",
}


@dataclass(frozen=True)
class RaterModel:
    """The raters. A video's utility is its weighted fidelity, in [0, 1]; widths are in that unit."""

    raters: int = 20
    weights: tuple[float, float, float] = (0.45, 0.35, 0.2)  # mean, of subject, background, motion; sum 1
    concentration: float = 15.0  # Dirichlet concentration: higher = raters weigh alike
    noise: float = 0.06  # median over raters of the s.d. of perception noise, per video and look
    noise_spread: float = 0.4  # s.d. over raters of log noise
    side_bias: float = 0.005  # mean utility added to the left video
    side_bias_spread: float = 0.02  # s.d. of that over raters
    tie_width: float = 0.02  # perceived differences below this are called a tie
    lapse: float = 0.03  # share of screens answered left or right by coin
    attention_items: int = 4  # per rater, alternately a corrupted copy and the same video twice
    repeats: int = 3  # per rater
    feedback: float = 0.25  # share of trials with a written remark
    poor: float = 0.35  # mean fidelity of both videos below which a remark is about both

    def __post_init__(self) -> None:
        if len(self.weights) != 3 or min(self.weights) <= 0 or abs(sum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"RaterModel.weights must be positive and sum to 1, not {self.weights}.")
        for name, value in asdict(self).items():
            if name in ("raters", "concentration") and value <= 0:
                raise ValueError(f"RaterModel.{name} must be positive, not {value}.")
            if name in ("lapse", "feedback", "poor") and not 0.0 <= value <= 1.0:
                raise ValueError(f"RaterModel.{name} must be in [0, 1], not {value}.")
            if name not in ("weights", "side_bias") and value < 0:
                raise ValueError(f"RaterModel.{name} must not be negative, but is {value}.")


@dataclass(frozen=True)
class _Rater:
    name: str
    weights: np.ndarray
    noise: float
    side_bias: float


def simulate_votes(
    truth: pd.DataFrame, arms: tuple[str, str], *, seed: int, model: RaterModel | None = None
) -> pd.DataFrame:
    """Votes of simulated raters, every rater on every sample: a table of `study.votes` without times.

    truth: one row per sample and arm with the `FIDELITIES` in [0, 1] (1 = exactly as the true clip). Each pair is
    shown to half of the raters each way round. Raises ValueError if a fidelity, an arm or a sample is missing,
    doubled or out of range.
    """
    model = model or RaterModel()
    fidelity = _checked(truth, arms)
    samples = list(dict.fromkeys(sample for sample, _ in fidelity))
    rng = np.random.default_rng(seed)
    raters = _sample_raters(model, rng)
    # flipped[i, j]: rater i sees arms[1] of sample j on the left; half of the raters, give or take an odd one
    half = (np.arange(model.raters)[:, None] + np.arange(len(samples))[None]) % 2 == 1
    flipped = rng.permuted(half, axis=0)

    rows: list[dict[str, object]] = []
    for rater, flips in zip(raters, flipped, strict=True):
        screens = [("trial", j, bool(flips[j])) for j in rng.permutation(len(samples))]
        again = [("repeat", j, not flips[j]) for _, j, _ in screens[: model.repeats]]  # the other way round
        checks = [
            ("attention", int(rng.integers(len(samples))), bool(rng.integers(2))) for _ in range(model.attention_items)
        ]
        for check in checks:  # anywhere; repeats at the end, as far as can be from their trials
            screens.insert(int(rng.integers(len(screens) + 1)), check)
        shown = 0
        for order, (kind, j, flip) in enumerate(screens + again):
            sample = samples[j]
            left, right = arms[::-1] if flip else arms
            values = [fidelity[sample, left], fidelity[sample, right]]
            if kind == "attention":
                twice = shown % 2 == 1
                values, (left, right) = _attention(values[0], left, twice=twice, flip=flip)
                shown += 1
            noise = 0.0 if left == right else rater.noise  # one video twice looks alike
            choice = _choose(rater, values, noise, model, rng)
            remark = kind == "trial" and rng.random() < model.feedback
            feedback, tags = _remark(rater, values, choice, model, rng) if remark else ("", "")
            rows.append({
                "rater": rater.name, "trial": order, "pair": sample, "sample": sample, "arm_left": left,
                "arm_right": right, "choice": choice, "question": QUESTION, "is_attention": kind == "attention",
                "is_repeat": kind == "repeat", "feedback": feedback, "tags": tags, "source": SOURCE,
            })  # fmt: skip
    return validate(pd.DataFrame(rows).reindex(columns=[*REQUIRED, "source"]))[list(COLUMNS)]


def _sample_raters(model: RaterModel, rng: np.random.Generator) -> list[_Rater]:
    weights = rng.dirichlet(model.concentration * np.asarray(model.weights), size=model.raters)
    noise = model.noise * np.exp(model.noise_spread * rng.standard_normal(model.raters))
    bias = model.side_bias + model.side_bias_spread * rng.standard_normal(model.raters)
    return [_Rater(f"sim{i:02d}", weights[i], noise[i], bias[i]) for i in range(model.raters)]


def _choose(
    rater: _Rater, values: Sequence[np.ndarray], noise: float, model: RaterModel, rng: np.random.Generator
) -> str:
    if rng.random() < model.lapse:
        return str(rng.choice(["left", "right"]))
    left, right = (float(value @ rater.weights + noise * rng.standard_normal()) for value in values)
    gap = left - right + rater.side_bias
    return "tie" if abs(gap) < model.tie_width else "left" if gap > 0 else "right"


def _attention(value: np.ndarray, arm: str, *, twice: bool, flip: bool) -> tuple[list[np.ndarray], tuple[str, str]]:
    """The same video twice, or beside a corrupted copy that keeps nothing."""
    if twice:
        return [value, value], (arm, arm)
    values, arms = [value, np.zeros_like(value)], (arm, CORRUPTED)
    return (values[::-1], arms[::-1]) if flip else (values, arms)


def _remark(
    rater: _Rater, values: Sequence[np.ndarray], choice: str, model: RaterModel, rng: np.random.Generator
) -> tuple[str, str]:
    """A sentence about what differed most to this rater, or about what is poor in both, and its tag."""
    means = (values[0] + values[1]) / 2.0
    if means.min() < model.poor and rng.random() < 0.5:
        poorest = FIDELITIES[int(means.argmin())]
        return _BOTH_POOR[poorest], _TAGS[poorest]
    if choice == "tie":
        return str(rng.choice(_EVEN)), ""
    side, other = ("left", "right") if choice == "left" else ("right", "left")
    gaps = rater.weights * (values[0] - values[1]) * (1.0 if choice == "left" else -1.0)
    if gaps.max() <= 0.0:  # chose by noise: nothing true to name
        return str(rng.choice(_EVEN[:2])), ""
    most = FIDELITIES[int(gaps.argmax())]
    return str(rng.choice(_PRAISE[most] + _BLAME[most])).format(side=side, other=other), _TAGS[most]


def _checked(truth: pd.DataFrame, arms: tuple[str, str]) -> dict[tuple[str, str], np.ndarray]:
    """Fidelities by (sample, arm)."""
    if missing := [column for column in ("sample", "arm", *FIDELITIES) if column not in truth]:
        raise ValueError(f"The truth table lacks the column(s) {', '.join(missing)}.")
    truth = truth[truth["arm"].isin(arms)].astype({"sample": str})
    table = truth.set_index(["sample", "arm"])
    if table.index.has_duplicates:
        raise ValueError(f"The truth table has two rows for {table.index[table.index.duplicated()][0]}.")
    samples = table.index.get_level_values("sample").unique()
    if absent := [(sample, arm) for sample in samples for arm in arms if (sample, arm) not in table.index]:
        raise ValueError(f"The truth table has no row for sample {absent[0][0]}, arm '{absent[0][1]}'.")
    if table.empty:
        raise ValueError(f"The truth table has no rows for the arms {arms[0]} and {arms[1]}.")
    fidelity = table[list(FIDELITIES)].astype(float)
    if not fidelity.apply(lambda column: column.between(0.0, 1.0)).to_numpy().all():
        raise ValueError("Fidelities must be numbers in [0, 1]: rescale the truth table.")
    keys = [(str(sample), str(arm)) for sample, arm in table.index]
    return dict(zip(keys, fidelity.to_numpy(), strict=True))

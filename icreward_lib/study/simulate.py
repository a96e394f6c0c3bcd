"""Simulated raters: a stand-in for votes until people have voted, and marked as such in every row.

They judge by the sticker world's own truth, never by a reward. A rater weighs the three fidelities, sees each video
through noise, leans a little to one side, calls close pairs a tie, and sometimes answers at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from icreward_lib.study.votes import COLUMNS, CORRUPTED, REQUIRED, validate
from icreward_lib.world.truth import FIDELITIES

_TAGS = ("subject", "background", "motion")  # as FIDELITIES, and so below
# What a rater writes: praise of the chosen {side}, then blame of the {other}.
_REMARKS = (
    (
        "The {side} video keeps the subject as it is in the image.",
        "The object holds its shape better on the {side}.",
        "On the {side} I still recognise the subject in the last frame.",
        "On the {other} the subject slowly melts.",
        "The {other} one loses the outline of the object.",
        "The subject on the {other} turns into something else.",
    ),
    (
        "The background remains the original photo on the {side}.",
        "The {side} scene remains true to the picture.",
        "The surroundings are better preserved on the {side}.",
        "The {other} background drifts away from the image.",
        "On the {other} the scene behind gets blurry.",
        "The {other} backdrop changes halfway.",
    ),
    (
        "The motion on the {side} looks right.",
        "The {side} video moves as described.",
        "The camera movement is smoother on the {side}.",
        "The {other} video hardly moves.",
        "The motion on the {other} goes the wrong way.",
        "The {other} one jitters.",
    ),
)
_EVEN = (
    "I see no difference, they look the same.",
    "Both look about the same.",
    "Neither is better, they are very similar.",
    "Hard to say, equal for me.",
)
_BOTH_POOR = (
    "Both lose the subject.",
    "The background is off in both videos.",
    "Neither video has believable motion.",
)


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


def simulate_votes(
    truth: pd.DataFrame,
    arms: tuple[str, str],
    *,
    seed: int,
    model: RaterModel = RaterModel(),  # noqa: B008 (frozen)
) -> pd.DataFrame:
    """Votes of simulated raters, every rater on every sample: a table of `study.votes` without times.

    truth: one row per sample and arm with the `FIDELITIES` in [0, 1] (1 = exactly as the true clip). Each pair is
    shown to half of the raters each way round. Raises KeyError if a row is missing.
    """
    table = truth.astype({"sample": str}).set_index(["sample", "arm"])[list(FIDELITIES)]
    samples = table.index.get_level_values("sample").unique().tolist()
    fidelity = {sample: table.loc[[(sample, arm) for arm in arms]].to_numpy(dtype=float) for sample in samples}
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(model.concentration * np.asarray(model.weights), size=model.raters)
    noise = model.noise * np.exp(model.noise_spread * rng.standard_normal(model.raters))
    bias = model.side_bias + model.side_bias_spread * rng.standard_normal(model.raters)
    # flipped[i, j]: rater i sees arms[1] of sample j on the left; half of the raters, give or take an odd one
    half = (np.arange(model.raters)[:, None] + np.arange(len(samples))[None]) % 2 == 1
    flipped = rng.permuted(half, axis=0)

    rows: list[dict[str, object]] = []
    for number, flips in enumerate(flipped):
        rater = (weights[number], float(noise[number]), float(bias[number]))
        screens = [("trial", j, bool(flips[j])) for j in rng.permutation(len(samples))]
        again = [("repeat", j, not flips[j]) for _, j, _ in screens[: model.repeats]]  # the other way round
        checks = [
            ("attention", int(rng.integers(len(samples))), bool(rng.integers(2))) for _ in range(model.attention_items)
        ]
        for check in checks:  # anywhere; repeats at the end, as far as can be from their trials
            screens.insert(int(rng.integers(len(screens) + 1)), check)
        shown = 0
        for order, (kind, j, flip) in enumerate(screens + again):
            sides, values = arms[:: -1 if flip else 1], fidelity[samples[j]][:: -1 if flip else 1]
            if kind == "attention":  # in turn beside a corrupted copy that keeps nothing, and the same video twice
                other, values = (sides[0], values[[0, 0]]) if shown % 2 else (CORRUPTED, values * [[1], [0]])
                sides, values = (sides[0], other)[:: -1 if flip else 1], values[:: -1 if flip else 1]
                shown += 1
            left, right = sides
            choice = _choose(rater, values, model, rng, same=left == right)
            remark = kind == "trial" and rng.random() < model.feedback
            feedback, tags = _remark(rater[0], values, choice, model.poor, rng) if remark else ("", "")
            rows.append({
                "rater": f"sim{number:02d}", "trial": order, "pair": samples[j], "sample": samples[j],
                "arm_left": left, "arm_right": right, "choice": choice, "question": "consistency",
                "is_attention": kind == "attention", "is_repeat": kind == "repeat",
                "feedback": feedback, "tags": tags, "source": "simulated",
            })  # fmt: skip
    return validate(pd.DataFrame(rows).reindex(columns=[*REQUIRED, "source"]))[list(COLUMNS)]


_Rater = tuple[np.ndarray, float, float]  # weights, noise and bias to the left


def _choose(rater: _Rater, values: np.ndarray, model: RaterModel, rng: np.random.Generator, *, same: bool) -> str:
    """What a rater says of the fidelities (2, 3) of the left and the right; one video twice looks the same."""
    if rng.random() < model.lapse:
        return str(rng.choice(["left", "right"]))
    weights, noise, bias = rater
    left, right = (float(value @ weights + (not same) * noise * rng.standard_normal()) for value in values)
    gap = left - right + bias
    return "tie" if abs(gap) < model.tie_width else "left" if gap > 0 else "right"


def _remark(
    weights: np.ndarray, values: np.ndarray, choice: str, poor: float, rng: np.random.Generator
) -> tuple[str, str]:
    """A sentence about what differed most to a rater of these weights, or about what is poor in both, and its tag."""
    means = values.mean(axis=0)
    if means.min() < poor and rng.random() < 0.5:
        poorest = int(means.argmin())
        return _BOTH_POOR[poorest], _TAGS[poorest]
    if choice == "tie":
        return str(rng.choice(_EVEN)), ""
    side, other = ("left", "right") if choice == "left" else ("right", "left")
    gaps = weights * (values[0] - values[1]) * (1.0 if choice == "left" else -1.0)
    if gaps.max() <= 0.0:  # chose by noise: nothing true to name
        return str(rng.choice(_EVEN[:2])), ""
    most = int(gaps.argmax())
    return str(rng.choice(_REMARKS[most])).format(side=side, other=other), _TAGS[most]

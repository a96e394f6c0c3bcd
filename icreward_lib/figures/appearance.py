"""What all figures share: colours, names, fonts, lines and bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

# Colour-blind safe (Okabe and Ito); one colour means one thing in every figure.
COLOURS = {
    "random": "#999999",
    "mlp": "#e69f00",
    "icreward": "#0072b2",
    "oracle": "#009e73",
    "tie": "#cccccc",
    "base": "#999999",
    "tuned": "#cc79a7",
    "clipsim": "#56b4e9",
    "label": "#009e73",
    "robust": "#d55e00",
}
NAMES = {
    "random": "random pick",
    "mlp": "MLP on CLIP",
    "icreward": "ICReward",
    "oracle": "label (oracle)",
    "tie": "tie",
    "base": "base generator",
    "tuned": "tuned generator",
    "clipsim": "CLIPSim",
    "label": "IC label",
    "robust": "robust ICReward",
}
JUDGE_NAMES = {
    "itself": "the score itself (standard deviations)",
    "subject_fidelity": "subject fidelity",
    "background_fidelity": "background fidelity",
    "motion_faithfulness": "motion faithfulness",
    "label": "IC label",
    "dynamic_degree": "dynamic degree",
    "icreward": "ICReward",
    "mlp": "MLP on CLIP",
    "robust": "robust ICReward",
    "preference_accuracy": "held-out preference accuracy",
    "winner_error": "winner's error",
    "loser_error": "loser's error",
    "fvd": "FVD",
}

METRIC_NAMES = {
    "clipsim": "CLIPSim",
    "clipsim_no_first": "CLIPSim, first frame left out",
    "subject": "VBench++ subject",
    "subject_mean": "subject, mean conformity",
    "subject_min": "subject, least conformity",
    "background": "VBench++ background",
    "background_mean": "background, mean conformity",
    "background_min": "background, least conformity",
    "label": "IC label",
    "mlp": "MLP on CLIP",
    "mlp_seeds": "MLP, mean of its trainings",
    "icreward": "ICReward",
    "icreward_seeds": "ICReward, mean of its trainings",
    "dynamic_degree": "dynamic degree",
}


@contextmanager
def style() -> Iterator[None]:
    """The project's look, for the figures made inside the block."""
    settings: dict[Any, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,
    }
    # A backend loaded inside the block would lose its settings with it, and notebooks would show only one figure.
    plt.draw_if_interactive()
    with sns.axes_style("ticks"), plt.rc_context(settings):
        yield


def bars(axis: plt.Axes, table: pd.DataFrame, *, x: str, hue: str) -> None:
    """Grouped bars of `mean` with error bars from `low` to `high`, in the colours of the hue's values."""
    groups, kinds = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[hue]))
    width = 0.8 / len(kinds)
    for number, kind in enumerate(kinds):
        part = table[table[hue] == kind].set_index(x).loc[groups]
        place = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * width
        errors = np.abs(part[["low", "high"]].to_numpy().T - part["mean"].to_numpy())
        axis.bar(place, part["mean"], width * 0.9, yerr=errors, capsize=2, color=COLOURS[kind], label=NAMES[kind],
                 error_kw={"lw": 0.9})  # fmt: skip
    axis.set_xticks(range(len(groups)), groups)
    axis.legend(ncols=len(kinds), loc="upper center", bbox_to_anchor=(0.5, -0.12))


def line(axis: plt.Axes, table: pd.DataFrame, x: str, colour: str, label: str) -> None:
    """A line of `mean` with its interval from `low` to `high`."""
    axis.plot(table[x], table["mean"], color=colour, marker="o", ms=3, lw=1.2, label=label)
    axis.fill_between(table[x], table["low"], table["high"], color=colour, alpha=0.12, lw=0)
    axis.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)

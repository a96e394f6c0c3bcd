"""What all figures share: colours, names, fonts, lines and bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

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
METRIC_NAMES = {name: NAMES[name] for name in ("clipsim", "label", "mlp", "icreward", "robust")} | {
    "clipsim_no_first": "CLIPSim, first frame left out",
    "subject": "VBench++ subject",
    "subject_mean": "subject, mean conformity",
    "subject_min": "subject, least conformity",
    "background": "VBench++ background",
    "background_mean": "background, mean conformity",
    "background_min": "background, least conformity",
    "mlp_seeds": "MLP, mean of its trainings",
    "icreward_seeds": "ICReward, mean of its trainings",
    "dynamic_degree": "dynamic degree",
    "fvd": "FVD",
    "itself": "the score itself (standard deviations)",
    "subject_fidelity": "subject fidelity",
    "background_fidelity": "background fidelity",
    "motion_faithfulness": "motion faithfulness",
    "preference_accuracy": "held-out preference accuracy",
    "winner_error": "winner's error",
    "loser_error": "loser's error",
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


def interval_name(level: float) -> str:
    """How a figure names its intervals: "95 % intervals"."""
    return f"{level:.0%} intervals".replace("%", " %")


def note(figure: Figure, text: str, size: float = 9) -> None:
    """A small line above all panels."""
    figure.suptitle(text, fontsize=size, x=0.01, ha="left")


def errors(table: pd.DataFrame, value: str = "mean") -> np.ndarray:
    """Distances (2, n) from `value` down to `low` and up to `high`, as matplotlib's error bars take them."""
    return np.abs(table[["low", "high"]].to_numpy().T - table[value].to_numpy())

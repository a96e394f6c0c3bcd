"""One function, one figure. Each takes the numbers it plots and returns the figure; `Run.figure` writes both.

`tables` shows intervals in tables.
"""

from icreward_lib.figures.appearance import COLOURS, METRIC_NAMES, NAMES, style
from icreward_lib.figures.beyond import over_optimisation, probes, rules, shares_noticed, weight_trade_off
from icreward_lib.figures.poster import (
    consistency_overlay,
    label_histogram,
    paired_loss,
    power_grid,
    preference_accuracy,
    preferences,
    running_wins,
    showcase_clipsim,
    validation_mse,
)
from icreward_lib.figures.tables import join_intervals, pivot_intervals

__all__ = [
    "COLOURS", "METRIC_NAMES", "NAMES", "consistency_overlay", "join_intervals", "label_histogram",
    "over_optimisation", "paired_loss", "pivot_intervals", "power_grid", "preference_accuracy", "preferences",
    "probes", "rules", "running_wins", "shares_noticed", "showcase_clipsim", "style", "validation_mse",
    "weight_trade_off",
]  # fmt: skip

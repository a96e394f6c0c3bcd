"""Figure 11: what judges notice in real clips."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from icreward_lib.figures.appearance import COLOURS, style

# Judge -> its name, colour and marker.
JUDGES = {
    "icreward": ("ICReward lite", COLOURS["icreward"], "o"),
    "vbench": ("VBench++ on EfficientNet-Lite0", COLOURS["label"], "s"),
    "clipsim": ("CLIPSim of the laptop's CLIP (out of domain)", COLOURS["random"], "^"),
}
MEASURES = {"noticed": "share scored below the true clip", "ordered": "share of severities in the right order"}


def shares_noticed(table: pd.DataFrame) -> Figure:
    """Figure 11: shares of departed real clips that judges notice, and of pairs of severities that they order.

    Args:
        table: columns judge, kind, measure ("noticed" or "ordered"), mean, low, high, n; shares in [0, 1] over n shots.
    """
    kinds, judges = list(dict.fromkeys(table["kind"])), list(dict.fromkeys(table["judge"]))
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(9.4, 0.36 * len(kinds) + 1.3), sharey=True)
        for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
            for number, judge in enumerate(judges):
                part = table[(table["judge"] == judge) & (table["measure"] == measure)]
                places = np.array([kinds.index(kind) for kind in part["kind"]])
                name, colour, marker = JUDGES[judge]
                errors = [part["mean"] - part["low"], part["high"] - part["mean"]]
                axis.errorbar(part["mean"], places + 0.24 * (number - (len(judges) - 1) / 2), xerr=errors, fmt=marker,
                              ms=4.5, lw=1, color=colour, label=name)  # fmt: skip
            axis.axvline(0.5, color="#bbbbbb", lw=0.8, zorder=0)
            for place in range(0, len(kinds), 2):
                axis.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", lw=0, zorder=-1)
            axis.set(xlim=(-0.03, 1.03), xlabel=title)
        axes[0].set_yticks(range(len(kinds)), kinds)
        axes[0].set_ylim(len(kinds) - 0.5, -0.5)
        axes[0].tick_params(axis="y", length=0)
        axes[0].set_title(f"{table['n'].max()} real shots; lines: intervals over shots")
        axes[1].set_title("0.5: chance")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(judges))
    return figure

"""Figures 7 to 10: what rewards measure, how they are exploited, and what better ones do."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from icreward_lib.figures.appearance import COLOURS, JUDGE_NAMES, METRIC_NAMES, NAMES, line, style


def probes(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Figure 7: which departures from true clips each metric notices.

    Args:
        table: columns metric, kind, mean, low, high, n: the AUROC of true against departed clips, in [0, 1].
        titles: kind -> column's title, in their order.
    """
    cells = table.pivot(index="metric", columns="kind")
    metrics, kinds = list(dict.fromkeys(table["metric"])), [kind for kind in titles if kind in set(table["kind"])]
    mean, low, high = (cells[name].loc[metrics, kinds] for name in ("mean", "low", "high"))
    with style():
        figure, axis = plt.subplots(figsize=(0.62 * len(kinds) + 3.4, 0.36 * len(metrics) + 1.9))
        # From orange to purple, which no colour blindness confuses; paper-white is a metric that cannot tell.
        sns.heatmap(mean, vmin=0, vmax=1, center=0.5, cmap="PuOr", annot=True, fmt=".2f", linewidths=0.5, ax=axis,
                    annot_kws={"size": 7.5}, cbar_kws={"label": "AUROC: true against departed clips"})  # fmt: skip
        told = ((low > 0.5) | (high < 0.5)).to_numpy().ravel()
        for text, certain in zip(axis.texts, told, strict=True):
            text.set_fontweight("bold" if certain else "normal")
        axis.set_xticks(np.arange(len(kinds)) + 0.5, [titles[kind] for kind in kinds], rotation=40, ha="right")
        axis.set_yticks(np.arange(len(metrics)) + 0.5, [METRIC_NAMES.get(m, m) for m in metrics], rotation=0)
        axis.set(xlabel="", ylabel="")
        axis.tick_params(length=0)
        scenes = f"{table['n'].min()} to {table['n'].max()} scenes"
        axis.set_title(f"{scenes}; 0.5: does not notice; below: prefers the departure; bold: interval excludes 0.5")
    return figure


def over_optimisation(picked: pd.DataFrame, trained: pd.DataFrame) -> Figure:
    """Figure 8: judges that had no part in a score, as clips are picked, or a generator trained, ever harder by it.

    Args:
        picked: columns pick, judge, n, mean, low, high, samples: gains of the best of n over a random clip.
        trained: columns judge, step, mean, low, high, samples: gains of fine-tuning over the base generator.
    """
    with style():
        judges = list(dict.fromkeys(picked["judge"]))
        figure, axes = plt.subplots(2, len(judges), figsize=(2.7 * len(judges), 5.2))
        for column, judge in enumerate(judges):
            above, below = axes[:, column]
            for pick, part in picked[picked["judge"] == judge].groupby("pick", sort=False):
                line(above, part, "n", COLOURS[str(pick)], NAMES[str(pick)])
            above.set_xscale("log", base=2)
            counts = sorted(picked["n"].unique())
            above.set_xticks(counts, [str(n) for n in counts])
            above.set_title(JUDGE_NAMES[judge].replace(" (", "\n("))
            above.set_xlabel("picked from n clips")
            line(below, trained[trained["judge"] == judge], "step", COLOURS["tuned"], "Flow-DPO, poster's rule")
            below.set_xticks(sorted(trained["step"].unique()))
            below.set_xlabel("steps of Flow-DPO")
        axes[0, 0].set_ylabel(f"gain over a random clip\n({picked['samples'].max()} images)")
        axes[1, 0].set_ylabel(f"gain over the base generator\n({trained['samples'].max()} images)")
        axes[0, 0].legend(loc="upper left")
        axes[1, 0].legend(loc="upper left")
    return figure


def weight_trade_off(told: pd.DataFrame, kept: pd.DataFrame) -> Figure:
    """Figure 9: what a reward notices, and what its picks keep, as the weight moves from background to subject.

    Args:
        told: columns reward, weight (of the subject, against the background), and for `subject` and `background`
            `<name>`, `<name>_low`, `<name>_high`: the AUROC of departures that break it alone; and n, the scenes.
        kept: the same for `subject_fidelity` and `background_fidelity` of the picked clips, gains over a random clip.
    """
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(9.4, 4))
        _path(axes[0], told, "subject", "background")
        axes[0].set(xlabel="AUROC: departures of the subject", ylabel="AUROC: departures of the background")
        axes[0].set_title(f"what is noticed in probes ({told['n'].max()} scenes)")
        _path(axes[1], kept, "subject_fidelity", "background_fidelity")
        axes[1].set(xlabel="subject fidelity, gain over a random clip", ylabel="background fidelity, gain")
        axes[1].set_title(f"what the picked clips keep ({kept['n'].max()} images)")
        axes[0].legend()
    return figure


def _path(axis: plt.Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """A line a reward over its weights, with intervals and names at its ends."""
    for reward, part in table.groupby("reward", sort=False):
        colour = COLOURS[str(reward)]
        axis.plot(part[x], part[y], color=colour, marker="o", ms=4, label=NAMES[str(reward)])
        for _, row in part.iloc[[0, -1]].iterrows():
            wide, high = ([[row[n] - row[f"{n}_low"]], [row[f"{n}_high"] - row[n]]] for n in (x, y))
            axis.errorbar(row[x], row[y], xerr=wide, yerr=high, color=colour, lw=0.8, alpha=0.5)
            name, place = ("all subject", (6, 4)) if row["weight"] == 1 else ("all background", (6, -9))
            axis.annotate(name, (row[x], row[y]), place, textcoords="offset points", fontsize=7, color=colour)
    axis.locator_params(nbins=6)


def rules(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Figure 10: what fine-tuning on pairs of each rule comes to.

    Args:
        table: columns rule, measure, mean, low, high, n; a panel a measure.
        titles: rule -> its name, in their order.
    """
    with style():
        measures = list(dict.fromkeys(table["measure"]))
        columns = 4
        lines = -(-len(measures) // columns)
        figure, axes = plt.subplots(
            lines, columns, figsize=(11, 0.34 * len(titles) * lines + 1.4 * lines), sharey=True, squeeze=False
        )
        for axis, measure in zip(axes.flat, measures, strict=False):
            part = table[table["measure"] == measure].set_index("rule").loc[list(titles)]
            places = np.arange(len(titles))
            errors = [part["mean"] - part["low"], part["high"] - part["mean"]]
            axis.errorbar(part["mean"], places, xerr=errors, fmt="o", ms=4, lw=1.2, color=COLOURS["tuned"])
            axis.axvline(0.5 if measure == "preference_accuracy" else 0, color="#bbbbbb", lw=0.8)
            axis.set_yticks(places, list(titles.values()))
            axis.invert_yaxis() if axis is axes[0, 0] else None
            name = JUDGE_NAMES[measure]
            what = "" if measure == "preference_accuracy" else "change, "
            axis.set_title(f"{name}\n({what}n = {part['n'].max()})")
        for axis in list(axes.flat)[len(measures) :]:
            axis.set_visible(False)
    return figure


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

"""Figures 7 to 11: what rewards measure, how they are exploited, what better ones do, and the judge of real clips."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from icreward_lib.figures.appearance import (
    COLOURS,
    METRIC_NAMES,
    NAMES,
    errors,
    interval_name,
    style,
)

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")


def probes(table: pd.DataFrame, titles: Mapping[str, str], *, level: float) -> Figure:
    """Figure 7: which departures from true clips each metric notices.

    Args:
        table: columns metric, kind, mean, low, high, n: the AUROC of true against departed clips, in [0, 1].
        titles: kind -> column's title, in their order.
        level: of the intervals.
    """
    cells = table.pivot(index="metric", columns="kind")
    metrics, kinds = list(dict.fromkeys(table["metric"])), [kind for kind in titles if kind in set(table["kind"])]
    mean, low, high = (cells[name].loc[metrics, kinds] for name in ("mean", "low", "high"))
    with style():
        figure, axis = plt.subplots(figsize=(0.62 * len(kinds) + 3.4, 0.36 * len(metrics) + 1.9))
        # From orange to purple, which no colour blindness confuses; paper-white is a metric that cannot tell.
        sns.heatmap(mean, vmin=0, vmax=1, center=0.5, cmap="PuOr", annot=True, fmt=".2f", linewidths=0.5, ax=axis,
                    annot_kws={"size": 8}, cbar_kws={"label": "AUROC: true against departed clips"})  # fmt: skip
        told = ((low > 0.5) | (high < 0.5)).to_numpy().ravel()
        for text, value, certain in zip(axis.texts, mean.to_numpy().ravel(), told, strict=True):
            text.set_fontweight("bold" if certain else "normal")
            text.set_color("white" if abs(value - 0.5) > 0.35 else "black")
        axis.set_xticks(np.arange(len(kinds)) + 0.5, [titles[kind] for kind in kinds], rotation=40, ha="right")
        axis.set_yticks(np.arange(len(metrics)) + 0.5, [METRIC_NAMES.get(m, m) for m in metrics], rotation=0)
        axis.set(xlabel="", ylabel="")
        axis.tick_params(length=0)
        scenes = f"{table['n'].min()} to {table['n'].max()} scenes"
        bold = f"bold: {interval_name(level)} exclude 0.5"
        axis.set_title(f"{scenes}; 0.5: does not notice; below: prefers the departure; {bold}")
    return figure


def over_optimisation(picked: pd.DataFrame, trained: pd.DataFrame, *, level: float) -> Figure:
    """Figure 8: judges that had no part in a score, as clips are picked, or a generator trained, ever harder by it.

    Args:
        picked: columns pick, judge, n, mean, low, high, samples: gains of the best of n over a random clip.
        trained: columns judge, step, mean, low, high, samples: gains of fine-tuning over the base generator.
        level: of the intervals.
    """
    judges, picks = list(dict.fromkeys(picked["judge"])), list(dict.fromkeys(picked["pick"]))
    counts, steps = sorted(picked["n"].unique()), sorted(trained["step"].unique())
    with style():
        figure, axes = plt.subplots(2, len(judges), figsize=(3.5 * len(judges), 6.4), squeeze=False)
        for column, judge in enumerate(judges):
            above, below = axes[:, column]
            for number, pick in enumerate(picks):
                part = picked[(picked["judge"] == judge) & (picked["pick"] == pick)]
                # Side by side, where bands would lie on each other.
                places = np.log2(part["n"]) + 0.12 * (number - (len(picks) - 1) / 2)
                _points(above, places, part, COLOURS[pick], MARKERS[number], NAMES[pick])
            above.set_xticks(np.log2(counts), [str(n) for n in counts])
            above.set_title(METRIC_NAMES[judge])
            above.set_xlabel("picked from n clips")
            part = trained[trained["judge"] == judge]
            _points(below, part["step"], part, COLOURS["tuned"], "o", "after Flow-DPO by the poster's rule")
            below.set_xticks(steps)
            below.set_xlabel("steps of Flow-DPO")
        axes[0, 0].set_ylabel(f"gain over a random clip\n({picked['samples'].max()} images)")
        axes[1, 0].set_ylabel(f"gain over the base generator\n({trained['samples'].max()} images)")
        handles, names = axes[0, 0].get_legend_handles_labels()
        more, further = axes[1, 0].get_legend_handles_labels()
        names = [f"picked by {name}" for name in names]
        figure.legend(handles + more, names + further, loc="outside lower center", ncols=len(handles) + 1)
        figure.suptitle(f"Bars: {interval_name(level)} over images", fontsize=9, x=0.01, ha="left")
    return figure


def _points(axis: plt.Axes, x: pd.Series, table: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    """A line of `mean` with its intervals as bars, and the line of no gain."""
    axis.errorbar(x, table["mean"], yerr=errors(table), color=colour, marker=marker, ms=4, lw=1, elinewidth=0.8,
                  label=label)  # fmt: skip
    axis.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)


def weight_trade_off(told: pd.DataFrame, kept: pd.DataFrame, *, level: float) -> Figure:
    """Figure 9: what a reward notices, and what its picks keep, as the weight moves from background to subject.

    Args:
        told: columns reward, weight (of the subject, against the background), and for `subject` and `background`
            `<name>`, `<name>_low`, `<name>_high`: the AUROC of departures that break it alone; and n, the scenes.
        kept: the same for `subject_fidelity` and `background_fidelity` of the picked clips, gains over a random clip.
        level: of the intervals.
    """
    panels = (
        (told, "subject", "noticed in probes: departures of the subject", "AUROC", "scenes"),
        (told, "background", "noticed in probes: departures of the background", "AUROC", "scenes"),
        (kept, "subject_fidelity", "picks' subject fidelity", "gain over a random clip", "images"),
        (kept, "background_fidelity", "picks' background fidelity", "gain over a random clip", "images"),
    )
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, sharey="row")
        for axis, (table, name, title, what, units) in zip(axes.flat, panels, strict=True):
            for number, (reward, part) in enumerate(table.groupby("reward", sort=False)):
                cells = part[[name, f"{name}_low", f"{name}_high"]].set_axis(["mean", "low", "high"], axis=1)
                places = part["weight"] + 0.02 * (number - 0.5)
                axis.errorbar(places, cells["mean"], yerr=errors(cells), marker=MARKERS[number], ms=4, lw=1,
                              elinewidth=0.8, color=COLOURS[str(reward)], label=NAMES[str(reward)])  # fmt: skip
            axis.axhline(0.5 if table is told else 0, color="#bbbbbb", lw=0.8, zorder=0)
            axis.set_title(f"{title} ({table['n'].max()} {units})")
            axis.set_ylabel(what)
        for axis in axes[1]:
            axis.set_xlabel("weight of the subject (0: all background)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figure.suptitle(f"Bars: {interval_name(level)}", fontsize=9, x=0.01, ha="left")
    return figure


def rules(table: pd.DataFrame, titles: Mapping[str, str], *, level: float) -> Figure:
    """Figure 10: what fine-tuning on pairs of each rule comes to.

    Args:
        table: columns rule, measure, mean, low, high, n; a panel a measure.
        titles: rule -> its name, in their order.
        level: of the intervals.
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
            axis.errorbar(part["mean"], places, xerr=errors(part), fmt="o", ms=4, lw=1.2, color=COLOURS["tuned"])
            axis.axvline(0.5 if measure == "preference_accuracy" else 0, color="#bbbbbb", lw=0.8)
            axis.set_yticks(places, list(titles.values()))
            axis.invert_yaxis() if axis is axes[0, 0] else None
            name = METRIC_NAMES[measure]
            what = "" if measure == "preference_accuracy" else "change, "
            axis.set_title(f"{name}\n({what}n = {part['n'].max()})")
        for axis in list(axes.flat)[len(measures) :]:
            axis.set_visible(False)
        several = f"{interval_name(level)}, {len(table)} of them and none corrected for their number"
        chance = len(table) * (1 - level)
        figure.suptitle(
            f"{several}: about {chance:.0f} would miss the line by chance alone", fontsize=9, x=0.01, ha="left"
        )
    return figure


# Judge -> its name, colour and marker.
JUDGES = {
    "icreward": ("ICReward lite", COLOURS["icreward"], "o"),
    "vbench": ("VBench++ on EfficientNet-Lite0", COLOURS["label"], "s"),
    "clipsim": ("CLIPSim of the laptop's CLIP (out of domain)", COLOURS["random"], "^"),
}
MEASURES = {"noticed": "share scored below the true clip", "ordered": "share of severities in the right order"}


def shares_noticed(table: pd.DataFrame, *, level: float) -> Figure:
    """Figure 11: shares of departed real clips that judges notice, and of pairs of severities that they order.

    Args:
        table: columns judge, kind, measure ("noticed" or "ordered"), mean, low, high, n; shares in [0, 1] over n shots.
        level: of the intervals, Wilson's.
    """
    kinds, judges = list(dict.fromkeys(table["kind"])), list(dict.fromkeys(table["judge"]))
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(9.4, 0.36 * len(kinds) + 1.3), sharey=True)
        for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
            for number, judge in enumerate(judges):
                part = table[(table["judge"] == judge) & (table["measure"] == measure)]
                places = np.array([kinds.index(kind) for kind in part["kind"]])
                name, colour, marker = JUDGES[judge]
                axis.errorbar(part["mean"], places + 0.24 * (number - (len(judges) - 1) / 2), xerr=errors(part),
                              fmt=marker, ms=4.5, lw=1, color=colour, label=name)  # fmt: skip
            axis.axvline(0.5, color="#bbbbbb", lw=0.8, zorder=0)
            for place in range(0, len(kinds), 2):
                axis.axhspan(place - 0.5, place + 0.5, color="#f4f4f4", lw=0, zorder=-1)
            axis.set(xlim=(-0.03, 1.03), xlabel=title)
        axes[0].set_yticks(range(len(kinds)), kinds)
        axes[0].set_ylim(len(kinds) - 0.5, -0.5)
        axes[0].tick_params(axis="y", length=0)
        axes[0].set_title(f"{table['n'].max()} real shots; lines: Wilson's {interval_name(level)}")
        axes[1].set_title("0.5: chance")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(judges))
    return figure

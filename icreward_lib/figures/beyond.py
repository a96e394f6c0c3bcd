"""Figures 7 to 11: what rewards measure, how they are exploited, what better ones do, and the judge of real clips."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from icreward_lib.figures.appearance import COLOURS, METRIC_NAMES, NAMES, errors, interval_name, note, style

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")


def probes(table: pd.DataFrame, titles: Mapping[str, str], *, level: float) -> Figure:
    """Figure 7: which departures from true clips each metric notices; `titles` are the kinds', in their order.

    The table has columns metric, kind, mean, low, high, n: the AUROC of true against departed clips, in [0, 1].
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

    `picked`: pick, judge, n, mean, low, high, samples, gains of the best of n over a random clip. `trained`: judge,
    step, mean, low, high, samples, gains of fine-tuning over the base generator.
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
            above.set(title=METRIC_NAMES[judge], xlabel="picked from n clips")
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
        note(figure, f"Bars: {interval_name(level)} over images")
    return figure


def _points(
    axis: plt.Axes, x: pd.Series, table: pd.DataFrame, colour: str, marker: str, label: str, nothing: float = 0
) -> None:
    """A line of `mean` with its intervals as bars, and the line of no gain."""
    axis.errorbar(x, table["mean"], yerr=errors(table), color=colour, marker=marker, ms=4, lw=1, elinewidth=0.8,
                  label=label)  # fmt: skip
    axis.axhline(nothing, color="#bbbbbb", lw=0.8, zorder=0)


def weight_trade_off(told: pd.DataFrame, kept: pd.DataFrame, *, level: float) -> Figure:
    """Figure 9: what a reward notices, and what its picks keep, as the weight moves from background to subject.

    `told`: reward, weight (of the subject), n (scenes) and, for `subject` and `background`, `<name>`, `<name>_low`,
    `<name>_high`: the AUROC of departures that break it alone. `kept`: the same for `subject_fidelity` and
    `background_fidelity` of n images' picked clips, gains over a random clip.
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
                places, look = part["weight"] + 0.02 * (number - 0.5), (COLOURS[str(reward)], MARKERS[number])
                _points(axis, places, cells, *look, NAMES[str(reward)], nothing=0.5 if table is told else 0)
            axis.set(title=f"{title} ({table['n'].max()} {units})", ylabel=what)
        for axis in axes[1]:
            axis.set_xlabel("weight of the subject (0: all background)")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        note(figure, f"Bars: {interval_name(level)}")
    return figure


def rules(table: pd.DataFrame, titles: Mapping[str, str], *, level: float) -> Figure:
    """Figure 10: what fine-tuning on pairs of each rule comes to; `titles` are the rules', in their order.

    The table has columns rule, measure, mean, low, high, n; a panel a measure.
    """
    with style():
        measures = list(dict.fromkeys(table["measure"]))
        lines = -(-len(measures) // 4)
        size = (11, 0.34 * len(titles) * lines + 1.4 * lines)
        figure, axes = plt.subplots(lines, 4, figsize=size, sharey=True, squeeze=False)
        for axis, measure in zip(axes.flat, measures, strict=False):
            part = table[table["measure"] == measure].set_index("rule").loc[list(titles)]
            places = np.arange(len(titles))
            axis.errorbar(part["mean"], places, xerr=errors(part), fmt="o", ms=4, lw=1.2, color=COLOURS["tuned"])
            axis.axvline(0.5 if measure == "preference_accuracy" else 0, color="#bbbbbb", lw=0.8)
            axis.set_yticks(places, list(titles.values()))
            what = "" if measure == "preference_accuracy" else "change, "
            axis.set_title(f"{METRIC_NAMES[measure]}\n({what}n = {part['n'].max()})")
        axes[0, 0].invert_yaxis()
        for axis in axes.flat[len(measures) :]:
            axis.set_visible(False)
        several = f"{interval_name(level)}, {len(table)} of them and none corrected for their number"
        note(figure, f"{several}: about {len(table) * (1 - level):.0f} would miss the line by chance alone")
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

    The table has columns judge, kind, measure ("noticed" or "ordered"), mean, low, high, n: shares over n shots.
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

"""One function, one figure. Each takes the numbers it plots and returns the figure; `Run.figure` writes both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from icreward_lib.video import Video

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


def paired_loss(pair: Mapping[str, Video], image: np.ndarray, prompt: str, logits: pd.DataFrame) -> Figure:
    """Figure 1: what the paired loss compares, on one real pair, and where the held-out pairs lie on it.

    Args:
        pair: "winner" (ICReward's pick) and "loser" (the MLP's).
        image: the reference, uint8 (H, W, 3).
        prompt: its caption.
        logits: held-out pairs after training, column `logit`; before it, all are 0.
    """
    with style():
        figure = plt.figure(figsize=(10, 3))
        grid = figure.add_gridspec(2, 3, width_ratios=(1.2, 5, 3.6))
        axis = figure.add_subplot(grid[:, 0])
        axis.imshow(image)
        axis.set_title("reference", fontsize=8)
        axis.set_xlabel("\n".join(wrap(f"“{prompt}”", 22)), fontsize=7, style="italic")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        for row, side in enumerate(("winner", "loser")):
            frames = pair[side].frames
            shown = np.concatenate(list(frames[np.linspace(0, len(frames) - 1, 5).round().astype(int)]), axis=1)
            axis = figure.add_subplot(grid[row, 1])
            axis.imshow(shown)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_ylabel({"winner": "winner $x^w$", "loser": "loser $x^l$"}[side], fontsize=8)
            picker = NAMES["icreward" if side == "winner" else "mlp"]
            axis.set_title(f"{picker}'s pick", fontsize=8)
        values = logits["logit"].to_numpy()
        axis = figure.add_subplot(grid[:, 2])
        widest = max(1.0, float(np.abs(values).max()) * 1.05)
        z = np.linspace(-widest, widest, 200)
        top = float(np.logaddexp(0, widest))
        axis.plot(z, np.logaddexp(0, -z), color="black", lw=1.2)
        label = f"{len(values)} held-out pairs after training:\n{np.mean(values > 0):.0%} right of 0"
        axis.plot(values, np.full(len(values), -0.08 * top), "|", color=COLOURS["tuned"], ms=9, label=label)
        axis.axvline(0, color="#bbbbbb", lw=0.8, label="all pairs before training")
        axis.set_ylim(-0.16 * top, 1.05 * top)
        axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= top])
        axis.set_xlabel(r"$z=-\frac{\beta}{2}\,(\Delta^w-\Delta^l)$,  $\Delta=\|v_\theta-v\|^2-\|v_{ref}-v\|^2$")
        axis.set_ylabel(r"paired loss $-\log\sigma(z)$")
        axis.legend(loc="upper right")
    return figure


def validation_mse(epochs: pd.DataFrame, final: pd.DataFrame) -> Figure:
    """Figure 2: validation MSE while training, and the error of the chosen epoch on validation and test.

    Args:
        epochs: columns model, seed, share (of training, 0..1), mse.
        final: columns model, split, mean, low, high, seeds.
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.1), width_ratios=(3, 2))
        for model in ("mlp", "icreward"):
            part = epochs[epochs["model"] == model]
            sns.lineplot(part, x="share", y="mse", errorbar=("pi", 100), color=COLOURS[model], ax=left,
                         label=f"{NAMES[model]} ({part['seed'].nunique()} seeds)")  # fmt: skip
        left.set_yscale("log")
        left.set_xlabel("share of training")
        left.set_ylabel("validation MSE of the IC score")
        left.set_title("While training (line: mean, band: all seeds)")
        _bars(right, final, x="split", hue="model")
        right.set_ylabel("MSE of the IC score")
        right.set_xlabel("")
        right.set_title(f"Chosen epoch, {final['level'].iloc[0]:.0%} intervals")
    return figure


def showcase_clipsim(table: pd.DataFrame) -> Figure:
    """Figure 3: CLIPSim of the top-1 video of each picker on the showcase samples.

    Args:
        table: columns sample (title), pick, mean, low, high over the frames of the picked clip.
    """
    with style():
        figure, axis = plt.subplots(figsize=(7, 3.2))
        _bars(axis, table, x="sample", hue="pick")
        low = float(table["low"].min())
        axis.set_ylim(max(0, low - 0.25 * (1 - low)), 1)
        axis.set_ylabel("CLIPSim (image–image cosine)")
        axis.set_xlabel("")
        axis.set_title("Top-1 of 5 videos; interval: over the clip's frames; axis does not start at 0")
    return figure


def preferences(table: pd.DataFrame, *, raters: int, source: str) -> Figure:
    """Figure 4: how many raters preferred which pick.

    Args:
        table: one row per sample; columns sample (title), mlp, icreward, tie (votes), share, low, high.
        raters: how many.
        source: "simulated" or "people"; stands in the title.
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), width_ratios=(3, 2))
        x = np.arange(len(table))
        bottom = np.zeros(len(table))
        for arm in ("mlp", "tie", "icreward"):
            left.bar(x, table[arm], bottom=bottom, color=COLOURS[arm], label=NAMES[arm], width=0.6)
            for position, start, votes in zip(x, bottom, table[arm], strict=True):
                if votes:
                    left.text(position, start + votes / 2, str(int(votes)), ha="center", va="center", fontsize=8)
            bottom += table[arm].to_numpy()
        left.set_xticks(x, table["sample"])
        left.set_ylabel("raters")
        who = "SIMULATED raters" if source == "simulated" else "raters"
        left.set_title(f"{raters} {who} per sample")
        left.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        errors = np.abs(table[["low", "high"]].to_numpy().T - table["share"].to_numpy())
        right.errorbar(table["share"], x, xerr=errors, fmt="o", color=COLOURS["icreward"], capsize=3)
        right.axvline(0.5, color="#bbbbbb", lw=0.8)
        right.set_yticks(x, table["sample"])
        right.set_xlim(0, 1)
        right.set_ylim(len(table) - 0.5, -0.5)
        right.set_xlabel("share for ICReward among decided votes")
        right.set_title("95 % Wilson interval")
    return figure


def power_grid(table: pd.DataFrame) -> Figure:
    """How often a study sees a preference that is there, by its raters and pairs.

    Args:
        table: columns raters, pairs, rate (true win rate), power, low, high.
    """
    with style():
        rates, pairs = sorted(table["rate"].unique()), sorted(table["pairs"].unique())
        figure, axes = plt.subplots(1, len(rates), figsize=(2.4 * len(rates), 2.9), sharey=True, squeeze=False)
        for axis, rate in zip(axes[0], rates, strict=True):
            groups = table[table["rate"] == rate].groupby("raters")
            for colour, (raters, part) in zip(sns.color_palette("crest", len(groups)), groups, strict=True):
                axis.plot(part["pairs"], part["power"], marker="o", ms=3, color=colour, label=f"{raters} raters")
                axis.fill_between(part["pairs"], part["low"], part["high"], color=colour, alpha=0.2, lw=0)
            axis.axhline(0.05 if rate == 0.5 else 0.8, color="#bbbbbb", lw=0.8)
            axis.set_title("no preference" if rate == 0.5 else f"true win rate {rate:.2f}")
            axis.set_xscale("log")
            axis.set_xticks(pairs, [str(number) for number in pairs])
            axis.minorticks_off()
            axis.set_ylim(0, 1)
            axis.set_xlabel("pairs")
        axes[0, 0].set_ylabel("share of studies that see one")
        axes[0, 0].legend(loc="upper left")
    return figure


def preference_accuracy(curve: pd.DataFrame, poster: float) -> Figure:
    """Figure 5: held-out preference accuracy over training.

    Args:
        curve: columns seed (a number, or "all"), step, accuracy, low, high, n_pairs.
        poster: the accuracy that the poster reports, as a dashed line.
    """
    colour = COLOURS["tuned"]
    with style():
        figure, axis = plt.subplots(figsize=(5.5, 3.2))
        alone = [part for seed, part in curve.groupby("seed") if seed != "all"]
        for number, part in enumerate(alone):
            label = f"{len(alone)} trainings" if number == 0 else None
            axis.plot(part["step"], part["accuracy"], color=colour, lw=0.8, alpha=0.6, label=label)
        mean = curve[curve["seed"] == "all"]
        axis.plot(mean["step"], mean["accuracy"], color=colour, marker="o", ms=3, lw=2, label="mean")
        axis.fill_between(mean["step"], mean["low"], mean["high"], color=colour, alpha=0.2, lw=0)
        axis.axhline(poster, color="#777777", ls="--", lw=0.9, label=f"poster {poster:.2f}")
        axis.axhline(0.5, color="#bbbbbb", lw=0.8)
        axis.set_ylim(0, 1)
        axis.set_xlabel("optimizer step")
        axis.set_ylabel("preference accuracy")
        axis.set_title(f"{int(curve['n_pairs'].iloc[0])} held-out pairs; band: over images and trainings")
        axis.legend(loc="lower right")
    return figure


def running_wins(implicit: pd.DataFrame, samples: pd.DataFrame) -> Figure:
    """Figure 6: running average of wins, by implicit reward while training and by new samples after it.

    Args:
        implicit: columns evaluated, step, running.
        samples: columns evaluated, judge, running, low, high: new clips of the tuned against the base generator, same
            seeds, judged by a reward or the label.
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True)
        left.plot(implicit["evaluated"], implicit["running"], color=COLOURS["tuned"])
        left.set_xlabel("held-out pairs evaluated, over all steps")
        left.set_ylabel("running average of wins")
        left.set_title("Implicit reward while training")
        for judge, part in samples.groupby("judge", sort=False):
            colour = COLOURS.get(str(judge), "black")
            right.plot(part["evaluated"], part["running"], color=colour, label=NAMES.get(str(judge), str(judge)))
            right.fill_between(part["evaluated"], part["low"], part["high"], color=colour, alpha=0.15, lw=0)
        right.set_xlabel("images with a new clip of each generator")
        right.set_title("New samples, tuned against base (95 %)")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=3)
        for axis in (left, right):
            axis.axhline(0.5, color="#bbbbbb", lw=0.8)
            axis.set_ylim(0, 1)
    return figure


def label_histogram(before: np.ndarray, after: np.ndarray) -> Figure:
    """Distribution of the label over the generated videos, and with the low-score additions."""
    with style():
        figure, axis = plt.subplots(figsize=(5, 2.8))
        bins = np.linspace(0, 1, 26).tolist()
        axis.hist(after, bins, color=COLOURS["mlp"], label=f"with low-score additions (n={len(after)})")
        axis.hist(before, bins, color=COLOURS["icreward"], label=f"generated (n={len(before)})")
        axis.set_xlabel("IC label (0: another image, 1: frozen copy)")
        axis.set_ylabel("videos")
        axis.legend(loc="upper left")
    return figure


def consistency_overlay(videos: Mapping[str, Video], maps: Sequence[np.ndarray], columns: int = 6) -> Figure:
    """Where clips depart from their image: frames above, ICReward's consistency map (0 red, 1 blue) below.

    Args:
        videos: title -> clip.
        maps: for each clip "t h w" in [0, 1].
        columns: frames shown of each.
    """
    with style():
        figure, axes = plt.subplots(
            2 * len(videos), columns, figsize=(1.25 * columns + 0.8, 2.6 * len(videos)), squeeze=False
        )
        picture: Any = None
        for row, ((title, video), values) in enumerate(zip(videos.items(), maps, strict=True)):
            for column, t in enumerate(np.linspace(0, video.num_frames - 1, columns).round().astype(int)):
                top, bottom = axes[2 * row, column], axes[2 * row + 1, column]
                top.imshow(video.frames[t])
                bottom.imshow(video.frames[t].mean(-1), cmap="gray", alpha=0.4)
                picture = bottom.imshow(values[t], cmap="RdBu", vmin=0, vmax=1, alpha=0.65)
                for axis in (top, bottom):
                    axis.set_axis_off()
                top.set_title(f"t = {t}" if column else title, fontsize=7)
        figure.colorbar(picture, ax=axes, shrink=0.5, label="consistency")
    return figure


def probes(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Figure 7: which departures from true clips each metric notices.

    Args:
        table: columns metric, kind, mean, low, high: the AUROC of true against departed clips, in [0, 1].
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
        axis.set_title("0.5: does not notice; below: prefers the departure; bold: interval excludes 0.5")
    return figure


def over_optimisation(picked: pd.DataFrame, trained: pd.DataFrame) -> Figure:
    """Figure 8: judges that had no part in a score, as clips are picked, or a generator trained, ever harder by it.

    Args:
        picked: columns pick, judge, n, mean, low, high: gains of the best of n over a random clip.
        trained: columns judge, step, mean, low, high: gains of fine-tuning over the base generator.
    """
    with style():
        judges = list(dict.fromkeys(picked["judge"]))
        figure, axes = plt.subplots(2, len(judges), figsize=(2.7 * len(judges), 5.2))
        for column, judge in enumerate(judges):
            above, below = axes[:, column]
            for pick, part in picked[picked["judge"] == judge].groupby("pick", sort=False):
                _line(above, part, "n", COLOURS[str(pick)], NAMES[str(pick)])
            above.set_xscale("log", base=2)
            counts = sorted(picked["n"].unique())
            above.set_xticks(counts, [str(n) for n in counts])
            above.set_title(JUDGE_NAMES[judge].replace(" (", "\n("))
            above.set_xlabel("picked from n clips")
            _line(below, trained[trained["judge"] == judge], "step", COLOURS["tuned"], "Flow-DPO, poster's rule")
            below.set_xticks(sorted(trained["step"].unique()))
            below.set_xlabel("steps of Flow-DPO")
        axes[0, 0].set_ylabel("gain over a random clip")
        axes[1, 0].set_ylabel("gain over the base generator")
        axes[0, 0].legend(loc="upper left")
        axes[1, 0].legend(loc="upper left")
    return figure


def weight_trade_off(table: pd.DataFrame) -> Figure:
    """Figure 9: what the picked clips keep as the weight moves from the background to the subject.

    Args:
        table: columns reward, weight (of the subject, against the background), and for x = subject_fidelity and
            y = background_fidelity: `<name>`, `<name>_low`, `<name>_high`.
    """
    with style():
        figure, axis = plt.subplots(figsize=(5.6, 4.2))
        for reward, part in table.groupby("reward", sort=False):
            x, y = part["subject_fidelity"], part["background_fidelity"]
            colour = COLOURS[str(reward)]
            axis.plot(x, y, color=colour, marker="o", ms=4, label=NAMES[str(reward)])
            for place in (0, len(part) - 1):
                row = part.iloc[place]
                errors = [[[row[n] - row[f"{n}_low"]], [row[f"{n}_high"] - row[n]]] for n in
                          ("subject_fidelity", "background_fidelity")]  # fmt: skip
                at = (x.iloc[place], y.iloc[place])
                axis.errorbar(*at, xerr=errors[0], yerr=errors[1], color=colour, lw=0.8, alpha=0.5)
                name = "all subject" if row["weight"] == 1 else "all background"
                axis.annotate(name, at, xytext=(6, 4), textcoords="offset points",
                              fontsize=7, color=colour)  # fmt: skip
        axis.set_xlabel("subject fidelity of the pick, gain over a random clip")
        axis.set_ylabel("background fidelity, gain")
        axis.legend()
    return figure


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
            lines, columns, figsize=(11, 0.34 * len(titles) * lines + 1.1 * lines), sharey=True, squeeze=False
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
            axis.set_title(name if measure == "preference_accuracy" else f"{name}, change")
        for axis in list(axes.flat)[len(measures) :]:
            axis.set_visible(False)
    return figure


def _line(axis: plt.Axes, table: pd.DataFrame, x: str, colour: str, label: str) -> None:
    """A line of `mean` with its interval from `low` to `high`."""
    axis.plot(table[x], table["mean"], color=colour, marker="o", ms=3, lw=1.2, label=label)
    axis.fill_between(table[x], table["low"], table["high"], color=colour, alpha=0.12, lw=0)
    axis.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)


def _bars(axis: plt.Axes, table: pd.DataFrame, *, x: str, hue: str) -> None:
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

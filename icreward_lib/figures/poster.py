"""Figures 1 to 6, which are the poster's, and those beside them."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icreward_lib.figures.appearance import COLOURS, NAMES, errors, interval_name, note, style
from icreward_lib.stats import Interval
from icreward_lib.video import Video

TINT = {"mlp": "black", "tie": "black", "icreward": "white"}  # digits that can be read on each colour


def paired_loss(
    pair: Mapping[str, Video], image: np.ndarray, prompt: str, logits: pd.DataFrame, *, chosen: str, trainings: int
) -> Figure:
    """Figure 1: what the paired loss compares, on one real pair, and where the held-out pairs lie on it.

    `pair` has "winner" (ICReward's pick) and "loser" (the MLP's) of the reference `image`, uint8 (H, W, 3); `chosen`
    says by which rule it stands for all. `logits` are of held-out pairs after the first of the trainings, column
    `logit`; before it, all are 0.
    """
    with style():
        figure = plt.figure(figsize=(11, 3.4))
        grid = figure.add_gridspec(2, 3, width_ratios=(1.3, 5, 3.6))
        axis = figure.add_subplot(grid[:, 0])
        axis.imshow(image, interpolation="bicubic")
        axis.set_title("reference", fontsize=8)
        axis.set_xlabel("\n".join([*wrap(f"“{prompt}”", 22), "", *wrap(chosen, 24)]), fontsize=7)
        _bare(axis)
        for row, side in enumerate(("winner", "loser")):
            frames = pair[side].frames
            shown = np.concatenate(list(frames[np.linspace(0, len(frames) - 1, 4).round().astype(int)]), axis=1)
            axis = figure.add_subplot(grid[row, 1])
            axis.imshow(shown, interpolation="bicubic")
            _bare(axis)
            axis.set_ylabel({"winner": "winner $x^w$", "loser": "loser $x^l$"}[side], fontsize=8)
            picker = NAMES["icreward" if side == "winner" else "mlp"]
            axis.set_title(f"{picker}'s pick, first to last frame", fontsize=8)
        values = logits["logit"].to_numpy()
        axis = figure.add_subplot(grid[:, 2])
        widest = max(1.0, float(np.abs(values).max()) * 1.05)
        z = np.linspace(-widest, widest, 200)
        top = float(np.logaddexp(0, widest))
        axis.plot(z, np.logaddexp(0, -z), color="black", lw=1.2)
        label = f"{len(values)} held-out pairs after training\n"
        label += f"(1st of {trainings}): {np.mean(values > 0):.0%} right of 0"
        axis.plot(values, np.full(len(values), -0.08 * top), "|", color=COLOURS["tuned"], ms=9, label=label)
        axis.axvline(0, color="#bbbbbb", lw=0.8, label="all pairs before training")
        axis.set_ylim(-0.16 * top, 1.05 * top)
        axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= top])
        axis.set_xlabel(r"$z=-\frac{\beta}{2}\,(\Delta^w-\Delta^l)$,  $\Delta=\|v_\theta-v\|^2-\|v_{ref}-v\|^2$")
        axis.set_ylabel(r"paired loss $-\log\sigma(z)$")
        axis.legend(loc="upper right", frameon=True, edgecolor="none")  # the line at 0 passes beneath it
    return figure


def _bare(axis: plt.Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def validation_mse(epochs: pd.DataFrame, final: pd.DataFrame, *, level: float) -> Figure:
    """Figure 2: validation MSE while training, and the error of the chosen epoch on validation and test.

    `epochs` has columns model, seed, epoch (1 ...), mse; `final` has model, split, mean, low, high, n (images).
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.4), width_ratios=(3, 2.4))
        for model, part in epochs.groupby("model", sort=False):
            seeds, last = part["seed"].nunique(), part["epoch"].max()
            label = f"{NAMES[str(model)]} ({seeds} trainings of {last} epoch{'' if last == 1 else 's'})"
            by_epoch, colour = part.groupby("epoch")["mse"], COLOURS[str(model)]
            left.plot(by_epoch.mean(), color=colour, marker="o", ms=3.5, lw=1.2, label=label)
            left.fill_between(by_epoch.min().index, by_epoch.min(), by_epoch.max(), color=colour, alpha=0.15, lw=0)
        left.set(xscale="log", yscale="log", xlabel="epoch (logarithmic)", ylabel="validation MSE of the IC score")
        ticks = [tick for tick in (1, 2, 3, 5, 10, 20, 40, 100) if tick <= epochs["epoch"].max()]
        left.set_xticks(ticks, [str(tick) for tick in ticks])
        left.minorticks_off()
        left.set_title("While training (line: mean, band: all trainings)")
        left.legend(loc="upper right")
        splits, models = list(dict.fromkeys(final["split"])), list(dict.fromkeys(final["model"]))
        for number, model in enumerate(models):
            part = final[final["model"] == model].set_index("split").loc[splits]
            place = np.arange(len(splits)) + (number - (len(models) - 1) / 2) * 0.8 / len(models)
            right.bar(place, part["mean"], 0.72 / len(models), yerr=errors(part), capsize=2, color=COLOURS[model],
                      label=NAMES[model], error_kw={"lw": 0.9})  # fmt: skip
        images = final.groupby("split")["n"].max()
        names = {"val": "validation,\nwhich chose the epoch", "test": "test"}
        right.set_xticks(range(len(splits)), [f"{names.get(s, s)} ({images[s]} images)" for s in splits])
        title = f"Epoch of least validation MSE\n({interval_name(level)}, images and trainings)"
        right.set(ylabel="MSE of the IC score", title=title)
    return figure


def showcase_clipsim(table: pd.DataFrame) -> Figure:
    """Figure 3: CLIPSim of the top-1 video of each picker on the showcase samples.

    The table has columns sample (title), pick, video (its number), clipsim; of single clips, so without intervals.
    """
    samples, picks = list(dict.fromkeys(table["sample"])), list(dict.fromkeys(table["pick"]))
    with style():
        figure, axis = plt.subplots(figsize=(7, 3.4))
        for number, pick in enumerate(picks):
            part = table[table["pick"] == pick].set_index("sample").loc[samples]
            places = np.arange(len(samples)) + 0.24 * (number - (len(picks) - 1) / 2)
            axis.plot(places, part["clipsim"], "o", ms=7, color=COLOURS[pick], label=NAMES[pick])
            for x, y, video in zip(places, part["clipsim"], part["video"], strict=True):
                axis.annotate(f"video {video}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=7)
        axis.set_xticks(range(len(samples)), samples)
        low, high = table["clipsim"].min(), table["clipsim"].max()
        pad = 0.15 * max(high - low, 0.02)
        axis.set(xlim=(-0.5, len(samples) - 0.5), ylim=(low - pad, high + 2 * pad))
        axis.set_ylabel("CLIPSim (image-image cosine)")
        axis.set_title("The best video by each picker; single clips; the axis does not start at 0")
        axis.legend(ncols=len(picks), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return figure


def preferences(table: pd.DataFrame, *, raters: int, left_out: int, source: str, level: float) -> Figure:
    """Figure 4: how many raters preferred which pick.

    The table has a row per sample, columns sample (title), mlp, icreward, tie (votes), share, low, high (Wilson's).
    `raters` count, and `left_out` more do not, by the rule of exclusion. `source`: "simulated" or "people".
    """
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.3), width_ratios=(3, 2))
        x, bottom = np.arange(len(table)), np.zeros(len(table))
        for arm in ("mlp", "tie", "icreward"):
            left.bar(x, table[arm], bottom=bottom, color=COLOURS[arm], label=NAMES[arm], width=0.6)
            for position, start, votes in zip(x, bottom, table[arm], strict=True):
                if votes:
                    left.text(position, start + votes / 2, str(int(votes)), ha="center", va="center", fontsize=10,
                              color=TINT[arm], weight="bold")  # fmt: skip
            bottom += table[arm].to_numpy()
        left.set_xticks(x, table["sample"])
        left.set_ylabel("raters")
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
        who = "SIMULATED raters" if source == "simulated" else "raters"
        but = f" ({left_out} of {raters + left_out} left out by the rule)" if left_out else ""
        left.set_title(f"{raters} {who} per sample{but}")
        left.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        right.errorbar(table["share"], x, xerr=errors(table, "share"), fmt="o", color=COLOURS["icreward"], capsize=3)
        right.axvline(0.5, color="#bbbbbb", lw=0.8)
        decided = (table["mlp"] + table["icreward"]).astype(int)
        right.set_yticks(x, [f"{title}\n({n} decided)" for title, n in zip(table["sample"], decided, strict=True)])
        right.set(xlim=(0, 1), ylim=(len(table) - 0.5, -0.5), xlabel="share for ICReward among decided votes")
        right.set_title(f"Wilson's {interval_name(level)}")
    return figure


def power_grid(table: pd.DataFrame, *, level: float) -> Figure:
    """How often a study sees a preference that is there: columns raters, pairs, rate (true wins), power, low, high."""
    with style():
        rates, pairs = sorted(table["rate"].unique()), sorted(table["pairs"].unique())
        figure, axes = plt.subplots(1, len(rates), figsize=(2.4 * len(rates), 3), sharey=True, squeeze=False)
        for axis, rate in zip(axes[0], rates, strict=True):
            groups = table[table["rate"] == rate].groupby("raters")
            for colour, (raters, part) in zip(sns.color_palette("crest", len(groups)), groups, strict=True):
                axis.plot(part["pairs"], part["power"], marker="o", ms=3, color=colour, label=f"{raters} raters")
                axis.fill_between(part["pairs"], part["low"], part["high"], color=colour, alpha=0.2, lw=0)
            axis.axhline(0.05 if rate == 0.5 else 0.8, color="#bbbbbb", lw=0.8)
            axis.set_title("no preference: false alarms" if rate == 0.5 else f"true win rate {rate:.2f}")
            axis.set_xscale("log")
            axis.set_xticks(pairs, [str(number) for number in pairs])
            axis.minorticks_off()
            axis.set(ylim=(0, 1), xlabel="pairs")
        axes[0, 0].set_ylabel("share of simulated studies\nthat report a preference")
        axes[0, 0].legend(loc="upper left")
        note(figure, f"Bands: {interval_name(level)} of the share", size=8)
    return figure


def preference_accuracy(curve: pd.DataFrame, poster: float, *, level: float) -> Figure:
    """Figure 5: held-out preference accuracy over training, and the one that the poster reports, as a dashed line.

    The curve has columns seed (a number, or "all", which has the intervals), step, accuracy, low, high, n_pairs.
    """
    colour = COLOURS["tuned"]
    with style():
        figure, axis = plt.subplots(figsize=(6, 3.4))
        alone = [part for seed, part in curve.groupby("seed") if seed != "all"]
        for number, part in enumerate(alone):
            label = f"each of {len(alone)} trainings" if number == 0 else None
            aside = 0.015 * curve["step"].max() * (number + 1)  # beside the mean, which would hide them
            axis.plot(part["step"] + aside, part["accuracy"], "x", color=colour, ms=5, label=label)
        mean = curve[curve["seed"] == "all"]
        axis.errorbar(mean["step"], mean["accuracy"], yerr=errors(mean, "accuracy"), fmt="o", ms=5, capsize=3,
                      color="black", label="mean")  # fmt: skip
        axis.axhline(poster, color="#777777", ls="--", lw=0.9, label=f"poster {poster:.2f}")
        axis.axhline(0.5, color="#bbbbbb", lw=0.8)
        axis.set(ylim=(0, 1), xticks=mean["step"], xlabel="optimizer step", ylabel="preference accuracy")
        pairs = f"{int(curve['n_pairs'].iloc[0])} held-out pairs"
        axis.set_title(f"{pairs}; {interval_name(level)} over images and trainings")
        axis.legend(loc="lower right", ncols=3)
    return figure


def running_wins(
    implicit: pd.DataFrame, samples: pd.DataFrame, clipsim: pd.DataFrame, change: Interval, *, level: float
) -> Figure:
    """Figure 6: running average of wins, by implicit reward while training and by new samples after it; and CLIPSim.

    `implicit` has columns evaluated, running, low, high: held-out pairs, of all evaluations after the start in a row.
    `samples` has these and judge: new clips of the tuned against the base generator, same seeds. `clipsim` has base and
    tuned, a row an image: CLIPSim of these clips; `change` is the mean of tuned less base.
    """
    with style():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.4, 3.7))
        _running(left, implicit, "tuned", "implicit reward")
        left.set(xlabel="held-out pairs evaluated, over all steps", ylabel="running average of wins")
        left.set_title(f"Implicit reward while training\n(bands: {interval_name(level)} over images)")
        for judge, part in samples.groupby("judge", sort=False):
            _running(middle, part, str(judge), f"by {NAMES[str(judge)]}: {part['running'].iloc[-1]:.2f} at the end")
        middle.set_xlabel("images with a new clip of each generator")
        middle.set_title("New samples: tuned wins against base\n(same seeds)")
        for axis in (left, middle):
            axis.axhline(0.5, color="#bbbbbb", lw=0.8)
            axis.set_ylim(0, 1)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18))
        right.plot(clipsim["base"], clipsim["tuned"], "o", ms=3.5, alpha=0.7, color=COLOURS["clipsim"])
        ends = [clipsim.min().min() - 0.02, clipsim.max().max() + 0.02]
        right.plot(ends, ends, color="#bbbbbb", lw=0.8)
        right.set(xlim=ends, ylim=ends, aspect="equal", xlabel="base generator", ylabel="tuned generator")
        right.set_title(f"CLIPSim of the same new clips ({len(clipsim)} images)\nmean change {change:+.3f}")
    return figure


def _running(axis: plt.Axes, table: pd.DataFrame, colour: str, label: str) -> None:
    axis.plot(table["evaluated"], table["running"], color=COLOURS[colour], label=label)
    axis.fill_between(table["evaluated"], table["low"], table["high"], color=COLOURS[colour], alpha=0.15, lw=0)


def label_histogram(generated: np.ndarray, added: np.ndarray) -> Figure:
    """Distribution of the label over the generated videos, and over the low-score additions."""
    with style():
        figure, axis = plt.subplots(figsize=(5.6, 3))
        bins = np.linspace(0, 1, 26).tolist()
        axis.hist(generated, bins, color=COLOURS["icreward"], label=f"generated (n={len(generated)})")
        axis.hist(added, bins, color=COLOURS["mlp"], alpha=0.8, label=f"low-score additions (n={len(added)})")
        axis.set(yscale="log", xlabel="IC label (0: another image, 1: frozen copy)", ylabel="videos (logarithmic)")
        axis.legend(loc="upper left")
    return figure


def consistency_overlay(videos: Mapping[str, Video], maps: Sequence[np.ndarray], columns: int = 6) -> Figure:
    """Where clips depart from their image: `columns` frames above, ICReward's consistency map (0 red, 1 blue) below.

    `videos` are by title; `maps` "t h w" in [0, 1], one for each.
    """
    with style():
        size = (1.25 * columns + 0.8, 2.6 * len(videos))
        figure, axes = plt.subplots(2 * len(videos), columns, figsize=size, squeeze=False)
        picture: Any = None
        for row, ((title, video), values) in enumerate(zip(videos.items(), maps, strict=True)):
            for column, t in enumerate(np.linspace(0, video.num_frames - 1, columns).round().astype(int)):
                top, bottom = axes[2 * row, column], axes[2 * row + 1, column]
                top.imshow(video.frames[t])
                bottom.imshow(video.frames[t].mean(-1), cmap="gray", alpha=0.4)
                picture = bottom.imshow(values[t], cmap="RdBu", vmin=0, vmax=1, alpha=0.65)
                top.set_axis_off()
                bottom.set_axis_off()
                top.set_title(f"t = {t}", fontsize=7)
            axes[2 * row, 0].set_title(title, fontsize=7, loc="left")
        figure.colorbar(picture, ax=axes, shrink=0.5, label="consistency")
    return figure

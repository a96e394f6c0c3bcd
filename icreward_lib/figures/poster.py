"""Figures 1 to 6, which are the poster's, and those beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from icreward_lib.figures.appearance import COLOURS, NAMES, bars, style
from icreward_lib.video import Video


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
        axis.legend(loc="upper right", frameon=True, edgecolor="none")  # the line at 0 passes beneath it
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
        bars(right, final, x="split", hue="model")
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
        bars(axis, table, x="sample", hue="pick")
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
        left.yaxis.get_major_locator().set_params(integer=True)
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

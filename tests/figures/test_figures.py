"""Every figure draws what it is given."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from icreward_lib import figures
from icreward_lib.stats import Interval
from icreward_lib.video import Video

matplotlib.use("Agg")
CLIP = Video(np.random.default_rng(0).integers(0, 255, (17, 16, 16, 3), np.uint8), 8.0)


@pytest.fixture(autouse=True)
def closed() -> object:
    yield
    plt.close("all")


LEVEL = 0.95


def heights(figure: Figure, axis: int) -> list[float]:
    return [round(patch.get_height(), 6) for patch in figure.axes[axis].patches]


def title(figure: Figure, axis: int = 0) -> str:
    return figure.axes[axis].get_title(loc="left")


def points(figure: Figure, axis: int = 0) -> list[list[float]]:
    """The heights of every line with more than one point, but for lines that only guide the eye."""
    lines = figure.axes[axis].lines
    return [[round(float(y), 6) for y in line.get_ydata()] for line in lines if line.get_marker() not in ("None", "")]


def test_validation_mse_says_how_long_both_trained_and_on_how_many_images() -> None:
    mlp, icreward = {"seed": [0, 0, 1, 1], "epoch": [1, 2] * 2}, {"seed": [0, 1], "epoch": [1, 1]}
    epochs = pd.concat(
        [
            pd.DataFrame({"model": "mlp", **mlp, "mse": 0.02}),
            pd.DataFrame({"model": "icreward", **icreward, "mse": 0.01}),
        ]
    )
    final = pd.DataFrame(
        {"model": ["mlp", "icreward"], "split": "val", "mean": [0.02, 0.01], "low": 0.005, "high": 0.03, "n": 40}
    )
    figure = figures.validation_mse(epochs, final, level=LEVEL)
    assert points(figure) == [[0.02, 0.02], [0.01]] and heights(figure, 1) == [0.02, 0.01]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["MLP on CLIP (2 trainings of 2 epochs)", "ICReward (2 trainings of 1 epoch)"]
    assert "40 images" in figure.axes[1].get_xticklabels()[0].get_text() and "95 %" in title(figure, 1)


def test_preferences_say_that_raters_are_simulated_and_how_many_are_left_out() -> None:
    table = pd.DataFrame(
        {
            "sample": ["a", "b"],
            "mlp": [5, 2],
            "icreward": [12, 18],
            "tie": [3, 0],
            "share": 0.7,
            "low": 0.5,
            "high": 0.9,
        }
    )
    figure = figures.preferences(table, raters=19, left_out=1, source="simulated", level=LEVEL)
    assert heights(figure, 0) == [5, 2, 3, 0, 12, 18]
    assert title(figure) == "19 SIMULATED raters per sample (1 of 20 left out by the rule)"
    assert figure.axes[1].get_yticklabels()[0].get_text() == "a\n(17 decided)"
    people = figures.preferences(table, raters=20, left_out=0, source="people", level=LEVEL)
    assert title(people) == "20 raters per sample"


def test_power_has_a_panel_for_every_rate_and_a_line_for_every_number_of_raters() -> None:
    rows = [(raters, pairs, rate) for rate in (0.5, 0.6) for raters in (5, 10, 20) for pairs in (25, 50)]
    table = pd.DataFrame(rows, columns=["raters", "pairs", "rate"]).assign(power=0.4, low=0.3, high=0.5)
    figure = figures.power_grid(table, level=LEVEL)
    assert [title(figure, n) for n in range(2)] == ["no preference: false alarms", "true win rate 0.60"]
    assert [list(line.get_xdata()) for line in figure.axes[1].lines[:3]] == [[25, 50]] * 3


def test_showcase_clipsim_are_points_that_name_their_video() -> None:
    table = pd.DataFrame({"sample": "a", "pick": ["mlp", "icreward"], "video": [3, 0], "clipsim": [0.8, 0.9]})
    figure = figures.showcase_clipsim(table)
    assert points(figure) == [[0.8], [0.9]]
    assert [text.get_text() for text in figure.axes[0].texts] == ["video 3", "video 0"]


def test_curves() -> None:
    parts = {"all": [0.5, 0.7], "0": [0.5, 0.6], "1": [0.5, 0.8]}
    columns = {"step": [0, 10], "low": 0.4, "high": 0.8, "n_pairs": 100}
    curve = pd.concat([pd.DataFrame({"seed": seed, "accuracy": line, **columns}) for seed, line in parts.items()])
    figure = figures.preference_accuracy(curve, poster=0.83, level=LEVEL)
    assert points(figure)[:3] == [[0.5, 0.6], [0.5, 0.8], [0.5, 0.7]]
    assert title(figure) == "100 held-out pairs; 95 % intervals over images and trainings"
    running = pd.DataFrame({"evaluated": [2, 3], "running": [0.5, 0.6], "low": 0.3, "high": 0.9})
    clipsim = pd.DataFrame({"base": [0.9, 0.8], "tuned": [0.8, 0.7]})
    change = Interval(-0.1, -0.2, -0.05, 2)
    figure = figures.running_wins(running, running.assign(judge="mlp"), clipsim, change, level=LEVEL)
    assert title(figure, 2) == "CLIPSim of the same new clips (2 images)\nmean change -0.100 [-0.200, -0.050]"
    assert figure.axes[1].get_legend().get_texts()[0].get_text() == "by MLP on CLIP: 0.60 at the end"


def test_pictures() -> None:
    logits = pd.DataFrame({"logit": [-0.5, 1.5]})
    pair = {"winner": CLIP, "loser": CLIP}
    figure = figures.paired_loss(pair, CLIP.frames[0], "a star", logits, chosen="the widest margin", trainings=2)
    assert "(1st of 2): 50% right of 0" in figure.axes[3].get_legend().get_texts()[0].get_text()
    figures.consistency_overlay({"one": CLIP, "two": CLIP}, [np.ones((17, 16, 16))] * 2)


def test_additions_are_seen_beside_many_more_videos() -> None:
    figure = figures.label_histogram(np.full(1500, 0.9), np.array([0.1]))
    assert figure.axes[0].get_yscale() == "log" and sorted(h for h in heights(figure, 0) if h) == [1, 1500]


def test_intervals_in_tables_keep_their_order() -> None:
    rows = pd.DataFrame({"a": ["y", "y", "x"], "b": ["q", "p", "q"], "mean": [0.5, 0.25, 1], "low": 0, "high": 1})
    table = figures.pivot_intervals(rows, "a", "b", ".2f")
    assert table.index.tolist() == ["y", "x"] and table.columns.tolist() == ["q", "p"]
    assert table.loc["y"].tolist() == ["0.50 [0.00, 1.00]", "0.25 [0.00, 1.00]"] and table.loc["x", "p"] == ""
    wide = pd.DataFrame({"n": [3], "fvd": [1.5], "fvd_low": [1], "fvd_high": [2]})
    assert figures.join_intervals(wide, ".1f").to_dict("records") == [{"fvd": "1.5 [1.0, 2.0]"}]


def test_probes_say_in_bold_what_is_certain() -> None:
    rows = [("clipsim", "a", 0.9, 0.8), ("clipsim", "b", 0.5, 0.4), ("mlp", "a", 0.1, 0.0), ("mlp", "b", 0.6, 0.45)]
    table = pd.DataFrame(rows, columns=["metric", "kind", "mean", "low"])
    table["high"] = table["mean"] + (table["mean"] - table["low"])
    table["n"] = [8, 6, 8, 6]
    figure = figures.probes(table, {"b": "Second", "a": "First", "none": "No such column"}, level=LEVEL)
    shown = [(text.get_text(), text.get_fontweight()) for text in figure.axes[0].texts]
    assert "6 to 8 scenes" in figure.axes[0].get_title(loc="left")
    assert shown == [("0.50", "normal"), ("0.90", "bold"), ("0.60", "normal"), ("0.10", "bold")]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["Second", "First"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["CLIPSim", "MLP on CLIP"]


def test_over_optimisation_shows_a_line_a_score_and_how_many_images_it_is_over() -> None:
    rows = [
        {"pick": pick, "judge": judge, "n": n, "mean": gain * n, "low": 0.0, "high": gain * n + 1, "samples": 7}
        for pick, gain in (("mlp", 0.1), ("icreward", 0.2))
        for judge in ("itself", "subject_fidelity")
        for n in (1, 2, 4)
    ]
    steps = [
        {"judge": j, "step": s, "mean": s, "low": 0, "high": s, "samples": 9}
        for j in ("itself", "subject_fidelity")
        for s in (0, 5)
    ]
    figure = figures.over_optimisation(pd.DataFrame(rows), pd.DataFrame(steps), level=LEVEL)
    assert points(figure, 1) == [[0.1, 0.2, 0.4], [0.2, 0.4, 0.8]] and title(figure, 1) == "subject fidelity"
    assert points(figure, 3) == [[0, 5]] and "95 %" in figure.get_suptitle()
    assert "7 images" in figure.axes[0].get_ylabel() and "9 images" in figure.axes[2].get_ylabel()


def test_the_trade_off_has_a_panel_a_question_and_a_line_a_reward() -> None:
    def along(x: str, y: str) -> pd.DataFrame:
        table = pd.DataFrame(
            {"reward": "robust", "n": 7, "weight": [0.0, 0.5, 1.0], x: [0.1, 0.2, 0.3], y: [0.3, 0.2, 0.1]}
        )
        return table.assign(
            **{f"{n}_{end}": table[n] + way for n in (x, y) for end, way in (("low", -0.1), ("high", 0.1))}
        )

    told, kept = along("subject", "background"), along("subject_fidelity", "background_fidelity")
    figure = figures.weight_trade_off(told, kept, level=LEVEL)
    assert [points(figure, n) for n in range(4)] == [[[0.1, 0.2, 0.3]], [[0.3, 0.2, 0.1]]] * 2
    assert "(7 scenes)" in title(figure, 0) and "(7 images)" in title(figure, 3)


def test_rules_have_a_panel_a_measure_in_their_order() -> None:
    rows = [
        {"rule": rule, "measure": measure, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 5}
        for rule, mean in (("random", 0.5), ("poster", 0.6))
        for measure in ("preference_accuracy", "label")
    ]
    figure = figures.rules(pd.DataFrame(rows), {"poster": "Poster", "random": "Random"}, level=LEVEL)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown] == [
        "held-out preference accuracy\n(n = 5)",
        "IC label\n(change, n = 5)",
    ]
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["Poster", "Random"]
    assert list(shown[0].lines[0].get_xdata()) == [0.6, 0.5]
    assert "4 of them and none corrected" in figure.get_suptitle()

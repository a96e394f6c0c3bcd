"""Every figure draws what it is given."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from icreward_lib import figures
from icreward_lib.video import Video

matplotlib.use("Agg")
CLIP = Video(np.random.default_rng(0).integers(0, 255, (17, 16, 16, 3), np.uint8), 8.0)


@pytest.fixture(autouse=True)
def closed() -> object:
    yield
    plt.close("all")


def heights(figure: Figure, axis: int) -> list[float]:
    return [round(patch.get_height(), 6) for patch in figure.axes[axis].patches]


def test_validation_mse() -> None:
    epochs = pd.DataFrame(
        {"model": ["mlp"] * 4 + ["icreward"] * 4, "seed": [0, 0, 1, 1] * 2, "share": [0.5, 1] * 4, "mse": 0.01}
    )
    final = pd.DataFrame(
        {"model": ["mlp", "icreward"], "split": "val", "mean": [0.02, 0.01], "low": 0.005, "high": 0.03, "level": 0.95}
    )
    assert heights(figures.validation_mse(epochs, final), 1) == [0.02, 0.01]


def test_preferences_say_that_raters_are_simulated() -> None:
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
    figure = figures.preferences(table, raters=20, source="simulated")
    assert heights(figure, 0) == [5, 2, 3, 0, 12, 18]
    assert "SIMULATED" in figure.axes[0].get_title(loc="left")
    assert "SIMULATED" not in figures.preferences(table, raters=20, source="people").axes[0].get_title(loc="left")


def test_power_has_a_panel_for_every_rate_and_a_line_for_every_number_of_raters() -> None:
    rows = [(raters, pairs, rate) for rate in (0.5, 0.6) for raters in (5, 10, 20) for pairs in (25, 50)]
    table = pd.DataFrame(rows, columns=["raters", "pairs", "rate"]).assign(power=0.4, low=0.3, high=0.5)
    figure = figures.power_grid(table)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["no preference", "true win rate 0.60"]
    assert [list(line.get_xdata()) for line in figure.axes[1].lines[:3]] == [[25, 50]] * 3


def test_showcase_clipsim() -> None:
    table = pd.DataFrame(
        {
            "sample": ["a", "a"],
            "pick": ["mlp", "icreward"],
            "mean": [0.8, 0.9],
            "low": [0.7, 0.85],
            "high": [0.85, 0.95],
        }
    )
    assert heights(figures.showcase_clipsim(table), 0) == [0.8, 0.9]


def test_curves() -> None:
    parts = {"all": [0.5, 0.7], "0": [0.5, 0.6], "1": [0.5, 0.8]}
    columns = {"step": [0, 10], "low": 0.4, "high": 0.8, "n_pairs": 100}
    curve = pd.concat([pd.DataFrame({"seed": seed, "accuracy": line, **columns}) for seed, line in parts.items()])
    lines = figures.preference_accuracy(curve, poster=0.83).axes[0].lines
    assert [list(line.get_ydata()) for line in lines[:3]] == [[0.5, 0.6], [0.5, 0.8], [0.5, 0.7]]
    running = pd.DataFrame({"evaluated": [2, 3], "judge": "icreward", "running": [0.5, 0.6], "low": 0.3, "high": 0.9})
    implicit = pd.DataFrame({"evaluated": [1, 2], "step": [0, 0], "running": [0.5, 0.5]})
    assert len(figures.running_wins(implicit, running).axes) == 2


def test_pictures() -> None:
    logits = pd.DataFrame({"logit": [-0.5, 1.5]})
    figures.paired_loss({"winner": CLIP, "loser": CLIP}, CLIP.frames[0], "a star", logits)
    figures.consistency_overlay({"one": CLIP, "two": CLIP}, [np.ones((17, 16, 16))] * 2)
    figures.label_histogram(np.array([0.5]), np.array([0.5, 0.1]))


def test_probes_say_in_bold_what_is_certain() -> None:
    rows = [("clipsim", "a", 0.9, 0.8), ("clipsim", "b", 0.5, 0.4), ("mlp", "a", 0.1, 0.0), ("mlp", "b", 0.6, 0.45)]
    table = pd.DataFrame(rows, columns=["metric", "kind", "mean", "low"])
    table["high"] = table["mean"] + (table["mean"] - table["low"])
    table["n"] = [8, 6, 8, 6]
    figure = figures.probes(table, {"b": "Second", "a": "First", "none": "No such column"})
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
    figure = figures.over_optimisation(pd.DataFrame(rows), pd.DataFrame(steps))
    above, below = figure.axes[1], figure.axes[3]
    assert [list(line.get_ydata()) for line in above.lines[::2]] == [[0.1, 0.2, 0.4], [0.2, 0.4, 0.8]]
    assert list(below.lines[0].get_xdata()) == [0, 5] and above.get_title(loc="left") == "subject fidelity"
    assert "7 images" in figure.axes[0].get_ylabel() and "9 images" in figure.axes[2].get_ylabel()


def test_the_trade_off_is_a_path_from_background_to_subject() -> None:
    def along(x: str, y: str) -> pd.DataFrame:
        table = pd.DataFrame(
            {"reward": "robust", "n": 7, "weight": [0.0, 0.5, 1.0], x: [0.1, 0.2, 0.3], y: [0.3, 0.2, 0.1]}
        )
        return table.assign(
            **{f"{n}_{end}": table[n] + way for n in (x, y) for end, way in (("low", -0.1), ("high", 0.1))}
        )

    told, kept = along("subject", "background"), along("subject_fidelity", "background_fidelity")
    for axis in figures.weight_trade_off(told, kept).axes:
        assert list(axis.lines[0].get_xdata()) == [0.1, 0.2, 0.3] and list(axis.lines[0].get_ydata()) == [0.3, 0.2, 0.1]
        assert [text.get_text() for text in axis.texts] == ["all background", "all subject"]
        assert "(7 " in axis.get_title(loc="left")


def test_rules_have_a_panel_a_measure_in_their_order() -> None:
    rows = [
        {"rule": rule, "measure": measure, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 5}
        for rule, mean in (("random", 0.5), ("poster", 0.6))
        for measure in ("preference_accuracy", "label")
    ]
    figure = figures.rules(pd.DataFrame(rows), {"poster": "Poster", "random": "Random"})
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown] == [
        "held-out preference accuracy\n(n = 5)",
        "IC label\n(change, n = 5)",
    ]
    assert [label.get_text() for label in shown[0].get_yticklabels()] == ["Poster", "Random"]
    assert list(shown[0].lines[0].get_xdata()) == [0.6, 0.5]

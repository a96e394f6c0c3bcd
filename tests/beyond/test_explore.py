"""The explorer: its tables follow from the scores, and what its views show follows their controls."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_vlm import build_vlm

from icreward_lib.beyond import explore_widgets as views_module
from icreward_lib.beyond.explore import Material, agreement, disagreements, picks_by_weight, ranking
from icreward_lib.beyond.explore_widgets import (
    TITLES,
    PairView,
    SampleView,
    consistency_maps,
    frame_scores,
    map_sheet,
    overlay,
)
from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel
from icreward_lib.video import Video

SAMPLES, VIDEOS, GROUPS = 6, 3, 2


def clips_of(position: int) -> tuple[np.ndarray, list[Video]]:
    rng = np.random.default_rng(position)
    videos = [Video(rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8), 8.0) for _ in range(VIDEOS)]
    return videos[0].frames[0], videos


@pytest.fixture
def material() -> Material:
    rng = np.random.default_rng(0)
    groups = rng.random((SAMPLES, VIDEOS, GROUPS, 2)).astype(np.float32)
    groups[0] = np.array([[0.9, 0.1], [0.5, 0.4], [0.1, 0.9]])[:, None]  # subject: video 0; background: video 2
    parts = {d: groups.mean(2)[..., number] for number, d in enumerate(("subject", "background"))}
    samples: list[Any] = [
        SimpleNamespace(id=100 + i, title="a <b>", prompt=f"prompt {i} & more") for i in range(SAMPLES)
    ]
    return Material(
        samples=samples,
        scores={name: rng.random((SAMPLES, VIDEOS)) for name in TITLES},
        parts={"icreward": parts, "label": {d: rng.random((SAMPLES, VIDEOS)) for d in parts}},
        weight=0.5,
        groups=groups,
        tokens=rng.random((SAMPLES, VIDEOS, GROUPS, 2, 2, 2)).astype(np.float32),
        clips=clips_of,
    )


def test_the_weight_decides_the_order_and_equal_videos_stay_in_theirs() -> None:
    parts = {"subject": np.array([0.9, 0.5, 0.1]), "background": np.array([0.1, 0.5, 0.9])}
    assert ranking(parts, 1.0)["video"].tolist() == [0, 1, 2]
    assert ranking(parts, 0.0)["video"].tolist() == [2, 1, 0]
    tied = ranking(parts, 0.5)
    assert tied["video"].tolist() == [0, 1, 2] and tied["score"].tolist() == [0.5] * 3
    assert ranking(parts, 0.75)["score"].iloc[0] == pytest.approx(0.75 * 0.9 + 0.25 * 0.1)
    assert tied.index.tolist() == [1, 2, 3]


def test_picks_move_where_subject_and_background_disagree() -> None:
    parts = {"subject": np.array([[0.9, 0.1], [0.8, 0.3]]), "background": np.array([[0.2, 0.7], [0.6, 0.2]])}
    assert picks_by_weight(parts, [0.0, 0.5, 1.0], 0.5).to_dict() == {0.0: 0.5, 0.5: 0.0, 1.0: 0.0}


def test_a_disagreement_is_a_low_correlation_or_a_costly_pick() -> None:
    first = np.array([[0.1, 0.2, 0.3, 0.9], [0.1, 0.2, 0.3, 0.9], [0.1, 0.2, 0.8, 0.9]])
    second = np.array([[0.2, 0.3, 0.4, 0.8], [0.9, 0.5, 0.4, 0.1], [0.1, 0.2, 0.9, 0.8]])
    table = disagreements(first, second)
    assert table.index.tolist() == [1, 2, 0]
    assert table["correlation"].tolist() == pytest.approx([-1, 0.8, 1])
    assert table.loc[1, ["pick_first", "pick_second"]].tolist() == [3, 0]
    spread = [np.sqrt(values.var(1).mean()) for values in (first, second)]
    assert table["cost"].tolist() == pytest.approx(
        [0.8 / spread[0] + 0.8 / spread[1], 0.1 * sum(1 / np.array(spread)), 0]
    )


def test_a_metric_that_says_one_thing_of_all_videos_comes_last_and_costs_nothing() -> None:
    first = np.array([[0.5, 0.5], [0.1, 0.2]])
    table = disagreements(first, np.array([[0.1, 0.2], [0.3, 0.4]]), "correlation")
    assert table.index.tolist() == [1, 0] and np.isnan(table["correlation"].iloc[-1])
    same = disagreements(np.ones((2, 2)), np.ones((2, 2)))
    assert same["cost"].tolist() == [0, 0]


def test_both_orders_put_their_own_worst_first() -> None:
    first = np.array([[0.1, 0.5, 0.5001], [0.9, 0.2, 0.1]])
    second = np.array([[0.3, 0.2, 0.1], [0.1, 0.9, 0.2]])
    by_correlation, by_cost = (disagreements(first, second, order) for order in ("correlation", "cost"))
    assert by_correlation["correlation"].is_monotonic_increasing and by_cost["cost"].is_monotonic_decreasing
    assert by_correlation.index[0] == 0 and by_cost.index[0] == 1


def test_agreement_is_the_mean_inside_samples_and_missing_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((8, 4))
    scores = {"a": a, "double": 2 * a, "turned": -a, "constant": np.ones((8, 4))}
    table = agreement(scores, seed=0, draws=50, level=0.95).set_index(["first", "second"])
    assert len(table) == 6
    assert table.loc[("a", "double"), ["mean", "same_pick", "n"]].tolist() == [1, 1, 8]
    assert table.loc[("a", "turned"), ["mean", "same_pick"]].tolist() == [-1, 0]
    assert table.loc[("a", "constant"), "n"] == 0 and not table.loc[("a", "constant"), "mean"] == 0
    assert agreement({"a": a, "constant": np.ones((8, 4))}, seed=0, draws=50, level=0.95)["mean"].tolist() == [None]


def test_maps_and_frame_scores_are_those_of_the_reward_itself(tmp_path: Path) -> None:
    reward = ICRewardModel.create(
        build_vlm(tmp_path), ICRewardConfig(num_frames=4, head_size=32, head_attention=2, lora_rank=4), seed=0
    )
    with torch.no_grad():
        for parameter in reward.head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    videos = [Video(rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8.0) for _ in range(2)]
    image = videos[0].frames[0]
    tokens, reference = reward.encode_videos(videos), reward.encode_images([image])
    with torch.no_grad():
        found = reward.compare(tokens, reference.expand(2, -1, -1, -1))
    maps = consistency_maps(found.tokens.reshape(*tokens.shape[:4], 2).numpy(), 0.5, (9, 32, 32))
    np.testing.assert_allclose(maps, reward.consistency_maps(image, videos), atol=1e-5)
    np.testing.assert_allclose(
        frame_scores(found.groups.numpy(), 0.25, 9), reward.score(image, videos, weights=(0.25, 0.75)).frames, atol=1e-5
    )


def test_what_is_kept_is_blue_and_what_is_not_is_red() -> None:
    video = Video(np.full((2, 4, 4, 3), 128, np.uint8), 8.0)
    kept, left = (overlay(video, np.full((2, 4, 4), value)).frames[0, 0, 0].astype(int) for value in (1.0, 0.0))
    assert kept[2] > kept[0] + 20 and left[0] > left[2] + 20


def order_shown(view: SampleView) -> list[str]:
    """The videos of the first ranking, from the HTML that is shown."""
    ranked = view.tables.value.split(f"<b>{TITLES['icreward']}</b>")[1].split("</table>")[0]
    return [row.split("</td>")[1].removeprefix("<td>") for row in ranked.split("<tr>")[1:]]


def test_moving_the_slider_changes_the_ranking_and_the_maps_and_plays_on(material: Material) -> None:
    view = SampleView(material)
    assert order_shown(view) == ["video 0", "video 2", "video 1"]
    players, sheet = view.players.value, view.picture
    view.weight.value = 0.0
    assert order_shown(view) == ["video 2", "video 1", "video 0"]
    assert "▲1" in view.tables.value and "▼2" in view.tables.value
    assert "subject at 0.00" in view.tables.value
    assert view.picture != sheet and view.players.value == players  # nothing is encoded again
    view.weight.value = 1.0
    assert order_shown(view) == ["video 0", "video 1", "video 2"]


def test_choosing_a_sample_changes_everything_and_keeps_the_weight(material: Material) -> None:
    view = SampleView(material)
    assert view.sample.options[0] == ("sample 100: a <b>", 0)
    before = view.tables.value, view.players.value, view.picture
    view.weight.value = 0.25
    view.sample.value = 3
    assert view.weight.value == 0.25
    for old, new in zip(before, (view.tables.value, view.players.value, view.picture), strict=True):
        assert old != new
    assert "prompt 3 &amp; more" in view.tables.value and view.players.value.count("<video src=") == VIDEOS
    best = int(material.scores["mlp"][3].argmax())
    assert f"<b>{material.scores['mlp'][3, best]:.3f}</b>" in view.tables.value


def test_the_picture_has_a_row_a_video(material: Material) -> None:
    picture = np.asarray(Image.open(io.BytesIO(SampleView(material).picture)).convert("RGB"))
    made = map_sheet(material, 0, 0.5)
    assert picture.shape == made.shape and np.abs(picture.astype(float) - made).mean() < 40  # it has 256 colours
    halves = [half.astype(float).std(0).mean() for half in np.array_split(made, 2, axis=1)]
    assert halves[1] < halves[0]  # frames are noise here, and maps smooth


def test_two_metrics_show_their_worst_samples_in_the_order_that_is_chosen(material: Material) -> None:
    view = PairView(material, "clipsim", "mlp")
    for names, order in (
        (("clipsim", "mlp"), "correlation"),
        (("label", "robust"), "correlation"),
        (("label", "robust"), "cost"),
    ):
        view.first.value, view.second.value, view.order.value = *names, order
        table = disagreements(*(material.scores[name] for name in names), order)
        places = [view.tables.value.index(f"sample {100 + i}: ") for i in table.index]
        assert places == sorted(places)
        assert f"{TITLES[names[0]]} picks video" in view.tables.value
        worst = table.iloc[0]
        assert (
            f"sample {100 + table.index[0]}: a &lt;b&gt;, {TITLES[names[1]]}&#x27;s pick {int(worst['pick_second'])}"
            in view.players.value
        )
        assert view.picture.startswith(b"\x89PNG")


def test_a_metric_agrees_with_itself(material: Material) -> None:
    view = PairView(material, "label", "label")
    assert view.tables.value.count("<td>1.00</td>") == SAMPLES


def test_without_a_kernel_the_first_state_stands_for_itself(material: Material) -> None:
    for view in (SampleView(material), PairView(material)):
        bundle = view._repr_mimebundle_()
        assert "application/vnd.jupyter.widget-view+json" in bundle
        assert bundle["text/plain"].endswith("(the controls need a kernel)")
        assert "<source" not in view.html and "<script" not in view.html and "<video src=" in view.html
        assert "a <b>" not in view.html


def test_a_view_never_displays_from_an_observer() -> None:
    """`widgets.Output` with display inside observers waits for ever under papermill."""
    source = Path(views_module.__file__).read_text(encoding="utf-8")
    assert "Output(" not in source and "display(" not in source

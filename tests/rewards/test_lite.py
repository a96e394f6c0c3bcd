"""ICReward lite, its training, and the gauge of what the sticker world looks like: as shipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from support import ROOT

from icreward_lib.laptop import domain_gauge, icreward_lite, train
from icreward_lib.laptop.loop import LoopConfig
from icreward_lib.rewards.domain import Domain
from icreward_lib.rewards.lite import ICRewardLite, LiteConfig
from icreward_lib.video import Video
from icreward_lib.world.scenes import render, sample_scenes

SHIPPED = ROOT / "checkpoints" / "laptop"
TINY = icreward_lite.LiteTraining(
    model=LiteConfig(input_size=64, head_size=8, head_attention=2), batch_size=3, judged=3,
    loop=LoopConfig(steps=2, lr=1e-3, warmup=1, ema=0.5, save_every=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> ICRewardLite:
    return ICRewardLite.from_pretrained(SHIPPED / "icreward-lite")


def held_out_clip() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photograph that no lesson shows, a pan over it, and a clip that turns into something else."""
    photo, other = skimage.data.retina()[400:1000:4, 400:1000:4], skimage.data.gravel()[:150:1, :150]
    pan = np.stack([photo[x : x + 120, x : x + 120] for x in range(0, 30, 4)])
    weight = np.linspace(0, 1, len(pan))[:, None, None, None]
    turning = ((1 - weight) * pan + weight * other[None, :120, :120, None]).astype(np.uint8)
    return pan[0], pan, turning


def test_what_keeps_the_image_scores_above_what_turns_into_something_else(shipped: ICRewardLite) -> None:
    image, pan, turning = held_out_clip()
    scores = shipped.score(image, [Video(pan, 8.0), Video(turning, 8.0)])
    assert scores.overall[0] > scores.overall[1] + 0.15
    assert scores.frames.shape == (2, len(pan)) and scores.frames[1, 0] > scores.frames[1, -1] + 0.3
    maps = shipped.consistency_maps(image, [Video(pan, 8.0), Video(turning, 8.0)])
    assert maps.shape == (2, len(pan), 10, 10) and maps[1, -1].mean() < maps[0, -1].mean() - 0.2


@pytest.mark.property
def test_a_score_depends_on_nobody_else_in_the_batch(shipped: ICRewardLite) -> None:
    image, pan, turning = held_out_clip()
    clips = [Video(clip, 8.0) for clip in (pan, turning, pan[::-1])]
    together, reversed_ = shipped.score(image, clips), shipped.score(image, clips[::-1])
    alone = [shipped.score(image, [clip]).overall[0] for clip in clips]
    np.testing.assert_allclose(together.overall, alone, atol=1e-5)
    np.testing.assert_allclose(together.overall, reversed_.overall[::-1], atol=1e-5)


def test_long_clips_are_read_in_parts_and_weights_choose_a_dimension(shipped: ICRewardLite) -> None:
    image, pan, _ = held_out_clip()
    long = Video(pan.repeat(6, axis=0), 8.0)
    subject = replace(shipped.config, weights=(1.0, 0.0))
    scores = ICRewardLite(subject, seed=0).score(image, [long])
    assert scores.frames.shape == (1, 48)
    assert scores.overall[0] == pytest.approx(scores.dimensions["subject"][0], abs=1e-6)
    assert scores.overall == pytest.approx(scores.frames.mean(1), abs=1e-6)
    with pytest.raises(ValueError, match="one length and size"):
        shipped.score(image, [long, Video(pan, 8.0)])


def test_what_is_saved_is_what_is_loaded(shipped: ICRewardLite, tmp_path: Path) -> None:
    image, pan, _ = held_out_clip()
    shipped.save_pretrained(tmp_path / "copy")
    copy = ICRewardLite.from_pretrained(tmp_path / "copy")
    assert copy.config == shipped.config
    assert copy.score(image, [Video(pan, 8.0)]).overall == shipped.score(image, [Video(pan, 8.0)]).overall
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        ICRewardLite.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrong", [{"input_size": 100}, {"num_frames": 0}, {"weights": (0.5, 0.6)}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        LiteConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_examples_are_drawn_from_their_seed_and_labelled_by_what_was_done() -> None:
    first, second = (icreward_lite.examples(60, TINY, seed=5) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert first.clips.shape == (60, 4, 64, 64, 3) and first.labels.shape == (60, 4, 2)
    assert (np.diff(first.labels, axis=1) <= 0).all()
    kept, strange = (first.labels == 1).all((1, 2)), (first.labels == 0).all((1, 2))
    assert kept.any() and strange.any() and not (kept | strange).all()
    away = np.abs(first.clips[:, -1].astype(float) - first.images).mean((1, 2, 3))
    assert away[strange].mean() > away[kept].mean()


@pytest.mark.slow
def test_training_is_resumed_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = icreward_lite.examples

    def interrupted(*arguments: Any, seed: int, **others: Any) -> icreward_lite.LiteExamples:
        if seed == 1:
            raise KeyboardInterrupt
        return examples(*arguments, seed=seed, **others)

    whole = icreward_lite.train(tmp_path / "whole", tmp_path / "a", TINY)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(icreward_lite, "examples", interrupted)
        icreward_lite.train(tmp_path / "parts", tmp_path / "b", TINY)
    again = icreward_lite.train(tmp_path / "parts", tmp_path / "b", TINY)
    assert whole["unseen_mse"] > 0 and set(whole) == set(again)
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2]


@pytest.mark.slow
def test_the_gauge_knows_its_own_and_warns_of_photographs() -> None:
    gauge = Domain.from_pretrained(SHIPPED / "domain")
    scenes = render(sample_scenes(20, seed=77)).frames
    own = [gauge.warning(frames[0], [Video(frames, 8.0)]) for frames in scenes]
    assert sum(warning is not None for warning in own) <= 2
    image, pan, _ = held_out_clip()
    said = gauge.warning(image, [Video(pan, 8.0)])
    assert said is not None and said.startswith("out of domain: ") and "do not trust" in said
    with_text = np.stack([skimage.data.text()] * 3, axis=-1)
    assert gauge.warning(with_text, [Video(with_text[None].repeat(2, axis=0), 8.0)])
    with pytest.raises(FileNotFoundError, match="no domain gauge"):
        Domain.from_pretrained(SHIPPED)


@pytest.mark.slow
def test_a_new_gauge_is_fitted_to_its_share_of_false_alarms(tmp_path: Path) -> None:
    figures = domain_gauge.train(tmp_path / "gauge", scenes=100, dimensions=8, false_alarms=0.1, judged=100)
    assert 0.01 <= figures["seen_warned"] <= 0.3
    assert torch.isfinite(torch.tensor(Domain.from_pretrained(tmp_path / "gauge").threshold))


def test_every_shipped_model_has_a_card() -> None:
    assert all((SHIPPED / (model.folder or name) / "README.md").is_file() for name, model in train.MODELS.items())
    for name in ("icreward-lite", "domain"):
        card = (SHIPPED / name / "README.md").read_text(encoding="utf-8")
        assert train.MODELS[name].title in card and train.MODELS[name].limits in card

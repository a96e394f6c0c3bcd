"""Training of rewards: it learns, resumes exactly, and picks the best epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_rewards import Killed, Line, coloured, killed_after, points
from support.tiny_vlm import build_vlm

from icreward_lib.rewards import training as module
from icreward_lib.rewards.clips import ClipDataset, pairwise_loss
from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel
from icreward_lib.rewards.training import TrainConfig, epoch_order, predict, train_reward


@pytest.mark.fault
@pytest.mark.parametrize("pairwise", [0.0, 0.5])
def test_a_killed_and_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, pairwise: float) -> None:
    config = TrainConfig(epochs=5, batch_size=5, lr=0.05, pairwise_weight=pairwise)
    whole, broken = Line(), Line()
    expected = train_reward(whole, points(), points(5, 1), config, seed=3, checkpoint_dir=tmp_path / "a")

    for _ in range(2):
        with killed_after(2), pytest.raises(Killed):
            train_reward(broken, points(), points(5, 1), config, seed=3, checkpoint_dir=tmp_path / "b")
        broken = Line()  # a new process starts from nothing
    history = train_reward(broken, points(), points(5, 1), config, seed=3, checkpoint_dir=tmp_path / "b")
    assert history == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))


def test_a_finished_training_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(epochs=2, lr=0.05)
    first, again = Line(), Line()
    history = train_reward(first, points(), points(5, 1), config, seed=0, checkpoint_dir=tmp_path)
    monkeypatch.setattr(module, "_loss", None)
    assert train_reward(again, points(), points(5, 1), config, seed=0, checkpoint_dir=tmp_path) == history
    assert torch.equal(first.layer.weight, again.layer.weight)


def test_the_best_epoch_is_kept_even_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([0.3, 0.1, None, 0.2, 0.4])
    weights: list[torch.Tensor] = []

    def validate(model: Line, data: ClipDataset) -> list[float]:
        weights.append(model.layer.weight.detach().clone())
        error = next(errors)
        if error is None:
            raise Killed
        return [error, 0.0, 0.0, 0.0]

    monkeypatch.setattr(module, "_validate", validate)
    config = TrainConfig(epochs=4, lr=0.05)
    data = points()
    with pytest.raises(Killed):
        train_reward(Line(), data, data, config, seed=0, checkpoint_dir=tmp_path)
    model = Line()
    history = train_reward(model, data, data, config, seed=0, checkpoint_dir=tmp_path)
    assert history.best == 1
    assert torch.equal(model.layer.weight, weights[1])


@pytest.mark.fault
def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1)
    train_reward(Line(), points(), points(), config, seed=0, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="differs in epochs, seed: delete it"):
        train_reward(Line(), points(), points(), replace(config, epochs=2), seed=1, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="differs in data: delete it"):
        train_reward(Line(), points(seed=4), points(), config, seed=0, checkpoint_dir=tmp_path)


def test_the_order_of_an_epoch_is_its_own_and_holds_every_clip_once() -> None:
    sample = torch.arange(20).repeat_interleave(2)
    first, same, other = (epoch_order(sample, seed=1, epoch=e, together=True) for e in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert sorted(first.tolist()) == list(range(40))
    neighbours = sample[first].reshape(20, 2)
    assert torch.equal(neighbours[:, 0], neighbours[:, 1])
    assert sorted(epoch_order(sample, seed=1, epoch=0, together=False).tolist()) == list(range(40))


def test_pairwise_loss_is_bradley_terry_over_pairs_of_one_sample() -> None:
    scores = torch.sigmoid(torch.tensor([1.0, -0.5, 3.0, 0.2]))
    labels, sample = torch.tensor([0.2, 0.9, 0.5, 0.5]), torch.tensor([0, 0, 1, 1])
    expected = -torch.nn.functional.logsigmoid(torch.tensor(-0.5 - 1.0))  # the equal pair has no winner
    data = ClipDataset(labels, labels, sample, labels, labels[:, None].expand(-1, 2))
    torch.testing.assert_close(pairwise_loss(scores, data.wins(torch.arange(4))), expected)
    assert pairwise_loss(scores, replace(data, sample=torch.arange(4)).wins(torch.arange(4))) == 0


def test_predictions_do_not_depend_on_the_batch() -> None:
    data = points()
    one, many = predict(Line(), data, batch_size=1), predict(Line(), data, batch_size=7)
    np.testing.assert_allclose(one.overall, many.overall, atol=1e-6)
    np.testing.assert_allclose(one.overall, one.dimensions.mean(1), atol=1e-6)


@pytest.mark.parametrize("change", [{"labels": torch.full((24,), 1.5)}, {"labels": torch.zeros(3)}])
def test_labels_that_cannot_be_are_refused(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="label"):
        replace(points(), **change)


@pytest.mark.e2e
def test_icreward_learns_to_tell_a_kept_reference_from_a_lost_one(tmp_path: Path) -> None:
    reward = ICRewardModel.create(
        build_vlm(tmp_path / "vlm"), ICRewardConfig(num_frames=4, head_size=32, head_attention=2), seed=0
    )
    train, validation = coloured(reward, 48, 0), coloured(reward, 24, 1)
    config = TrainConfig(epochs=8, batch_size=16, lr=3e-3)
    history = train_reward(reward, train, validation, config, seed=0, checkpoint_dir=tmp_path / "run")
    assert history.epochs[history.best].mse < 0.06  # 0.16 without looking at the reference
    scores = predict(reward, validation).overall.reshape(-1, 2)
    assert (scores[:, 0] > scores[:, 1]).mean() > 0.85
    swapped = replace(validation, references=validation.references.roll(1, 0))
    assert predict(reward, swapped).overall[::2].mean() < scores[:, 0].mean() - 0.2

"""People's votes as labels: they train a reward, alone and beside proxy labels, and judge it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.small_rewards import Line, points, with_votes
from support.tiny_vlm import build_vlm

from icreward_lib.metrics.clip import ClipSim
from icreward_lib.rewards import training as train_module
from icreward_lib.rewards.clips import ClipDataset, pairwise_loss
from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel
from icreward_lib.rewards.mlp import MLPReward, MLPRewardConfig
from icreward_lib.rewards.preferences import scores, voted_clips
from icreward_lib.rewards.training import TrainConfig, predict, train_reward
from icreward_lib.run.profile import load_profile
from icreward_lib.study.preferences import accuracy
from icreward_lib.video import Video, write_video

NAN = float("nan")


def table(*rows: tuple[object, ...]) -> pd.DataFrame:
    """Rows as (reference, video1, video2, votes1, votes2, ties)."""
    found = pd.DataFrame(rows, columns=["reference", "video1", "video2", "votes1", "votes2", "ties"])
    return found.assign(dimension="consistency")


def test_votes_weigh_the_bradley_terry_loss() -> None:
    """By hand: two pairs of one batch, 7 votes in all; a third pair is not in the batch."""
    pairs, votes = torch.tensor([[4, 2], [2, 9], [4, 7]]), torch.tensor([[3.0, 1.0], [0.5, 2.5], [9.0, 9.0]])
    rows = torch.tensor([9, 2, 4])
    clips = torch.zeros(10)
    data = ClipDataset(clips, clips[:1], clips.long(), clips, clips[:, None].expand(-1, 2), pairs, votes)
    wins = data.wins(rows)
    assert wins.tolist() == [[0, 2.5, 0], [0.5, 0, 1], [0, 3, 0]]
    logits = {9: 0.5, 2: -1.0, 4: 2.0}
    scores = torch.sigmoid(torch.tensor([logits[int(row)] for row in rows]))

    def loss(winner: int, loser: int) -> float:
        return float(np.logaddexp(0, logits[loser] - logits[winner]))

    expected = (3 * loss(4, 2) + 1 * loss(2, 4) + 0.5 * loss(2, 9) + 2.5 * loss(9, 2)) / 7
    assert float(pairwise_loss(scores, wins)) == pytest.approx(expected, rel=1e-5)
    assert float(pairwise_loss(scores, data.wins(torch.tensor([7, 9, 1])))) == 0


def test_votes_are_put_to_their_clips() -> None:
    found = replace(points(2), pairs=torch.tensor([[1, 0], [2, 3]]), votes=torch.tensor([[4.0, 2], [0, 1]]))
    assert found.wins(torch.tensor([0, 1])).tolist() == [[0, 2], [4, 0]]
    with pytest.raises(ValueError, match="of one image"):
        replace(found, pairs=torch.tensor([[1, 2], [2, 3]]))
    with pytest.raises(ValueError, match="votes from 0"):
        replace(found, votes=-found.votes)


def test_joined_sets_keep_images_labels_and_votes_apart() -> None:
    one, two = with_votes(points(3)), with_votes(points(4, 1))
    both = one.joined(two)
    assert len(both) == 14 and both.sample.max() == 6
    assert torch.equal(both.references[both.sample[6:]], two.references[two.sample])
    assert both.pairs[len(one.pairs) :].tolist() == (two.pairs + 6).tolist()
    assert both.digest() != replace(both, votes=both.votes + 1).digest()


def against_labels(data: ClipDataset) -> ClipDataset:
    """People mostly prefer what the labels call worse."""
    first = torch.arange(0, len(data), 2)
    worse = (data.labels[first] < data.labels[first + 1]).float()
    votes = torch.stack([9 * worse + 1, 10 - 9 * worse], 1)
    return replace(data, pairs=torch.stack([first, first + 1], 1), votes=votes)


def unlabelled(data: ClipDataset) -> ClipDataset:
    return replace(data, labels=data.labels * NAN, dimension_labels=data.dimension_labels * NAN)


def agreed(model: Line, data: ClipDataset) -> float:
    """The share of images whose clips the model puts in the order of most votes."""
    scores = predict(model, data).overall.reshape(-1, 2)
    return float(((scores[:, 0] > scores[:, 1]) == (data.votes[:, 0] > data.votes[:, 1]).numpy()).mean())


def test_votes_train_a_reward_alone_and_beside_labels(tmp_path: Path) -> None:
    voted, test = against_labels(points(40)), against_labels(points(40, 5))
    sets = {
        "labels": (points(40), points(10, 1)),
        "votes": (unlabelled(voted), unlabelled(against_labels(points(10, 1)))),
        "both": (unlabelled(voted).joined(points(10, 2)), against_labels(points(10, 1))),
    }
    found = {}
    for name, (train, validation) in sets.items():
        config = TrainConfig(epochs=12, batch_size=10, lr=0.1, pairwise_weight=float(name != "labels"))
        model = Line()
        history = train_reward(model, train, validation, config, seed=0, checkpoint_dir=tmp_path / name)
        found[name] = agreed(model, test)
        assert np.isnan(history.epochs[-1].mse) == (name == "votes")
    assert found["labels"] < 0.3 and found["votes"] > 0.9 and found["both"] > 0.7


def test_votes_help_to_choose_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [[0.1, 0.0, 0.0, 0.9], [0.2, 0.0, 0.0, 0.5], [0.15, 0.0, 0.0, 0.55]]  # errors, and the loss by votes
    for weight, best in ((0.01, 0), (0.2, 2), (2.0, 1)):
        rows = iter(shown)
        monkeypatch.setattr(train_module, "_validate", lambda model, data, rows=rows: next(rows))
        config = TrainConfig(epochs=3, pairwise_weight=weight)
        data, folder = with_votes(points()), tmp_path / str(weight)
        assert train_reward(Line(), data, data, config, seed=0, checkpoint_dir=folder).best == best


def test_training_says_what_votes_need(tmp_path: Path) -> None:
    voted, bare = with_votes(points()), unlabelled(points())
    with pytest.raises(ValueError, match="pairwise_weight above 0"):
        train_reward(Line(), voted, points(), TrainConfig(), seed=0, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="neither labels nor votes to choose an epoch by"):
        train_reward(Line(), points(), bare, TrainConfig(), seed=0, checkpoint_dir=tmp_path)


class Colours(ClipSim):
    """Mean colour as a feature."""

    def __init__(self) -> None:
        pass

    def image_features(self, images: np.ndarray, **_: object) -> np.ndarray:
        colour = images.mean((1, 2)).astype(np.float32)
        return np.asarray(colour / np.linalg.norm(colour, axis=1, keepdims=True))


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["mlp", "icreward"])
def test_a_reward_trains_on_a_public_set_and_is_judged_by_it(tmp_path: Path, name: str) -> None:
    """From files to accuracy: people prefer the redder of two clips, which nothing but their votes tells."""
    shape = load_profile("smoke").generation.model_copy(update={"height": 32, "width": 32})
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        red, blue = rng.integers(130, 236, 3), rng.integers(130, 236, 3)
        red[2], blue[0] = rng.integers(20, 90, 2)
        frames = [np.broadcast_to(colour, (40, 32, 32, 3)).astype(np.uint8) for colour in (red, blue)]
        names = [f"{number}_{take}.mp4" for take in ("red", "blue")]
        for file, clip in zip(names, frames, strict=True):
            write_video(tmp_path / file, Video(clip, shape.fps))
        Image.fromarray(frames[number % 2][0]).save(tmp_path / f"{number}.png")
        order = names if number % 2 else names[::-1]
        rows.append((f"{number}.png", *order, *((8, 1, 1) if number % 2 else (1, 8, 1))))
    preferences = table(*rows)
    reward: MLPReward | ICRewardModel
    if name == "mlp":
        reward = MLPReward(MLPRewardConfig(features=3, hidden=32), Colours(), base="org/clip", seed=0)
    else:
        config = ICRewardConfig(num_frames=4, head_size=32, head_attention=2)
        reward = ICRewardModel.create(build_vlm(tmp_path / "vlm"), config, seed=0)
    data, videos = voted_clips(reward, preferences.iloc[:28], tmp_path, shape)
    pair, votes = preferences.loc[0, ["video1", "video2"]].tolist(), [1.5, 8.5]
    assert [videos[place] for place in data.pairs[0]] == pair and data.votes[0].tolist() == votes, "half of the ties"
    test, test_videos = voted_clips(reward, preferences.iloc[28:], tmp_path, shape)
    training = TrainConfig(epochs=6, batch_size=8, lr=5e-3, pairwise_weight=1.0)
    train_reward(reward, data, data, training, seed=0, checkpoint_dir=tmp_path / "run")
    found = accuracy(preferences.iloc[28:], scores(reward, test, test_videos), seed=0)
    assert found["reward"][0] == reward.name and found["best"][0] == pytest.approx(8 / 9)
    assert found["accuracy"][0] > 0.8, found

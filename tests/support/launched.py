"""What tests/test_launch.py has several processes do: `accelerate launch tests/launched.py <folder>`.

Every process writes what it came to to `<folder>/<rank>.pt`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import get_peft_model_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor

from icreward_lib.dpo import add_denoiser_lora, train
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.metrics.clip import ClipSim
from icreward_lib.poster import networks
from icreward_lib.poster.reward_models import Features, _train
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.icreward import ICRewardConfig, ICRewardModel
from icreward_lib.rewards.mlp import MLPReward, MLPRewardConfig
from icreward_lib.rewards.training import Epoch, TrainConfig, train_reward
from icreward_lib.run import start
from icreward_lib.run.processes import gather, own_share, rank
from support.small_dpo import CONFIG, denoiser, pair_data
from support.small_rewards import Killed, coloured, points, with_votes

Outcome = dict[str, Tensor]

SHAPE = MLPRewardConfig(features=3, hidden=8)
REWARDS = {  # the last batches are smaller, that of the first has one clip: one process has none
    "mlp": TrainConfig(epochs=4, batch_size=23, lr=0.05, warmup=0.3),
    "mlp_pairwise": TrainConfig(epochs=4, batch_size=7, lr=0.05, pairwise_weight=0.5),
    "mlp_votes": TrainConfig(epochs=4, batch_size=7, lr=0.05, pairwise_weight=0.5),
    "icreward": TrainConfig(epochs=2, batch_size=7, lr=3e-3),
    "icreward_pairwise": TrainConfig(epochs=2, batch_size=5, lr=3e-3, pairwise_weight=0.5),
}
DPO = replace(CONFIG, steps=7, batch_size=3, micro_batch=1, eval_every=3)


class NoClip(ClipSim):
    """The features are given; they have three numbers."""

    def __init__(self) -> None:
        pass

    def image_features(self, frames: np.ndarray) -> np.ndarray:
        return np.zeros((len(frames), 3), np.float32)


def mlp(seed: int) -> MLPReward:
    return MLPReward(SHAPE, NoClip(), base="org/clip", seed=seed)


def train_one(name: str, folder: Path, stop: int | None = None) -> Outcome:
    """Train a reward of `REWARDS`, or go on with it; killed after the epoch `stop`. A VLM lies beside `folder`."""
    model: MLPReward | ICRewardModel
    data: tuple[ClipDataset, ClipDataset]
    if name.startswith("mlp"):
        model, data = mlp(0), (points(), points(5, 1))
    else:
        config = ICRewardConfig(num_frames=4, head_size=32, head_attention=2)
        model = ICRewardModel.create(str(folder.parent / "vlm"), config, seed=0)
        data = coloured(model, 6, 0), coloured(model, 5, 1)
    if name.endswith("votes"):
        data = with_votes(data[0]), data[1]

    def kill(epoch: int, result: Epoch) -> None:
        if epoch == stop:
            raise Killed

    history = train_reward(model, *data, REWARDS[name], seed=3, checkpoint_dir=folder, progress=kill)
    trained = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    epochs = torch.tensor(history.epochs, dtype=torch.float64)
    return {f"history {column}": epochs[:, place] for place, column in enumerate(Epoch._fields)} | trained


def train_dpo(folder: Path, stop: int | None = None) -> Outcome:
    """Flow-DPO under gradient checkpointing, or go on with it; killed after the step `stop`."""
    model = denoiser()
    model.enable_gradient_checkpointing()
    policy = add_denoiser_lora(model, rank=DPO.lora_rank, alpha=DPO.lora_alpha, seed=DPO.seed)

    def kill(row: dict[str, float]) -> None:
        if row["step"] == stop:
            raise Killed

    pairs, held_out = pair_data(8, drift=0.5), pair_data(5, seed=9, drift=0.5)
    history = train(policy, RectifiedFlow(), pairs, held_out, DPO, folder, report=kill)
    tables = {
        f"history {name} {column}": torch.tensor(values.to_numpy(float))
        for name, rows in vars(history).items()
        for column, values in pd.DataFrame(rows).items()
    }
    frozen = [weight for weight in policy.parameters() if not weight.requires_grad]
    held = sum((w.to_local() if isinstance(w, DTensor) else w).numel() for w in frozen)
    share = torch.tensor(held / sum(w.numel() for w in frozen))
    return tables | {"share": share} | get_peft_model_state_dict(policy)


def make_items(stop: int | None = None) -> list[str]:
    """Work through a small stage, or go on with it; killed after `stop` items. What this process made."""
    run = start("03_icreward", "smoke")
    made = []
    with run.stage("squares", code=own_share, count=7) as stage:
        for number in own_share(range(7)):
            if stage.has(f"{number}.npz"):
                continue
            stage.save_npz(f"{number}.npz", square=np.array(number**2))
            made.append(f"{number}.npz")
            if len(made) == stop:
                raise Killed
        if stage.lacks("all.npz"):
            stage.save_npz("all.npz", count=np.array(7))
            made.append("all.npz")
    return made


def judge() -> Outcome:
    """The stage of a reward's training: two seeds' models and scores."""
    run = start("02_mlp_baseline", "smoke")
    data, splits = points(), np.repeat(["train", "val"], [16, 8])
    labels = {name: data.labels.numpy() for name in ("label", "label_subject", "label_background")}
    rows = pd.DataFrame({"sample": data.sample.numpy(), "video": 0, "split": splits, "unseen": False, **labels})
    with run.stage("features", code=own_share) as stage:
        features = Features(stage, data.video, data.references)
    curated: Any = SimpleNamespace(rows=rows)
    networks.clip = lambda run: NoClip()
    found = _train(run, curated, "mlp", features, REWARDS["mlp"], None, 2, networks.new_mlp)
    epochs = torch.tensor([history.epochs for history in found.histories])
    return {"history scores": torch.from_numpy(found.scores), "history epochs": epochs}


def killed(work: Any, *arguments: Any) -> None:
    try:
        work(*arguments)
    except Killed:
        return
    raise AssertionError("it was to be killed")


def main(folder: Path) -> None:
    """`folder` has a VLM, and what one process began as `begun_<name>`."""
    found: dict[str, Any] = {name: train_one(name, folder / name) for name in REWARDS}
    found["dpo"] = train_dpo(folder / "dpo")
    found["mlp resumed"] = train_one("mlp", folder / "begun_mlp")
    found["dpo resumed"] = train_dpo(folder / "begun_dpo")
    killed(train_one, "mlp", folder / "left_mlp", 1)
    killed(train_dpo, folder / "left_dpo", 3)
    killed(make_items, 2)
    found["items"] = make_items()
    found["judged"] = judge()
    found["gathered"] = gather([10 * number for number in own_share(range(5))] + [-1], 5)
    torch.save(found, folder / f"{rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

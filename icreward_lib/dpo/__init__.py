"""Flow-DPO: the generator learns to prefer ICReward's pick over the baseline's (Fig 1, 5, 6)."""

from icreward_lib.dpo.objective import (
    add_lora,
    dpo_loss,
    flow_errors,
    implicit_reward_logit,
    reference_model,
)
from icreward_lib.dpo.pairs import PairData, Pairs, build_pairs
from icreward_lib.dpo.training import DPOConfig, DPOHistory, running_wins, train

__all__ = [
    "DPOConfig",
    "DPOHistory",
    "PairData",
    "Pairs",
    "add_lora",
    "build_pairs",
    "dpo_loss",
    "flow_errors",
    "implicit_reward_logit",
    "reference_model",
    "running_wins",
    "train",
]

"""Flow-DPO: the generator learns to prefer ICReward's pick over the baseline's (Fig 1, 5, 6)."""

from icreward_lib.dpo.objective import add_denoiser_lora, dpo_loss, flow_errors, implicit_reward_logit, reference_model
from icreward_lib.dpo.pairs import PairData, Pairs, at_random, best_over_worst, build_pairs, motion_matched
from icreward_lib.dpo.training import DPOConfig, DPOHistory, train

__all__ = [
    "DPOConfig",
    "DPOHistory",
    "PairData",
    "Pairs",
    "add_denoiser_lora",
    "at_random",
    "best_over_worst",
    "build_pairs",
    "dpo_loss",
    "flow_errors",
    "implicit_reward_logit",
    "motion_matched",
    "reference_model",
    "train",
]

"""The Flow-DPO loss of VideoReward (arXiv 2501.13918), -log sigmoid(-(beta / 2) (d(winner) - d(loser))).

d is the *mean* squared velocity error of a clip by the policy less that by the reference, under the same noise and
timestep for both sides. Beta is constant: the derived beta (1 - t)^2 did worse in the paper.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from icreward_lib.dpo.pairs import PairData
from icreward_lib.generators.opensora.flow import flow_losses

# The attention projections of STDiT3's blocks, and not the patch embedding, which is called "proj" too.
LORA_TARGETS = r".*attn\.(qkv|proj|q_linear|kv_linear)"


def add_denoiser_lora(denoiser: nn.Module, *, rank: int, alpha: float, seed: int) -> PeftModel:
    """Freeze a denoiser, in place, and give its attention projections LoRA adapters, which start without effect."""
    policy = get_peft_model(denoiser, LoraConfig(r=rank, lora_alpha=alpha, target_modules=LORA_TARGETS))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in policy.named_parameters():
        if "lora_A" in name:  # peft's own start, but from our seed instead of the global one
            start = torch.empty_like(weight, device="cpu")
            weight.data.copy_(nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator))
    policy.eval()  # nothing random in the forward: policy and reference must differ by the adapters alone
    return policy


def reference_model(policy: PeftModel) -> AbstractContextManager[None]:
    """Inside `with reference_model(policy):` the adapters are off, and the policy is the untuned model."""
    context: AbstractContextManager[None] = policy.disable_adapter()
    return context


def flow_errors(denoiser: nn.Module, pairs: PairData, rows: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Mean squared errors (n, 2) of the velocity x0 - noise, of winner and loser under the same noise and timestep.

    rows: (n,) of `pairs`; noise: (n, c, t, h, w); timestep: (n,) in 0..1000. The first latent frame, the clean image,
    does not count.
    """
    device = next(denoiser.parameters()).device
    x0 = torch.cat([pairs.winner[rows], pairs.loser[rows]]).to(device)
    samples = pairs.sample[rows]
    text = pairs.text[samples].to(device).unsqueeze(1).repeat(2, 1, 1, 1)
    text_mask = pairs.text_mask[samples].to(device)  # repeated by the denoiser
    fps, height, width = torch.tensor([pairs.fps, float(pairs.height), float(pairs.width)], device=device).split(1)
    denoise = torch.ones(len(x0), x0.shape[2], dtype=torch.bool, device=device)
    denoise[:, 0] = False

    def velocity(x: Tensor, t: Tensor, x_mask: Tensor | None) -> Tensor:
        out: Tensor = denoiser(x, t, text, mask=text_mask, x_mask=x_mask, fps=fps, height=height, width=width)
        return out

    noise, timestep = noise.to(device).repeat(2, 1, 1, 1, 1), timestep.to(device).repeat(2)
    return flow_losses(velocity, x0, noise, timestep, denoise).view(2, -1).T


def implicit_reward_logit(policy_errors: Tensor, reference_errors: Tensor, beta: float) -> Tensor:
    """How many log-odds more than the reference the policy prefers the winner: (..., 2) errors -> (...)."""
    change = policy_errors - reference_errors
    return -0.5 * beta * (change[..., 0] - change[..., 1])


def dpo_loss(logit: Tensor) -> Tensor:
    """Loss of each pair, log 2 at logit 0; average it over pairs, never the logits."""
    return -F.logsigmoid(logit)

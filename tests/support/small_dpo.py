"""A tiny denoiser, pairs for it, and settings that train in a second."""

from __future__ import annotations

import torch

from icreward_lib.dpo import (
    DPOConfig,
    PairData,
)
from icreward_lib.generators.opensora.transformer import STDiT3

CHANNELS, FRAMES, SIZE, TOKENS, TEXT = 2, 3, 4, 3, 8


def denoiser(seed: int = 0) -> STDiT3:
    """A tiny Open-Sora transformer in which every weight has an effect."""
    model = STDiT3(
        in_channels=CHANNELS,
        hidden_size=16,
        depth=1,
        num_heads=2,
        caption_channels=TEXT,
        model_max_length=TOKENS,
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def pair_data(n: int = 6, *, seed: int = 0, drift: float = 0.0) -> PairData:
    """Random latents; with `drift`, losers are the winners plus a constant offset: a preference that can be
    learned."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, CHANNELS, SIZE, SIZE, generator=generator)
    winner = 0.3 * torch.randn(n, CHANNELS, FRAMES, SIZE, SIZE, generator=generator)
    loser = winner + drift if drift else 0.3 * torch.randn(n, CHANNELS, FRAMES, SIZE, SIZE, generator=generator)
    winner[:, :, 0] = loser[:, :, 0] = image
    samples = (n + 1) // 2
    text = torch.randn(samples, TOKENS, TEXT, generator=generator)
    mask = torch.ones(samples, TOKENS, dtype=torch.long)
    return PairData(torch.arange(n) // 2, winner, loser, text, mask, num_frames=17, height=64, width=64, fps=8.0)


CONFIG = DPOConfig(
    beta=200.0,
    lr=5e-3,
    lora_rank=4,
    lora_alpha=8,
    steps=12,
    batch_size=4,
    micro_batch=4,
    warmup=2,
    eval_every=4,
)

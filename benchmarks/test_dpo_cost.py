"""A Flow-DPO step with one model, beside the forms with two: time, weights and activations, and the same gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.conftest import Duel
from benchmarks.dpo_forms import Batch, Forms, gradient_difference, make_batch, on_adapters
from benchmarks.record import Record
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.run.profile import load_profile

TRANSFORMER = Path(__file__).parents[1] / "checkpoints" / "laptop" / "opensora" / "transformer"
LATENT = (5, 32, 32)  # of 17 frames of 64 x 64 pixels
LAPTOP = load_profile("laptop")
NAMES = {"whole": ("dpo_time_ratio", "dpo_memory_ratio"), "copied": ("dpo_copy_time_ratio", "dpo_copy_memory_ratio")}


def _forms(dtype: torch.dtype = torch.float32) -> Forms:
    return Forms.of(STDiT3.from_pretrained(str(TRANSFORMER), dtype=dtype), rank=LAPTOP.dpo.lora_rank)


def _batch(forms: Forms, pairs: int) -> Batch:
    return make_batch(LAPTOP, forms.one.policy.get_base_model(), pairs, LATENT)


def _measure(forms: Forms, other: str, pairs: int, names: tuple[str, str], duel: Duel, record: Record) -> None:
    time, memory = names
    theirs, batch = getattr(forms, other), _batch(forms, pairs)
    own, others = forms.one.bytes_held(batch), theirs.bytes_held(batch)
    record.rounds[memory] = [sum(own) / sum(others)]  # counted, so that every run gives the same
    record.profile[memory] = {
        side: {"weights_mb": weights / 1e6, "activations_mb": kept / 1e6}
        for side, (weights, kept) in {"ours": own, "theirs": others}.items()
    }
    our_step, their_step = forms.one.training(), theirs.training()
    duel(time, lambda: our_step(batch), lambda: their_step(batch), rounds=8, over="theirs")


@pytest.mark.parametrize("other", list(NAMES))
def test_dpo_step(other: str, duel: Duel, record: Record) -> None:
    """The step of the laptop's profile."""
    # In float64, as rounding alone makes 1e-4 of the gradient of a loss of small differences.
    exact = _forms(torch.float64)
    few = _batch(exact, 2)
    found, wanted = exact.one.gradients(few), getattr(exact, other).gradients(few)
    if other == "whole":
        wanted = on_adapters(exact.one.policy, wanted)
    difference = record.checks[NAMES[other][0]] = gradient_difference(found, wanted)
    assert difference <= 1e-6

    _measure(_forms(), other, LAPTOP.dpo.batch_size, NAMES[other], duel, record)


def test_dpo_step_at_public_width(duel: Duel, record: Record) -> None:
    """A spatial and a temporal block of Open-Sora 1.2's width, with fresh weights and the laptop's short captions."""
    denoiser = STDiT3(depth=1, caption_channels=64, model_max_length=20)
    denoiser.init_weights(torch.Generator().manual_seed(0))
    forms = Forms.of(denoiser, rank=LAPTOP.dpo.lora_rank)
    _measure(forms, "whole", 2, ("dpo_wide_time_ratio", "dpo_wide_memory_ratio"), duel, record)

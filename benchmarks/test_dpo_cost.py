"""A Flow-DPO step with one model, beside the forms with two: time, weights and activations, and the same gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.conftest import Duel
from benchmarks.dpo_forms import Batch, Forms, gradient_difference, make_batch, on_adapters
from benchmarks.record import Record
from icreward_lib.profile import Profile, load_profile

TRANSFORMER = Path(__file__).parents[1] / "checkpoints" / "laptop" / "opensora" / "transformer"
LATENT = (5, 32, 32)  # of 17 frames of 64 x 64 pixels
NAMES = {"whole": ("dpo_time_ratio", "dpo_memory_ratio"), "copied": ("dpo_copy_time_ratio", "dpo_copy_memory_ratio")}


def _batch(forms: Forms, profile: Profile, pairs: int) -> Batch:
    return make_batch(profile, forms.one.policy.get_base_model(), pairs, LATENT)


@pytest.mark.parametrize("other", list(NAMES))
def test_dpo_step(other: str, duel: Duel, record: Record) -> None:
    """The step of the laptop's profile."""
    time, memory = NAMES[other]
    profile = load_profile("laptop")

    # In float64, as rounding alone makes 1e-4 of the gradient of a loss of small differences.
    exact = Forms.load(TRANSFORMER, profile, dtype=torch.float64)
    few = _batch(exact, profile, 2)
    found, wanted = exact.one.step(few), getattr(exact, other).step(few)
    if other == "whole":
        wanted = on_adapters(exact.one.policy, wanted)
    record.checks[time] = gradient_difference(found, wanted)
    assert record.checks[time] <= 1e-6

    forms = Forms.load(TRANSFORMER, profile)
    theirs, batch = getattr(forms, other), _batch(forms, profile, profile.dpo.batch_size)
    own, others = forms.one.bytes_held(batch), theirs.bytes_held(batch)
    record.rounds[memory] = [sum(own) / sum(others)]  # counted, so that every run gives the same
    record.profile[memory] = {
        side: {"weights_mb": weights / 1e6, "activations_mb": kept / 1e6}
        for side, (weights, kept) in {"ours": own, "theirs": others}.items()
    }
    duel(time, lambda: forms.one.step(batch), lambda: theirs.step(batch), rounds=8, over="theirs")

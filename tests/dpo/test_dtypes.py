"""Flow-DPO as on a GPU: weights and texts in bfloat16, and no tensor left on the CPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from support.small_dpo import CONFIG, denoiser, pair_data
from support.small_rewards import Killed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from icreward_lib.dpo import (
    DPOHistory,
    PairData,
    add_denoiser_lora,
    dpo_loss,
    flow_errors,
    implicit_reward_logit,
    reference_model,
    train,
)
from icreward_lib.generators.opensora.flow import RectifiedFlow

BF16 = torch.bfloat16
SHORT = replace(CONFIG, beta=20.0, lr=5e-4, steps=4, eval_every=2, eval_timesteps=2, micro_batch=2)


@pytest.fixture(autouse=True)
def portable() -> Iterator[None]:
    """bfloat16 without the special instructions that some virtual machines announce and do not have."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def policy_of(dtype: torch.dtype) -> PeftModel:
    model = denoiser().to(dtype)
    model.enable_gradient_checkpointing()
    return add_denoiser_lora(model, rank=SHORT.lora_rank, alpha=SHORT.lora_alpha, seed=0)


def data(count: int, dtype: torch.dtype, seed: int = 0) -> PairData:
    """Texts come in the type of their encoder, latents in float32."""
    pairs = pair_data(count, seed=seed, drift=0.5)
    return replace(pairs, text=pairs.text.to(dtype))


def trained(folder: Path, dtype: torch.dtype, stop: int | None = None) -> tuple[PeftModel, DPOHistory]:
    def kill(row: dict[str, float]) -> None:
        if row["step"] == stop:
            raise Killed

    policy = policy_of(dtype)
    return policy, train(policy, RectifiedFlow(), data(6, dtype), data(4, dtype, 9), SHORT, folder, report=kill)


def test_a_bfloat16_denoiser_learns_and_resumes_exactly(tmp_path: Path) -> None:
    policy, history = trained(tmp_path / "whole", BF16)
    with pytest.raises(Killed):
        trained(tmp_path / "stopped", BF16, stop=4)
    again, resumed = trained(tmp_path / "stopped", BF16)
    assert resumed == history
    adapters, others = get_peft_model_state_dict(policy), get_peft_model_state_dict(again)
    assert all(torch.equal(adapters[name], others[name]) for name in adapters)
    assert {value.dtype for value in adapters.values()} == {torch.float32}
    assert {p.dtype for p in policy.parameters() if not p.requires_grad} == {BF16}
    _, expected = trained(tmp_path / "float32", torch.float32)
    found, wanted = ([row["loss"] for row in each.steps] for each in (history, expected))
    assert found == pytest.approx(wanted, abs=0.1) and found != wanted


def losses(policy: PeftModel, pairs: PairData) -> Tensor:
    """Of a step without its numbers: the reference's pass and the policy's."""
    rows, noise, timestep = torch.arange(len(pairs)), torch.randn(pairs.winner.shape), torch.rand(len(pairs)) * 1000
    with torch.no_grad(), reference_model(policy):
        reference = flow_errors(policy, pairs, rows, noise, timestep)
    errors = flow_errors(policy, pairs, rows, noise, timestep)
    return dpo_loss(implicit_reward_logit(errors, reference, SHORT.beta))


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a forward asks its tensors for: height and width, and whether every clip has frames that count."""
    monkeypatch.setattr(Tensor, "__float__", lambda values: 64.0)
    monkeypatch.setattr(Tensor, "__bool__", lambda values: True)


@pytest.mark.usefixtures("read_back")
def test_no_tensor_of_a_step_stays_on_the_cpu() -> None:
    """On a GPU that is none: operations with tensors of the CPU fail as on one."""
    policy, pairs = policy_of(BF16), data(3, BF16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        found = losses(policy.to("cuda"), pairs)
    assert (found.device.type, found.dtype, found.shape) == ("cuda", torch.float32, (3,))


@pytest.mark.usefixtures("read_back")
def test_no_gradient_of_a_step_stays_on_the_cpu() -> None:
    """On the device without memory, as gradients need a device that is there."""
    policy = policy_of(BF16).to("meta")
    losses(policy, data(3, BF16)).mean().backward()
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    assert {str(weight.grad.device) for weight in weights if weight.grad is not None} == {"meta"}
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in weights)


def test_nothing_keeps_a_trained_policy_alive(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        policy, _ = trained(tmp_path, torch.float32)
        weight = weakref.ref(next(policy.parameters()))
        del policy
        assert weight() is None
    finally:
        gc.enable()

"""A Flow-DPO step in this library's form and in the forms with two models, their gradients and their memory.

This library keeps one model: with its adapters it is the policy, without them the reference. The forms with two models
have a frozen copy as the reference, beside a policy that trains the same adapters (`copied`) or all of its weights
(`whole`, as the public script of Diffusion-DPO). All compute winners and losers in one batch and the reference without
a graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from icreward_lib.dpo.objective import add_denoiser_lora, dpo_loss, flow_errors, implicit_reward_logit, reference_model
from icreward_lib.dpo.pairs import PairData
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.run.profile import Profile

BETA = 500.0


@dataclass(frozen=True)
class Batch:
    """Pairs with the noise and the timesteps of a step."""

    pairs: PairData
    noise: Tensor
    timestep: Tensor

    def errors(self, denoiser: nn.Module) -> Tensor:
        """Velocity errors (n, 2) of winners and losers."""
        return flow_errors(denoiser, self.pairs, torch.arange(len(self.timestep)), self.noise, self.timestep)


def make_batch(profile: Profile, denoiser: STDiT3, count: int, latent: tuple[int, int, int]) -> Batch:
    """`count` pairs of random latents (t, h, w): what they show costs nothing."""
    shape, draw = profile.generation, torch.Generator().manual_seed(0)
    winner, loser, noise = torch.randn(3, count, denoiser.config.in_channels, *latent, generator=draw)
    loser[:, :, 0] = winner[:, :, 0]
    tokens, channels = denoiser.config.model_max_length, denoiser.config.caption_channels
    text, mask = torch.randn(count, tokens, channels, generator=draw), torch.ones(count, tokens, dtype=torch.long)
    pairs = PairData(
        torch.arange(count), winner, loser, text, mask, shape.num_frames, shape.height, shape.width, float(shape.fps)
    )
    sizes = (torch.full((count,), float(v)) for v in (shape.height, shape.width, shape.num_frames))
    return Batch(pairs, noise, RectifiedFlow(base_size=64).sample_timesteps(*sizes, generator=draw))


@dataclass(frozen=True)
class Form:
    """A policy and how its reference is computed."""

    policy: nn.Module
    reference: Callable[[Batch], Tensor]
    models: tuple[nn.Module, ...]

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of the pairs."""
        with torch.no_grad():
            reference = self.reference(batch)
        return dpo_loss(implicit_reward_logit(batch.errors(self.policy), reference, BETA)).mean()

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """The gradients of all that trains, by name."""
        self.policy.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        return {name: p.grad for name, p in self.policy.named_parameters() if p.grad is not None}

    def training(self) -> Callable[[Batch], None]:
        """A whole step as `dpo.train` takes it: gradients, their norm clipped, and the update of all that trains."""
        weights = [p for p in self.policy.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-6, weight_decay=0.0)  # small: the weights are used again

        def step(batch: Batch) -> None:
            self.gradients(batch)
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()

        return step

    def bytes_held(self, batch: Batch) -> tuple[int, int]:
        """Bytes of the weights of all models, and of what a step keeps for its backward pass beside them."""
        weights = {t.untyped_storage().data_ptr(): t for model in self.models for t in _tensors(model)}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other comes to lie at its address
            return tensor

        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss(batch)
        loss.backward()
        self.policy.zero_grad(set_to_none=True)
        return _bytes(weights), _bytes({address: tensor for address, tensor in kept.items() if address not in weights})


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _bytes(tensors: dict[int, Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


@dataclass(frozen=True)
class Forms:
    """The three forms of one policy. Its adapters are not as at their start, where half of them get no gradient."""

    one: Form
    copied: Form
    whole: Form

    @classmethod
    def of(cls, denoiser: STDiT3, *, rank: int) -> Forms:
        """Of a denoiser, which becomes the policy of the first form, with adapters of a rank."""
        denoiser.eval().requires_grad_(False)
        reference = copy.deepcopy(denoiser)
        policy = add_denoiser_lora(denoiser, rank=rank, alpha=2.0 * rank, seed=0)
        draw = torch.Generator().manual_seed(1)
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.data.copy_(torch.randn(weight.shape, generator=draw) * 0.01)
        whole = copy.deepcopy(policy).merge_and_unload().requires_grad_(True)

        def without_adapters(batch: Batch) -> Tensor:
            with reference_model(policy):
                return batch.errors(policy)

        return cls(
            Form(policy, without_adapters, (policy,)),
            Form(policy, lambda batch: batch.errors(reference), (policy, reference)),
            Form(whole, lambda batch: batch.errors(reference), (whole, reference)),
        )


def on_adapters(policy: PeftModel, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of a policy's adapters that follow from those of its merged weights, by the chain rule.

    W = base + s B A, so that the gradient of A is s B' G and that of B is s G A'.
    """
    found = {}
    for name in (name for name, _ in policy.named_parameters() if ".lora_" in name):
        module_name = name.split(".lora_")[0]
        module = policy.get_submodule(module_name)
        gradient = gradients[f"{module_name.removeprefix('base_model.model.')}.weight"] * module.scaling["default"]
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        found[name] = (b.T @ gradient if ".lora_A." in name else gradient @ a.T).detach()
    return found


def gradient_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of any gradient, as a share of the largest gradient."""
    assert first.keys() == second.keys()
    largest = max(float(gradient.abs().max()) for gradient in first.values())
    return max(float((first[name] - second[name]).abs().max()) for name in first) / largest

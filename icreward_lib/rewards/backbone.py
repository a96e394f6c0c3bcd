"""Qwen2-VL as the rewards use it: loaded whole or not at all, read in one line, with LoRA on its language model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import cast_adapter_dtype
from torch import Tensor
from transformers import PreTrainedModel

# Every linear map of Qwen2-VL's language model, as in VideoReward.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def default_dtype(device: str) -> torch.dtype | Literal["auto"]:
    """In what type a body computes: "auto", that of its files (the hub's: bfloat16), but float32 on the CPU."""
    # There bfloat16 is seldom faster, and some virtual machines announce its instructions and kill what uses them.
    return torch.float32 if torch.device(device).type == "cpu" else "auto"


def require_whole(report: Mapping[str, Collection[Any]], *, weights: object, config: object) -> None:
    """ValueError unless transformers' loading `report` says that `weights` are just those that `config` asks for."""
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        shapes = f"{tuple(found)}, not {tuple(wanted)}"
        raise ValueError(f"{weights} does not fit the model {config}: its {name} has shape {shapes}")
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{weights} is not whole: it lacks {len(missing)} weights, such as {missing[0]}")
    if unexpected := sorted(report["unexpected_keys"]):
        count = len(unexpected)
        raise ValueError(f"{weights} has {count} weights that the model {config} does not, such as {unexpected[0]}")


def add_vlm_lora(language_model: PreTrainedModel, rank: int, alpha: int) -> None:
    """Give the language model a new trainable LoRA on `LORA_TARGETS`, which changes nothing until it is trained."""
    # Without dropout, so that training draws no random numbers.
    language_model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS)))
    cast_adapter_dtype(language_model, "default")  # to float32: bfloat16 would lose the small steps of training


def load_lora(
    language_model: PreTrainedModel, rank: int, alpha: int, weights: Mapping[str, Tensor], *, source: object
) -> None:
    """Give it the trainable LoRA `weights`, by PEFT's names; ValueError if they are not just those of this rank."""
    with torch.random.fork_rng(devices=[]):
        add_vlm_lora(language_model, rank, alpha)
    # transformers' own load_adapter would round them to the type of the body.
    wanted = get_peft_model_state_dict(language_model, save_embedding_layers=False)
    shapes = [(name, weights[name].shape, wanted[name].shape) for name in wanted.keys() & weights.keys()]
    report = {
        "missing_keys": wanted.keys() - weights.keys(),
        "unexpected_keys": weights.keys() - wanted.keys(),
        "mismatched_keys": [each for each in shapes if each[1] != each[2]],
    }
    require_whole(report, weights=source, config=f"with LoRA of rank {rank}")
    set_peft_model_state_dict(language_model, dict(weights))


def read_line(language_model: PreTrainedModel, inputs: Tensor) -> Tensor:
    """Last hidden states (B,L,D), float32, of the embeddings `inputs` (B,L,D); padding on the right needs no mask."""
    # One position, the place in the line, on all three axes of the rotary embedding, as VideoReward was trained.
    positions = torch.arange(inputs.shape[1], device=inputs.device).expand(3, len(inputs), -1)
    found = language_model(inputs_embeds=inputs, position_ids=positions, use_cache=False)
    states: Tensor = found.last_hidden_state.float()
    return states


def sample_frames(total: int, num_frames: int) -> npt.NDArray[np.int64]:
    """Indices of an even number of frames, at most `num_frames`, from the first to the last of `total`."""
    count = max(2, min(num_frames, total - total % 2))
    return np.linspace(0, total - 1, count).round().astype(np.int64)

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
from transformers import PreTrainedModel, Qwen2VLForConditionalGeneration, Qwen2VLModel

#: Every linear map of Qwen2-VL's language model, as in VideoReward.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: What VideoReward reads of any clip, if the clip has as many frames.
LEAST_FRAMES = 4


def default_dtype(device: str) -> torch.dtype | Literal["auto"]:
    """In what type a body computes: "auto", that of its files (the hub's: bfloat16), but float32 on the CPU.

    There bfloat16 is seldom faster, and some virtual machines announce its instructions and then kill the
    process that uses them.
    """
    return torch.float32 if torch.device(device).type == "cpu" else "auto"


def load_backbone(base: str, dtype: torch.dtype | Literal["auto"]) -> Qwen2VLModel:
    """Vision tower and language model of a Qwen2-VL, a hub id or a folder, with weights of type `dtype`.

    Raises OSError if there is no such model, ValueError if weights are missing or do not fit its config.
    """
    vlm, report = Qwen2VLForConditionalGeneration.from_pretrained(
        base, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    require_whole(report, weights=base, config=base)
    return vlm.model


def require_whole(report: Mapping[str, Collection[Any]], *, weights: object, config: object) -> None:
    """ValueError unless transformers' loading `report` says that `weights` are just those that `config` asks for."""
    for name, found, wanted in sorted(report["mismatched_keys"]):
        shapes = f"{tuple(found)}, not {tuple(wanted)}"
        raise ValueError(f"{weights} does not fit the model {config}: its {name} has shape {shapes}")
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{weights} is not whole: it lacks {len(missing)} weights, such as {missing[0]}")
    if unexpected := sorted(report["unexpected_keys"]):
        count = len(unexpected)
        raise ValueError(f"{weights} has {count} weights that the model {config} does not, such as {unexpected[0]}")


def add_vlm_lora(language_model: PreTrainedModel, rank: int, alpha: int) -> None:
    """Give the language model a new trainable LoRA on `LORA_TARGETS`, which changes nothing until it is trained.

    In float32: a step of training is often smaller than the spacing of bfloat16, which would lose it. Without
    dropout: training draws no random numbers.
    """
    language_model.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LORA_TARGETS)))
    cast_adapter_dtype(language_model, "default")


def load_lora(
    language_model: PreTrainedModel, rank: int, alpha: int, weights: Mapping[str, Tensor], *, source: object
) -> None:
    """Give the language model the trainable LoRA `weights`, by PEFT's names and read from `source`.

    ValueError if they are not just those of a LoRA of this rank.
    """
    with torch.random.fork_rng(devices=[]):
        add_vlm_lora(language_model, rank, alpha)
    # transformers' own load_adapter would round them to the type of the body.
    wanted = get_peft_model_state_dict(language_model, save_embedding_layers=False)
    shared = wanted.keys() & weights.keys()
    report = {
        "missing_keys": wanted.keys() - shared,
        "unexpected_keys": weights.keys() - shared,
        "mismatched_keys": [
            (n, weights[n].shape, wanted[n].shape) for n in shared if weights[n].shape != wanted[n].shape
        ],
    }
    require_whole(report, weights=source, config=f"with LoRA of rank {rank}")
    set_peft_model_state_dict(language_model, dict(weights))


def read_line(language_model: PreTrainedModel, inputs: Tensor) -> Tensor:
    """Last hidden states (B,L,D), float32, of the embeddings `inputs` (B,L,D).

    A token has one position, its place in the line, on all three axes of the rotary embedding, as VideoReward
    was trained; Qwen2-VL's own positions give other states. Attention is causal, so padding on the right
    needs no mask.
    """
    positions = torch.arange(inputs.shape[1], device=inputs.device).expand(3, len(inputs), -1)
    states: Tensor = language_model(
        inputs_embeds=inputs, position_ids=positions, use_cache=False
    ).last_hidden_state.float()
    return states


def sample_frames(total: int, num_frames: int) -> npt.NDArray[np.int64]:
    """Indices of an even number of frames, at most `num_frames`, from the first to the last of `total`."""
    count = max(2, min(num_frames, total - total % 2))
    return np.linspace(0, total - 1, count).round().astype(np.int64)


def frame_count(total: int, *, clip_fps: float, fps: float, at_most: int) -> int:
    """How many frames VideoReward reads of a clip of `total` frames, at `fps` a second: an even number.

    At least `LEAST_FRAMES` and at most `at_most`, if the clip has them.
    """
    wanted = min(max(total / clip_fps * fps, LEAST_FRAMES), min(at_most, total) // 2 * 2)
    return max(2, round(wanted / 2) * 2)

"""VideoReward (Liu et al., arXiv 2501.13918): its public checkpoint, as a start for ICReward."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLModel

from icreward_lib.rewards.backbone import default_dtype, require_whole

ASPECTS = ("VQ", "MQ", "TA")  # of the three logits, in order: visual quality, motion quality, text alignment
_TOLERANT = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # `require_whole` says what is wrong
_EMBEDDINGS = "language_model.embed_tokens.weight"


class _Pooling(BaseModel):
    output_dim: Literal[1, 3]
    reward_token: Literal["special"]


class _Lora(BaseModel):
    lora_enable: Literal[True]
    lora_r: int
    lora_alpha: int
    use_rslora: Literal[False]


class _Settings(BaseModel):
    """The part of model_config.json that the weights cannot be read without."""

    pooling: _Pooling = Field(alias="model_config")
    lora: _Lora = Field(alias="peft_lora_config")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint of VideoReward holds; the last rows of its embeddings are those of `ASPECTS`."""

    path: Path  # the file of weights
    body: dict[str, Tensor]  # of a `Qwen2VLModel`, by transformers' names
    lora: dict[str, Tensor]  # of its language model, by PEFT's names
    rm_head: Tensor  # (1,D), one head for all of `ASPECTS`, or (3,D), one for each
    rank: int
    alpha: int

    @property
    def reward_embeddings(self) -> Tensor:
        """The rows (3,D) of the reward tokens, float32."""
        return self.body[_EMBEDDINGS][-len(ASPECTS) :].to(torch.float32, copy=True)

    def backbone(self, base: str, dtype: torch.dtype | Literal["auto"]) -> Qwen2VLModel:
        """The model without LoRA, by the config of the Qwen2-VL `base`; ValueError if it was made from another."""
        config = Qwen2VLConfig.from_pretrained(base)
        table = self.body[_EMBEDDINGS]
        config.text_config.vocab_size = len(table)
        state = dict(self.body)
        model, report = Qwen2VLModel.from_pretrained(None, config=config, state_dict=state, dtype=dtype, **_TOLERANT)
        require_whole(report, weights=self.path, config=base)
        if self.rm_head.shape[1] != table.shape[1]:
            raise ValueError(f"{self.path}: its rm_head is {self.rm_head.shape[1]} wide, its model {table.shape[1]}")
        return model


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a folder in the layout of KlingTeam/VideoReward: model_config.json and checkpoint-N/model.pth, highest N.

    FileNotFoundError if either file is missing, ValueError if one is damaged or of another kind of model.
    """
    folder = Path(folder)
    config = folder / "model_config.json"
    if not config.is_file():
        raise FileNotFoundError(f"{folder} holds no VideoReward: model_config.json is missing")
    try:
        settings = _Settings.model_validate_json(config.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{config} is not of a VideoReward that can be read: {where}: {first['msg']}") from error
    numbered = {int(path.parent.name.split("-")[1]): path for path in folder.glob("checkpoint-[0-9]*/model.pth")}
    if not numbered:
        raise FileNotFoundError(f"{folder} holds no VideoReward: there is no checkpoint-N/model.pth in it")
    path = numbered[max(numbered)]
    try:  # mapped into memory, not copied
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged or no file of tensors: download it again") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path} holds something else than named tensors")
    body, lora, others = {}, {}, {}
    for name, value in weights.items():
        # Names of transformers before 4.52: the language model was called model, the vision tower stood beside it.
        name = name.removeprefix("base_model.model.")  # PEFT's
        if ".lora_" in name:
            lora[name.removeprefix("model.").replace(".default.", ".")] = value
        elif name.startswith("model."):
            body["language_" + name.replace(".base_layer.", ".")] = value
        else:
            others[name] = value
    others.pop("lm_head.weight", None)  # VideoReward never evaluates it
    rm_head = others.pop("rm_head.weight", None)
    if rm_head is None or _EMBEDDINGS not in body:
        raise ValueError(f"{path} is not whole: it lacks its {'embeddings' if rm_head is not None else 'rm_head'}")
    wanted = settings.pooling.output_dim
    if rm_head.ndim != 2 or len(rm_head) != wanted:
        raise ValueError(f"{path}: its rm_head has shape {tuple(rm_head.shape)}, {config.name} says {wanted} outputs")
    return Checkpoint(path, body | others, lora, rm_head, settings.lora.lora_r, settings.lora.lora_alpha)


def load_body(
    base: str, videoreward: str | Path | None, *, device: str, dtype: torch.dtype | None
) -> tuple[Qwen2VLModel, Checkpoint | None]:
    """The Qwen2-VL `base` (hub id or folder), or what the folder `videoreward` made of it; by `default_dtype`, no LoRA.

    OSError if there is no such model, ValueError if weights are missing or do not fit its config.
    """
    kind = dtype or default_dtype(device)
    if videoreward is not None:
        start = read_checkpoint(videoreward)
        return start.backbone(base, kind), start
    vlm, report = Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=kind, **_TOLERANT)
    require_whole(report, weights=base, config=base)
    return vlm.model, None


def read_out(states: Tensor, rm_head: nn.Linear) -> Tensor:
    """Logits (B,N) of the states (B,N,D) at the first N of `ASPECTS`, by one shared head or by each its own."""
    logits: Tensor = rm_head(states)
    return logits.squeeze(-1) if rm_head.out_features == 1 else logits.diagonal(dim1=1, dim2=2)


def make_head(rm_head: Tensor) -> nn.Linear:
    """A frozen linear map with the weights `rm_head` (1,D) or (3,D), in float32: its logits lie close together."""
    head = nn.Linear(rm_head.shape[1], len(rm_head), bias=False).requires_grad_(False)
    head.weight.copy_(rm_head)
    return head

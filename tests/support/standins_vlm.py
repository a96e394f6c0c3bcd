"""Stand-ins for the hub's Qwen2-VL-2B-Instruct, VideoReward and CLIP: real files, keys and types, tiny widths.

`build_standins(folder)` lays them out as `folder/<hub id>`. Their weights are random; nothing that they say
has a meaning.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, pre_tokenizers
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

QWEN = "Qwen/Qwen2-VL-2B-Instruct"
VIDEOREWARD = "KlingTeam/VideoReward"
CLIP = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
REWARD = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"))
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LORA_RANK, LORA_ALPHA = 64, 128
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

# The keys of the hub's config.json and, where no width is in question, its values.
CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.2,
    "intermediate_size": 96,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.2",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 2,
        "embed_dim": 32,
        "mlp_ratio": 4,
        "num_heads": 2,
        "in_chans": 3,
        "hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "temporal_patch_size": 2,
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vocab_size": 320,
}
PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
}
# What VideoReward's trainer wrote beside its checkpoint (the arguments of the trainer itself left out).
MODEL_CONFIG = {
    "data_config": {
        "meta_data": "",
        "data_dir": "",
        "max_frame_pixels": 200704,
        "num_frames": None,
        "fps": 2,
        "eval_dim": ["VQ", "MQ", "TA"],
        "prompt_template_type": "detailed_special",
        "sample_type": "uniform",
    },
    "training_args": {"bf16": True},
    "model_config": {
        "model_name_or_path": QWEN,
        "output_dim": 1,
        "use_special_tokens": True,
        "reward_token": "special",
        "freeze_vision_tower": False,
        "freeze_llm": False,
        "tune_merger": True,
    },
    "peft_lora_config": {
        "lora_enable": True,
        "vision_lora": False,
        "lora_r": LORA_RANK,
        "lora_alpha": LORA_ALPHA,
        "lora_dropout": 0.05,
        "lora_target_modules": None,
        "lora_namespan_exclude": ["lm_head", "rm_head", "embed_tokens", "visual"],
        "lora_modules_to_save": None,
        "lora_task_type": "CAUSAL_LM",
        "use_rslora": False,
        "num_lora_modules": -1,
    },
    "inference_config": {
        "VQ_mean": 3.6757,
        "VQ_std": 2.2476,
        "MQ_mean": 1.1646,
        "MQ_std": 1.3811,
        "TA_mean": 2.8105,
        "TA_std": 2.5121,
    },
}
CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 224, "layers": 1, "width": 16, "head_width": 8, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}


def build_standins(folder: Path, *, seed: int = 0) -> Path:
    """Write all three under `folder`; the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build_qwen(folder / QWEN)
        build_videoreward(folder / VIDEOREWARD, folder / QWEN)
        build_clip(folder / CLIP)
    return folder


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_tokenizer(folder: Path, special: tuple[str, ...]) -> None:
    """Qwen2's own byte-level BPE class with four merges; the special tokens follow the words, as upstream."""
    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=list(MERGES))
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    added = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in MERGES), encoding="utf-8")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    _write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(i): {"content": token, **flags} for token, i in added.items()},
            "additional_special_tokens": list(special[1:]),
            "bos_token": None,
            "chat_template": CHAT,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "padding_side": "left",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def hub_names(model: Qwen2VLForConditionalGeneration) -> dict[str, Tensor]:
    """Its weights in bfloat16 under the names that the hub's files have; no lm_head, which is tied."""
    weights = {}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
            weights[name] = value.bfloat16().contiguous()
    return weights


def build_qwen(folder: Path) -> None:
    """Qwen2-VL in two shards with an index, its tokenizer and processor files."""
    _write_tokenizer(folder, SPECIAL)
    token = {name: i for i, name in enumerate(SPECIAL, start=256 + len(MERGES))}
    config = CONFIG | {
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|im_end|>"],
        "vision_start_token_id": token["<|vision_start|>"],
        "vision_end_token_id": token["<|vision_end|>"],
        "vision_token_id": token["<|vision_pad|>"],
        "image_token_id": token["<|image_pad|>"],
        "video_token_id": token["<|video_pad|>"],
    }
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"bos_token_id": config["bos_token_id"], "do_sample": True})
    _write(folder / "preprocessor_config.json", PREPROCESSOR)
    _write(folder / "chat_template.json", {"chat_template": CHAT})
    weights = hub_names(Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_pretrained(folder)))
    names, places = sorted(weights), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in weights.values())
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def peft_names(weights: dict[str, Tensor], lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` as PEFT names them inside a wrapped model, with `lora` (`<module>.lora_A`, ...) beside them."""
    named = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        wrapped = module.startswith("model.layers.") and module.endswith(TARGETS)
        named[f"base_model.model.{module}.{'base_layer.' if wrapped else ''}{kind}"] = value
    return named | {f"base_model.model.{name}.default.weight": value for name, value in lora.items()}


def random_lora(weights: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Random matrices for every linear map of the language model, B included, of the type of `weights`."""
    lora = {}
    for name, value in weights.items():
        module = name.removesuffix(".weight")
        if module.startswith("model.layers.") and module.endswith(TARGETS):
            rows, columns = value.shape
            lora[f"{module}.lora_A"] = (torch.randn(rank, columns) / columns**0.5).to(value)
            lora[f"{module}.lora_B"] = (0.1 * torch.randn(rows, rank) / rank**0.5).to(value)
    return lora


def build_videoreward(folder: Path, base: Path) -> None:
    """A checkpoint on the stand-in `base`: vision tower and reward rows of its own, LoRA not merged."""
    _write(folder / "model_config.json", MODEL_CONFIG)
    checkpoint = folder / "checkpoint-11352"
    _write_tokenizer(checkpoint / "tokenizer", SPECIAL + REWARD)
    weights: dict[str, Tensor] = {}
    for shard in sorted(base.glob("*.safetensors")):
        weights |= load_file(shard)
    for name, value in weights.items():
        if name.startswith("visual."):
            weights[name] = value + (0.02 * torch.randn(value.shape)).to(value)
    words = 256 + len(MERGES) + len(SPECIAL)
    table = weights["model.embed_tokens.weight"]
    rows = (0.2 * torch.randn(len(REWARD), table.shape[1])).to(table)
    weights["model.embed_tokens.weight"] = torch.cat([table[:words], rows])
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["rm_head.weight"] = torch.randn(1, table.shape[1]).to(table)
    torch.save(peft_names(weights, random_lora(weights, LORA_RANK)), checkpoint / "model.pth")


def build_clip(folder: Path) -> None:
    """An open_clip model as its hub repositories hold it."""
    _write(folder / "open_clip_config.json", CLIP_CONFIG)
    save_file(open_clip.CLIP(**CLIP_CONFIG["model_cfg"]).state_dict(), folder / "open_clip_model.safetensors")

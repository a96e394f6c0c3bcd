"""A small random Qwen2-VL with its real processor classes, built without a network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WORDS = ("user", "assistant", "does", "the", "video", "keep", "image")


def build_processor(words: Iterable[str], *, patch: int, size: int) -> Qwen2VLProcessor:
    """Words by white space, and frames of `size` x `size` pixels left as they are."""
    vocabulary = {word: i for i, word in enumerate(("[UNK]", *SPECIAL, *words))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=list(SPECIAL),
        padding_side="right",
    )
    pixels = {"shortest_edge": size * size, "longest_edge": size * size}
    shape = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shape),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shape, do_sample_frames=False, cap_pixels_per_frame=False),
    )


def build_vlm(
    folder: Path,
    *,
    vision: int = 32,
    vision_layers: int = 1,
    width: int = 48,
    layers: int = 2,
    patch: int = 8,
    size: int = 32,
    seed: int = 0,
) -> str:
    """Save a random model and its processor to `folder`; the folder's name."""
    processor = build_processor(WORDS, patch=patch, size=size)
    token = processor.tokenizer.convert_tokens_to_ids
    heads = max(2, width // 48)
    half = width // heads // 2
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
            },
            "bos_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": vision_layers,
            "embed_dim": vision,
            "hidden_size": width,
            "num_heads": max(2, vision // 32),
            "mlp_ratio": 4,
            "patch_size": patch,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)

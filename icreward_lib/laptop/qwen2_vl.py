"""The laptop's Qwen2-VL: its sizes, its processor, its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from icreward_lib.laptop.loop import LoopConfig, half_weights
from icreward_lib.laptop.tokenizer import PAD, TURN_END, TURN_START, VISION_TOKENS, build_tokenizer
from icreward_lib.run.files import atomic

FRAMES = 17  # of the world's clips
VISION_START, VISION_END, IMAGE, VIDEO = VISION_TOKENS
CHAT_TEMPLATE = (
    "{% for message in messages %}" + TURN_START + "{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}"
    + VISION_START
    + "{% if part['type'] == 'video' %}"
    + VIDEO
    + "{% else %}"
    + IMAGE
    + "{% endif %}"
    + VISION_END
    + "{% endif %}{% endfor %}{% endif %}"
    + TURN_END
    + "{% endfor %}{% if add_generation_prompt %}"
    + TURN_START
    + "assistant\n{% endif %}"
)


@dataclass(frozen=True)
class VlmConfig:
    """Sizes of the model and of its training: first the vision tower (`tower`), then the language model (`loop`)."""

    image_size: int = 64
    num_frames: int = 8  # read of each clip
    patch_size: int = 8
    vision_width: int = 160
    vision_layers: int = 3
    vision_heads: int = 4
    width: int = 192
    layers: int = 4
    heads: int = 4
    intermediate: int = 512
    batch_size: int = 16
    judged: int = 256  # new clips of each split behind the final figures
    tower_batch_size: int = 32
    tower: LoopConfig = LoopConfig(steps=3600, lr=1e-3, muon_lr=0.02, ema=0.99, save_every=100, seed=1)
    loop: LoopConfig = LoopConfig(steps=1800, lr=1e-3, muon_lr=0.02, warmup=50, ema=0.98, save_every=50)

    @property
    def grid(self) -> int:
        """Tokens along a side of a picture; one token is a square of 2 x 2 patches."""
        return self.image_size // self.patch_size // 2

    @property
    def frames(self) -> list[int]:
        """Indices of the frames that are read, from the first to the last."""
        indices: list[int] = np.linspace(0, FRAMES - 1, self.num_frames).round().astype(int).tolist()
        return indices

    @property
    def groups(self) -> list[list[int]]:
        """The frames read, in the pairs that share tokens."""
        return [self.frames[first : first + 2] for first in range(0, self.num_frames, 2)]


def build_processor(config: VlmConfig) -> Qwen2VLProcessor:
    """Qwen2-VL's processor with the small tokenizer; pictures are brought to an area of `image_size`^2."""
    pixels = {"shortest_edge": config.image_size**2, "longest_edge": config.image_size**2}
    shape = {"patch_size": config.patch_size, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shape),
        tokenizer=build_tokenizer(chat=True),
        video_processor=Qwen2VLVideoProcessor(**shape, do_sample_frames=False, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def build(config: VlmConfig) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL with new weights, drawn from the loop's seed."""
    ids = build_tokenizer(chat=True).get_vocab()
    half = config.width // config.heads // 2
    settings = Qwen2VLConfig(
        text_config={
            "vocab_size": len(ids),
            "hidden_size": config.width,
            "intermediate_size": config.intermediate,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.heads,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
            },
            "bos_token_id": None,
            "eos_token_id": ids[TURN_END],
            "pad_token_id": ids[PAD],
        },
        vision_config={
            "depth": config.vision_layers,
            "embed_dim": config.vision_width,
            "hidden_size": config.width,
            "num_heads": config.vision_heads,
            "patch_size": config.patch_size,
        },
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return Qwen2VLForConditionalGeneration(settings)


def save(vlm: Qwen2VLForConditionalGeneration, config: VlmConfig, folder: Path) -> None:
    """Write what `Qwen2VLForConditionalGeneration` and `Qwen2VLProcessor` read with `from_pretrained`."""
    with atomic(folder) as new:
        vlm.save_pretrained(new, state_dict=half_weights(vlm))
        build_processor(config).save_pretrained(new)

"""How much GPU memory the parts of Open-Sora need, one phase of the sampling after the other.

Weights are counted, not estimated. Activations are upper bounds: the largest number of big tensors that live side
by side, times their size, with attention scores written out in full as torch's plain kernel does; fused kernels
need less. The tests compare the bounds with what runs on the meta device and on the CPU hold. `RESERVE` is an
allowance that was not measured. Sizes are bytes; GB are 10^9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import T5Config, T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.blocks import FREQUENCIES
from icreward_lib.generators.opensora.transformer import STDiT3

RESERVE = 2 * 10**9  # the GPU's context, workspaces of its kernels, gaps between tensors
SCORE = 4  # bytes of an attention score: the plain kernel computes them in float32

# Sizes of the encoder in DeepFloyd/t5-v1_1-xxl.
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}


class GpuMemoryError(MemoryError):
    """The GPU is too small for what was asked; the message says what needs how much, and what to do."""


@dataclass(frozen=True)
class Phase:
    """What is on the GPU at one time, in bytes."""

    name: str
    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Weights, activations and the reserve."""
        return self.weights + self.activations + RESERVE


@dataclass(frozen=True)
class Request:
    """What is to be sampled; the fields are those of `OpenSoraPipeline.__call__`."""

    num_frames: int = 51
    height: int = 240
    width: int = 426
    num_videos: int = 1
    guidance_scale: float = 7.0


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers in their present dtype. Works on the meta device."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def phases(text_encoder: T5EncoderModel, transformer: STDiT3, vae: VideoAutoencoder, request: Request) -> list[Phase]:
    """What is on the GPU in the phases of one call under model offload, in their order."""
    rows = request.num_videos * (1 if request.guidance_scale == 1 else 2)
    return [
        Phase("text encoder", weight_bytes(text_encoder), _text(text_encoder, transformer.config.model_max_length)),
        Phase("image encoder", weight_bytes(vae), _autoencoding(vae, 1, request)),
        Phase("denoiser", weight_bytes(transformer), _denoising(transformer, vae, rows, request)),
        Phase("decoder", weight_bytes(vae), _autoencoding(vae, request.num_frames, request)),
    ]


def fine_tuning(transformer: STDiT3, vae: VideoAutoencoder, request: Request) -> Phase:
    """A training step on `num_videos` latents with gradient checkpointing and frozen weights, without adapters."""
    rows = request.num_videos
    kept = 2 * transformer.config.depth * _unit(transformer, vae, rows, request)  # what goes into every block
    # Backwards, one block at a time has its activations again, and the gradient of each.
    return Phase("fine-tuning", weight_bytes(transformer), kept + 2 * _denoising(transformer, vae, rows, request))


def check(needed: Sequence[Phase], available: int) -> None:
    """Raise `GpuMemoryError` if a phase needs more than the `available` bytes of a GPU."""
    worst = max(needed, key=lambda phase: phase.total)
    if worst.total > available:
        raise GpuMemoryError(
            f"the GPU has {available / 1e9:.1f} GB, the {worst.name} of Open-Sora needs {worst.total / 1e9:.1f} GB: "
            "take a larger GPU, or make fewer, shorter or smaller videos at a time"
        )


def public_models(dtype: torch.dtype = torch.bfloat16) -> tuple[T5EncoderModel, STDiT3, VideoAutoencoder]:
    """The public models without their weights, on the meta device: what `phases` asks for before a download."""
    with init_empty_weights(include_buffers=True):
        models = T5EncoderModel(T5Config(**T5_XXL)), STDiT3(), VideoAutoencoder()
    for model in models:
        nn.Module.to(model, dtype)  # diffusers' own method warns that no layer is kept in float32
    return models


def table(needed: Sequence[Phase]) -> str:
    """The phases as a Markdown table in GB."""
    lines = ["| on the GPU | weights | activations, at most | with the reserve |", "|---|---:|---:|---:|"]
    for phase in needed:
        sizes = (f"{size / 1e9:.2f}" for size in (phase.weights, phase.activations, phase.total))
        lines.append(f"| {phase.name} | {' | '.join(sizes)} |")
    return "\n".join(lines)


def _text(text_encoder: T5EncoderModel, tokens: int) -> int:
    config = text_encoder.config
    # Gated feed-forward: both branches, their product and copies. Attention: scores, their bias and their sum.
    hidden = 6 * tokens * max(config.d_ff, config.d_model, config.num_heads * config.d_kv)
    return hidden * text_encoder.dtype.itemsize + 5 * config.num_heads * tokens**2 * SCORE


def _unit(transformer: STDiT3, vae: VideoAutoencoder, rows: int, request: Request) -> int:
    """One tensor of all tokens of `rows` videos."""
    frames, patches = _tokens(transformer, vae, request)
    return rows * frames * patches * transformer.config.hidden_size * transformer.dtype.itemsize


def _tokens(transformer: STDiT3, vae: VideoAutoencoder, request: Request) -> tuple[int, int]:
    frames, height, width = vae.latent_size((request.num_frames, request.height, request.width))
    return frames, -(-height // transformer.patch) * -(-width // transformer.patch)


def _denoising(transformer: STDiT3, vae: VideoAutoencoder, rows: int, request: Request) -> int:
    config = transformer.config
    frames, patches = _tokens(transformer, vae, request)
    unit = _unit(transformer, vae, rows, request)
    scores = rows * frames * patches * config.num_heads * SCORE  # of every token with one key
    # Self-attention: input, its norm, q k v as computed, normed and in float32, and the output; scores and softmax.
    own = 2 * scores * max(patches, frames) + 16 * unit
    # Attention to the caption has a mask, which is written out as well and added.
    caption = 4 * scores * config.model_max_length + 6 * unit
    feed_forward = int(2 * config.mlp_ratio + 4) * unit
    captions = rows * config.model_max_length * (config.caption_channels + 4 * config.hidden_size)
    # Six vectors a frame, for both noise levels, chosen and added to a block's own; the sinusoids they come from.
    modulation = rows * (4 * frames + 6) * 6 * config.hidden_size + 8 * rows * FREQUENCIES
    latents = rows * frames * patches * transformer.patch**2 * (config.in_channels + transformer.out_channels)
    rest = (captions + modulation) * transformer.dtype.itemsize + 3 * latents * SCORE
    return max(own, caption, feed_forward) + rest


def _autoencoding(vae: VideoAutoencoder, num_frames: int, request: Request) -> int:
    config = vae.config
    frames, height, width = num_frames, request.height, request.width
    widths = tuple(config.spatial_block_out_channels)
    # The 2D part sees a few frames at a time. On the way up, a level begins with the width of the one below.
    levels = enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True))
    spatial = max(max(pair) * height * width // 4**level for level, pair in levels)
    # In its middle all places of a frame look at each other: scores and softmax, with one head.
    places = (height // vae.spatial_factor) * (width // vae.spatial_factor)
    scores = 2 * places**2 * SCORE if config.spatial_mid_block_add_attention else 0
    # The temporal part sees a chunk, padded to a multiple of its factor.
    chunk = min(config.micro_frame_size or frames, frames) + vae.temporal_vae.factor
    temporal = config.temporal_filters * max(config.temporal_channel_multipliers) * chunk * places
    video = 3 * frames * height * width
    # Five maps: input, norm or activation, convolution, shortcut and sum. The video, its parts, and it in float32.
    group, size = min(config.micro_batch_size, frames), vae.dtype.itemsize
    two_dimensional = group * (5 * spatial * size + scores)
    return max(two_dimensional, 5 * temporal * size) + 4 * video * size + 3 * video * SCORE

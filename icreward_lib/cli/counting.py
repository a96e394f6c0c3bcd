"""Operations and memory of single passes of the public networks, counted at full size on the meta device.

Operations are those of torch's `FlopCounterMode` while the real classes run: matrix products, convolutions and
attention, a multiply-add as two; norms and activations are left out. Training steps run there with their LoRA and
gradient checkpointing, so that what is recomputed counts and gradients of frozen weights, which nobody computes, do
not. Memory is what all living tensors hold, with the attention of torch's plain kernel, whose scores are written out:
more than fused kernels need.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import open_clip
import torch
from accelerate import init_empty_weights
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Regex, pre_tokenizers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2VLConfig, Qwen2VLModel, Qwen2VLVideoProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from icreward_lib import dpo
from icreward_lib.generators.opensora import memory
from icreward_lib.metrics.vbench_features import KINDS, SIDE, load_branch
from icreward_lib.rewards.backbone import add_vlm_lora, read_line
from icreward_lib.rewards.prompt import VIDEOREWARD_CONFIG
from icreward_lib.run.profile import GenerationSettings

FRAMES_AT_A_TIME = 64  # of ConsistencyScorer and ClipSim

#: Sizes in the config.json of Qwen/Qwen2-VL-2B-Instruct.
QWEN2_VL_2B: dict[str, dict[str, Any]] = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "patch_size": 14},
}


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations made and that are still held; `peak` is the most so far."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def flops(call: Callable[[], object], *, learns: bool = False) -> int:
    """Operations of what `call` does on the meta device."""
    with torch.set_grad_enabled(learns), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def held(model: nn.Module, call: Callable[[], object], *, learns: bool = False) -> int:
    """Bytes of all tensors that live at one time beside the weights, while `call` runs `model` on the meta device."""
    # Not in one run with `flops`: its counter keeps what gradient checkpointing recomputed.
    with torch.set_grad_enabled(learns), _Live(model) as live:
        call()
    return live.peak


class Pass(NamedTuple):
    """One pass of a network over a batch: FLOPs of one of its members, bytes held of all."""

    flops: int
    held: int


def _forward(model: nn.Module, call: Callable[[], object], batch: int) -> Pass:
    return Pass(flops(call) // batch, held(model, call))


def weights(model: nn.Module) -> int:
    """How many weights a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def _empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


open_sora = cache(memory.public_models)


class Generator(NamedTuple):
    """FLOPs of Open-Sora's parts: a caption, an image, one row of a step, a clip encoded or decoded."""

    text: int
    image: int
    denoise: int
    encode: int
    decode: int
    steps: int  # rows of all steps of a clip
    latents: int  # numbers of a clip
    pixels: int  # of a decoded frame

    @property
    def video(self) -> int:
        """From noise to a clip."""
        return self.steps * self.denoise + self.decode


@cache
def generator(shape: GenerationSettings) -> Generator:
    """Open-Sora in bfloat16 for clips of a shape."""
    text, transformer, vae = open_sora()
    frames, rows, columns = vae.latent_size((shape.num_frames, shape.height, shape.width))
    factor, channels = vae.spatial_factor, transformer.config.in_channels

    def clip(count: int) -> Tensor:
        return _empty(1, 3, count, factor * rows, factor * columns)

    latents = _empty(1, channels, frames, rows, columns)
    ids = torch.ones(1, transformer.config.model_max_length, dtype=torch.int64, device="meta")
    return Generator(
        text=flops(lambda: text(ids)),
        image=flops(lambda: vae.encode(clip(1), sample_posterior=False)),
        denoise=flops(lambda: _denoise(transformer, latents, shape)),
        encode=flops(lambda: vae.encode(clip(shape.num_frames), sample_posterior=False)),
        decode=flops(lambda: vae.decode(latents, shape.num_frames)),
        steps=shape.steps * (1 if shape.guidance == 1 else 2),
        latents=latents.numel(),
        pixels=factor**2 * rows * columns,
    )


class Policy(NamedTuple):
    """The denoiser with LoRA."""

    adapters: int  # weights
    denoise: int  # FLOPs of one row
    learn: int  # forwards, again for the gradient, and backwards


@cache
def policy(shape: GenerationSettings, rank: int) -> Policy:
    """The denoiser with LoRA of `rank`, gradient checkpointing on."""
    _, transformer, vae = memory.public_models()  # its own, as LoRA changes it
    latents = _empty(1, transformer.config.in_channels, *vae.latent_size((shape.num_frames, shape.height, shape.width)))
    transformer.enable_gradient_checkpointing()
    policy = dpo.add_denoiser_lora(transformer, rank=rank, alpha=rank, seed=0)
    return Policy(
        sum(p.numel() for p in policy.parameters() if p.requires_grad),
        flops(lambda: _denoise(policy, latents, shape)),
        flops(lambda: _denoise(policy, latents, shape).sum().backward(), learns=True),
    )


def _denoise(model: Any, latents: Tensor, shape: GenerationSettings) -> Tensor:
    """One row of a step, as the pipeline computes it."""
    tokens, width = model.config.model_max_length, model.config.caption_channels
    predicted: Tensor = model(
        latents.float(),
        _empty(1, dtype=torch.float32),
        _empty(1, 1, tokens, width),
        _empty(1, tokens, dtype=torch.int64),
        _empty(1, latents.shape[2], dtype=torch.bool),
        fps=_empty(1, dtype=torch.float32),
        height=torch.tensor([float(shape.height)]),  # the model reads their values
        width=torch.tensor([float(shape.width)]),
    )
    return predicted


@cache
def clip_model() -> Any:
    """CLIP ViT-B/32 (Radford et al., arXiv 2103.00020), image and text."""
    with init_empty_weights(include_buffers=True):
        return open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).eval().requires_grad_(False)


@cache
def clip_frame() -> Pass:
    """CLIP's features of a frame, in float32."""
    pixels = _empty(FRAMES_AT_A_TIME, 3, SIDE, SIDE, dtype=torch.float32)
    return _forward(clip_model(), lambda: clip_model().encode_image(pixels), FRAMES_AT_A_TIME)


@cache
def backbones() -> nn.ModuleList:
    """The four ViT-B/16 behind VBench++'s scores: DINO for the subject, and DreamSim's ensemble."""

    def branch(kind: str) -> VisionTransformer:
        layout = VisionTransformer(num_classes=0)
        if kind != "dino":
            layout.pos_drop = nn.LayerNorm(layout.embed_dim)
        return load_branch(kind, layout.state_dict())

    with init_empty_weights(include_buffers=True):
        return nn.ModuleList(branch(kind) for kind in ("dino", *KINDS))


@cache
def scored_frame() -> Pass:
    """All features of a frame that VBench++ scores, in float32."""
    pixels = _empty(FRAMES_AT_A_TIME, 3, SIDE, SIDE, dtype=torch.float32)
    return _forward(backbones(), lambda: [branch(pixels) for branch in backbones()], FRAMES_AT_A_TIME)


def vlm() -> Qwen2VLModel:
    """Qwen2-VL-2B in bfloat16, frozen."""
    with init_empty_weights(include_buffers=True):
        model = Qwen2VLModel(Qwen2VLConfig(**QWEN2_VL_2B))
    return model.to(torch.bfloat16).eval().requires_grad_(False)


class Reader(NamedTuple):
    """ICReward's passes over one clip, without its head, which has a thousandth of the language model's operations."""

    groups: int  # pairs of frames of a clip
    tokens: int  # of a group, and of the reference
    width: int  # of a token
    length: int  # tokens that the language model reads, in all
    adapters: int  # weights
    see: Pass  # the vision tower, one group
    read: int  # FLOPs of the language model
    learn: Pass  # forwards, again for the gradient, and backwards


@cache
def reader(shape: GenerationSettings, videos: int, frames: int, batch: int, rank: int) -> Reader:
    """ICReward with `frames` frames of a clip: `videos` clips seen, `batch` clips read at a time, LoRA of `rank`."""
    model, (height, width) = vlm(), (shape.height // 8 * 8, shape.width // 8 * 8)
    clip = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    seen = Qwen2VLVideoProcessor()(
        clip,
        do_sample_frames=False,
        cap_pixels_per_frame=False,
        return_tensors="pt",
        **VIDEOREWARD_CONFIG.picture_size,
    )
    grid, patches = seen["video_grid_thw"].repeat(videos, 1), seen["pixel_values_videos"]
    groups, rows, columns = grid[0].tolist()
    tokens = rows * columns // model.config.vision_config.spatial_merge_size**2
    pixels = _empty(videos * patches.shape[0], patches.shape[1])
    places = _empty(len(pixels), 2, dtype=torch.int64)
    see = _forward(
        model.visual, lambda: model.visual(pixels, grid_thw=grid, position_ids=places), batch=videos * groups
    )

    # Pieces that the tokenizer starts from: nearly every one is a token.
    pieces = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated").pre_tokenize_str(VIDEOREWARD_CONFIG.template)
    length = (groups + 1) * tokens + len(pieces)
    language = model.language_model
    add_vlm_lora(language, rank, VIDEOREWARD_CONFIG.lora_alpha)
    line = _empty(batch, length, language.config.hidden_size)
    read = flops(lambda: read_line(language, line)) // batch
    language.activation_checkpointing_enable()
    language.train()
    line.requires_grad_(True)  # the reward tokens in it are trained

    def step() -> None:
        read_line(language, line).sum().backward()

    learn = Pass(flops(step, learns=True) // batch, held(language, step, learns=True))
    adapters = sum(p.numel() for p in language.parameters() if p.requires_grad)
    return Reader(groups, tokens, line.shape[2], length, adapters, see, read, learn)

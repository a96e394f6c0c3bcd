"""STDiT3, the denoiser of Open-Sora 1.2 (Zheng et al., "Open-Sora", 2024), as a diffusers model.

Spatial and temporal blocks alternate. The noise level modulates each (adaptive layer norm); frames that are held clean
take the modulation of level zero. Parameter names are those of the public checkpoint.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from icreward_lib.generators.opensora import blocks


class STDiT3(ModelMixin, ConfigMixin):
    """Denoiser over video latents. Defaults are the public XL/2 model; a small config is the same code."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["STDiT3Block"]

    @register_to_config
    def __init__(
        self,
        input_sq_size: int = 512,  # picture side in pixels at which position embeddings are unscaled
        in_channels: int = 4,
        patch_size: tuple[int, int, int] = (1, 2, 2),  # (1, p, p), latent pixels per token
        hidden_size: int = 1152,
        depth: int = 28,  # spatial blocks, and as many temporal ones
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,  # share of captions that `drop_captions` blanks
        pred_sigma: bool = True,  # twice the output channels; rectified flow has no use for the second half
        caption_channels: int = 4096,
        model_max_length: int = 300,  # tokens of a caption
    ) -> None:
        super().__init__()
        if patch_size[0] != 1 or patch_size[1] != patch_size[2]:
            raise ValueError(f"STDiT3: patch_size must be (1, p, p), not {tuple(patch_size)}")
        if hidden_size % 4 or hidden_size % (2 * num_heads):
            raise ValueError(f"STDiT3: hidden_size {hidden_size} must be divisible by 4 and 2 * num_heads {num_heads}")
        patch_size = (1, patch_size[1], patch_size[2])  # a list when it comes from JSON
        self.patch = patch_size[1]
        self.out_channels = in_channels * (2 if pred_sigma else 1)
        self.rope = blocks.RotaryEmbedding(hidden_size // num_heads)
        self.pos_embed = blocks.PositionEmbedding(hidden_size)
        self.x_embedder = blocks.PatchEmbedder(in_channels, hidden_size, patch_size)
        self.t_embedder = blocks.ScalarEmbedder(hidden_size)
        self.fps_embedder = blocks.ScalarEmbedder(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = blocks.CaptionEmbedder(caption_channels, hidden_size, model_max_length)
        block = partial(blocks.STDiT3Block, hidden_size, num_heads, mlp_ratio)
        self.spatial_blocks = nn.ModuleList(block() for _ in range(depth))
        self.temporal_blocks = nn.ModuleList(block() for _ in range(depth))
        self.final_layer = blocks.FinalLayer(hidden_size, self.patch**2 * self.out_channels)
        self.gradient_checkpointing = False
        self.init_weights()

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Upstream's start: Xavier, no bias, temporal blocks and frame rate without effect at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, (blocks.STDiT3Block, blocks.FinalLayer)):
                table = module.scale_shift_table
                nn.init.normal_(table, std=table.shape[1] ** -0.5, generator=generator)
        patch = self.x_embedder.proj
        nn.init.kaiming_uniform_(patch.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(patch.bias)  # type: ignore[arg-type]
        null_caption = self.y_embedder.y_embedding
        nn.init.normal_(null_caption, std=null_caption.shape[1] ** -0.5, generator=generator)
        nn.init.normal_(self.fps_embedder.get_parameter("mlp.0.weight"), std=0.02, generator=generator)
        nn.init.zeros_(self.fps_embedder.get_parameter("mlp.2.weight"))
        for name, weight in self.temporal_blocks.named_parameters():
            if name.endswith(("attn.proj.weight", "mlp.fc2.weight")):  # both attentions
                nn.init.zeros_(weight)

    def null_captions(self, batch: int) -> Tensor:
        """The empty caption for classifier-free guidance, (batch, 1, tokens, caption_channels)."""
        return self.y_embedder.y_embedding.expand(batch, 1, -1, -1)

    def drop_captions(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Training for guidance: a random `class_dropout_prob` of captions becomes the empty one; masks stay."""
        drop = torch.rand(len(y), generator=generator) < self.config.class_dropout_prob
        return torch.where(drop.to(y.device)[:, None, None, None], self.null_captions(len(y)).to(y.dtype), y)

    def forward(
        self,
        x: Tensor,  # latents (b, in_channels, t, h, w), any h and w
        timestep: Tensor,  # (b,), 0 (clean) to 1000 (noise)
        y: Tensor,  # caption features (b, 1, tokens, caption_channels)
        mask: Tensor | None = None,  # (b', tokens), 1 = caption token, 0 = padding; b' divides b and is repeated
        x_mask: Tensor | None = None,  # (b, t) bool, False = clean frame. None: all are denoised
        *,
        fps: Tensor,  # (b'',) of the video, repeated to b; 120 for single images
        height: Tensor,  # (b,) nominal size in pixels; the first entry counts for the whole batch
        width: Tensor,
    ) -> Tensor:
        """Predict the velocity `x0 - noise` (and an unused sigma), float32 (b, out_channels, t, h, w)."""
        batch, _, _, h, w = x.shape
        dtype = self.x_embedder.proj.weight.dtype
        timestep, y = timestep.to(dtype), y.to(dtype)
        x = F.pad(x.to(dtype), (0, -w % self.patch, 0, -h % self.patch))
        rows, columns = x.shape[3] // self.patch, x.shape[4] // self.patch
        scale = math.sqrt(float(height[0]) * float(width[0])) / self.config.input_sq_size
        x = self.x_embedder(x) + self.pos_embed(rows, columns, scale, dtype)

        rate = self.fps_embedder(fps.repeat(batch // len(fps)), dtype)
        t = self.t_embedder(timestep, dtype) + rate
        t0 = self.t_embedder(torch.zeros_like(timestep), dtype) + rate
        modulation = self.t_block(t)[:, None]
        if x_mask is not None:
            modulation = torch.where(x_mask[:, :, None], modulation, self.t_block(t0)[:, None])
        modulation = modulation.unflatten(-1, (6, -1))
        y = self.y_embedder(y).flatten(1, 2)
        if mask is not None:
            mask = mask.bool().repeat(batch // len(mask), 1)[:, None, None]

        rotary = self.rope(x.shape[1])
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = self._run(spatial, x, y, mask, modulation, None)
            x = self._run(temporal, x, y, mask, modulation, rotary)

        x = self.final_layer(x, t, t0, x_mask).unflatten(-1, (self.patch, self.patch, -1))
        x = x.unflatten(2, (rows, columns)).permute(0, 6, 1, 2, 4, 3, 5)  # b c t rows p columns p
        return x.flatten(5, 6).flatten(3, 4)[..., :h, :w].float()

    def _run(self, block: nn.Module, *args: Any) -> Tensor:
        checkpoint = self.gradient_checkpointing and torch.is_grad_enabled()
        return self._gradient_checkpointing_func(block, *args) if checkpoint else block(*args)

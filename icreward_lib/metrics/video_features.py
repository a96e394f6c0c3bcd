"""Features of whole videos, for the distances between sets of them: VideoMAE's, or I3D's as published FVD has them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.nn import functional as F
from torchvision.transforms.functional import normalize
from transformers import VideoMAEModel

from icreward_lib.video import Video

I3D_FILE = "i3d_torchscript.pt"
I3D_SIDE, I3D_FRAMES, I3D_SIZE = 224, 9, 400  # pixels, the fewest frames it takes, logits


class VideoFeatures(Protocol):
    """Turns videos into one feature vector each."""

    name: str  # network and preprocessing, for provenance: two names, two incomparable distances

    def features(self, videos: Sequence[Video]) -> np.ndarray:
        """Map N videos to float32 (N, D), each row on its own."""


class VideoMAEFeatures:
    """Mean of VideoMAE's last hidden states over all patches."""

    def __init__(self, folder: str | os.PathLike[str], *, batch_size: int = 16, device: str = "cpu") -> None:
        """Load a VideoMAEModel or the trunk of a VideoMAEForVideoClassification; ValueError if not whole."""
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"No VideoMAE folder at {folder}.")
        try:
            self.model, report = VideoMAEModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"No whole VideoMAE model in {folder}: {error}") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            raise ValueError(f"The weights in {folder} do not fit its config.json.")
        self.model.eval().requires_grad_(False).to(device)
        self.batch_size, self.device, config = batch_size, device, self.model.config
        self.name = f"videomae-mean last-{config.num_frames}-frames squash-{config.image_size} bilinear antialias"

    @torch.inference_mode()
    def features(self, videos: Sequence[Video]) -> np.ndarray:
        """Map N videos of at least the model's frame count to float32 (N, D), each row on its own."""
        config, rows = self.model.config, []
        for start in range(0, len(videos), self.batch_size):
            batch = videos[start : start + self.batch_size]
            pixels = videomae_pixels(batch, num_frames=config.num_frames, size=config.image_size)
            rows.append(self.model(pixels.to(self.device)).last_hidden_state.mean(1).cpu())
        return torch.cat(rows).numpy()


def videomae_pixels(videos: Sequence[Video], *, num_frames: int, size: int) -> torch.Tensor:
    """The *last* `num_frames` frames, squashed to squares: float32 (N, num_frames, 3, size, size), ImageNet-normalised.

    (A first frame that copies the reference tells nothing.) ValueError for shorter clips.
    """
    clips = []
    for video in videos:
        if video.num_frames < num_frames:
            raise ValueError(f"These video features need {num_frames} frames; a clip has {video.num_frames}.")
        frames = torch.tensor(video.frames[-num_frames:]).permute(0, 3, 1, 2).float() / 255
        clips.append(F.interpolate(frames, (size, size), mode="bilinear", antialias=True))
    return normalize(torch.stack(clips), IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


class I3DFeatures:
    """The 400 logits of I3D (Carreira and Zisserman, arXiv 1705.07750), which published FVD values are made of."""

    name = f"i3d-logits all-frames squash-{I3D_SIDE} bilinear no-antialias [-1,1]"

    def __init__(self, folder: str | os.PathLike[str], *, batch_size: int = 8, device: str = "cpu") -> None:
        """Load the TorchScript port of DeepMind's network, `i3d_torchscript.pt` in a folder (StyleGAN-V's).

        TorchScript files hold code: load only one whose origin you trust. ValueError if it is damaged or none.
        """
        self.file, self.batch_size, self.device = Path(folder) / I3D_FILE, batch_size, device
        if not self.file.is_file():
            raise FileNotFoundError(f"No I3D network at {self.file}: get {I3D_FILE} from StyleGAN-V, or use VideoMAE.")
        try:
            self.model = torch.jit.load(str(self.file), map_location=device).eval()
        except RuntimeError as error:
            raise ValueError(f"{self.file} is not a TorchScript network, or damaged: download it again.") from error

    @torch.inference_mode()
    def features(self, videos: Sequence[Video]) -> np.ndarray:
        """Map N videos of one length, at least 9 frames, to float32 (N, 400); ValueError if the file is not I3D."""
        rows = []
        for start in range(0, len(videos), self.batch_size):
            pixels = i3d_pixels(videos[start : start + self.batch_size]).to(self.device)
            # The port can scale and resize by itself: both are off, so that what it sees is stated in one place.
            try:
                logits = self.model(pixels, rescale=False, resize=False, return_features=True)
            except RuntimeError as error:
                raise ValueError(f"{self.file} does not run as I3D does: {str(error).splitlines()[-1]}") from error
            if logits.shape != (len(pixels), I3D_SIZE):
                found = f"{len(pixels)} clips gave an array of shape {tuple(logits.shape)}"
                raise ValueError(f"{self.file} is not I3D, which gives {I3D_SIZE} logits a clip: {found}.")
            rows.append(logits.float().cpu())
        return torch.cat(rows).numpy()


def i3d_pixels(videos: Sequence[Video]) -> torch.Tensor:
    """Videos of one length, at least 9 frames, for I3D: float32 (N, 3, T, 224, 224) in [-1, 1], squashed, bilinear."""
    lengths = sorted({video.num_frames for video in videos})
    if len(lengths) != 1 or lengths[0] < I3D_FRAMES:
        found = " and ".join(map(str, lengths))
        raise ValueError(f"I3D needs clips of one length, at least {I3D_FRAMES} frames; these have {found}.")
    frames = (torch.tensor(video.frames).permute(0, 3, 1, 2).float() for video in videos)
    clips = [F.interpolate(clip, (I3D_SIDE, I3D_SIDE), mode="bilinear") for clip in frames]
    return torch.stack(clips).transpose(1, 2) / 127.5 - 1

"""CLIP-I, the image-image form of CLIPSIM (GODIVA, arXiv 2104.14806), raw cosines, not times 100.

A frozen copy of the reference scores 1: show a dynamic degree beside it. Values of two CLIP models do not compare.
"""

import os
import re
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError


class ClipSim:
    """CLIP features of frames, for `clipsim`."""

    def __init__(self, model: str | os.PathLike[str], *, device: str = "cpu", batch_size: int = 64) -> None:
        """Load a folder with open_clip_config.json and open_clip_model.safetensors, or a model by name.

        A name is open_clip's with its weights ("ViT-B-32:openai") or a hub id ("owner/model", "hf-hub:owner/model").
        FileNotFoundError if it is none of them, ValueError if its weights are not whole or do not fit its config.
        """
        folder = Path(model)
        name, _, tag = str(model).partition(":")
        if folder.is_dir():
            source, tag = f"local-dir:{folder}", ""
        elif name == "hf-hub" or re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
            source, tag = f"hf-hub:{tag or name}", ""
        elif name in open_clip.list_models():
            source = name
        else:
            raise FileNotFoundError(f"{model} is neither a folder with an open_clip model nor a name open_clip knows.")
        try:
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                source, pretrained=tag or None, require_pretrained=True, device=device
            )
        except (RuntimeError, FileNotFoundError, SafetensorError) as error:
            raise ValueError(f"No whole CLIP model in {model}: {error}") from error
        self.model.eval().requires_grad_(False)
        self.device, self.batch_size = device, batch_size

    @torch.inference_mode()
    def image_features(self, frames: np.ndarray) -> np.ndarray:
        """Map frames uint8 RGB (N, H, W, 3) to unit-norm float32 (N, D), each row on its own."""
        pixels = torch.stack([self.preprocess(Image.fromarray(frame)) for frame in frames])
        parts = pixels.split(self.batch_size)
        encoded = torch.cat([self.model.encode_image(part.to(self.device), normalize=True) for part in parts])
        return encoded.float().cpu().numpy()


def clipsim(reference: np.ndarray, frames: np.ndarray, *, include_first: bool) -> np.ndarray:
    """Mean cosine of a reference (D,) and the frames (..., T, D), all unit norm; returns (...), in [-1, 1].

    The first frame all but is the reference and lifts the mean by about 1/T: include_first=False leaves it out.
    """
    if not include_first and frames.shape[-2] < 2:
        raise ValueError("Without its first frame a one-frame clip has nothing to compare.")
    return np.asarray((frames[..., 0 if include_first else 1 :, :] @ reference).mean(-1))

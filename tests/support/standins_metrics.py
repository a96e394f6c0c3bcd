"""Stand-ins for the public files behind the metrics: their names, layout and keys, with tiny random networks.

`write_metrics(DIR)` fills a folder of downloaded models: `DIR/dino`, `DIR/dreamsim`, `DIR/i3d`, `DIR/vbench2_i2v`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import skimage.data
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from icreward_lib.metrics.vbench_features import CLIP_FILES, DINO_FILE, KINDS, LORA_FOLDER, DreamSim, load_branch
from icreward_lib.poster.suite import KINDS as IMAGE_KINDS
from icreward_lib.run.files import write_checksums

WIDTH, DEPTH, EMBEDDING = 64, 2, 32  # public: 768, 12, 512
MOTIONS = ("pans left", "pans right", "tilts up", "tilts down", "zooms in", "zooms out", "static")
BACKGROUNDS = IMAGE_KINDS[7:]


def write_metrics(folder: Path, *, seed: int = 0) -> None:
    """All of them: about 3 MB, in about a second."""
    write_dino(folder / "dino", seed=seed)
    write_dreamsim(folder / "dreamsim", seed=seed)
    write_i3d(folder / "i3d", seed=seed)
    write_suite(folder / "vbench2_i2v")


def branch_weights(kind: str, *, seed: int, width: int = WIDTH, depth: int = DEPTH) -> dict[str, Tensor]:
    """Tensors as in the public file of one of DreamSim's networks."""
    network = VisionTransformer(embed_dim=width, depth=depth, num_heads=1, num_classes=0, norm_layer=nn.LayerNorm)
    if kind != "dino":
        network.pos_drop = nn.LayerNorm(width)
    generator = torch.Generator().manual_seed(seed + KINDS.index(kind))
    weights = {
        name: (1.0 if name.endswith("weight") and value.ndim == 1 else 0.0)
        + torch.randn(value.shape, generator=generator) * 0.1
        for name, value in network.state_dict().items()
    }
    return weights if kind == "dino" else weights | {"proj": torch.randn(width, EMBEDDING, generator=generator)}


def write_dino(folder: Path, *, seed: int = 0) -> None:
    """`dino_vitbase16_pretrain.pth`, as facebookresearch/dino gives it away."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(branch_weights("dino", seed=seed), folder / DINO_FILE)


def write_dreamsim(folder: Path, *, seed: int = 0) -> None:
    """What `dreamsim_ensemble_checkpoint.zip` unpacks to, but for the training state of DINO, which nothing reads."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {kind: branch_weights(kind, seed=seed) for kind in KINDS}
    for kind, name in zip(KINDS[1:], CLIP_FILES, strict=True):
        torch.save({"state_dict": weights[kind]}, folder / name)
    ensemble = DreamSim([load_branch(kind, weights[kind]) for kind in KINDS], [weights[k]["proj"] for k in KINDS[1:]])
    config = LoraConfig(r=16, lora_alpha=8, lora_dropout=0.3, bias="none", target_modules=["qkv"])
    tuned = get_peft_model(ensemble, config)
    generator = torch.Generator().manual_seed(seed + len(KINDS))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    tuned.save_pretrained(folder / LORA_FOLDER)


class TinyI3D(nn.Module):
    """I3D's interface, strides and output size: time shrinks eightfold, rounded up, then two steps are averaged."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.patches = nn.Parameter(torch.randn(8, 3, 1, 32, 32, generator=generator) * 0.05)
        self.logits = nn.Parameter(torch.randn(400, 8, 1, 1, 1, generator=generator))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale:
            x = x / 127.5 - 1
        if resize:
            x = F.interpolate(x, size=[x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        x = torch.relu(F.conv3d(x, self.patches, stride=[1, 32, 32]))
        x = F.avg_pool3d(x, [8, 1, 1], ceil_mode=True)
        x = F.conv3d(F.avg_pool3d(x, [2, 7, 7], stride=1), self.logits).mean(2).squeeze(2).squeeze(2)
        return x if return_features else x.softmax(1)


def write_i3d(folder: Path, *, seed: int = 0) -> None:
    """`i3d_torchscript.pt`, as StyleGAN-V gives it away, vouched for as any other than StyleGAN-V's has to be."""
    folder.mkdir(parents=True, exist_ok=True)
    network = torch.jit.script(TinyI3D(torch.Generator().manual_seed(seed)).eval())
    torch.jit.save(network, str(folder / "i3d_torchscript.pt"))
    write_checksums(folder)


def write_suite(folder: Path, *, per_kind: int = 3) -> None:
    """`vbench2_i2v_full_info.json` and `crop/<shape>/<image>.jpg`: a few images of every kind, tiny."""
    photographs = [getattr(skimage.data, name)() for name in ("chelsea", "coffee", "astronaut", "rocket")]
    entries: list[dict[str, object]] = []
    shapes = {"1-1": (96, 96), "8-5": (128, 80), "7-4": (126, 72), "16-9": (128, 72)}
    for shape in shapes:
        (folder / "crop" / shape).mkdir(parents=True, exist_ok=True)
    for position, kind in enumerate(IMAGE_KINDS):
        for number in range(per_kind):
            prompt = f"picture {number} of the kind {kind}"
            background = kind in BACKGROUNDS
            own = ["i2v_background", "background_consistency"] if background else ["i2v_subject", "subject_consistency"]
            common = {"image_type": kind, "image_name": f"{prompt}.jpg"}
            entries.append({"prompt_en": prompt, "dimension": [*own, "aesthetic_quality"], **common})
            if background:
                camera = [f"{prompt}, camera {motion}" for motion in MOTIONS]
                entries += [{"prompt_en": text, "dimension": ["camera_motion"], **common} for text in camera]
            picture = Image.fromarray(photographs[(position + number) % len(photographs)])
            left, top = 8 * number, 4 * position
            for shape, size in shapes.items():
                box = (left, top, left + 2 * size[0], top + 2 * size[1])
                picture.crop(box).resize(size).save(folder / "crop" / shape / f"{prompt}.jpg", quality=90)
    (folder / "vbench2_i2v_full_info.json").write_text(json.dumps(entries), encoding="utf-8")


def moving_clip(seed: int, *, frames: int = 10, height: int = 72, width: int = 128) -> np.ndarray:
    """A window that wanders over a photograph, uint8 RGB (T, H, W, 3)."""
    photograph, rng = skimage.data.chelsea(), np.random.default_rng(seed)
    (top, left), speed = rng.integers(0, 100, 2), rng.integers(1, 6)
    return np.stack([photograph[top : top + height, left + speed * t :][:, :width] for t in range(frames)])

"""VBench++'s own backbones: DINO ViT-B/16 for the subject, the DreamSim ensemble for the background.

DINO: arXiv 2104.14294. DreamSim: arXiv 2306.09344, the LoRA-tuned ensemble of DINO, CLIP and OpenCLIP. All networks are
timm's vision transformer, whose tensors have the names of the public files.
"""

import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import timm
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from PIL import Image
from safetensors import SafetensorError
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

SIDE, SHORTER_SIDE = 224, 256  # pixels: what the networks see, and what DINO's view is cut from
IMAGENET, CLIP = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
KINDS = ("dino", "clip", "open_clip")  # DreamSim's networks, in the order of its embedding
DINO_FILE = "dino_vitbase16_pretrain.pth"
CLIP_FILES = ("clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar")
LORA_FOLDER = "ensemble_lora"


class DreamSim(nn.Module):
    """Images (N, 3, 224, 224) in [0, 1] -> embeddings (N, 1792), centred on their own means, of no particular norm.

    The cosine of two is DreamSim's similarity. Its adapters look for the networks under `extractor_list.I.model`.
    """

    def __init__(self, branches: Sequence[VisionTransformer], projections: Sequence[Tensor]) -> None:
        """The networks in the order of `KINDS`, and the projections (width, d) of the two CLIP ones."""
        super().__init__()
        self.extractor_list = nn.ModuleList(nn.ModuleDict({"model": branch}) for branch in branches)
        self.projections = nn.ParameterList(nn.Parameter(matrix, requires_grad=False) for matrix in projections)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        networks: list[Any] = [extractor.get_submodule("model") for extractor in self.extractor_list]
        dino, *clips = networks
        # DINO's token is taken before the last norm, CLIP's after it.
        ((_, prefix),) = dino.forward_intermediates(
            TF.normalize(images, *IMAGENET), indices=1, intermediates_only=True, return_prefix_tokens=True
        )
        images, pairs = TF.normalize(images, *CLIP), zip(clips, self.projections, strict=True)
        embedding = torch.cat([prefix[:, 0], *(clip(images) @ projection for clip, projection in pairs)], dim=-1)
        return embedding - embedding.mean(-1, keepdim=True)


class VBenchFeatures:
    """DINO's class token (768) and DreamSim's centred embedding (1792), preprocessed as VBench's code does it.

    Frames are resized as float tensors, the reference as an 8-bit picture: the asymmetry is VBench's. Its leaderboard
    was made without `antialias` of frames, by which scores rise by 0.001 to 0.002, as much as many models differ.
    """

    def __init__(self, dino: VisionTransformer, dreamsim: DreamSim, *, antialias: bool, device: str = "cpu") -> None:
        self.dino, self.dreamsim = dino.to(device), dreamsim.to(device)
        self.antialias, self.device = antialias, device
        kinds = f"dino-vit-{dino.embed_dim} crop-{SIDE}, dreamsim-ensemble squash-{SIDE}"
        self.name = f"{kinds}, bicubic{' antialias' if antialias else ''}"

    @classmethod
    def from_pretrained(
        cls, dino: str | Path, dreamsim: str | Path, *, antialias: bool = False, device: str = "cpu"
    ) -> Self:
        """Load the public files: DINO's from one folder, DreamSim 0.2's unpacked ensemble archive from another.

        FileNotFoundError names all files that are missing; ValueError if one is damaged or holds another network.
        """
        files = [Path(dino) / DINO_FILE, *(Path(dreamsim) / name for name in CLIP_FILES)]
        adapter = Path(dreamsim) / LORA_FOLDER
        if missing := [str(path) for path in (*files, adapter / "adapter_config.json") if not path.is_file()]:
            raise FileNotFoundError(
                f"VBench++'s networks are not whole: {', '.join(missing)} missing. DINO's file comes from "
                "facebookresearch/dino, the others from DreamSim's dreamsim_ensemble_checkpoint.zip (v0.2.0)."
            )
        branches, projections = [], []
        for kind, path in zip(KINDS, files, strict=True):
            weights = read_weights(path)
            try:
                branches.append(load_branch(kind, weights))
                if kind != "dino":
                    projections.append(weights["proj"])
            except (KeyError, ValueError) as error:
                raise ValueError(f"{path} does not hold the {kind} network that its name says: {error}") from error
        # DreamSim's DINO is tuned in place, so the subject's needs a copy of its own.
        subject = deepcopy(branches[0])
        return cls(subject, _tuned(DreamSim(branches, projections), adapter), antialias=antialias, device=device)

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Map uint8 RGB (N, H, W, 3) to subject (N, 768) and background (N, 1792)."""
        pixels = torch.tensor(frames).to(self.device).permute(0, 3, 1, 2).float()
        resize = partial(TF.resize, interpolation=InterpolationMode.BICUBIC, antialias=self.antialias)
        cropped = TF.center_crop(resize(pixels, [SHORTER_SIDE]), [SIDE, SIDE])
        return self._encode(cropped / 255, resize(pixels, [SIDE, SIDE]) / 255)

    @torch.inference_mode()
    def reference(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Map the reference image, uint8 RGB (H, W, 3), to subject (768,) and background (1792,)."""
        picture = Image.fromarray(image)
        cropped = TF.center_crop(TF.resize(picture, [SHORTER_SIDE], InterpolationMode.BICUBIC), [SIDE, SIDE])
        squashed = TF.resize(picture, [SIDE, SIDE], InterpolationMode.BICUBIC)
        views = (TF.to_tensor(view)[None].to(self.device) for view in (cropped, squashed))
        subject, background = self._encode(*views)
        return subject[0], background[0]

    def _encode(self, cropped: Tensor, squashed: Tensor) -> tuple[Tensor, Tensor]:
        return self.dino(TF.normalize(cropped, *IMAGENET)).cpu(), self.dreamsim(squashed).cpu()


def _tuned(dreamsim: DreamSim, adapter: Path) -> DreamSim:
    """DreamSim with its LoRA merged, frozen."""
    try:
        model = PeftModel.from_pretrained(dreamsim, adapter)
        found = load_peft_weights(str(adapter), device="cpu")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"{adapter} holds no whole LoRA of DreamSim: unpack its archive again ({error}).") from error
    # PEFT only warns of adapters that fit nowhere, and the networks would stay as they are.
    if strange := found.keys() ^ get_peft_model_state_dict(model).keys():
        raise ValueError(f"{adapter} is not the LoRA of DreamSim's ensemble: {sorted(strange)[0]} does not fit.")
    merged: DreamSim = model.merge_and_unload()
    return merged.eval().requires_grad_(False)


def load_branch(kind: str, weights: Mapping[str, Tensor], *, head_size: int = 64) -> VisionTransformer:
    """A vision transformer, one of `KINDS`, of a public file's tensors, frozen, giving its class token.

    The CLIPs have a norm after their positions, OpenAI's another GELU. `head_size` is 64 in every public one.
    ValueError if the weights, named as in DINO's repository, are not those of such a network with 16-pixel patches.
    """
    if "cls_token" not in weights:
        raise ValueError(f"it begins with {', '.join([*weights][:3])}, and no vision transformer does")
    width = weights["cls_token"].shape[-1]
    if width % head_size:
        raise ValueError(f"its width {width} does not divide into heads of {head_size}")
    network: VisionTransformer = timm.create_model(
        "vit_base_patch16_224.dino",
        embed_dim=width,
        depth=sum(name.endswith("attn.qkv.weight") for name in weights),
        num_heads=width // head_size,
        act_layer="quick_gelu" if kind == "clip" else None,
        norm_layer=partial(nn.LayerNorm, eps=1e-6 if kind == "dino" else 1e-5),
    )
    if kind != "dino":
        network.pos_drop = nn.LayerNorm(width, eps=1e-5)
    try:
        network.load_state_dict({name: value for name, value in weights.items() if name != "proj"})
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return network.eval().requires_grad_(False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file, or of one whose "state_dict" they are; ValueError if it holds anything else."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged or no file of weights: download it again.") from error
    tensors: dict[str, Tensor] = content.get("state_dict", content)
    return tensors

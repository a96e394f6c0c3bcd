"""From the public Open-Sora 1.2 repositories' layout to diffusers' layout.

The public ones (`hpcai-tech/OpenSora-STDiT-v3`, `hpcai-tech/OpenSora-VAE-v1.2`) hold `config.json` and
`model.safetensors` as transformers writes them. Parameter names are the same on both sides, so a conversion
rewrites the config, checks every name and shape, and saves the weights unchanged.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from icreward_lib.files import atomic
from icreward_lib.opensora.autoencoder import VideoAutoencoder, config_from_hub
from icreward_lib.opensora.transformer import STDiT3

# Settings of the public config without a counterpart here, with the only value that is supported.
FIXED = {"qk_norm": True, "skip_y_embedder": False, "drop_path": 0.0}


def convert_transformer(source: str | Path, target: str | Path) -> None:
    """Convert a folder of the public denoiser into one for `STDiT3.from_pretrained`.

    Raises:
        FileNotFoundError: if a file is missing in `source`.
        ValueError: if a file cannot be read, it is another model, or weights are missing or do not belong.
    """
    source = Path(source)
    public, weights = _read(source)
    if public.get("model_type") != "STDiT3":
        kind = public.get("model_type")
        raise ValueError(f"{source}/config.json is of model_type {kind!r}, not 'STDiT3' of Open-Sora 1.2")
    for name, value in FIXED.items():
        if public.get(name, value) != value:
            raise ValueError(f"{source}/config.json: {name} = {public[name]} is not supported, only {value}")
    known = inspect.signature(STDiT3.__init__).parameters
    config = {name: value for name, value in public.items() if name in known}
    _save(STDiT3, config, weights, source, Path(target))


def convert_autoencoder(source: str | Path, target: str | Path, *, spatial: Mapping[str, Any] | None = None) -> None:
    """Convert a folder of the public autoencoder into one for `VideoAutoencoder.from_pretrained`.

    `spatial` is the config of the 2D `AutoencoderKL`, which the public file does not hold (None: SDXL's).

    Raises:
        FileNotFoundError, ValueError: as `convert_transformer`.
    """
    source = Path(source)
    public, weights = _read(source)
    _save(VideoAutoencoder, config_from_hub(public, spatial), weights, source, Path(target))


def _read(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in ("config.json", "model.safetensors"):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} has no {name}: give a folder downloaded from the public hub")
    try:
        return json.loads((source / "config.json").read_text()), load_file(source / "model.safetensors")
    except (json.JSONDecodeError, SafetensorError) as error:
        raise ValueError(f"{source} cannot be read ({error}): download it again") from error


def _save(
    model_class: type[ModelMixin],
    config: Mapping[str, Any],
    weights: dict[str, Tensor],
    source: Path,
    target: Path,
) -> None:
    with torch.device("meta"):  # names and shapes only
        model = model_class(**config)
    expected = model.state_dict()
    both = expected.keys() & weights.keys()
    problems = {
        "missing": expected.keys() - weights.keys(),
        "unexpected": weights.keys() - expected.keys(),
        "misshapen": {name for name in both if expected[name].shape != weights[name].shape},
    }
    found = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
    if found:
        raise ValueError(f"{source}/model.safetensors does not fit its config.json ({found})")
    model.load_state_dict(weights, assign=True)
    with atomic(target) as temporary:
        model.save_pretrained(temporary)


def _listed(names: Iterable[str], most: int = 8) -> str:
    ordered = sorted(names)
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")

"""From the public Open-Sora 1.2 repositories to our models.

`hpcai-tech/OpenSora-STDiT-v3` and `hpcai-tech/OpenSora-VAE-v1.2` hold `config.json` and `model.safetensors` as
transformers writes them. Parameter names are the same on both sides, so a conversion rewrites the config and
checks every name and shape, before the first weight is read. `save_pretrained` then writes diffusers' layout.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder, config_from_hub
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.transformer import STDiT3

TRANSFORMER = "hpcai-tech/OpenSora-STDiT-v3"
CONFIG, WEIGHTS = "config.json", "model.safetensors"

# Settings of the public config without a counterpart here, with the only value that is supported.
FIXED = {"qk_norm": True, "skip_y_embedder": False, "drop_path": 0.0}

# How parameters of the other versions' denoisers begin. 1.0 has "blocks." too, so it comes first.
OTHER_VERSIONS = {
    "pos_embed_temporal": "1.0 (STDiT)",
    "blocks.": "1.1 (STDiT2)",
    "x_embedder_cond": "1.3",
    "double_blocks.": "2.0",
}

_SPATIAL_BIAS = re.compile(r"spatial_vae\.module\.encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv\d\.bias")

Shapes = Mapping[str, tuple[int, ...]]
Model = TypeVar("Model", bound=ModelMixin)


def load_transformer(source: str | Path, *, dtype: torch.dtype = torch.float32) -> STDiT3:
    """The public denoiser, on the CPU in evaluation mode, with its weights rounded to `dtype`.

    Args:
        source: a folder with the two files of the public repository.

    Raises:
        FileNotFoundError: if a file is missing in the folder.
        ValueError: if a file cannot be read, it is another model or another version of Open-Sora, or weights are
            missing, do not belong or have another shape. The message names them.
    """
    path, shapes = _weights(source)
    for start, version in OTHER_VERSIONS.items():
        if any(name.startswith(start) for name in shapes):
            raise ValueError(f"{path} holds a denoiser of Open-Sora {version}, not of 1.2: give {TRANSFORMER}")
    public = _config(source)
    if public.get("model_type") != "STDiT3":
        kind = public.get("model_type")
        raise ValueError(f"{source}/{CONFIG} is of model_type {kind!r}, not 'STDiT3' of Open-Sora 1.2")
    for name, value in FIXED.items():
        if public.get(name, value) != value:
            raise ValueError(f"{source}/{CONFIG}: {name} = {public[name]} is not supported, only {value}")
    known = inspect.signature(STDiT3.__init__).parameters
    config = {name: value for name, value in public.items() if name in known}
    return _load(STDiT3, config, path, shapes, dtype)


def load_autoencoder(source: str | Path, *, dtype: torch.dtype = torch.float32) -> VideoAutoencoder:
    """The public autoencoder; arguments and errors as of `load_transformer`."""
    path, shapes = _weights(source)
    public = _config(source)
    return _load(VideoAutoencoder, config_from_hub(public, _spatial_sizes(shapes, public)), path, shapes, dtype)


def _spatial_sizes(shapes: Shapes, public: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of the 2D part: the public config does not hold them, so they are read off the weights' shapes."""
    widths: dict[int, int] = {}
    layers = 0
    for name, shape in shapes.items():
        if found := _SPATIAL_BIAS.fullmatch(name):
            widths[int(found[1])] = shape[0]
            layers = max(layers, int(found[2]) + 1)
    if not widths:
        return {}  # the check of the names says what is missing
    # No shape shows the number of groups; both parts of the public model have the same.
    groups = public.get("vae_temporal", {}).get("num_groups", 32)
    ordered = [widths[level] for level in sorted(widths)]
    return {"block_out_channels": ordered, "layers_per_block": layers, "norm_num_groups": groups}


def _file(source: str | Path, name: str) -> Path:
    """A file of a folder; FileNotFoundError if there is none."""
    path = Path(source) / name
    if not path.is_file():
        present = ", ".join(sorted(file.name for file in path.parent.glob("*"))) or "nothing"
        raise FileNotFoundError(
            f"{source} has no {name} (it has {present}): give a folder with the files of the public repository"
        )
    return path


def _config(source: str | Path) -> dict[str, Any]:
    path = _file(source, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): download it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings: download it again")
    return config


def _weights(source: str | Path) -> tuple[Path, Shapes]:
    """The file and the shapes in its header. A file that was cut off is found out here."""
    path = _file(source, WEIGHTS)
    try:
        with safe_open(path, framework="pt") as file:
            return path, {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read, it is damaged or cut off ({error}): download it again") from error


def _load(model_class: type[Model], config: Mapping[str, Any], path: Path, shapes: Shapes, dtype: torch.dtype) -> Model:
    with init_empty_weights(include_buffers=False):  # names and shapes only
        model = model_class(**config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    misshapen = [name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name]]
    problems = {
        "missing": expected.keys() - shapes.keys(),
        "unexpected": shapes.keys() - expected.keys(),
        "misshapen": [f"{name} {shapes[name]} instead of {expected[name]}" for name in misshapen],
    }
    found = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
    if found:
        raise ValueError(f"{path} does not fit its {CONFIG} ({found}): download both from the public repository")
    with safe_open(path, framework="pt") as file:  # one tensor at a time, to hold no second copy of them all
        weights = {name: file.get_tensor(name).to(dtype) for name in shapes}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _listed(names: Iterable[str], most: int = 8) -> str:
    ordered = sorted(names)
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")


def load_pipeline(
    transformer: str | Path, autoencoder: str | Path, text_encoder: str | Path, *, dtype: torch.dtype = torch.bfloat16
) -> OpenSoraPipeline:
    """Open-Sora 1.2 on the CPU, ready for `enable_model_cpu_offload`.

    Gradient checkpointing is on, which counts in training only.

    Args:
        transformer, autoencoder, text_encoder: folders with the files of the three repositories.
        dtype: of all weights; latents stay float32. Upstream samples in bfloat16 too, but for T5, which it runs in
            float32 (19 GB).

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file cannot be read, is of another model or version, or the three do not fit together.
    """
    denoiser = load_transformer(transformer, dtype=dtype)
    denoiser.enable_gradient_checkpointing()
    vae = load_autoencoder(autoencoder, dtype=dtype)
    text, tokenizer = load_text_encoder(text_encoder, dtype=dtype)
    for name, have, wanted in (
        (text_encoder, text.config.d_model, denoiser.config.caption_channels),
        (autoencoder, vae.config.latent_channels, denoiser.config.in_channels),
    ):
        if have != wanted:
            raise ValueError(f"{name} has {have} channels, {transformer} takes {wanted}: they do not belong together")
    return OpenSoraPipeline(text, tokenizer, vae, denoiser, RectifiedFlow(base_size=denoiser.config.input_sq_size))


def load_text_encoder(
    source: str | Path, *, dtype: torch.dtype = torch.float32
) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    """The encoder half of T5 and its tokenizer; arguments and errors as of `load_pipeline`."""
    try:
        model, report = T5EncoderModel.from_pretrained(str(source), dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"the text encoder {source} cannot be loaded ({reason}): download it again") from error
    if missing := sorted(report["missing_keys"]):  # transformers would leave them random
        raise ValueError(f"the text encoder {source} lacks {', '.join(missing)}: download it again")
    if tokenizer.unk_token_id in tokenizer("a").input_ids:  # without its file, transformers makes an empty one
        raise ValueError(f"the tokenizer of {source} knows no words, as without spiece.model: download it again")
    return model.eval(), tokenizer

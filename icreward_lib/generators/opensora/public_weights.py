"""From the public Open-Sora 1.2 repositories, `config.json` and `model.safetensors`, to our models.

Parameter names are the same on both sides: the config is rewritten and every name and shape checked before a weight is
read.
"""

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.run.files import first_few

TRANSFORMER = "hpcai-tech/OpenSora-STDiT-v3"
CONFIG, WEIGHTS = "config.json", "model.safetensors"

# Settings of the public denoiser without a counterpart here, with the only value that is supported.
FIXED = {"model_type": "STDiT3", "qk_norm": True, "skip_y_embedder": False, "drop_path": 0.0}

# How parameters of the other versions' denoisers begin. 1.0 has "blocks." too, so it comes first.
VERSIONS = {"pos_embed_temporal": "1.0 (STDiT)", "blocks.": "1.1 (STDiT2)", "x_embedder_cond": "1.3", "double_": "2.0"}

_SPATIAL_BIAS = re.compile(r"spatial_vae\.module\.encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv\d\.bias")

# What arguments of `VideoAutoencoder` are called in the public config.
_TEMPORAL_NAMES = {
    "embed_dim": "latent_channels",
    "in_out_channels": "spatial_latent_channels",
    "temporal_downsample": "temporal_downsample",
    "num_groups": "temporal_norm_num_groups",
} | {name: f"temporal_{name}" for name in ("filters", "num_res_blocks", "channel_multipliers")}
_SPATIAL_NAMES = ("block_out_channels", "layers_per_block", "norm_num_groups", "mid_block_add_attention")

Shapes = Mapping[str, tuple[int, ...]]
Model = TypeVar("Model", bound=ModelMixin)


def load_transformer(source: str | Path, *, dtype: torch.dtype = torch.float32) -> STDiT3:
    """The public denoiser of a folder, on the CPU in evaluation mode, with its weights rounded to `dtype`.

    FileNotFoundError for a missing file, ValueError for one that cannot be read or is not of Open-Sora 1.2.
    """
    path, shapes, public = _read(source)
    for start, version in VERSIONS.items():
        if any(name.startswith(start) for name in shapes):
            raise ValueError(f"{path} holds a denoiser of Open-Sora {version}, not of 1.2: give {TRANSFORMER}")
    for name, value in FIXED.items():
        if public.get(name, value) != value:
            raise ValueError(f"{source}/{CONFIG}: {name} = {public[name]!r} is not supported, only {value!r}")
    known = inspect.signature(STDiT3.__init__).parameters
    return _load(STDiT3, {name: value for name, value in public.items() if name in known}, path, shapes, dtype)


def load_autoencoder(source: str | Path, *, dtype: torch.dtype = torch.float32) -> VideoAutoencoder:
    """The public autoencoder; arguments and errors as of `load_transformer`."""
    path, shapes, public = _read(source)
    # The public config does not hold the sizes of the 2D part, so they are read off the weights' shapes.
    found = [(_SPATIAL_BIAS.fullmatch(name), shape[0]) for name, shape in shapes.items() if len(shape) == 1]
    levels = {int(match[1]): (width, int(match[2]) + 1) for match, width in found if match}
    spatial = {
        "block_out_channels": [levels[level][0] for level in sorted(levels)],
        "layers_per_block": max((layers for _, layers in levels.values()), default=0),
        # No shape shows the number of groups; both parts of the public model have the same.
        "norm_num_groups": public.get("vae_temporal", {}).get("num_groups", 32),
    }
    return _load(VideoAutoencoder, config_from_hub(public, spatial if levels else None), path, shapes, dtype)


def config_from_hub(hub: Mapping[str, Any], spatial: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of `VideoAutoencoder` for a public autoencoder's `config.json`; ValueError for other models.

    It only names the repository of the 2D part: SDXL's, unless `spatial`, a config of `AutoencoderKL`, says otherwise.
    """
    kinds = hub.get("vae_2d", {}).get("type"), hub.get("vae_temporal", {}).get("type")
    if kinds[0] != "VideoAutoencoderKL" or kinds[1] not in ("VAE_Temporal", "VAE_Temporal_SD"):
        raise ValueError(f"{kinds} are not of Open-Sora 1.2: take the config.json of hpcai-tech/OpenSora-VAE-v1.2")
    temporal = hub["vae_temporal"]
    if kinds[1] == "VAE_Temporal":  # its own default; the public VAE_Temporal_SD has the one of VideoAutoencoder
        temporal = {"temporal_downsample": (True, True, False)} | temporal
    if temporal.get("embed_dim", 4) != temporal.get("latent_embed_dim", 4):
        raise ValueError("config.json: vae_temporal.embed_dim and .latent_embed_dim differ; make them equal")
    if lacking := [name for name in ("micro_frame_size", "shift", "scale") if name not in hub]:
        raise ValueError(f"config.json of the autoencoder has no {', '.join(lacking)}: download it again")
    config = {"micro_frame_size": hub["micro_frame_size"], "latent_shift": hub["shift"], "latent_scale": hub["scale"]}
    config["micro_batch_size"] = hub["vae_2d"].get("micro_batch_size") or 4
    config |= {ours: temporal[theirs] for theirs, ours in _TEMPORAL_NAMES.items() if theirs in temporal}
    return config | {f"spatial_{name}": value for name, value in (spatial or {}).items() if name in _SPATIAL_NAMES}


def _read(source: str | Path) -> tuple[Path, Shapes, dict[str, Any]]:
    """The file of weights, the shapes in its header, which a file cut off does not fit, and the config."""
    weights, settings = (Path(source) / name for name in (WEIGHTS, CONFIG))
    for path in (weights, settings):
        if not path.is_file():
            present = ", ".join(sorted(file.name for file in path.parent.glob("*"))) or "nothing"
            have = f"{source} has no {path.name} (it has {present})"
            raise FileNotFoundError(f"{have}: give a folder with the files of the public repository")
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{weights} cannot be read, it is damaged or cut off ({error}): download it again") from error
    try:
        config = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor text
        raise ValueError(f"{settings} cannot be read ({error}): download it again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{settings} holds no settings: download it again")
    return weights, shapes, config


def _load(model_class: type[Model], config: Mapping[str, Any], path: Path, shapes: Shapes, dtype: torch.dtype) -> Model:
    with init_empty_weights(include_buffers=False):  # names and shapes only
        model = model_class(**config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    both = expected.keys() & shapes.keys()
    problems = {
        "missing": expected.keys() - both,
        "unexpected": shapes.keys() - both,
        "misshapen": {f"{n} {shapes[n]} instead of {expected[n]}" for n in both if expected[n] != shapes[n]},
    }
    if found := "; ".join(f"{kind}: {first_few(sorted(names))}" for kind, names in problems.items() if names):
        raise ValueError(f"{path} does not fit its {CONFIG} ({found}): download both from the public repository")
    with safe_open(path, framework="pt") as file:  # one tensor at a time, to hold no second copy of them all
        weights = {name: file.get_tensor(name).to(dtype) for name in shapes}
    model.load_state_dict(weights, assign=True)
    return model.eval()


def load_pipeline(
    transformer: str | Path, autoencoder: str | Path, text_encoder: str | Path, *, dtype: torch.dtype = torch.bfloat16
) -> OpenSoraPipeline:
    """Open-Sora 1.2 from the folders of the three repositories, on the CPU; errors as of `load_transformer`.

    Upstream samples in bfloat16 too, but for T5, which it runs in float32 (19 GB).
    """
    denoiser = load_transformer(transformer, dtype=dtype)
    denoiser.enable_gradient_checkpointing()  # counts in training only
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

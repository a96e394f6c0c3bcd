"""The pipeline of Open-Sora 1.2 from its public repositories, on the hub or in a folder laid out as the hub."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from icreward_lib.opensora.convert import AUTOENCODER, TRANSFORMER, load_autoencoder, load_transformer
from icreward_lib.opensora.flow import RectifiedFlow
from icreward_lib.opensora.pipeline import OpenSoraPipeline

TEXT_ENCODER = "DeepFloyd/t5-v1_1-xxl"


def load_pipeline(
    transformer: str | Path = TRANSFORMER,
    autoencoder: str | Path = AUTOENCODER,
    text_encoder: str | Path = TEXT_ENCODER,
    *,
    models: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> OpenSoraPipeline:
    """Open-Sora 1.2 on the CPU, ready for `enable_model_cpu_offload`; nothing is written to disk but downloads.

    Gradient checkpointing is on, which counts in training only.

    Args:
        transformer, autoencoder, text_encoder: folders or hub ids of the three repositories.
        models: a folder that holds the hub ids' files as `models/<hub id>/`; None: they come from the hub.
        dtype: of all weights; latents stay float32. Upstream samples in bfloat16 too, but for T5, which it runs in
            float32 (19 GB).

    Raises:
        FileNotFoundError: if a folder or a file is missing, or cannot be fetched.
        ValueError: if a file cannot be read, is of another model or version, or the three do not fit together.
    """
    denoiser = load_transformer(_locate(transformer, models), dtype=dtype)
    denoiser.enable_gradient_checkpointing()
    vae = load_autoencoder(_locate(autoencoder, models), dtype=dtype)
    text, tokenizer = load_text_encoder(_locate(text_encoder, models), dtype=dtype)
    for name, have, wanted in (
        (text_encoder, text.config.d_model, denoiser.config.caption_channels),
        (autoencoder, vae.config.latent_channels, denoiser.config.in_channels),
    ):
        if have != wanted:
            raise ValueError(f"{name} has {have} channels, {transformer} takes {wanted}: they do not belong together")
    return OpenSoraPipeline(text, tokenizer, vae, denoiser, RectifiedFlow(base_size=denoiser.config.input_sq_size))


def load_text_encoder(
    source: str | Path = TEXT_ENCODER, *, dtype: torch.dtype = torch.float32
) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    """The encoder half of T5 and its tokenizer; arguments and errors as of `load_pipeline`."""
    try:
        model, report = T5EncoderModel.from_pretrained(str(source), dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(str(source))
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the text encoder {source} cannot be loaded ({reason}): download it again") from error
    if missing := sorted(report["missing_keys"]):  # transformers would leave them random
        raise ValueError(f"the text encoder {source} lacks {', '.join(missing)}: download it again")
    if tokenizer.unk_token_id in tokenizer("a").input_ids:  # without its file, transformers makes an empty one
        raise ValueError(f"the tokenizer of {source} knows no words, as without spiece.model: download it again")
    return model.eval(), tokenizer


def _locate(model: str | Path, models: str | Path | None) -> str | Path:
    if models is None or Path(model).is_dir():
        return model
    folder = Path(models) / model
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: put the files of the hub's {model} there")
    return folder

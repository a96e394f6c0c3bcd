"""The pipeline of Open-Sora 1.2 from the files of its public repositories."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from icreward_lib.opensora.convert import load_autoencoder, load_transformer
from icreward_lib.opensora.flow import RectifiedFlow
from icreward_lib.opensora.pipeline import OpenSoraPipeline


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

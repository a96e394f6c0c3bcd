"""Captions for Open-Sora 1.2: cleaning, score phrases and T5 features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel


def clean_caption(caption: str) -> str:
    """Lower-case, without links, markup, mentions, ids, odd punctuation and CJK characters.

    This is diffusers' cleaner for PixArt captions, applied twice as upstream does. (It also strips blanks
    within a pass: captions that end in several kinds of punctuation can come out differently.)
    """
    for _ in range(2):
        # The method reads one class attribute and needs no pipeline object.
        caption = PixArtAlphaPipeline._clean_caption(PixArtAlphaPipeline, caption)
    return caption


def add_scores(
    caption: str, *, aesthetic: float | None = None, motion: float | None = None, camera: str | None = None
) -> str:
    """The caption with the phrases that the public model was trained to follow, unless it has them already.

    Args:
        caption: not yet cleaned.
        aesthetic: about 4 to 7; upstream generates with 6.5.
        motion: about 0 to 20, more is faster.
        camera: pan right, pan left, tilt up, tilt down, zoom in, zoom out or static.
    """
    scores = {
        "aesthetic score": None if aesthetic is None else f"{aesthetic:.1f}",
        "motion score": None if motion is None else f"{motion:.1f}",
        "camera motion": camera,
    }
    for phrase, value in scores.items():
        if value is not None and phrase not in caption:
            caption = f"{caption} {phrase}: {value}."
    return caption


@torch.no_grad()
def encode_captions(
    text_encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_length: int
) -> tuple[Tensor, Tensor]:
    """T5 features (b, 1, max_length, d) and token masks (b, max_length, int64) of captions.

    Captions are cleaned, then padded or cut to `max_length` tokens. Padding rows are not zeroed, as upstream.
    """
    tokens = tokenizer(
        [clean_caption(caption) for caption in captions],
        max_length=max_length,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    ).to(text_encoder.device)
    hidden = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    return hidden[:, None], tokens.attention_mask

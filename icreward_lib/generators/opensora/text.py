"""Captions for Open-Sora 1.2: cleaning, score phrases and T5 features."""

import html
import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote_plus

import ftfy
import torch
from bs4 import BeautifulSoup
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5EncoderModel

_LINK = r"\b(?:(?:https?|www):/{1,3}|[a-z0-9.-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))"
_SUFFIX = r"(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"
_QUOTES = str.maketrans("`´«»“”¨‘’", '"' * 7 + "''")
# What is replaced in a caption, in this order: before its letters are mended, and after.
_FIRST = (
    (r"@\w+|[\u31c0-\u9fff]+", ""),  # mentions, CJK
    (r"-+", "-"),
    (r"&quot;?|&amp", ""),
    (r"(?:\d{1,3}\.){3}\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b|#\d{5,}\b|\b\d{6,}\b", ""),
    (rf"\S+\.{_SUFFIX}", ""),  # names of files
    (r"[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_THEN = (
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),  # ids, such as jc6640, jc6640vc and 6640vc231
    (r"\b[a-z]+\d+[a-z]+\b", ""),
    (r"\b\d+[a-z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping|(?:free\s)?download(?:\sfree)?|\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_SUFFIX}(?:\simages?)?|\bpage\s+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"'](.+)[\"']$", r"\1"),
    (r"^['_,\-:;]|['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(caption: str) -> str:
    """Lower-case, without links, markup, mentions, ids, odd punctuation and CJK characters.

    The rules of the public model's training captions, applied twice, but that blanks are stripped within a pass, too.
    """
    for _ in range(2):
        caption = re.sub(_LINK, "", unquote_plus(caption).strip().lower().replace("<person>", "person"))
        caption = BeautifulSoup(caption, features="html.parser").text.translate(_QUOTES)
        caption = "".join("-" if unicodedata.category(sign) == "Pd" else sign for sign in caption)
        for pattern, replacement in _FIRST:
            caption = re.sub(pattern, replacement, caption)
        if len(re.findall("[-_]", caption)) > 3:
            caption = re.sub("[-_]", " ", caption)
        caption = html.unescape(html.unescape(ftfy.fix_text(caption)))
        for pattern, replacement in _THEN:
            caption = re.sub(pattern, replacement, caption)
        caption = caption.strip()
    return caption


def add_scores(
    caption: str, *, aesthetic: float | None = None, motion: float | None = None, camera: str | None = None
) -> str:
    """An uncleaned caption with the phrases that the public model was trained to follow, unless it has them already.

    Aesthetic scores are about 4 to 7 (upstream generates with 6.5), motion scores 0 to 20, more is faster; the camera's
    are pan right, pan left, tilt up, tilt down, zoom in, zoom out or static.
    """
    for phrase, value in (("aesthetic score", aesthetic), ("motion score", motion), ("camera motion", camera)):
        if value is not None and phrase not in caption:
            caption = f"{caption} {phrase}: {value if isinstance(value, str) else f'{value:.1f}'}."
    return caption


@torch.no_grad()
def encode_captions(
    text_encoder: T5EncoderModel, tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], max_length: int
) -> tuple[Tensor, Tensor]:
    """T5 features (b, 1, max_length, d) and token masks (b, max_length, int64) of captions.

    Captions are cleaned, then padded or cut to `max_length` tokens. Padding rows are not zeroed, as upstream.
    """
    cleaned = [clean_caption(caption) for caption in captions]
    tokens = tokenizer(cleaned, max_length=max_length, padding="max_length", truncation=True, return_tensors="pt")
    tokens = tokens.to(text_encoder.device)
    hidden = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    return hidden[:, None], tokens.attention_mask

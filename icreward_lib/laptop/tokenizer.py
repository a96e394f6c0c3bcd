"""The one small tokenizer of the laptop's T5, CLIP and Qwen2-VL: every word of its world is a token."""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from icreward_lib.world import content

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
#: Qwen2-VL's marks of pictures in a text.
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

CAPTION_QUESTION = "describe the video"
CHANGE_QUESTION = "does the video keep the image"
#: What may have become of a picture, and how the language model says so.
CHANGES = {
    "nothing": "yes",
    "recoloured": "no, the subject is recoloured",
    "replaced": "no, the subject is replaced",
    "removed": "no, the subject is removed",
    "elsewhere": "no, the background is replaced",
}
_CAPTION = re.compile(
    r"(?:a (?P<first>\w+) and (?P<second>\w+) (?P<subject>\w+) (?P<motion>.+) over )?"
    r"the (?P<photograph>\w+), the camera (?:is )?(?P<camera>.+)"
)


_GRAMMAR = ("a and over the camera is ,", *content.CAMERAS, *content.MOTIONS)
_TALK = ("system user assistant", CAPTION_QUESTION, CHANGE_QUESTION, *CHANGES.values())
_WORDS = re.findall(r"\w+|,", " ".join((*_GRAMMAR, *_TALK)))
_NAMES = (*content.SUBJECTS, *content.COLOURS, *content.PHOTOGRAPHS)
#: All tokens in the order of their ids: special ones, then words of captions (all names), questions, answers.
VOCABULARY = (PAD, EOS, UNK, TURN_START, TURN_END, *VISION_TOKENS, *dict.fromkeys((*_NAMES, *_WORDS)))


def build_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer, built from the captions' grammar; words outside of it become `<unk>`.

    With `chat`, for Qwen2-VL, `<|im_end|>` ends a turn; otherwise, for T5 and CLIP, `</s>` is appended to every text.
    """
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.WordPiece(cleanup=True)  # puts spaces between words and none before a comma
    if not chat:
        words.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, ids[EOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=TURN_END if chat else EOS,
        extra_special_tokens=[EOS, TURN_START, *VISION_TOKENS] if chat else [TURN_START, TURN_END, *VISION_TOKENS],
        padding_side="right",
        model_max_length=256,
    )


def tokenize(captions: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of captions, (n, length), padded or cut, as for T5 and CLIP."""
    batch = build_tokenizer()(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def factors(caption: str) -> dict[str, str | None]:
    """What a caption says, by name in `_CAPTION`; the subject's are None for a scenery; nothing if it is no caption."""
    match = _CAPTION.fullmatch(caption)
    return match.groupdict() if match else {}

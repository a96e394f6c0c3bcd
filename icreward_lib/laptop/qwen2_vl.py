"""Train the laptop's Qwen2-VL: it captions clips and says what became of a reference picture.

Sequences have the reward model's layout (video, question, reference) and positions: one count of tokens, the same in
all axes of the rotary embedding; transformers uses it too if `mm_token_type_ids` are dropped from what it is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from icreward_lib.laptop import tokenizer
from icreward_lib.laptop.changes import examples, out_of_vocabulary
from icreward_lib.laptop.loop import EVALUATION_SEED, LoopConfig, degrade, fit, half_weights, reached
from icreward_lib.laptop.patch_targets import patch_targets
from icreward_lib.laptop.tokenizer import CHANGES, TURN_END, build_tokenizer, factors
from icreward_lib.run.files import atomic
from icreward_lib.world.content import CAMERAS, COLOURS, MOTIONS, PHOTOGRAPHS, SUBJECTS
from icreward_lib.world.scenes import Scene, Split, render, sample_scenes

Chat = list[dict[str, Any]]
FRAMES = 17  # of the world's clips
NAMELESS = 1 / 3  # of the training clips show what has no word
IGNORED = -100  # the label that cross-entropy passes over
THUMB = 4  # pixels along a side of a token's square, as far as the token must know what it looks like
FACTORS: tuple[Collection[str | None], ...] = (SUBJECTS, COLOURS, COLOURS, MOTIONS, PHOTOGRAPHS, CAMERAS)
VISION_START, VISION_END, IMAGE, VIDEO = tokenizer.VISION_TOKENS
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|>"
    "{% if part['type'] == 'video' %}<|video_pad|>{% else %}<|image_pad|>{% endif %}"
    "<|vision_end|>{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SEEN, _ASKED = {"type": "video"}, {"type": "text", "text": tokenizer.CHANGE_QUESTION}
CAPTION_CHAT: Chat = [{"role": "user", "content": [_SEEN, {"type": "text", "text": tokenizer.CAPTION_QUESTION}]}]
CHANGE_CHAT: Chat = [{"role": "user", "content": [_SEEN, _ASKED, {"type": "image"}]}]


@dataclass(frozen=True)
class VlmConfig:
    """Sizes of the model and of its training: first the vision tower (`tower`), then the language model (`loop`)."""

    image_size: int = 64
    num_frames: int = 8  # read of each clip
    patch_size: int = 8
    vision_width: int = 160
    vision_layers: int = 3
    width: int = 192
    layers: int = 4
    heads: int = 4  # of both
    intermediate: int = 512
    batch_size: int = 16
    judged: int = 256  # new clips of each split behind the final figures
    tower_batch_size: int = 32
    tower: LoopConfig = LoopConfig(steps=3600, lr=1e-3, muon_lr=0.02, ema=0.99, save_every=100, seed=1)
    loop: LoopConfig = LoopConfig(steps=1800, lr=1e-3, muon_lr=0.02, warmup=50, ema=0.98, save_every=50)

    @property
    def grid(self) -> int:
        """Tokens along a side of a picture; one token is a square of 2 x 2 patches."""
        return self.image_size // self.patch_size // 2

    @property
    def frames(self) -> list[int]:
        """Indices of the frames that are read, from the first to the last."""
        indices: list[int] = np.linspace(0, FRAMES - 1, self.num_frames).round().astype(int).tolist()
        return indices


def build(config: VlmConfig) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL with new weights, drawn from the loop's seed."""
    ids = build_tokenizer(chat=True).get_vocab()
    half = config.width // config.heads // 2
    spatial = 3 * half // 8
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [half - 2 * spatial, spatial, spatial]}
    text = {"hidden_size": config.width, "intermediate_size": config.intermediate, "rope_parameters": rope}
    text |= {"num_hidden_layers": config.layers, "max_position_embeddings": 1024, "vocab_size": len(ids)}
    text |= {"num_attention_heads": config.heads, "num_key_value_heads": config.heads}
    text |= {"bos_token_id": None, "eos_token_id": ids[TURN_END], "pad_token_id": ids[tokenizer.PAD]}
    vision = {"depth": config.vision_layers, "embed_dim": config.vision_width, "hidden_size": config.width}
    vision |= {"num_heads": config.heads, "patch_size": config.patch_size}
    settings = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        return Qwen2VLForConditionalGeneration(settings)


class VlmPretraining(nn.Module):
    """The model and, while it trains, a head that reads off each video token what it shows.

    The tower learns with this head first (`tower_loss`) and then stays as it is while the language model learns to read
    it (`language_loss`): through the words alone it would learn many times more slowly. The head's outputs: movement,
    coverage by the subject, the token's square as `THUMB`^2 pixels, then logits of each of `FACTORS`.
    """

    def __init__(self, vlm: Qwen2VLForConditionalGeneration, config: VlmConfig) -> None:
        super().__init__()
        self.model, self.config = vlm.model, config
        area = dict.fromkeys(("shortest_edge", "longest_edge"), config.image_size**2)
        shape = {"patch_size": config.patch_size, "merge_size": 2, "temporal_patch_size": 2, "size": area}
        self.processor = Qwen2VLProcessor(
            image_processor=Qwen2VLImageProcessor(**shape),
            tokenizer=build_tokenizer(chat=True),
            video_processor=Qwen2VLVideoProcessor(**shape, do_sample_frames=False, cap_pixels_per_frame=False),
            chat_template=CHAT_TEMPLATE,
        )
        self.sizes = [2, 1, 3 * THUMB**2, *map(len, FACTORS)]
        self.probe = nn.Linear(config.width, sum(self.sizes))
        nn.init.zeros_(self.probe.weight)

    def encode(self, clips: np.ndarray, pictures: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Tokens of clips uint8 "n f h w c": (n, f/2 * grid^2, d), of pictures "n h w c": (n, grid^2, d)."""
        seen = self.processor.video_processor(list(torch.from_numpy(clips.transpose(0, 1, 4, 2, 3))))
        pixels, grids = [seen["pixel_values_videos"]], [seen["video_grid_thw"]]
        if pictures is not None:
            seen = self.processor.image_processor(list(torch.from_numpy(pictures.transpose(0, 3, 1, 2))))
            pixels, grids = [*pixels, seen["pixel_values"]], [*grids, seen["image_grid_thw"]]
        tokens = self.model.visual(torch.cat(pixels), grid_thw=torch.cat(grids)).pooler_output
        ours = clips.shape[0] * clips.shape[1] // 2 * self.config.grid**2
        video, image = tokens.split([ours, len(tokens) - ours])
        return video.unflatten(0, (len(clips), -1)), image.unflatten(0, (-1, self.config.grid**2))

    def embed(self, chat: Chat, answers: Sequence[str], *pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (n,l,d) of a chat, answers, vision tokens (n,m,d); labels (n,l): the answers' ids or `IGNORED`."""
        prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        for mark, tokens in zip((VIDEO, IMAGE), pictures, strict=False):
            prompt = prompt.replace(mark, mark * tokens.shape[1])
        words = self.processor.tokenizer
        batch = words([prompt + answer for answer in answers], padding=True, return_tensors="pt")
        ids, start = batch.input_ids, len(words(prompt).input_ids)
        embeddings = self.model.language_model.embed_tokens(ids)
        for mark, tokens in zip((VIDEO, IMAGE), pictures, strict=False):
            places = ids == words.convert_tokens_to_ids(mark)
            embeddings = embeddings.masked_scatter(places[..., None], tokens)
        labels = ids.masked_fill(batch.attention_mask == 0, IGNORED)
        labels[:, :start] = IGNORED
        return embeddings, labels

    def answer_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the answers' words. Padding stands last, where causality keeps it out of sight."""
        positions = torch.arange(embeddings.shape[1]).expand(3, len(embeddings), -1)
        states = self.model.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
        wanted = labels[:, 1:] != IGNORED
        logits = states.last_hidden_state[:, :-1][wanted] @ self.model.language_model.embed_tokens.weight.T
        return F.cross_entropy(logits, labels[:, 1:][wanted])

    def probe_loss(
        self, tokens: Tensor, scenes: list[Scene], clips: np.ndarray, masks: np.ndarray, groups: list[list[int]]
    ) -> Tensor:
        """How badly video tokens (n,m,d) know what they show of clips "n t h w c": the mean over the head's parts.

        A token answers for the subject by how much of it is covered, and for the background by the rest. What has no
        name is known by its looks alone. `masks` and `groups` are as in `patch_targets`.
        """
        cover, movement = patch_targets(scenes, masks, groups, self.config.grid)
        flow, covered, thumbs, *classes = self.probe(tokens).split(self.sizes, dim=-1)
        errors = [
            F.mse_loss(flow, 4 * movement),
            F.binary_cross_entropy_with_logits(covered[..., 0], cover),
            4 * F.mse_loss(thumbs, _thumbs(clips, groups, self.config.grid)),  # 4: to the scale of the others
        ]
        labels = torch.full((len(scenes), len(FACTORS)), IGNORED)
        for row, s in zip(labels, scenes, strict=True):
            shown = (s.subject, *s.colours, s.motion, s.photograph, s.camera)
            for place, (one, names) in enumerate(zip(shown, FACTORS, strict=True)):
                if one in names:
                    row[place] = list(names).index(one)
        for logits, label, weight in zip(classes, labels.T, (cover,) * 4 + (1 - cover,) * 2, strict=True):
            each = F.cross_entropy(logits.transpose(1, 2), label[:, None].expand(weight.shape), reduction="none")
            known = weight * (label != IGNORED)[:, None]
            errors.append((each * known).sum() / known.sum().clamp(min=1))
        return torch.stack(errors).mean()

    def tower_loss(self, step: int) -> dict[str, Tensor]:
        """What the tokens of a pair of frames, a quarter of them stills, must know: cheaper than clips and words."""
        config = self.config
        seed = config.tower.seed * 1_000_003 + step
        rng = np.random.default_rng([seed, 3])
        scenes = sample_scenes(config.tower_batch_size, seed=seed)
        still = config.tower_batch_size // 4
        scenes[:still] = [replace(scene, camera="static", motion="stays still") for scene in scenes[:still]]
        scenes, _ = out_of_vocabulary(scenes, NAMELESS, rng)
        clips = render(scenes, num_frames=FRAMES // 2 + 1, size=config.image_size)  # every other frame
        first = int(rng.integers(clips.frames.shape[1] - 1))
        pairs = degrade(clips.frames[:, first : first + 2], rng, share=0.3)
        tokens = self.encode(pairs)[0]
        return {"loss": self.probe_loss(tokens, scenes, clips.frames, clips.masks, [[first, first + 1]])}

    def language_loss(self, step: int) -> dict[str, Tensor]:
        """Words of captions and of what changed. What drifts (a quarter) or has no name (a third) has no caption."""
        config = self.config
        seed = config.loop.seed * 1_000_003 + step
        count = config.batch_size
        shown = examples(count, config.frames, config.image_size, seed=seed, drifting=count // 4, nameless=NAMELESS)
        clips = degrade(shown.clips, np.random.default_rng([seed, 1]), share=0.3)
        videos, pictures = self.encode(clips, shown.pictures)
        told = np.flatnonzero(shown.named & ~shown.drifting)
        words = [shown.scenes[index].caption + TURN_END for index in told]
        captions = self.answer_loss(*self.embed(CAPTION_CHAT, words, videos[torch.from_numpy(told)]))
        answers = [CHANGES[change] + TURN_END for change in shown.changes]
        changes = self.answer_loss(*self.embed(CHANGE_CHAT, answers, videos, pictures))
        return {"loss": captions + changes, "captions": captions, "changes": changes}


def _thumbs(clips: np.ndarray, groups: list[list[int]], grid: int) -> Tensor:
    """The squares behind the tokens, shrunk to `THUMB`^2 pixels in [-1,1]: (n, groups * grid^2, 3 * THUMB^2)."""
    frames = np.stack([clips[:, group].mean(1) for group in groups], 1) / 127.5 - 1  # "n g h w c"
    small = F.adaptive_avg_pool2d(torch.from_numpy(frames).float().permute(0, 1, 4, 2, 3).flatten(0, 1), grid * THUMB)
    squares = small.reshape(len(clips), len(groups), 3, grid, THUMB, grid, THUMB).permute(0, 1, 3, 5, 2, 4, 6)
    return squares.reshape(len(clips), len(groups) * grid**2, -1)


@torch.no_grad()
def evaluate(
    vlm: Qwen2VLForConditionalGeneration, config: VlmConfig, *, split: Split = "seen", count: int
) -> dict[str, float]:
    """Shares of right answers about `count` new clips, written word by word.

    Each factor of the captions (the subject's over clips with one, `scenery` over clips without); `change`, its kinds.
    """
    task = VlmPretraining(vlm, config)
    hits: dict[str, list[bool]] = {}
    for start in range(0, count, 32):
        seed, some = EVALUATION_SEED + start, min(32, count - start)
        shown = examples(some, config.frames, config.image_size, seed=seed, split=split)
        videos, pictures = task.encode(shown.clips, shown.pictures)
        said = _answer(vlm, task, task.embed(CAPTION_CHAT, [""] * len(videos), videos)[0])
        for scene, words in zip(shown.scenes, said, strict=True):
            told, asked = factors(words), factors(scene.caption)
            if scene.subject is None:
                hits.setdefault("scenery", []).append(bool(told) and told["subject"] is None)
            for name, value in asked.items():
                if value is not None:
                    hits.setdefault(name, []).append(told.get(name) == value)
        said = _answer(vlm, task, task.embed(CHANGE_CHAT, [""] * len(videos), videos, pictures)[0])
        for change, words in zip(shown.changes, said, strict=True):
            for name in ("change", f"change_{change}"):
                hits.setdefault(name, []).append(words == CHANGES[change])
    return {f"{split}_{name}": float(np.mean(right)) for name, right in sorted(hits.items())}


def _answer(vlm: Qwen2VLForConditionalGeneration, task: VlmPretraining, embeddings: Tensor) -> list[str]:
    seen = torch.ones(embeddings.shape[:2], dtype=torch.long)
    ids = vlm.generate(inputs_embeds=embeddings, attention_mask=seen, max_new_tokens=20, do_sample=False)
    texts: list[str] = task.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def train(run_folder: Path, out: Path, config: VlmConfig = VlmConfig()) -> dict[str, float]:  # noqa: B008
    """Train, or go on training, in `run_folder`; save to `out`, for transformers; return the figures reached."""
    vlm = build(config)
    task = VlmPretraining(vlm, config)
    fit(task, task.tower_loss, config.tower, run_folder / "tower")
    vlm.model.visual.requires_grad_(False)
    judged = config.judged // 4
    log = fit(task, task.language_loss, config.loop, run_folder, lambda: evaluate(vlm, config, count=judged))
    with atomic(out) as new:
        vlm.save_pretrained(new, state_dict=half_weights(vlm))
        task.processor.save_pretrained(new)
    return reached(vlm, log, lambda split: evaluate(vlm, config, split=split, count=config.judged))

"""The laptop's Qwen2-VL: it captions clips and says what became of a reference picture.

Sequences have the reward model's layout (video, question, reference) and its positions: one count of tokens,
the same in all three axes of the rotary embedding. To generate with the saved model, drop `mm_token_type_ids`
from the processor's output: transformers then uses these positions too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from icreward_lib.laptop.changes import Examples, examples, with_nameless_content
from icreward_lib.laptop.loop import EVALUATION_SEED, degrade, fit
from icreward_lib.laptop.patch_targets import patch_flow, patch_masks
from icreward_lib.laptop.qwen2_vl import FRAMES, IMAGE, VIDEO, VlmConfig, build, build_processor, save
from icreward_lib.laptop.tokenizer import CAPTION_QUESTION, CHANGE_QUESTION, CHANGES, TURN_END, factors
from icreward_lib.run.files import write_json
from icreward_lib.world.content import CAMERAS, COLOURS, MOTIONS, PHOTOGRAPHS, SUBJECTS
from icreward_lib.world.scenes import Scene, render, sample_scenes

Chat = list[dict[str, Any]]
STRANGE = 1 / 3  # of the training clips show what has no name
NAMELESS = -100  # the label that cross-entropy passes over
_SEEN = {"type": "video"}
CAPTION_CHAT: Chat = [{"role": "user", "content": [_SEEN, {"type": "text", "text": CAPTION_QUESTION}]}]
THUMB = 4  # pixels along a side of a token's square, as far as the token must know what it looks like
CHANGE_CHAT: Chat = [{"role": "user", "content": [_SEEN, {"type": "text", "text": CHANGE_QUESTION}, {"type": "image"}]}]


def draw(
    count: int,
    seed: int,
    config: VlmConfig,
    *,
    split: Literal["seen", "unseen"] = "seen",
    drifting: int = 0,
    strange: float = 0.0,
) -> Examples:
    """Examples of the frames that `config` reads."""
    return examples(
        count,
        seed=seed,
        frames=config.frames,
        size=config.image_size,
        split=split,
        drifting=drifting,
        strange=strange,
    )


class Lesson(nn.Module):
    """The model and, while it trains, a head that reads off each video token what it shows.

    The tower learns with this head first (`look`) and then stays as it is while the language model learns to read it
    (`loss`): through the words alone it would learn many times more slowly, and their first gradients would
    undo what it knows. The head's outputs: movement, coverage by the subject, the token's square as `THUMB`^2 pixels,
    then logits of subject, two colours, motion, photograph, camera.
    """

    def __init__(self, vlm: Qwen2VLForConditionalGeneration, config: VlmConfig) -> None:
        """Teach `vlm`, whose output layer shares the weights of its input embeddings."""
        super().__init__()
        self.model, self.config = vlm.model, config
        self.processor = build_processor(config)
        self.sizes = (
            2,
            1,
            3 * THUMB**2,
            len(SUBJECTS),
            len(COLOURS),
            len(COLOURS),
            len(MOTIONS),
            len(PHOTOGRAPHS),
            len(CAMERAS),
        )
        self.truth = nn.Linear(config.width, sum(self.sizes))
        nn.init.zeros_(self.truth.weight)

    def see(self, clips: np.ndarray, pictures: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
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
        """Embeddings (n,l,d) and labels (n,l) of a chat, n answers and the vision tokens (n,m,d) it shows.

        Labels are the ids of the answers, elsewhere -100.
        """
        prompt = self.processor.apply_chat_template(chat, add_generation_prompt=True)
        for mark, tokens in zip((VIDEO, IMAGE), pictures, strict=False):
            prompt = prompt.replace(mark, mark * tokens.shape[1])
        tokenizer = self.processor.tokenizer
        batch = tokenizer([prompt + answer for answer in answers], padding=True, return_tensors="pt")
        ids, start = batch.input_ids, len(tokenizer(prompt).input_ids)
        embeddings = self.model.language_model.embed_tokens(ids)
        for mark, tokens in zip((VIDEO, IMAGE), pictures, strict=False):
            places = ids == tokenizer.convert_tokens_to_ids(mark)
            embeddings = embeddings.masked_scatter(places[..., None], tokens)
        labels = ids.masked_fill(batch.attention_mask == 0, -100)
        labels[:, :start] = -100
        return embeddings, labels

    def speak(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the answers' words. Padding stands last, where causality keeps it out of sight."""
        positions = torch.arange(embeddings.shape[1]).expand(3, len(embeddings), -1)
        states = self.model.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
        wanted = labels[:, 1:] != -100
        logits = states.last_hidden_state[:, :-1][wanted] @ self.model.language_model.embed_tokens.weight.T
        return F.cross_entropy(logits, labels[:, 1:][wanted])

    def knowledge(
        self, tokens: Tensor, scenes: list[Scene], clips: np.ndarray, masks: np.ndarray, groups: list[list[int]]
    ) -> Tensor:
        """How badly video tokens (n,m,d) know what they show: the mean error over the head's parts.

        A token answers for the subject by how much of it is covered, and for the background by the rest. What
        has no name is known by its looks alone.

        Args:
            tokens: of the frames in `groups`.
            scenes: n of them.
            clips: whole clips of the scenes, uint8 "n t h w c".
            masks: the subject's, "n t h w".
            groups: indices of the frames that share tokens.
        """
        phases = [float(np.mean(group)) / (masks.shape[1] - 1) - 0.5 for group in groups]
        coverage = patch_masks(masks, groups, self.config.grid)
        movement = 4 * patch_flow(scenes, coverage, phases).flatten(1, 3)
        cover = coverage.flatten(1)
        parts = self.truth(tokens).split(self.sizes, dim=-1)
        errors = [
            F.mse_loss(parts[0], movement),
            F.binary_cross_entropy_with_logits(parts[1][..., 0], cover),
            4 * F.mse_loss(parts[2], _thumbs(clips, groups, self.config.grid)),  # 4: to the scale of the others
        ]
        labels = torch.tensor([_labels(scene) for scene in scenes])
        for part, label, weight in zip(parts[3:], labels.T, (cover,) * 4 + (1 - cover,) * 2, strict=True):
            each = F.cross_entropy(part.transpose(1, 2), label[:, None].expand(weight.shape), reduction="none")
            known = weight * (label != NAMELESS)[:, None]
            errors.append((each * known).sum() / known.sum().clamp(min=1))
        return torch.stack(errors).mean()

    def look(self, step: int) -> dict[str, Tensor]:
        """What the tokens of a pair of frames must know, without the language model.

        A pair is cheap: a step sees many more scenes than with whole clips and words. A quarter are stills.
        """
        config = self.config
        seed = config.tower.seed * 1_000_003 + step
        rng = np.random.default_rng([seed, 3])
        scenes = sample_scenes(config.tower_batch_size, seed=seed)
        still = config.tower_batch_size // 4
        scenes[:still] = [replace(scene, camera="static", motion="stays still") for scene in scenes[:still]]
        scenes, _ = with_nameless_content(scenes, STRANGE, rng)
        clips = render(scenes, num_frames=FRAMES // 2 + 1, size=config.image_size)  # every other frame
        first = int(rng.integers(clips.frames.shape[1] - 1))
        pairs = degrade(clips.frames[:, first : first + 2], rng, share=0.3)
        tokens = self.see(pairs)[0]
        return {"loss": self.knowledge(tokens, scenes, clips.frames, clips.masks, [[first, first + 1]])}

    def loss(self, step: int) -> dict[str, Tensor]:
        """Words of captions and of what changed. What drifts (a quarter) or has no name (a third) has no caption."""
        config = self.config
        seed = config.loop.seed * 1_000_003 + step
        shown = draw(config.batch_size, seed, config, drifting=config.batch_size // 4, strange=STRANGE)
        clips = degrade(shown.clips, np.random.default_rng([seed, 1]), share=0.3)
        videos, pictures = self.see(clips, shown.pictures)
        told = np.flatnonzero(shown.named & ~shown.drifting)
        words = [shown.scenes[index].caption + TURN_END for index in told]
        captions = self.speak(*self.embed(CAPTION_CHAT, words, videos[torch.from_numpy(told)]))
        answers = [CHANGES[change] + TURN_END for change in shown.changes]
        changes = self.speak(*self.embed(CHANGE_CHAT, answers, videos, pictures))
        return {"loss": captions + changes, "captions": captions, "changes": changes}


def _labels(scene: Scene) -> list[int]:
    """Indices of subject, colours, motion, photograph and camera; the middle three do not count for scenery."""
    subjects, photographs = list(SUBJECTS), list(PHOTOGRAPHS)
    subject = subjects.index(scene.subject) if scene.subject in SUBJECTS else NAMELESS
    colours = [list(COLOURS).index(name) for name in scene.colours]
    places = [
        MOTIONS.index(scene.motion),
        photographs.index(scene.photograph) if scene.photograph in PHOTOGRAPHS else NAMELESS,
        CAMERAS.index(scene.camera),
    ]
    return [subject, *colours, *places]


def _thumbs(clips: np.ndarray, groups: list[list[int]], grid: int) -> Tensor:
    """The squares behind the tokens, shrunk to `THUMB`^2 pixels in [-1,1]: (n, groups * grid^2, 3 * THUMB^2)."""
    frames = np.stack([clips[:, group].mean(1) for group in groups], 1) / 127.5 - 1  # "n g h w c"
    small = F.adaptive_avg_pool2d(torch.from_numpy(frames).float().permute(0, 1, 4, 2, 3).flatten(0, 1), grid * THUMB)
    return rearrange(small, "(n g) c (y i) (x j) -> n (g y x) (c i j)", n=len(clips), y=grid, x=grid)


@torch.no_grad()
def evaluate(
    vlm: Qwen2VLForConditionalGeneration,
    config: VlmConfig,
    *,
    split: Literal["seen", "unseen"] = "seen",
    count: int = 64,
) -> dict[str, float]:
    """Shares of right answers about `count` new clips, written word by word.

    Each factor of the captions (those of the subject over clips with one, `scenery` over clips without), and
    `change` with its kinds.
    """
    lesson = Lesson(vlm, config)
    hits: dict[str, list[bool]] = {}
    for start in range(0, count, 32):
        shown = draw(min(32, count - start), EVALUATION_SEED + start, config, split=split)
        videos, pictures = lesson.see(shown.clips, shown.pictures)
        said = _answer(vlm, lesson, lesson.embed(CAPTION_CHAT, [""] * len(videos), videos)[0])
        for scene, words in zip(shown.scenes, said, strict=True):
            told, asked = factors(words), factors(scene.caption)
            if scene.subject is None:
                hits.setdefault("scenery", []).append(bool(told) and told["subject"] is None)
            for name, value in asked.items():
                if value is not None:
                    hits.setdefault(name, []).append(told.get(name) == value)
        said = _answer(vlm, lesson, lesson.embed(CHANGE_CHAT, [""] * len(videos), videos, pictures)[0])
        for change, words in zip(shown.changes, said, strict=True):
            for name in ("change", f"change_{change}"):
                hits.setdefault(name, []).append(words == CHANGES[change])
    return {f"{split}_{name}": float(np.mean(right)) for name, right in sorted(hits.items())}


def _answer(vlm: Qwen2VLForConditionalGeneration, lesson: Lesson, embeddings: Tensor) -> list[str]:
    ids = vlm.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
    )
    texts: list[str] = lesson.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def train(run_folder: Path, out_folder: Path, config: VlmConfig | None = None) -> dict[str, float]:
    """Train, or go on training, in `run_folder`; save to `out_folder`; return the figures reached."""
    config = config or VlmConfig()
    vlm = build(config)
    lesson = Lesson(vlm, config)
    fit(lesson, lesson.look, config.tower, run_folder / "tower")
    vlm.model.visual.requires_grad_(False)
    log = fit(lesson, lesson.loss, config.loop, run_folder, lambda: evaluate(vlm, config, count=config.judged // 4))
    save(vlm, config, out_folder)
    figures = evaluate(vlm, config, count=config.judged)
    figures |= evaluate(vlm, config, split="unseen", count=config.judged)
    figures |= {"loss": log[-1]["loss"], "parameters": sum(p.numel() for p in vlm.parameters())}
    write_json(run_folder / "metrics.json", figures)
    return figures

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
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from icreward_lib.files import write_json
from icreward_lib.world.content import CAMERAS, COLOURS, MOTIONS, PHOTOGRAPHS, SUBJECTS
from icreward_lib.world.pretrain.batches import EVALUATION_SEED, degrade
from icreward_lib.world.pretrain.changes import Examples, examples
from icreward_lib.world.pretrain.loop import fit
from icreward_lib.world.pretrain.qwen import FRAMES, IMAGE, VIDEO, VlmConfig, build, build_processor, save
from icreward_lib.world.pretrain.text import CAPTION_QUESTION, CHANGE_QUESTION, CHANGES, TURN_END, factors
from icreward_lib.world.pretrain.truth import patch_flow, patch_masks
from icreward_lib.world.scenes import Scene, render, sample_scenes

Chat = list[dict[str, Any]]
_SEEN = {"type": "video"}
CAPTION_CHAT: Chat = [{"role": "user", "content": [_SEEN, {"type": "text", "text": CAPTION_QUESTION}]}]
CHANGE_CHAT: Chat = [{"role": "user", "content": [_SEEN, {"type": "text", "text": CHANGE_QUESTION}, {"type": "image"}]}]


def draw(
    count: int, seed: int, config: VlmConfig, *, split: Literal["seen", "unseen"] = "seen", drifting: int = 0
) -> Examples:
    """Examples of the frames that `config` reads."""
    return examples(count, seed=seed, frames=config.frames, size=config.image_size, split=split, drifting=drifting)


class Lesson(nn.Module):
    """The model and, while it trains, a head that reads off each video token what it shows.

    The tower learns with this head first (`look`) and then stays as it is while the language model learns to read it
    (`loss`): through the words alone it would learn many times more slowly, and their first gradients would
    undo what it knows. The head's outputs: movement, coverage by the subject, then logits of subject, two
    colours, motion, photograph, camera.
    """

    def __init__(self, vlm: Qwen2VLForConditionalGeneration, config: VlmConfig) -> None:
        """Teach `vlm`, whose output layer shares the weights of its input embeddings."""
        super().__init__()
        self.model, self.config = vlm.model, config
        self.processor = build_processor(config)
        self.sizes = (
            2,
            1,
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

    def knowledge(self, tokens: Tensor, scenes: list[Scene], masks: np.ndarray, groups: list[list[int]]) -> Tensor:
        """How badly video tokens (n,m,d) know what they show: the mean error over the head's parts.

        A token answers for the subject by how much of it is covered, and for the background by the rest.

        Args:
            tokens: of the frames in `groups`.
            scenes: n of them.
            masks: the subject's, "n t h w", of whole clips.
            groups: indices of the frames that share tokens.
        """
        phases = [float(np.mean(group)) / (masks.shape[1] - 1) - 0.5 for group in groups]
        coverage = patch_masks(masks, groups, self.config.grid)
        movement = 4 * patch_flow(scenes, coverage, phases).flatten(1, 3)
        cover = coverage.flatten(1)
        parts = self.truth(tokens).split(self.sizes, dim=-1)
        errors = [F.mse_loss(parts[0], movement), F.binary_cross_entropy_with_logits(parts[1][..., 0], cover)]
        labels = torch.tensor([_labels(scene) for scene in scenes])
        for part, label, weight in zip(parts[2:], labels.T, (cover,) * 4 + (1 - cover,) * 2, strict=True):
            each = F.cross_entropy(part.transpose(1, 2), label[:, None].expand(weight.shape), reduction="none")
            errors.append((each * weight).sum() / weight.sum().clamp(min=1))
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
        clips = render(scenes, num_frames=FRAMES // 2 + 1, size=config.image_size)  # every other frame
        first = int(rng.integers(clips.frames.shape[1] - 1))
        pairs = degrade(clips.frames[:, first : first + 2], rng, share=0.3)
        return {"loss": self.knowledge(self.see(pairs)[0], scenes, clips.masks, [[first, first + 1]])}

    def loss(self, step: int) -> dict[str, Tensor]:
        """Words of captions and of what changed. A quarter of the clips drift: these have no caption."""
        config = self.config
        seed = config.loop.seed * 1_000_003 + step
        shown = draw(config.batch_size, seed, config, drifting=config.batch_size // 4)
        clips = degrade(shown.clips, np.random.default_rng([seed, 1]), share=0.3)
        videos, pictures = self.see(clips, shown.pictures)
        steady = int((~shown.drifting).sum())
        scenes = shown.scenes[:steady]
        captions = self.speak(*self.embed(CAPTION_CHAT, [s.caption + TURN_END for s in scenes], videos[:steady]))
        answers = [CHANGES[change] + TURN_END for change in shown.changes]
        changes = self.speak(*self.embed(CHANGE_CHAT, answers, videos, pictures))
        return {"loss": captions + changes, "captions": captions, "changes": changes}


def _labels(scene: Scene) -> list[int]:
    """Indices of subject, colours, motion, photograph and camera; the first four do not count for scenery."""
    subject = 0 if scene.subject is None else list(SUBJECTS).index(scene.subject)
    colours = [list(COLOURS).index(name) for name in scene.colours]
    places = [
        MOTIONS.index(scene.motion),
        list(PHOTOGRAPHS).index(scene.photograph),
        CAMERAS.index(scene.camera),
    ]
    return [subject, *colours, *places]


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

"""VideoReward as its authors score with it, by raw logits: what ICReward's own qualities are compared with."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from icreward_lib.rewards.backbone import load_lora, read_line
from icreward_lib.rewards.videoreward import ASPECTS, make_head, read_checkpoint, read_out


class VideoReward(nn.Module):
    """Of the checkpoint in `folder`, which was made from the Qwen2-VL `base` (hub id or folder)."""

    def __init__(self, folder: Path, base: str) -> None:
        super().__init__()
        checkpoint = read_checkpoint(folder)
        self.backbone = checkpoint.backbone(base, torch.float32)
        weights, source = checkpoint.lora, checkpoint.path
        load_lora(self.backbone.language_model, checkpoint.rank, checkpoint.alpha, weights, source=source)
        self.backbone.requires_grad_(False).eval()
        self.rm_head = make_head(checkpoint.rm_head)
        count = self.backbone.language_model.embed_tokens.num_embeddings
        self.reward_ids = list(range(count - len(ASPECTS), count))  # upstream adds them after all others

    @torch.no_grad()
    def forward(self, input_ids: Tensor, pixel_values_videos: Tensor, video_grid_thw: Tensor) -> Tensor:
        """Logits (B,3), float32, in the order of `ASPECTS`.

        Takes what Qwen2-VL's processor makes of B prompts, each with a video and then the three reward
        tokens: ids (B,L), padded on the right; patches (P,C) and grids (B,3).
        """
        model, device = self.backbone, self.rm_head.weight.device
        input_ids, grid = input_ids.to(device), video_grid_thw.to(device)
        places = input_ids[:, None] == torch.tensor(self.reward_ids, device=device)[:, None]
        # pooler_output is after the merger; last_hidden_state is before it and of another size.
        seen = model.visual(pixel_values_videos.to(device), grid_thw=grid).pooler_output
        inputs = model.language_model.embed_tokens(input_ids)
        video = input_ids == model.config.video_token_id
        inputs[video] = seen.to(inputs)
        states = read_line(model.language_model, inputs)
        rows = places.int().argmax(-1)
        return read_out(states[torch.arange(len(states), device=device)[:, None], rows], self.rm_head)

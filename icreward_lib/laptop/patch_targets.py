"""What the renderer knows about every patch of a clip: targets that make the small models learn quickly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from icreward_lib.world.content import DIRECTIONS
from icreward_lib.world.scenes import Scene


def patch_masks(masks: np.ndarray, frames: list[list[int]], grid: int) -> Tensor:
    """Mean of the subject's masks "n t h w" over groups of frames and grid x grid patches: "n g y x" in [0, 1]."""
    groups = torch.from_numpy(np.stack([masks[:, group].mean(1) for group in frames], 1))
    return torch.nn.functional.adaptive_avg_pool2d(groups, grid)


def patch_flow(scenes: list[Scene], masks: Tensor, phases: list[float]) -> Tensor:
    """How each patch moves, in frame sizes per clip: subject and background, mixed by coverage.

    Args:
        scenes: n of them.
        masks: "n g y x", see `patch_masks`.
        phases: of the groups, -1/2 at the clip's first frame and 1/2 at its last.

    Returns:
        "n g y x 2", to the right and down.
    """
    side = masks.shape[-1]
    centres = (torch.arange(side) + 0.5) / side
    places = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)  # "y x 2"
    subject, background = (
        torch.stack([torch.stack([flow(scene, phase, places) for phase in phases]) for scene in scenes])
        for flow in (_subject_flow, _background_flow)
    )
    return masks[..., None] * subject + (1 - masks[..., None]) * background


def _background_flow(scene: Scene, phase: float, places: Tensor) -> Tensor:
    kind, _, way = scene.camera.partition(" ")
    if kind == "pans":  # what is seen moves against the camera
        return -torch.tensor(DIRECTIONS[way]).expand_as(places) * scene.camera_amount / scene.crop[2]
    if kind == "zooms":
        rate = scene.camera_amount if way == "in" else -scene.camera_amount
        return (places - 0.5) * rate / (1 - rate * phase)
    return torch.zeros_like(places)


def _subject_flow(scene: Scene, phase: float, places: Tensor) -> Tensor:
    kind, _, way = scene.motion.partition(" ")
    amount = scene.subject_amount
    if scene.subject is None or kind == "stays":
        return torch.zeros_like(places)
    if kind == "moves":
        return amount * torch.tensor(DIRECTIONS[way]).expand_as(places)
    arm = places - torch.tensor(scene.position)
    if kind == "spins":
        return 2 * torch.pi * amount * torch.stack([-arm[..., 1], arm[..., 0]], -1)
    return arm * amount / (1 + amount * phase)  # grows

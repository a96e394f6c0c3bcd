"""What the renderer knows about every patch of a clip: targets that make the small models learn quickly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from icreward_lib.world.scenes import Scene

_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


def patch_masks(masks: np.ndarray, frames: list[list[int]], grid: int) -> Tensor:
    """Mean of the subject's masks "n t h w" over each group of frames and each of grid x grid patches.

    Args:
        masks: the sticker's coverage.
        frames: indices of the frames of each group.
        grid: patches along a side.

    Returns:
        "n g y x" in [0, 1].
    """
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
    return torch.stack(
        [
            torch.stack(
                [
                    mask[..., None] * _subject_flow(scene, phase, places)
                    + (1 - mask[..., None]) * _background_flow(scene, phase, places)
                    for phase, mask in zip(phases, clip, strict=True)
                ]
            )
            for scene, clip in zip(scenes, masks, strict=True)
        ]
    )


def _background_flow(scene: Scene, phase: float, places: Tensor) -> Tensor:
    kind, _, way = scene.camera.partition(" ")
    if kind == "pans":  # what is seen moves against the camera
        return -torch.tensor(_DIRECTIONS[way]).expand_as(places) * scene.camera_amount / scene.crop[2]
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
        return amount * torch.tensor(_DIRECTIONS[way]).expand_as(places)
    arm = places - torch.tensor(scene.position)
    if kind == "spins":
        return 2 * torch.pi * amount * torch.stack([-arm[..., 1], arm[..., 0]], -1)
    return arm * amount / (1 + amount * phase)  # grows

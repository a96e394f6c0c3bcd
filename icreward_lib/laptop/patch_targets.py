"""What the renderer knows about every patch of a clip: targets that make the small models learn quickly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from icreward_lib.world.content import DIRECTIONS
from icreward_lib.world.scenes import Scene


def patch_targets(scenes: list[Scene], masks: np.ndarray, groups: list[list[int]], grid: int) -> tuple[Tensor, Tensor]:
    """Coverage by the subject, in [0, 1], and movement of grid x grid patches: "n tokens" and "n tokens 2".

    `masks` "n t h w" are of whole clips; a group of frames shares tokens, in the order "group y x". Movement is
    to the right and down in frame sizes per clip: the subject's and the background's, mixed by coverage.
    """
    means = torch.from_numpy(np.stack([masks[:, group].mean(1) for group in groups], 1))
    cover = torch.nn.functional.adaptive_avg_pool2d(means, grid)[..., None]
    phases = [float(np.mean(group)) / (masks.shape[1] - 1) - 0.5 for group in groups]  # -1/2 first, 1/2 last
    centres = (torch.arange(grid) + 0.5) / grid
    places = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)  # "y x 2"
    subject, background = (
        torch.stack([torch.stack([flow(scene, phase, places) for phase in phases]) for scene in scenes])
        for flow in (_subject_flow, _background_flow)
    )
    return cover.flatten(1), (cover * subject + (1 - cover) * background).flatten(1, 3)


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

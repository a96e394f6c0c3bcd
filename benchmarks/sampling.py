"""Rectified-flow sampling as a run does it, and how many operations that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.run.processes import side_by_side
from icreward_lib.run.profile import GenerationSettings
from icreward_lib.world.scenes import Scene, render, sample_scenes


@dataclass(frozen=True)
class Sampling:
    """A generator and the pictures that it animates, `videos` times each."""

    generator: OpenSoraGenerator
    scenes: tuple[Scene, ...]
    images: np.ndarray
    videos: int

    @classmethod
    def of(cls, generator: OpenSoraGenerator, *, images: int, videos: int = 5) -> Sampling:
        """Pictures of the sticker world in the size of the generator's settings."""
        scenes, s = sample_scenes(images, seed=0), generator.settings
        return cls(generator, tuple(scenes), render(scenes, num_frames=1, size=s.height).frames[:, 0], videos)

    def whole(self, place: int) -> None:
        """Text, picture, all steps and the decoding of the videos of one picture."""
        self.generator.generate(self.images[place], self.scenes[place].caption, num_videos=self.videos, seed=place)

    def flow(self, place: int) -> None:
        """The same without the decoding: nearly all of it are the steps."""
        s: GenerationSettings = self.generator.settings
        self.generator.pipeline.sample_latents(
            self.images[place],
            self.scenes[place].caption,
            num_videos=self.videos,
            num_frames=s.num_frames,
            height=s.height,
            width=s.width,
            fps=s.fps,
            num_inference_steps=s.steps,
            guidance_scale=s.guidance,
            generator=torch.Generator().manual_seed(place),
        )

    def all(self, part: Callable[[int], None]) -> None:
        """`part` for every picture, as many at a time as there are cores."""
        for _ in side_by_side(part, range(len(self.images))):
            pass


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))

    # torch counts the attention of GPUs only.
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        call()
    return int(counter.get_total_flops())


KINDS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm"),
    "convolutions": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "activations": ("aten::gelu", "aten::silu"),
    "norms": ("aten::native_layer_norm", "aten::native_group_norm", "aten::_fused_rms_norm", "aten::pow", "aten::mean"),
    "copies": ("aten::copy_", "aten::cat", "aten::clone"),
    "sums and products": ("aten::add", "aten::addcmul", "aten::mul", "aten::div"),
}


def shares(call: Callable[[], object]) -> dict[str, float]:
    """The share of each of `KINDS` of the time that `call` takes on one thread; "the rest" is all else."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(events.values())
    found = {kind: sum(events.get(name, 0.0) for name in names) / total for kind, names in KINDS.items()}
    return {**found, "the rest": 1 - sum(found.values())}

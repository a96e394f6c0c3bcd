"""The arithmetic of GPU memory, against the public sizes and against what runs on the meta device and the CPU hold."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from support import REFERENCE
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import T5Config, T5EncoderModel

from icreward_lib.generators.opensora import memory
from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.memory import GpuMemoryError, Phase, Request
from icreward_lib.generators.opensora.transformer import STDiT3

LAYOUT = json.loads((REFERENCE / "opensora/layout.json").read_text())
TEXT, IMAGE, DENOISER, DECODER = range(4)
BF16 = torch.bfloat16


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that are still held; `peak` is the most so far."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        weights = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        self.storages = {tensor.untyped_storage()._cdata for tensor in weights}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.storages:
                storage = tensor.untyped_storage()
                self.storages.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def freed(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size


def peak(run: Callable[[], object], *models: nn.Module, grad: bool = False) -> int:
    with torch.set_grad_enabled(grad), LiveBytes(*models) as live:
        run()
    return live.peak


def on_meta(build: Callable[[], nn.Module], dtype: torch.dtype = BF16) -> Any:
    with init_empty_weights(include_buffers=True):
        return nn.Module.to(build(), dtype).eval()


def denoise(model: STDiT3, vae: VideoAutoencoder, request: Request, rows: int) -> Tensor:
    """One call of the denoiser, as the pipeline makes it, on the model's device."""
    config, device = model.config, model.device
    frames, height, width = vae.latent_size((request.num_frames, request.height, request.width))
    tokens = config.model_max_length
    output: Tensor = model(
        torch.ones(rows, config.in_channels, frames, height, width, device=device),
        torch.ones(rows, device=device),
        torch.ones(rows, 1, tokens, config.caption_channels, device=device, dtype=model.dtype),
        torch.ones(1, tokens, device=device, dtype=torch.int64),
        torch.ones(rows, frames, device=device, dtype=torch.bool),
        fps=torch.ones(1, device=device),
        height=torch.tensor([float(request.height)]),
        width=torch.tensor([float(request.width)]),
    )
    return output


def small_vae() -> VideoAutoencoder:
    return VideoAutoencoder(
        spatial_block_out_channels=(8, 16),
        spatial_layers_per_block=1,
        spatial_norm_num_groups=8,
        temporal_filters=8,
        temporal_num_res_blocks=1,
        temporal_norm_num_groups=8,
    )


def small_denoiser(**changes: Any) -> STDiT3:
    sizes = dict(hidden_size=32, depth=1, num_heads=4, caption_channels=16, model_max_length=12)
    return STDiT3(**{**sizes, **changes})


def small_text() -> T5EncoderModel:
    sizes = dict(vocab_size=64, d_model=16, d_kv=8, d_ff=48, num_layers=2, num_heads=2)
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


PublicModels = tuple[T5EncoderModel, STDiT3, VideoAutoencoder]


@pytest.fixture(scope="module")
def models() -> PublicModels:
    return memory.public_models()


@pytest.fixture(scope="module")
def vae(models: PublicModels) -> VideoAutoencoder:
    return models[2]


@pytest.fixture(scope="module")
def public(models: PublicModels) -> list[Phase]:
    return memory.phases(*models, Request())


@pytest.mark.parity
def test_weights_are_those_of_the_public_files(public: list[Phase]) -> None:
    denoiser = LAYOUT["parameters"] + 300 * 4096 + 1152 // 4  # and the null caption, and what positions are made of
    autoencoder = LAYOUT["temporal_parameters"] + LAYOUT["spatial_parameters"] + 8
    xxl = 24 * (4 * 4096 * 4096 + 3 * 4096 * 10240 + 2 * 4096) + 4096 + 32128 * 4096 + 32 * 64
    assert [phase.weights for phase in public] == [2 * n for n in (xxl, autoencoder, denoiser, autoencoder)]


def test_240p_of_51_frames_fits_in_16_gb(public: list[Phase], models: PublicModels) -> None:
    for needed in (public, memory.phases(*models, Request(num_videos=5))):
        memory.check(needed, 16 * 10**9)
        assert [phase.name for phase in needed] == ["text encoder", "image encoder", "denoiser", "decoder"]
        assert all(phase.total == phase.weights + phase.activations + memory.RESERVE for phase in needed)
    assert sum(phase.weights for phase in public[:3]) + memory.RESERVE < 16 * 10**9  # even without offload
    assert max(phase.total for phase in public) < 12 * 10**9


def test_table_has_a_line_a_phase(public: list[Phase]) -> None:
    lines = memory.table(public).splitlines()
    assert len(lines) == 2 + len(public) and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| text encoder | 9.52 | ")


@pytest.mark.parametrize("request_", [Request(), Request(34, 480, 480, 1, 1.0)], ids=["240p", "square"])
def test_bound_of_the_full_size_denoiser_holds_and_is_near(request_: Request, vae: VideoAutoencoder) -> None:
    model = on_meta(lambda: STDiT3(depth=1))  # without gradients the blocks hold nothing for each other
    rows = 1 if request_.guidance_scale == 1 else 2
    bound = memory.phases(on_meta(small_text), model, vae, request_)[DENOISER].activations
    held = peak(lambda: denoise(model, vae, request_, rows), model)
    assert held <= bound <= 1.3 * held


def test_bound_of_the_full_size_autoencoder_holds_and_is_near(vae: VideoAutoencoder) -> None:
    request = Request(num_frames=17)
    parts = memory.phases(on_meta(small_text), on_meta(small_denoiser), vae, request)
    z = torch.empty(1, 4, 5, 30, 53, dtype=BF16, device="meta")
    held = peak(lambda: vae.decode(z, 17).float(), vae)
    assert held <= parts[DECODER].activations <= 2.2 * held
    image = torch.empty(1, 3, 1, 240, 426, dtype=BF16, device="meta")
    held = peak(lambda: vae.encode(image, sample_posterior=False), vae)
    assert held <= parts[IMAGE].activations <= 3 * held


def test_bound_of_the_full_width_text_encoder_holds_and_is_near() -> None:
    model = on_meta(lambda: T5EncoderModel(T5Config(**{**memory.T5_XXL, "num_layers": 1})))
    transformer = on_meta(lambda: small_denoiser(model_max_length=300))
    bound = memory.phases(model, transformer, on_meta(small_vae), Request())[TEXT].activations
    held = peak(lambda: model(torch.ones(1, 300, dtype=torch.int64, device="meta")), model)
    assert held <= bound <= 2 * held


@pytest.mark.slow
@pytest.mark.property
@settings(deadline=None, max_examples=5)
@given(
    frames=st.sampled_from([1, 17, 34]),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    videos=st.integers(1, 3),
    tokens=st.sampled_from([4, 60]),
    guidance=st.sampled_from([1.0, 7.0]),
)
def test_bounds_hold_for_every_size(
    frames: int, height: int, width: int, videos: int, tokens: int, guidance: float
) -> None:
    request = Request(frames, 8 * height, 8 * width, videos, guidance)
    model, vae = on_meta(lambda: small_denoiser(model_max_length=tokens)), on_meta(small_vae)
    _, image, denoiser, decoder = memory.phases(on_meta(small_text), model, vae, request)
    rows = videos * (1 if guidance == 1 else 2)
    assert peak(lambda: denoise(model, vae, request, rows), model) <= denoiser.activations
    x = torch.empty(1, 3, 1, request.height, request.width, dtype=BF16, device="meta")
    assert peak(lambda: vae.encode(x, sample_posterior=False), vae) <= image.activations
    z = torch.empty(1, 4, *vae.latent_size((frames, request.height, request.width)), dtype=BF16, device="meta")
    assert peak(lambda: vae.decode(z, frames).float(), vae) <= decoder.activations


@pytest.mark.slow
def test_bounds_hold_in_real_runs() -> None:
    text, model, vae = small_text().eval(), small_denoiser(depth=2), small_vae().eval()
    for request in (Request(17, 64, 96, 1), Request(34, 64, 96, 2)):
        needed = memory.phases(text, model, vae, request)
        rows = 2 * request.num_videos
        assert peak(lambda r=request, n=rows: denoise(model, vae, r, n), model) <= needed[DENOISER].activations
        z = torch.randn(1, 4, *vae.latent_size((request.num_frames, 64, 96)))
        assert peak(lambda z=z, r=request: vae.decode(z, r.num_frames), vae) <= needed[DECODER].activations
        ids = torch.ones(1, 12, dtype=torch.int64)
        assert peak(lambda ids=ids: text(ids, attention_mask=ids), text) <= needed[TEXT].activations


@pytest.mark.slow
def test_gradient_checkpointing_bounds_fine_tuning(models: PublicModels) -> None:
    vae, request = models[2], Request(num_videos=2)

    def held(depth: int, checkpointing: bool) -> int:
        model = on_meta(lambda: STDiT3(depth=depth))
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.requires_grad_(False)
        for block in (*model.spatial_blocks, *model.temporal_blocks):
            block.attn.qkv.bias.requires_grad_(True)
        used = peak(lambda: denoise(model, vae, request, 2).sum().backward(), model, grad=True)
        bound = memory.fine_tuning(model, vae, request).activations
        assert used <= bound <= 2 * used if checkpointing else used > bound
        return used

    saved = held(2, True) - held(1, True)
    assert saved == pytest.approx(2 * 12150 * 1152 * 2, rel=0.01)  # one input a block: two videos of 15 x 405 tokens
    held(2, False)
    assert memory.fine_tuning(models[1], vae, request).total < 16 * 10**9


@pytest.mark.fault
def test_a_small_gpu_is_refused_in_one_sentence(public: list[Phase], models: PublicModels) -> None:
    with pytest.raises(GpuMemoryError, match=r"has 8\.0 GB, the text encoder of Open-Sora needs 11\.\d GB: take a"):
        memory.check(public, 8 * 10**9)
    long = memory.phases(*models, Request(num_frames=408, height=720, width=1280))
    with pytest.raises(GpuMemoryError, match="the denoiser of Open-Sora needs"):
        memory.check(long, 16 * 10**9)

"""What a GPU would compute in, tried without one: bfloat16 weights on the CPU, and shapes and devices on a fake GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support.standins_opensora import AUTOENCODER, TEXT_ENCODER, TRANSFORMER, write_models
from torch import Tensor
from torch._subclasses import FakeTensorMode
from transformers import T5Config, T5EncoderModel

from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.run.profile import GenerationSettings

SETTINGS = GenerationSettings(
    num_frames=17, height=32, width=48, fps=8.0, steps=1, guidance=2.0, aesthetic=6.5, motion=None
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The two layouts that a generator is loaded from."""
    root = tmp_path_factory.mktemp("models")
    hub = write_models(root / "hub")
    public = [hub / name for name in (TRANSFORMER, AUTOENCODER, TEXT_ENCODER)]
    OpenSoraGenerator.from_pretrained(*public, settings=SETTINGS).pipeline.save_pretrained(root / "saved")
    return {"public": public, "saved": [root / "saved"]}


@pytest.mark.parametrize("layout", ["public", "saved"])
def test_a_generator_works_in_the_dtype_of_gpus(
    layout: str, folders: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    offloaded = []
    monkeypatch.setattr(OpenSoraPipeline, "enable_model_cpu_offload", lambda self, device: offloaded.append(device))
    generator = OpenSoraGenerator.from_pretrained(*folders[layout], settings=SETTINGS, device="cuda")
    assert offloaded == ["cuda"]
    parts = generator.pipeline
    models = (parts.text_encoder, parts.transformer, parts.vae)
    assert {value.dtype for model in models for value in model.state_dict().values()} == {torch.bfloat16}

    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    # Without oneDNN, whose bf16 kernels crash on CPUs that advertise AMX and do not have it.
    with torch.backends.mkldnn.flags(enabled=False):
        videos, latents = generator.sample(image, "a red cup", num_videos=2, seed=1)
        again = generator.autoencode(videos[0])
        features, masks = generator.encode_prompts(["a red cup", "an umbrella"])
    assert [video.frames.shape for video in (*videos, again)] == [(17, 32, 48, 3)] * 3
    assert latents.shape == (2, 4, 5, 4, 6) and latents.dtype == torch.float32 and latents.isfinite().all()
    assert features.dtype == torch.bfloat16 and features.shape[:2] == masks.shape == (2, 300)


fake = partial(torch.ones, device="cuda")  # no default device: a network has to name its own


@contextmanager
def fake_gpu(*models: torch.nn.Module) -> Iterator[None]:
    """In it every tensor is fake: shape, dtype and device count, and nothing is computed."""
    for model in models:
        model.eval().to(torch.bfloat16)
    with FakeTensorMode(), torch.inference_mode():
        for module in (module for model in models for module in model.modules()):
            for tensors in (module._parameters, module._buffers):  # `to` would ask for a driver
                tensors |= {k: fake(*v.shape, dtype=v.dtype) for k, v in tensors.items() if v is not None}
        yield


def described(value: Tensor) -> tuple[tuple[int, ...], str, torch.dtype]:
    return tuple(value.shape), value.device.type, value.dtype


def test_denoiser_on_a_fake_gpu() -> None:
    model = STDiT3(hidden_size=16, depth=1, num_heads=2, caption_channels=8, model_max_length=6)
    with fake_gpu(model):
        masks = fake(2, 6), fake(2, 5, dtype=torch.bool)
        sizes = {name: torch.tensor([value]) for name, value in (("height", 32.0), ("width", 48.0))}
        texts = fake(2, 1, 6, 8, dtype=torch.bfloat16)
        velocity = model(fake(2, 4, 5, 4, 6), fake(2), texts, *masks, fps=fake(1), **sizes)
    assert described(velocity) == ((2, 8, 5, 4, 6), "cuda", torch.float32)


def test_autoencoder_on_a_fake_gpu() -> None:
    small = {"spatial_block_out_channels": (8, 8, 8, 8), "spatial_norm_num_groups": 4}
    model = VideoAutoencoder(**small, temporal_filters=8, temporal_num_res_blocks=1, temporal_norm_num_groups=4)
    with fake_gpu(model):
        video = fake(1, 3, 17, 32, 48, dtype=torch.bfloat16)
        for sampled in (True, False):
            latents = model.encode(video, sample_posterior=sampled)
            assert described(latents) == ((1, 4, 5, 4, 6), "cuda", torch.bfloat16)
            assert described(model.decode(latents, 17)) == described(video)


def test_text_encoder_on_a_fake_gpu() -> None:
    model = T5EncoderModel(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with fake_gpu(model):
        tokens = fake(2, 6, dtype=torch.int64)
        hidden = model(tokens, attention_mask=tokens).last_hidden_state
    assert described(hidden) == ((2, 6, 16), "cuda", torch.bfloat16)

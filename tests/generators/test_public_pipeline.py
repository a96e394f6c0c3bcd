"""The whole pipeline from folders laid out as the hub, with tiny weights under all the public names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from support.standins_opensora import (
    AUTOENCODER,
    TEXT_ENCODER,
    TRANSFORMER,
    autoencoder_layout,
    transformer_layout,
    write_models,
    write_text_encoder,
)

from icreward_lib.generators import open_sora
from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.generators.opensora.memory import GpuMemoryError
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline
from icreward_lib.generators.opensora.public_weights import load_pipeline, load_text_encoder
from icreward_lib.generators.opensora.text import encode_captions
from icreward_lib.run.profile import GenerationSettings

SETTINGS = dict(num_frames=34, height=32, width=48, num_inference_steps=2)


def folders(hub: Path) -> list[Path]:
    return [hub / name for name in (TRANSFORMER, AUTOENCODER, TEXT_ENCODER)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pipeline(hub: Path) -> OpenSoraPipeline:
    loaded = load_pipeline(*folders(hub), dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def copy(hub: Path, tmp_path: Path) -> Path:
    """A copy of the folder to damage."""
    return Path(shutil.copytree(hub, tmp_path / "models"))


@pytest.mark.parity
def test_standins_have_all_public_names_and_are_small(hub: Path) -> None:
    for repository, layout in ((TRANSFORMER, transformer_layout()), (AUTOENCODER, autoencoder_layout())):
        with safe_open(hub / repository / "model.safetensors", "pt") as file:
            assert set(file.keys()) == layout.keys()
            for name, shape in layout.items():
                assert len(file.get_slice(name).get_shape()) == len(shape), name
                assert file.get_slice(name).get_dtype() == "F32", name
    assert sum(path.stat().st_size for path in hub.rglob("*") if path.is_file()) < 10e6


@pytest.mark.fault
@pytest.mark.parametrize("frames", [2, 9, 16])
def test_lengths_that_upstream_turns_into_nan_are_refused(pipeline: OpenSoraPipeline, frames: int) -> None:
    with pytest.raises(ValueError, match=rf"not num_frames = \[{frames}\]: set it to 1 or to a multiple of 17"):
        pipeline(picture(0), "a cup", generator=seeded(), **{**SETTINGS, "num_frames": frames})


def test_scores_are_added_to_the_prompt(pipeline: OpenSoraPipeline) -> None:
    def latents(prompt: str, **scores: float) -> torch.Tensor:
        return pipeline.sample_latents(None, prompt, generator=seeded(), **{**SETTINGS, **scores})

    scored = latents("a cup.", aesthetic=6.5, motion=5.0)
    assert torch.equal(scored, latents("a cup. aesthetic score: 6.5. motion score: 5.0."))
    assert not torch.equal(scored, latents("a cup."))


def test_one_model_at_a_time_is_on_the_gpu(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, "cpu:0" plays it: a model arrives with `to("cpu:0")` and leaves with `to("cpu")`."""
    pipeline = load_pipeline(*folders(hub), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    present, arrivals = set(), []
    for name in ("text_encoder", "transformer", "vae"):

        def to(model: torch.nn.Module, device: object, *rest: object, name: str = name, **kwargs: object) -> object:
            if str(device) == "cpu:0":
                present.add(name)
                assert present == {name}, "two models are on the GPU"
                arrivals.append(name)
            else:
                present.discard(name)
            return model

        class Placed(torch.nn.Parameter):
            """Says where the model was sent, which accelerate asks its first parameter."""

            owner = name

            @property
            def device(self) -> torch.device:
                return torch.device("cpu:0" if self.owner in present else "cpu")

        model = getattr(pipeline, name)
        # Of the class: what accelerate finds on an instance, it removes with its hooks.
        monkeypatch.setattr(type(model), "to", to)
        path, _, first = next(iter(dict(model.named_parameters()))).rpartition(".")
        module = model.get_submodule(path)
        setattr(module, first, Placed(getattr(module, first).data, requires_grad=False))
    pipeline.enable_model_cpu_offload(device="cpu")
    pipeline(picture(0), "a cup", generator=seeded(), **SETTINGS)
    assert [name for name, before in zip(arrivals, [None, *arrivals], strict=False) if name != before] == [
        "text_encoder",
        "vae",
        "transformer",
        "vae",
    ]
    assert not present


@pytest.fixture
def generation() -> GenerationSettings:
    return GenerationSettings(
        num_frames=17, height=32, width=48, fps=8.0, steps=1, guidance=1.0, aesthetic=6.5, motion=None
    )


@pytest.mark.e2e
def test_a_generator_takes_the_public_folder_or_a_saved_pipeline(
    hub: Path, generation: GenerationSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = OpenSoraGenerator.from_pretrained(*folders(hub), settings=generation)
    (video,), latents = generator.sample(picture(0), "a cup.", num_videos=1, seed=3)
    assert video.frames.shape == (17, 32, 48, 3) and latents.shape == (1, 4, 5, 4, 6)
    assert generator.autoencode(video).frames.shape == video.frames.shape
    features, _ = generator.encode_prompts(["a cup."])
    parts, scored = generator.pipeline, ["a cup. aesthetic score: 6.5."]
    wanted, _ = encode_captions(parts.text_encoder, parts.tokenizer, scored, features.shape[1])
    assert torch.equal(features, wanted[:, 0])

    generator.pipeline.save_pretrained(tmp_path / "saved")
    saved = OpenSoraGenerator.from_pretrained(tmp_path / "saved", settings=generation)
    torch.testing.assert_close(saved.sample(picture(0), "a cup.", num_videos=1, seed=3)[1], latents, rtol=0, atol=1e-5)
    assert generator.pipeline.transformer.is_gradient_checkpointing


@pytest.mark.slow
def test_how_many_videos_fit_at_a_time_changes_none(
    hub: Path, generation: GenerationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = OpenSoraGenerator.from_pretrained(*folders(hub), settings=generation)
    together = generator.sample(picture(0), "a cup", num_videos=3, seed=1)[1]
    monkeypatch.setattr(OpenSoraGenerator, "_at_a_time", lambda self, num_videos: 2)
    videos, latents = generator.sample(picture(0), "a cup", num_videos=3, seed=1)
    assert len(videos) == 3
    torch.testing.assert_close(latents, together, rtol=0, atol=1e-5)


@pytest.mark.fault
def test_a_small_or_busy_gpu_is_one_sentence(
    hub: Path, generation: GenerationSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = OpenSoraGenerator.from_pretrained(*folders(hub), settings=generation)

    def out_of_memory(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    monkeypatch.setattr(OpenSoraPipeline, "__call__", out_of_memory)
    with pytest.raises(GpuMemoryError, match="ran out of memory while it made 2 videos at a time"):
        generator.generate(picture(0), "a cup", num_videos=2, seed=0)

    gpu = type("Properties", (), {"total_memory": 10**9})
    monkeypatch.setattr(open_sora.torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(OpenSoraPipeline, "_execution_device", torch.device("cuda:0"))
    with pytest.raises(GpuMemoryError, match=r"the GPU has 1\.0 GB"):
        generator.generate(picture(0), "a cup", num_videos=2, seed=0)


@pytest.mark.fault
def test_a_missing_folder_is_named(hub: Path) -> None:
    transformer, autoencoder, text_encoder = folders(hub)
    with pytest.raises(
        FileNotFoundError, match=r"STDiT-v4 has no model\.safetensors \(it has nothing\): give a folder"
    ):
        load_pipeline(transformer.with_name("OpenSora-STDiT-v4"), autoencoder, text_encoder)


@pytest.mark.fault
def test_parts_that_do_not_belong_together_are_refused(hub: Path, tmp_path: Path) -> None:
    other = write_text_encoder(tmp_path / "t5", width=24)
    with pytest.raises(ValueError, match="t5 has 24 channels, .*hpcai-tech/OpenSora-STDiT-v3 takes 32: they do not"):
        load_pipeline(*folders(hub)[:2], other)


@pytest.mark.fault
def test_a_text_encoder_of_other_shapes_is_refused(copy: Path) -> None:
    path = copy / TEXT_ENCODER / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"d_ff": 16}))
    with pytest.raises(ValueError, match=r"t5-v1_1-xxl cannot be loaded \(.*\): download it again"):
        load_text_encoder(copy / TEXT_ENCODER)


@pytest.mark.fault
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_text_encoder_that_was_cut_off_is_refused(copy: Path, share: float) -> None:
    path = copy / TEXT_ENCODER / "pytorch_model-00002-of-00002.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"t5-v1_1-xxl cannot be loaded \(.*\): download it again"):
        load_text_encoder(copy / TEXT_ENCODER)


@pytest.mark.fault
def test_a_text_encoder_without_a_weight_is_refused(copy: Path) -> None:
    path = copy / TEXT_ENCODER / "pytorch_model-00001-of-00002.bin"
    weights = torch.load(path, weights_only=True)
    del weights["encoder.block.0.layer.0.SelfAttention.q.weight"]
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"lacks encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight: download"):
        load_text_encoder(copy / TEXT_ENCODER)


@pytest.mark.fault
def test_a_tokenizer_without_its_vocabulary_is_refused(copy: Path) -> None:
    (copy / TEXT_ENCODER / "spiece.model").unlink()
    with pytest.raises(ValueError, match=r"knows no words, as without spiece\.model: download"):
        load_text_encoder(copy / TEXT_ENCODER)

import copy

import pytest
import support
import torch

from icreward_lib.generators.opensora import blocks
from icreward_lib.generators.opensora.blocks import PositionEmbedding, RotaryEmbedding, rotate, wave_frequencies
from icreward_lib.generators.opensora.transformer import STDiT3

REFERENCE = torch.load(support.REFERENCE / "opensora/stdit3.pt", weights_only=True)
CASES = REFERENCE["cases"]
SMALL = dict(
    input_sq_size=64,
    in_channels=6,
    hidden_size=32,
    depth=2,
    num_heads=4,
    caption_channels=16,
    model_max_length=5,
    pred_sigma=False,
)


def reference_frequencies() -> torch.Tensor:
    """The machine that made the reference rounded two of the 128 frequencies to the other neighbour."""
    frequencies = wave_frequencies()
    for i in (12, 106):
        frequencies[i] = torch.nextafter(frequencies[i], torch.tensor(1.0))
    return frequencies


def small_model(seed: int = 0, **changes) -> STDiT3:
    model = STDiT3(**{**SMALL, **changes})
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():  # everything random: a fresh model ignores its temporal blocks
        value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return model


def small_inputs(batch: int = 2, **changes):
    generator = torch.Generator().manual_seed(1)
    size = torch.full((batch,), 64.0)
    mask = torch.ones(batch, 5)
    mask[:, 3:] = 0
    inputs = dict(
        x=torch.randn(batch, 6, 3, 5, 4, generator=generator),
        timestep=torch.rand(batch, generator=generator) * 1000,
        y=torch.randn(batch, 1, 5, 16, generator=generator),
        mask=mask,
        x_mask=torch.tensor([[False, True, True]] * batch),
        fps=torch.full((batch,), 8.0),
        height=size,
        width=size,
    )
    return {**inputs, **changes}


@pytest.fixture(scope="module")
def model() -> STDiT3:
    model = STDiT3(**REFERENCE["config"])
    model.load_state_dict(REFERENCE["state_dict"])
    return model


@pytest.mark.parity
@pytest.mark.parametrize("name", [n for n in CASES if "bf16" not in n])
def test_output_matches_upstream(model, name):
    with torch.no_grad():
        output = model(**CASES[name]["inputs"])
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, CASES[name]["output"], rtol=0, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["odd_xmask", "image_t1"])
def test_output_matches_upstream_closely_with_its_rounding(model, name, monkeypatch):
    monkeypatch.setattr(blocks, "wave_frequencies", reference_frequencies)
    with torch.no_grad():
        output = model(**CASES[name]["inputs"])
    torch.testing.assert_close(output, CASES[name]["output"], rtol=0, atol=4e-6)


@pytest.mark.parity
def test_bf16_is_near_upstream(model):
    case = CASES["odd_xmask_bf16"]
    low = copy.deepcopy(model).to(torch.bfloat16)
    # Without oneDNN, whose bf16 kernels crash on CPUs that advertise AMX and do not have it.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        output = low(**case["inputs"])
    assert output.dtype == torch.float32
    assert (output - case["output"]).abs().mean() < 0.03


@pytest.mark.parity
def test_gradient_norms_match_upstream(model):
    model.zero_grad()
    model(**CASES["odd_xmask"]["inputs"]).square().mean().backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    expected = {n: v for n, v in REFERENCE["grad_norms_odd_xmask"].items() if v is not None}
    assert norms == pytest.approx(expected, rel=1e-4)


@pytest.mark.parity
def test_public_size_positions_and_rotation_match_upstream():
    # The reference keeps every 40th of the 15 x 27 positions.
    positions = PositionEmbedding(1152)(15, 27, (240 * 426) ** 0.5 / 512, torch.float32)
    expected = REFERENCE["pos_embed_1152_h15_w27_240x426"][0]
    torch.testing.assert_close(positions[:: len(positions) // len(expected) + 1][: len(expected)], expected)

    reference = REFERENCE["rope_72"]
    rope = RotaryEmbedding(72)
    torch.testing.assert_close(rope.freqs.data, reference["freqs"])
    turned = rotate(reference["q"].transpose(1, 2), rope(15)).transpose(1, 2)
    torch.testing.assert_close(turned, reference["out"], rtol=0, atol=1e-5)

    value, waves = REFERENCE["timestep_freq"]["t"], REFERENCE["timestep_freq"]["emb"]
    angles = torch.outer(value, reference_frequencies())
    torch.testing.assert_close(torch.cat([angles.cos(), angles.sin()], -1), waves, rtol=0, atol=1e-6)


def test_clean_frames_see_noise_level_zero():
    model = small_model()
    inputs = small_inputs(x_mask=torch.zeros(2, 3, dtype=torch.bool))
    with torch.no_grad():
        high, low = (model(**{**inputs, "timestep": torch.full((2,), t)}) for t in (900.0, 100.0))
        hidden = model.spatial_blocks[0]
        seen = []
        hook = hidden.register_forward_hook(lambda module, args, out: seen.append(out))
        for t in (900.0, 100.0):
            model(**{**inputs, "timestep": torch.full((2,), t)})
        hook.remove()
    assert torch.equal(*seen)
    assert not torch.equal(high, low)  # the final layer's double norm, which nothing reads


def test_padding_tokens_do_not_count():
    model, inputs = small_model(), small_inputs()
    y = inputs["y"].clone()
    y[:, :, 3:] = 7.0
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs), model(**{**inputs, "y": y}))
        assert not torch.allclose(model(**inputs), model(**{**inputs, "y": y, "mask": None}))


def test_a_sample_does_not_depend_on_its_batch():
    model, inputs = small_model(), small_inputs()
    with torch.no_grad():
        together = model(**inputs)
        alone = model(**{name: value[1:] for name, value in inputs.items()})
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)


def test_output_channels():
    with torch.no_grad():
        assert small_model()(**small_inputs()).shape == (2, 6, 3, 5, 4)
        assert small_model(pred_sigma=True)(**small_inputs()).shape == (2, 12, 3, 5, 4)


@pytest.mark.parametrize(
    "changes, word",
    [(dict(hidden_size=34), "hidden_size"), (dict(num_heads=5), "hidden_size"), (dict(patch_size=(2, 2, 2)), "patch")],
)
def test_impossible_sizes_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        STDiT3(**{**SMALL, **changes})


def test_weights_come_from_the_generator_and_start_as_upstream():
    first, second = STDiT3(**SMALL), STDiT3(**SMALL)
    for model in (first, second):
        model.init_weights(torch.Generator().manual_seed(3))
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
        assert torch.isfinite(a).all(), name
    block = first.temporal_blocks[0]
    assert not block.attn.proj.weight.any() and not block.mlp.fc2.weight.any()
    assert first.spatial_blocks[0].attn.proj.weight.any()
    assert not first.fps_embedder.mlp[2].weight.any()
    assert not first.rope.freqs.requires_grad


def test_save_and_load(tmp_path):
    model, inputs = small_model(), small_inputs()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    loaded = STDiT3.from_pretrained(tmp_path)
    assert not loaded.rope.freqs.requires_grad
    with torch.no_grad():
        assert torch.equal(loaded(**inputs), model(**inputs))


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, saving = small_model(), small_model()
    saving.enable_gradient_checkpointing()
    for model in (plain, saving):
        model(**small_inputs()).square().mean().backward()
    assert saving.is_gradient_checkpointing
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_dropped_captions_are_the_null_caption():
    model = small_model(class_dropout_prob=0.3)
    y = torch.randn(2000, 1, 5, 16)
    dropped = model.drop_captions(y, torch.Generator().manual_seed(0))
    null = (dropped == model.null_captions(2000)).all((1, 2, 3))
    assert torch.equal(dropped[~null], y[~null])
    assert 0.26 < null.float().mean() < 0.34
    assert torch.equal(dropped, model.drop_captions(y, torch.Generator().manual_seed(0)))


def test_lora_can_target_the_attention_layers():
    from peft import LoraConfig, inject_adapter_in_model

    model, inputs = small_model(), small_inputs()
    with torch.no_grad():
        before = model(**inputs)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["qkv", "proj", "q_linear", "kv_linear"]), model)
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[1] for name in model.state_dict() if "lora_A" in name}
    assert adapted == {"qkv", "proj", "q_linear", "kv_linear"}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs), before)

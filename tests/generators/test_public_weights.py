import json
from pathlib import Path

import pytest
import support
import torch
from safetensors.torch import load_file, save_file
from support.standins_opensora import autoencoder_layout, transformer_layout

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.public_weights import config_from_hub, load_autoencoder, load_transformer
from icreward_lib.generators.opensora.transformer import STDiT3

REFERENCE = support.REFERENCE / "opensora"
STDIT = torch.load(REFERENCE / "stdit3.pt", weights_only=True)
VAE = json.loads((REFERENCE / "vae_reference.json").read_text())


def public(folder: Path, config: dict, weights: dict[str, torch.Tensor]) -> Path:
    """A folder in the layout of the public repositories."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def public_transformer(folder: Path, weights: dict[str, torch.Tensor] | None = None, **changes) -> Path:
    config = {
        "architectures": ["STDiT3"],
        "model_type": "STDiT3",
        "input_size": [None, None, None],
        "drop_path": 0.0,
        "qk_norm": True,
        "enable_flash_attn": False,
        "freeze_y_embedder": False,
        "skip_y_embedder": False,
        "dtype": "float32",
        **STDIT["config"],
    }
    return public(folder, {**config, **changes}, STDIT["state_dict"] if weights is None else weights)


def public_autoencoder(folder: Path, **changes) -> Path:
    return public(folder, {**VAE["hub_config"], **changes}, load_file(REFERENCE / "vae_weights.safetensors"))


@pytest.mark.parity
def test_full_size_models_have_exactly_the_public_names_and_shapes():
    with torch.device("meta"):
        hub = {**VAE["hub_config"], "vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": None}}
        models = STDiT3(), VideoAutoencoder(**config_from_hub(hub))
    layouts = transformer_layout(), autoencoder_layout()
    assert [len(layout) for layout in layouts] == [973, 517]
    for model, layout in zip(models, layouts, strict=True):
        assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == layout


@pytest.mark.parity
def test_transformer_computes_what_upstream_does(tmp_path):
    model = load_transformer(public_transformer(tmp_path / "hub"))
    assert not model.training and not model.rope.freqs.requires_grad
    case = STDIT["cases"]["odd_xmask"]
    with torch.no_grad():
        torch.testing.assert_close(model(**case["inputs"]), case["output"], rtol=0, atol=1e-5)


@pytest.mark.parity
def test_autoencoder_keeps_its_weights_and_finds_the_sizes_of_its_2d_part(tmp_path):
    model = load_autoencoder(public_autoencoder(tmp_path / "hub"))
    assert model.config.micro_frame_size == 17
    assert tuple(model.config.spatial_block_out_channels) == (8, 8, 16, 16)
    assert (model.config.spatial_layers_per_block, model.config.spatial_norm_num_groups) == (1, 4)
    weights = load_file(REFERENCE / "vae_weights.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parity
def test_bf16_rounds_every_number_as_upstream(tmp_path):
    low = load_transformer(public_transformer(tmp_path / "hub"), dtype=torch.bfloat16)
    expected = STDiT3(**STDIT["config"])
    expected.load_state_dict(STDIT["state_dict"])
    expected.to(torch.bfloat16)
    assert expected.pos_embed.inv_freq.dtype == torch.bfloat16  # upstream rounds the frequencies with the weights
    positions = [model.pos_embed(5, 6, 0.5, torch.bfloat16) for model in (low, expected)]
    assert positions[0].dtype == torch.bfloat16 and torch.equal(*positions)
    for (name, a), b in zip(low.state_dict().items(), expected.state_dict().values(), strict=True):
        assert a.dtype == torch.bfloat16 and torch.equal(a, b), name


def test_a_converted_model_can_be_saved_as_diffusers_does(tmp_path):
    model = load_transformer(public_transformer(tmp_path / "hub"))
    model.save_pretrained(tmp_path / "ours")
    again = STDiT3.from_pretrained(tmp_path / "ours")
    case = STDIT["cases"]["image_t1"]
    with torch.no_grad():
        assert torch.equal(again(**case["inputs"]), model(**case["inputs"]))


@pytest.mark.fault
def test_wrong_weights_are_named(tmp_path):
    weights = dict(STDIT["state_dict"])
    del weights["rope.freqs"]
    weights["extra.bias"] = torch.zeros(2)
    weights["t_block.1.bias"] = torch.zeros(3)
    wrong = r"misshapen: 't_block\.1\.bias \(3,\) instead of \(384,\)'\): download"
    parts = rf"missing: 'rope\.freqs'; unexpected: 'extra\.bias'; {wrong}"
    with pytest.raises(ValueError, match=parts):
        load_transformer(public_transformer(tmp_path / "hub", weights))


@pytest.mark.fault
@pytest.mark.parametrize(
    "version, names",
    [
        (r"1\.0 \(STDiT\)", ["blocks.0.mlp.fc1.bias", "pos_embed", "pos_embed_temporal"]),
        (r"1\.1 \(STDiT2\)", ["blocks.0.attn_temp.q_norm.weight", "rope.freqs"]),
        (r"1\.3", ["spatial_blocks.0.attn.proj.bias", "x_embedder_cond.proj.weight"]),
        (r"2\.0", ["double_blocks.0.img_attn.qkv.weight", "img_in.weight"]),
    ],
)
def test_other_versions_are_named(tmp_path, version, names):
    source = public(tmp_path / "hub", {"model_type": "Other"}, {name: torch.zeros(2) for name in names})
    with pytest.raises(ValueError, match=f"denoiser of Open-Sora {version}, not of 1.2: give hpcai-tech"):
        load_transformer(source)


@pytest.mark.fault
def test_a_folder_of_another_version_says_what_it_holds(tmp_path):
    (tmp_path / "Open_Sora_v2.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors \(it has Open_Sora_v2\.safetensors\): give"):
        load_transformer(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes, word",
    [(dict(model_type="STDiT2"), "STDiT2"), (dict(qk_norm=False), "qk_norm"), (dict(depth=3), "missing")],
)
def test_other_models_are_refused(tmp_path, changes, word):
    with pytest.raises(ValueError, match=word):
        load_transformer(public_transformer(tmp_path / "hub", **changes))


@pytest.mark.fault
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_download_that_was_cut_off_is_refused(tmp_path, share):
    source = public_transformer(tmp_path / "hub")
    path = source / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read, it is damaged or cut off .* again"):
        load_transformer(source)


@pytest.mark.fault
@pytest.mark.parametrize("text", ['{"model_type": "STD', "[]", "\xff"])
def test_a_damaged_config_is_refused(tmp_path, text):
    source = public_transformer(tmp_path / "hub")
    (source / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"config\.json .*: download it again"):
        load_transformer(source)
    (source / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_transformer(source)


@pytest.mark.fault
def test_an_incomplete_config_of_the_autoencoder_is_refused(tmp_path):
    source = public_autoencoder(tmp_path / "hub")
    config = json.loads((source / "config.json").read_text())
    del config["shift"]
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="has no shift"):
        load_autoencoder(source)

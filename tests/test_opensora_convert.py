import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icreward_lib.opensora.autoencoder import VideoAutoencoder
from icreward_lib.opensora.convert import convert_autoencoder, convert_transformer
from icreward_lib.opensora.transformer import STDiT3

REFERENCE = Path(__file__).parent / "reference/opensora"
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


@pytest.mark.parity
def test_converted_transformer_computes_what_upstream_does(tmp_path):
    convert_transformer(public_transformer(tmp_path / "hub"), tmp_path / "ours")
    model = STDiT3.from_pretrained(tmp_path / "ours")
    case = STDIT["cases"]["odd_xmask"]
    with torch.no_grad():
        torch.testing.assert_close(model(**case["inputs"]), case["output"], rtol=0, atol=1e-5)


@pytest.mark.parity
def test_converted_autoencoder_keeps_its_weights(tmp_path):
    weights = load_file(REFERENCE / "vae_weights.safetensors")
    folder = public(tmp_path / "hub", VAE["hub_config"], weights)
    convert_autoencoder(folder, tmp_path / "ours", spatial=VAE["spatial_config"])
    model = VideoAutoencoder.from_pretrained(tmp_path / "ours")
    assert model.config.micro_frame_size == 17
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_half_precision_stays(tmp_path):
    weights = {name: value.to(torch.bfloat16) for name, value in STDIT["state_dict"].items()}
    convert_transformer(public_transformer(tmp_path / "hub", weights), tmp_path / "ours")
    saved = load_file(tmp_path / "ours/diffusion_pytorch_model.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], value) for name, value in weights.items())


@pytest.mark.fault
def test_wrong_weights_are_named(tmp_path):
    weights = dict(STDIT["state_dict"])
    del weights["rope.freqs"]
    weights["x_embedder_cond.proj.bias"] = torch.zeros(2)
    weights["t_block.1.bias"] = torch.zeros(3)
    source = public_transformer(tmp_path / "hub", weights)
    parts = "missing: rope.freqs; unexpected: x_embedder_cond.proj.bias; misshapen: t_block.1.bias"
    with pytest.raises(ValueError, match=parts):
        convert_transformer(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes, word",
    [(dict(model_type="STDiT2"), "STDiT2"), (dict(qk_norm=False), "qk_norm"), (dict(depth=3), "missing")],
)
def test_other_models_are_refused(tmp_path, changes, word):
    with pytest.raises(ValueError, match=word):
        convert_transformer(public_transformer(tmp_path / "hub", **changes), tmp_path / "ours")


@pytest.mark.fault
def test_damaged_folders_are_refused(tmp_path):
    source = public_transformer(tmp_path / "hub")
    whole = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        convert_transformer(source, tmp_path / "ours")
    (source / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        convert_transformer(source, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [source]

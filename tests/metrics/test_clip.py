"""CLIP-I with a tiny open_clip model in the layout of its model hub."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from support.standins_vlm import CLIP, build_clip

from icreward_lib.metrics.clip import ClipSim, clipsim

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**CONFIG["model_cfg"])
    (path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), path / "open_clip_model.safetensors")
    return path


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


def test_features_are_unit_norm_and_batch_independent(folder, frames: np.ndarray) -> None:
    features = ClipSim(folder).image_features(frames)
    assert features.shape == (5, 16) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(ClipSim(folder, batch_size=2).image_features(frames), features, atol=1e-5)


@pytest.mark.parity
def test_features_equal_open_clip_used_by_hand(folder, frames: np.ndarray) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**CONFIG["model_cfg"]).eval()
    pixels = torch.tensor(frames[:, :32, :32]).permute(0, 3, 1, 2) / 127.5 - 1  # 32x32: nothing to resize
    with torch.no_grad():
        expected = model.encode_image(pixels, normalize=True)
    np.testing.assert_allclose(ClipSim(folder).image_features(frames[:, :32, :32]), expected, atol=1e-5)


@pytest.mark.property
def test_clipsim_by_hand() -> None:
    reference = np.array([1.0, 0.0])
    angles = np.array([0.0, np.pi / 3, np.pi / 2])
    frames = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert clipsim(reference, frames, include_first=True) == pytest.approx(0.5)
    assert clipsim(reference, frames, include_first=False) == pytest.approx(0.25)
    both = clipsim(reference, np.stack([frames, frames[::-1]]), include_first=False)
    np.testing.assert_allclose(both, [0.25, 0.75])
    with pytest.raises(ValueError, match="first"):
        clipsim(reference, frames[:1], include_first=False)


def test_frozen_clip_scores_one(folder, frames: np.ndarray) -> None:
    features = ClipSim(folder).image_features(np.repeat(frames[:1], 4, axis=0))
    assert clipsim(features[0], features, include_first=True) == pytest.approx(1, abs=1e-5)


def test_a_hub_id_and_a_folder_in_the_hubs_layout_give_the_same(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, from the cache that a download leaves."""
    folder = tmp_path / f"models--{CLIP.replace('/', '--')}"
    build_clip(folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    features = ClipSim(folder / "snapshots" / "abc").image_features(frames)
    for name in (CLIP, f"hf-hub:{CLIP}"):
        np.testing.assert_array_equal(ClipSim(name).image_features(frames), features)
    with pytest.raises(ValueError, match="No whole CLIP model in nobody/nothing"):
        ClipSim("nobody/nothing")


def test_a_name_goes_with_the_tag_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(name: str, **options: object) -> None:
        asked.append((name, options["pretrained"]))
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", offline)
    for name in ("ViT-B-32:openai", "ViT-L-14:laion2b_s32b_b82k", "ViT-B-32"):
        with pytest.raises(ValueError, match=f"No whole CLIP model in {name}: no network"):
            ClipSim(name)
    assert asked == [("ViT-B-32", "openai"), ("ViT-L-14", "laion2b_s32b_b82k"), ("ViT-B-32", None)]
    with pytest.raises(FileNotFoundError, match="neither"):
        ClipSim("ViT-B-33:openai")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_features_of_the_cpu(folder, frames: np.ndarray) -> None:
    expected = ClipSim(folder).image_features(frames)
    np.testing.assert_allclose(ClipSim(folder, device="cuda").image_features(frames), expected, atol=1e-3)


@pytest.mark.fault
def test_missing_or_broken_models_are_refused(folder, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        ClipSim(tmp_path / "none")
    with pytest.raises(ValueError, match="CLIP model"):
        ClipSim(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="CLIP model"):  # open_clip alone would go on with random weights
        ClipSim(tmp_path)
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match="CLIP model"):
        ClipSim(tmp_path)

"""DINO and DreamSim as VBench++ uses them: parity with upstream's code, the public files' layout, LoRA."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import support
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from support.standins_metrics import EMBEDDING, WIDTH, branch_weights, moving_clip, write_dino, write_dreamsim

from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.metrics.vbench_features import (
    CLIP_FILES,
    DINO_FILE,
    KINDS,
    LORA_FOLDER,
    DreamSim,
    VBenchFeatures,
    load_branch,
    read_weights,
)
from icreward_lib.video import Video

REFERENCE = support.REFERENCE / "vbench"


def reference_clips() -> list[tuple[np.ndarray, Video]]:
    """What upstream's code was given, losslessly: a pan, and a zoom that cuts to another scene."""
    cat, cup = skimage.data.chelsea(), skimage.data.coffee()
    pan = np.stack([cat[4 * t : 280 + 4 * t, 10 * t : 400 + 10 * t] for t in range(5)])
    cut = np.stack([cup[40 + 2 * t : 340 + 2 * t, 100:450] for t in range(4)] + [cat[:300, 50:400]] * 2)
    return [(cat[:290, :420], Video(pan, 8.0)), (cup[30:370, 80:500], Video(cut, 8.0))]


@pytest.mark.parity
@pytest.mark.parametrize("antialias", [False, True])
def test_scores_equal_vbench(antialias: bool) -> None:
    """Against VBench's and DreamSim's own code on tiny random networks; see backbones.json."""
    weights = {name: value.float() for name, value in load_file(REFERENCE / "backbones.safetensors").items()}
    expected = json.loads((REFERENCE / "backbones.json").read_text())[f"antialias {'on' if antialias else 'off'}"]

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(f"{prefix}."): v for n, v in weights.items() if n.startswith(f"{prefix}.")}

    branches = [load_branch(kind, part(kind), head_size=4) for kind in KINDS]
    dreamsim = DreamSim(branches, [weights["clip.proj"], weights["open_clip.proj"]])
    features = VBenchFeatures(load_branch("dino", part("subject"), head_size=4), dreamsim, antialias=antialias)
    for clip, (image, video) in enumerate(reference_clips()):
        scores = ConsistencyScorer(features, batch_size=4).score(image, [video])
        for dimension in ("subject", "background"):
            assert scores[dimension][0] == pytest.approx(expected[dimension][clip], abs=1e-5)


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_dino(folder / "dino")
    write_dreamsim(folder / "dreamsim")
    return folder


def load(folder: Path, **settings) -> VBenchFeatures:
    return VBenchFeatures.from_pretrained(folder / "dino", folder / "dreamsim", **settings)


def test_public_files_are_read(public: Path) -> None:
    features, frames = load(public), moving_clip(0, frames=3)
    subject, background = features(frames)
    assert subject.shape == (3, WIDTH) and background.shape == (3, WIDTH + 2 * EMBEDDING)
    assert subject.dtype == background.dtype == torch.float32
    torch.testing.assert_close(background.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    for whole, alone in zip((subject, background), features(frames[1:2]), strict=True):
        torch.testing.assert_close(whole[1:2], alone, atol=1e-4, rtol=1e-4)
    for one, side in zip(features.reference(frames[0]), (subject, background), strict=True):
        assert one.shape == side[0].shape
        assert torch.cosine_similarity(one, side[0], dim=0) > 0.99  # resized by PIL, not as a tensor
    assert features.name == f"dino-vit-{WIDTH} crop-224, dreamsim-ensemble squash-224, bicubic"
    assert load(public, antialias=True).name == f"{features.name} antialias"


def test_antialias_is_that_of_shrunk_frames(public: Path) -> None:
    """The reference, which PIL resizes, does not depend on it."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 400, 500, 3), dtype=np.uint8)
    plain, smooth = load(public), load(public, antialias=True)
    for a, b in zip(plain(noise), smooth(noise), strict=True):
        assert (a - b).abs().max() > 1e-3
    for a, b in zip(plain.reference(noise[0]), smooth.reference(noise[0]), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_lora_tunes_dreamsim_and_not_the_subject(public: Path) -> None:
    features = load(public)
    weights = [read_weights(public / "dino" / DINO_FILE)]
    weights += [read_weights(public / "dreamsim" / name) for name in CLIP_FILES]
    plain = DreamSim([load_branch(k, w) for k, w in zip(KINDS, weights, strict=True)], [w["proj"] for w in weights[1:]])
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        untuned, tuned = plain(images), features.dreamsim(images)
        adapted = PeftModel.from_pretrained(plain, public / "dreamsim" / LORA_FOLDER).eval()
        torch.testing.assert_close(tuned, adapted(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(features.dino(images), load_branch("dino", weights[0])(images))
    assert torch.cosine_similarity(untuned, tuned).max() < 0.999


def spoilt(public: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(public, tmp_path / "copy"))


@pytest.mark.fault
def test_all_missing_files_are_named(public: Path, tmp_path: Path) -> None:
    folder = spoilt(public, tmp_path)
    (folder / "dino" / DINO_FILE).unlink()
    (folder / "dreamsim" / LORA_FOLDER / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{DINO_FILE}.*{LORA_FOLDER}.*ensemble_checkpoint.zip"):
        load(folder)


@pytest.mark.fault
def test_wrong_or_damaged_weights_are_refused(public: Path, tmp_path: Path) -> None:
    folder = spoilt(public, tmp_path)
    dino, clip = folder / "dino" / DINO_FILE, CLIP_FILES[0]
    good = dino.read_bytes()
    for wrong, message in (
        (branch_weights("clip", seed=0), "dino network.*Unexpected key"),  # another network's file
        ({"student": {"module.head.mlp.0.weight": torch.zeros(2)}}, "begins with student"),  # DINO's training state
        ({**branch_weights("dino", seed=0), "norm.weight": torch.zeros(3)}, "dino network.*size mismatch"),
        ({**branch_weights("dino", seed=0), "cls_token": torch.zeros(1, 1, 100)}, "100 does not divide"),
    ):
        torch.save(wrong, dino)
        with pytest.raises(ValueError, match=message):
            load(folder)
    for damaged in (good[: len(good) // 2], b"", b"<html>not found</html>"):
        dino.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{DINO_FILE} is damaged"):
            load(folder)
    dino.write_bytes(good)
    weights = read_weights(folder / "dreamsim" / clip)
    torch.save({"state_dict": {n: v for n, v in weights.items() if n != "proj"}}, folder / "dreamsim" / clip)
    with pytest.raises(ValueError, match=f"{clip} does not hold.*proj"):
        load(folder)


@pytest.mark.fault
def test_pickled_code_is_not_run(public: Path, tmp_path: Path) -> None:
    folder = spoilt(public, tmp_path)
    torch.save({"cls_token": torch.zeros(1, 1, WIDTH), "run": print}, folder / "dino" / DINO_FILE)
    with pytest.raises(ValueError, match="no file of weights"):
        load(folder)


@pytest.mark.fault
def test_foreign_or_damaged_lora_is_refused(public: Path, tmp_path: Path) -> None:
    folder = spoilt(public, tmp_path)
    adapter = folder / "dreamsim" / LORA_FOLDER / "adapter_model.safetensors"
    weights = load_file(adapter)
    save_file({name.replace("extractor_list.2", "extractor_list.3"): v for name, v in weights.items()}, adapter)
    with pytest.raises(ValueError, match="not the LoRA of DreamSim"):  # PEFT itself would only warn
        load(folder)
    adapter.write_bytes(adapter.read_bytes()[:1000])
    with pytest.raises(ValueError, match="no whole LoRA"):
        load(folder)
    adapter.unlink()
    with pytest.raises(ValueError, match="no whole LoRA"):
        load(folder)

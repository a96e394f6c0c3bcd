"""Features of whole videos: VideoMAE's, and I3D's with its preprocessing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.standins_metrics import write_i3d
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from icreward_lib.metrics.video_features import I3D_FILE, I3DFeatures, VideoMAEFeatures, i3d_pixels, videomae_pixels
from icreward_lib.video import Video


@pytest.fixture(scope="module")
def videomae() -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VideoMAEForVideoClassification(config).eval()


def random_clips(k: int = 3, frames: int = 6) -> list[Video]:
    rng = np.random.default_rng(0)
    return [Video(rng.integers(0, 256, (frames, 24, 40, 3), dtype=np.uint8), 8.0) for _ in range(k)]


def test_videomae_features(videomae, tmp_path) -> None:
    videomae.save_pretrained(tmp_path)
    clips = random_clips()
    extractor = VideoMAEFeatures(tmp_path)
    features = extractor.features(clips)
    assert features.shape == (3, 16) and features.dtype == np.float32
    with torch.no_grad():
        pixels = videomae_pixels(clips, num_frames=4, size=32)
        expected = videomae.videomae(pixels).last_hidden_state.mean(1)
    np.testing.assert_allclose(features, expected, atol=1e-5)  # the classifier's trunk, not fresh weights
    np.testing.assert_allclose(
        VideoMAEFeatures(tmp_path, batch_size=1).features(clips[::-1])[::-1], features, atol=1e-5
    )
    first_changed = [Video(np.concatenate([255 - v.frames[:2], v.frames[2:]]), 8.0) for v in clips]
    np.testing.assert_array_equal(extractor.features(first_changed), features)  # the last 4 of 6 frames count
    assert "last-4-frames squash-32" in extractor.name


def test_videomae_pixels_are_normalised() -> None:
    white = Video(np.full((5, 20, 30, 3), 255, np.uint8), 8.0)
    pixels = videomae_pixels([white], num_frames=4, size=32)
    assert pixels.shape == (1, 4, 3, 32, 32)
    np.testing.assert_allclose(pixels[0, 0, :, 0, 0], [2.2489, 2.4286, 2.6400], atol=1e-3)
    with pytest.raises(ValueError, match="4 frames"):
        videomae_pixels(random_clips(frames=3), num_frames=4, size=32)


@pytest.mark.fault
def test_videomae_without_its_weights_is_refused(videomae, tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        VideoMAEFeatures(tmp_path / "none")
    with pytest.raises(ValueError, match="VideoMAE"):
        VideoMAEFeatures(tmp_path)
    videomae.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="VideoMAE"):
        VideoMAEFeatures(tmp_path)
    short = VideoMAEModel(VideoMAEConfig(**{**videomae.config.to_dict(), "num_hidden_layers": 2}))
    videomae.save_pretrained(tmp_path)
    short.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="do not fit"):  # one layer would be random
        VideoMAEFeatures(tmp_path)
    videomae.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(ValueError, match="VideoMAE"):
        VideoMAEFeatures(tmp_path)


@pytest.fixture(scope="module")
def i3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("i3d")
    write_i3d(folder)
    return folder


def test_i3d_sees_what_is_promised() -> None:
    """[-1, 1], 224 x 224, "n 3 t h w", the whole width, the plain bilinear of F.interpolate."""
    ramp = np.linspace(0, 255, 448).round().astype(np.uint8)
    frames = np.broadcast_to(ramp[None, None, :, None], (9, 100, 448, 3)).copy()
    frames[3:] //= 2
    frames[..., 2] = 255
    pixels = i3d_pixels([Video(frames, 8.0)] * 2)
    assert pixels.shape == (2, 3, 9, 224, 224) and pixels.dtype == torch.float32
    assert pixels.min() >= -1 - 1e-6 and pixels.max() <= 1 + 1e-6
    torch.testing.assert_close(pixels[:, 2], torch.ones(2, 9, 224, 224))  # the third channel is blue
    line = (ramp[0::2].astype(float) + ramp[1::2]) / 2 / 127.5 - 1  # halving without antialias averages pairs
    np.testing.assert_allclose(pixels[0, 0, 0, 112], line, atol=1e-4)
    assert pixels[0, 0, 3, 0, -1] < 0.01 < pixels[0, 0, 2, 0, -1]  # time is where I3D has it
    stripes = np.zeros((9, 896, 896, 3), np.uint8)
    stripes[:, :, ::4] = 255
    assert set(i3d_pixels([Video(stripes, 8.0)]).unique().tolist()) == {
        -1.0
    }  # no antialias: every fourth column is lost


def test_i3d_features(i3d: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [Video(rng.integers(0, 256, (10, 60, 80, 3), dtype=np.uint8), 8.0) for _ in range(3)]
    features = I3DFeatures(i3d).features(clips)
    assert features.shape == (3, 400) and features.dtype == np.float32
    single = I3DFeatures(i3d, batch_size=1).features(clips[::-1])[::-1]
    np.testing.assert_allclose(single, features, atol=1e-4, rtol=1e-4)
    network = torch.jit.load(i3d / I3D_FILE)
    with torch.inference_mode():  # the network's own scaling agrees with ours; logits, not probabilities
        raw = (i3d_pixels(clips) + 1) * 127.5
        np.testing.assert_allclose(network(raw, rescale=True, return_features=True), features, atol=1e-3, rtol=1e-3)
    assert features.min() < 0 and np.abs(features.sum(1) - 1).min() > 0.1
    assert "224" in I3DFeatures(i3d).name and "[-1,1]" in I3DFeatures(i3d).name


@pytest.mark.fault
def test_clips_that_i3d_cannot_take(i3d: Path) -> None:
    short, nine, ten = (Video(np.zeros((t, 16, 16, 3), np.uint8), 8.0) for t in (8, 9, 10))
    with pytest.raises(ValueError, match="at least 9 frames; these have 8"):
        I3DFeatures(i3d).features([short])
    with pytest.raises(ValueError, match="one length.* 9 and 10"):
        I3DFeatures(i3d).features([nine, ten])
    assert I3DFeatures(i3d).features([nine]).shape == (1, 400)


@pytest.mark.fault
def test_another_network_than_i3d_is_refused(i3d: Path, tmp_path: Path) -> None:
    class Pool(torch.nn.Module):
        def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
            return x.mean((2, 3, 4))

    clips = [Video(np.zeros((9, 16, 16, 3), np.uint8), 8.0)]
    with pytest.raises(FileNotFoundError, match=I3D_FILE):
        I3DFeatures(tmp_path)
    torch.jit.script(Pool()).save(tmp_path / I3D_FILE)
    with pytest.raises(ValueError, match=r"not I3D.*\(1, 3\)"):
        I3DFeatures(tmp_path).features(clips)
    torch.jit.script(torch.nn.Conv3d(3, 4, 1)).save(tmp_path / I3D_FILE)
    with pytest.raises(ValueError, match="does not run as I3D"):
        I3DFeatures(tmp_path).features(clips)
    for damaged in ((i3d / I3D_FILE).read_bytes()[:500], b"<html>not found</html>"):
        (tmp_path / I3D_FILE).write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            I3DFeatures(tmp_path)

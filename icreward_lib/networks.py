"""The pretrained networks that a profile names, loaded on the run's device."""

from __future__ import annotations

from pathlib import Path

from icreward_lib.metrics.features import EfficientNetLite0Features, FrameFeatures
from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.metrics.vbench_features import VBenchFeatures
from icreward_lib.metrics.video_features import I3D_FILE, I3DFeatures, VideoFeatures, VideoMAEFeatures
from icreward_lib.run import Run

DINO, DREAMSIM = "dino", "dreamsim"  # folders beside the hub's


def consistency_scorer(run: Run) -> ConsistencyScorer:
    """VBench++'s scores on the backbone of the labels: its own networks, or EfficientNet-Lite0."""
    settings = run.profile.labels
    features: FrameFeatures
    if run.profile.models.labels == "vbench":
        features = VBenchFeatures.from_pretrained(
            run.folder(DINO), run.folder(DREAMSIM), antialias=settings.antialias, device=run.device
        )
    else:
        features = EfficientNetLite0Features(settings.input_size)
    return ConsistencyScorer(features)


def backbone(run: Run) -> dict[str, object]:
    """What the scores of `consistency_scorer` depend on, for the keys of stages."""
    settings, name = run.profile.labels, run.profile.models.labels
    own = {"input_size": settings.input_size} if name == "efficientnet-lite0" else {"antialias": settings.antialias}
    return {"name": name, "reference": settings.reference, **own}


def video_features(run: Run) -> VideoFeatures:
    """The features of FVD: I3D's if the folder holds its TorchScript file, else VideoMAE's."""
    folder = Path(run.model("fvd"))
    if (folder / I3D_FILE).is_file():
        return I3DFeatures(folder, device=run.device)
    return VideoMAEFeatures(folder)

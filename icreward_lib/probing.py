"""What every metric and reward says of the test samples' true clips, and of clips that depart from them (probes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from icreward_lib import networks
from icreward_lib.curation import SCORE_CODE, Curated
from icreward_lib.generation import item_of
from icreward_lib.judging import Trained
from icreward_lib.launch import mine
from icreward_lib.metrics.clip import clipsim
from icreward_lib.metrics.motion import dynamic_degree
from icreward_lib.metrics.vbench import DIMENSIONS, ic_label
from icreward_lib.parallel import side_by_side
from icreward_lib.rewards.icreward import ICReward
from icreward_lib.rewards.mlp import MLPReward
from icreward_lib.run import Run
from icreward_lib.samples import Sample, SceneSample
from icreward_lib.video import Video
from icreward_lib.world.probes import PROBES, SEVERITIES, depart

TRUE = "true"  # the kind of a clip that does not depart
#: What is higher for a clip that should be better; `dynamic_degree` is for one that moves more.
METRICS = (
    *("clipsim", "clipsim_no_first", "subject", "subject_mean", "subject_min"),
    *("background", "background_mean", "background_min", "label"),
    *("mlp", "mlp_seeds", "icreward", "icreward_seeds", "dynamic_degree"),
)
CODE = (
    *("world.probes", "world.scenes", "world.content", "probing", "rewards"),
    *("metrics.clip", "metrics.video_features", *SCORE_CODE),
)


@dataclass(frozen=True)
class Probed:
    """The scored clips: a row each in both."""

    table: pd.DataFrame  # sample, unseen, kind, severity and METRICS
    features: np.ndarray  # (N, D), for FVD


def probed_samples(curated: Curated) -> list[Sample]:
    """Every other test sample: each costs about fifty clips."""
    return curated.of("test")[::2]


def clips_of(run: Run, sample: Sample) -> dict[tuple[str, float], Video]:
    """A sample's true clip (`TRUE`, severity 0) and all departures from it that fit its scene.

    Raises:
        ValueError: if the sample is no scene of the sticker world.
    """
    if not isinstance(sample, SceneSample):
        raise ValueError(
            f"Probes need clips whose truth is known, those of the sticker world; sample {sample.id} is an image of a "
            "suite. Use a profile with data.suite: ''."
        )
    shape = run.profile.generation
    clips = {(TRUE, 0.0): sample.real_clip(shape)}
    for kind, probe in PROBES.items():
        for severity in SEVERITIES if probe.fits(sample.scene) else ():
            departed = depart(
                sample.scene,
                kind,
                severity,
                seed=run.seed("probes", sample.id),
                num_frames=shape.num_frames,
                size=shape.height,
            )
            clips[kind, severity] = Video(departed.frames[0], shape.fps)
    return clips


def probe(run: Run, curated: Curated, samples: Sequence[Sample], mlp: Trained, icreward: Trained) -> Probed:
    """Score the samples' true clips and departures against the true clip's first frame.

    `mlp` and `icreward` are scores of the first seed's model, `mlp_seeds` and `icreward_seeds` the mean over all of
    them; `label` is what they were trained to predict.
    """
    with run.stage(
        "probes",
        code=CODE,
        samples=[sample.account() for sample in samples],
        generation=run.profile.generation,
        seed=run.profile.seed,
        backbone=networks.backbone(run),
        mlp=mlp.stage,
        icreward=icreward.stage,
        models=[run.model("clip"), run.model("fvd")],
    ) as stage:
        if not stage.done:
            judges = _Judges(run, mlp, icreward)
            missing = [sample for sample in mine(samples) if not stage.has(f"{item_of(sample.id)}.npz")]
            for sample, values in side_by_side(lambda sample: judges.score(clips_of(run, sample)), missing):
                stage.save_npz(f"{item_of(sample.id)}.npz", **values)
    found = [(sample, stage.load_npz(f"{item_of(sample.id)}.npz")) for sample in samples]
    features = np.concatenate([values.pop("features") for _, values in found])
    table = pd.concat(
        [pd.DataFrame({"sample": sample.id, "unseen": sample.is_unseen, **values}) for sample, values in found],
        ignore_index=True,
    )
    labels = run.profile.labels
    weights = {"subject": labels.subject_weight, "background": labels.background_weight}
    table["label"] = ic_label({d: table[d].to_numpy() for d in DIMENSIONS}, curated.anchors, weights)
    return Probed(table[["sample", "unseen", "kind", "severity", *METRICS]], features)


class _Judges:
    """All metrics and rewards, which share what they read of a clip."""

    def __init__(self, run: Run, mlp: Trained, icreward: Trained) -> None:
        self.scorer = networks.consistency_scorer(run)
        self.video_features = networks.video_features(run)
        self.mlps = [MLPReward.from_pretrained(folder, device=run.device) for folder in mlp.folders]
        self.icrewards = [ICReward.from_pretrained(folder, device=run.device) for folder in icreward.folders]

    def score(self, clips: dict[tuple[str, float], Video]) -> dict[str, np.ndarray]:
        """Values of K clips, (K,) each, and `features` (K, D), against the first frame of the first one."""
        videos = list(clips.values())
        image = videos[0].frames[0]
        raw = self.scorer.score(image, videos)
        clip = self.mlps[0].clip
        pixels = np.stack([video.frames for video in videos])
        # Departures share many frames with each other and with the true clip.
        distinct, place = np.unique(pixels.reshape(-1, pixels[0, 0].size), axis=0, return_inverse=True)
        frames = clip.image_features(distinct.reshape(-1, *image.shape))[place].reshape(*pixels.shape[:2], -1)
        reference = clip.image_features(image[None])[0]
        # Vision towers and CLIP are frozen: all seeds read the same.
        tokens, picture = self.icrewards[0].encode_videos(videos), self.icrewards[0].encode_images([image])[0]
        seen = torch.from_numpy(reference), torch.from_numpy(frames)
        scores = {
            "mlp": [reward.score_features(*seen).overall for reward in self.mlps],
            "icreward": [
                reward.score_tokens(tokens, picture, num_frames=videos[0].num_frames).overall
                for reward in self.icrewards
            ],
        }
        kinds, severities = zip(*clips, strict=True)
        return {
            "kind": np.array(kinds),
            "severity": np.array(severities),
            "clipsim": clipsim(reference, frames, include_first=True),
            "clipsim_no_first": clipsim(reference, frames, include_first=False),
            **{d + end: raw[d + end] for d in DIMENSIONS for end in ("", "_mean", "_min")},
            **{name: values[0] for name, values in scores.items()},
            **{f"{name}_seeds": np.mean(values, 0) for name, values in scores.items()},
            "dynamic_degree": np.array([dynamic_degree(video) for video in videos]),
            "features": self.video_features.features(videos),
        }

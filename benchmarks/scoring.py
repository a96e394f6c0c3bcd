"""Both ways of scoring the candidates of one reference: this library's, and one clip at a time as peers do it.

Both start from the same files, read them by the same function and use the same networks, so that all that differs is
how often something is done and how much of it at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from icreward_lib.metrics.clip import ClipSim, clipsim
from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.metrics.vbench import ConsistencyScorer, conformity, consecutive, i2v_score
from icreward_lib.poster.measure import unlabelled
from icreward_lib.rewards.cached_states import HeadOnCachedStates, read, with_new_head
from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.prompt import ICRewardConfig
from icreward_lib.rewards.training import predict
from icreward_lib.score.intake import read_clip, read_picture
from icreward_lib.video import Video, write_video
from icreward_lib.world.scenes import Scene, render, sample_scenes

LAPTOP = Path(__file__).parents[1] / "checkpoints" / "laptop"
WEIGHTS = (0.8, 0.2)  # other shares of subject and background than the reward was made with

Values = dict[str, np.ndarray]  # name of a score -> (K,)


@dataclass(frozen=True)
class Candidates:
    """The files of a reference picture and of K clips of one size and length that may keep it."""

    reference: Path
    videos: Sequence[Path]

    def read(self) -> tuple[np.ndarray, list[Video]]:
        """The picture (H, W, 3) and the clips, every file once."""
        return read_picture(self.reference).image, [read_clip(path).video for path in self.videos]


def make_candidates(folder: Path, *, count: int = 5, num_frames: int = 17, side: int = 64) -> Candidates:
    """Write `count` clips of one scene, whose camera and sticker move differently far, and the scene's first frame.

    No two frames are alike, so that nothing is won by leaving out repeated ones.
    """
    scene = next(scene for scene in sample_scenes(100, seed=0) if _moves(scene))
    amounts = [1 + 0.1 * k for k in range(count)]
    scenes = [
        replace(scene, camera_amount=scene.camera_amount * a, subject_amount=scene.subject_amount * a) for a in amounts
    ]
    frames = render(scenes, num_frames=num_frames, size=side).frames
    folder.mkdir(parents=True, exist_ok=True)
    reference = folder / "reference.png"
    Image.fromarray(frames[0, 0]).save(reference)
    videos = [folder / f"{k}.mp4" for k in range(count)]
    for path, clip in zip(videos, frames, strict=True):
        write_video(path, Video(clip, 8.0))
    return Candidates(reference, videos)


def _moves(scene: Scene) -> bool:
    return scene.subject is not None and scene.camera != "static" and scene.motion.startswith("moves")


@dataclass(frozen=True)
class Metrics:
    """The networks of VBench++ and CLIPSim."""

    features: EfficientNetLite0Features
    clip: ClipSim

    @classmethod
    def load(cls) -> Metrics:
        """EfficientNet-Lite0, the offline default, and the laptop's CLIP."""
        return cls(EfficientNetLite0Features(128), ClipSim(LAPTOP / "open-clip"))

    def together(self, candidates: Candidates) -> Values:
        """This library: every file is read once, the reference encoded once, both dimensions from one pass."""
        return self.of(*candidates.read())

    def of(self, image: np.ndarray, videos: Sequence[Video]) -> Values:
        """The same without the reading."""
        scores = ConsistencyScorer(self.features, batch_size=16).score(image, videos)
        features = self.clip.image_features(np.concatenate([image[None], *(video.frames for video in videos)]))
        frames = features[1:].reshape(len(videos), videos[0].num_frames, -1)
        similarity = clipsim(features[0], frames, include_first=True)
        return {"subject": scores["subject"], "background": scores["background"], "clipsim": similarity}

    def one_at_a_time(self, candidates: Candidates) -> Values:
        """Peers: each metric on its own reads every clip and encodes the reference for it, VBench frame by frame."""
        return {
            "subject": np.array([self._dimension(0, candidates.reference, path) for path in candidates.videos]),
            "background": np.array([self._dimension(1, candidates.reference, path) for path in candidates.videos]),
            "clipsim": self._clipsim_of_each(candidates),
        }

    def one_at_a_time_sharing(self, candidates: Candidates) -> Values:
        """As `one_at_a_time`, for peers who take both dimensions of VBench++ from one pass of one network."""
        found = []
        for path in candidates.videos:
            image, video = read_picture(candidates.reference).image, read_clip(path).video
            reference = self.features.reference(image)
            frames = zip(*(self.features(frame[None]) for frame in video.frames), strict=True)
            found.append([_i2v(kept, list(seen)) for kept, seen in zip(reference, frames, strict=True)])
        subject, background = np.array(found).T
        return {"subject": subject, "background": background, "clipsim": self._clipsim_of_each(candidates)}

    def _dimension(self, dimension: int, reference: Path, path: Path) -> float:
        image, video = read_picture(reference).image, read_clip(path).video
        kept = self.features.reference(image)[dimension]
        return _i2v(kept, [self.features(frame[None])[dimension] for frame in video.frames])

    def _clipsim_of_each(self, candidates: Candidates) -> np.ndarray:
        scores = []
        for path in candidates.videos:
            image, video = read_picture(candidates.reference).image, read_clip(path).video
            reference, frames = self.clip.image_features(image[None])[0], self.clip.image_features(video.frames)
            scores.append(clipsim(reference, frames, include_first=True))
        return np.array(scores)


def _i2v(reference: torch.Tensor, frames: Sequence[torch.Tensor]) -> float:
    seen = torch.cat(list(frames))
    return float(i2v_score(conformity(reference, seen), consecutive(seen)))


def new_reward() -> ICRewardModel:
    """The ICReward of the laptop before its training: what training changes costs no time."""
    return ICRewardModel.create(str(LAPTOP / "qwen2-vl"), ICRewardConfig(), seed=0)


def reward_together(reward: ICRewardModel, candidates: Candidates) -> Values:
    """This library: all candidates at once, the reference encoded once."""
    image, videos = candidates.read()
    scores = reward.score(image, videos)
    return {"overall": scores.overall, **scores.dimensions}


def reward_one_at_a_time(reward: ICRewardModel, candidates: Candidates) -> Values:
    """Peers: a pass for every clip, for which the reference is read and encoded again."""
    each = []
    for path in candidates.videos:
        scores = reward.score(read_picture(candidates.reference).image, [read_clip(path).video])
        each.append({"overall": scores.overall, **scores.dimensions})
    return {name: np.concatenate([scores[name] for scores in each]) for name in each[0]}


@dataclass(frozen=True)
class Cached:
    """What is kept of candidates that have been scored once: their frames, vision tokens, and the states read of them.

    `reward` has a new head, which has scored nothing yet.
    """

    reward: ICRewardModel
    image: np.ndarray
    videos: Sequence[Video]
    tokens: ClipDataset
    states: ClipDataset

    @classmethod
    def of(cls, reward: ICRewardModel, candidates: Candidates) -> Cached:
        """Read the candidates once."""
        image, videos = candidates.read()
        video, reference = reward.encode_videos(videos), reward.encode_images([image])
        tokens = unlabelled(video.numpy(), reference.numpy(), np.zeros(len(videos), np.int64))
        return cls(with_new_head(reward, seed=1), image, videos, tokens, read(reward, tokens))

    def from_frames(self) -> Values:
        """The new head and the other weights on the clips in memory, from the start."""
        scores = self.reward.score(self.image, self.videos, weights=WEIGHTS)
        return {"overall": scores.overall, **scores.dimensions}

    def from_tokens(self) -> Values:
        """The same from the vision tokens alone: the language model reads them again."""
        scores = self.reward.score_tokens(
            self.tokens.video, self.tokens.references[0], num_frames=self.videos[0].num_frames, weights=WEIGHTS
        )
        return {"overall": scores.overall, **scores.dimensions}

    def from_states(self) -> Values:
        """The same from the vision tokens and what the language model made of them: the head alone computes."""
        head = HeadOnCachedStates(self.reward, self.tokens)
        head.weights = torch.tensor(WEIGHTS)
        with torch.no_grad():
            found = predict(head, self.states)
        return {"overall": found.overall, "subject": found.dimensions[:, 0], "background": found.dimensions[:, 1]}


def difference(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any score; KeyError if the two have not the same scores."""
    assert first.keys() == second.keys()
    return float(max(np.abs(np.asarray(first[name]) - second[name]).max() for name in first))

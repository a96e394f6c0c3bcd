"""People's preferences as the rewards read them: clips of a preference table, to train on and to be judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from icreward_lib.rewards.clips import ClipDataset
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.mlp import MLPReward
from icreward_lib.rewards.training import predict
from icreward_lib.run.profile import GenerationSettings
from icreward_lib.video import fit_clip, read_image, read_video


def voted_clips(
    reward: MLPReward | ICRewardModel, preferences: pd.DataFrame, folder: Path, shape: GenerationSettings
) -> tuple[ClipDataset, list[str]]:
    """The clips of a table of `study.preferences` with its votes and without labels, as `reward` reads them; their ids.

    References and videos are files in `folder`; clips and images are fitted to `shape`, that of those with labels.
    """
    size = (shape.width, shape.height)
    references, named = pd.factorize(preferences["reference"])
    places, videos = pd.factorize(preferences[["video1", "video2"]].to_numpy().T.ravel())
    sample = torch.zeros(len(videos), dtype=torch.long)
    sample[places] = torch.from_numpy(references).repeat(2)
    pictures = [Image.fromarray(read_image(folder / name)) for name in named]
    images = [np.array(ImageOps.fit(picture, size, Image.Resampling.LANCZOS)) for picture in pictures]
    votes = preferences[["votes1", "votes2"]].add(preferences["ties"] / 2, axis=0).to_numpy()
    clips = [reward.encode_videos([fit_clip(read_video(folder / name), shape)]) for name in videos]
    data = ClipDataset(
        video=torch.cat(clips),
        references=torch.cat([reward.encode_images([image]) for image in images]),
        sample=sample,
        labels=torch.full((len(clips),), torch.nan),
        dimension_labels=torch.full((len(clips), len(reward.weights)), torch.nan),
        pairs=torch.from_numpy(places).view(2, -1).T,
        votes=torch.tensor(votes, dtype=torch.float32),
    )
    return data, list(videos)


def scores(reward: MLPReward | ICRewardModel, data: ClipDataset, videos: list[str]) -> pd.DataFrame:
    """The reward's scores of those clips, as `study.preferences.accuracy` takes them."""
    return pd.DataFrame({reward.name: predict(reward, data).overall}, index=videos)

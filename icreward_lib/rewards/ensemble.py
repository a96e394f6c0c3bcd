"""Several trainings of ICReward as one reward that trusts what they agree on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from icreward_lib.rewards.base import Array, Image, Scores, read_config
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.run.files import atomic, write_json
from icreward_lib.video import Video

ROBUST = "gated"  # the recipe whose trainings are the members of the robust reward


def cautious(scores: npt.NDArray[np.floating[Any]], caution: float) -> Array:
    """Scores (M,...) in [0,1] as one (...): mean less `caution` standard deviations, from 0 on (arXiv 2310.02743)."""
    bound: Array = np.clip(scores.mean(0) - caution * scores.std(0), 0, 1).astype(np.float32)
    return bound


class Ensemble:
    """ICRewards of one base and one set of dimensions, scored by `cautious` (`Reward`)."""

    name = "robust ICReward"

    def __init__(self, members: Sequence[ICRewardModel], *, caution: float) -> None:
        """At least two `members`; `caution` >= 0, 0 being the plain mean. ValueError otherwise."""
        if len(members) < 2 or caution < 0:
            raise ValueError(f"an ensemble needs two members or more and a caution >= 0, not {len(members)}, {caution}")
        self.members, self.caution = list(members), caution

    def score(self, image: Image, videos: Sequence[Video]) -> Scores:
        """Scores of K videos of one length and size against `image` (H,W,3)."""
        first = self.members[0]  # the vision tower is frozen: all members see the same
        tokens, reference = first.encode_videos(videos), first.encode_images([image])[0]
        found = [each.score_tokens(tokens, reference, num_frames=videos[0].num_frames) for each in self.members]
        overall = cautious(np.stack([scores.overall for scores in found]), self.caution)
        parts = {name: np.stack([scores.dimensions[name] for scores in found]) for name in found[0].dimensions}
        dimensions = {name: cautious(values, self.caution) for name, values in parts.items()}
        # Members doubt a clip as a whole: its frames are their mean, lowered together until their mean is the bound.
        frames = np.mean([scores.frames for scores in found], axis=0)
        means = frames.mean(1)
        lowered = np.divide(overall, means, out=np.zeros_like(means), where=means > 0)
        return Scores(overall, dimensions, np.clip(frames * lowered[:, None], 0, 1))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and one folder a member."""
        with atomic(Path(folder)) as new:
            new.mkdir()
            write_json(new / "config.json", {"caution": self.caution, "members": len(self.members)})
            for number, member in enumerate(self.members):
                member.save_pretrained(new / str(number))  # as deep as its last place, so that paths stay right

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str = "cpu") -> Ensemble:
        """Load what `save_pretrained` wrote. FileNotFoundError if any of it, or the base, is missing."""
        settings = read_config(Path(folder), "ensemble of ICRewards")
        numbers = range(settings["members"])
        members = [ICRewardModel.from_pretrained(Path(folder, str(n)), device=device) for n in numbers]
        return cls(members, caution=settings["caution"])

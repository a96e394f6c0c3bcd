"""All public models and the suite that the `paper` profile names, as tiny stand-ins in one folder.

`python tests/standins.py DIR` writes them; `make reproduce PROFILE=paper ARGS="--models DIR"` then runs on them. Files,
tensor names and types are those of the public repositories, widths are not, and weights are random: nothing that comes
out of them has a meaning.
"""

from __future__ import annotations

import sys
from pathlib import Path

from icreward_lib.video import Video, write_video
from support.standins_metrics import moving_clip, write_metrics
from support.standins_opensora import write_models
from support.standins_vlm import build_standins


def write_standins(folder: Path, *, real_videos: int = 12) -> Path:
    """Write everything into `folder`; the folder.

    Args:
        folder: made if it is not there.
        real_videos: how many real videos lie beside the suite; the profile needs three for each test image.
    """
    write_models(folder)
    build_standins(folder)
    write_metrics(folder)
    (folder / "vbench2_i2v/real").mkdir()
    for number in range(real_videos):
        clip = Video(moving_clip(number, frames=20, height=72, width=128), 24.0)
        write_video(folder / f"vbench2_i2v/real/{number:03}.mp4", clip)
    return folder


if __name__ == "__main__":
    print(f"stand-ins are in {write_standins(Path(sys.argv[1]))}")

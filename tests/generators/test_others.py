"""Other generators behind the one contract: pipelines of diffusers by their call signature, finished videos."""

import inspect
from pathlib import Path

import diffusers
import numpy as np
import pandas as pd
import pytest
import skimage.data
from support.standins_metrics import moving_clip
from support.tiny_pipelines import PIPELINES, build

from icreward_lib.generators.others import FPS_NAMES, DiffusersGenerator, FinishedVideos
from icreward_lib.video import Video, write_video

IMAGE = skimage.data.chelsea()[:240:4, :360:4]


def generator_of(name: str) -> DiffusersGenerator:
    frames, height, width = PIPELINES[name][1]
    small = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": 2}
    return DiffusersGenerator(build(name), 8, **small)


@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_keep_the_contract(name: str) -> None:
    generator = generator_of(name)
    videos = generator.generate(IMAGE, "a cat", num_videos=2, seed=1)
    assert [video.frames.shape for video in videos] == [(*PIPELINES[name][1], 3)] * 2
    assert {video.fps for video in videos} == {8}
    assert (videos[0].frames != videos[1].frames).any()
    (alone,) = generator.generate(IMAGE, "a cat", num_videos=1, seed=1)
    np.testing.assert_array_equal(alone.frames, videos[0].frames)  # clip k does not depend on how many are made
    (other,) = generator.generate(IMAGE, "a cat", num_videos=1, seed=2)
    assert (other.frames != alone.frames).any()


@pytest.mark.parametrize(
    "name",
    [
        "CogVideoXImageToVideoPipeline",
        "StableVideoDiffusionPipeline",
        "I2VGenXLPipeline",
        "LTXImageToVideoPipeline",
        "WanImageToVideoPipeline",
        "HunyuanVideoImageToVideoPipeline",
    ],
)
def test_the_public_pipelines_take_an_image(name: str) -> None:
    accepted = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert {"image", "generator", "output_type"} <= accepted.keys()
    assert sum(option in accepted for option in FPS_NAMES) <= 1


def test_a_pipeline_is_named_by_its_folder_and_told_what_it_takes(tmp_path: Path, monkeypatch) -> None:
    build("SVD").save_pretrained(tmp_path)
    generator = DiffusersGenerator.from_pretrained(tmp_path, 8)
    kind, seen = type(generator.pipeline), {}
    original = kind.__call__

    def spy(self, *args, **kwargs):
        seen.update(kwargs)
        return original(self, *args, **kwargs, num_frames=3, height=32, width=48, num_inference_steps=2)

    monkeypatch.setattr(kind, "__call__", spy)
    (video,) = generator.generate(IMAGE, "a cat", num_videos=1, seed=0)
    assert video.frames.shape == (3, 32, 48, 3)
    assert seen.pop("image").size == (90, 60) and seen.pop("generator").device.type == "cpu"
    assert seen == {"fps": 8, "output_type": "np"}  # SVD reads no prompt


@pytest.mark.fault
def test_what_a_pipeline_cannot_do_is_refused(monkeypatch) -> None:
    svd = build("SVD")
    text_to_video = diffusers.LTXPipeline(
        **{
            name: getattr(build("LTX"), name)
            for name in ("scheduler", "vae", "text_encoder", "tokenizer", "transformer")
        }
    )
    with pytest.raises(ValueError, match="LTXPipeline takes no image"):
        DiffusersGenerator(text_to_video, 8)

    def without_steps(self, image, height=576, width=1024, num_frames=None, generator=None, output_type="pil"):
        frames = np.full((1, 2, 8, 8, 3), np.nan)
        return type("Output", (), {"frames": frames})()

    monkeypatch.setattr(type(svd), "__call__", without_steps)
    with pytest.raises(ValueError, match="nan in video 0 of 'a cat'"):
        DiffusersGenerator(svd, 8).generate(IMAGE, "a cat", num_videos=1, seed=0)


def finished(folder: Path, *names: str) -> list[Video]:
    videos = [Video(moving_clip(number, frames=3, height=16, width=32), 8.0) for number in range(len(names))]
    for name, video in zip(names, videos, strict=True):
        write_video(folder / name, video, lossless=True)
    return videos


def test_finished_videos_are_found_by_their_names(tmp_path: Path) -> None:
    clips = finished(
        tmp_path, "a dog-1.mp4", "a dog-0.mp4", "a cat, near-10.mp4", "a cat, near-9.mp4", "Wan2.1-14-0.mp4"
    )
    (tmp_path / "a dog-1.mp4").rename(tmp_path / "a dog-1.MP4")
    (tmp_path / "._a dog-2.mp4").write_bytes(b"left by macOS")
    (tmp_path / "notes-1.txt").write_text("not a video")
    videos = FinishedVideos.from_folder(tmp_path)
    assert {prompt: len(paths) for prompt, paths in videos.paths.items()} == {
        "a cat, near": 2,
        "a dog": 2,
        "Wan2.1-14": 1,
    }
    found = videos.generate(IMAGE, "a dog", num_videos=2, seed=0)
    np.testing.assert_array_equal([video.frames for video in found], [clips[1].frames, clips[0].frames])
    (first,) = videos.generate(IMAGE, "a cat, near", num_videos=1, seed=0)  # 9 comes before 10
    np.testing.assert_array_equal(first.frames, clips[3].frames)
    videos.require(["a dog", "a cat, near"], 2)


def test_finished_videos_are_listed_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clips = finished(tmp_path / "clips", "x.mp4", "y.mp4")
    rows = [("nan", 1, "clips/x.mp4"), ("nan", 0, str(tmp_path / "clips" / "y.mp4"))]
    pd.DataFrame(rows, columns=["prompt", "k", "video"]).to_csv(tmp_path / "videos.csv", index=False)
    found = FinishedVideos.from_csv(tmp_path / "videos.csv").generate(IMAGE, "nan", num_videos=2, seed=0)
    np.testing.assert_array_equal([video.frames for video in found], [clips[1].frames, clips[0].frames])


@pytest.mark.fault
def test_all_missing_videos_are_reported_at_once(tmp_path: Path) -> None:
    prompts = [f"picture {i}" for i in range(7)]
    for prompt in prompts[:2]:
        for k in range(2):
            (tmp_path / f"{prompt}-{k}.mp4").write_bytes(b"")
    (tmp_path / "picture 2-0.mp4").write_bytes(b"")
    videos = FinishedVideos.from_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"fewer than 2 videos for 5 of 7 prompts \('picture 2', .*, \.\.\.\)"):
        videos.require(prompts, 2)
    listing = tmp_path / "videos.csv"
    pd.DataFrame({"prompt": prompts, "k": 0, "video": [f"{p}-0.mp4" for p in prompts]}).to_csv(listing, index=False)
    with pytest.raises(FileNotFoundError, match=r"lists 4 of 7 videos that are not there \('picture 3-0.mp4'"):
        FinishedVideos.from_csv(listing).require(prompts, 1)
    with pytest.raises(ValueError, match="picture 0-0.mp4 is empty"):
        videos.generate(IMAGE, "picture 0", num_videos=1, seed=0)


@pytest.mark.fault
def test_folders_and_lists_that_hold_no_videos(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'a dog runs-0.mp4'"):
        FinishedVideos.from_folder(tmp_path)
    listing = tmp_path / "videos.csv"
    with pytest.raises(FileNotFoundError, match="no list of finished videos"):
        FinishedVideos.from_csv(listing)
    for content in ("", "prompt,k,video\na,first,a.mp4\n"):
        listing.write_text(content)
        with pytest.raises(ValueError, match="is not a CSV with columns prompt, k"):
            FinishedVideos.from_csv(listing)
    listing.write_text("prompt,file\na,a.mp4\n")
    with pytest.raises(ValueError, match=r"columns prompt, k \(a number\) and video: .*not found"):
        FinishedVideos.from_csv(listing)
    listing.write_text("prompt,k,video\n")
    with pytest.raises(FileNotFoundError, match="does not hold a video"):
        FinishedVideos.from_csv(listing)
    listing.write_text("prompt,k,video\na,0,a.mp4\na,0,b.mp4\n")
    with pytest.raises(ValueError, match=r"video 0 of 'a' twice: a.mp4 and b.mp4"):
        FinishedVideos.from_csv(listing)

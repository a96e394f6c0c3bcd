"""Videos and pictures: exact round trips, clear refusals, nothing half-written."""

import re

import av
import numpy as np
import pytest
from PIL import Image

from icreward_lib import video as video_module
from icreward_lib.video import Video, contact_sheet, read_image, read_video, video_html, write_video


def noise(frames: int = 9, height: int = 32, width: int = 48, fps: float = 8.0, seed: int = 0) -> Video:
    """White noise: the hardest clip to compress, so any loss shows."""
    rng = np.random.default_rng(seed)
    return Video(rng.integers(0, 256, (frames, height, width, 3), dtype=np.uint8), fps)


@pytest.mark.parametrize(
    ("frames", "fps", "word"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), 8.0, "uint8"),
        (np.zeros((2, 4, 4), np.uint8), 8.0, "shape"),
        (np.zeros((0, 4, 4, 3), np.uint8), 8.0, "empty"),
        (np.zeros((2, 4, 4, 4), np.uint8), 8.0, "shape"),
        (np.zeros((2, 4, 4, 3), np.uint8), 0.0, "fps"),
        (np.zeros((2, 4, 4, 3), np.uint8), float("nan"), "fps"),
    ],
)
def test_video_refuses_bad_arrays(frames: np.ndarray, fps: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Video(frames, fps)


@pytest.mark.property
@pytest.mark.parametrize(
    ("frames", "height", "width", "fps"),
    [(17, 64, 64, 8.0), (1, 16, 16, 24.0), (5, 37, 51, 7.5), (49, 16, 24, 29.97)],
)
def test_lossless_round_trip_is_bit_identical(tmp_path, frames: int, height: int, width: int, fps: float) -> None:
    clip = noise(frames, height, width, fps)
    write_video(tmp_path / "clip.mp4", clip, lossless=True)
    back = read_video(tmp_path / "clip.mp4")
    np.testing.assert_array_equal(back.frames, clip.frames)
    assert back.fps == pytest.approx(fps, rel=1e-4)
    assert (back.num_frames, back.height, back.width) == (frames, height, width)


def test_lossy_keeps_colours_and_is_reproducible(tmp_path) -> None:
    colours = np.array([[200, 30, 40], [20, 180, 60], [30, 40, 220], [128, 128, 128]], np.uint8)
    frame = np.repeat(np.repeat(colours, 16, 0)[None], 32, 0)
    clip = Video(np.stack([frame] * 8), 8.0)
    write_video(tmp_path / "a.mp4", clip)
    write_video(tmp_path / "b.mp4", clip)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    patches = read_video(tmp_path / "a.mp4").frames[4, 16, 8::16].astype(int)
    assert np.abs(patches - colours).max() <= 4


def test_reversed_frames_can_be_written(tmp_path) -> None:
    clip = noise(4)
    write_video(tmp_path / "r.mp4", Video(clip.frames[::-1], 8.0), lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / "r.mp4").frames, clip.frames[::-1])


@pytest.mark.fault
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("lossless", [True, False])
def test_truncated_file_is_an_error(tmp_path, kept: float, lossless: bool) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(17), lossless=lossless)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=r"clip\.mp4.*again"):
        read_video(path)


@pytest.mark.fault
def test_file_cut_between_two_frames_is_an_error(tmp_path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(17), lossless=True)
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: ends[8]])  # every frame that is left is whole
    with pytest.raises(ValueError, match="9 whole frames of 17"):
        read_video(path)


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\x00" * 5000])
def test_non_video_is_an_error(tmp_path, content: bytes) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.mp4"):
        read_video(path)


@pytest.mark.fault
def test_picture_is_not_a_missing_video(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path)


@pytest.mark.fault
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(2), lossless=True)
    before = path.read_bytes()

    def full_disk(path: str, video: Video, lossless: bool) -> None:
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(video_module, "_encode", full_disk)
    with pytest.raises(OSError, match="space"):
        write_video(path, noise(3), lossless=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_refuses_what_it_cannot_keep(tmp_path) -> None:
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "odd.mp4", noise(2, 33, 48))
    with pytest.raises(ValueError, match="mp4"):
        write_video(tmp_path / "clip.avi", noise(2))


def test_read_image_of_every_mode(tmp_path) -> None:
    rgb = np.zeros((6, 10, 3), np.uint8)
    rgb[:, 5:] = (250, 10, 10)
    picture = Image.fromarray(rgb)
    for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1"):
        path = tmp_path / (f"{mode}.tif" if mode == "CMYK" else f"{mode}.png")
        picture.convert(mode).save(path)
        out = read_image(path)
        assert (out.shape, out.dtype) == ((6, 10, 3), np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "RGBA.png"), rgb)
    Image.fromarray(np.full((4, 4), 257 * 77, np.uint16)).save(tmp_path / "grey16.png")
    assert (read_image(tmp_path / "grey16.png") == 77).all()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 255).all()


def test_read_image_applies_exif_rotation(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 10, 3)


@pytest.mark.fault
def test_read_image_refuses_non_pictures(tmp_path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.png"):
        read_image(tmp_path / "bad.png")
    Image.fromarray(noise(1, 64, 64).frames[0]).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_image(tmp_path / "cut.png")


def test_contact_sheet_shows_reference_frames_and_worst() -> None:
    reference = np.full((32, 32, 3), (0, 0, 255), np.uint8)
    frames = np.stack([np.full((32, 32, 3), 10 * t, np.uint8) for t in range(9)])
    videos = {"a": Video(frames, 8.0), "b": Video(frames, 8.0)}
    plain = contact_sheet(reference, videos, width=32)
    assert plain.dtype == np.uint8 and plain.shape[2] == 3
    assert plain.shape[1] == 6 * 36 - 4
    assert (plain[12 + 16, 16] == (0, 0, 255)).all()
    assert [int(plain[12 + 16, 36 * (i + 1) + 16, 0]) for i in range(5)] == [0, 20, 40, 60, 80]
    scores = np.linspace(1, 0.9, 9)
    scores[4] = 0.1
    scored = contact_sheet(reference, videos, scores={"a": scores, "b": scores[::-1]}, width=32)
    assert scored.shape[0] > plain.shape[0]
    assert (scored[12, 36 * 3] == (0xD5, 0x5E, 0)).all()  # the box stands around the third shown frame
    with pytest.raises(ValueError, match="shape"):
        contact_sheet(reference, videos, scores={"a": scores[:3], "b": scores}, width=32)
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet(reference, {})


def test_video_html_survives_the_sanitiser_and_escapes_titles() -> None:
    page = video_html({"<b>MLP": noise(), "odd": noise(3, 33, 49), "wide": noise(2, 100, 400)}, columns=2)
    players = re.findall(r"<video ([^>]*)>", page)
    assert len(players) == 3
    assert all('src="data:video/mp4;base64,' in player and "poster=" in player for player in players)
    assert all(f" {word}" in player for player in players for word in ("controls", "loop", "muted"))
    assert "<source" not in page and "<script" not in page and "style=" not in page
    assert "&lt;b&gt;MLP" in page and "<b>MLP" not in page.replace("<b>&lt;", "")
    assert page.count("<img src=") == 3 and page.count("<tr>") == 2

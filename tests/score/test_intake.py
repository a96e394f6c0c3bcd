"""People's files: pictures and videos of every kind give the right result, all others one clear sentence."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import TESTS

from icreward_lib.score.intake import Clip, IntakeError, Limits, Picture, framed, read_clip, read_picture
from icreward_lib.video import Video, read_video, write_video

FUZZ = sorted(path for path in (TESTS / "fuzz").iterdir() if path.suffix != ".md")
GREEN, RED = (10, 220, 30), (200, 40, 90)


def scene(count: int = 5, height: int = 24, width: int = 32) -> np.ndarray:
    """Frames (T, H, W, 3): red, with a green corner at the top left."""
    frames = np.full((count, height, width, 3), RED, np.uint8)
    frames[:, : height // 2, : width // 2] = GREEN
    return frames


def corners(image: np.ndarray) -> list[bool]:
    """Which quarters of a picture are green: top left, top right, bottom left, bottom right."""
    height, width = image.shape[:2]
    spots = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    return [bool(image[spot][1] > 128) for spot in [*spots, (3 * height // 4, 3 * width // 4)]]


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    kind: str | None = None,
    stamps: list[int] | None = None,
    options: dict[str, str] | None = None,
    header: dict[str, str] | None = None,
    tune: Callable[[av.VideoStream], None] = lambda stream: None,
    sound: bool = False,
) -> Path:
    """Write frames (T, H, W, 3 or 4) as a video; `stamps`: when each is shown, in hundredths of a second."""
    with av.open(str(path), "w", format=kind, options=header or {}) as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if stamps:
            stream.codec_context.time_base = Fraction(1, 100)
        tune(stream)
        if sound:
            audio = container.add_stream("aac", rate=8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 8000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
        for number, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(values, format="rgba" if values.shape[2] == 4 else "rgb24")
            if stamps:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def complaint(reader: Callable[..., object], path: Path, limits: Limits | None = None) -> str:
    """The sentence that a reader says of a file, without its path."""
    with pytest.raises(IntakeError) as caught:
        reader(path, limits or Limits())
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) and sentence.endswith(".") and "\n" not in sentence
    return sentence.removeprefix(f"{path} ")


@cache
def good(name: str) -> bytes:
    """The bytes of a whole, tiny file of a kind."""
    image = Image.fromarray(scene()[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        if name == "moving.webp":
            others = [image.transpose(Image.Transpose.ROTATE_180), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
            image.save(path, save_all=True, append_images=others, duration=[50, 100, 50], lossless=True)
        elif name in VIDEOS:
            codec, pixels, options = VIDEOS[name]
            header = {"movflags": "+faststart"} if name == "first.mp4" else {}
            encode(path, scene(), codec, pixels, options=options, header=header)
        elif name == "cmyk.jpeg":
            image.convert("CMYK").save(path)
        else:
            image.save(path, **({"compression": "tiff_lzw"} if name.endswith("tiff") else {}))
        return path.read_bytes()


VIDEOS: dict[str, tuple[str, str, dict[str, str]]] = {
    "plain.mp4": ("libx264", "yuv420p", {}),
    "first.mp4": ("libx264", "yuv420p", {}),
    "ten-bits.mp4": ("libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
    "grey.mov": ("libx264", "gray", {}),
    "lossless.mov": ("qtrle", "rgb24", {}),
    "full-range.avi": ("mjpeg", "yuvj420p", {}),
    "old.avi": ("mpeg4", "yuv420p", {"bf": "2"}),
    "vp8.webm": ("libvpx", "yuv420p", {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "h264.mkv": ("libx264", "yuv444p", {}),
    "palette.gif": ("gif", "rgb8", {}),
}
PICTURES = ["a.png", "b.jpeg", "c.webp", "d.gif", "e.tiff", "f.bmp", "g.avif", "cmyk.jpeg"]


@pytest.mark.parametrize("name", [*VIDEOS, "moving.webp"])
def test_videos_of_every_kind_are_read_whole_whatever_they_are_called(name: str, tmp_path: Path) -> None:
    path = tmp_path / f'It\'s "one" of ünïcode 映像 {name}'.upper()
    path.write_bytes(good(name))
    clip = read_clip(path)
    bare = tmp_path / "no suffix"
    shutil.copy(path, bare)
    assert np.array_equal(read_clip(bare).video.frames, clip.video.frames)
    assert clip.num_frames == clip.video.num_frames == (3 if "webp" in name else 5)
    assert clip.size == (32, 24) and clip.video.frames.shape[1:] == (24, 32, 3)
    assert clip.times[0] == 0 and clip.video.fps == pytest.approx((len(clip.times) - 1) / clip.times[-1])
    assert corners(clip.video.frames[0]) == [True, False, False, False]
    if "webp" in name:
        assert clip.times.tolist() == [0, 0.05, 0.15] and corners(clip.video.frames[2]) == [False, True, False, False]
    elif "grey" not in name:
        off = np.abs(clip.video.frames[0][2, 2].astype(int) - GREEN).max()
        assert off <= (60 if "palette" in name else 10)  # rgb8 has four shades of blue
    assert any("says little" in warning for warning in clip.warnings)


def test_a_lossless_clip_is_what_the_exact_reader_gives(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 23, 37, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", Video(frames, 8), lossless=True)
    clip = read_clip(tmp_path / "clip.mp4")
    assert np.array_equal(clip.video.frames, read_video(tmp_path / "clip.mp4").frames)
    assert clip.video.fps == pytest.approx(8) and clip.warnings == ()


@pytest.mark.parametrize("turn, corner", [(90, 2), (180, 3), (270, 1)])
def test_videos_are_turned_as_their_rotation_flag_says(turn: int, corner: int, tmp_path: Path) -> None:
    path = encode(tmp_path / "turned.mp4", scene(), tune=lambda stream: stream.set_display_rotation(turn))
    clip = read_clip(path)
    assert corners(clip.video.frames[0]) == [number == corner for number in range(4)]
    assert clip.size == (clip.video.width, clip.video.height) == ((32, 24) if turn == 180 else (24, 32))


def test_mirrored_videos_are_mirrored_back(tmp_path: Path) -> None:
    mirror = [-65536, 0, 0, 0, 65536, 0, 32 << 16, 0, 1 << 30]
    path = encode(tmp_path / "selfie.mp4", scene(), tune=lambda stream: stream.set_display_matrix(mirror))
    assert corners(read_clip(path).video.frames[0]) == [False, True, False, False]


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    def widen(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    clip = read_clip(encode(tmp_path / "wide.mp4", scene(), tune=widen))
    assert clip.size == (64, 24) and clip.video.width == 64


@pytest.mark.parametrize(
    "name, codec, pixels, options",
    [
        ("a.mov", "qtrle", "argb", {}),
        ("b.mov", "png", "rgba", {}),
        ("8.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
        ("9.webm", "libvpx-vp9", "yuva420p", {}),
    ],
)
def test_what_is_transparent_in_a_video_is_white(
    name: str, codec: str, pixels: str, options: dict[str, str], tmp_path: Path
) -> None:
    frames = np.concatenate([scene(), np.zeros((5, 24, 32, 1), np.uint8)], axis=3)
    frames[:, 12:, :, 3] = 255
    shown = read_clip(encode(tmp_path / name, frames, codec, pixels, options=options)).video.frames[0]
    assert shown[:10].min() > 250 and np.abs(shown[20, 20].astype(int) - RED).max() < 8


def test_frames_are_kept_evenly_in_time_not_in_number(tmp_path: Path) -> None:
    stamps = [*range(0, 40), *range(40, 200, 20), 200]  # a hundred a second, then five
    clip = read_clip(encode(tmp_path / "v.mp4", scene(len(stamps)), stamps=stamps), Limits(kept=11))
    assert np.allclose(clip.times, np.arange(11) / 5)
    assert clip.num_frames == len(stamps) and clip.video.fps == pytest.approx(5)
    assert any("frame rate varies" in warning for warning in clip.warnings)


@pytest.mark.property
@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 1, 1, 2, 7, 40]), min_size=1, max_size=60), st.integers(2, 40))
def test_kept_frames_are_the_nearest_to_even_instants(gaps: list[int], kept: int) -> None:
    from icreward_lib.score.intake import _evenly_spaced

    times = np.cumsum([0, *gaps]).astype(float)
    chosen = _evenly_spaced(times, kept)
    assert chosen[0] == 0 and chosen[-1] == len(times) - 1 and (np.diff(chosen) > 0).all()
    if len(times) <= kept:
        assert len(chosen) == len(times)
    else:
        nearest = [np.abs(times[chosen] - instant).min() for instant in np.linspace(0, times[-1], kept)]
        best = [np.abs(times - instant).min() for instant in np.linspace(0, times[-1], kept)]
        assert len(chosen) <= kept and np.allclose(nearest, best)


def test_one_frame_sound_and_a_cover_picture_do_not_disturb(tmp_path: Path) -> None:
    one = read_clip(encode(tmp_path / "one.mp4", scene(1), sound=True))
    assert one.video.num_frames == 1 and one.times.tolist() == [0] and one.video.fps == 1
    assert one.warnings == ("only 1 frame: the score says little",)
    covered = tmp_path / "covered.mkv"
    with av.open(str(covered), "w") as container:
        container.add_attachment("cover.png", "image/png", good("a.png"))
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for values in scene(3, 48, 64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values)))
        container.mux(stream.encode())
    assert read_clip(covered).size == (64, 48)
    song = tmp_path / "song.mkv"
    with av.open(str(song), "w") as container:
        container.add_attachment("cover.png", "image/png", good("a.png"))
        audio = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(audio.encode(silence) + audio.encode())
    assert "has no video stream" in complaint(read_clip, song)


def test_edits_cut_frames_away(tmp_path: Path) -> None:
    """A phone's cut keeps the frames before the cut in the file, for decoding, and marks them as not shown."""
    whole = encode(tmp_path / "whole.mp4", scene(30), options={"g": "10", "bf": "0"})
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts >= 10 * 1024:
                shift = 15 * 1024
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    clip = read_clip(tmp_path / "cut.mp4")
    assert clip.num_frames == 15 and clip.times[-1] == pytest.approx(1.4)


def test_hidden_reference_frames_of_vp8_are_not_counted(tmp_path: Path) -> None:
    shown = encode(tmp_path / "shown.webm", scene(12), "libvpx")
    with av.open(str(shown)) as source, av.open(str(tmp_path / "hidden.webm"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            hidden = av.Packet(bytes([bytes(packet)[0] & ~0x10]) + bytes(packet)[1:])  # without its show_frame bit
            hidden.stream, hidden.pts, hidden.dts, hidden.time_base = stream, packet.pts, packet.dts, packet.time_base
            packet.stream = stream
            target.mux([packet] if number % 4 else [hidden, packet])
    assert read_clip(tmp_path / "hidden.webm").num_frames == 12


def test_large_frames_are_shrunk_and_small_ones_never_enlarged(tmp_path: Path) -> None:
    path = encode(tmp_path / "tall.mp4", scene(2, 400, 100))
    clip = read_clip(path, Limits(side=40))
    assert clip.video.frames.shape == (2, 40, 10, 3) and clip.size == (100, 400)
    stripes = np.zeros((2, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    grey = read_clip(encode(tmp_path / "s.mov", stripes, "png", "rgb24"), Limits(side=16)).video.frames
    assert np.abs(grey[:, 4:-4, 4:-4].astype(int) - 128).max() < 16  # without smoothing it would be black or white


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_kind_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / f'It\'s "one" of ünïcode 映像 {name}'.upper()
    path.write_bytes(good(name))
    picture = read_picture(path)
    assert picture.image.shape == (24, 32, 3) and picture.size == (32, 24) and picture.warnings == ()
    assert np.abs(picture.image[2, 2].astype(int) - GREEN).max() < (90 if name == "cmyk.jpeg" else 12)
    assert corners(picture.image) == [True, False, False, False]


KINDS = {
    "1": ["png", "tiff", "bmp"],
    "L": ["png", "jpeg", "webp", "gif", "tiff", "bmp", "avif"],
    "P": ["png", "gif", "tiff", "bmp"],
    "LA": ["png", "tiff"],
    "RGB": ["png", "jpeg", "webp", "gif", "tiff", "bmp", "avif"],
    "RGBA": ["png", "webp", "tiff", "avif"],
    "CMYK": ["jpeg", "tiff"],
    "I;16": ["png", "tiff"],
    "F": ["tiff"],
}
LOSSLESS = {("webp"): {"lossless": True, "exact": True}}


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(mode, kind) for mode, kinds in KINDS.items() for kind in kinds]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
)
def test_pictures_of_any_mode_size_and_rotation(
    what: tuple[str, str], width: int, height: int, seed: int, turn: int
) -> None:
    mode, kind = what
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        expected = np.repeat(values[..., :1], 3, axis=2)
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values, "RGBA").convert("RGB" if mode in ("CMYK", "P", "F", "1") else mode)
        image = (
            image if image.mode == mode else image.convert("L").convert(mode) if mode == "F" else image.convert(mode)
        )
        rgba = image.convert("L").convert("RGBA") if mode == "F" else image.convert("RGBA")
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    exif = Image.Exif()
    exif[0x0112] = turn
    rotates = kind not in ("gif", "bmp")
    if rotates:  # the same as in the standard: what lies in the first row and column of the file
        flips = {2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}.get(turn, (0, 0))
        expected = expected.swapaxes(0, 1) if turn >= 5 else expected
        expected = expected[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
    file = io.BytesIO()
    image.save(file, kind, **LOSSLESS.get(kind, {}), **({"exif": exif} if rotates else {}))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(file.getvalue())
        picture = read_picture(path)
    assert picture.image.shape == expected.shape and picture.size == expected.shape[1::-1]
    if kind not in ("jpeg", "avif") and not (kind == "gif" and mode == "RGB"):  # which lose colours
        assert np.abs(picture.image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_transparent_colour_of_a_palette_is_white(kind: str, tmp_path: Path) -> None:
    image = Image.new("P", (64, 8))
    image.putpalette([*GREEN, *RED])
    for left in range(0, 64, 4):
        image.paste(1, (left, 0, left + 2, 8))
    image.save(tmp_path / f"palette.{kind}", transparency=0)
    shown = read_picture(tmp_path / f"palette.{kind}").image
    assert shown[1, 1].tolist() == list(RED) and shown[1, 2].tolist() == [255, 255, 255]
    mixed = read_picture(tmp_path / f"palette.{kind}", Limits(side=16)).image
    assert np.abs(mixed.astype(int) - np.mean([RED, (255, 255, 255)], axis=0)).max() < 40  # nothing of the green


def test_floats_say_what_was_taken_for_white_and_unknown_ranges_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    for values, white in ((np.linspace(0, 1, 16), 1), (np.linspace(0, 255, 16), 255)):
        Image.fromarray(values.reshape(4, 4).astype(np.float32)).save(path)
        picture = read_picture(path)
        assert picture.image[0, 0, 0] == 0 and picture.image[-1, -1, 0] == 255
        assert picture.warnings == (f"its values are floating-point numbers: white is taken to be {white}",)
    for bad in (np.nan, -1.0, 1e9):
        Image.fromarray(np.array([[0.5, bad]], np.float32)).save(path)
        assert "save it as 8-bit" in complaint(read_picture, path)


def test_of_an_animation_the_first_frame_is_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "moving.webp"
    path.write_bytes(good("moving.webp"))
    picture = read_picture(path)
    assert picture.warnings == ("it holds several pictures: the first is taken",)
    assert corners(picture.image) == [True, False, False, False]


def test_large_pictures_are_shrunk_and_keep_their_size_in_mind(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(1, 600, 900)[0]).save(tmp_path / "photo.jpg", exif=exif)
    picture = read_picture(tmp_path / "photo.jpg", Limits(side=90))
    assert picture.image.shape == (90, 60, 3) and picture.size == (600, 900)
    assert corners(picture.image) == [False, True, False, False]


def test_frames_of_another_shape_take_the_middle_of_the_reference() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    assert framed(image, 50, 30) is image and framed(image, 51, 30) is image
    assert np.array_equal(framed(image, 500, 500), image[:, 20:80])
    assert np.array_equal(framed(image, 400, 100), image[17:42])


@pytest.mark.property
@given(*[st.integers(1, 300)] * 4)
def test_framed_pictures_have_the_shape_of_the_clip(tall: int, wide: int, width: int, height: int) -> None:
    image = np.zeros((tall, wide, 3), np.uint8)
    new_tall, new_wide = framed(image, width, height).shape[:2]
    assert 1 <= new_tall <= tall and 1 <= new_wide <= wide and (new_tall == tall or new_wide == wide)
    if abs(wide * height / (tall * width) - 1) > 0.02:
        assert abs(new_wide * height - new_tall * width) <= max(height, width)  # to within one pixel


@pytest.mark.parametrize("reader", [read_clip, read_picture])
def test_paths_without_content_get_a_sentence(reader: Callable[..., object], tmp_path: Path) -> None:
    assert "does not exist" in complaint(reader, tmp_path / "missing.mp4")
    assert "is a folder" in complaint(reader, tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in complaint(reader, tmp_path / "empty.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "not a regular file" in complaint(reader, tmp_path / "pipe.mp4")
    complaint(reader, tmp_path / "empty.mp4" / "inside")
    complaint(reader, tmp_path / ("long" * 100))
    complaint(reader, tmp_path / "nul\0byte")


@pytest.mark.parametrize("reader", [read_clip, read_picture])
def test_names_that_are_not_utf8_can_be_printed(reader: Callable[..., object], tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    path.write_bytes(b"text")
    with pytest.raises(IntakeError) as caught:
        reader(path)
    assert "caf\ufffd" in str(caught.value) and str(caught.value).encode()
    path.write_bytes(good("plain.mp4") if reader is read_clip else good("a.png"))
    assert reader(path)


@pytest.mark.parametrize("reader", [read_clip, read_picture])
def test_files_without_permission_get_a_sentence(
    reader: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "private"
    path.write_bytes(b"secret")

    def refuse(*_: object, **__: object) -> None:  # an administrator may read every file
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "permissions" in complaint(reader, path)


def test_too_many_pixels_or_frames_name_the_flag_that_allows_them(tmp_path: Path) -> None:
    for name, reader in (("plain.mp4", read_clip), ("moving.webp", read_clip), ("a.png", read_picture)):
        path = tmp_path / name
        path.write_bytes(good(name))
        assert "--max-pixels" in complaint(reader, path, Limits(pixels=32 * 24 - 1))
        assert reader(path, Limits(pixels=32 * 24))
        if reader is read_clip:
            frames = read_clip(path).num_frames
            assert "--max-frames" in complaint(read_clip, path, Limits(frames=frames - 1))
            assert read_clip(path, Limits(frames=frames))
    (tmp_path / "v.webm").write_bytes(good("vp8.webm"))  # which declares no number of frames
    assert "--max-frames" in complaint(read_clip, tmp_path / "v.webm", Limits(frames=4))


def test_pillows_own_limit_does_not_stand_in_the_way_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (tmp_path / "a.png").write_bytes(good("a.png"))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").size == (32, 24)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_limits_below_one_are_refused() -> None:
    for bad in ({"pixels": 0}, {"frames": -1}, {"kept": 1}, {"side": 0}):
        with pytest.raises(ValueError, match=f"Limits.{next(iter(bad))} must be at least"):
            Limits(**bad)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["first.mp4", "old.avi", "h264.mkv", "vp8.webm", "palette.gif", "moving.webp"])
def test_no_video_is_cut_short_without_a_word(name: str, tmp_path: Path) -> None:
    path, data = tmp_path / name, good(name)
    path.write_bytes(data)
    whole = read_clip(path).num_frames
    lengths = set(range(1, len(data), max(1, len(data) // 40)))
    if "webp" not in name:
        with av.open(str(path)) as container:
            lengths |= {packet.pos + packet.size for packet in container.demux(video=0) if packet.size}
    for length in lengths - {len(data)}:
        path.write_bytes(data[:length])
        try:
            assert read_clip(path).num_frames == whole  # what was cut off held no frames
        except IntakeError:
            pass


def test_a_recording_of_a_browser_declares_no_end_and_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = encode(tmp_path / "live.webm", scene(12), "libvpx", header={"live": "1"})
    assert read_clip(path).num_frames == 12
    path.write_bytes(path.read_bytes()[:-20])
    assert read_clip(path).num_frames == 11


@pytest.mark.fault
def test_damaged_frames_are_never_skipped(tmp_path: Path) -> None:
    path = encode(tmp_path / "damaged.mkv", scene(12), "mpeg4", options={"bf": "0"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][5]
        start, size = packet.pos, packet.size
    data[start + 8 : start + size] = bytes(size - 8)
    path.write_bytes(bytes(data))
    said = complaint(read_clip, path)
    assert "damaged" in said or "of its 12 frames" in said or "not a readable video" in said


@pytest.mark.fault
def test_damaged_frames_that_the_decoder_patches_up_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    path = encode(tmp_path / "patched.mp4", noise, options={"bf": "0", "g": "4"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][3]
        middle, end = packet.pos + packet.size // 2, packet.pos + packet.size - 4
    data[middle:end] = b"\x55" * (end - middle)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert len(list(container.decode(video=0))) == 12
    assert "is damaged at frame 4" in complaint(read_clip, path)


@pytest.mark.property
@settings(max_examples=120, deadline=10_000)
@given(
    st.sampled_from([*VIDEOS, "moving.webp", *PICTURES]),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
)
def test_any_damage_gives_a_result_or_a_sentence(name: str, cut: float, flips: list[tuple[float, int]]) -> None:
    data = bytearray(good(name))
    if not flips:
        del data[int(cut * len(data)) :]
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(bytes(data))
        reader = read_picture if name in PICTURES else read_clip
        try:
            assert isinstance(reader(path), Picture | Clip)
        except IntakeError as error:
            assert str(error).startswith(str(path))


@pytest.mark.fault
@pytest.mark.parametrize("path", FUZZ, ids=lambda path: path.name)
def test_broken_files_get_a_sentence(path: Path) -> None:
    assert path.stat().st_size < 4096
    complaint(read_picture, path)
    if path.stem == "centuries":  # its edit list ends before the second frame
        assert read_clip(path).num_frames == 1
    else:
        said = complaint(read_clip, path)
        assert "zero duration" in said or path.stem != "no-time-passes"
    if path.stem.startswith("bomb"):
        assert "--max-pixels" in complaint(read_clip if path.suffix == ".mp4" else read_picture, path)


@pytest.mark.fault
def test_playlists_and_scripts_open_no_other_file(tmp_path: Path) -> None:
    """With what FFmpeg would read of itself, each of these shows the frames of another file."""
    (tmp_path / "other.mp4").write_bytes(good("plain.mp4"))
    texts = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mp4\n#EXT-X-ENDLIST\n",
        "script.mp4": "ffconcat version 1.0\nfile 'other.mp4'\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        complaint(read_clip, tmp_path / name)
    with av.open(str(tmp_path / "script.mp4"), options={"safe": "0"}) as container:
        assert len(list(container.decode(video=0))) == 5


MEASURE = """
import re, sys
from pathlib import Path
from icreward_lib.score.intake import read_clip

def peak():  # not getrusage: its peak begins with that of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

read_clip(sys.argv[1])
before = peak()
frames = [read_clip(path).num_frames for path in sys.argv[2:]]
print(peak() - before, *frames)
"""


def rise(*paths: Path) -> list[float]:
    """Megabytes by which reading clips raises the peak of a process, after the first; then their frames."""
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def repeated(path: Path, source: Path, times: int) -> Path:
    """A video that shows another one, of 4 frames from a key frame on, many times."""
    with av.open(str(source)) as container, av.open(str(path), "w") as target:
        template = container.streams.video[0]
        packets = [(bytes(packet), packet.is_keyframe) for packet in container.demux(template) if packet.size]
        stream = target.add_stream_from_template(template)
        for number in range(times * len(packets)):
            content, is_key = packets[number % len(packets)]
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), is_key
            packet.pts = packet.dts = number
            target.mux(packet)
    return path


@pytest.mark.e2e
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process")
def test_memory_does_not_depend_on_the_length_and_is_bounded_for_4k(tmp_path: Path) -> None:
    options = {"preset": "ultrafast", "bf": "0"}
    few = encode(tmp_path / "few.mp4", scene(4), options=options)
    megabytes, count = rise(few, repeated(tmp_path / "long.mp4", few, 2500))
    assert count == 10_000 and megabytes < 24
    large = encode(tmp_path / "large.mp4", scene(4, 2160, 3840), options=options)
    megabytes, count = rise(few, repeated(tmp_path / "longer.mp4", large, 10))
    assert count == 40 and megabytes < 256

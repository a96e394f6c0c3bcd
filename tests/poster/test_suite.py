"""The VBench++ suite: reading its index, the stratified subset, missing files."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.standins_metrics import write_suite

from icreward_lib.poster.suite import KINDS, SuiteImage, crop_folder, curate_images, image_files, read_suite
from icreward_lib.video import read_image

# How many images of each kind the public suite has, in the order of KINDS.
PUBLIC = (64, 34, 46, 38, 23, 31, 10, 40, 40, 21, 8)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vbench2_i2v")
    write_suite(folder)
    return folder


def images_like_public() -> list[SuiteImage]:
    return [
        SuiteImage(f"{kind} {i}", f"{kind} {i}.jpg", kind, "subject" if position < 7 else "background")
        for position, (kind, count) in enumerate(zip(KINDS, PUBLIC, strict=True))
        for i in range(count)
    ]


def test_base_prompts_are_read_and_camera_prompts_are_not(suite: Path) -> None:
    images = read_suite(suite / "vbench2_i2v_full_info.json")
    assert len(images) == 33 and not any("camera" in image.prompt for image in images)
    assert Counter(image.kind for image in images) == dict.fromkeys(KINDS, 3)
    assert {image.kind for image in images if image.dimension == "background"} == set(KINDS[7:])
    assert [image.file for image in images] == [f"{image.prompt}.jpg" for image in images]


@pytest.mark.parity
def test_three_hundred_of_the_public_suite() -> None:
    images = images_like_public()
    assert len(images) == 355 and sum(PUBLIC[:7]) == 246
    chosen = curate_images(images, 300, seed=0)
    counts = Counter(image.kind for image in chosen)
    # 300 / 355 of each kind, rounded by largest remainders.
    assert [counts[kind] for kind in KINDS] == [54, 29, 39, 32, 19, 26, 8, 34, 34, 18, 7]


@pytest.mark.property
@pytest.mark.parametrize("count", [1, 10, 11, 37, 150, 354, 355])
def test_subsets_are_stratified_and_reproducible(count: int) -> None:
    images = images_like_public()
    chosen = curate_images(images, count, seed=3)
    assert len(set(chosen)) == len(chosen) == count
    assert chosen == [image for image in images if image in set(chosen)]  # in the suite's order
    for kind, present in zip(KINDS, PUBLIC, strict=True):
        assert abs(sum(image.kind == kind for image in chosen) - count * present / 355) < 1
    assert curate_images(images, count, seed=3) == chosen
    assert count == 355 or curate_images(images, count, seed=4) != chosen


def test_the_draw_is_the_same_on_every_machine() -> None:
    chosen = curate_images(images_like_public(), 12, seed=0)
    drawn = {"single-human": [16, 36], "multiple-human": [29], "animal": [22, 26], "food": [27], "plant": [11]}
    drawn |= {"transportation": [3], "architecture": [5, 25], "scenery": [36], "indoor": [12]}
    assert [image.prompt for image in chosen] == [f"{kind} {i}" for kind, numbers in drawn.items() for i in numbers]


@pytest.mark.parametrize(
    ("height", "width", "folder"),
    [
        (64, 64, "1-1"),
        (480, 720, "8-5"),
        (320, 512, "8-5"),
        (576, 1024, "16-9"),
        (720, 1280, "16-9"),
        (512, 896, "7-4"),
    ],
)
def test_the_crop_nearest_to_the_video(suite: Path, height: int, width: int, folder: str) -> None:
    found = crop_folder(suite / "crop", height, width)
    assert found.name == folder
    paths = image_files(read_suite(suite / "vbench2_i2v_full_info.json"), found)
    assert len(paths) == 33 and read_image(paths[0]).shape[2] == 3


@pytest.mark.fault
def test_missing_images_are_all_reported_at_once(suite: Path, tmp_path: Path) -> None:
    images = read_suite(suite / "vbench2_i2v_full_info.json")
    (tmp_path / "crop" / "1-1").mkdir(parents=True)
    (tmp_path / "crop" / "1-1" / images[0].file).write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"lacks 32 of 33 images.*'picture 1 of the kind single-human.jpg'.*\.\.\."
    ):
        image_files(images, crop_folder(tmp_path / "crop", 64, 64))
    with pytest.raises(FileNotFoundError, match="unpack VBench's crop.zip"):
        crop_folder(tmp_path, 64, 64)


@pytest.mark.fault
def test_other_files_than_the_index_are_refused(suite: Path, tmp_path: Path) -> None:
    index = tmp_path / "vbench2_i2v_full_info.json"
    with pytest.raises(FileNotFoundError, match="vbench2_beta_i2v"):
        read_suite(index)
    entries = json.loads((suite / "vbench2_i2v_full_info.json").read_text())
    strange = [{**entries[0], "image_type": "vehicle"}]
    both = [{**entries[0], "dimension": ["i2v_subject", "i2v_background"]}]
    for content in ("", "[1]", "{}", "[]", '[{"prompt_en": "a"}]', json.dumps(strange), json.dumps(both)):
        index.write_text(content)
        with pytest.raises(ValueError, match="is not VBench's vbench2_i2v_full_info.json"):
            read_suite(index)
    index.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not VBench's"):
        read_suite(index)
    index.write_text(json.dumps(entries[:1] * 2))
    with pytest.raises(ValueError, match="twice"):
        read_suite(index)
    with pytest.raises(ValueError, match="34 cannot be drawn"):
        curate_images(read_suite(suite / "vbench2_i2v_full_info.json"), 34, seed=0)

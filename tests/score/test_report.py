"""The report of rankings: what is in the file, and what it does in a real browser, opened from disk.

Screenshots go to the folder ICREWARD_SCREENSHOTS, if it is set.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page
from skimage import data
from support.chromium import DESKTOP, IN_A_BROWSER, PHONE, launched

from icreward_lib.rewards.base import ClipScores
from icreward_lib.score import report
from icreward_lib.score.intake import Clip, Picture
from icreward_lib.score.ranking import Entry, Ranking
from icreward_lib.score.report import write_report
from icreward_lib.video import Video, read_video

NASTY = """out/<script>alert("1")</script> & 'so on'.mp4"""


def levels(count: int) -> np.ndarray:
    """What grey each frame of a clip of `ramp` has."""
    return np.linspace(20, 230, count).round()


def ramp(count: int, height: int, width: int) -> np.ndarray:
    """Frames that tell by their grey which one they are."""
    return np.broadcast_to(levels(count)[:, None, None, None], (count, height, width, 3)).astype(np.uint8)


def scored(scores: np.ndarray, *, parts: bool = True, mapped: bool = False, warnings: Sequence[str] = ()) -> ClipScores:
    """Scores of frames; its maps depart in the left half alone, by what is missing from 1."""
    maps = np.ones((len(scores), 4, 6), np.float32)
    maps[:, :, :3] = scores[:, None, None]
    overall = float(scores.mean())
    dimensions = {"subject": overall / 2, "background": overall} if parts else {}
    return ClipScores(overall, dimensions, scores.astype(np.float32), maps if mapped else None, tuple(warnings))


def entry(
    path: str,
    frames: np.ndarray,
    scores: dict[str, ClipScores],
    *,
    rank: int,
    seconds: float = 3.0,
    warnings: tuple[str, ...] = (),
) -> Entry:
    count, height, width = frames.shape[:3]
    times = np.linspace(0, seconds, count)
    clip = Clip(Video(frames, 8), times, 3 * count, (width, height), warnings)
    return Entry(path, clip, scores, rank, None, warnings)


def failed(path: str, error: str) -> Entry:
    return Entry(path, error=error)


def ranking(*entries: Entry, reference: str = "in/picture.png", reward: str = "icreward") -> Ranking:
    picture = Picture(data.astronaut()[::4, ::4], (512, 512), ("it was turned",))
    return Ranking(reference, picture, reward, entries)


def two_judges() -> Ranking:
    """Clips of other lengths and shapes, whose judges disagree, and one that failed; the first is worst in frame 3."""
    strange = "out of domain: unlike all that this judge has learned on"
    dip = np.array([0.9, 0.8, 0.85, 0.2, 0.75, 0.8, 0.9, 0.95])
    falling = np.linspace(1, 0, 12)
    return ranking(
        entry(
            "out/a.mp4",
            ramp(8, 90, 160),
            {"icreward": scored(dip, mapped=True, warnings=[strange]), "clipsim": scored(dip / 2, parts=False)},
            rank=1,
        ),
        entry(
            NASTY,
            ramp(12, 121, 61),
            {"icreward": scored(falling, mapped=True, warnings=[strange]), "clipsim": scored(falling, parts=False)},
            rank=2,
            seconds=12,
            warnings=("its frame rate varies",),
        ),
        failed("out/broken.mp4", "out/broken.mp4 is empty (0 bytes): write it again."),
    )


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] not in ("style", "script"):
            self.text += data

    def each(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def written(folder: Path, ranking: Ranking) -> Elements:
    write_report(folder / "report.html", ranking)
    return Elements((folder / "report.html").read_text(encoding="utf-8"))


def test_the_file_holds_all_that_it_shows(tmp_path: Path) -> None:
    page = written(tmp_path, two_judges())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    sources = [value for _, attributes in page.found for name, value in attributes.items() if name in ("src", "poster")]
    assert len(sources) > 20
    assert all(source and source.startswith("data:") for source in sources)
    assert all((link["href"] or "").startswith("#") for link in page.each("a"))
    assert not page.each("link")
    (policy,) = (str(meta["content"]) for meta in page.each("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")
    assert "unsafe" not in policy and "http" not in policy


def test_what_people_wrote_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    quotes = 'in/"><img src=x onerror=alert(1)>.png'
    page = written(tmp_path, ranking(*two_judges().entries, failed(NASTY, f"{NASTY} & <b>bad</b>"), reference=quotes))
    assert len(page.each("script")) == 1
    assert not page.each("iframe")
    assert all("onerror" not in attributes for _, attributes in page.found)
    assert NASTY.removeprefix("out/") in page.text
    assert f"{NASTY} & <b>bad</b>" in page.text
    titles = {attributes.get("title") for attributes in page.each("bdi")}
    assert {quotes, NASTY, "out/a.mp4"} <= titles


def test_a_name_that_is_no_text_does_not_stop_the_report(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    page = written(tmp_path, ranking(entry(name, ramp(2, 8, 8), {"icreward": scored(np.ones(2))}, rank=1)))
    assert "caf?.mp4" in page.text


def test_nothing_to_report_leaves_the_old_file(tmp_path: Path) -> None:
    old = tmp_path / "report.html"
    old.write_text("old", encoding="utf-8")
    forgotten = Entry("a.mp4", None, {"icreward": scored(np.ones(2))}, 1, None)
    with pytest.raises(ValueError, match="keep_clips"):
        write_report(old, ranking(forgotten))
    assert old.read_text(encoding="utf-8") == "old"


def test_failures_and_warnings_are_said_once_where_they_belong(tmp_path: Path) -> None:
    page = written(tmp_path, two_judges())
    assert len(page.each("video")) == 2
    for text in (
        "1 of 3 could not be scored",
        "out/broken.mp4 is empty (0 bytes): write it again.",
        "it was turned",
        "All videos: icreward: out of domain",  # both clips have it
        "its frame rate varies",
    ):
        assert page.text.count(text) == 1, text
    assert page.text.count("not scored") == 1


def test_a_ranking_in_which_all_failed_still_says_why(tmp_path: Path) -> None:
    page = written(tmp_path, ranking(failed("a.mp4", "No video file at a.mp4.")))
    assert "No video file at a.mp4." in page.text
    assert "1 of 1 could not be scored" in page.text
    assert not page.each("table")


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 9, 9), (5, 48, 64), (3, 500, 281), (32, 101, 400), (4, 2, 999)]
)
def test_the_clips_are_the_judged_frames_at_a_moderate_even_size(
    tmp_path: Path, count: int, height: int, width: int
) -> None:
    scores = np.linspace(1, 0.5, count)
    page = written(tmp_path, ranking(entry("a.mp4", ramp(count, height, width), {"icreward": scored(scores)}, rank=1)))
    (player,) = page.each("video")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(base64.b64decode(str(player["src"]).removeprefix("data:video/mp4;base64,")))
    video = read_video(clip)
    assert (str(video.width), str(video.height)) == (player["width"], player["height"])
    assert video.width <= 320 and video.height <= 384
    shown = video.frames.astype(float).mean(axis=(1, 2, 3))
    assert shown == pytest.approx(levels(count), abs=4)
    assert count / video.fps == pytest.approx(3.0, rel=0.01) or count == 1


@pytest.mark.property
@settings(deadline=None)  # JPEGs take long on a busy machine
@given(scores=st.lists(st.floats(0, 1), min_size=1, max_size=32))
def test_the_strip_has_the_worst_frame_once_and_all_in_order(scores: list[float]) -> None:
    worst = int(np.argmin(scores))
    strip = report._strip(
        np.zeros((len(scores), 2, 2, 3), np.uint8), np.arange(len(scores)) / 2, np.array(scores), worst
    )
    places = [each["place"] for each in strip]
    assert len(strip) == min(len(scores), 8)
    assert places == sorted(set(places))
    assert [each["label"] for each in strip if each["worst"]] == [
        f"{worst / 2:.2f}\N{NO-BREAK SPACE}s, score {scores[worst]:.3f}"
    ]


def test_departures_are_told_apart_without_seeing_hues() -> None:
    colours = report._departure(np.linspace(1, 0, 20)).astype(float)
    assert colours[0, 3] == 0
    assert (np.diff(colours[:, 3]) > 0).all()
    assert (np.diff(colours[:, :3] @ [0.2126, 0.7152, 0.0722]) > 0).all()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.mp4", "a/y.mp4"], ["x.mp4", "y.mp4"]),
        (["a/x.mp4", "b/x.mp4"], ["a/x.mp4", "b/x.mp4"]),
        (["r/a/x.mp4", "r/b/c/x.mp4"], ["a/x.mp4", "b/c/x.mp4"]),
        (["/a/x.mp4", "x.mp4"], ["/a/x.mp4", "x.mp4"]),
    ],
)
def test_names_are_short_and_tell_files_apart(paths: list[str], names: list[str]) -> None:
    assert report._names(paths) == names


def test_five_clips_of_photographs_stay_below_five_megabytes(tmp_path: Path) -> None:
    photograph = data.chelsea()
    frames = np.stack([photograph[t : t + 260, 2 * t : 2 * t + 380] for t in range(32)])
    clips = [entry(f"{k}.mp4", frames, {"icreward": scored(np.ones(32), mapped=True)}, rank=1) for k in range(5)]
    written(tmp_path, ranking(*clips))
    assert (tmp_path / "report.html").stat().st_size < 5e6


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a folder # with ünusual name") / "report.html"
    write_report(path, two_judges())
    return path


@contextmanager
def opened(browser: Browser, file: Path, **options: Any) -> Iterator[Page]:
    """The report from disk, without motion unless told; it must not complain, nor ask anybody for anything."""
    context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    asked: set[str] = set()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.add(request.url.split(":")[0]))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert not complaints
    assert asked <= {"file", "data", "blob"}


def accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("ICREWARD_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"report-{name}.png"))


def seek(page: Page, time: float) -> None:
    """Move the first scrubber, and wait until the clips of its reference show that time."""
    page.locator("#r1 .scrubber").fill(str(time))
    settled(page)


def settled(page: Page) -> None:
    page.wait_for_function(
        "() => [...document.querySelectorAll('#r1 video')].every((v) => v.readyState >= 2 && v.paused && !v.seeking)"
    )
    page.wait_for_timeout(150)  # a frame is painted after it was found


def greys(page: Page) -> list[float]:
    """What the clips of the first reference show in their middles."""
    found: list[float] = page.evaluate(
        """() => [...document.querySelectorAll("#r1 video")].map((video) => {
          const context = new OffscreenCanvas(1, 1).getContext("2d");
          context.drawImage(video, video.videoWidth / 2, video.videoHeight / 2, 1, 1, 0, 0, 1, 1);
          return context.getImageData(0, 0, 1, 1).data[0];
        })"""
    )
    return found


class TestInABrowser:
    pytestmark = IN_A_BROWSER

    def test_clips_of_any_length_show_the_judged_frame_of_one_time(self, browser: Browser, file: Path) -> None:
        with opened(browser, file) as page:
            for time in (0.0, 0.3, 0.49, 0.77, 1.0):
                seek(page, time)
                expected = [levels(count)[min(int(time * count), count - 1)] for count in (8, 12)]
                assert greys(page) == pytest.approx(expected, abs=6)

    def test_clips_play_in_step_muted_and_begin_anew(self, browser: Browser, file: Path) -> None:
        with opened(browser, file, reduced_motion="no-preference") as page:
            page.wait_for_function("() => [...document.querySelectorAll('#r1 video')].every((v) => v.currentTime > 0)")
            assert page.inner_text("#r1 .play") == "Pause"
            page.locator("#r1 .scrubber").fill("0.93")
            page.click("#r1 .play")
            places = "() => [...document.querySelectorAll('#r1 video')].map((v) => v.currentTime / v.duration)"
            times = [0.93]
            deadline = time.monotonic() + 20  # a busy machine plays slowly
            while times[-1] >= 0.9 and time.monotonic() < deadline:
                page.wait_for_timeout(120)
                # Where one begins anew before the other they are apart for as long as a busy machine takes.
                page.wait_for_function(f"() => {{ const [a, b] = ({places})(), d = Math.abs(a - b); "
                                       "return Math.min(d, 1 - d) < 0.05 }")  # fmt: skip
                times.append(page.evaluate(places)[0])
            assert times[-1] < 0.9, "the clips do not begin anew"
            assert page.evaluate("() => [...document.querySelectorAll('video')].every((v) => v.muted)")
            page.click("#r1 .play")
            assert page.inner_text("#r1 .play") == "Play"
            settled(page)

    def test_nothing_moves_for_those_who_do_not_want_it(self, browser: Browser, file: Path) -> None:
        with opened(browser, file) as page:
            page.wait_for_timeout(400)
            assert page.inner_text("#r1 .play") == "Play"
            assert page.evaluate("() => [...document.querySelectorAll('video')].every((v) => v.paused)")

    def test_a_click_on_a_curve_or_the_worst_frame_goes_there(self, browser: Browser, file: Path) -> None:
        with opened(browser, file) as page:
            chart = page.locator("#r1-v2 .chart svg")
            box = chart.bounding_box()
            assert box is not None
            chart.click(position={"x": box["width"] * 0.6, "y": box["height"] / 2})
            assert float(page.input_value("#r1 .scrubber")) == pytest.approx(0.6, abs=0.01)
            assert "0.364" in page.inner_text("#r1-v2 .now")  # frame 7 of 12
            assert page.locator("#r1 .at-worst").count() == 0
            page.click("#r1-v1 .to-worst")
            assert float(page.input_value("#r1 .scrubber")) == pytest.approx(3.5 / 8)
            assert "0.200" in page.inner_text("#r1-v1 .now")
            assert page.locator("#r1-v1 .at-worst").count() == 1
            assert page.locator("#r1-v1 .strip .worst").count() == 1
            settled(page)
            picture(page, "worst")

    def test_the_map_shows_where_a_clip_departs(self, browser: Browser, file: Path) -> None:
        alphas = """() => [0.2, 0.8].map((x) => {
          const canvas = document.querySelector("#r1-v1 canvas");
          return canvas.getContext("2d").getImageData(x * canvas.width, canvas.height / 2, 1, 1).data[3];
        })"""
        with opened(browser, file) as page:
            assert page.locator("#r1-v1 canvas").is_hidden()
            page.check("#r1 .show-maps")
            assert page.locator("#r1-v1 canvas").is_visible()
            assert page.locator("#r1-v1 video").evaluate("(v) => getComputedStyle(v).filter") == "grayscale(1)"
            seek(page, 3.5 / 8)
            assert page.evaluate(alphas) == pytest.approx([255 * 0.85 * 0.8, 0], abs=2)
            accessible(page)
            picture(page, "maps")
            seek(page, 7.5 / 8)
            assert page.evaluate(alphas) == pytest.approx([255 * 0.85 * 0.05, 0], abs=2)

    def test_the_table_is_sorted_with_the_keyboard(self, browser: Browser, file: Path) -> None:
        def order() -> list[str]:
            return [name.split("/")[-1][:8] for name in page.locator("#r1 tbody th bdi").all_inner_texts()]

        def sorts() -> list[str | None]:
            return [head.get_attribute("aria-sort") for head in page.locator("#r1 thead tr:last-child th").all()]

        with opened(browser, file) as page:
            assert sorts() == ["ascending", None, None, None, None, None]
            clipsim = page.locator("#r1 thead button").last
            assert "clipsim" in clipsim.inner_text().lower()
            clipsim.focus()
            page.keyboard.press("Enter")
            assert sorts() == [None] * 5 + ["descending"]
            best_last = order()
            page.keyboard.press("Space")
            assert sorts() == [None] * 5 + ["ascending"]
            assert best_last == ["script> ", "a.mp4", "broken.m"]
            assert order() == ["a.mp4", "script> ", "broken.m"]

    def test_the_keyboard_goes_through_the_page_and_out_again(self, browser: Browser, file: Path) -> None:
        with opened(browser, file) as page:
            reached = set()
            for _ in range(60):
                page.keyboard.press("Tab")
                name = page.evaluate("() => document.activeElement.className || document.activeElement.tagName")
                if name == "BODY":
                    break
                reached.add(name)
            assert name == "BODY"
            assert {"play", "scrubber", "show-maps", "plain to-worst", "wide"} <= reached

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
    def test_anybody_can_read_it_anywhere(
        self, browser: Browser, file: Path, size: dict[str, int], scheme: str
    ) -> None:
        with opened(browser, file, viewport=size, color_scheme=scheme) as page:
            assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
            accessible(page)
            picture(page, f"{size['width']}-{scheme}")

    def test_nothing_foreign_can_load_or_run(self, browser: Browser, file: Path) -> None:
        tried = """() => new Promise((done) => {
          const stopped = [];
          addEventListener("securitypolicyviolation", (event) => {
            stopped.push(event.effectiveDirective);
            if (stopped.length === 2) done(stopped.sort());
          });
          document.body.append(Object.assign(new Image(), { src: "http://127.0.0.1:9/x.png" }));
          document.body.append(Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }));
        })"""
        context = browser.new_context()
        page = context.new_page()
        page.goto(file.as_uri())
        assert page.evaluate(tried) == ["img-src", "script-src-elem"]
        assert page.evaluate("() => window.ran") is None
        context.close()

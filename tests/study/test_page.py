"""The page in a real browser, from consent to thanks: keys, clips in step, resuming, phones, accessibility.

Screenshots go to the folder ICREWARD_SCREENSHOTS, if it is set.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from support.chromium import DESKTOP, IN_A_BROWSER, PHONE, launched
from support.standins_study import ARMS, make_pairs

from icreward_lib.study.pairs import read_pairs
from icreward_lib.study.protocol import StudyConfig, items
from icreward_lib.study.server import LOCAL, Study, media_files
from icreward_lib.study.store import Store

pytestmark = [*IN_A_BROWSER, pytest.mark.slow]


@dataclass
class Served:
    """A study that is being served."""

    url: str
    study: Study

    def link(self, number: int) -> str:
        return f"{self.url}/r/{self.study.store.links()[number][1]}"


@contextmanager
def served(pairs_file: Path, votes: Path, port: int, config: StudyConfig) -> Iterator[Served]:
    pairs = read_pairs(pairs_file)
    with closing(Store(votes, create=True)) as store:
        judged = items(config, pairs)
        store.begin(config, judged)
        store.enrol(4, judged)
        study = Study(store, media_files(pairs))
        server = uvicorn.Server(uvicorn.Config(study.app(LOCAL), port=port, log_level="error", server_header=False))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Served(f"http://127.0.0.1:{port}", study)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pairs(tmp_path_factory.mktemp("study"), samples=2, arms=(*ARMS, "random"))


@pytest.fixture
def two(pairs_file: Path, tmp_path: Path, free_port: int) -> Iterator[Served]:
    config = StudyConfig(arms=list(ARMS), contact="the lab")
    with served(pairs_file, tmp_path / "votes.sqlite", free_port, config) as now:
        yield now


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@contextmanager
def opened(browser: Browser, link: str, **options: Any) -> Iterator[Page]:
    """A page that must not complain, nor talk to anybody but the study."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints: list[str] = []
    asked: set[str] = set()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
    page.goto(link)
    yield page
    context.close()
    assert not complaints
    assert asked <= {"/".join(link.split("/")[:3])}


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("ICREWARD_SCREENSHOTS"):
        page.screenshot(path=Path(folder, f"{name}.png"))


def accessible(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


def fits(page: Page, last: str = "choices") -> bool:
    """Whether nothing has to be scrolled to, up to some element."""
    return bool(
        page.evaluate(
            "(last) => document.documentElement.scrollWidth <= innerWidth && scrollY === 0"
            " && document.getElementById(last).getBoundingClientRect().bottom <= innerHeight",
            last,
        )
    )


def unlocked(page: Page) -> None:
    page.wait_for_selector("#choices button:enabled")


def tap_to_screen(page: Page) -> None:
    """Go on to the next screen, past a block's question, and wait until it can be answered."""
    if page.is_visible("#block"):
        page.tap("#begin")
    unlocked(page)
    assert fits(page)


def tap_choice(page: Page, number: int) -> None:
    page.tap(f"#choices button >> nth={number}")
    page.wait_for_selector("#next:visible")
    assert fits(page, "next")


def went_on(page: Page) -> None:
    """Wait for the next screen, the next block, or the end."""
    page.wait_for_selector("#after", state="hidden")


def tap_next(page: Page) -> None:
    page.tap("#next")
    went_on(page)


def test_from_consent_to_thanks_with_the_keyboard_alone(browser: Browser, two: Served) -> None:
    with opened(browser, two.link(0), reduced_motion="reduce") as page:  # clips wait for Space: locked until then
        page.wait_for_selector("#consent:visible")
        accessible(page)
        picture(page, "1-consent")
        page.keyboard.press("Enter")
        page.wait_for_selector("#block:visible")
        accessible(page)
        picture(page, "2-practice")
        page.keyboard.press("Enter")
        for step in range(3 + 4):
            if page.is_visible("#block"):
                picture(page, "5-question")
                page.keyboard.press("Enter")
            page.wait_for_selector("#choices button:disabled")
            if step == 0:
                picture(page, "3-locked")
                accessible(page)
                page.keyboard.press("ArrowLeft")  # too early
            page.keyboard.press("Space")
            unlocked(page)
            assert page.is_hidden("#after")
            if step == 3:
                accessible(page)
                assert fits(page)
                picture(page, "6-screen")
            page.keyboard.press(["ArrowLeft", "ArrowDown", "ArrowRight"][step % 3])
            page.wait_for_selector("#next:visible")
            if step < 3:
                assert page.inner_text("#verdict")
                picture(page, f"4-verdict{step}")
            assert fits(page, "next")
            if step == 3:
                accessible(page)
                picture(page, "7-remark")
                page.keyboard.press("Shift+Tab")
                page.keyboard.type("The left keeps → the colours.")
                page.keyboard.press("Shift+Tab")
                page.keyboard.press("Space")
                page.keyboard.press("Tab")
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            went_on(page)
        page.wait_for_selector("#done:visible")
        accessible(page)
        picture(page, "8-done")
        code = page.inner_text("#code")
    answers = two.study.store.answers()
    assert [answer.choice for answer in answers] == ["left", "tie", "right"] * 2 + ["left"]
    assert (answers[3].feedback, answers[3].tags) == ("The left keeps → the colours.", "realism")
    assert all(answer.answered_at - answer.shown_at > 0.9 for answer in answers)  # a clip lasts a second
    assert two.study.store.withdraw(code)


def test_clips_play_in_step_muted_looping_and_alike(browser: Browser, two: Served) -> None:
    with opened(browser, two.link(1)) as page:
        page.click("#agree")
        page.click("#begin")
        unlocked(page)
        ends: list[float] = []
        for _ in range(20):
            page.wait_for_timeout(120)
            left, right = page.evaluate("[...document.querySelectorAll('video')].map((v) => v.currentTime)")
            assert abs(left - right) < 0.15
            ends.append(left)
        assert any(later < earlier for earlier, later in zip(ends, ends[1:], strict=False))  # it began anew
        sizes = page.evaluate(
            "[...document.querySelectorAll('video')].map((v) => [v.offsetWidth, v.offsetHeight, v.videoWidth, v.muted])"
        )
        assert sizes[0] == sizes[1] and sizes[0][3] is True
        page.keyboard.press("Space")
        assert page.inner_text("#pause") == "Play"
        assert page.evaluate("[...document.querySelectorAll('video')].every((v) => v.paused)")
        page.keyboard.press("Space")
        page.wait_for_function("[...document.querySelectorAll('video')].some((v) => !v.paused)")


def test_double_clicks_reloads_and_lost_replies_are_harmless(browser: Browser, two: Served) -> None:
    with opened(browser, two.link(2)) as page:
        page.click("#agree")
        page.click("#begin")
        unlocked(page)
        page.dblclick("#choices button >> nth=0")
        page.wait_for_selector("#next:visible")
        page.reload()
        page.click("#begin")
        page.wait_for_selector("#screen:visible")
        assert page.inner_text("#stage") == "Practice 2 of 3"
    assert len(two.study.store.answers()) == 1


def test_a_lost_connection_keeps_the_choice(browser: Browser, two: Served) -> None:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.goto(two.link(2))
    page.click("#agree")
    page.click("#begin")
    unlocked(page)
    context.set_offline(True)
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#message:visible")
    assert page.inner_text("#message h1") == "There is no connection."
    picture(page, "9-offline")
    context.set_offline(False)
    page.click("#again")
    page.wait_for_selector("#next:visible")
    context.close()
    assert [answer.choice for answer in two.study.store.answers()] == ["right"]


def test_on_a_phone_nothing_has_to_be_scrolled_to(browser: Browser, two: Served) -> None:
    with opened(browser, two.link(3), viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2) as page:
        page.wait_for_selector("#consent:visible")
        accessible(page)
        picture(page, "p1-consent")
        page.tap("#agree")
        page.tap("#begin")
        for step in range(4):
            tap_to_screen(page)
            accessible(page)
            assert page.evaluate("[...document.querySelectorAll('#choices button')].every((b) => b.offsetHeight >= 44)")
            picture(page, f"p2-screen{step}")
            tap_choice(page, 1)
            picture(page, f"p3-after{step}")
            accessible(page)
            tap_next(page)


def test_on_a_phone_that_was_turned_nothing_has_to_be_scrolled_to(browser: Browser, two: Served) -> None:
    turned = {"width": 844, "height": 390}
    with opened(browser, two.link(3), viewport=turned, has_touch=True, is_mobile=True, device_scale_factor=2) as page:
        page.tap("#agree")
        page.tap("#begin")
        for _ in range(4):
            tap_to_screen(page)
            picture(page, "t1-screen")
            tap_choice(page, 2)
            picture(page, "t2-after")
            tap_next(page)


def test_dark_and_without_motion(browser: Browser, two: Served) -> None:
    with opened(browser, two.link(3), color_scheme="dark", reduced_motion="reduce") as page:
        page.click("#agree")
        page.click("#begin")
        page.wait_for_selector("#screen:visible")
        page.wait_for_timeout(300)
        assert page.evaluate("[...document.querySelectorAll('video')].every((v) => v.paused)")
        accessible(page)
        page.click("#pause")
        unlocked(page)
        accessible(page)
        picture(page, "d1-screen")


def test_a_wrong_link_is_explained(browser: Browser, two: Served) -> None:
    page = browser.new_page()
    page.goto(f"{two.url}/r/nobody")
    page.wait_for_selector("#message:visible")
    assert page.inner_text("#message h1").startswith("This link is not valid")
    assert page.is_hidden("#again")
    accessible(page)
    page.close()


def test_a_rater_withdraws_on_the_page(browser: Browser, two: Served) -> None:
    with opened(browser, two.link(0)) as page:
        page.click("#agree")
        page.click("#begin")
        unlocked(page)
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#next:visible")
        page.click("#leave")
        page.wait_for_selector("#withdraw:visible")
        accessible(page)
        picture(page, "w1-withdraw")
        page.click("#stay")
        assert len(two.study.store.answers()) == 1
        page.click("#leave")
        page.click("#delete")
        page.wait_for_selector("#message:visible")
        assert page.inner_text("#message h1") == "All your answers are deleted."
    assert not two.study.store.answers()


def test_three_clips_are_ranked(browser: Browser, pairs_file: Path, tmp_path: Path, free_port: int) -> None:
    config = StudyConfig(on_screen=3, practice=0, attention_share=0, repeat_share=0)
    with (
        served(pairs_file, tmp_path / "votes.sqlite", free_port, config) as study,
        opened(browser, study.link(0)) as page,
    ):
        page.click("#agree")
        page.click("#begin")
        unlocked(page)
        accessible(page)
        page.keyboard.press("3")
        picture(page, "r1-ranking")
        page.keyboard.press("3")
        page.keyboard.press("1")
        page.wait_for_selector("#next:visible")
        assert [answer.choice for answer in study.study.store.answers()] == ["2-0-1"]
